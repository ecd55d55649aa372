"""How a client ends: what was decided, what somebody was told of it, and what is still owed.

    phase     CLOSE      GIVE_UP   FAIL      OVER
    ───────────────────────────────────────────────
    OPEN      CLOSING    GAVE_UP   FAILED    CLOSED
    CLOSING   CLOSING    CLOSED    FAILED    CLOSED
    the last three are for good

- A client that gave up says so: each operation raises GaveUp, and if none did, leaving the block.
- What was not handed over is told, too: by Unsent, once, or by a GaveUp out of the block.
- Closing is what the program asked for, so of a client that gives up meanwhile only Unsent speaks.
- A callable of the user's that failed (FAIL) comes out of the block by itself.

Knows neither tasks nor links.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol

from .._close_codes import CloseCode
from .._errors import ClosedLocally, GaveUp, TriowebError, Unsent
from .._policy import Message


class Phase(Enum):
    """Where a client is on the way to its end."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    GAVE_UP = "gave up"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether there will be no other connection."""
        return self not in (Phase.OPEN, Phase.CLOSING)


class Event(Enum):
    """What brings it there."""

    CLOSE = "somebody closes it"
    GIVE_UP = "the policy gives up"
    FAIL = "a callable of the user's failed"
    OVER = "nothing is tried any more: it was closed, or its block was left or cancelled"


TABLE: Final = {
    (Phase.OPEN, Event.CLOSE): Phase.CLOSING,
    (Phase.OPEN, Event.GIVE_UP): Phase.GAVE_UP,
    (Phase.OPEN, Event.FAIL): Phase.FAILED,
    (Phase.OPEN, Event.OVER): Phase.CLOSED,
    (Phase.CLOSING, Event.CLOSE): Phase.CLOSING,
    (Phase.CLOSING, Event.GIVE_UP): Phase.CLOSED,
    (Phase.CLOSING, Event.FAIL): Phase.FAILED,
    (Phase.CLOSING, Event.OVER): Phase.CLOSED,
}


class Undone(Protocol):
    """What an ending has to know of the outbox."""

    @property
    def unsent(self) -> int: ...

    def unsent_messages(self) -> Sequence[Message]: ...


class Ending:
    """The end of one client.

    Attributes:
        phase: see the table.
    """

    __slots__ = ("_failure", "_given_up", "_outbox", "_told", "phase")

    def __init__(self, outbox: Undone) -> None:
        self.phase = Phase.OPEN
        self._outbox = outbox
        # Since when GIVE_UP was decided: how many attempts there had been, and the last error.
        self._given_up: tuple[int, Exception] | None = None
        self._failure: Exception | None = None
        # Which errors somebody has been given.
        self._told: tuple[type[TriowebError], ...] = ()

    def take(self, event: Event) -> bool:
        """Note *event*; return whether the client is over by that."""
        before = self.phase
        self.phase = TABLE.get((before, event), before)
        return self.phase.is_over and not before.is_over

    def give_up(self, attempts: int, last: Exception) -> bool:
        """The policy has given up, after *attempts* and with their *last* error."""
        if not self.phase.is_over:
            self._given_up = attempts, last
        return self.take(Event.GIVE_UP)

    def fail(self, error: Exception) -> bool:
        """A callable of the user's has raised *error*."""
        if not self.phase.is_over:
            self._failure = error
        return self.take(Event.FAIL)

    @property
    def is_quiet(self) -> bool:
        """Whether iterating just ends with this."""
        return self.phase is not Phase.GAVE_UP

    def error(self) -> TriowebError:
        """A fresh error for an operation that cannot be any more; by that, somebody is told."""
        match self.phase:
            case Phase.GAVE_UP:
                self._told += (GaveUp,)
                return self._gave_up()
            case Phase.CLOSING:
                return ClosedLocally(CloseCode.NORMAL, "the client is being closed")
            case _:
                error = ClosedLocally(CloseCode.NORMAL, "the client was closed")
                error.__cause__ = self._failure
                return error

    def _gave_up(self) -> GaveUp:
        assert self._given_up is not None
        return GaveUp(*self._given_up, self._outbox.unsent_messages())

    def tell_unsent(self) -> Unsent | None:
        """What was not handed over, if there is something and nobody has been told."""
        if Unsent in self._told or not self._outbox.unsent:
            return None
        self._told += (Unsent,)
        error = Unsent(self._outbox.unsent, self._outbox.unsent_messages())
        if self._given_up is None:
            error.__cause__ = self._failure
        else:
            # Which tells of that, too.
            error.__cause__ = self._gave_up()
            self._told += (GaveUp,)
        return error

    def owed(self) -> TriowebError | None:
        """What the block, which is left normally and after the end, raises."""
        if self.phase is Phase.GAVE_UP and GaveUp not in self._told:
            self._told += (Unsent,)
            return self.error()
        return self.tell_unsent()
