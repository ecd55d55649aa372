"""The opening handshake, both sides.  The only module that imports trio_websocket.

trio-websocket does the handshake through its public door, `wrap_server_stream` and
`wrap_client_stream`, over a stream of ours (`_Opening`) that stands between it and the
transport.  Every head has been checked before trio-websocket sees it, the bytes behind the
101 never reach it, and once the 101 has passed its reader is told that the stream has ended,
so that the nursery which holds it closes.

NOTE: trio-websocket waits for ever if it refuses a handshake or its stream ends in the
middle of one (0.12.2), so `_Opening` raises in those places instead of ending quietly.  The
nursery here then holds whatever went wrong, and one error of ours comes out.  Deadlines are
the caller's: a cancelled handshake leaves a transport that can only be closed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import trio
import trio_websocket

from ._errors import HandshakeFailed, HandshakeRejected, OpenFailed
from ._http import BadHead, Headers, Request, check_headers, is_token, read_response

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
# RFC 6455 section 4.2.2: the server proves with it that it speaks WebSocket.
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_LINE: Final = re.compile(rb"\r\nSec-WebSocket-Key: *([^\r]*)\r\n", re.IGNORECASE)
_SWITCHED: Final = b"HTTP/1.1 101 "
# What a user may not set: the handshake's own.
_RESERVED_HEADERS: Final = frozenset({"host", "upgrade", "connection", "content-length"})
_HOST: Final = re.compile(r"[0-9A-Za-z_.:%\[\]\-~!$&'()*+,;=]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a WebSocket URL leads (RFC 6455 section 3).

    `host` and `port` are what to dial, `authority` is the Host header, `resource` what the
    request line asks for; `headers` has the Authorization that a URL's user and password
    stand for.
    """

    secure: bool
    host: str
    port: int
    authority: str
    resource: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def parse_url(url: str) -> Target:
    """Take a ws or wss URL apart.

    Raises:
        TypeError, ValueError: what is wrong with it, and what would be right.
    """
    if not isinstance(url, str):
        raise TypeError(f"url: must be a str such as 'ws://host/path', not {url!r}")
    complaint = f"url {url!r}: "
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(complaint + "must not contain spaces or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(complaint + f"{exc}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(complaint + "must start with ws:// or wss://")
    if not parts.hostname:
        raise ValueError(complaint + "has no host")
    if port == 0:
        raise ValueError(complaint + "the port must be from 1 to 65535")
    if "#" in url:
        raise ValueError(complaint + "must not have a fragment (RFC 6455 section 3)")
    host = parts.hostname
    if ":" not in host:
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(complaint + f"{host!r} is not a host name") from None
    default = _DEFAULT_PORTS[parts.scheme]
    bracketed = f"[{host}]" if ":" in host else host
    resource = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        resource += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    headers: tuple[tuple[str, str], ...] = ()
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = (("Authorization", "Basic " + base64.b64encode(user).decode()),)
    return Target(
        secure=parts.scheme == "wss",
        host=host,
        port=port or default,
        authority=bracketed if port in (None, default) else f"{bracketed}:{port}",
        resource=resource,
        headers=headers,
    )


def check_subprotocols(owner: str, subprotocols: Sequence[str]) -> None:
    """Raise unless every name can stand in Sec-WebSocket-Protocol (RFC 6455 section 4.1)."""
    if isinstance(subprotocols, str):
        raise TypeError(f"{owner}: subprotocols={subprotocols!r} must be a sequence of str")
    for name in subprotocols:
        if not isinstance(name, str) or not is_token(name):
            raise ValueError(f"{owner}: subprotocol {name!r} is not a token (RFC 6455 4.1)")
    if len(set(subprotocols)) != len(subprotocols):
        raise ValueError(f"{owner}: subprotocols={list(subprotocols)!r} has one twice")


def check_request_headers(owner: str, headers: Iterable[tuple[str, str]]) -> None:
    """Raise unless a client may send *headers* along with its handshake."""
    headers = list(headers)
    check_headers(owner, headers)
    for name, _ in headers:
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{owner}: header {name!r} belongs to the handshake itself")


def check_upgrade(request: Request) -> None:
    """Check that *request* opens a WebSocket as RFC 6455 section 4.2.1 asks.

    Raises:
        BadHead: with the status to refuse it with.
    """
    headers = request.headers
    if request.method != "GET":
        raise BadHead(405, "a WebSocket is opened with GET")
    if "upgrade" not in (token.lower() for token in headers.tokens("connection")):
        raise BadHead(400, "Connection: Upgrade is missing")
    if headers.get_all("sec-websocket-version") != ["13"]:
        raise BadHead(426, "Sec-WebSocket-Version must be 13")
    keys = headers.get_all("sec-websocket-key")
    try:
        nonce = base64.b64decode(keys[0] if len(keys) == 1 else "", validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise BadHead(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    host = headers.get("host", "")
    if not _HOST.fullmatch(host) or any(len(label) > 63 for label in host.split(".")):
        raise BadHead(400, "Host is not one")
    if not all(is_token(name) for name in request.subprotocols):
        raise BadHead(400, "Sec-WebSocket-Protocol is not a list of tokens")


def is_upgrade(request: Request) -> bool:
    """Whether *request* asks for a WebSocket, however badly."""
    return "websocket" in (token.lower() for token in request.headers.tokens("upgrade"))


def accept_token(key: bytes) -> str:
    """What the server answers *key* with (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


class _Opening(trio.abc.Stream):
    """What trio-websocket takes for the transport while a connection opens."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport
        self._passed = trio.Event()

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise HandshakeFailed("the opening handshake was refused as malformed")

    async def _end(self) -> bytes:
        """End the stream for trio-websocket's reader once the 101 has passed."""
        await self._passed.wait()
        return b""


class _ServerOpening(_Opening):
    """Hands the checked request head up, and only a 101 down."""

    def __init__(self, transport: trio.abc.Stream, head: bytes) -> None:
        super().__init__(transport)
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        head, self._head = self._head, b""
        return head or await self._end()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if bytes(data[: len(_SWITCHED)]) != _SWITCHED:
            raise HandshakeFailed("the opening handshake was refused")
        await self._transport.send_all(data)
        self._passed.set()


class _ClientOpening(_Opening):
    """Sends the request down; hands a checked 101 up, and raises for any other answer."""

    def __init__(self, transport: trio.abc.Stream, max_head_bytes: int) -> None:
        super().__init__(transport)
        self._max_head_bytes = max_head_bytes
        self._accept = ""
        self.headers = Headers()
        self.rest = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        key = _KEY_LINE.search(data)
        if key is not None:
            self._accept = accept_token(key[1])
        await self._transport.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._passed.is_set():
            return await self._end()
        status, headers, head, rest = await read_response(self._transport, self._max_head_bytes)
        if status != 101:
            raise HandshakeRejected(status, headers.items_all(), rest)
        if headers.get_all("sec-websocket-accept") != [self._accept]:
            raise HandshakeFailed("Sec-WebSocket-Accept does not answer our key")
        if "sec-websocket-extensions" in headers:
            raise HandshakeFailed("the server chose an extension that was not offered")
        self.headers = headers
        self.rest = rest
        self._passed.set()
        return head


async def accept(
    transport: trio.abc.Stream,
    head: bytes,
    *,
    subprotocol: str | None,
    headers: Sequence[tuple[str, str]],
) -> None:
    """Answer the upgrade *head*, which `check_upgrade` has passed, with a 101.

    Raises:
        OpenFailed: the transport failed, or trio-websocket found a fault after all.
    """
    extra = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
    try:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(
                nursery, _ServerOpening(transport, head)
            )
            await request.accept(subprotocol=subprotocol, extra_headers=extra)
    except Exception as exc:
        failure = _single_failure(exc)
    else:
        return
    raise failure


async def connect(
    transport: trio.abc.Stream,
    target: Target,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]],
    max_head_bytes: int,
) -> tuple[Headers, str | None, bytes]:
    """Ask the server at the other end of *transport* for a WebSocket.

    Returns:
        The response's headers, the subprotocol chosen, and the bytes behind the head.

    Raises:
        HandshakeRejected: another status than 101.
        HandshakeFailed: no answer, or one that breaks RFC 6455 section 4.1.
    """
    extra = [
        (name.encode("ascii"), value.encode("ascii")) for name, value in (*target.headers, *headers)
    ]
    opening = _ClientOpening(transport, max_head_bytes)
    try:
        async with trio.open_nursery() as nursery:
            opened = await trio_websocket.wrap_client_stream(
                nursery,
                opening,  # type: ignore[arg-type]  # any stream will do
                target.authority,
                target.resource,
                subprotocols=subprotocols,
                extra_headers=extra,
            )
    except Exception as exc:
        failure = _single_failure(exc)
    else:
        return opening.headers, opened.subprotocol, opening.rest
    raise failure


def _single_failure(error: Exception) -> OpenFailed:
    """The one error of ours that stands for whatever went wrong during a handshake.

    It is raised outside the `except`, so that it does not have the group that it came out of
    for its context.
    """
    leaves = [error]
    while isinstance(leaves[0], ExceptionGroup):
        leaves = [*leaves[0].exceptions, *leaves[1:]]
    for leaf in leaves:
        if isinstance(leaf, OpenFailed):
            return leaf
    cause = leaves[0]
    failure = HandshakeFailed(f"the opening handshake failed: {str(cause) or type(cause).__name__}")
    failure.__cause__ = cause
    return failure
