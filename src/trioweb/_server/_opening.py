"""From an accepted stream to a connection, or to the answer that a peer gets instead."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from .._connection import Connection
from .._handshake import encode_switch, is_upgrade
from .._link import Link, Spawn
from .._logs import log
from .._observer import tell
from .._protocol._deflate import Agreement, choose_offer
from .._protocol._http import Address, BadHead, Request, Response, brief, format_address
from ._admission import Refused
from ._answering import Answer, Cut, end, refusal
from ._body import Body
from ._counts import Counts
from ._deciding import Judge
from ._eager import Eager
from ._front import NothingSent, check_request, read_request, shake_tls, wants_tls, why_gone
from ._leaving import watch_presence
from ._places import CROWDED, TLS_MARGIN, Places
from ._proxies import Visitor
from ._reader import Reader
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")

_GONE: Final = (EOFError, OSError, trio.BrokenResourceError, trio.TooSlowError)
# A peer that has ended its sending may be one that waits for its answer, as `nc -N` does; most have
# gone, as the kernel tells once something is written to them.
_HALF_SECONDS: Final = 1.0


class Opening:
    """What all streams of a server go through that are no connections yet.

    Args:
        spawn: starts the task that carries a connection's link.
        reader: reads for the connections, if the system can have one.
    """

    def __init__(
        self,
        settings: Settings,
        judge: Judge,
        places: Places,
        counts: Counts,
        *,
        spawn: Spawn,
        reader: Reader | None,
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._places = places
        self._counts = counts
        self._spawn = spawn
        self._reader = reader

    async def open(
        self, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """Make a connection of *stream*; None if it was answered or went away instead."""
        with trio.CancelScope() as scope:
            try:
                return await self._open_within(scope, stream, visitor, local)
            finally:
                self._places.release(scope)
        self._count_gone(visitor, f"closed for newer ones, {CROWDED}")
        return None

    async def _open_within(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """See `open`; it is all that runs in *scope*."""
        request: Request | None = None
        begun_at = trio.current_time()
        try:
            request, rest = await self._read(scope, stream, visitor, local)
            check_request(request)
            if is_upgrade(request):
                connection = await self._upgrade(stream, request, rest)
                self._counts.handshakes.observe(trio.current_time() - begun_at)
                return connection
        except BadHead as exc:
            response = refusal(exc)
            self._count_refusal(visitor, response, exc.reason)
        except Refused as exc:
            response = exc.response
            self._count_refusal(visitor, response, exc.reason, exc.level)
        except NothingSent:
            who = format_address(visitor.remote)
            log(_logger, logging.DEBUG, None, "%s: gone without a byte", who, address=who)
            return None
        except _GONE as exc:
            self._count_gone(visitor, why_gone(exc))
            return None
        else:
            await self._exchange(stream, visitor, request, rest)
            return None
        with_body = request is None or request.method != "HEAD"
        answer = Answer(response, with_body=with_body, chunked=False, persists=False)
        try:
            await answer.write(stream, write_timeout=self._settings.limits.write_timeout)
        except Cut:
            return None
        await end(stream)
        return None

    async def _read(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> tuple[Request, bytes]:
        """Read a request for which there is room, and what has come behind it."""
        limits = self._settings.limits
        deadline = trio.current_time() + limits.connect_timeout
        self._places.undecided += 1
        try:
            if wants_tls(stream):
                if excess := self._places.excess(visitor.host, TLS_MARGIN):
                    raise EOFError(f"sent away without a TLS handshake: {excess}")
                await shake_tls(stream, deadline)
            is_spare = self._places.find_room(scope, visitor.host)
            request, rest = await read_request(
                stream, deadline, limits.max_request_bytes, remote=visitor.remote, local=local
            )
        finally:
            self._places.undecided -= 1
        self._places.identify(visitor, request)
        if is_spare:
            self._places.check_spare(scope, visitor.host, request)
        return request, rest

    async def _exchange(
        self, stream: trio.abc.Stream, visitor: Visitor, request: Request, rest: bytes
    ) -> None:
        """Have *request*, which is no upgrade, answered."""
        limits = self._settings.limits
        body = Body(
            stream,
            request,
            rest,
            max_bytes=limits.max_message_bytes,
            patience=limits.connect_timeout,
        )
        request._read_body = body.read
        try:
            async with watch_presence(
                stream, self._reader, patience=_HALF_SECONDS, silent=body.over
            ) as presence:
                response = await presence.during(partial(self._ask, visitor, request))
                body.close()
                answer = Answer(
                    response,
                    with_body=request.method != "HEAD",
                    chunked=request.version >= "1.1",
                    persists=False,
                )
                await answer.write(stream, presence, write_timeout=limits.write_timeout)
        except EOFError as exc:
            self._count_gone(visitor, why_gone(exc))
        except Cut as exc:
            if exc.error is not None:
                self._counts.handler_errors += 1
            log(
                _logger,
                logging.INFO if exc.error is None else logging.ERROR,
                None,
                "%s: the answer to %r was cut off: %s",
                format_address(visitor.remote),
                request,
                exc,
                error=exc.error,
                address=format_address(visitor.remote),
            )
        else:
            await end(stream)

    async def _ask(self, visitor: Visitor, request: Request) -> Response:
        """What the application answers to *request*."""
        try:
            outcome = await self._judge.answer(request)
        except BadHead as exc:
            response = refusal(exc)
            self._count_refusal(visitor, response, exc.reason)
            return response
        except Refused as exc:
            self._count_refusal(visitor, exc.response, exc.reason, exc.level)
            return exc.response
        self._counts.answered[outcome.status] += 1
        return outcome

    def _count_refusal(
        self, visitor: Visitor, response: Response, reason: str, level: int = logging.INFO
    ) -> None:
        status, reason = response.status, brief(reason)
        self._counts.refused[status] += 1
        who = format_address(visitor.remote)
        text = "%s: refused with %d: %s"
        log(_logger, level, None, text, who, status, reason, address=who, status=status)
        self._tell_refusal(visitor, status, reason)

    def _count_gone(self, visitor: Visitor, reason: str) -> None:
        reason = brief(reason)
        self._counts.refused[0] += 1
        who = format_address(visitor.remote)
        text = "%s: gone while opening: %s"
        log(_logger, logging.INFO, None, text, who, reason, address=who, status=0)
        self._tell_refusal(visitor, 0, reason)

    def _tell_refusal(self, visitor: Visitor, status: int, reason: str) -> None:
        if (observer := self._settings.observer) is not None:
            tell(observer.on_refusal, visitor.remote, status, reason)

    async def _upgrade(self, stream: trio.abc.Stream, request: Request, rest: bytes) -> Connection:
        if self._settings.admit is None:
            accepted = await self._judge.admit(request)
        else:
            async with watch_presence(stream, self._reader) as presence:
                accepted = await presence.during(partial(self._judge.admit, request))
            rest += presence.ahead
        agreed: Agreement | None = None
        if self._settings.compression is not None:
            offers = request.headers.get("sec-websocket-extensions", "")
            agreed = choose_offer(offers, self._settings.compression)
        extensions = "" if agreed is None else agreed.text
        assert isinstance(accepted.headers, tuple)
        switch = encode_switch(
            request.headers["sec-websocket-key"].encode("ascii"),
            subprotocol=accepted.subprotocol,
            extensions=extensions,
            headers=accepted.headers,
        )
        deadline = trio.current_time() + self._settings.limits.connect_timeout
        await Eager(stream, deadline).send_all(switch)
        link = Link(
            stream,
            rest,
            is_client=False,
            limits=self._settings.limits,
            spawn=self._spawn,
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
            peer=accepted.peer,
        )
