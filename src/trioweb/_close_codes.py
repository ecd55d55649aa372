"""The close codes of RFC 6455 section 7.4, and which of them may be sent."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The registered close codes (RFC 6455 section 7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


# RFC 6455 section 7.4.1: 1004, 1005, 1006 and 1015 must not appear on the wire.
_ON_THE_WIRE = frozenset({*range(1000, 1004), *range(1007, 1015)})


def is_wire_code(code: int) -> bool:
    """Whether *code* may stand in a Close frame (RFC 6455 section 7.4)."""
    return code in _ON_THE_WIRE or 3000 <= code <= 4999
