"""A client's half of the opening handshake.  The only module that imports trio_websocket.

trio-websocket makes the request, through its public door `wrap_client_stream`, over a stream of
ours that takes one head down and one up.  The transport is read and written here, and the answer
is checked before trio-websocket sees what it must know of it; wsproto is stricter than RFC 6455
with the rest.  Once the 101 has passed, its reader is told that the stream has ended, and the
nursery that it runs in closes.

NOTE: trio-websocket takes a BrokenResourceError of its stream, which `OpenFailed` is too, for
a quiet end, and then waits for ever (0.12.2).  So no error of the transport ever reaches it:
the nursery holds whatever went wrong, and one error of ours comes out.  Deadlines are the
caller's: a cancelled handshake leaves a transport that can only be closed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import trio

from .._dataclass import dataclass
from .._error_groups import leaves
from .._errors import HandshakeFailed, HandshakeRejected, OpenFailed
from .._policy import Deflate
from .._protocol._deflate import OFFER, Agreement, read_answer
from .._protocol._http import Headers
from .._protocol._url import Target
from ._switch import EXTENSIONS, accept_token, encode_switch

_T = TypeVar("_T")

_KEY_LINE: Final = rb"(?i)\r\nSec-WebSocket-Key:\s*(\S+)"
# wsproto puts Host through the IDNA of 2003, which knows neither all of today's names nor ports,
# so this is the one that trio-websocket sees.
_ANY_HOST: Final = "-"
_ANY_HOST_LINE: Final = b"\r\nHost: -\r\n"


class _Opening(trio.abc.Stream):
    """What trio-websocket takes for the transport: a head goes down, a head comes up, the end."""

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
    # Here, because a server needs neither them nor wsproto and h11, which take 35 ms.
    import trio_websocket

    from ._responses import read_response

    opening = _Opening()
    switches: list[Switch] = []
    offer = [] if compression is None else [(EXTENSIONS, OFFER)]

    async def exchange() -> None:
        request = await opening.handed_down()
        host_line = f"\r\nHost: {target.authority}\r\n".encode("ascii")
        await transport.send_all(request.replace(_ANY_HOST_LINE, host_line, 1))
        status, answer_headers, rest = await read_response(transport, max_head_bytes)
        if status != 101:
            raise HandshakeRejected(status, answer_headers.items_all(), rest)
        key = re.search(_KEY_LINE, request)
        assert key is not None, "trio-websocket sends one"
        subprotocol = _check_switch(answer_headers, accept_token(key[1]), subprotocols)
        agreement = _check_extensions(answer_headers, compression)
        switches.append(Switch(answer_headers, subprotocol, agreement, rest))
        opening.hand_up(encode_switch(key[1], subprotocol=subprotocol))
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
    chosen = headers.get(EXTENSIONS)
    if chosen is None:
        return None
    if compression is None:
        raise HandshakeFailed("the server chose an extension that was not offered")
    try:
        return read_answer(chosen, compression)
    except ValueError as exc:
        raise HandshakeFailed(f"the server's {EXTENSIONS}: {exc}") from exc


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
    what = str(failure) or type(failure).__name__
    mapped = HandshakeFailed(f"the opening handshake failed: {what}")
    mapped.__cause__ = failure
    return mapped


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
