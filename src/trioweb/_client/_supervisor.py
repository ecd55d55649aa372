"""The supervisor: connects, runs a session, consults the retry policy, and again.

A session is the client's time on one connection and a nursery of its own: whatever first
finds the connection dead ends the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from time import time
from typing import Final, TypeAlias, TypeVar, cast

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from .._callbacks import awaitable
from .._close_codes import CloseCode
from .._connection import Connection
from .._dataclass import dataclass
from .._error_groups import causes, single_cause
from .._errors import ClosedLocally, ConnectFailed
from .._heartbeat import Lookout, Terms
from .._link import Link, Spawn
from .._logs import log
from .._observer import Observer, tell
from .._policy import Heartbeat, Limits, Retry
from .._protocol._http import format_address
from ._attending import Reading, attend
from ._events import Opened, Waiting
from ._open import HeaderArgument, Offer
from ._opener import Established, Opener
from ._reception import Reception
from ._retry import Schedule, seconds_to_wait
from ._sending import Sender
from ._signal import Signal
from ._worth import Judge, describe, is_about_connecting

_T = TypeVar("_T")

_logger = logging.getLogger("trioweb.client")

UrlArgument: TypeAlias = str | Callable[[], Awaitable[str]]
HeadersArgument: TypeAlias = HeaderArgument | Callable[[], Awaitable[HeaderArgument]]
SubprotocolsArgument: TypeAlias = Sequence[str] | Callable[[], Awaitable[Sequence[str]]]
OnOpen: TypeAlias = Callable[[Connection], Awaitable[object]]

# A server ends TCP right after its Close; before the next attempt, one that does not is not
# waited for.
_LINGER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to connect, as `open_client` was told."""

    url: UrlArgument
    headers: HeadersArgument
    subprotocols: SubprotocolsArgument
    offer: Offer
    opener: Opener
    on_open: OnOpen | None
    retry: Retry
    heartbeat: Heartbeat | None
    limits: Limits
    observer: Observer | None


