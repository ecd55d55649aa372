"""What becomes of a request: what the server's own rules and the user's callables say of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from trio.lowlevel import disable_ki_protection

from .._arguments import shown
from .._callbacks import awaitable
from .._errors import HubFull
from .._handshake import is_upgrade
from .._logs import log
from .._protocol._http import BadHead, Request, Response, format_address
from .._refusals import Reject
from ._admission import Accept, Refused, choose_subprotocol
from ._counts import Counts
from ._drain import Stop
from ._events import come_back, wants_events
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")

T = TypeVar("T")

# What an upgrade gets unless `admit` says otherwise.


class Judge:
    """Decides on requests that have passed every check, one after the other."""

    def __init__(self, settings: Settings, counts: Counts, stop: Stop) -> None:
        self._settings = settings
        self._counts = counts
        self._stop = stop
        self._has_told_of_subprotocols = False

    async def answer(self, request: Request) -> Response:
        """Ask the application about *request*, which is no upgrade; what it raises concerns nobody
        else."""
        return await self._contained(request, self._answer)

    async def admit(self, request: Request) -> Accept:
        """Ask it about an upgrade, likewise."""
        return await self._contained(request, self._decide)

    def check_page(self, request: Request, response: Response) -> Response:
        """Check that the page that sent *request* may have *response*, as for an upgrade, and let
        its browser know.

        Raises:
            Refused: it may not.
        """
        self._check_origin(request)
        if request.origin is None:
            return response
        assert isinstance(response.headers, tuple)
        allowed = ("Access-Control-Allow-Origin", request.origin)
        return replace(response, headers=(*response.headers, allowed))

    async def _contained(self, request: Request, ask: Callable[[Request], Awaitable[T]]) -> T:
        try:
            try:
                return await ask(request)
            except HubFull as exc:
                if is_upgrade(request) or not wants_events(request):
                    raise
                raise Refused(come_back(), str(exc)) from None
            except Reject as exc:
                reason = exc.body.decode(errors="replace").strip()
                raise Refused(Response(exc.status, exc.body, exc.headers), reason) from None
        except (Refused, BadHead):
            raise
        except Exception as exc:
            self._counts.handler_errors += 1
            who = format_address(request.remote)
            text = "error while answering %r"
            log(_logger, logging.ERROR, None, text, request, error=exc, address=who, status=500)
            raise Refused(Response(500, "internal error\n"), "internal error") from exc

    @disable_ki_protection
    async def _answer(self, request: Request) -> Response:
        if self._settings.http is None:
            if request.method not in ("GET", "HEAD"):
                raise BadHead(405, "only GET and HEAD are answered")
            return Response(404, "there is only a WebSocket here\n")
        response = await awaitable("http(request)", self._settings.http(request))
        if not isinstance(response, Response):
            raise TypeError(f"http must return a Response, not {shown(response)}")
        return response

    @disable_ki_protection
    async def _decide(self, request: Request) -> Accept:
        self._check_origin(request)
        accepted = await self._admit(request)
        # Not before: a drain may have begun while `admit` made up its mind.
        if self._stop.is_refusing:
            raise Refused.because("restarting", retry_after=1)
        accepted = choose_subprotocol(request, accepted, self._settings.subprotocols)
        if accepted.subprotocol is None and request.subprotocols:
            self._tell_of_subprotocols(request)
        return accepted

    def _check_origin(self, request: Request) -> None:
        origins = self._settings.origins
        if complaint := origins.complaint(request):
            # Whoever set this server up, and left out a page, looks here for the reason.
            level = logging.WARNING if origins.is_new(request) else logging.INFO
            raise Refused(Response(403, "This Origin may not connect.\n"), complaint, level)

    def _tell_of_subprotocols(self, request: Request) -> None:
        """Say that none was chosen of those that the peer of *request* offers.

        Browsers fail such a connection (WHATWG, WebSockets, 4.1), and cannot say why.
        """
        # Once: other peers do not mind, and may be many.  Not what they offer, where some send
        # their token.
        level = logging.DEBUG if self._has_told_of_subprotocols else logging.WARNING
        self._has_told_of_subprotocols = True
        who = format_address(request.remote)
        log(
            _logger,
            level,
            None,
            "%s: offers subprotocols, and none is chosen; a browser closes the connection then: "
            "subprotocols= (--subprotocol) says which are spoken here",
            who,
            address=who,
        )

    async def _admit(self, request: Request) -> Accept:
        """What the application's `admit` says, which lets in with None or Accept alone."""
        if self._settings.admit is None:
            return Accept()
        accepted = await awaitable("admit(request)", self._settings.admit(request))
        if accepted is None:
            return Accept()
        if not isinstance(accepted, Accept):
            raise TypeError(
                "admit must return an Accept or None to let the peer in, or raise Reject; it "
                f"returned {shown(accepted)}"
            )
        return accepted
