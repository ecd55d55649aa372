"""The states of a connection."""

from __future__ import annotations

from enum import IntEnum
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
