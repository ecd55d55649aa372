"""Where a WebSocket URL leads (RFC 6455 section 3).  Pure; no error shows a password or a query."""

from __future__ import annotations

import base64
import re
from dataclasses import field
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .._arguments import shown
from .._dataclass import dataclass
from .._redaction import shown_url

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
# With a Unix socket's path in place of a host, as others write it, too.
_UNIX_SCHEMES: Final = {"ws+unix": False, "wss+unix": True}
# What the server of a Unix socket is known as.
_LOCAL_NAME: Final = "localhost"
# What may stand in Host, port included.
HOST: Final = re.compile(r"[0-9A-Za-z_.:%\[\]\-~!$&'()*+,;=]+")
# The name of a link of this machine, on which an IPv6 address is meant.
_ZONE: Final = r"%[0-9A-Za-z._~-]+"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a WebSocket URL leads (RFC 6455 section 3).

    `host` and `port` are what to dial, `authority` is the Host header, `resource` what the
    request line asks for; `headers` has the Authorization that a URL's user and password
    stand for.

    For a Unix socket `host` is its path, which begins with a slash as no name does, and `port` is
    0.

    The zone of an IPv6 address is a part of `host` alone: it means nothing to anybody but this
    machine (RFC 6874 section 4).
    """

    secure: bool
    host: str
    port: int
    authority: str
    resource: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket's."""
        return self.host.startswith("/")

    @property
    def place(self) -> str:
        """Whom to connect to, for the text of errors."""
        return self.host if self.is_unix else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """What the server is known as: `host` without a zone."""
        if self.is_unix:
            return _LOCAL_NAME
        return self.host.partition("%")[0] if ":" in self.host else self.host

    @property
    def url(self) -> str:
        """For the text of errors: the query may be a secret."""
        scheme = "wss" if self.secure else "ws"
        if self.is_unix:
            return f"{scheme}+unix://{self.host}:{shown_url(self.resource)}"
        return f"{scheme}://{self.authority}{shown_url(self.resource)}"


def parse_url(url: str) -> Target:
    """Take a ws or wss URL apart, or a ws+unix or wss+unix one.

    Raises:
        TypeError, ValueError: what is wrong with it, and what would be right.
    """
    if not isinstance(url, str):
        raise TypeError(f"url: must be a str such as 'ws://host/path', not {shown(url)}")
    complaint = f"url {shown_url(url)!r}: "
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", url):
        raise ValueError(complaint + "must not contain spaces, control characters or surrogates")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        # What is no port may be a part of a password.
        raise ValueError(complaint + str(exc).partition(" as ")[0]) from None
    if parts.scheme in _UNIX_SCHEMES:
        return _parse_unix(parts, complaint)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(complaint + "must start with ws:// or wss://")
    if not parts.hostname:
        raise ValueError(complaint + "has no host")
    if port == 0:
        raise ValueError(complaint + "the port must be from 1 to 65535")
    if "#" in url:
        raise ValueError(complaint + "must not have a fragment (RFC 6455 section 3)")
    host, zone = parts.hostname, ""
    try:
        if ":" in host:
            # RFC 6874 section 2: %25 begins it, and many write the % as it is.
            host, percent, zone = host.partition("%")
            zone = percent + zone.removeprefix("25")
        else:
            host = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(complaint + f"{host!r} is not a host name") from None
    default = _DEFAULT_PORTS[parts.scheme]
    bracketed = f"[{host}]" if ":" in host else host
    if not HOST.fullmatch(bracketed):
        raise ValueError(complaint + f"{host!r} is not a host name")
    if zone and not re.fullmatch(_ZONE, zone):
        raise ValueError(complaint + f"{zone!r} is not a zone, such as %25eth0 (RFC 6874)")
    headers: tuple[tuple[str, str], ...] = ()
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = (("Authorization", "Basic " + base64.b64encode(user).decode()),)
    return Target(
        secure=parts.scheme == "wss",
        host=host + zone,
        port=port or default,
        authority=bracketed if port in (None, default) else f"{bracketed}:{port}",
        resource=_resource(parts.path, parts.query),
        headers=headers,
    )


def _parse_unix(parts: SplitResult, complaint: str) -> Target:
    """ws+unix:///path:/resource; a colon in the path is written %3A."""
    path, _, resource = parts.path.partition(":")
    path = unquote(path, errors="surrogateescape")  # any bytes may be a path
    if parts.netloc or not path.strip("/") or not path.startswith("/") or "\0" in path:
        raise ValueError(complaint + "must be ws+unix:///path:/resource, with an absolute path")
    if parts.fragment:
        raise ValueError(complaint + "must not have a fragment (RFC 6455 section 3)")
    if resource and not resource.startswith("/"):
        raise ValueError(complaint + "what stands behind the path's colon must begin with /")
    return Target(
        secure=_UNIX_SCHEMES[parts.scheme],
        host=path,
        port=0,
        authority=_LOCAL_NAME,
        resource=_resource(resource, parts.query),
    )


def _resource(path: str, query: str) -> str:
    resource = quote(path or "/", safe="/%:@!$&'()*+,;=~-._")
    if query:
        resource += "?" + quote(query, safe="/%:@!$&'()*+,;=~-._?")
    return resource
