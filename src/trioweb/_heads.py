"""Heads of HTTP/1.1 off a stream, and whose socket is under it.

A head is read whole, within limits of size (here) and time (the caller's), and without control
characters or bare LFs.  What a request's says is `_requests`' business, and a response's
`_handshake._responses`'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import trio

from ._protocol._http import Address, BadHead

_HEAD_END = b"\r\n\r\n"
# All that a head may contain; see `_is_clean`.  Where bytes above ASCII may stand, in the values of
# headers and in reason phrases (RFC 9110 section 5.5, RFC 9112 section 4), its parser sees to.
_CLEAN = bytes([*b"\t\r\n", *range(0x20, 0x7F), *range(0x80, 0x100)])
READ_BYTES = 16 * 2**10


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

    return address(socket.getpeername), _shared(address(socket.getsockname))


@lru_cache(maxsize=64)
def _shared(local: Address) -> Address:
    """*local*, as one object for all connections to it, which keep it for as long as they last."""
    return local


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
        data = await stream.receive_some(READ_BYTES)
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