class TheirError(Exception):
    """`error` is a fault of one of the user's own callables, and ends the client as it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Supervisor:
    """Runs the sessions of a client.

    Attributes:
        attempts, sessions: counts so far.
        last_error: what ended the last attempt, or the session that it led to.
    """

    __slots__ = (
        "_asked_at_once",
        "_asks",
        "_is_asked_to_wait",
        "_judge",
        "_last_link",
        "_lasted",
        "_nap",
        "_plan",
        "_reception",
        "_schedule",
        "_sender",
        "_signal",
        "_terms",
        "attempts",
        "last_error",
        "sessions",
    )

    def __init__(
        self, plan: Plan, sender: Sender, reception: Reception, signal: Signal, random: Random
    ) -> None:
        self.attempts = 0
        self.sessions = 0
        self.last_error: Exception | None = None
        self._plan = plan
        self._sender = sender
        self._reception = reception
        self._signal = signal
        self._schedule = Schedule(plan.retry, random)
        makers = (plan.url, plan.headers, plan.subprotocols)
        # Whether the user is asked something for each attempt.
        self._asks = any(map(callable, makers))
        self._judge = Judge(plan.retry.worth, renews=self._asks)
        self._terms = None if plan.heartbeat is None else Terms(plan.heartbeat, plan.observer)
        # How long the attempt's connection was in use, None if there was none; and what carried
        # it, until its end is told.
        self._lasted: float | None = None
        self._last_link: Link | None = None
        # The wait for the next attempt; and whether it is the server that asks for it.
        self._nap: trio.CancelScope | None = None
        self._is_asked_to_wait = False
        # Whether the user does not want the policy to be asked.
        self._asked_at_once = False

    async def run(self, spawn: Spawn) -> tuple[int, Exception]:
        """Connect, again and again, until the policy gives up.

        Args:
            spawn: starts a task of a connection.  It ends with that, by the end of this.

        Returns:
            How many attempts there were since the last stable connection, and what ended
            the last one.

        Raises:
            TheirError: one of the user's callables failed.
        """
        while True:
            self.attempts += 1
            self._schedule.begin(trio.current_time())
            cause = self.last_error = await self._attempt(spawn)
            attempts = self._schedule.attempts
            observer = self._plan.observer
            if observer is not None and self._lasted is None:
                tell(observer.on_failure, cause, attempts)
            if self._asked_at_once:
                self._asked_at_once = False
                self._log(logging.INFO, "%s; connecting again at once, as asked", describe(cause))
                continue
            delay = self._next_delay(cause)
            if delay is None:
                self._log(logging.WARNING, "%s; giving up", describe(cause))
                return max(attempts, 1), cause
            text = "%s; connecting again in %.1f s"
            self._log(logging.WARNING, text, describe(cause), delay)
            self._reception.tell(Waiting(cause, delay, attempts))
            self._is_asked_to_wait = seconds_to_wait(cause, time()) > 0
            with trio.CancelScope(deadline=trio.current_time() + delay) as self._nap:
                await trio.sleep_forever()

    def _log(self, level: int, text: str, *args: object) -> None:
        """Log something of the last attempt, and of the connection that it led to."""
        link, self._last_link = self._last_link, None
        log(_logger, level, link, text, *args, code=None if link is None else link.close_code)

    def hurry(self) -> None:
        """Try at once, where the next attempt is waited for and the server has not asked for
        that."""
        if self._nap is not None and not self._is_asked_to_wait:
            self._nap.cancel()

    def reconnect(self, code: int, reason: str) -> None:
        """End this session, or what is waited for, and try at once."""
        link = self._signal.link
        if link is None:
            if self._nap is not None:
                self._nap.cancel()
        else:
            self._asked_at_once = True
            link.close(code, reason)

    def _next_delay(self, cause: Exception) -> float | None:
        """Seconds until the next attempt after *cause*; None for no other.

        Raises:
            TheirError: *cause* is a fault of the program, and not to be tried again.
        """
        try:
            worth = self._judge.is_worth(cause, lasted=self._lasted)
        except Exception as exc:
            raise TheirError(exc) from exc
        if worth:
            return self._schedule.next_delay(trio.current_time(), seconds_to_wait(cause, time()))
        if not is_about_connecting(cause):
            raise TheirError(cause) from cause
        return None

    # What it opens is closed, in the end.  The callables of the user's are interrupted as ever.
    @enable_ki_protection
    async def _attempt(self, spawn: Spawn) -> Exception:
        """Try to connect and, if that works, hold the connection until it is over; return why it
        is over."""
        self._lasted = None
        plan, observer = self._plan, self._plan.observer
        deadline = trio.current_time() + plan.limits.connect_timeout
        opened = await self._open(deadline)
        if isinstance(opened, Exception):
            return opened
        self._lasted = 0
        reading = Reading()
        connection = opened.start(spawn, plan.heartbeat, plan.limits, reading)
        # The connection has what it needs of it.
        del opened
        link = self._last_link = connection.link
        lookout = None
        if self._terms is not None:
            lookout = Lookout(connection, self._terms, keeps_alive=True)
        try:
            if observer is not None:
                tell(observer.on_open, connection)
            is_greeted, failure = await self._greet(connection, reading, lookout, deadline)
            if is_greeted:
                begun_at = trio.current_time()
                try:
                    self._begin_session(connection, reading)
                    await attend(link, reading, lookout, self._do_chores)
                finally:
                    self._end_session(begun_at)
            await self._see_off(link, is_greeted)
        finally:
            # A cancellation is told the server if the kernel takes that at once.
            link.close(CloseCode.GOING_AWAY)
            link.abort("not waited for any more")
            # This waits for nobody else.
            with trio.CancelScope(shield=True):
                await link.wait_closed()
            if observer is not None:
                tell(observer.on_end, connection)
        undelivered = self._sender.finish(link)
        await self._reception.finish()
        for each in undelivered:
            self._reception.tell(each)
        return failure or link.error()

    async def _open(self, deadline: float) -> Established | Exception:
        """Ask the user what is to be asked, and connect; return what came of it."""
        plan = self._plan
        asking = "url"
        try:
            # Without a deadline where nothing is asked, as Trio keeps each for a while.
            with trio.move_on_at(deadline if self._asks else math.inf):
                url = await _ask("url", plan.url)
                asking = "headers"
                headers: HeaderArgument = await _ask("headers", plan.headers)
                asking = "subprotocols"
                subprotocols = await _ask("subprotocols", plan.subprotocols)
                asking = ""
            if asking:
                seconds = plan.limits.connect_timeout
                return ConnectFailed(f"{asking} was not through within {seconds:g} s")
            visit = plan.offer.visit(url, headers, subprotocols)
            return await plan.opener.open(visit, deadline)
        except Exception as exc:
            return _cause_of(exc)

    async def _see_off(self, link: Link, is_greeted: bool) -> None:
        """Wait until *link* has closed, as long as that is worth it."""
        # Where it was this side that closed, the close timeout is all the limit there is.
        ours = isinstance(link.error(), ClosedLocally) and not self._asked_at_once
        async with trio.open_nursery() as nursery:
            if is_greeted:
                # Somebody may make room for what had arrived.
                nursery.start_soon(self._reception.deliver, link)
            with trio.move_on_after(math.inf if ours else _LINGER_SECONDS):
                await link.wait_closed()
            nursery.cancel_scope.cancel()

    @disable_ki_protection
    async def _greet(
        self,
        connection: Connection,
        reading: Reading,
        lookout: Lookout | None,
        deadline: float,
    ) -> tuple[bool, Exception | None]:
        """Run the user's `on_open`; return whether it came through, and what of its own, if
        anything, kept it from that.  If it did, the connection is the client's; else it ends."""
        if self._plan.on_open is None:
            connection._hand_over()
            return True, None
        seconds = self._plan.limits.connect_timeout
        why = f"on_open was not through within {seconds:g} s of connecting"
        failure: Exception | None = None
        try:
            # NOTE: within the `try`, as errors may come with this scope's own cancellation.
            with trio.move_on_at(deadline):
                # Which may wait for what comes, so that another task attends meanwhile.
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(attend, connection.link, reading, lookout)
                    await awaitable("on_open(connection)", self._plan.on_open(connection))
                    # Before others run, who may hold the connection on.
                    connection._hand_over()
                    nursery.cancel_scope.cancel()
                return True, None
        except Exception as exc:
            if connection.link.is_own_end(exc):
                # Of which the link knows best: behind what cannot be written to any more, there
                # may be a Close that says why.
                return False, None
            failure = _cause_of(exc)
            why = f"on_open: {describe(failure)}"
        connection.link.abort(why)
        return False, failure

    def _begin_session(self, connection: Connection, reading: Reading) -> None:
        """Use an open connection from now on."""
        link = connection.link
        self.sessions += 1
        who = format_address(connection.remote)
        log(_logger, logging.INFO, connection, "connected: %r", connection, address=who)
        self._signal.set_link(link, reading.wake)
        self._reception.begin(Opened(self.sessions, connection.subprotocol), link)
        self._sender.begin(link)

    def _do_chores(self, link: Link) -> float:
        """Do what is due in a session; return when there will be more, unless something changes."""
        # First what has come is given out, which may let the server be heard.
        return min(self._reception.attend(link), self._sender.attend(link))

    def _end_session(self, begun_at: float) -> None:
        self._signal.set_link(None)
        self._lasted = trio.current_time() - begun_at
        self._schedule.opened_for(self._lasted)


@disable_ki_protection
async def _ask(name: str, value: _T | Callable[[], Awaitable[_T]]) -> _T:
    """What a user gave, or has a callable of theirs give."""
    if callable(value):
        return cast(_T, await awaitable(f"{name}()", value()))
    return value


def _cause_of(error: Exception) -> Exception:
    """The one error that *error*, out of a callable of the user's, stands for."""
    if is_about_connecting(error):
        return causes(error)[0]
    cause = single_cause(error)
    assert isinstance(cause, Exception), "of an ExceptionGroup"
    return cause
