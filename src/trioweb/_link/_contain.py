"""What others may raise where very many links depend on going on: transports, and callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from .._logs import Named, log

_logger = logging.getLogger("trioweb")


def describe(error: Exception, whose: Named | None) -> str:
    """What went wrong with the transport of *whose*, in as few words as there are.

    Streams are anybody's, and many links share a nursery: none may end the others.  So what
    no stream should raise is logged, and otherwise treated as what one may.
    """
    if not isinstance(error, (OSError, trio.BrokenResourceError, trio.ClosedResourceError)):
        log(_logger, logging.ERROR, whose, "unexpected error of a transport", error=error)
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def call_back(callback: Callable[[], object], whose: Named | None) -> None:
    """Call what somebody else left with *whose* to be called.

    It runs in a task that many links depend on, so an error of its own is logged and ends there.
    """
    try:
        callback()
    except Exception as exc:
        log(_logger, logging.ERROR, whose, "error in what a link calls back", error=exc)
