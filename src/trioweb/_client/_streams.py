"""A stream of messages, as one part of a program holds it: its bound, and what happens at it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, TypeAlias

import trio

from .._errors import Lagged
from .._policy import Message, check_positive
from .._waitable import Waitable
from ._events import EVENTS, Event, Lost, Opened, Undelivered, Waiting

Full: TypeAlias = Literal["wait", "raise", "drop"]

# By its own name: looking for a cancellation is half of what a waiting message costs.
_checkpoint_if_cancelled = trio.lowlevel.checkpoint_if_cancelled


class Messages:
    """An independent stream of what a client receives.  Use it as a context manager.

    Iterating ends with the client: normally when that is closed, with GaveUp when it gave up,
    either only after everything that arrived before was read.

    Attributes:
        dropped: messages that this stream lost because it was full (never with "wait").
    """

    def __init__(
        self,
        *,
        events: bool,
        max_messages: int,
        full: Full,
        leave: Callable[[Messages], None],
        taken: Callable[[], None],
    ) -> None:
        self.max_messages = max_messages
        check_positive(self, ("max_messages",), whole=True)
        if full not in ("wait", "raise", "drop"):
            raise ValueError(f"messages(full={full!r}): must be 'wait', 'raise' or 'drop'")
        self.events = events
        self.full = full
        self.dropped = 0
        self._items: deque[Any] = deque()
        # How many of them are events.
        self._events = 0
        self._news = Waitable()
        # Down to here, there is room for more at one go.
        self._refill_at = max_messages // 2
        self._lagged = 0
        self._leave = leave
        self._taken = taken
        self._end: Callable[[], Exception] | None = None
        self._ends_quietly = False

    def __enter__(self) -> Messages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(self)

    @property
    def room(self) -> int:
        """How many messages may still be put without loss; may be negative."""
        return self.max_messages - len(self._items)

    def put(self, items: Iterable[object]) -> None:
        """Add messages; beyond the bound, a stream that does not wait loses the oldest."""
        self._items.extend(items)
        if self.full != "wait":
            excess = len(self._items) - self._events - self.max_messages
            if excess > 0:
                self._drop(excess)
        self._news.changed()

    def tell(self, event: Event) -> None:
        """Add an event, if this stream has them."""
        if not self.events:
            return
        # Events have no part in the bound, so that those of sessions without messages must not
        # add up.
        is_full = self.full != "wait" and self.room <= 0
        if is_full and isinstance(event, Lost) and self.forget_empty_session():
            return
        if isinstance(event, Waiting) and self._items and isinstance(self._items[-1], Waiting):
            # Attempts may fail for days, of which only the last matters to whoever did not look.
            self._items[-1] = event
            return
        self._events += 1
        self.put([event])

    def _drop(self, count: int) -> None:
        """Drop the oldest *count* messages, but keep what tells the sessions apart.

        Of a session that goes as a whole, the events go, too, and what stood before it.
        """
        items = self._items
        kept: list[Event] = []
        while count or isinstance(items[0], EVENTS):
            item = items.popleft()
            if not isinstance(item, EVENTS):
                count -= 1
                self.dropped += 1
                self._lagged += self.full == "raise"
            elif isinstance(item, Lost) and kept and isinstance(kept[-1], Opened):
                self._events -= 1 + _forget_session(kept)
            else:
                kept.append(item)
        items.extendleft(reversed(kept))

    def forget_empty_session(self) -> bool:
        """Take back an Opened behind which nothing came, if there is one."""
        if not self._items or not isinstance(self._items[-1], Opened):
            return False
        self._items.pop()
        self._events -= 1
        return True

    def inherit(self, other: Messages) -> None:
        """Begin with what *other* holds, which has events."""
        items = other._items
        if self.events:
            self._events = other._events
        else:
            items = deque(item for item in items if not isinstance(item, EVENTS))
        self.put(items)

    def end(self, end: Callable[[], Exception], *, quietly: bool) -> None:
        """Nothing more will come; *end* makes the error that says why.  *quietly*: iterating
        just ends."""
        self._end = end
        self._ends_quietly = quietly
        self._news.changed()

    def receive(self) -> Coroutine[Any, Any, Any]:
        """Wait for the next message (or event, with `events=True`).

        Raises:
            ConnectionClosed: the client was closed, and all that had arrived was received.
            GaveUp: the same, if the client gave up.
            Lagged: with `full="raise"`, once for each time that messages were dropped.

        Cancellation: a cancelled `receive` has taken nothing.  Checkpoint: as for
        `Connection.receive`.
        """
        return self._next(None)

    def __aiter__(self) -> Messages:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._next(StopAsyncIteration)

    async def _next(self, at_end: type[Exception] | None) -> Message | Event:
        items = self._items
        if items and not self._lagged:
            await _checkpoint_if_cancelled()
        else:
            await self._wait(at_end)
        item: Message | Event = items.popleft()
        if self._events and isinstance(item, EVENTS):
            self._events -= 1
        if len(items) == self._refill_at:
            self._taken()
        return item

    async def _wait(self, at_end: type[Exception] | None) -> None:
        """Return with something to take, or raise."""
        while True:
            if self._lagged:
                await _checkpoint_if_cancelled()
                lagged, self._lagged = self._lagged, 0
                raise Lagged(lagged)
            if self._items:
                return
            if self._end is not None:
                await trio.lowlevel.checkpoint()
                raise at_end if at_end and self._ends_quietly else self._end()
            await self._news.wait_change()


def _forget_session(events: list[Event]) -> int:
    """Take off the Opened at the end, and what stands between it and the session before; return
    how many that were."""
    before = len(events)
    events.pop()
    while events and isinstance(events[-1], Waiting | Undelivered):
        events.pop()
    return before - len(events)
