"""What a program gets of the topics to which the server has subscribed its client."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import Gap
from .._topics import Position
from .._waitable import Waitable
from ._items import ServerItem, TopicPublication

_Item = TypeVar("_Item")


class ServerSubscriptions(Generic[_Item]):
    """A stream of what happens in topics to which the server subscribes the client by itself.

    Iterate over it for pairs: the topic's name, and a publication.  Where some may be missing, Gap
    is raised in their place; the next iteration goes on behind it.  With `events=True` Gap is an
    item, too, and so are Subscribed, Unsubscribed, Joined and Left.

    Iterating ends with the client: by GaveUp if that gave up.
    """

    __slots__ = ("__weakref__", "_end", "_gaps", "_has_events", "_items", "_max_messages", "_news")

    def __init__(self, max_messages: int, *, events: bool) -> None:
        self._news = Waitable()
        self._max_messages = max_messages
        self._has_events = events
        self._items: deque[tuple[str, ServerItem]] = deque()
        # By topic, what had no room; told in front of what comes next there, or behind all else.
        self._gaps: dict[str, Gap] = {}
        self._end: Callable[[], Exception] | None = None

    def __aiter__(self) -> ServerSubscriptions[_Item]:
        return self

    async def __anext__(self) -> tuple[str, _Item]:
        """Wait for the next publication (or event, with `events=True`), and its topic.

        Raises:
            Gap: publications of one topic may be missing here, since they could not be recovered,
                or nobody read those in front of them; the next call goes on.
            GaveUp: the client gave up.
            StopAsyncIteration: it is closed.

        Cancellation: a cancelled call has taken nothing.  Checkpoint: a cancellation point
        always; others run whenever it waits.
        """
        if self._items or self._gaps:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not self._items and not self._gaps:
            if self._end is not None:
                raise self._end()
            await self._news.wait_change()
        # What may stand among the publications goes by `events`.
        item: Any
        topic, item = self._take()
        if isinstance(item, Gap) and not self._has_events:
            raise item
        return topic, cast("_Item", item)

    # An item belongs to whoever takes it, or stays.
    @enable_ki_protection
    def _take(self) -> tuple[str, ServerItem]:
        if self._items:
            return self._items.popleft()
        topic = next(iter(self._gaps))
        return topic, self._gaps.pop(topic)

    @property
    def _has_room(self) -> bool:
        return len(self._items) < self._max_messages

    def _put_publication(
        self,
        topic: str,
        publication: TopicPublication,
        since: Position | None,
        position: Position | None,
    ) -> None:
        """*publication* follows *since*, and leads to *position*."""
        if not self._has_room:
            self._put_gap(Gap(topic, since, position))
            return
        self._put_lost(topic)
        self._put(topic, publication)

    def _put_gap(self, gap: Gap) -> None:
        lost = self._gaps.pop(gap.topic, None)
        if lost is not None:
            gap = Gap(gap.topic, lost.since, gap.position)
        if self._has_room:
            self._put(gap.topic, gap)
        else:
            self._gaps[gap.topic] = gap
            self._news.changed()

    def _put_event(self, topic: str, event: ServerItem) -> None:
        if self._has_events and self._has_room:
            self._put_lost(topic)
            self._put(topic, event)

    def _put_lost(self, topic: str) -> None:
        gap = self._gaps.pop(topic, None)
        if gap is not None:
            self._put(topic, gap)

    def _put(self, topic: str, item: ServerItem) -> None:
        self._items.append((topic, item))
        self._news.changed()

    def _finish(self, end: Callable[[], Exception]) -> None:
        if self._end is None:
            self._end = end
        self._news.changed()
