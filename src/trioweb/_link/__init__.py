"""One connection over its transport: what goes out, what comes in, and how it ends."""

from ._carrying import END_OF_TRANSPORT
from ._contain import describe
from ._incoming import Replies, reply_key
from ._link import Link, LinkStatistics
from ._owner import Spawn
from ._queue import SendQueue
from ._state import OPEN, State

__all__ = [
    "END_OF_TRANSPORT",
    "OPEN",
    "Link",
    "LinkStatistics",
    "Replies",
    "SendQueue",
    "Spawn",
    "State",
    "describe",
    "reply_key",
]
