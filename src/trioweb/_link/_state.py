"""The states of a connection, and of its send queue."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final


class State(IntEnum):
    """The states of a connection, with the numbers that browsers use."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


# To look up a member takes longer than to compare with it, and each message has it compared
# several times.
OPEN: Final = State.OPEN


class QueueState(Enum):
    """What becomes of what is put.

    IDLE: the wire gets it at once.
    DRAINING: it is queued, behind what is there.
    SHUT: it is dropped; what is queued is still written.
    BROKEN: it is dropped, and what was queued is lost.
    """

    IDLE = "IDLE"
    DRAINING = "DRAINING"
    SHUT = "SHUT"
    BROKEN = "BROKEN"


# To look up a member takes longer than to compare with it.
IDLE: Final = QueueState.IDLE
DRAINING: Final = QueueState.DRAINING
SHUT: Final = QueueState.SHUT
BROKEN: Final = QueueState.BROKEN
