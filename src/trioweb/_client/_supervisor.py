"""The supervisor: connects, runs a session, consults the retry policy, and again.

A session is the client's time on one connection and a nursery of its own: whatever first
finds the connection dead ends the others.
"""

from __future__ import annotations

import logging
import math
import ssl
from calendar import timegm
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from random import Random
from time import time
from typing import Final, TypeAlias
from urllib.parse import urldefrag, urljoin

import trio

from .._connection import Connection, is_own_end
from .._errors import (
    ClosedLocally,
    ConnectFailed,
    HandshakeFailed,
    HandshakeRejected,
    OpenFailed,
    causes,
    is_os_error,
    is_worth_retry,
)
from .._handshake import Target, parse_url
from .._outgoing import State
from .._policy import Deflate, Heartbeat, Limits, Retry
from ._open import (
    Dial,
    Established,
    HeaderArgument,
    establish,
    header_pairs,
    parse_target,
)
from ._retry import Schedule
from ._sending import Sender
from ._signal import Signal
from ._streams import Opened, Reception

_logger = logging.getLogger("trioweb.client")

UrlArgument: TypeAlias = str | Callable[[], Awaitable[str]]
HeadersArgument: TypeAlias = HeaderArgument | Callable[[], Awaitable[HeaderArgument]]
OnOpen: TypeAlias = Callable[[Connection], Awaitable[object]]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_CREDENTIALS: Final = frozenset({"authorization", "cookie"})
_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss"}
# A server ends TCP right after its Close; before the next attempt, one that does not is not
# waited for.
_LINGER_SECONDS: Final = 1.0
_MAX_RETRY_AFTER: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to connect, as `open_client` was told."""

    url: UrlArgument
    headers: HeadersArgument
    subprotocols: Sequence[str]
    ssl_context: ssl.SSLContext | None
    dial: Dial | None
    on_open: OnOpen | None
    retry: Retry
    heartbeat: Heartbeat | None
    limits: Limits
    compression: Deflate | None


class TheirError(Exception):
    """One of the user's own callables raised `error`, which ends the client as it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Supervisor:
    """Runs the sessions of a client.

    Attributes:
        attempts, sessions: counts so far.
    """

    def __init__(
        self, plan: Plan, sender: Sender, reception: Reception, signal: Signal, random: Random
    ) -> None:
        self.attempts = 0
        self.sessions = 0
        self._plan = plan
        self._sender = sender
        self._reception = reception
        self._signal = signal
        self._schedule = Schedule(plan.retry, random)
        self._renewed = False

    async def run(self) -> tuple[int, Exception]:
        """Connect, again and again, until the policy gives up.

        Returns:
            How many attempts there were since the last stable connection, and what ended
            the last one.

        Raises:
            TheirError: one of the user's callables failed.
        """
        while True:
            self.attempts += 1
            self._schedule.begin(trio.current_time())
            cause = await self._attempt()
            attempts = self._schedule.attempts
            delay = self._next_delay(cause)
            if delay is None:
                _logger.warning("%s; giving up", ascii_text(cause))
                return max(attempts, 1), cause
            _logger.warning("%s; connecting again in %.1f s", ascii_text(cause), delay)
            await trio.sleep(delay)

    def _next_delay(self, cause: Exception) -> float | None:
        try:
            worth = (self._plan.retry.worth or self._is_worth_retry)(cause)
        except Exception as exc:
            raise TheirError(exc) from exc
        if not worth:
            return None
        retry_after = 0.0
        if isinstance(cause, HandshakeRejected):
            retry_after = parse_retry_after(cause.header("retry-after"), time())
        return self._schedule.next_delay(trio.current_time(), retry_after)

    def _is_worth_retry(self, cause: Exception) -> bool:
        if isinstance(cause, HandshakeRejected) and cause.status == 401 and not self._renewed:
            # Tokens expire: whoever makes them is asked for a new one, once.
            self._renewed = callable(self._plan.url) or callable(self._plan.headers)
            return self._renewed
        return is_worth_retry(cause)

    async def _attempt(self) -> Exception:
        """Try to connect and, if that works, run the session; return why it is over."""
        limits = self._plan.limits
        deadline = trio.current_time() + limits.connect_timeout
        opened: Established | None = None
        try:
            with trio.move_on_at(deadline):
                opened = await self._follow(*await self._ask_where())
        except OpenFailed as exc:
            return exc
        except Exception as exc:
            if not is_os_error(exc):
                raise
            return causes(exc)[0]
        if opened is None:
            return ConnectFailed(f"no connection within {limits.connect_timeout:g} s")
        return await self._use(opened, deadline)

    async def _ask_where(self) -> tuple[Target, list[tuple[str, str]]]:
        """The target and headers of this attempt.

        Raises:
            OSError, or a group of them: of the user's callables.
            TheirError: any other error of theirs, or what they return is no good.
        """
        url, headers = self._plan.url, self._plan.headers
        try:
            return (
                parse_target(await url() if callable(url) else url, self._plan.ssl_context),
                header_pairs("open_client", await headers() if callable(headers) else headers),
            )
        except Exception as exc:
            if is_os_error(exc):
                raise
            raise TheirError(exc) from exc

    async def _follow(self, target: Target, headers: list[tuple[str, str]]) -> Established:
        """Open a connection, where redirects lead to."""
        plan = self._plan
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                return await establish(
                    target,
                    headers,
                    plan.subprotocols,
                    plan.ssl_context,
                    plan.limits,
                    plan.compression,
                    plan.dial,
                )
            except HandshakeRejected as exc:
                location = exc.header("location")
                if exc.status not in _REDIRECTS or location is None:
                    raise
                target, headers = redirect(target, headers, location)
        raise HandshakeFailed(f"the server redirects more than {_MAX_REDIRECTS} times")

    async def _use(self, opened: Established, deadline: float) -> Exception:
        """Hold a connection until it is over; return why it is."""
        self._renewed = False
        async with trio.open_nursery() as nursery:
            connection = opened.start(nursery, self._plan.heartbeat, self._plan.limits)
            link = connection.link
            if await self._greet(connection, deadline):
                await self._run_session(connection, nursery)
            # Where it was this side that closed, the close timeout is all the limit there is.
            ours = isinstance(link.error(), ClosedLocally)
            with trio.move_on_after(math.inf if ours else _LINGER_SECONDS):
                await link.wait_closed()
            nursery.cancel_scope.cancel()
        undelivered = self._sender.finish(link)
        await self._reception.finish()
        for each in undelivered:
            self._reception.tell(each)
        return link.error()

    async def _greet(self, connection: Connection, deadline: float) -> bool:
        """Run the user's `on_open`; False if it did not come through, which ends the connection.

        Raises:
            TheirError: it raised something of its own.
        """
        if self._plan.on_open is None:
            return True
        failure = "on_open was not through within the connect timeout"
        try:
            # NOTE: within the `try`, as errors may come with this scope's own cancellation.
            with trio.move_on_at(deadline):
                await self._plan.on_open(connection)
                return True
        except Exception as exc:
            faults = causes(exc)
            if not all(is_os_error(each) or is_own_end(each, connection) for each in faults):
                raise TheirError(exc) from exc
            failure = f"on_open: {faults[0]}"
        connection.link.abort(failure)
        return False

    async def _run_session(self, connection: Connection, nursery: trio.Nursery) -> None:
        """Use an open connection for as long as it is."""
        link = connection.link
        begun_at = trio.current_time()
        self.sessions += 1
        _logger.info("connected: %r", connection)
        self._signal.set_link(link)
        try:
            self._reception.begin(Opened(self.sessions, connection.subprotocol), link)
            self._sender.begin(link)
            nursery.start_soon(self._reception.deliver, link)
            if self._sender.confirms:
                nursery.start_soon(self._sender.confirm, link)
            while link.state is State.OPEN:
                await link.wait_change()
        finally:
            self._signal.set_link(None)
        self._schedule.opened_for(trio.current_time() - begun_at)


