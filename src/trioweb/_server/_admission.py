"""Who may connect: the Origin, the subprotocol and the user's own `admit`.

Everything here decides on a checked Request and raises Reject to say no; how a no is
written to the wire is the front's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from .._arguments import check_kind
from .._errors import Reject
from .._handshake import check_request_headers, check_subprotocols
from .._http import Request

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Accept:
    """What `admit` returns to let a request in with more than the defaults.

    Args:
        subprotocol: one of those the peer offers; None to let `subprotocols` decide.
        headers: (name, value) pairs or a mapping, kept as pairs, to send along with the 101.
        user: whatever the application knows of the peer; it becomes `connection.user`.
    """

    subprotocol: str | None = None
    headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()
    user: Any = None

    def __post_init__(self) -> None:
        # The 101's own headers are those of the request that asks for it.
        object.__setattr__(self, "headers", check_request_headers("Accept", self.headers))
        check_kind("Accept", "subprotocol", self.subprotocol, str, optional=True)
        if self.subprotocol is not None:
            check_subprotocols("Accept", [self.subprotocol])


Admit: TypeAlias = Callable[[Request], Awaitable[Accept | None]]


def check_origin(request: Request, allowed: Collection[str]) -> None:
    """Refuse pages of other sites, whose requests carry our users' cookies.

    A request without Origin does not come from a browser.  One from the host that was
    asked for is our own page.  Anything else must be listed ("*" lists all).

    Raises:
        Reject: with 403.
    Source: RFC 6455 section 10.2.
    """
    origin = request.origin
    if origin is None or "*" in allowed or origin in allowed:
        return
    try:
        parts = urlsplit(origin)
    except ValueError:
        parts = urlsplit("")
    port = _DEFAULT_PORTS.get(parts.scheme)
    if port is not None and parts.netloc:
        asked = request.headers.get("host", "").lower().removesuffix(port)
        if parts.netloc.lower().removesuffix(port) == asked:
            return
    raise Reject(403, "This Origin may not connect.\n")


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
