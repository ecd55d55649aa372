"""The states of a connection and of its send queue, and what a connection has carried."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

from .._dataclass import dataclass


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


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """What a connection has carried.

    `messages_sent` and `bytes_sent` count what `send` took; what topics delivered stands in each
    subscription's cursor.  `discarded` counts messages that arrived complete and reached
    nobody, because this side had closed or was only waiting for the end.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    discarded: int
    inbox_messages: int
    buffered_amount: int
