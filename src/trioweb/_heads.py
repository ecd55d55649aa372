"""Heads of HTTP/1.1 off a stream, and whose socket is under it.

A head is read whole, within limits of size (here) and time (the caller's), and without control
characters or bare LFs.  What a request's says is
`_requests`' business; a response's is parsed by h11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import h11
import trio

from ._protocol._http import ENCODING, Address, BadHead, Headers

_HEAD_END = b"\r\n\r\n"
# All that a head may contain; see `_is_clean`.  Where bytes above ASCII may stand, in the values of
# headers and in reason phrases (RFC 9110 section 5.5, RFC 9112 section 4), h11 sees to.
_CLEAN = bytes([*b"\t\r\n", *range(0x20, 0x7F), *range(0x80, 0x100)])
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
_READ_BYTES = 16 * 2**10
# A response's body is for a person to read, and its status is what matters: no more of the
# body is kept than this, and it is waited for no longer.
_MAX_BODY_BYTES = 64 * 2**10
_MAX_BODY_SECONDS = 1.0


def addresses(stream: trio.abc.Stream) -> tuple[Address, Address]:
    """The remote and the local address of the socket under *stream*, "" where there is none."""
    transport = stream
    while (below := getattr(transport, "transport_stream", None)) is not None:
        transport = below
    socket = getattr(transport, "socket", None)
    if socket is None:
        return "", ""

    def address(get_name: Callable[[], object]) -> Address:
        try:
            name = get_name()
        except OSError:  # the peer has gone already
            return ""
        if isinstance(name, tuple):
            return str(name[0]), int(name[1])
        return name if isinstance(name, str) else ""

    return address(socket.getpeername), address(socket.getsockname)


async def read_head(
    stream: trio.abc.Stream, max_bytes: int, start: bytes = b"", *, pass_empty_line: bool = False
) -> tuple[bytes, bytes]:
    """Read up to and including a blank line.

    Args:
        start: what is read already.
        pass_empty_line: leave out one in front of the head, as servers should: RFC 9112 section
            2.2 has some clients send it behind the request before.

    Returns:
        The head, and the bytes that came behind it.

    Raises:
        BadHead: too large, or with bytes that no head may have; as soon as they are seen.
        EOFError: the peer ended its sending first.
        trio.BrokenResourceError: the transport failed.
    """
    head = bytearray(start)
    seen = 0
    while True:
        while head.startswith(b"\r\n"):
            if not pass_empty_line:
                raise BadHead(400, "not an HTTP/1.1 head")
            pass_empty_line = False
            del head[:2]
            seen = 0
        end = head.find(_HEAD_END, max(0, seen - len(_HEAD_END) + 1))
        stop = len(head) if end < 0 else end + len(_HEAD_END)
        # A CR may have been the last byte so far, and its LF the first of what is new.
        if not _is_clean(head[seen - head.endswith(b"\r", 0, seen) : stop]):
            raise BadHead(400, "not an HTTP/1.1 head")
        if stop > max_bytes:
            raise BadHead(431, f"head of more than {max_bytes} bytes (Limits.max_request_bytes)")
        if end >= 0:
            return bytes(head[:stop]), bytes(head[stop:])
        seen = len(head)
        data = await stream.receive_some(_READ_BYTES)
        if not data:
            raise EOFError(f"the peer closed after {seen} bytes of its HTTP head")
        head += data


def _is_clean(part: bytearray) -> bool:
    """Whether *part* of a head has no controls, bare LF or, but at its end, bare CR.

    RFC 9112 section 2.2 forbids a bare CR, and a bare LF is a classic way to smuggle a line past
    a proxy.
    """
    lines = part.count(b"\r\n")
    return (
        not part.translate(None, _CLEAN)
        and part.count(b"\n") == lines
        and part.count(b"\r") - part.endswith(b"\r") == lines
    )


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
                    parser.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        pass
    return bytes(body[:_MAX_BODY_BYTES])
