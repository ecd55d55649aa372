"""The little of RFC 6455 that a load generator needs, by hand, on blocking sockets.

Not a WebSocket implementation: it trusts its peer and knows no more than it meets here.
It must not import any of the packages under measurement.
"""

import base64
import hashlib
import socket
import ssl
import struct

HOST = "127.0.0.1"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = base64.b64encode(b"the same nonce..")
_MASK = b"\x12\x34\x56\x78"
_DEFLATE_OFFER = (
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"  # browsers'
)
# A server accepts this many at once without its backlog being asked for more.
_TOGETHER = 32


def _accept_key(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


_ACCEPTED = _accept_key(_KEY)


def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request or response, and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(65536)
        if not chunk:
            raise ConnectionError(f"the peer left in mid-handshake, having said {data!r}")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def request(port: int, path: str = "/", extra: bytes = b"") -> bytes:
    """Return the head of an opening handshake."""
    return (
        b"GET %b HTTP/1.1\r\nHost: %b:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n%b\r\n"
    ) % (path.encode(), HOST.encode(), port, _KEY, extra)


def connect(
    port: int,
    count: int = 1,
    *,
    authority: str = "",
    deflate: bool = False,
    receive_buffer: int = 0,
) -> list[tuple[socket.socket, bytes]]:
    """Open WebSockets, some at a time.

    Args:
        port: of the server.
        count: how many.
        authority: the file of the certificate authority, if it is TLS.
        deflate: offer permessage-deflate as browsers do.
        receive_buffer: bytes for the kernel to keep unread; 0 for its default.

    Returns:
        Each socket, and what the server sent behind its handshake.
    """
    context = ssl.create_default_context(cafile=authority) if authority else None
    asked = request(port, extra=_DEFLATE_OFFER if deflate else b"")
    opened: list[tuple[socket.socket, bytes]] = []
    while len(opened) < count:
        batch = []
        for _ in range(min(_TOGETHER, count - len(opened))):
            sock = socket.socket()
            if receive_buffer:  # before connecting, when the window's scale is settled
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect((HOST, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                sock = context.wrap_socket(sock, server_hostname=HOST)
            sock.sendall(asked)
            batch.append(sock)
        for sock in batch:
            head, rest = _read_head(sock)
            if not head.startswith(b"HTTP/1.1 101 ") or _ACCEPTED not in head:
                raise ConnectionError(f"the server refused: {head!r}")
            if deflate and b"permessage-deflate" not in head:
                raise ConnectionError(f"the server does not compress: {head!r}")
            opened.append((sock, rest))
    return opened


def close(opened: list[tuple[socket.socket, bytes]]) -> None:
    """Close WebSockets as a client does, some at a time; each by itself, the peer's Close first."""
    for start in range(0, len(opened), _TOGETHER):
        batch = opened[start : start + _TOGETHER]
        for sock, _ in batch:
            sock.sendall(client_frame(CLOSE, (1000).to_bytes(2)))
        for sock, rest in batch:
            frames = Frames()
            # A peer that has closed its side may have said nothing.
            while all(opcode != CLOSE for opcode, _ in frames.feed(rest)):
                if not (rest := sock.recv(65536)):
                    break
            sock.close()


def accept(sock: socket.socket, *, deflate: bool = False) -> None:
    """Answer the handshake of a client that waits for it before it sends anything."""
    sock.sendall(accepted(_read_head(sock)[0], deflate=deflate))


def accepted(head: bytes, *, deflate: bool = False) -> bytes:
    """Return the answer to the head of a client's request."""
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    extension = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
        % (_accept_key(fields[b"sec-websocket-key"]), extension if deflate else b"")
    )


def _head(first: int, length: int, mask: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", first, mask | length)
    if length < 2**16:
        return struct.pack("!BBH", first, mask | 126, length)
    return struct.pack("!BBQ", first, mask | 127, length)


def text_frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """Return a text message as a server sends it: one frame, unmasked."""
    return _head(0xC1 if compressed else 0x81, len(payload), 0) + payload


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as a client sends it: masked."""
    masked = bytes(byte ^ _MASK[index % 4] for index, byte in enumerate(payload))
    return _head(0x80 | opcode, len(payload), 0x80) + _MASK + masked


def unmasked(frame: bytes) -> bytes:
    """Return the payload of a frame from `client_frame` that has less than 126 bytes of it."""
    size = len(frame) - 6
    key = (frame[2:6] * (size // 4 + 1))[:size]
    return (int.from_bytes(frame[6:]) ^ int.from_bytes(key)).to_bytes(size)


class Frames:
    """Counts the unmasked frames in what one server sends, and keeps what it has of the last."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the opcode and payload of each frame that is whole now."""
        data = self._data + data
        frames = []
        start = 0
        while len(data) - start >= 2:
            length, body = data[start + 1], start + 2
            if length == 126:
                length, body = int.from_bytes(data[start + 2 : start + 4], "big"), start + 4
            elif length == 127:
                length, body = int.from_bytes(data[start + 2 : start + 10], "big"), start + 10
            if len(data) < body + length:
                break
            frames.append((data[start] & 0x0F, data[body : body + length]))
            start = body + length
        self._data = data[start:]
        return frames
