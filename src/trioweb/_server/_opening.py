"""From an accepted stream to a connection, or to the answer that a peer gets instead."""

from __future__ import annotations

import logging
from functools import partial

import trio

from .._connection import Connection
from .._handshake import encode_switch, is_upgrade
from .._link import Link
from .._outgoing import Spawn
from .._protocol._deflate import Agreement, choose_offer
from .._protocol._http import Address, BadHead, Request, Response, brief, format_address
from ._admission import Accept, Refused
from ._counts import Counts
from ._deciding import Judge
from ._eager import Eager
from ._front import (
    NothingSent,
    answer,
    check_request,
    read_request,
    refusal,
    shake_tls,
    wants_tls,
    why_gone,
)
from ._leaving import while_there
from ._places import CROWDED, TLS_MARGIN, Places
from ._proxies import Visitor
from ._reader import Reader
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")


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
        self._counts.refused[0] += 1
        who = format_address(visitor.remote)
        _logger.info("%s: gone while opening: closed for newer ones, %s", who, CROWDED)
        return None

    async def _open_within(
        self, scope: trio.CancelScope, stream: trio.abc.Stream, visitor: Visitor, local: Address
    ) -> Connection | None:
        """See `open`; it is all that runs in *scope*."""
        request: Request | None = None
        limits = self._settings.limits
        deadline = trio.current_time() + limits.connect_timeout
        try:
            self._places.undecided += 1
            try:
                if wants_tls(stream):
                    if excess := self._places.excess(visitor.host, TLS_MARGIN):
                        raise EOFError(f"sent away without a TLS handshake: {excess}")
                    await shake_tls(stream, deadline)
                is_spare = self._places.find_room(scope, visitor.host)
                request, rest = await read_request(
                    stream,
                    deadline,
                    limits.max_request_bytes,
                    remote=visitor.remote,
                    local=local,
                )
            finally:
                self._places.undecided -= 1
            self._places.identify(visitor, request)
            check_request(request)
            if is_spare:
                self._places.check_spare(scope, visitor.host, request)
            if self._settings.admit is not None and is_upgrade(request):
                decide = partial(self._judge.decide, request)
                outcome, more = await while_there(stream, self._reader, decide)
                rest += more
            else:
                outcome = await self._judge.decide(request)
            if isinstance(outcome, Accept):
                return await self._upgrade(stream, request, rest, outcome)
            response = outcome
        except BadHead as exc:
            response = refusal(exc)
            self._count_refusal(visitor, response, exc.reason)
        except Refused as exc:
            response = exc.response
            self._count_refusal(visitor, response, exc.reason, exc.level)
        except NothingSent:
            who = format_address(visitor.remote)
            _logger.debug("%s: gone without a byte", who)
            return None
        except (EOFError, OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            self._counts.refused[0] += 1
            who = format_address(visitor.remote)
            _logger.info("%s: gone while opening: %s", who, brief(why_gone(exc)))
            return None
        else:
            self._counts.answered[response.status] += 1
        with_body = request is None or request.method != "HEAD"
        await answer(stream, response, write_timeout=limits.write_timeout, with_body=with_body)
        return None

    def _count_refusal(
        self, visitor: Visitor, response: Response, reason: str, level: int = logging.INFO
    ) -> None:
        self._counts.refused[response.status] += 1
        who = format_address(visitor.remote)
        _logger.log(level, "%s: refused with %d: %s", who, response.status, brief(reason))

    async def _upgrade(
        self, stream: trio.abc.Stream, request: Request, rest: bytes, accepted: Accept
    ) -> Connection:
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
