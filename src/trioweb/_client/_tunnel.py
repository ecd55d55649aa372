"""A way through a proxy, over a stream to it: HTTP's CONNECT, which is ours, and SOCKS5.

SOCKS is python-socks', which is imported where it is needed.  The deadline is the caller's, and so
is the stream, whatever becomes of it.  What is said to a proxy about who we are stays there.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from .._errors import ConnectFailed, ProxyRefused
from .._protocol._http import BadHead
from .._redaction import first_words
from ._proxy import Proxy

# RFC 1928 section 6: the one reply that will be the same the next time.
_DENIED_BY_RULES = 2


async def connect_through(
    stream: trio.abc.Stream,
    proxy: Proxy,
    host: str,
    port: int,
    *,
    user_agent: str,
    max_head_bytes: int,
) -> None:
    """Have *proxy*, at the other end of *stream*, connect that with *host* and *port*.

    Raises:
        ProxyRefused: it says no.
        ConnectFailed: it does not speak as it should, or has gone.
    """
    try:
        if proxy.is_socks:
            await _ask_socks(stream, proxy, host, port)
        else:
            await _ask_http(stream, proxy, host, port, user_agent, max_head_bytes)
    except (BadHead, EOFError, trio.BrokenResourceError) as exc:
        if isinstance(exc, ConnectFailed):
            raise
        text = f"the proxy {proxy.url} gave no answer that makes sense: {exc}"
        raise ConnectFailed(text) from exc


async def _ask_http(
    stream: trio.abc.Stream,
    proxy: Proxy,
    host: str,
    port: int,
    user_agent: str,
    max_head_bytes: int,
) -> None:
    """CONNECT (RFC 9110 section 9.3.6)."""
    from .._handshake._responses import read_response  # a server needs no h11

    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if user_agent:
        lines.append(f"User-Agent: {user_agent}")
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await stream.send_all("\r\n".join([*lines, "", ""]).encode("latin-1"))
    status, _, rest = await read_response(stream, max_head_bytes, connects=True)
    if 200 <= status < 300:
        # The server behind it speaks when it is spoken to, so nobody knows whose this would be.
        if rest:
            raise ConnectFailed(f"the proxy {proxy.url} sent bytes ahead of the server")
        return
    text = f"the proxy {proxy.url} answered CONNECT to {authority} with HTTP status {status}"
    # RFC 9110 section 11.7.1 has 407; tinyproxy takes itself for a server.
    if status in (401, 407):
        text += ": it does not know " + (
            "this user and password" if proxy.user else "us, and the proxy's URL has no user"
        )
    elif words := first_words(rest):
        text += f": {words}"
    raise ProxyRefused(text, status)


async def _ask_socks(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """SOCKS5 (RFC 1928, RFC 1929)."""
    import python_socks
    from python_socks.async_.trio import Proxy as SocksProxy

    asked = SocksProxy(
        python_socks.ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user or None,
        proxy.password or None,
        rdns=proxy.scheme == "socks5h",
        # It is reached already: python-socks takes us for a proxy before that one.
        forward=_Reached(stream),  # type: ignore[arg-type]
    )
    try:
        await asked.connect(host, port, timeout=math.inf)
    except python_socks.ProxyError as exc:
        text = f"the proxy {proxy.url} did not connect us with {host}:{port}: {exc}"
        code = exc.error_code
        # Without a code it is about who we are, or not SOCKS at all.
        raise ProxyRefused(text, denied=code in (None, _DENIED_BY_RULES)) from exc


class _Reached:
    """What python-socks takes for a proxy in front of its own, and then for a socket."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def connect(self, **where: Any) -> _Reached:
        return self

    async def send(self, data: bytes) -> int:
        await self._stream.send_all(data)
        return len(data)

    async def recv(self, max_bytes: int) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    def close(self) -> None:
        """Nothing: the caller has the stream, and closes it."""
