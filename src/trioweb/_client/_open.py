"""One connection to a server, and the block that holds it."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeAlias

import trio

from .._arguments import check_kind
from .._close_codes import CloseCode
from .._connection import Connection
from .._dataclass import dataclass
from .._error_groups import leaving_code, without_cancelled
from .._heartbeat import Lookout, Terms
from .._link import Link
from .._nursery import open_hidden_nursery, protected_block
from .._offers import check_request_headers, check_subprotocols
from .._policy import Deflate, Heartbeat, Limits
from .._protocol._url import Target, parse_url
from .._redaction import shown_url
from ._attending import Reading, attend
from ._opener import DEFAULT_REDIRECTS, Dial, Opener, has_header
from ._proxy import ENVIRONMENT
from ._redirects import Visit

# So long at most is a server's answer to Close waited for once the program was interrupted.
_HURRY_SECONDS: Final = 1.0
HeaderArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


@protected_block
async def open_connection(
    url: str,
    *,
    headers: HeaderArgument = (),
    subprotocols: Sequence[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    heartbeat: Heartbeat | None = Heartbeat(),
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    dial: Dial | None = None,
    redirects: int = DEFAULT_REDIRECTS,
    proxy: str | None = ENVIRONMENT,
    user_agent: str | None = None,
) -> AsyncGenerator[Connection]:
    """Connect to a WebSocket server and hold the connection for the length of the block.

    This is one connection and ends with it.  Use `open_client` for what must go on across
    connections.

    Args:
        url: ws://host[:port]/path?query, or wss:// for TLS.  A user and password in it are
            sent as Basic authorization, unless `headers` has another.  For a Unix socket
            ws+unix:///path:/resource?query, or wss+unix://; a colon in the path is %3A, and the
            server is known as localhost.  No `dial` and no proxy leads there.
        headers: sent along with the handshake, as a mapping or (name, value) pairs.
        subprotocols: offered in this order of preference.
        ssl_context: for wss; by default, the system's certificates are trusted, which are
            loaded once in a process.
        heartbeat: how a dead server is noticed; None for not at all.
        limits: see `Limits`; `connect_timeout` covers name resolution, TCP, TLS and the
            handshake together.
        compression: offered to the server, which may decline it; by default, it is not.  See
            `Deflate`.
        dial: an async callable of host and port that returns a stream to the server, in
            place of TCP: for ways of your own, networks in memory.  TLS goes on top.  It is asked
            for the proxy's host and port if `proxy` is a URL.
        redirects: how many are followed; with 0, none is.  To another origin goes no header of
            yours and no subprotocol, and from wss to ws nothing is followed.  5: more are a fault
            of the server.
        proxy: "environment": that of HTTPS_PROXY and the like, unless there is a `dial` or the
            server is this machine (localhost and loopback addresses); None for none; or a URL:
            http:// or https:// (CONNECT), socks5h:// or socks5:// (needs `trioweb[proxy]`), with
            a user and password if the proxy wants them.
        user_agent: sent as User-Agent; by default trioweb/ and its version, "" for none.

    Yields:
        The open Connection.  Leaving the block closes it with 1000, or 1011 if it was left
        by an exception, or 1001 by Ctrl-C or `sys.exit`, after which the server's answer is
        waited for no longer than a second.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was dialled.
        ConnectFailed: the server could not be reached.  ProxyRefused: a proxy said no.
        ImportError: a SOCKS proxy, and `trioweb[proxy]` is not installed.
        HandshakeFailed, HandshakeRejected: it could, and said no, made no sense, or redirected
            where nobody follows.
        What the block raises comes out unchanged.

    Cancellation: sends Close if the kernel takes it at once, and closes the transport.
    Source: RFC 6455 section 4.1.
    """
    opener = Opener(
        "open_connection",
        ssl_context,
        limits,
        compression,
        dial,
        redirects,
        proxy,
        user_agent,
    )
    check_kind("open_connection", "heartbeat", heartbeat, Heartbeat, optional=True)
    offer = Offer("open_connection", ssl_context, user_agent)
    visit = offer.visit(url, headers, subprotocols)

    opened = await opener.open(visit, trio.current_time() + limits.connect_timeout)
    async with open_hidden_nursery() as nursery:
        reading = Reading()
        connection = opened.start(nursery.start_soon, heartbeat, limits, reading)
        lookout = None
        if heartbeat is not None:
            lookout = Lookout(connection, Terms(heartbeat), keeps_alive=True)
        nursery.start_soon(attend, connection.link, reading, lookout)
        try:
            yield connection
        except BaseException as exc:
            await leave_by(exc, [connection.link])
            raise
        await close_all([connection.link], CloseCode.NORMAL)


async def leave_by(error: BaseException, links: Sequence[Link]) -> None:
    """Close *links*, whose block was left by *error*."""
    code = leaving_code(error)
    if without_cancelled(error) is None:
        for link in links:
            link.close(code)
            link.abort("cancelled")
    else:
        # Who pressed Ctrl-C waits for no server's answer.
        seconds = _HURRY_SECONDS if code == CloseCode.GOING_AWAY else math.inf
        # Even if that is cancelled, what the block raised wins.
        with trio.move_on_after(seconds), suppress(trio.Cancelled):
            await close_all(links, code)


async def close_all(links: Sequence[Link], code: CloseCode) -> None:
    """Close *links*, all at once, and wait until they are.

    Cancellation: closes all the same, at once.
    """
    for link in links:
        link.close(code)
    try:
        await trio.lowlevel.checkpoint()
        for link in links:
            await link.wait_closed()
    except trio.Cancelled:
        for link in links:
            link.abort("closing was cancelled")
        raise


@dataclass(frozen=True, slots=True)
class Offer:
    """Takes what a user offers a server, given at once or for one attempt, and checks it.

    Args:
        owner: for the text of errors.
        ssl_context, user_agent: as the user gave them; both have something to say about it.
    """

    owner: str
    ssl_context: ssl.SSLContext | None
    user_agent: str | None

    def target(self, url: str) -> Target:
        """Where *url* leads, which is over TLS if a context was given for that."""
        target = parse_url(url)
        if self.ssl_context is not None and not target.secure:
            raise ValueError(
                f"url {shown_url(url)!r}: ssl_context was given, so the URL must start with wss://"
            )
        return target

    def headers(self, headers: HeaderArgument) -> tuple[tuple[str, str], ...]:
        pairs = check_request_headers(self.owner, headers)
        if self.user_agent is not None and has_header(pairs, "user-agent"):
            raise self._twice("User-Agent", "by user_agent and by headers")
        if sum(name.lower() == "authorization" for name, _ in pairs) > 1:
            raise self._twice("Authorization", "by headers")
        return pairs

    def subprotocols(self, subprotocols: Sequence[str]) -> tuple[str, ...]:
        return check_subprotocols(self.owner, subprotocols)

    def visit(self, url: str, headers: HeaderArgument, subprotocols: Sequence[str]) -> Visit:
        """All three together.

        Raises:
            TypeError, ValueError: what is wrong with them, and what would be right.
        """
        target, pairs = self.target(url), self.headers(headers)
        if has_header(pairs, "authorization"):
            target = replace(target, headers=())
        return Visit(target, pairs, self.subprotocols(subprotocols))

    def _twice(self, name: str, where: str) -> ValueError:
        return ValueError(f"{self.owner}: {name} is given twice, {where}")