def redirect(
    target: Target, headers: list[tuple[str, str]], location: str
) -> tuple[Target, list[tuple[str, str]]]:
    """Where *location* leads from *target*, and the headers that may go there.

    Raises:
        HandshakeFailed: nowhere, or from TLS to plain TCP.
    """
    base = f"{'wss' if target.secure else 'ws'}://{target.authority}{target.resource}"
    try:
        # urljoin resolves relative references only for the schemes that it knows.
        url, _ = urldefrag(urljoin(base.replace("ws", "http", 1), location))
        scheme, colon, rest = url.partition(":")
        found = parse_url(_WEBSOCKET_SCHEMES.get(scheme.lower(), scheme) + colon + rest)
    except ValueError as exc:
        raise HandshakeFailed(f"redirected to nowhere: {exc}") from None
    if target.secure and not found.secure:
        raise HandshakeFailed(f"redirected from TLS to plain TCP, to {found.authority}")
    if (found.secure, found.host, found.port) != (target.secure, target.host, target.port):
        # Another origin has no business with what was meant for this one.
        headers = [pair for pair in headers if pair[0].lower() not in _CREDENTIALS]
    elif not found.headers:
        found = replace(found, headers=target.headers)
    return found, headers


def parse_retry_after(value: str | None, now: float) -> float:
    """Seconds that a Retry-After asks for (RFC 9110 section 10.2.3), 0 if it makes no sense.

    A day at most: no server's slip may keep a client away for good.

    Args:
        now: seconds since the epoch, as it may be given as a date.
    """
    if value is None:
        return 0
    try:
        if value.isdecimal() and value.isascii():
            seconds = float(value)
        else:
            # As UTC where it names no zone, which HTTP's oldest form of a date does not.
            seconds = timegm(parsedate_to_datetime(value).utctimetuple()) - now
    except (ValueError, OverflowError):
        return 0
    return min(max(0.0, seconds), _MAX_RETRY_AFTER) if math.isfinite(seconds) else 0


def ascii_text(error: Exception) -> str:
    """*error* in words; what a server sent cannot forge a line of a log."""
    return ascii(str(error) or type(error).__name__)[1:-1]
