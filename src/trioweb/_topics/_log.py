"""The log of a topic: publications in order, and what retention keeps of them.

Pure: the time is an argument.  Offsets run 1, 2, 3, … without holes.  The log knows nothing
of subscribers; whoever trims it sees to those who still need what goes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final, cast

from .._policy import Message, Retain
from .._protocol._frames import decode_message, is_text
from ._details import NOTHING, Details, Kind, Publisher

# Delivery is cut into blocks of at most this size (or one publication), at places that all
# subscribers share, so that they share the bytes, too.
BLOCK_BYTES: Final = 64 * 2**10
# A block of tiny publications takes as long to put together as one of large ones to write.
BLOCK_MESSAGES: Final = 1024

# What is put in front of a log has lower numbers, down to here from its first block.
_FIRST_BLOCK: Final = 2**40

# What a publication takes beside its frame, as measured in CPython 3.11: the entry itself 88
# bytes, its place in the list 8, three numbers and the time 116 less what small ones share.
OVERHEAD_BYTES: Final = 208

_BLOCK: Final = attrgetter("block")
_TOTAL: Final = attrgetter("total")


class Publication:
    """One entry of a topic.

    Attributes:
        offset: its place: 1, 2, 3, …
        message: what was published.
        kind: what that is: "text" or "json", both of which are str, or "bytes".
        key, tags, publisher: as given to `Topic.publish`; None, an empty mapping and None where
            nothing was.
    """

    # Of message and frame one is kept, and the frame is needed more often.  `total` is what this
    # one and all before it take, in bytes: the size of any range is one subtraction.
    __slots__ = ("block", "frame", "offset", "skip", "time", "total")

    def __init__(
        self, offset: int, frame: bytes, skip: str | None, time: float, block: int, total: int
    ) -> None:
        self.offset = offset
        self.frame = frame
        self.skip = skip
        self.time = time
        self.block = block
        self.total = total

    @property
    def message(self) -> Message:
        return decode_message(self.frame)

    @property
    def kind(self) -> Kind:
        if self._details.is_json:
            return "json"
        return "text" if is_text(self.frame) else "bytes"

    @property
    def _is_string(self) -> bool:
        """Whether this is text that was published as a JSON string."""
        return self._details.is_string

    @property
    def key(self) -> str | None:
        return self._details.key

    @property
    def tags(self) -> Mapping[str, str]:
        return self._details.tags

    @property
    def publisher(self) -> Publisher | None:
        return self._details.publisher

    @property
    def _details(self) -> Details:
        return NOTHING

    def __repr__(self) -> str:
        return f"<Publication {self.offset}: {self.message!r:.60}>"


class DetailedPublication(Publication):
    """One that was published with details.  Apart, as hardly any is."""

    __slots__ = ("details",)

    details: Details

    @property
    def _details(self) -> Details:
        return self.details


def size_of(frame: bytes, skip: str | None) -> int:
    """Bytes of memory that a publication without details takes."""
    return len(frame) + OVERHEAD_BYTES + (0 if skip is None else len(skip))


class Log:
    """Publications `first` to `head`; empty when `first` is `head` + 1.

    Args:
        retain: what `floor` goes by.
        head: the offset behind which this log begins.

    Attributes:
        size: bytes of memory that the publications take.
        skips: how many of them have a `skip`.
    """

    __slots__ = (
        "_block",
        "_block_bytes",
        "_block_messages",
        "_dead",
        "_entries",
        "_once",
        "_total",
        "first",
        "head",
        "retain",
        "size",
        "skips",
    )

    def __init__(self, retain: Retain, head: int = 0) -> None:
        self.retain = retain
        self.first = head + 1
        self.head = head
        self.size = 0
        self.skips = 0
        # The entries, behind `_dead` places that are free again: an index costs nothing,
        # and the list is moved up only when half of it is dead.
        self._entries: list[Publication | None] = []
        self._dead = 0
        self._total = 0
        # Where that stands which was published with a key, by publisher and key.
        self._once: dict[tuple[str | None, str], int] = {}
        self._block = _FIRST_BLOCK
        self._block_bytes = 0
        self._block_messages = 0

    @property
    def newest_block(self) -> int:
        """The number of the block that the next publication may still join."""
        return self._block

    def append(self, frame: bytes, skip: str | None, now: float) -> int:
        """Add a publication; return its offset."""
        self._block_bytes += len(frame)
        self._block_messages += 1
        if self._block_bytes > BLOCK_BYTES or self._block_messages > BLOCK_MESSAGES:
            self._block += 1
            self._block_bytes = len(frame)
            self._block_messages = 1
        if skip is not None:
            self.skips += 1
        size = size_of(frame, skip)
        self._total += size
        self.size += size
        self.head += 1
        self._entries.append(Publication(self.head, frame, skip, now, self._block, self._total))
        return self.head

    def append_detailed(self, frame: bytes, skip: str | None, now: float, details: Details) -> int:
        """Add a publication that has details; return its offset."""
        self.append(frame, skip, now)
        plain = self._entries[-1]
        assert plain is not None
        self._total += details.size
        self.size += details.size
        entry = DetailedPublication(self.head, frame, skip, now, plain.block, self._total)
        entry.details = details
        self._entries[-1] = entry
        if details.once is not None:
            self._once[details.once] = self.head
        return self.head

    def prepend(self, older: Sequence[tuple[bytes, str | None, Details, float]]) -> None:
        """Put *older* in front: frame, skip, details and time of each, the newest first."""
        oldest = self[self.first] if self.first <= self.head else None
        block = (self._block if oldest is None else oldest.block) - 1
        latest = math.inf if oldest is None else oldest.time
        offset, total = self.first - 1, self._gone
        block_bytes = block_messages = 0
        entries: list[Publication | None] = []
        for frame, skip, details, time in older:
            block_bytes += len(frame)
            block_messages += 1
            if block_messages > 1 and (
                block_bytes > BLOCK_BYTES or block_messages > BLOCK_MESSAGES
            ):
                block -= 1
                block_bytes, block_messages = len(frame), 1
            latest = min(latest, time)
            if details is NOTHING:
                entry = Publication(offset, frame, skip, latest, block, total)
            else:
                entry = DetailedPublication(offset, frame, skip, latest, block, total)
                entry.details = details
                if details.once is not None:
                    self._once.setdefault(details.once, offset)
            entries.append(entry)
            self.skips += skip is not None
            size = size_of(frame, skip) + details.size
            self.size += size
            total -= size
            offset -= 1
        self._entries[: self._dead] = reversed(entries)
        self._dead = 0
        self.first = offset + 1

    def published(self, details: Details) -> int | None:
        """The offset of the publication with the same key, None if there is none."""
        return None if details.once is None else self._once.get(details.once)

    def __getitem__(self, offset: int) -> Publication:
        """The publication at *offset*, which is retained."""
        entry = self._entries[offset - self.first + self._dead]
        assert entry is not None
        return entry

    def between(self, cursor: int, end: int) -> Sequence[Publication]:
        """The publications behind *cursor*, up to and including *end*."""
        start = cursor + 1 - self.first + self._dead
        return cast("list[Publication]", self._entries[start : start + end - cursor])

    def page(
        self, now: float, after: int | None, count: int | None, *, reverse: bool
    ) -> list[Publication]:
        """Of what retention keeps, *count* at most behind *after*; in reverse, before it."""
        first, head = self.floor(now), self.head
        if reverse:
            end = head if after is None else min(after - 1, head)
            start = first - 1 if count is None else max(first - 1, end - count)
            return list(reversed(self.between(start, end))) if start < end else []
        start = first - 1 if after is None else max(after, first - 1)
        end = head if count is None else min(head, start + count)
        return list(self.between(start, end)) if start < end else []

    def block_after(self, cursor: int) -> Sequence[Publication]:
        """The publications behind *cursor* that share the block of the first of them."""
        entries = cast("list[Publication]", self._entries)
        start = cursor + 1 - self.first + self._dead
        block = entries[start].block
        # The end of a block is most often the end of the log.
        if entries[-1].block == block:
            return entries[start:]
        return entries[start : bisect_right(entries, block, start, key=_BLOCK)]

    def floor(self, now: float) -> int:
        """The offset of the first publication that retention keeps.

        Its cost grows with the logarithm of what the log holds.
        """
        retain = self.retain
        first = max(self.first, self.head + 1 - retain.max_messages)
        entries = cast("list[Publication]", self._entries)
        shift = self.first - self._dead
        if first < self.head:
            # The newest is kept, whatever its size.
            least = self._total - retain.max_bytes
            before = entries[first - 1 - shift].total if first > self.first else self._gone
            if before < least:
                index = bisect_left(entries, least, first - shift, key=_TOTAL)
                # What ends where the bound begins does not fit into it, but the next does.
                first = min(index + 1 + shift, self.head)
        max_age = retain.max_age
        if max_age is not None and first <= self.head:
            # The same sum as whoever waits for it makes, so that they never disagree.
            index = bisect_right(
                entries, now, first - shift, key=lambda entry: entry.time + max_age
            )
            first = index + shift
        return first

    def first_without(self, size: int, keep: int) -> int:
        """Where the log would begin without its oldest publications that together take *size*
        bytes, if it keeps at least the newest *keep* of them."""
        entries = cast("list[Publication]", self._entries)
        shift = self.first - self._dead
        index = bisect_left(entries, self._gone + size, self._dead, key=_TOTAL)
        return min(index + 1 + shift, self.head + 1 - keep)

    @property
    def _gone(self) -> int:
        """The bytes of all that was dropped."""
        return self._total - self.size

    def give_up(self) -> list[Publication | None]:
        """Hand over what the publications are kept in, for somebody to free it by and by."""
        entries, self._entries = self._entries, []
        self._dead = self.size = 0
        self.first = self.head + 1
        return entries

    def trim(self, first: int) -> None:
        """Drop all before *first*."""
        count = first - self.first
        if count <= 0:
            return
        start, stop = self._dead, self._dead + count
        last = self._entries[stop - 1]
        assert last is not None
        if self.skips:
            gone = cast("list[Publication]", self._entries[start:stop])
            self.skips -= sum(entry.skip is not None for entry in gone)
        if self._once:
            for entry in cast("list[Publication]", self._entries[start:stop]):
                once = entry._details.once
                if once is not None and self._once.get(once) == entry.offset:
                    del self._once[once]
        self.size = self._total - last.total
        self._entries[start:stop] = [None] * count
        self._dead = stop
        self.first = first
        if self._dead > 32 and self._dead * 2 > len(self._entries):
            del self._entries[: self._dead]
            self._dead = 0
