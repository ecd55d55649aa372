"""From an accepted stream to a connection, or to the answer that a peer gets instead."""

from __future__ import annotations

import logging
from functools import partial

import trio

from .._connection import Connection
from .._handshake import encode_switch, is_upgrade
from .._link import Link, Spawn
from .._logs import log
from .._protocol._deflate import Agreement, choose_offer
from .._protocol._http import Address, BadHead, Request, format_address
from .._reader import Reader
from ._admission import Refused
from ._answering import Answer, Cut, end, refusal
from ._counts import Counts
from ._deciding import Judge
from ._drain import Stop
from ._eager import Eager
from ._events import come_back, wants_events
from ._exchanges import Exchanges
from ._front import NothingSent, check_request, read_request, shake_tls, wants_tls, why_gone
from ._leaving import watch_presence
from ._places import CROWDED, TLS_MARGIN, Places
from ._proxies import Visitor
from ._refusals import Refusals
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")


def _comes_back(request: Request) -> bool:
    """Whether an EventSource sent *request*."""
    return wants_events(request) and not is_upgrade(request)


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
        stop: Stop,
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
        self._refusals = Refusals(counts, settings.observer)
        self._exchanges = Exchanges(
            settings, judge, places, counts, self._refusals, stop, spawn=spawn, reader=reader
        )

    async def open(
        self, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """Make a connection of *stream*; None if it was answered or went away instead."""
        with trio.CancelScope() as scope:
            try:
                return await self._open_within(scope, stream, visitor, local)
            finally:
                self._places.release(scope)
        self._refusals.lose(visitor.remote, f"closed for newer ones, {CROWDED}")
        return None

    async def _open_within(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """See `open`; it is all that runs in *scope*."""
        limits = self._settings.limits
        is_spare: bool | None = None
        start: bytes | None = b""
        while start is not None:
            request: Request | None = None
            begun_at = trio.current_time()
            deadline = begun_at + limits.connect_timeout
            try:
                self._places.undecided += 1
                try:
                    if is_spare is None:
                        is_spare = await self._enter(scope, stream, visitor, deadline)
                    request, rest = await read_request(
                        stream,
                        deadline,
                        limits.max_request_bytes,
                        remote=visitor.address,
                        local=local,
                        start=start,
                    )
                finally:
                    self._places.undecided -= 1
                self._places.identify(visitor, request)
                check_request(request)
                if is_spare:
                    self._places.check_spare(scope, visitor.host, request)
                if is_upgrade(request):
                    connection = await self._upgrade(stream, request, rest)
                    self._counts.handshakes.observe(trio.current_time() - begun_at)
                    return connection
            except BadHead as exc:
                response = refusal(exc)
                self._refusals.refuse(visitor.remote, response.status, exc.reason)
            except Refused as exc:
                response = exc.response
                if response.status == 503 and request is not None and _comes_back(request):
                    response = come_back()
                self._refusals.refuse(visitor.remote, response.status, exc.reason, exc.level)
            except NothingSent:
                who = format_address(visitor.remote)
                log(_logger, logging.DEBUG, None, "%s: gone without a byte", who, address=who)
                return None
            except (EOFError, OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                self._refusals.lose(visitor.remote, why_gone(exc))
                return None
            else:
                start = await self._exchanges.make(stream, visitor, request, rest, is_last=is_spare)
                continue
            with_body = request is None or request.method != "HEAD"
            answer = Answer(response, with_body=with_body, chunked=False, persists=False)
            try:
                await answer.write(stream, write_timeout=limits.write_timeout)
            except Cut:
                return None
            await end(stream)
            return None
        return None

    async def _enter(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, deadline: float
    ) -> bool:
        """See that there is room; return whether that is only one of the spares."""
        if wants_tls(stream):
            if excess := self._places.excess(visitor.host, TLS_MARGIN):
                raise EOFError(f"sent away without a TLS handshake: {excess}")
            await shake_tls(stream, deadline)
        return self._places.find_room(scope, visitor.host)

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
        link.carrier.start(self._reader)
        return Connection(
            link,
            request,
            subprotocol=accepted.subprotocol,
            extensions=extensions,
            user=accepted.user,
            peer=accepted.peer,
        )
