"""Who a peer is behind proxies that are trusted to tell.

Of all that proxies may add to a request, X-Forwarded-For alone is read: every proxy sends it.
Who reads Forwarded (RFC 7239), too, believes whichever of the two his proxy passes on from the
peer as it came.  Its scheme and host are nobody's business here: what an Origin is compared
with is Host, which a proxy can be told to pass on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final, TypeAlias

from .._connection import Connection
from .._dataclass import dataclass
from .._protocol._http import Address, Request

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What stands for peers without an IP address, as those of a Unix socket are.
_UNIX: Final = "unix"
# Most proxies send an address alone, some (Azure's) its port along with it.
_FORWARDED: Final = (
    r"(?P<host>[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9A-Fa-f:.]+)"
)


@dataclass(slots=True)
class Visitor:
    """Who is at the other end of an accepted stream, as far as is known yet.

    Attributes:
        address: of the other end itself, which may be a proxy's.
        remote: the address that logs tell.
        host: what this stream counts under in the limit for each host; "" for nobody's.
        connection: what it has become, once it is one.
        has_place: it counts.
    """

    address: Address
    remote: Address
    host: str
    connection: Connection | None = None
    has_place: bool = True


class Proxies:
    """Those whose X-Forwarded-For is believed.

    Args:
        networks: see `serve`.

    Raises:
        ValueError: one of *networks* is none.
    """

    def __init__(self, networks: Collection[str]) -> None:
        self._unix = _UNIX in networks
        self._networks = [_network(name) for name in networks if name != _UNIX]

    def meet(self, remote: Address) -> Visitor:
        """The visitor at *remote*; a trusted proxy counts for nobody until it has said for whom."""
        return Visitor(remote, remote, self.host_of(remote))

    def host_of(self, address: Address) -> str:
        """What a peer at *address* counts under, before it has asked for anything."""
        return "" if self._trusts(address) else _host(address)

    def identify(self, visitor: Visitor, request: Request) -> None:
        """Now that *request* is read, say who *visitor* is, and from whom the request came: over
        the same stream a proxy asks for one client after the other."""
        if self._trusts(visitor.address):
            visitor.remote = request.remote = self._client(visitor.address, request)
            visitor.host = _host(visitor.remote)

    def _client(self, proxy: Address, request: Request) -> Address:
        """For whom *proxy* says that it asks.

        Each proxy adds its own peer at the right, so what an untrusted one says of others
        stands to the left of itself, where nobody looks.
        """
        client = proxy
        for text in reversed(request.headers.tokens("x-forwarded-for")):
            address = _parse(text)
            if address is None:
                return proxy
            client = address
            if not self._trusts(client):
                break
        return client

    def _trusts(self, remote: Address) -> bool:
        if isinstance(remote, str):
            return self._unix
        if not self._networks:
            return False
        ip = _ip(remote[0])
        return ip is not None and any(ip in network for network in self._networks)


def _network(name: str) -> _Network:
    try:
        return ipaddress.ip_network(name)
    except ValueError as exc:
        raise ValueError(
            f"trusted_proxies: {name!r} must be an IP address, a network such as "
            f"'10.0.0.0/8', or 'unix' ({exc})"
        ) from None


def _ip(host: str) -> _Ip | None:
    """*host* as an address, an IPv4 one if it is one in IPv6's clothes; None if it is none."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _host(remote: Address) -> str:
    return remote[0] if isinstance(remote, tuple) else ""


def _parse(text: str) -> tuple[str, int] | None:
    """An element of X-Forwarded-For, with port 0 if it has none; None if it is malformed."""
    match = re.fullmatch(_FORWARDED, text)
    if match is None:
        return None
    ip = _ip((match["host"] or match["bare"]).strip("[]"))
    port = int(match["port"] or 0)
    return (str(ip), port) if ip is not None and port < 2**16 else None
