"""What a link has received and does not decode yet: a pause, and what gathers meanwhile.

Only records; what is done with them is `_incoming`'s and `_link`'s.
"""

from __future__ import annotations

from collections import deque

import trio


class Pause:
    """A time in which nothing is decoded, because of the inbox or the peer's rate.

    Attributes:
        since: when it began.
        scope: what `Link.carry` waits in meanwhile; None where something else reads for it.
        ended_at: when the peer said that it sends nothing more; None while it has not.
        is_told: the log has been told that nobody receives.
    """

    __slots__ = ("ended_at", "is_told", "scope", "since")

    def __init__(self) -> None:
        self.since = trio.current_time()
        self.scope: trio.CancelScope | None = None
        self.ended_at: float | None = None
        self.is_told = False


class Arrears:
    """What came off the wire and waits to be decoded, as no more is while the inbox is full.

    Attributes:
        chunks: as they came.
        size: bytes of them, so far.
        is_cut: what was fed before them is not all decoded yet.
        end: why nothing comes behind them; None while something may.
    """

    __slots__ = ("chunks", "end", "is_cut", "size")

    def __init__(self, is_cut: bool) -> None:
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.is_cut = is_cut
        self.end: str | None = None

    @property
    def is_empty(self) -> bool:
        return not self.chunks and not self.is_cut
