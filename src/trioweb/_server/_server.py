"""The server: accepts streams, runs a handler for each connection, drains.

NOTE: One nursery holds a server's every task: what accepts, the monitor, and for each
connection the task that runs its handler and the one that carries its link.  So nothing
that belongs to one connection may let an error out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from .._arguments import awaitable, check_kind, shown
from .._connection import Connection, is_own_end
from .._deflate import Agreement, choose_offer
from .._errors import CloseCode, OpenFailed, Reject
from .._frames import check_close
from .._handshake import accept, is_upgrade
from .._heartbeat import Monitor
from .._http import Address, BadHead, Request, Response, addresses, brief, format_address
from .._link import Link
from .._nursery import open_hidden_nursery
from .._policy import bound
from .._tls import TlsStream
from .._topics import HubStatistics
from ._accepting import accept_streams, has_waiting
from ._admission import Accept, choose_subprotocol
from ._drain import say_good_bye
from ._eager import Eager
from ._front import (
    NothingSent,
    answer,
    bound_kernel_queue,
    check_request,
    read_request,
    refusal,
    shake_tls,
    wants_tls,
    why_gone,
)
from ._leaving import while_there
from ._proxies import Visitor
from ._reader import Reader
from ._settings import Settings
from ._spares import Spares, asks_for_health

_logger = logging.getLogger("trioweb.server")

# To be refused over TLS, a peer must get through its handshake first.  So many times the
# limits may be there in all; whoever comes then is closed instead.
_TLS_MARGIN: Final = 2

_CROWDED: Final = "too many connections"

# So many may wait at a listener for being accepted, when it is to be closed: more than a server's
# backlog, and less than what a turn may take where none can be accepted.
_WAITING_ACCEPTS: Final = 1000

# What an upgrade gets unless `admit` says otherwise.
_ACCEPT = Accept()


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has seen.

    Attributes:
        connections: open now.
        opening: streams accepted that are not connections yet, or never will be.
        opened: connections so far.
        refused: requests refused so far, by HTTP status; 0 counts the ones that went away
            before there was anybody to answer, but for those that sent nothing at all, and those
            for whose TLS handshake there was no room.
        answered: plain HTTP requests answered so far, by status.
        closed: connections ended so far, by close code.
        handler_errors: calls of the handler, `admit` and `http` that ended with an error of
            their own.
        hub: the statistics of the hub that was passed to `serve`, if one was.
    """

    connections: int
    opening: int
    opened: int
    refused: Mapping[int, int]
    answered: Mapping[int, int]
    closed: Mapping[int, int]
    handler_errors: int
    hub: HubStatistics | None


class _Refused(Exception):
    """A request is refused with `response`; `reason` is for the log, at `level`."""

    def __init__(self, response: Response, reason: str, level: int = logging.INFO) -> None:
        super().__init__(reason)
        self.response = response
        self.reason = reason
        self.level = level

    @classmethod
    def because(cls, reason: str, *, retry_after: int) -> _Refused:
        """This server cannot take it now."""
        headers = [("Retry-After", str(retry_after))]
        return cls(Response(503, f"{reason}\n", headers), reason)


