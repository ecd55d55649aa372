"""A server's half of the opening handshake: what asks for a WebSocket, and whether it may.

Pure: heads are read, parsed and answered elsewhere.
"""

from __future__ import annotations

import base64

from .._arguments import is_token
from .._protocol._http import BadHead, Request
from .._protocol._requests import body_length
from .._protocol._url import HOST


def check_upgrade(request: Request) -> None:
    """Check that *request* opens a WebSocket as RFC 6455 section 4.2.1 asks.

    Raises:
        BadHead: with the status to refuse it with.
    """
    headers = request.headers
    # It would be taken for frames.
    if body_length(request) != 0:
        raise BadHead(400, "an upgrade here has no body")
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
