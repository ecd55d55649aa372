"""A subscription, as programs hold it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import trio

from .._errors import Gap
from .._topics import Position
from ._following import Following

_Item = TypeVar("_Item")


class TopicSubscription(Generic[_Item]):
    """A topic that a client follows; `TopicClient.subscription` makes it.

    Iterate over it for its publications.  Where some may be missing, Gap is raised in their
    place; the next iteration goes on behind it.

    Attributes:
        topic: its name.
        position: (epoch, offset) of the last publication that was taken from it, for `since=` of
            a later program; before the first, where the subscription began; None in a topic
            without positions.
    """

    def __init__(self, following: Following) -> None:
        self._following = following
        self.topic = following.topic
        self.position: Position | None = following.start

    def __repr__(self) -> str:
        return f"<TopicSubscription {self.topic!r}: {self._following.state.name.lower()}>"

    def __aiter__(self) -> TopicSubscription[_Item]:
        return self

    async def __anext__(self) -> _Item:
        """Wait for the next publication (or event, with `events=True`).

        Raises:
            Gap: publications may be missing here; the next call goes on behind that.
            Refused: the server does not let the client subscribe again.
            Unsubscribed: the server has ended the subscription.
            GaveUp: the client gave up.
            StopAsyncIteration: the client, or the subscription's block, is over.
            All but Gap come once everything received before has been read, and again.

        Cancellation: a cancelled call has taken nothing.  Checkpoint: a cancellation point
        always; others run whenever it waits.
        """
        following = self._following
        if following.items:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not following.items:
            following.check()
            await following.wait_change()
        # What may stand among the publications goes by `events`.
        item: Any
        item, self.position = following.take()
        if isinstance(item, Gap) and not following.events:
            raise item
        return cast("_Item", item)
