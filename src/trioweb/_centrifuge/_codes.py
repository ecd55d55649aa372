"""The protocol's numbers: errors of replies, unsubscribing, and closing a connection.

A code says three things: what happened, in words for people; and what the peer does about it,
which is nothing that a server can choose freely.  Codes of applications follow the same ranges.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Final, Self

# RFC 6455 section 5.5: a control frame has 125 bytes, of which the code takes two.
_MAX_REASON_BYTES: Final = 123


class ErrorCode(IntEnum):
    """The error in a reply."""

    message: str
    temporary: bool

    def __new__(cls, code: int, message: str, temporary: bool = False) -> Self:
        self = int.__new__(cls, code)
        self._value_ = code
        self.message = message
        self.temporary = temporary
        return self

    INTERNAL = 100, "internal server error", True
    UNAUTHORIZED = 101, "unauthorized"
    UNKNOWN_TOPIC = 102, "unknown channel"
    PERMISSION_DENIED = 103, "permission denied"
    METHOD_NOT_FOUND = 104, "method not found"
    ALREADY_SUBSCRIBED = 105, "already subscribed"
    LIMIT_EXCEEDED = 106, "limit exceeded"
    BAD_REQUEST = 107, "bad request"
    NOT_AVAILABLE = 108, "not available"
    TOKEN_EXPIRED = 109, "token expired"
    EXPIRED = 110, "expired"
    TOO_MANY_REQUESTS = 111, "too many requests", True
    UNRECOVERABLE_POSITION = 112, "unrecoverable position"
    CONCURRENT_PAGINATION = 113, "concurrent pagination", True
    # Ours, in the range of applications, as HTTP has it: a call's deadline has passed.
    DEADLINE_PASSED = 408, "deadline passed"


class UnsubscribeCode(IntEnum):
    """Why the server has ended one subscription."""

    reason: str

    def __new__(cls, code: int, reason: str) -> Self:
        self = int.__new__(cls, code)
        self._value_ = code
        self.reason = reason
        return self

    SERVER = 2000, "server unsubscribe"
    INSUFFICIENT_STATE = 2500, "insufficient state"
    EXPIRED = 2501, "subscription expired"
    STATE_INVALIDATED = 2502, "state invalidated"


class DisconnectCode(IntEnum):
    """The code of a Close frame."""

    reason: str

    def __new__(cls, code: int, reason: str) -> Self:
        self = int.__new__(cls, code)
        self._value_ = code
        self.reason = reason
        return self

    CONNECTION_CLOSED = 3000, "connection closed"
    SHUTDOWN = 3001, "shutdown"
    SERVER_ERROR = 3004, "internal server error"
    EXPIRED = 3005, "connection expired"
    SUBSCRIPTION_EXPIRED = 3006, "subscription expired"
    SLOW = 3008, "slow"
    WRITE_ERROR = 3009, "write error"
    INSUFFICIENT_STATE = 3010, "insufficient state"
    FORCE_RECONNECT = 3011, "force reconnect"
    NO_PONG = 3012, "no pong"
    TOO_MANY_REQUESTS = 3013, "too many requests"
    # The client also drops its token and its positions.
    STATE_INVALIDATED = 3014, "state invalidated"
    INVALID_TOKEN = 3500, "invalid token"
    BAD_REQUEST = 3501, "bad request"
    STALE = 3502, "stale"
    FORCE_DISCONNECT = 3503, "force disconnect"
    CONNECTION_LIMIT = 3504, "connection limit"
    TOPIC_LIMIT = 3505, "channel limit"
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol"
    PERMISSION_DENIED = 3507, "permission denied"
    NOT_AVAILABLE = 3508, "not available"
    TOO_MANY_ERRORS = 3509, "too many errors"


def is_retried(code: int, temporary: bool) -> bool:
    """Whether a client tries again what was refused with this error.

    Below 100 are the client's own; for an expired token it gets a new one first.
    """
    return temporary or code < 100 or code == ErrorCode.TOKEN_EXPIRED


def resubscribes(code: int) -> bool:
    """Whether a client that was unsubscribed with *code* subscribes again, with its position."""
    return code >= 2500


def reconnects(code: int) -> bool:
    """Whether a client comes back after a Close with *code*."""
    if code == 1009:  # what it sends is too big, and would be again
        return False
    return not (3500 <= code < 4000 or 4500 <= code < 5000)


def is_applications_unsubscribe(code: int) -> bool:
    """Whether an application may unsubscribe with *code*: 2000 to 2999, but 2500 to 2599."""
    return 2000 <= code < 2500 or 2600 <= code < 3000


def close_reason(code: int, reason: str = "") -> str:
    """*reason* as it may stand in a Close with *code*.

    The JavaScript client looks at the reason before the code: it comes back after a final code
    whose reason is empty, and takes for the server's advice whatever can be read as JSON.  So
    there always is a reason, it never is JSON, and it is cut to what a Close frame holds.

    Args:
        reason: "" for the code's own.
    """
    if not reason.strip():
        reason = next((known.reason for known in DisconnectCode if known == code), "closed")
    whole = reason.encode("utf-8", "replace")
    reason = whole[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
    if _is_json(reason):
        whole = f"reason: {reason}".encode()
        reason = whole[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
    return reason


def _is_json(text: str) -> bool:
    # The standard library's reader takes a little more (NaN), which is no loss.
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
