"""Who comes and goes, for a task of this process."""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from .._waitable import Waitable
from ._presence import Member, PresenceChange

if TYPE_CHECKING:
    from ._topic import Topic


class PresenceChanges:
    """Who comes to a topic, and who leaves it.  Use it as a context manager and iterate over it.

    Of a key that changes faster than this is read only the newest is told, and nothing if that is
    what was told of it last.  So it takes no more memory than there are members, and whoever
    applies each change to what `Topic.members` told in the block has what is there.
    """

    __slots__ = ("_error", "_is_open", "_news", "_pending", "_topic")

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._is_open = False
        self._news = Waitable()
        self._error: Exception | None = None
        # What was told of a key last, and what there is to tell.
        self._pending: OrderedDict[str, tuple[Member | None, Member | None]] = OrderedDict()

    def __enter__(self) -> PresenceChanges:
        if not self._is_open:
            hub = self._topic._hub
            hub._check_open()
            self._pending.clear()
            self._error = None
            hub._presence.follow(self._topic.name, self)
            self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_open:
            self._is_open = False
            self._topic._hub._presence.unfollow(self._topic.name, self)
            self._pending.clear()
            self._news.changed()

    def changed(self, key: str, old: Member | None, new: Member | None) -> None:
        """For presence, see `Follower`."""
        told, _ = self._pending.pop(key, (old, None))
        if told != new:
            self._pending[key] = told, new
            self._news.changed()

    def ended(self, error: Exception | None) -> None:
        """For presence, see `Follower`."""
        self._error = error
        self._news.changed()

    def __aiter__(self) -> PresenceChanges:
        return self

    async def __anext__(self) -> PresenceChange:
        """The next change.

        Raises:
            HubFull: others have so many members here that their names do not fit into this hub.
            trio.ClosedResourceError: outside of its `with` block.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if not self._is_open:
                raise trio.ClosedResourceError("changes are read inside their with block")
            if self._pending:
                key, (told, now) = self._pending.popitem(last=False)
                seen = now or told
                assert seen is not None, "nothing has become of nothing"
                return PresenceChange(key, seen.info, now is not None)
            if self._error is not None:
                raise self._error
            if self._topic._hub.closed:
                raise StopAsyncIteration
            await self._news.wait_change()
