"""What a link has received and does not decode yet: what gathers in a pause.

Only a record; what is done with it is `_incoming`'s.
"""

from __future__ import annotations

from collections import deque


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
