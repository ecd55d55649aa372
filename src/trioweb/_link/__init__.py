"""One connection over its transport: what goes out, what comes in, and how it ends."""

from ._carrying import Reads
from ._contain import describe
from ._gone import END_OF_TRANSPORT
from ._link import Link
from ._owner import Spawn
from ._queue import SendQueue
from ._state import OPEN, ConnectionStatistics, State

__all__ = [
    "END_OF_TRANSPORT",
    "OPEN",
    "ConnectionStatistics",
    "Link",
    "Reads",
    "SendQueue",
    "Spawn",
    "State",
    "describe",
]
