"""The opening handshake, both sides.  The only module that imports trio_websocket.

trio-websocket does the handshake through its public door, `wrap_server_stream` and
`wrap_client_stream`, over a stream of ours that takes one head down and one up.  The transport
is read and written here, and every head is checked before trio-websocket sees what it must know
of it; wsproto is stricter than RFC 6455 with the rest.  Once the 101 has passed, its reader is
told that the stream has ended.  On a client that reader is a task of a nursery which closes then
(`_Opening`); a server, which may have thousands to open at once, does without both (`_Answering`).

NOTE: trio-websocket takes a BrokenResourceError of its stream, which `OpenFailed` is too, for
a quiet end, and then waits for ever (0.12.2).  So no error of the transport ever reaches it:
the nursery holds whatever went wrong, and one error of ours comes out.  Deadlines are the
caller's: a cancelled handshake leaves a transport that can only be closed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio
import trio_websocket
from trio.lowlevel import enable_ki_protection

from ._arguments import is_token
from ._deflate import OFFER, Agreement, read_answer
from ._errors import HandshakeFailed, HandshakeRejected, OpenFailed, leaves
from ._http import BadHead, Headers, Request, read_response
from ._policy import Deflate
from ._url import HOST, Target

_T = TypeVar("_T")

# RFC 6455 section 4.2.2: the server proves with it that it speaks WebSocket.
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_LINE: Final = re.compile(rb"\r\nSec-WebSocket-Key:\s*(\S+)", re.IGNORECASE)
# wsproto puts Host through the IDNA of 2003, which knows neither all of today's names nor ports,
# so this is the one that trio-websocket sees.
_ANY_HOST: Final = "-"
_ANY_HOST_LINE: Final = b"\r\nHost: -\r\n"
_EXTENSIONS: Final = "Sec-WebSocket-Extensions"


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
    except ValueError:  # no base64, or not even ASCII
        nonce = b""
    if len(nonce) != 16:
        raise BadHead(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    host = headers.get("host")
    # It may be empty (RFC 9110 section 7.2).
    if host is None or (host and not HOST.fullmatch(host)):
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
    """What a client's trio-websocket takes for the transport: a head goes down, a head comes up,
    the end."""

    def __init__(self) -> None:
        self._down, self._below = trio.open_memory_channel[bytes](1)
        self._up, self._above = trio.open_memory_channel[bytes](2)

    async def handed_down(self) -> bytes:
        """Wait for the head that trio-websocket sends."""
        return await self._below.receive()

    def hand_up(self, head: bytes) -> None:
        """Let trio-websocket read *head*; an empty one is the end of the stream."""
        self._up.send_nowait(head)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._down.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._above.receive()

    async def aclose(self) -> None:
        """Raise: trio-websocket closes only what it refuses, and then waits for ever."""
        await trio.lowlevel.checkpoint()
        raise RuntimeError("trio-websocket refused the handshake")


class _Ended(Exception):
    """The stream has ended, as far as trio-websocket's reader is concerned."""


class _Answering(trio.abc.Stream):
    """What a server's trio-websocket takes for the transport, and for its reader's nursery.

    The head is here before the reader is, and behind it there is nothing to wait for, so the
    reader is no task but a coroutine that is run here: by `start_soon` until it wants to read
    more than the head, and by `end`, which never waits.
    """

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._reader: Coroutine[Any, Any, object] | None = None
        self.answer = b""

    def start_soon(self, reader: Callable[[], Coroutine[Any, Any, object]]) -> None:
        running = reader()
        waits_for = running.send(None)
        self._reader = running
        # If it is not for this stream, then for its turn to send a refusal.
        if waits_for is not _MORE:
            raise RuntimeError("trio-websocket refused the handshake")

    def end(self) -> None:
        """End the reader, whatever it waits for: what it yields reaches nobody who would act."""
        if self._reader is not None:
            with suppress(_Ended, StopIteration):
                while True:
                    self._reader.throw(_Ended)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        head, self._head = self._head, b""
        if not head:
            await _wait_for_more()
        return head

    async def aclose(self) -> None:
        raise RuntimeError("trio-websocket refused the handshake")


# What Trio yields to its loop is never None.
_MORE: Final = None


@types.coroutine
def _wait_for_more() -> Generator[None, None, None]:
    yield _MORE


async def accept(
    transport: trio.abc.Stream,
    head: bytes,
    *,
    subprotocol: str | None,
    extensions: str = "",
    headers: Sequence[tuple[str, str]],
) -> None:
    """Answer the upgrade *head*, which `check_upgrade` has passed, with a 101.

    Args:
        subprotocol: one of those that the peer offers, or None.
        extensions: those agreed upon.
        headers: sent along with the 101.

    Raises:
        OpenFailed: the transport failed, or trio-websocket found a fault after all.

    Cancellation: a part of the 101 may have been sent.
    """
    # trio-websocket does not know that there are extensions.
    pairs = [(_EXTENSIONS, extensions), *headers] if extensions else headers
    try:
        # Whatever was needed for the answer is gone while the peer takes its time to read it.
        await transport.send_all(await _answer(head, subprotocol, pairs))
    except OpenFailed:
        raise
    except Exception as exc:
        raise _failed(exc) from exc


