"""The log of a topic: publications in order, and what retention keeps of them.

Pure: the time is an argument.  Offsets run 1, 2, 3, … without holes.  The log knows nothing
of subscribers; whoever trims it sees to those who still need what goes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, TypeAlias

from .._policy import Message, Retain

# Delivery is cut into blocks of at most this size (or one publication), at places that all
# subscribers share, so that they share the bytes, too.
BLOCK_BYTES: Final = 64 * 2**10

# A weak reference to whom a publication is not for.
Skip: TypeAlias = Callable[[], object] | None

_BLOCK: Final = attrgetter("block")


class Publication:
    """One entry of a topic.

    Attributes:
        offset: its place: 1, 2, 3, …
        message: what was published.
    """

    __slots__ = ("block", "frame", "message", "offset", "skip", "time")

    def __init__(
        self, offset: int, message: Message, frame: bytes, skip: Skip, time: float, block: int
    ) -> None:
        self.offset = offset
        self.message = message
        self.frame = frame
        self.skip = skip
        self.time = time
        self.block = block

    def __repr__(self) -> str:
        return f"<Publication {self.offset}: {self.message!r:.60}>"


class Log:
    """Publications `first` to `head`; empty when `first` is `head` + 1."""

    __slots__ = ("_block", "_block_bytes", "_dead", "_entries", "first", "head", "retain", "size")

    def __init__(self, retain: Retain) -> None:
        self.retain = retain
        self.first = 1
        self.head = 0
        self.size = 0  # bytes of frames
        # The entries, behind `_dead` places that are free again: an index costs nothing,
        # and the list is moved up only when half of it is dead.
        self._entries: list[Publication | None] = []
        self._dead = 0
        self._block = 0
        self._block_bytes = 0

    def append(self, message: Message, frame: bytes, skip: Skip, now: float) -> int:
        """Add a publication; return its offset."""
        size = len(frame)
        self._block_bytes += size
        if self._block_bytes > BLOCK_BYTES:
            self._block += 1
            self._block_bytes = size
        self.head += 1
        self.size += size
        self._entries.append(Publication(self.head, message, frame, skip, now, self._block))
        return self.head

    def __getitem__(self, offset: int) -> Publication:
        entry = self._entries[offset - self.first + self._dead]
        assert entry is not None
        return entry

    def between(self, cursor: int, end: int) -> Sequence[Publication]:
        """The publications behind *cursor*, up to and including *end*."""
        start = cursor + 1 - self.first + self._dead
        return self._entries[start : start + end - cursor]  # type: ignore[return-value]

    def block_after(self, cursor: int) -> Sequence[Publication]:
        """The publications behind *cursor* that share the block of the first of them."""
        entries = self._entries
        start = cursor + 1 - self.first + self._dead
        block = entries[start].block  # type: ignore[union-attr]
        # The end of a block is most often the end of the log.
        if entries[-1].block == block:  # type: ignore[union-attr]
            return entries[start:]  # type: ignore[return-value]
        stop = bisect_right(entries, block, start, key=_BLOCK)
        return entries[start:stop]  # type: ignore[return-value]

    def floor(self, now: float) -> int:
        """The offset of the first publication that retention keeps."""
        retain = self.retain
        first = max(self.first, self.head + 1 - retain.max_messages)
        size = self.size - sum(
            len(entry.frame) for entry in self.between(self.first - 1, first - 1)
        )
        while size > retain.max_bytes and first < self.head:
            size -= len(self[first].frame)
            first += 1
        if retain.max_age is not None:
            while first <= self.head and self[first].time + retain.max_age <= now:
                first += 1
        return first

    def is_far_over(self) -> bool:
        """Whether the log is beyond twice its bounds."""
        retain = self.retain
        return (
            self.head + 1 - self.first > 2 * retain.max_messages
            # One publication larger than the bound is kept, and needs no help.
            or (self.size > 2 * retain.max_bytes and self.first < self.head)
        )

    def trim(self, first: int) -> None:
        """Drop all before *first*."""
        while self.first < first:
            self.size -= len(self[self.first].frame)
            self._entries[self._dead] = None
            self._dead += 1
            self.first += 1
        if self._dead > 32 and self._dead * 2 > len(self._entries):
            del self._entries[: self._dead]
            self._dead = 0
