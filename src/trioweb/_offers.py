"""What users may put into an opening handshake, either side: subprotocols and headers, checked."""

from __future__ import annotations

from typing import Final

from ._arguments import check_headers, check_texts, is_token

# What a user may not set: the handshake's own, and what would announce a body.
_RESERVED_HEADERS: Final = frozenset(
    {"host", "upgrade", "connection", "content-length", "transfer-encoding"}
)


def check_subprotocols(owner: str, subprotocols: object) -> tuple[str, ...]:
    """Return *subprotocols* as they are now; every one can stand in Sec-WebSocket-Protocol.

    Raises:
        TypeError, ValueError: they cannot (RFC 6455 section 4.1).
    """
    names = check_texts(owner, "subprotocols", subprotocols)
    for name in names:
        if not is_token(name):
            raise ValueError(
                f"{owner}: subprotocol {_shown_name(name)} is not a token (RFC 6455 4.1)"
            )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{owner}: subprotocols has {_shown_name(name)} twice")
    return names


def _shown_name(subprotocol: str) -> str:
    """*subprotocol* as an error may show it: some carry a token to a browser's WebSocket."""
    limit = 16
    return repr(subprotocol if len(subprotocol) <= limit else f"{subprotocol[:limit]}…")


def check_request_headers(owner: str, headers: object) -> tuple[tuple[str, str], ...]:
    """Return *headers*, a mapping or pairs, as pairs that may be sent along with a handshake.

    Raises:
        TypeError, ValueError: they may not.
    """
    pairs = check_headers(owner, headers)
    for name, _ in pairs:
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{owner}: header {name!r} belongs to the handshake itself")
    return pairs