# NOTE: An interrupt that strikes within trio-websocket's reader would stay there: the reader wants
# to wait on its way out, and here nothing waits for it.
@enable_ki_protection
async def _answer(
    head: bytes, subprotocol: str | None, headers: Sequence[tuple[str, str]]
) -> bytes:
    """The 101 that trio-websocket answers *head* with."""
    key = _KEY_LINE.search(head)
    assert key is not None, "check_upgrade has seen it"
    lines = [
        "GET / HTTP/1.1",
        f"Host: {_ANY_HOST}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key[1].decode('ascii')}",
    ]
    answering = _Answering(_encode_head(lines, subprotocol))
    try:
        request = await trio_websocket.wrap_server_stream(
            answering,  # type: ignore[arg-type]  # all it needs of a nursery
            answering,
        )
        await request.accept(subprotocol=subprotocol, extra_headers=_encode_pairs(headers))
    finally:
        answering.end()
    return answering.answer


@dataclass(frozen=True, slots=True)
class Switch:
    """What a client gets with a 101: its headers, what they choose of what was offered, and
    the bytes behind the head."""

    headers: Headers
    subprotocol: str | None
    compression: Agreement | None
    rest: bytes


async def connect(
    transport: trio.abc.Stream,
    target: Target,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]],
    compression: Deflate | None,
    max_head_bytes: int,
) -> Switch:
    """Ask the server at the other end of *transport* for a WebSocket.

    Raises:
        HandshakeRejected: another status than 101.
        HandshakeFailed: no answer, or one that breaks RFC 6455 section 4.1.

    Cancellation: a part of the request may have been sent.
    """
    opening = _Opening()
    switches: list[Switch] = []
    offer = [] if compression is None else [(_EXTENSIONS, OFFER)]

    async def exchange() -> None:
        request = await opening.handed_down()
        host_line = f"\r\nHost: {target.authority}\r\n".encode("ascii")
        await transport.send_all(request.replace(_ANY_HOST_LINE, host_line, 1))
        status, answer_headers, rest = await read_response(transport, max_head_bytes)
        if status != 101:
            raise HandshakeRejected(status, answer_headers.items_all(), rest)
        key = _KEY_LINE.search(request)
        assert key is not None, "trio-websocket sends one"
        accept = accept_token(key[1])
        subprotocol = _check_switch(answer_headers, accept, subprotocols)
        agreement = _check_extensions(answer_headers, compression)
        switches.append(Switch(answer_headers, subprotocol, agreement, rest))
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
        ]
        opening.hand_up(_encode_head(lines, subprotocol))
        opening.hand_up(b"")

    async def ask(nursery: trio.Nursery) -> None:
        nursery.start_soon(exchange)
        await trio_websocket.wrap_client_stream(
            nursery,
            opening,  # type: ignore[arg-type]  # any stream will do
            _ANY_HOST,
            target.resource,
            subprotocols=subprotocols,
            extra_headers=_encode_pairs((*target.headers, *offer, *headers)),
        )

    await _shake_hands(ask)
    [switch] = switches
    return switch


def _check_switch(headers: Headers, accept: str, subprotocols: Sequence[str]) -> str | None:
    """Check a 101 as RFC 6455 section 4.1 asks; return the subprotocol that it chooses.

    Raises:
        HandshakeFailed: it must not be taken.
    """
    if headers.get("upgrade", "").lower() != "websocket":
        raise HandshakeFailed("the server's 101 lacks Upgrade: websocket")
    if "upgrade" not in (token.lower() for token in headers.tokens("connection")):
        raise HandshakeFailed("the server's 101 lacks Connection: Upgrade")
    if headers.get("sec-websocket-accept") != accept:
        raise HandshakeFailed("Sec-WebSocket-Accept does not answer our key")
    subprotocol = headers.get("sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in subprotocols:
        raise HandshakeFailed(f"the server chose subprotocol {subprotocol!r}, not offered")
    return subprotocol


def _check_extensions(headers: Headers, compression: Deflate | None) -> Agreement | None:
    """What a 101 says of our offer (RFC 6455 section 4.1, RFC 7692 section 5.1).

    Raises:
        HandshakeFailed: it must not be taken.
    """
    chosen = headers.get(_EXTENSIONS)
    if chosen is None:
        return None
    if compression is None:
        raise HandshakeFailed("the server chose an extension that was not offered")
    try:
        return read_answer(chosen, compression)
    except ValueError as exc:
        raise HandshakeFailed(f"the server's {_EXTENSIONS}: {exc}") from exc


def _encode_head(lines: Sequence[str], subprotocol: str | None) -> bytes:
    chosen = [] if subprotocol is None else [f"Sec-WebSocket-Protocol: {subprotocol}"]
    return "\r\n".join([*lines, *chosen, "", ""]).encode("ascii")


def _encode_pairs(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]


async def _shake_hands(ceremony: Callable[[trio.Nursery], Awaitable[_T]]) -> _T:
    """Run *ceremony* with a nursery of its own, out of which at most one error comes."""
    try:
        async with trio.open_nursery() as nursery:
            result = await ceremony(nursery)
    except BaseException as exc:
        failure = _single_failure(exc)
    else:
        return result
    # Outside the `except`, so that its context is not the group that it came out of.
    try:
        raise failure
    finally:
        del failure  # its traceback leads to this frame


def _single_failure(error: BaseException) -> BaseException:
    """The one error that stands for whatever went wrong during a handshake.

    A cancellation if there was one, since whoever cancelled waits for it; else one of ours.
    """
    failure = min(leaves(error), key=_rank)
    if isinstance(failure, OpenFailed) or not isinstance(failure, Exception):
        return failure
    mapped = _failed(failure)
    mapped.__cause__ = failure
    return mapped


def _failed(cause: Exception) -> HandshakeFailed:
    return HandshakeFailed(f"the opening handshake failed: {str(cause) or type(cause).__name__}")


def _rank(error: BaseException) -> int:
    match error:
        case trio.Cancelled():
            return 1
        case OpenFailed():
            return 2
        case Exception():
            return 3
        case _:  # KeyboardInterrupt and its like
            return 0
