"""A client's life: its parts, its task, and the ways in which its block is left."""

from __future__ import annotations

import logging
import math
from random import Random

import trio

from .._errors import CloseCode, NotReceiving, TriowebError, leaving_code, single_cause
from .._outgoing import State
from .._policy import Heartbeat, Outbox
from ._ending import Ending, Event, Phase
from ._reception import Reception
from ._sending import Sender
from ._signal import Signal
from ._supervisor import Plan, Supervisor, TheirError

_logger = logging.getLogger("trioweb.client")


class Life:
    """What stands behind a Client.

    Attributes:
        signal, sender, reception, supervisor, ending: its parts.
    """

    def __init__(self, plan: Plan, outbox: Outbox, *, receive: bool, random: Random) -> None:
        self.signal = Signal()
        # The peer has so long to answer, and the program to receive where an answer needs that.
        self._timeout = (plan.heartbeat or Heartbeat()).timeout
        self.sender = Sender(
            outbox,
            confirm_timeout=self._timeout,
            signal=self.signal,
            check_alive=self.check_alive,
            make_way=self._make_way,
        )
        self.reception = Reception(self.signal, receives=receive)
        self.supervisor = Supervisor(plan, self.sender, self.reception, self.signal, random)
        self.ending = Ending(self.sender.outbox)
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

    def check_alive(self) -> None:
        """Raise if there will be no other connection."""
        if self.ending.phase.is_over:
            raise self.ending.error()

    def check_open(self) -> None:
        """Raise if nothing more is accepted."""
        if self.ending.phase is not Phase.OPEN:
            raise self.ending.error()

    # The end.

    async def close(self, code: int, reason: str) -> None:
        """See `Client.aclose`."""
        if self.ending.phase is Phase.OPEN:
            self.ending.take(Event.CLOSE)
            try:
                await trio.lowlevel.checkpoint()
                with trio.move_on_after(self._close_timeout):
                    try:
                        await self.sender.flush()
                    except TriowebError:
                        pass  # it gave up meanwhile, which Unsent names as its cause
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

    async def supervise(self, block: trio.CancelScope) -> None:
        """The client's task; an error in it cancels *block*."""
        error: Exception | None = None
        is_over = False
        try:
            with self._scope:
                is_over = self.ending.give_up(*await self.supervisor.run())
        except Exception as exc:
            cause = single_cause(exc)
            error = cause.error if isinstance(cause, TheirError) else exc
            # First, so that only who is shielded from it is told in another way.
            block.cancel()
            is_over = self.ending.fail(error)
        finally:
            # However this ends: a block may go on behind a shield, and wait for the client.
            if self.ending.take(Event.OVER) or is_over:
                self._tell_end()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback leads to this frame

    def _tell_end(self) -> None:
        self.reception.end(self.ending.error, quietly=self.ending.is_quiet)
        self.signal.changed()

    def _make_way(self) -> float:
        """Somebody waits for what may have to wait behind messages that nobody takes.

        Another task may be receiving, only slowly; so that is seen from its having taken
        nothing for the timeout.  Returns when to look again.
        """
        deadline = self.reception.stuck_since() + self._timeout
        if self.ending.phase is Phase.CLOSING and deadline < math.inf:
            self.reception.discard()
            return math.inf
        if deadline <= trio.current_time():
            link = self.signal.link
            raise NotReceiving(
                "there is no new connection until what has arrived is received: "
                "receive in another task"
                if link is None
                else f"{len(link.inbox)} messages have arrived that nobody takes, and the "
                "server's answers wait behind them: receive in another task"
            )
        return deadline
