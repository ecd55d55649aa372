"""Which proxy leads to a server: the one that was named, that of the environment, or none.

The environment is read as the standard library reads it: `HTTPS_PROXY` and the like, `NO_PROXY`,
and where there are none of these the system's settings on macOS and Windows.  Nothing here does
I/O, and no error shows a proxy's user or password.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import sys
from contextlib import suppress
from dataclasses import field
from typing import Final
from urllib.parse import unquote, urlsplit

from .._arguments import wrong
from .._dataclass import dataclass
from .._protocol._url import Target
from .._redaction import shown_url

ENVIRONMENT: Final = "environment"
_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
# RFC 6455 section 4.1: SOCKS before CONNECT, and a proxy for https before one for http, since that
# knows CONNECT for certain.
_SECURE_ENTRIES: Final = ("wss", "socks", "https")
_PLAIN_ENTRIES: Final = ("ws", "socks", "https", "http")
_EXAMPLE: Final = (
    "'environment', None, or a URL such as 'http://host:3128' or 'socks5h://host:1080'"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and who we are to it.

    Attributes:
        scheme: "http" and "https" are asked with CONNECT, "socks5" and "socks5h" in SOCKS5; with
            "socks5h" it is the proxy that looks names up.
    """

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """For the text of errors: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def authorization(self) -> str:
        """The value of Proxy-Authorization (RFC 7617); "" for none."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def parse_proxy(owner: str, url: object) -> Proxy:
    """Take a proxy's URL apart.

    Raises:
        TypeError, ValueError: it is no good.
        ImportError: SOCKS needs an extra that is not installed.
    """
    if not isinstance(url, str):
        raise wrong(owner, "proxy", _EXAMPLE, url)
    complaint = f"{owner}: proxy {shown_url(url)!r} "
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(complaint + f"has a bad host or port: must be {_EXAMPLE}") from None
    if parts.scheme not in _PORTS or not host or not host.isascii() or not host.isprintable():
        raise ValueError(complaint + f"must be {_EXAMPLE}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise ValueError(complaint + "must have a host and a port, and nothing behind that")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    proxy = Proxy(parts.scheme, host, port or _PORTS[parts.scheme], user, password)
    if proxy.is_socks:
        from importlib.util import find_spec

        # RFC 1929: a byte has their lengths.
        good = [0 < len(each) < 256 and each.isascii() for each in (user, password)]
        if (user or password) and not all(good):
            raise ValueError(complaint + "must have a user and a password of 1 to 255 ASCII bytes")
        if find_spec("python_socks") is None:
            raise ImportError(complaint + "needs python-socks: pip install 'trioweb[proxy]'")
    return proxy


def find_proxy(owner: str, target: Target) -> Proxy | None:
    """The proxy that the environment has for *target*; None for no proxy.

    Raises:
        ValueError, ImportError: see `parse_proxy`.
    """
    if is_local(target.host) or not _may_have_proxies():
        return None
    # It takes some 20 ms to import, and hardly anybody needs it.
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    for entry in _SECURE_ENTRIES if target.secure else _PLAIN_ENTRIES:
        if url := proxies.get(entry):
            break
    else:
        return None
    host = f"[{target.host}]" if ":" in target.host else target.host
    # An IPv6 address stands in NO_PROXY with brackets and without.
    if proxy_bypass(f"{host}:{target.port}") or proxy_bypass(target.host):
        return None
    if "://" not in url:
        # As people write it who know that there is but one kind.
        url = ("socks5h://" if entry == "socks" else "http://") + url
    elif entry == "socks" and url.startswith("http://"):
        # So macOS tells of it.
        url = "socks5h" + url.removeprefix("http")
    return parse_proxy(f"{owner}, {entry}_proxy in the environment", url)


def _may_have_proxies() -> bool:
    """Whether it is worth asking; on macOS and Windows that is not for the environment to say."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(name.lower().endswith("_proxy") for name in os.environ)


def is_local(host: str) -> bool:
    """Whether *host* is this machine, which no proxy leads to."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        found = mapped or address
        return found.is_loopback or found.is_unspecified
    return False
