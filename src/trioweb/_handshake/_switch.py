"""The 101 with which a server switches to WebSocket; a client expects its like.  Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

EXTENSIONS: Final = "Sec-WebSocket-Extensions"
# RFC 6455 section 4.2.2: the server proves with it that it speaks WebSocket.
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_token(key: bytes) -> str:
    """What the server answers *key* with (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def encode_switch(
    key: bytes,
    *,
    subprotocol: str | None,
    extensions: str = "",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The 101 that answers a request with *key*.

    NOTE: Nothing is checked here: a line feed in one of these would end its line.

    Args:
        key: the request's Sec-WebSocket-Key.
        subprotocol: one of those that the request offers, or None.
        extensions: those agreed upon; "" for none.
        headers: sent along, as `check_request_headers` passes them.

    Source: RFC 6455 section 4.2.2.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_token(key)}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions:
        lines.append(f"{EXTENSIONS}: {extensions}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
