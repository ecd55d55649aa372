"""Who waits for the server, in a client: for what, who is told, and after how long.

    who         waits for                                  and is told
    ─────────────────────────────────────────────────────────────────────────────────────────────
    send        its turn and room in the outbox: first     as the others, and ClosedLocally as soon
                come, first served, whatever the sizes     as the client is being closed
    flush       all accepted before to be handed over      NotReceiving after the patience below;
    wait_open   a connection                               GaveUp or ClosedLocally at the end
    aclose      as flush, for `close_timeout`              nothing: what is in its way is discarded

- Each waits by itself and is woken when its time has come, not at each change: what one message
  costs does not grow with the number of those who wait.
- While somebody waits, the inbox may grow to so many times its bounds: the server's answers may
  stand behind messages that the same task would receive next.
- If a stream is full nevertheless, the server is not heard; or, after the end of a connection, no
  other one is made.  When nothing was received for `Heartbeat.timeout`, whoever waits is told
  NotReceiving (`Jam` has the time, `Reception` tells).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import trio

from .._errors import NotReceiving, TriowebError
from .._link import OPEN
from .._waitable import Line, Waiter
from ._ending import Ending
from ._outbox import Entry, OutboxQueue
from ._signal import Signal

# So many times the inbox's bounds are read on while somebody waits.
_STRETCH: Final = 4


class Jam:
    """Since when nothing was received that the client cannot go on without.

    Args:
        patience: seconds after which whoever waits is told.
    """

    __slots__ = ("_mark", "_patience", "_since", "_told")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        # How far reception was when it was found in the way, and since when; None if it is not.
        self._mark: object = None
        self._since = 0.0
        self._told = False

    def look(self, now: float, mark: object) -> float:
        """Note how far reception is, None if it is not in the way; return when to tell."""
        if mark != self._mark:
            self._mark = mark
            self._since = now
            self._told = False
        return math.inf if mark is None or self._told else self._since + self._patience

    @property
    def is_on(self) -> bool:
        """Whether reception is in the way."""
        return self._mark is not None

    def is_due(self, now: float) -> bool:
        """Whether that is so for longer than the patience."""
        return self._mark is not None and now >= self._since + self._patience

    def tell(self) -> None:
        """It was told, which is done once."""
        self._told = True


class _Waiter(Waiter):
    """A task that waits.  `error` makes what it is to raise once woken; None: it is done."""

    __slots__ = ("entry", "error", "number")

    def __init__(self, *, entry: Entry = (0, b""), number: int = 0) -> None:
        super().__init__()
        self.entry = entry
        self.number = number
        self.error: Callable[[], TriowebError] | None = None


_Line: TypeAlias = Line[_Waiter]


class Receives(Protocol):
    """What gives out what arrives."""

    def why_stuck(self) -> str | None:
        """Why who begins to wait now would have to wait for the program itself; None if not."""


class Writes(Protocol):
    """What writes what was admitted."""

    def write_waiting(self) -> None: ...


class WaitingRoom:
    """All who wait for the server.

    Attributes:
        receives, writes: those who come after this room, and whom it asks.
    """

    __slots__ = (
        "_ending",
        "_flushers",
        "_openers",
        "_outbox",
        "_senders",
        "_signal",
        "receives",
        "writes",
    )

    def __init__(self, outbox: OutboxQueue, signal: Signal, ending: Ending) -> None:
        self._outbox = outbox
        self._signal = signal
        self._ending = ending
        self.receives: Receives
        self.writes: Writes
        self._senders: _Line = Line()
        self._flushers: _Line = Line()
        self._openers: _Line = Line()

    @property
    def has_senders(self) -> bool:
        """Whether somebody waits for a turn to send."""
        return bool(self._senders)

    async def send(self, entry: Entry) -> None:
        """Wait for the turn of *entry*; when this returns, the outbox has it."""
        await self._wait(self._senders, _Waiter(entry=entry))

    async def flush(self) -> None:
        """Wait until nothing is left in the outbox of what has been accepted so far."""
        self._check_alive()
        number = self._outbox.accepted
        if not self._outbox.is_settled(number):
            await self._wait(self._flushers, _Waiter(number=number))

    async def wait_open(self) -> None:
        """Wait until there is a connection."""
        if not self._is_open():
            self._check_alive()
            await self._wait(self._openers, _Waiter())

    def _is_open(self) -> bool:
        # `on_open` may have closed it.
        return self._signal.link is not None and self._signal.link.state is OPEN

    def _check_alive(self) -> None:
        if self._ending.phase.is_over:
            raise self._ending.error()

    async def _wait(self, line: _Line, waiter: _Waiter) -> None:
        try:
            if self._signal.link is not None:
                self._signal.link.inbox.stretch(_STRETCH)
            # There may be room in a stream that has not told of it yet, as it is little.
            self._signal.changed()
            text = self.receives.why_stuck()
            if text is not None:
                raise NotReceiving(text)
            await line.wait(waiter)
        except trio.Cancelled:
            # What was behind it may be smaller.
            self.writes.write_waiting()
            raise
        finally:
            self.stretch_inbox()
        if waiter.error is not None:
            # First: what ended the client may have cancelled the caller, too.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise waiter.error()

    def stretch_inbox(self) -> None:
        """Let the inbox grow as far as those who wait need it, and read on if that helps."""
        if self._signal.link is not None:
            somebody = self._senders or self._flushers or self._openers
            self._signal.link.inbox.stretch(_STRETCH if somebody else 1)

    def admit(self) -> bool:
        """Let in what has its turn; return whether there was something."""
        outbox, senders = self._outbox, self._senders
        before = outbox.accepted
        while senders:
            if not outbox.has_room(len(senders.first.entry[1])):
                break
            outbox.put(senders.wake().entry)
        return outbox.accepted > before

    def look(self) -> None:
        """Wake those for whom what they wait for has come, but for senders."""
        while self._flushers:
            if not self._outbox.is_settled(self._flushers.first.number):
                break
            self._flushers.wake()
        if self._is_open():
            self._wake_all(self._openers, None)

    def refuse(self, text: str) -> None:
        """Nothing was received for too long: tell all."""
        for line in (self._senders, self._flushers, self._openers):
            self._wake_all(line, lambda: NotReceiving(text))

    def close(self) -> None:
        """The client is being closed: nothing more is accepted."""
        self._wake_all(self._senders, self._ending.error)

    def end(self) -> None:
        """The client is over: tell all."""
        for line in (self._senders, self._flushers, self._openers):
            self._wake_all(line, self._ending.error)

    def _wake_all(self, line: _Line, error: Callable[[], TriowebError] | None) -> None:
        while line:
            line.wake().error = error
