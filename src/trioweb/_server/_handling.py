"""A handler's life: from an open connection to its end."""

from __future__ import annotations

import logging
from typing import Final

from trio.lowlevel import disable_ki_protection

from .._callbacks import awaitable
from .._close_codes import CloseCode
from .._connection import Connection
from .._heartbeat import Monitor
from .._logs import log
from .._observer import tell
from .._protocol._http import brief, format_address
from ._counts import Counts
from ._drain import Stop
from ._places import Places
from ._proxies import Visitor
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")

# Ends that nobody needs to read about.
_QUIET_CODES: Final = frozenset(
    {CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS, CloseCode.SERVICE_RESTART}
)


class Handling:
    """Runs a server's handler, which gets one connection after the other."""

    def __init__(
        self,
        settings: Settings,
        monitor: Monitor | None,
        places: Places,
        counts: Counts,
        stop: Stop,
    ) -> None:
        self._handler = settings.handler
        self._observer = settings.observer
        self._monitor = monitor
        self._places = places
        self._counts = counts
        self._stop = stop
        self._on_let_go = places.let_go  # made once, for all links

    @disable_ki_protection
    async def run(self, connection: Connection, visitor: Visitor) -> None:
        """Run the handler, contain its errors (invariant 2), see the connection to its end."""
        link = connection.link
        watch = self._monitor.add(connection) if self._monitor is not None else -1
        self._places.move_in(connection, visitor)
        link.carrier.on_let_go = self._on_let_go
        self._counts.opened += 1
        if self._observer is not None:
            tell(self._observer.on_open, connection)
        if self._stop.farewell is not None:
            link.close(*self._stop.farewell)
        code = CloseCode.NORMAL
        try:
            try:
                await awaitable("handler(connection)", self._handler(connection))
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
            self._places.let_go(link)
            if self._monitor is not None:
                self._monitor.remove(watch)
            self._report(connection)

    def _contain(self, error: Exception, connection: Connection) -> CloseCode:
        """Log a handler's *error*; return what to close its connection with."""
        if connection.link.is_own_end(error):
            return CloseCode.NORMAL
        self._counts.handler_errors += 1
        text = "error in the handler of %r"
        who = format_address(connection.remote)
        log(_logger, logging.ERROR, connection, text, connection, error=error, address=who)
        return CloseCode.INTERNAL_ERROR

    def _report(self, connection: Connection) -> None:
        link = connection.link
        error = link.error()
        self._counts.ended.add(link)
        if link.close_code is not None:
            self._counts.count_close(link.close_code)
        level = logging.DEBUG if link.close_code in _QUIET_CODES else logging.INFO
        who = format_address(connection.remote)
        why, code = brief(str(error)), link.close_code
        log(_logger, level, connection, "%s: %s", who, why, address=who, code=code)
        if self._observer is not None:
            tell(self._observer.on_end, connection)
