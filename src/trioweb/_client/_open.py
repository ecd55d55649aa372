"""One connection to a server: dial, TLS, handshake, and the block that holds it."""

from __future__ import annotations

import errno
import math
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

from .._arguments import check_async, check_kind
from .._connection import Connection
from .._deflate import check_compression
from .._errors import (
    CloseCode,
    ConnectFailed,
    HandshakeFailed,
    causes,
    is_os_error,
    leaving_code,
    without_cancelled,
)
from .._handshake import (
    Switch,
    Target,
    check_request_headers,
    check_subprotocols,
    connect,
    parse_url,
)
from .._heartbeat import Monitor, heartbeat_replies
from .._http import Request, addresses
from .._link import Link
from .._nursery import open_hidden_nursery, protected_block
from .._policy import Deflate, Heartbeat, Limits
from .._tls import TlsStream

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
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
) -> AsyncGenerator[Connection]:
    """Connect to a WebSocket server and hold the connection for the length of the block.

    This is one connection and ends with it.  Use `open_client` for what must go on across
    connections.

    Args:
        url: ws://host[:port]/path?query, or wss:// for TLS.  A user and password in it are
            sent as Basic authorization.
        headers: sent along with the handshake, as a mapping or (name, value) pairs.
        subprotocols: offered in this order of preference.
        ssl_context: for wss; by default, the system's certificates are trusted.
        heartbeat: how a dead server is noticed; None for not at all.
        limits: see `Limits`; `connect_timeout` covers name resolution, TCP, TLS and the
            handshake together.
        compression: offered to the server, which may decline it; by default, it is not.  See
            `Deflate`.
        dial: an async callable of host and port that returns a stream to the server, in
            place of TCP: for proxies, Unix sockets, networks in memory.  TLS goes on top.

    Yields:
        The open Connection.  Leaving the block closes it with 1000, or 1011 if it was left
        by an exception, or 1001 by Ctrl-C or `sys.exit`, after which the server's answer is
        waited for no longer than a second.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was dialled.
        ConnectFailed: the server could not be reached.
        HandshakeFailed, HandshakeRejected: it could, and said no or made no sense.
        What the block raises comes out unchanged.

    Cancellation: sends Close if the kernel takes it at once, and closes the transport.
    Source: RFC 6455 section 4.1.
    """
    target = parse_target(url, ssl_context)
    check_compression(compression)
    pairs = header_pairs("open_connection", headers)
    check_subprotocols("open_connection", subprotocols)
    check_async("open_connection", "dial(host, port)", dial, optional=True)

    opened = await establish(
        target,
        pairs,
        subprotocols,
        ssl_context,
        limits,
        compression,
        dial,
        deadline=trio.current_time() + limits.connect_timeout,
    )
    async with open_hidden_nursery() as nursery:
        connection = opened.start(nursery, heartbeat, limits)
        try:
            yield connection
        except BaseException as exc:
            code = leaving_code(exc)
            if without_cancelled(exc) is None:
                connection.link.close(code)
                connection.link.abort("cancelled")
            else:
                # Who pressed Ctrl-C waits for no server's answer.
                seconds = _HURRY_SECONDS if code == CloseCode.GOING_AWAY else math.inf
                # Even if that is cancelled, what the block raised wins.
                with trio.move_on_after(seconds), suppress(trio.Cancelled):
                    await connection.aclose(code)
            raise
        await connection.aclose()


def parse_target(url: str, ssl_context: ssl.SSLContext | None) -> Target:
    """Where *url* leads, which is over TLS if an *ssl_context* was given for that.

    Raises:
        TypeError, ValueError: it is no good.
    """
    target = parse_url(url)
    if ssl_context is not None and not target.secure:
        raise ValueError(f"url {url!r}: ssl_context was given, so the URL must start with wss://")
    return target


def header_pairs(owner: str, headers: HeaderArgument) -> list[tuple[str, str]]:
    """*headers* as pairs, checked; *owner* is for the text of errors."""
    return list(check_request_headers(owner, headers))


@dataclass(frozen=True, slots=True)
class Established:
    """A transport over which the opening handshake has succeeded."""

    stream: trio.abc.Stream
    request: Request
    switch: Switch

    def start(
        self, nursery: trio.Nursery, heartbeat: Heartbeat | None, limits: Limits
    ) -> Connection:
        """Have *nursery* hold the connection that this is."""
        agreed = self.switch.compression
        link = Link(
            self.stream,
            self.switch.rest,
            is_client=True,
            limits=limits,
            spawn=nursery.start_soon,
            replies=heartbeat_replies(heartbeat),
            compression=agreed,
        )
        nursery.start_soon(link.carry)
        connection = Connection(
            link,
            self.request,
            subprotocol=self.switch.subprotocol,
            extensions="" if agreed is None else agreed.text,
            headers=self.switch.headers,
        )
        if heartbeat is not None:
            monitor = Monitor(heartbeat)
            monitor.add(connection)
            nursery.start_soon(monitor.run)
        return connection


async def establish(
    target: Target,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str],
    ssl_context: ssl.SSLContext | None,
    limits: Limits,
    compression: Deflate | None,
    dial: Dial | None,
    *,
    deadline: float,
) -> Established:
    """Dial *target* and open a WebSocket there, until *deadline* at the latest.

    Raises:
        OpenFailed: it could not be done; nothing is left of it.
    """
    stream: trio.abc.Stream | None = None
    where = f"{target.host}:{target.port}"
    established = None
    phase = "connecting"
    try:
        with trio.move_on_at(deadline):
            dialled = await (dial or trio.open_tcp_stream)(target.host, target.port)
            # What is no stream could not be closed either.
            check_kind("dial", "what it returns", dialled, trio.abc.Stream)
            stream = dialled
            if target.secure:
                phase = "TLS handshake"
                context = ssl_context or ssl.create_default_context()
                stream = TlsStream(stream, context, server_hostname=target.host)
                await _shake_tls(stream, where)
            phase = "opening handshake"
            switch = await connect(
                stream,
                target,
                subprotocols=subprotocols,
                headers=headers,
                compression=compression,
                max_head_bytes=limits.max_request_bytes,
            )
            remote, local = addresses(stream)
            request = Request("GET", target.resource, headers, remote=remote, local=local)
            established = Established(stream, request, switch)
            return established
    except Exception as exc:
        if stream is not None or not is_os_error(exc):
            raise
        # Trio tries every address of the name; the first failure speaks for them all.
        failure = causes(exc)[0]
        attempts = failure.__cause__
        cause = attempts.exceptions[0] if isinstance(attempts, ExceptionGroup) else failure
        number = getattr(cause, "errno", None) or 0
        text = os.strerror(number) if number in errno.errorcode else cause
        raise ConnectFailed(f"could not connect to {where}: {text}") from exc
    finally:
        if established is None and stream is not None:
            await trio.aclose_forcefully(stream)
    text = f"{where} did not answer within {limits.connect_timeout:g} s ({phase})"
    raise ConnectFailed(text) if stream is None else HandshakeFailed(text)


async def _shake_tls(stream: TlsStream, where: str) -> None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as exc:
        cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
        untrusted = isinstance(cause, ssl.SSLCertVerificationError)
        raise ConnectFailed(f"TLS with {where} failed: {cause}", untrusted=untrusted) from cause
