"""Upgrades, good and bad, as requests and as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trioweb import Request

# RFC 6455 section 1.3.
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MAX_HEAD_BYTES: Final = 16 * 2**10

_UPGRADE: Final = {
    "Host": "trioweb.test",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def upgrade(
    changes: Mapping[str, str | None] | None = None,
    *more: tuple[str, str],
    method: str = "GET",
) -> Request:
    """A good upgrade with *changes* (None leaves a header out), and *more* behind it."""
    headers = {**_UPGRADE, **(changes or {})}
    pairs = [(name, value) for name, value in headers.items() if value is not None]
    return Request(method, "/", [*pairs, *more])


def encode_request(request: Request) -> bytes:
    lines = [f"{name}: {value}" for name, value in request.headers.items_all()]
    head = [f"{request.method} {request.target} HTTP/1.1", *lines, "", ""]
    return "\r\n".join(head).encode("ascii")
