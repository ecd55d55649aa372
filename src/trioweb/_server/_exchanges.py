"""Plain requests and their answers, one after the other over the same stream.

A request has its turn when the one before it is answered, and its body is out of the way.  What
else has come by then waits, in the kernel as far as it can.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from .._errors import HubFull
from .._link import Spawn
from .._logs import log
from .._protocol._http import BadHead, Request, Response, format_address
from .._protocol._requests import may_persist
from .._reader import Reader
from ._admission import Refused
from ._answering import Answer, Cut, end, refusal
from ._body import Body
from ._counts import Counts
from ._deciding import Judge
from ._drain import Stop
from ._events import EventStream, come_back, wants_events
from ._leaving import Presence, watch_presence
from ._places import Places
from ._proxies import Visitor
from ._refusals import Refusals
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")

# A peer that has ended its sending may be one that waits for its answer, as `nc -N` does; most have
# gone, as the kernel tells once something is written to them.
_HALF_SECONDS: Final = 1.0
# Between two requests: a browser or a pool of connections has asked again by then, or does not.
_IDLE_SECONDS: Final = 20.0
# Proxies cut off what is silent for 60 s.
_KEEPALIVE_SECONDS: Final = 20.0
_READ_BYTES: Final = 16 * 2**10


class Exchanges:
    """What becomes of the plain requests of a server."""

    def __init__(
        self,
        settings: Settings,
        judge: Judge,
        places: Places,
        counts: Counts,
        refusals: Refusals,
        stop: Stop,
        *,
        spawn: Spawn,
        reader: Reader | None,
    ) -> None:
        self._spawn = spawn
        self._settings = settings
        self._judge = judge
        self._places = places
        self._counts = counts
        self._refusals = refusals
        self._stop = stop
        self._reader = reader

    async def make(
        self,
        stream: trio.abc.Stream,
        visitor: Visitor,
        request: Request,
        rest: bytes,
        *,
        is_last: bool,
    ) -> bytes | None:
        """Have *request* answered; return how the next one begins, None if there is none.

        Args:
            rest: what has come behind its head.
            is_last: there may be no next one.
        """
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
                answer = self._answer(request, response, body, is_last=is_last)
                if isinstance(response.body, EventStream) and request.method != "HEAD":
                    await self._write_events(stream, request, response.body, answer, presence)
                else:
                    await answer.write(stream, presence, write_timeout=limits.write_timeout)
        except EOFError as exc:
            self._refusals.lose(visitor.remote, str(exc))
            return None
        except Cut as exc:
            self._tell_cut(visitor, request, exc)
            return None
        if answer.persists and await body.drain():
            return (body.rest + presence.ahead) or await self._wait_for_next(stream, visitor)
        await end(stream)
        return None

    def _answer(self, request: Request, response: Response, body: Body, *, is_last: bool) -> Answer:
        is_last |= self._stop.has_begun or not body.may_be_drained
        return Answer(
            response,
            with_body=request.method != "HEAD",
            chunked=request.version >= "1.1",
            persists=may_persist(request) and not is_last,
        )

    async def _ask(self, visitor: Visitor, request: Request) -> Response:
        """What the application answers to *request*."""
        try:
            if self._stop.has_begun and wants_events(request):
                raise Refused(come_back(), "restarting")
            response = await self._judge.answer(request)
            if isinstance(response.body, EventStream):
                response = self._judge.check_page(request, response)
        except BadHead as exc:
            self._refusals.refuse(visitor.remote, exc.status, exc.reason)
            return refusal(exc)
        except Refused as exc:
            self._refusals.refuse(visitor.remote, exc.response.status, exc.reason, exc.level)
            return exc.response
        self._counts.answered[response.status] += 1
        return response

    async def _write_events(
        self,
        stream: trio.abc.Stream,
        request: Request,
        events: EventStream,
        answer: Answer,
        presence: Presence,
    ) -> None:
        heartbeat = self._settings.heartbeat
        limits = self._settings.limits
        try:
            await events.write(
                stream,
                answer.head,
                presence,
                chunked=request.version >= "1.1",
                limits=limits,
                interval=_KEEPALIVE_SECONDS if heartbeat is None else heartbeat.interval,
                stop=self._stop,
                spawn=self._spawn,
            )
        except HubFull:
            sent_away = Answer(come_back(), with_body=True, chunked=False, persists=False)
            await sent_away.write(stream, write_timeout=limits.write_timeout)
        except trio.TooSlowError as exc:
            raise Cut("the peer does not read") from exc
        except EOFError as exc:
            # Events have no other end than that the peer leaves.
            raise Cut("the peer has gone", level=logging.DEBUG) from exc

    async def _wait_for_next(self, stream: trio.abc.Stream, visitor: Visitor) -> bytes | None:
        """Wait for another request for a while; return how it begins, None if there is none."""
        data = b""
        if not self._stop.has_begun:
            with trio.CancelScope(deadline=trio.current_time() + _IDLE_SECONDS) as scope:
                with self._places.keep(visitor, scope):
                    try:
                        data = bytes(await stream.receive_some(_READ_BYTES))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
        # It may have been dismissed when that was on its way to this task.
        return data if data and visitor.has_place else None

    def _tell_cut(self, visitor: Visitor, request: Request, cut: Cut) -> None:
        if cut.error is not None:
            self._counts.handler_errors += 1
        who = format_address(visitor.remote)
        text = "%s: the answer to %r was cut off: %s"
        log(_logger, cut.level, None, text, who, request, cut, error=cut.error, address=who)
