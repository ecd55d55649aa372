"""How a connection ends, as a table (RFC 6455 sections 7.1 and 5.5.1).

Pure: it says what to send and what to tell, and whoever has the connection does that.

The first event that leads out of OPEN is the one that is told, and the only one at which a Close is
sent: so there is one Close at most, and one reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class Phase(Enum):
    """How far the end has come.

    OPEN: it has not begun.
    CLOSING: our Close is said, and the peer's is awaited; messages before that reach nobody.
    DEAF: nothing counts that still comes; what was queued is written.
    AGREED: the same, and both Closes are said.
    CLOSED: the transport is closed.
    """

    OPEN = "OPEN"
    CLOSING = "CLOSING"
    DEAF = "DEAF"
    AGREED = "AGREED"
    CLOSED = "CLOSED"


class Event(Enum):
    """What an end comes by.

    CLOSE: this side closes.
    PEER_CLOSE: the peer's Close has come.
    FAULT: what has come breaks the protocol, or our limits (section 7.1.7).
    LOST: nothing more comes from the transport, or the connection is given up.
    LET_GO: the transport was closed.
    """

    CLOSE = "CLOSE"
    PEER_CLOSE = "PEER_CLOSE"
    FAULT = "FAULT"
    LOST = "LOST"
    LET_GO = "LET_GO"


class Cause(Enum):
    """Whose end it is."""

    LOCAL = "LOCAL"
    PEER = "PEER"
    LOSS = "LOSS"


class Step(NamedTuple):
    """What an event leads to.

    Attributes:
        phase: the next one.
        sends: a Close is sent, with the code of the event.
        tells: whose end it is, where that is now settled; None where it was settled before.
    """

    phase: Phase
    sends: bool = False
    tells: Cause | None = None


STEPS: Final[Mapping[tuple[Phase, Event], Step]] = {
    (Phase.OPEN, Event.CLOSE): Step(Phase.CLOSING, sends=True, tells=Cause.LOCAL),
    (Phase.OPEN, Event.PEER_CLOSE): Step(Phase.AGREED, sends=True, tells=Cause.PEER),
    (Phase.OPEN, Event.FAULT): Step(Phase.DEAF, sends=True, tells=Cause.LOSS),
    (Phase.OPEN, Event.LOST): Step(Phase.DEAF, tells=Cause.LOSS),
    (Phase.OPEN, Event.LET_GO): Step(Phase.CLOSED, tells=Cause.LOSS),
    (Phase.CLOSING, Event.CLOSE): Step(Phase.CLOSING),
    (Phase.CLOSING, Event.PEER_CLOSE): Step(Phase.AGREED),
    (Phase.CLOSING, Event.FAULT): Step(Phase.DEAF),
    (Phase.CLOSING, Event.LOST): Step(Phase.DEAF),
    (Phase.CLOSING, Event.LET_GO): Step(Phase.CLOSED),
    (Phase.DEAF, Event.CLOSE): Step(Phase.DEAF),
    (Phase.DEAF, Event.PEER_CLOSE): Step(Phase.DEAF),
    (Phase.DEAF, Event.FAULT): Step(Phase.DEAF),
    (Phase.DEAF, Event.LOST): Step(Phase.DEAF),
    (Phase.DEAF, Event.LET_GO): Step(Phase.CLOSED),
    (Phase.AGREED, Event.CLOSE): Step(Phase.AGREED),
    (Phase.AGREED, Event.PEER_CLOSE): Step(Phase.AGREED),
    (Phase.AGREED, Event.FAULT): Step(Phase.AGREED),
    (Phase.AGREED, Event.LOST): Step(Phase.AGREED),
    (Phase.AGREED, Event.LET_GO): Step(Phase.CLOSED),
    (Phase.CLOSED, Event.CLOSE): Step(Phase.CLOSED),
    (Phase.CLOSED, Event.PEER_CLOSE): Step(Phase.CLOSED),
    (Phase.CLOSED, Event.FAULT): Step(Phase.CLOSED),
    (Phase.CLOSED, Event.LOST): Step(Phase.CLOSED),
    (Phase.CLOSED, Event.LET_GO): Step(Phase.CLOSED),
}
