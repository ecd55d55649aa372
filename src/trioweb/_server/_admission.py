"""Who may connect: the user's own `admit`, and the subprotocol.

Everything here decides on a checked Request; how a no is written to the wire is the front's
business.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from .._arguments import check_kind
from .._dataclass import dataclass
from .._offers import check_request_headers, check_subprotocols
from .._protocol._http import Request, Response


@dataclass(frozen=True, slots=True)
class Accept:
    """What `admit` returns to let a request in with more than the defaults.

    Args:
        subprotocol: one of those the peer offers; None to let `subprotocols` decide.
        headers: (name, value) pairs or a mapping, kept as pairs, to send along with the 101.
        user: whatever the application knows of the peer; it becomes `connection.user`.
        peer: a key of the peer that is the same on each of its connections, such as the id of a
            user's device; it becomes `connection.peer`.  What a topic publishes with
            `skip=connection` is then for this peer on none of them, neither now nor when it
            resumes.  By default each connection is a peer of its own.
    """

    subprotocol: str | None = None
    headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()
    user: Any = None
    peer: str | None = None

    def __post_init__(self) -> None:
        # The 101's own headers are those of the request that asks for it.
        object.__setattr__(self, "headers", check_request_headers("Accept", self.headers))
        check_kind("Accept", "subprotocol", self.subprotocol, str, optional=True)
        if self.subprotocol is not None:
            check_subprotocols("Accept", [self.subprotocol])
        check_kind("Accept", "peer", self.peer, str, optional=True)
        if self.peer == "":
            raise ValueError("Accept: peer '' must not be empty; None is for one without a key")


class Refused(Exception):
    """A request is refused with `response`; `reason` is for the log, at `level`."""

    def __init__(self, response: Response, reason: str, level: int = logging.INFO) -> None:
        super().__init__(reason)
        self.response = response
        self.reason = reason
        self.level = level

    @classmethod
    def because(cls, reason: str, *, retry_after: int) -> Refused:
        """This server cannot take it now."""
        headers = [("Retry-After", str(retry_after))]
        return cls(Response(503, f"{reason}\n", headers), reason)


Admit: TypeAlias = Callable[[Request], Awaitable[Accept | None]]


def choose_subprotocol(request: Request, accepted: Accept, known: Sequence[str]) -> Accept:
    """*accepted* with the subprotocol to answer with: the first of *known* that the peer
    offers, if any, unless `admit` chose one.

    Raises:
        ValueError: `admit` chose one that was not offered, which the peer must refuse.
    """
    offered = request.subprotocols
    if accepted.subprotocol is None:
        chosen = next((name for name in known if name in offered), None)
        return accepted if chosen is None else replace(accepted, subprotocol=chosen)
    if accepted.subprotocol not in offered:
        # What it offers is not told: some send their token there.
        raise ValueError(
            f"Accept(subprotocol={accepted.subprotocol!r}): must be one of request.subprotocols, "
            "those that the peer offers"
        )
    return accepted
