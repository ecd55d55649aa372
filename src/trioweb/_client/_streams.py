"""A stream of messages: what waits in it, its bound, what happens there, and its user's face."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import trio

from .._arguments import check_kind
from .._effort import A_TURN, EFFORT
from .._errors import Lagged
from .._policy import check_positive
from .._waitable import Waitable
from ._events import EVENTS, Event, Lost, Opened, Undelivered, Waiting

Full: TypeAlias = Literal["wait", "raise", "drop"]

# What a stream gives.
_Item = TypeVar("_Item")

# By its own name: looking for a cancellation is half of what a waiting message costs.
_checkpoint_if_cancelled = trio.lowlevel.checkpoint_if_cancelled


class Stream:
    """What waits in a stream.

    Attributes:
        max_messages, full, events: as `Client.messages` was told; a stream that was forgotten
            goes from "wait" to "raise", see `stop_waiting`.
        name: who reads it, for people.
        items: what waits; whoever takes from it calls `took`.
        news: what readers wait for.
        dropped, lagged: messages lost in all, and since a reader was told.
        is_entered: it stands in a `with` block, whose end will end it.
    """

    __slots__ = (
        "dropped",
        "end",
        "ends_quietly",
        "event_count",
        "events",
        "full",
        "is_entered",
        "items",
        "lagged",
        "max_messages",
        "name",
        "news",
    )

    def __init__(self, *, events: bool, max_messages: int, full: Full, name: str) -> None:
        self.max_messages = max_messages
        check_kind("messages", "events", events, bool)
        check_positive(self, ("max_messages",), whole=True, call="messages")
        if full not in ("wait", "raise", "drop"):
            raise ValueError(f"messages(full={full!r}): must be 'wait', 'raise' or 'drop'")
        self.full = full
        self.events = events
        self.name = name
        self.items: deque[Any] = deque()
        # How many of them are events.
        self.event_count = 0
        self.news = Waitable()
        self.dropped = 0
        self.lagged = 0
        self.is_entered = False
        self.end: Callable[[], Exception] | None = None
        self.ends_quietly = False

    def __str__(self) -> str:
        return f"{self.name}: {len(self.items)} wait, max_messages={self.max_messages}"

    @property
    def room(self) -> int:
        """How many messages may still be put without loss; may be negative."""
        return self.max_messages - len(self.items)

    def put(self, items: Iterable[object]) -> None:
        """Add messages; beyond the bound, a stream that does not wait loses the oldest."""
        self.items.extend(items)
        self._keep_bound()
        self.news.changed()

    def _keep_bound(self) -> None:
        if self.full != "wait":
            excess = len(self.items) - self.event_count - self.max_messages
            if excess > 0:
                self._drop(excess)

    def stop_waiting(self) -> None:
        """From now on this loses the oldest, and says so, instead of holding up the others."""
        self.full = "raise"
        self._keep_bound()

    def tell(self, event: Event) -> None:
        """Add an event, if this stream has them."""
        if not self.events:
            return
        # Events have no part in the bound, so that those of sessions without messages must not
        # add up.
        is_full = self.full != "wait" and self.room <= 0
        if is_full and isinstance(event, Lost) and self.forget_empty_session():
            return
        if isinstance(event, Waiting) and self.items and isinstance(self.items[-1], Waiting):
            # Attempts may fail for days, of which only the last matters to whoever did not look.
            self.items[-1] = event
            return
        self.event_count += 1
        self.put([event])

    def _drop(self, count: int) -> None:
        """Drop the oldest *count* messages, but keep what tells the sessions apart.

        Of a session that goes as a whole, the events go, too, and what stood before it.
        """
        items = self.items
        kept: list[Event] = []
        while count or isinstance(items[0], EVENTS):
            item = items.popleft()
            if not isinstance(item, EVENTS):
                count -= 1
                self.dropped += 1
                self.lagged += self.full == "raise"
            elif isinstance(item, Lost) and kept and isinstance(kept[-1], Opened):
                self.event_count -= 1 + _forget_session(kept)
            else:
                kept.append(item)
        items.extendleft(reversed(kept))

    def forget_empty_session(self) -> bool:
        """Take back an Opened behind which nothing came, if there is one."""
        if not self.items or not isinstance(self.items[-1], Opened):
            return False
        self.items.pop()
        self.event_count -= 1
        return True

    def inherit(self, other: Stream) -> None:
        """Begin with what *other* holds, which has events."""
        items = other.items
        if self.events:
            self.event_count = other.event_count
        else:
            items = deque(item for item in items if not isinstance(item, EVENTS))
        self.put(items)

    def finish(self, end: Callable[[], Exception], *, quietly: bool) -> None:
        """Nothing more will come; *end* makes the error that says why.  *quietly*: iterating
        just ends."""
        self.end = end
        self.ends_quietly = quietly
        self.news.changed()


def _forget_session(events: list[Event]) -> int:
    """Take off the Opened at the end, and what stands between it and the session before; return
    how many that were."""
    before = len(events)
    events.pop()
    while events and isinstance(events[-1], Waiting | Undelivered):
        events.pop()
    return before - len(events)


class Messages(Generic[_Item]):
    """An independent stream of what a client receives.  Use it as a context manager.

    Iterating ends with the client: normally when that is closed, with GaveUp when it gave up,
    either only after everything that arrived before was read.
    """

    __slots__ = ("__weakref__", "_items", "_leave", "_refill_at", "_stream", "_taken")

    def __init__(
        self,
        stream: Stream,
        *,
        leave: Callable[[Stream], None],
        taken: Callable[[], None],
    ) -> None:
        self._stream = stream
        # By their own names, as each message needs them.
        self._items = stream.items
        self._taken = taken
        # Down to here, there is room for more at one go.
        self._refill_at = stream.max_messages // 2
        self._leave = leave

    def __repr__(self) -> str:
        return f"<Messages: {self._stream}>"

    @property
    def dropped(self) -> int:
        """Messages that this stream lost because it was full."""
        return self._stream.dropped

    def __enter__(self) -> Messages[_Item]:
        self._stream.is_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(self._stream)

    def receive(self) -> Coroutine[Any, Any, _Item]:
        """Wait for the next message (or event, with `events=True`).

        Raises:
            ConnectionClosed: the client was closed, and all that had arrived was received.
            GaveUp: the same, if the client gave up.
            Lagged: once for each time that messages were dropped: with `full="raise"`, and in a
                stream outside of a `with` block that held up the others (see `Client.messages`).

        Cancellation: a cancelled `receive` has taken nothing.  Checkpoint: as for
        `Connection.receive`.
        """
        return self._next(None)

    async def receive_many(self) -> list[_Item]:
        """Wait for the next message (or event), and take with it all that has arrived.

        Raises, Cancellation, Checkpoint: as `receive`.
        """
        items, stream = self._items, self._stream
        if items and EFFORT.spent < A_TURN and not stream.lagged:
            await _checkpoint_if_cancelled()
        else:
            await self._wait(None)
        found: list[_Item] = list(items)
        items.clear()
        stream.event_count = 0
        self._taken()
        return found

    def __aiter__(self) -> Messages[_Item]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, _Item]:
        return self._next(StopAsyncIteration)

    # NOTE: here and not in Stream: whoever waits keeps this object, and by that the stream.
    async def _next(self, at_end: type[Exception] | None) -> _Item:
        items, stream = self._items, self._stream
        if items and EFFORT.spent < A_TURN and not stream.lagged:
            await _checkpoint_if_cancelled()
        else:
            await self._wait(at_end)
        item: _Item = items.popleft()
        if stream.event_count and isinstance(item, EVENTS):
            stream.event_count -= 1
        if len(items) == self._refill_at:
            self._taken()
        return item

    async def _wait(self, at_end: type[Exception] | None) -> None:
        """Let others run if that is due, and return with something to take, or raise."""
        stream = self._stream
        if EFFORT.spent >= A_TURN and stream.items:
            await trio.lowlevel.checkpoint()
        EFFORT.spent = 0
        while True:
            if stream.lagged:
                await _checkpoint_if_cancelled()
                lagged, stream.lagged = stream.lagged, 0
                raise Lagged(lagged, stream.max_messages)
            if stream.items:
                return
            if stream.end is not None:
                await trio.lowlevel.checkpoint()
                raise at_end if at_end and stream.ends_quietly else stream.end()
            await stream.news.wait_change()


def watch(messages: Messages[Any], forgotten: Callable[[], None]) -> weakref.ref[Messages[Any]]:
    """Have *forgotten* called in Trio's thread once nobody holds *messages* any more.

    NOTE: The reference must be kept for that.
    """
    token = trio.lowlevel.current_trio_token()

    def gone(_: object) -> None:
        # The collector runs in any thread, at any time.
        try:
            token.run_sync_soon(forgotten)
        except trio.RunFinishedError:
            pass

    return weakref.ref(messages, gone)
