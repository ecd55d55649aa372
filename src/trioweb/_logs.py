"""Records of the log that concern one connection: each carries the id of that connection.

Must not know what a connection is.
"""

from __future__ import annotations

import logging
from typing import Protocol


class Named(Protocol):
    """A connection, or what carries it."""

    @property
    def id(self) -> str: ...


def log(
    logger: logging.Logger,
    level: int,
    whose: Named | None,
    text: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """Log *text* with *args*, and the traceback of *error* if there is one.

    The record's attribute `connection` is the id of *whose*, a connection that the record concerns.
    No id is made where nobody wants the record.
    """
    if logger.isEnabledFor(level):
        extra = None if whose is None else {"connection": whose.id}
        # The record says where this was called.
        logger.log(level, text, *args, exc_info=error, extra=extra, stacklevel=2)
