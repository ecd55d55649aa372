"""A client's life: its parts, its task, and the ways in which its block is left."""

from __future__ import annotations

import logging
from random import Random

import trio

from .._close_codes import CloseCode
from .._error_groups import leaving_code, single_cause
from .._errors import TriowebError
from .._link import Spawn, State
from .._policy import Heartbeat, Outbox
from ._ending import Ending, Event, Phase
from ._outbox import OutboxQueue
from ._reception import Reception
from ._sending import Sender
from ._signal import Signal
from ._supervisor import Plan, Supervisor, TheirError
from ._waiting import WaitingRoom

_logger = logging.getLogger("trioweb.client")


class Life:
    """What stands behind a Client.

    Attributes:
        signal, outbox, ending, room, sender, reception, supervisor: its parts.
    """

    __slots__ = (
        "_close_timeout",
        "_scope",
        "ending",
        "outbox",
        "reception",
        "room",
        "sender",
        "signal",
        "supervisor",
    )

    def __init__(self, plan: Plan, outbox: Outbox, *, receive: bool, random: Random) -> None:
        # The peer has so long to answer, and the program to receive where an answer needs that.
        timeout = (plan.heartbeat or Heartbeat()).timeout
        self.signal = Signal()
        self.outbox = OutboxQueue(outbox)
        self.ending = Ending(self.outbox)
        self.room = WaitingRoom(self.outbox, self.signal, self.ending)
        self.sender = Sender(
            self.outbox, confirm_timeout=timeout, signal=self.signal, room=self.room
        )
        self.reception = Reception(self.signal, receives=receive, patience=timeout, room=self.room)
        self.room.receives, self.room.writes = self.reception, self.sender
        self.supervisor = Supervisor(plan, self.sender, self.reception, self.signal, random)
        self._close_timeout = plan.limits.close_timeout
        self._scope = trio.CancelScope()

    @property
    def state(self) -> State:
        """See `Client.state`."""
        phase = self.ending.phase
        if phase.is_over:
            return State.CLOSED
        if phase is Phase.CLOSING:
            return State.CLOSING
        return State.CONNECTING if self.signal.link is None else State.OPEN

    def check_open(self) -> None:
        """Raise if nothing more is accepted."""
        if self.ending.phase is not Phase.OPEN:
            raise self.ending.error()

    # The end.

    async def close(self, code: int, reason: str) -> None:
        """See `Client.aclose`."""
        if self.ending.phase is Phase.OPEN:
            self.ending.take(Event.CLOSE)
            self.room.close()
            if len(self.outbox):
                self.supervisor.hurry()
            try:
                await trio.lowlevel.checkpoint()
                await self._flush()
                link = self.signal.link
                if link is not None:
                    link.close(code, reason)
                    await link.wait_closed()
            finally:
                self._stop(CloseCode.GOING_AWAY)
        else:
            await trio.lowlevel.checkpoint()
            while not self.ending.phase.is_over:
                await self.signal.wait_change()
        unsent = self.ending.tell_unsent()
        if unsent is not None:
            raise unsent

    async def reconnect(self, code: int, reason: str) -> None:
        """See `Client.reconnect`."""
        link = self.signal.link
        self.supervisor.reconnect(code, reason)
        await trio.lowlevel.checkpoint()
        while link is not None and self.signal.link is link:
            await self.signal.wait_change()

    async def _flush(self) -> None:
        """Hand over what can be within the close timeout; nobody will receive any more."""
        self.reception.makes_way = True
        with trio.move_on_after(self._close_timeout):
            try:
                await self.room.flush()
            except TriowebError:
                pass  # it gave up meanwhile, which Unsent names as its cause
        self.reception.makes_way = False

    def _stop(self, code: CloseCode) -> None:
        """End at once: no flush, no further attempt."""
        link = self.signal.link
        if link is not None:
            link.close(code)
        self._scope.cancel()
        if self.ending.take(Event.OVER):
            self._tell_end()

    def abandon(self, error: BaseException) -> None:
        """The block was left by *error*, which may be no more than a cancellation."""
        self._stop(leaving_code(error))
        unsent = self.ending.tell_unsent()
        if unsent is not None:
            _logger.warning("%s", unsent)

    async def leave(self) -> None:
        """What leaving the block normally does."""
        if not self.ending.phase.is_over:
            await self.close(CloseCode.NORMAL, "")
            return
        # What ended it may have been a cancellation, which the block was shielded from.
        await trio.lowlevel.checkpoint()
        error = self.ending.owed()
        if error is not None:
            raise error

    async def supervise(self, spawn: Spawn) -> None:
        """The client's task; an error in it cancels the block.

        Args:
            spawn: starts a task in the block's nursery.
        """
        error: Exception | None = None
        is_over = False
        try:
            with self._scope:
                attempts, last = await self.supervisor.run(spawn)
                is_over = self.ending.give_up(attempts, last)
        except Exception as exc:
            cause = single_cause(exc)
            error = cause.error if isinstance(cause, TheirError) else exc
            is_over = self.ending.fail(error)
        finally:
            # However this ends: a block may go on behind a shield, and wait for the client.  Where
            # an error cancels the block, that wins over what is told here.
            if self.ending.take(Event.OVER) or is_over:
                self._tell_end()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback leads to this frame

    def _tell_end(self) -> None:
        self.reception.end(self.ending.error, quietly=self.ending.is_quiet)
        self.room.end()
        self.signal.changed()
