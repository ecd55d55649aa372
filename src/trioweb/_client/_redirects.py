"""Where a redirect leads, and what may go there.

To the same origin goes all that the user gave.  So it does from ws:// to wss:// of the same host:
it had been sent there in plain text, and now TLS says who gets it.  To any other origin goes
nothing of the user's, no header and no subprotocol: a token may stand in each.  From TLS to plain
TCP nothing is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urldefrag, urljoin

from .._dataclass import dataclass
from .._errors import HandshakeFailed, HandshakeRejected, OpenFailed
from .._protocol._url import Target, parse_url
from .._redaction import shown_url

_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss"}


@dataclass(frozen=True, slots=True)
class Visit:
    """A server to ask for a WebSocket, and what it is told of the user's."""

    target: Target
    headers: Sequence[tuple[str, str]]
    subprotocols: Sequence[str]


class Trail:
    """The visits of one attempt.

    Args:
        redirects: how many may be followed.
    """

    def __init__(self, visit: Visit, redirects: int) -> None:
        self.visit = visit
        self._first = visit
        self._redirects = redirects
        self._seen = {_place(visit.target)}

    def follow(self, answer: HandshakeRejected) -> None:
        """Go where *answer* leads.

        Raises:
            HandshakeRejected: *answer* is no redirect, or none are followed.
            HandshakeFailed: it leads nowhere, in a loop, to plain TCP, or there were too many.
        """
        location = answer.header("location")
        if answer.status not in _STATUSES or location is None or not self._redirects:
            raise answer
        visit = redirect(self.visit, location)
        place = _place(visit.target)
        if place in self._seen:
            raise HandshakeFailed(f"redirected in a loop, back to {visit.target.url}") from answer
        if len(self._seen) > self._redirects:
            raise HandshakeFailed(
                f"redirected more than {self._redirects} times (redirects), at last to "
                f"{visit.target.url}"
            ) from answer
        self._seen.add(place)
        self.visit = visit

    def explain(self, error: OpenFailed) -> None:
        """Note on *error* that it was met behind a redirect, which its text cannot know."""
        if self.visit is self._first:
            return
        note = f"redirected from {self._first.target.url} to {self.visit.target.url}"
        if self._first.headers and not self.visit.headers:
            note += ", another origin, where no header of yours went along"
        error.add_note(note)


def _place(target: Target) -> tuple[bool, str, int, str]:
    return target.secure, target.host, target.port, target.resource


def redirect(visit: Visit, location: str) -> Visit:
    """Where *location* leads to from *visit*.

    Raises:
        HandshakeFailed: nowhere, or from TLS to plain TCP.
    """
    old = visit.target
    base = f"{'wss' if old.secure else 'ws'}://{old.authority}{old.resource}"
    try:
        # urljoin resolves relative references only for the schemes that it knows.
        url, _ = urldefrag(urljoin(base.replace("ws", "http", 1), location))
        scheme, colon, rest = url.partition(":")
        new = parse_url(_WEBSOCKET_SCHEMES.get(scheme.lower(), scheme) + colon + rest)
    except ValueError:
        raise HandshakeFailed(f"redirected to nowhere: {shown_url(location)!r}") from None
    if new.is_unix:
        # Whatever listens there was not put there for peers.
        raise HandshakeFailed(f"redirected to a Unix socket, which nobody follows: {new.url}")
    if old.secure and not new.secure:
        raise HandshakeFailed(f"redirected from TLS to plain TCP, to {new.url}")
    if old.is_unix and new.authority == old.authority:
        # The name that it was asked for by.
        new = replace(new, host=old.host, port=old.port)
    elif new.host == old.name and not old.is_unix:
        # The server cannot know which link of ours it is on.
        new = replace(new, host=old.host)
    is_upgrade = new.secure and not old.secure and new.host == old.host
    if _place(new)[:3] != _place(old)[:3] and not is_upgrade:
        return Visit(new, (), ())
    if any(name.lower() == "authorization" for name, _ in visit.headers):
        new = replace(new, headers=())
    elif not new.headers:
        new = replace(new, headers=old.headers)
    return replace(visit, target=new)