class Server:
    """A running server, as `nursery.start(serve, …)` returns it.

    Attributes:
        listeners: what it accepts from.
        draining: whether `drain` was called, and new connections are refused since; with
            `drain(handover=True)` nobody is.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        nursery: trio.Nursery,
        reader: Reader | None,
    ) -> None:
        self.listeners = list(listeners)
        self.draining = False
        self._settings = settings
        self._nursery = nursery
        self._reader = reader
        heartbeat = settings.heartbeat
        self._monitor = Monitor(heartbeat) if heartbeat is not None else None
        self._connections: dict[Link, Visitor] = {}
        self._on_let_go = self._let_go  # made once, for all links
        self._hosts: Counter[str] = Counter()
        self._streams = 0
        # Those of them that are there beyond the limit.
        self._spares = Spares()
        # Streams of which nobody knows yet what they want; and handlers that run on although their
        # connections have given back their places.
        self._undecided = 0
        self._bereft = 0
        # What every connection is to be told, once a drain has come so far.
        self._farewell: tuple[int, str] | None = None
        self._stream_ended = trio.Event()
        self._drained = trio.Event()
        # No new stream is to be accepted, and none is any more.
        self._accepting_ends = trio.Event()
        self._accepting_ended = trio.Event()
        self._has_told_of_subprotocols = False
        self._opened = 0
        self._refused: Counter[int] = Counter()
        self._answered: Counter[int] = Counter()
        self._closed: Counter[int] = Counter()
        self._handler_errors = 0

    @property
    def port(self) -> int:
        """The port of the first listener that has one.

        Raises:
            LookupError: no listener has.
        """
        for listener in self.listeners:
            inner = getattr(listener, "transport_listener", listener)
            socket = getattr(inner, "socket", None)
            name = None if socket is None else socket.getsockname()
            if isinstance(name, tuple):
                return int(name[1])
        raise LookupError("no listener has a port")

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open now.

        One whose peer has gone is none, even if its handler runs on.
        """
        visitors = self._connections.values()
        return tuple(visitor.connection for visitor in visitors if visitor.connection is not None)

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            connections=len(self._connections),
            opening=self._streams - len(self._connections),
            opened=self._opened,
            refused=dict(self._refused),
            answered=dict(self._answered),
            closed=dict(self._closed),
            handler_errors=self._handler_errors,
            hub=self._settings.hub.statistics() if self._settings.hub is not None else None,
        )

    async def drain(
        self,
        grace: float = 10,
        spread: float = 0,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        *,
        handover: bool = False,
    ) -> None:
        """Stop softly: no new connections, tell the old ones to come back later, wait, close.

        Every connection is sent Close as soon as it has got what its topics had published by then,
        which is at once for all that keep up.  Then its handler may end.  What of all that has not
        ended after *grace*, subscribers that lag, handlers, requests and closing handshakes, is
        cut off.  `serve` returns when all is done.

        Upgrades are answered with 503 from now on.  The listeners stay open until the end,
        so that a load balancer which asks for its health page is told, and a client that
        comes back too early gets an answer.

        Args:
            grace: seconds that the whole stop may take.  10, after which container runtimes kill:
                a program that they stop needs something less.
            spread: seconds of these over which the Closes are spread evenly, so that clients do
                not all come back at once.
            code, reason: of the Close; 1012 says "service restart".
            handover: another process accepts from now on.  The listeners are closed first, and
                nobody is refused: who was accepted before is answered as ever, with the 101 and
                then with Close, and whoever has not asked yet may do so for as long as the grace
                lasts.

        Raises:
            TypeError, ValueError: an argument cannot work; nothing was begun.

        Cancellation: the server stops at once, with what Closes the kernel takes.
        Concurrency: a second call waits for the first.
        """
        check_close(code, reason)
        for name, value in (("grace", grace), ("spread", spread)):
            check_kind("drain", name, value, int, float)
            if not value >= 0:
                raise ValueError(f"drain({name}={value!r}): must not be negative")
        if spread > grace:
            raise ValueError(f"drain(spread={spread!r}): must not be more than grace={grace!r}")
        check_kind("drain", "handover", handover, bool)
        if self._farewell is not None:
            await self._drained.wait()
            return
        # One whose handshake ends only now is told at once.
        self._farewell = code, reason
        self.draining = not handover
        try:
            with trio.move_on_after(grace):
                await self._drain(spread, handover=handover)
            # Those who still lag get no more, but are told why if they read at all.
            await say_good_bye(self.connections, None, 0, code, reason)
        finally:
            self._accepting_ends.set()
            self._drained.set()

    async def _drain(self, spread: float, *, handover: bool) -> None:
        if handover:
            await self._stop_accepting()
        assert self._farewell is not None
        await say_good_bye(self.connections, self._settings.hub, spread, *self._farewell)
        # A peer that was silent so far, as a browser's spare connection is, would have to be
        # refused anyway, unless nobody is.
        while self._streams + self._bereft > (0 if handover else self._undecided):
            await self._stream_ended.wait()

    async def _stop_accepting(self) -> None:
        """Close the listeners, once those are accepted who wait there already."""
        for _ in range(_WAITING_ACCEPTS):
            if not any(map(has_waiting, self.listeners)):
                break
            await trio.lowlevel.checkpoint()
        self._accepting_ends.set()
        await self._accepting_ended.wait()

    async def _serve(self, task_status: trio.TaskStatus[Server]) -> None:
        if self._monitor is not None:
            self._nursery.start_soon(self._monitor.run)
        if self._reader is not None:
            self._nursery.start_soon(self._reader.run)
        async with open_hidden_nursery() as accepting:
            for listener in self.listeners:
                accepting.start_soon(accept_streams, listener, self._run, self._nursery)
            task_status.started(self)
            await self._accepting_ends.wait()
        self._accepting_ended.set()
        await self._drained.wait()

    # It closes the stream, in the end.  The callables of the user's are interrupted as ever.
    @enable_ki_protection
    async def _run(self, stream: trio.abc.Stream) -> None:
        """One accepted stream, from its first byte to its last."""
        visitor: Visitor | None = None
        self._streams += 1
        try:
            bound_kernel_queue(stream)
            remote, local = addresses(stream)
            if self._settings.ssl_context is not None:
                stream = TlsStream(stream, self._settings.ssl_context, server_side=True)
            visitor = self._settings.proxies.meet(remote)
            self._hosts[visitor.host] += 1
            connection = await self._open(stream, visitor, local)
            if connection is not None:
                await self._handle(connection, visitor)
        except Exception:
            # Streams, and what `http` returns, are anybody's: none may end the others.
            self._handler_errors += 1
            who = format_address(visitor.remote if visitor is not None else "")
            _logger.exception("unexpected error while serving %s", who)
        finally:
            if visitor is not None and visitor.connection is not None:
                self._bereft -= 1
            else:
                self._give_back(visitor)
            self._stream_ended.set()
            self._stream_ended = trio.Event()
            # Shielded, or a cancellation would take the place of what is on its way out.
            with trio.CancelScope(shield=True), suppress(Exception):
                await trio.aclose_forcefully(stream)

    def _give_back(self, visitor: Visitor | None) -> None:
        """Give back the place of a stream that is no more."""
        self._streams -= 1
        if visitor is not None:
            self._forget(visitor.host)

    def _let_go(self, link: Link) -> None:
        """The transport of *link* is closed: its place is free, whatever its handler does yet."""
        visitor = self._connections.pop(link, None)
        if visitor is not None:
            self._bereft += 1
            self._give_back(visitor)

    async def _open(
        self, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """Make a connection of *stream*; None if it was answered or went away instead."""
        with trio.CancelScope() as scope:
            try:
                return await self._open_within(scope, stream, visitor, local)
            finally:
                self._spares.release(scope)
        self._refused[0] += 1
        who = format_address(visitor.remote)
        _logger.info("%s: gone while opening: closed for newer ones, %s", who, _CROWDED)
        return None

    async def _open_within(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """See `_open`; it is all that runs in *scope*."""
        request: Request | None = None
        limits = self._settings.limits
        deadline = trio.current_time() + limits.connect_timeout
        try:
            self._undecided += 1
            try:
                if wants_tls(stream):
                    if excess := self._excess(visitor.host, _TLS_MARGIN):
                        raise EOFError(f"sent away without a TLS handshake: {excess}")
                    await shake_tls(stream, deadline)
                is_spare = self._find_room(scope, visitor.host)
                request, head, rest = await read_request(
                    stream,
                    deadline,
                    limits.max_request_bytes,
                    remote=visitor.remote,
                    local=local,
                )
            finally:
                self._undecided -= 1
            self._identify(visitor, request)
            check_request(request)
            if is_spare:
                self._check_spare(scope, visitor.host, request)
            if self._settings.admit is not None and is_upgrade(request):
                decide = partial(self._decide, request)
                outcome, more = await while_there(stream, self._reader, decide)
                rest += more
            else:
                outcome = await self._decide(request)
            if isinstance(outcome, Accept):
                return await self._upgrade(stream, request, head, rest, outcome)
            response = outcome
        except BadHead as exc:
            response = refusal(exc)
            self._count_refusal(visitor, response, exc.reason)
        except _Refused as exc:
            response = exc.response
            self._count_refusal(visitor, response, exc.reason, exc.level)
        except NothingSent:
            who = format_address(visitor.remote)
            _logger.debug("%s: gone without a byte", who)
            return None
        except (EOFError, OSError, OpenFailed, trio.BrokenResourceError) as exc:
            self._refused[0] += 1
            who = format_address(visitor.remote)
            _logger.info("%s: gone while opening: %s", who, brief(why_gone(exc)))
            return None
        else:
            self._answered[response.status] += 1
        with_body = request is None or request.method != "HEAD"
        await answer(stream, response, write_timeout=limits.write_timeout, with_body=with_body)
        return None

    def _identify(self, visitor: Visitor, request: Request) -> None:
        """Count *visitor* for the host that *request* comes from, if only its proxy was known."""
        before = visitor.host
        self._settings.proxies.identify(visitor, request)
        if visitor.host != before:
            self._forget(before)
            self._hosts[visitor.host] += 1
            self._check_room(visitor.host)

    def _forget(self, host: str) -> None:
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]

    def _check_room(self, host: str) -> None:
        if excess := self._excess(host):
            raise _Refused.because(excess, retry_after=5)

    def _find_room(self, scope: trio.CancelScope, host: str) -> bool:
        """See that there is room for *host*; return whether that is only one of the spares."""
        excess = self._excess(host)
        if not excess:
            return False
        if excess is not _CROWDED or self._settings.http is None:
            raise _Refused.because(excess, retry_after=5)
        self._spares.take(scope)
        return True

    def _check_spare(self, scope: trio.CancelScope, host: str, request: Request) -> None:
        """Refuse *request* unless it asks for the server's health, or there is room by now."""
        if not self._excess(host, more=1):
            self._spares.release(scope)
        elif not asks_for_health(request):
            raise _Refused.because(_CROWDED, retry_after=5)

    def _excess(self, host: str, margin: int = 1, more: int = 0) -> str:
        """What there is too much of for *host*, at *margin* times the limits and with so many
        *more* streams; "" if nothing."""
        limits = self._settings.limits
        streams = self._streams - len(self._spares) + more
        if streams > margin * bound(limits.max_connections):
            return _CROWDED
        limit = limits.max_connections_per_host
        # A Unix socket tells nothing of its peer's host, and a trusted proxy not yet.
        if limit is not None and host and self._hosts[host] > margin * limit:
            return "too many connections from this address"
        return ""

    def _count_refusal(
        self, visitor: Visitor, response: Response, reason: str, level: int = logging.INFO
    ) -> None:
        self._refused[response.status] += 1
        who = format_address(visitor.remote)
        _logger.log(level, "%s: refused with %d: %s", who, response.status, brief(reason))

    async def _decide(self, request: Request) -> Accept | Response:
        """Ask the application about *request*; what it raises concerns nobody else."""
        try:
            try:
                return await self._ask(request)
            except Reject as exc:
                reason = exc.body.decode(errors="replace").strip()
                raise _Refused(Response(exc.status, exc.body, exc.headers), reason) from None
        except _Refused:
            raise
        except Exception as exc:
            self._handler_errors += 1
            _logger.exception("error while answering %r", request)
            raise _Refused(Response(500, "internal error\n"), "internal error") from exc

    @disable_ki_protection
    async def _ask(self, request: Request) -> Accept | Response:
        if not is_upgrade(request):
            if self._settings.http is None:
                return Response(404, "there is only a WebSocket here\n")
            response = await awaitable("http(request)", self._settings.http(request))
            if not isinstance(response, Response):
                raise TypeError(f"http must return a Response, not {shown(response)}")
            return response
        origins = self._settings.origins
        if complaint := origins.complaint(request):
            # Whoever set this server up, and left out a page, looks here for the reason.
            level = logging.WARNING if origins.is_new(request) else logging.INFO
            raise _Refused(Response(403, "This Origin may not connect.\n"), complaint, level)
        accepted = await self._admit(request)
        # Not before: a drain may have begun while `admit` made up its mind.
        if self.draining:
            raise _Refused.because("restarting", retry_after=1)
        accepted = choose_subprotocol(request, accepted, self._settings.subprotocols)
        if accepted.subprotocol is None and request.subprotocols:
            self._tell_of_subprotocols(request)
        return accepted

    def _tell_of_subprotocols(self, request: Request) -> None:
        """Say that none was chosen of those that the peer of *request* offers.

        Browsers fail such a connection (WHATWG, WebSockets, 4.1), and cannot say why.
        """
        # Once: other peers do not mind, and may be many.  Not what they offer, where some send
        # their token.
        level = logging.DEBUG if self._has_told_of_subprotocols else logging.WARNING
        self._has_told_of_subprotocols = True
        _logger.log(
            level,
            "%s: offers subprotocols, and none is chosen; a browser closes the connection then: "
            "subprotocols= (--subprotocol) says which are spoken here",
            format_address(request.remote),
        )

    async def _admit(self, request: Request) -> Accept:
        """What the application's `admit` says, which lets in with None or Accept alone."""
        if self._settings.admit is None:
            return _ACCEPT
        accepted = await awaitable("admit(request)", self._settings.admit(request))
        if accepted is None:
            return _ACCEPT
        if not isinstance(accepted, Accept):
            raise TypeError(
                "admit must return an Accept or None to let the peer in, or raise Reject; it "
                f"returned {shown(accepted)}"
            )
        return accepted

    async def _upgrade(
        self, stream: trio.abc.Stream, request: Request, head: bytes, rest: bytes, accepted: Accept
    ) -> Connection:
        agreed: Agreement | None = None
        if self._settings.compression is not None:
            offers = request.headers.get("sec-websocket-extensions", "")
            agreed = choose_offer(offers, self._settings.compression)
        extensions = "" if agreed is None else agreed.text
        assert isinstance(accepted.headers, tuple)
        await accept(
            Eager(stream, trio.current_time() + self._settings.limits.connect_timeout),
            head,
            subprotocol=accepted.subprotocol,
            extensions=extensions,
            headers=accepted.headers,
        )
        link = Link(
            stream,
            rest,
            is_client=False,
            limits=self._settings.limits,
            spawn=self._nursery.start_soon,
            replies=self._settings.replies,
            compression=agreed,
        )
        link.start(self._reader)
        return Connection(
            link,
            request,
            subprotocol=accepted.subprotocol,
            extensions=extensions,
            user=accepted.user,
        )

    @disable_ki_protection
    async def _handle(self, connection: Connection, visitor: Visitor) -> None:
        """Run the handler, contain its errors (invariant 2), see the connection to its end."""
        link = connection.link
        watch = self._monitor.add(connection) if self._monitor is not None else -1
        visitor.connection = connection
        self._connections[link] = visitor
        link.on_let_go = self._on_let_go
        self._opened += 1
        if self._farewell is not None:
            link.close(*self._farewell)
        code = CloseCode.NORMAL
        try:
            try:
                await awaitable("handler(connection)", self._settings.handler(connection))
            except Exception as exc:
                code = self._contain(exc, connection)
            except BaseExceptionGroup as group:
                # Cancelled together with errors: contain those, pass the cancellation on.
                errors, rest = group.split(Exception)
                if errors is not None:
                    self._contain(errors, connection)
                assert rest is not None
                raise rest from None
            await connection.aclose(code)
        finally:
            # Does nothing unless the handler was cancelled, and with it the server.
            link.close(CloseCode.GOING_AWAY)
            self._let_go(link)
            if self._monitor is not None:
                self._monitor.remove(watch)
            self._report(connection)

    def _contain(self, error: Exception, connection: Connection) -> CloseCode:
        """Log a handler's *error*; return what to close its connection with."""
        if is_own_end(error, connection):
            return CloseCode.NORMAL
        self._handler_errors += 1
        _logger.error("error in the handler of %r", connection, exc_info=error)
        return CloseCode.INTERNAL_ERROR

    def _report(self, connection: Connection) -> None:
        link = connection.link
        error = link.error()
        if link.close_code is not None:
            self._closed[link.close_code] += 1
        level = logging.DEBUG if link.close_code in _QUIET_CODES else logging.INFO
        _logger.log(level, "%s: %s", format_address(connection.remote), brief(str(error)))


# Ends that nobody needs to read about.
_QUIET_CODES = frozenset(
    {CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS, CloseCode.SERVICE_RESTART}
)
