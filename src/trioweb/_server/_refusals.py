"""Requests that came to nothing: counted, logged, and told to the observer."""

from __future__ import annotations

import logging

from .._logs import log
from .._observer import Observer, tell
from .._protocol._http import Address, brief, format_address
from ._counts import Counts

_logger = logging.getLogger("trioweb.server")


class Refusals:
    """Those of one server."""

    def __init__(self, counts: Counts, observer: Observer | None) -> None:
        self._counts = counts
        self._observer = observer

    def refuse(self, who: Address, status: int, reason: str, level: int = logging.INFO) -> None:
        """A request of *who* is refused; say so in the log, at *level*."""
        self._add(who, status, f"refused with {status}", brief(reason), level)

    def lose(self, who: Address, reason: str) -> None:
        """Who asked is there no more, or was not heard."""
        self._add(who, 0, "gone while opening", brief(reason), logging.INFO)

    def _add(self, who: Address, status: int, what: str, reason: str, level: int) -> None:
        self._counts.refused[status] += 1
        address = format_address(who)
        log(
            _logger, level, None, f"%s: {what}: %s", address, reason, address=address, status=status
        )
        if self._observer is not None:
            tell(self._observer.on_refusal, who, status, reason)
