"""The little of RFC 6455 that a load generator needs, by hand, on blocking sockets.

Not a WebSocket implementation: it trusts its peer, offers no extension and knows only short heads.
It must not import any of the packages under measurement.
"""

import base64
import hashlib
import socket
import struct

HOST = "127.0.0.1"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = base64.b64encode(b"the same nonce..")


def _accept_key(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


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


def connect(port: int) -> tuple[socket.socket, bytes]:
    """Open a WebSocket; return its socket and what the server sent behind its handshake."""
    sock = socket.create_connection((HOST, port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: %b:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % (HOST.encode(), port, _KEY)
    )
    head, rest = _read_head(sock)
    if not head.startswith(b"HTTP/1.1 101 ") or _accept_key(_KEY) not in head:
        raise ConnectionError(f"the server refused: {head!r}")
    return sock, rest


def accept(listener: socket.socket) -> socket.socket:
    """Accept a WebSocket whose client waits for the handshake before it sends anything."""
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head, _ = _read_head(sock)
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % _accept_key(fields[b"sec-websocket-key"])
    )
    return sock


def text_frame(text: str) -> bytes:
    """Return a text message as a server sends it: one frame, unmasked."""
    payload = text.encode()
    if len(payload) < 126:
        return struct.pack("!BB", 0x81, len(payload)) + payload
    if len(payload) < 2**16:
        return struct.pack("!BBH", 0x81, 126, len(payload)) + payload
    return struct.pack("!BBQ", 0x81, 127, len(payload)) + payload
