"""The client's receiving side: streams of messages, one for each part of a program.

Every stream gets every message.  Its bound and what happens at it are its own.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import trio

from .._errors import CloseCode, ClosedLocally, Lagged
from .._link import Link
from .._policy import Message, check_positive
from .._waitable import Waitable
from ._outbox import Undelivered
from ._signal import Signal

Full: TypeAlias = Literal["wait", "raise", "drop"]

_logger = logging.getLogger("trioweb.client")

# How far a stream that waits may exceed its bound by what was left of ended sessions.
_OVERDRAFT: Final = 4

# By its own name: looking for a cancellation is half of what a waiting message costs.
_checkpoint_if_cancelled = trio.lowlevel.checkpoint_if_cancelled


@dataclass(frozen=True, slots=True)
class Opened:
    """A session began; what follows in the stream was received in it.

    Attributes:
        session: 1 for the client's first connection, and so on.
        subprotocol: the one agreed upon, or None.
    """

    session: int
    subprotocol: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A session ended; all that was received in it stands before this.

    Attributes:
        session: its number.
        error: why it ended.
    """

    session: int
    error: Exception


# What stands in a stream beside messages, if it has events.
Event: TypeAlias = Opened | Lost | Undelivered
_EVENTS: Final = (Opened, Lost, Undelivered)


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
        self._events += 1
        self.put([event])

    def _drop(self, count: int) -> None:
        """Drop the oldest *count* messages, but keep what tells the sessions apart.

        Of a session that goes as a whole, the events go, too.
        """
        items = self._items
        kept: list[Event] = []
        while count or isinstance(items[0], _EVENTS):
            item = items.popleft()
            if not isinstance(item, _EVENTS):
                count -= 1
                self.dropped += 1
                self._lagged += self.full == "raise"
            elif isinstance(item, Lost) and kept and isinstance(kept[-1], Opened):
                kept.pop()
                self._events -= 2
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
            items = deque(item for item in items if not isinstance(item, _EVENTS))
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
        if self._events and isinstance(item, _EVENTS):
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


class Reception:
    """The streams of a client, and how messages get into them.

    Until there is a stream, messages wait for the first one, which takes them over.

    Args:
        receives: False to count what arrives and drop it.
    """

    def __init__(self, signal: Signal, *, receives: bool) -> None:
        self._signal = signal
        self._receives = receives
        self._end: Callable[[], Exception] | None = None
        self._ends_quietly = False
        # The one that has begun and is not over: its beginning, and its link.
        self._session: tuple[Opened, Link] | None = None
        self._streams: list[Messages] = []
        self._unclaimed: Messages | None = None
        # Whether there is no new connection until more is received; see `finish`.
        self._holds_up = False
        # How far the streams were when they were last found in the way, and since when.
        self._mark: tuple[int, float] | None = None
        self._marked_at = 0.0
        if receives:
            self._unclaimed = self.open(events=True, max_messages=256, full="wait")
        self.received = 0
        self.discarded = 0

    def open(self, *, events: bool, max_messages: int, full: Full) -> Messages:
        """Make a stream."""
        if not self._receives:
            raise ValueError("this client was opened with receive=False: it only sends")
        stream = Messages(
            events=events,
            max_messages=max_messages,
            full=full,
            leave=self._leave,
            taken=self._signal.changed,
        )
        unclaimed, self._unclaimed = self._unclaimed, None
        if unclaimed is not None:
            self._streams.remove(unclaimed)
            stream.inherit(unclaimed)
        elif self._session is not None:
            stream.tell(self._session[0])
        if self._end is not None:
            stream.end(self._end, quietly=self._ends_quietly)
        self._streams.append(stream)
        self._signal.changed()
        return stream

    def _leave(self, stream: Messages) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
            stream.end(
                lambda: ClosedLocally(CloseCode.NORMAL, "this stream was left"), quietly=True
            )
            self._signal.changed()

    def begin(self, event: Opened, link: Link) -> None:
        """A session begins."""
        self._session = event, link
        for stream in self._streams:
            stream.tell(event)

    def tell(self, event: Event) -> None:
        """Something happened between two sessions."""
        for stream in self._streams:
            stream.tell(event)

    async def deliver(self, link: Link) -> None:
        """A session's task: move what arrives to the streams, as far as they have room."""
        while True:
            self._distribute(link)
            await link.wait_change()

    def stuck_since(self) -> float:
        """Since when nothing was received that the client cannot go on without; inf if it can.

        Either the server is not heard, or not connected to, until a stream has room.
        """
        link = self._signal.link
        if not (self._holds_up if link is None else link.is_full() and self._room() <= 0):
            return math.inf
        mark = self.received, self._room()
        if mark != self._mark:
            self._mark = mark
            self._marked_at = trio.current_time()
        return self._marked_at

    def discard(self) -> None:
        """Count what waits for a stream to have room, and drop it."""
        if self._session is not None:
            link = self._session[1]
            self.received += len(link.inbox)
            self.discarded += len(link.inbox)
            link.inbox.clear()
            if link.paused_at is not None:
                link.taken()
        if self._holds_up:
            self._holds_up = False
            self._signal.changed()

    def _room(self) -> float:
        return min((s.room for s in self._streams if s.full == "wait"), default=math.inf)

    def _distribute(self, link: Link) -> None:
        while link.inbox and (room := self._room()) > 0:
            self._give(link, room)
            if self._room() <= 0:
                # Who waits for what is behind the rest may have to give up.
                link.changed()

    def _give(self, link: Link, count: float) -> None:
        inbox = link.inbox
        if count >= len(inbox):
            batch = list(inbox)
            inbox.clear()
        else:
            batch = [inbox.popleft() for _ in range(int(count))]
        if link.paused_at is not None:
            link.taken()
        self.received += len(batch)
        if not self._streams:
            self.discarded += len(batch)
        for stream in self._streams:
            stream.put(batch)

    async def finish(self) -> None:
        """The connection is over: end the session, if there was one.

        The streams may exceed their bounds for what had arrived in it, but not again and
        again: a program that never receives would gather an inbox with each session.  So this
        waits until they are received from, or `discard` gives that up.
        """
        if self._is_overdrawn():
            _logger.warning("not connecting until what has arrived is received")
            self._holds_up = True
            # Who waits for the next connection may have to give up.
            self._signal.changed()
            while self._holds_up and self._is_overdrawn():
                await self._signal.wait_change()
            self._holds_up = False
        self._end_session()

    def _is_overdrawn(self) -> bool:
        return any(s.room < -_OVERDRAFT * s.max_messages for s in self._streams if s.full == "wait")

    def _end_session(self) -> None:
        """Give out what had arrived (invariant 11), then say that nothing else will."""
        if self._session is None:
            return
        (opened, link), self._session = self._session, None
        self._give(link, math.inf)
        event = Lost(opened.session, link.error())
        for stream in self._streams:
            # Nobody may ever claim the stream that waits for the first one to do so.
            if stream is not self._unclaimed or not stream.forget_empty_session():
                stream.tell(event)

    def end(self, error: Callable[[], Exception], *, quietly: bool) -> None:
        """Nothing more will come."""
        self._end_session()
        self._end = error
        self._ends_quietly = quietly
        for stream in self._streams:
            stream.end(error, quietly=quietly)
