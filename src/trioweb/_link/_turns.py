"""Turns: who writes to one peer next, of all who want to.

Tasks that send are first come, first served: each has its frame written when its turn has come.
Topics stand in a line that goes before all of these, but does not write twice in a row: what was
written by a task is HELD against further ones until the line has had its turn.

Knows neither what is queued nor when there is room: that is the `Writer`'s.
"""

from __future__ import annotations

from typing import Final, Protocol

from trio.lowlevel import enable_ki_protection

from .._waitable import Line, Waiter

# So many of those who wait to send have their turn at once: to write for one takes up to 10 µs.
_SENDERS_PER_TURN: Final = 64


class Writer(Protocol):
    """What writes for those who wait."""

    def has_turn(self) -> bool:
        """Whether it is the turn of whoever is first to send, with room for a message."""

    def write(self, frame: bytes, /) -> None: ...

    def admit_later(self) -> None:
        """Have `Turns.admit` called once others have run, and until then nobody get ahead."""


class _Sender(Waiter):
    """A task that waits to send *frame*; None: to write itself, once it is its turn."""

    __slots__ = ("frame", "was_written")

    def __init__(self, frame: bytes | None) -> None:
        super().__init__()
        self.frame = frame
        self.was_written = False


class Turns:
    """Who waits for a turn to write to one peer.

    Attributes:
        senders: tasks that wait to send.
        is_held: a message was queued while there is a line, which is next.
    """

    __slots__ = ("_line", "is_held", "senders")

    def __init__(self) -> None:
        # Who has something to offer as soon as nothing is queued any more, and must not wait for
        # ever because messages are always queued before that.
        self._line: set[object] | None = None
        self.is_held = False
        self.senders: Line[_Sender] = Line()

    @property
    def has_line(self) -> bool:
        return self._line is not None

    def stand_in_line(self, key: object) -> None:
        if self._line is None:
            self._line = set()
        self._line.add(key)

    def leave_line(self, key: object) -> bool:
        """Take *key* out of the line; return whether nobody stands there any more, but did."""
        if self._line is None:
            return False
        self._line.discard(key)
        if self._line:
            return False
        self._line = None
        return True

    async def wait(self, frame: bytes | None) -> bool:
        """Wait behind all who wait to send; return whether the turn has come, in which *frame* was
        written, and not the end.

        Cancellation: nothing was written.  Checkpoint: always.
        """
        sender = _Sender(frame)
        await self.senders.wait(sender)
        return sender.was_written

    def turn_over(self, writer: Writer) -> None:
        """Those in line have had their turn."""
        if self.is_held:
            self.is_held = False
            self.admit(writer)

    # Whoever is woken here is written for.
    @enable_ki_protection
    def admit(self, writer: Writer) -> None:
        """Have *writer* write for those who wait to send, as far as it is their turn: the first to
        wait first."""
        senders = self.senders
        for _ in range(_SENDERS_PER_TURN):
            if not senders or not writer.has_turn():
                return
            sender = senders.wake()
            sender.was_written = True
            if sender.frame is not None:
                writer.write(sender.frame)
        if senders and writer.has_turn():
            writer.admit_later()

    def refuse(self) -> None:
        """Nothing is taken any more: tell those who wait to send."""
        while self.senders:
            self.senders.wake()
