"""Records of the log: each carries, beside its text, what it is about, for programs to read.

Must not know what a connection is.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

# What a record may be about, in the order in which it is told.
FIELDS: Final = ("connection", "address", "topic", "status", "code")


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
    address: str | None = None,
    topic: str | None = None,
    status: int | None = None,
    code: int | None = None,
) -> None:
    """Log *text* with *args*, and the traceback of *error* if there is one.

    The record has as attributes what of these is given; `docs/operating.md` lists them.  No id is
    made where nobody wants the record.

    Args:
        whose: a connection that the record concerns; its id is `connection`.
        address: of the peer.
        topic: the name of one.
        status: of HTTP, with which a request was refused; 0 if nobody was left to be answered.
        code: with which a connection was closed.
    """
    if logger.isEnabledFor(level):
        connection = None if whose is None else whose.id
        about = zip(FIELDS, (connection, address, topic, status, code), strict=True)
        extra = {name: value for name, value in about if value is not None}
        # The record says where this was called.
        logger.log(level, text, *args, exc_info=error, extra=extra, stacklevel=2)
