"""Responses of HTTP/1.1 off a stream: what a server, or a proxy, says to an upgrade.

h11 parses them.  It comes with the first connection that a client opens, since a server needs none
of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import h11
import trio

from .._heads import READ_BYTES, read_head
from .._protocol._http import ENCODING, BadHead, Headers

# What h11 finds at fault with a response, as far as its text repeats nothing of the head.
_FAULTS = (
    "illegal status line",
    "illegal header line",
    "no response line received",
    "continuation line at start of headers",
    "bad Content-Length",
    "conflicting Content-Length headers",
    "multiple Transfer-Encoding headers",
    "Only Transfer-Encoding: chunked is supported",
)
# A response's body is for a person to read, and its status is what matters: no more of the
# body is kept than this, and it is waited for no longer.
_MAX_BODY_BYTES = 64 * 2**10
_MAX_BODY_SECONDS = 1.0


async def read_response(
    stream: trio.abc.Stream, max_bytes: int, *, connects: bool = False
) -> tuple[int, Headers, bytes]:
    """Read the answer to an upgrade; informational ones before it are passed over.

    Args:
        connects: it was no upgrade, but a CONNECT, to which 2xx says yes.

    Returns:
        Status, headers and the bytes behind the head; for a no these are the start of the body.

    Raises:
        BadHead, EOFError, trio.BrokenResourceError: see `read_head`.
    """
    rest = b""
    while True:
        head, rest = await read_head(stream, max_bytes, rest)
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head) + 1)
        # h11 reads a response only in answer to a request that proposed to switch.
        headers_sent = [("Host", "-"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        method, target = ("CONNECT", "-:1") if connects else ("GET", "/")
        parser.send(h11.Request(method=method, target=target, headers=headers_sent))
        try:
            parser.receive_data(head)
            event = parser.next_event()
        except h11.RemoteProtocolError as exc:
            raise BadHead(0, f"not an HTTP/1.1 response{_fault_of(exc)}") from None
        assert isinstance(event, (h11.InformationalResponse, h11.Response))
        headers = Headers(_decode_headers(event.headers))
        status = event.status_code
        if status == 101 or (connects and 200 <= status < 300):
            return status, headers, rest
        if isinstance(event, h11.Response):
            return status, headers, await _read_body(stream, parser, rest)


def _decode_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Names and values as h11 has them, as text."""
    return [(name.decode("ascii"), value.decode(ENCODING)) for name, value in headers]


def _fault_of(error: h11.RemoteProtocolError) -> str:
    """What *error* may say: h11 quotes the line at fault, whole."""
    text = str(error)
    return next((f": {fault}" for fault in _FAULTS if text.startswith(fault)), "")


async def _read_body(stream: trio.abc.Stream, parser: h11.Connection, start: bytes) -> bytes:
    """Read the start of a response's body; whatever goes wrong with it ends it."""
    body = bytearray()
    if start:
        parser.receive_data(start)
    try:
        with trio.move_on_after(_MAX_BODY_SECONDS):
            while len(body) < _MAX_BODY_BYTES:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(bytes(await stream.receive_some(READ_BYTES)))
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass
    return bytes(body[:_MAX_BODY_BYTES])
