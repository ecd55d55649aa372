"""Which pages may connect: their Origins.

A browser sends our users' cookies along with the requests of any page.  A page of the host that
was asked for is our own; any other has to be listed.  Source: RFC 6454, RFC 6455 section 10.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit

from .._protocol._http import Request

_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
# As browsers write it, RFC 6454 section 6.2.
_ORIGIN: Final = (
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._~-]+|\[(?P<ipv6>[0-9a-f:.]+)\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?|file://|null"
)
_RIGHT: Final = "as browsers send it, such as 'https://example.com' or 'http://localhost:3000'"
# Of what a peer sent so much is told.
_SHOWN_CHARS: Final = 60
# So many pairs of Origin and Host are remembered as told.
_MAX_TOLD: Final = 1000


class Origins:
    """Those that may connect besides the host asked for.

    Args:
        listed: as for `serve`.

    Raises:
        ValueError: one of *listed* is none that a browser would send.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._told: set[tuple[str, str]] = set()
        self.replace(listed)

    def replace(self, listed: Iterable[str]) -> None:
        """Let those in *listed* connect from now on; as for `Origins`."""
        entries = frozenset(listed)
        for entry in entries:
            if entry != "*" and not _is_origin(entry):
                raise ValueError(_complaint(entry))
        self._listed = entries

    def complaint(self, request: Request) -> str | None:
        """Why the page that sent *request* may not connect; None if it may, or is no page."""
        origin = request.origin
        if origin is None or "*" in self._listed or origin in self._listed:
            return None
        host = request.headers.get("host", "")
        # Over http anybody on the way may have written the page.
        if _is_of(origin, host) and not (request.secure and origin.startswith("http:")):
            return None
        # Anything may stand in one that no browser sends.
        named = f"Origin {origin[:_SHOWN_CHARS]}" if _is_origin(origin) else "a malformed Origin"
        return (
            f"{named} is not of the host asked for, {host[:_SHOWN_CHARS]}; "
            "origins= (--origin) can list it"
        )

    def is_new(self, request: Request) -> bool:
        """Whether the operator has not heard before of this Origin, which a browser may have sent,
        and Host."""
        pair = request.headers.get("origin", ""), request.headers.get("host", "")
        if pair in self._told or len(self._told) >= _MAX_TOLD or not _is_origin(pair[0]):
            return False
        self._told.add(pair)
        return True


def _is_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return False
    port = f":{_DEFAULT_PORTS[parts.scheme]}"
    return parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)


def _is_origin(text: str) -> bool:
    match = re.fullmatch(_ORIGIN, text)
    if match is None:
        return False
    if match["port"] and (
        int(match["port"]) > 65535 or _is_default(match["scheme"], match["port"])
    ):
        return False
    try:
        return not match["ipv6"] or str(IPv6Address(match["ipv6"])) == match["ipv6"]
    except ValueError:
        return False


def _is_default(scheme: str, port: str) -> bool:
    return _DEFAULT_PORTS.get(scheme) == port


def _complaint(entry: str) -> str:
    """What is wrong with an *entry* that can match nothing, and what would be right."""
    if "@" in entry:  # and a password, maybe
        return f"origins: an entry with a user in it can match no Origin; write it {_RIGHT}"
    text = f"origins: {entry!r} can match no Origin"
    if "*" in entry:
        return f"{text}: there are no patterns; list each, or take all with '*' and decide in admit"
    better = _corrected(entry)
    return f"{text}; write it {_RIGHT}" if better is None else f"{text}; {better!r} would"


def _corrected(entry: str) -> str | None:
    """What was meant by *entry*, if that can be guessed."""
    try:
        parts = urlsplit(entry.strip() if "://" in entry else f"https://{entry.strip()}")
        host = parts.hostname or ""
        host = f"[{IPv6Address(host)}]" if ":" in host else host.encode("idna").decode("ascii")
        port = "" if parts.port is None else str(parts.port)
    except ValueError:
        return None
    ending = "" if not port or _is_default(parts.scheme, port) else f":{port}"
    better = f"{parts.scheme}://{host}{ending}"
    return better if _is_origin(better) else None
