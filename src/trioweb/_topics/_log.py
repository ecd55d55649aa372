"""The log of a topic: publications in order, and what retention keeps of them.

Pure: the time is an argument.  Offsets run 1, 2, 3, … without holes.  The log knows nothing
of subscribers; whoever trims it sees to those who still need what goes.

What a publication is made of stands in lists and arrays, one for each attribute, and an object of
it is made for whoever asks.  So the garbage collector has nothing to walk through: logs have
hundreds of thousands of publications, and to look at an object for each took it 85 ms, in which
all stood still.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from .._policy import Message, Retain
from .._protocol._frames import decode_message, is_text
from ._details import NOTHING, Details, Kind, Publisher

# Delivery is cut into blocks of at most this size (or one publication), at places that all
# subscribers share, so that they share the bytes, too.
BLOCK_BYTES: Final = 64 * 2**10
# A block of tiny publications takes as long to put together as one of large ones to write.
BLOCK_MESSAGES: Final = 1024

# What a publication takes beside its frame's bytes, as measured in CPython 3.11: 33 of the bytes
# object and some 8 of its allocation, its places in the list 9 and in the arrays 17, and at worst
# half as many places again that are free and not given back yet.
OVERHEAD_BYTES: Final = 80

# The columns of a log that has nothing for them.
# NOTE: They are all logs', and stay empty: whoever has something for one begins a list of its own.
_NO_MARKS: Final[list[str | None]] = []
_NO_DETAILS: Final[list[Details | None]] = []


class Publication:
    """One entry of a topic.

    Attributes:
        offset: its place: 1, 2, 3, …
        message: what was published.
        kind: what that is: "text" or "json", both of which are str, or "bytes".
        key, tags, publisher: as given to `Topic.publish`; None, an empty mapping and None where
            nothing was.
    """

    __slots__ = ("_details", "_frame", "offset")

    def __init__(self, offset: int, frame: bytes, details: Details) -> None:
        self.offset = offset
        # Of message and frame one is kept, and the frame is needed more often.
        self._frame = frame
        self._details = details

    @property
    def message(self) -> Message:
        return decode_message(self._frame)

    @property
    def kind(self) -> Kind:
        if self._details.is_json:
            return "json"
        return "text" if is_text(self._frame) else "bytes"

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

    def __repr__(self) -> str:
        return f"<Publication {self.offset}: {self.message!r:.60}>"


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
        "_block_bytes",
        "_blocks",
        "_dead",
        "_details",
        "_frames",
        "_marks",
        "_once",
        "_times",
        "_total",
        "_totals",
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
        # Where that stands which was published with a key, by publisher and key.
        self._once: dict[tuple[str | None, str], int] = {}
        # What each has, behind `_dead` places that are free again: an index costs nothing, and all
        # is moved up only when half of it is dead.
        self._dead = 0
        self._frames: list[bytes | None] = []
        self._times = array("d")
        # What it and all before it take, in bytes: the size of any range is one subtraction.
        self._totals = array("q")
        self._total = 0
        # Who does not get it, and its details: empty until the first publication has one, as most
        # topics never have.
        self._marks: list[str | None] = _NO_MARKS
        self._details: list[Details | None] = _NO_DETAILS
        # The offsets with which the blocks begin.
        self._blocks = [head + 1]
        self._block_bytes = 0

    def begin_behind(self, head: int) -> None:
        """Begin behind the offset *head*.  Nothing was in the log yet."""
        self.head = head
        self.first = self._blocks[0] = head + 1

    @property
    def newest_block(self) -> int:
        """Where the block begins that the next publication may still join."""
        return self._blocks[-1]

    def append(self, frame: bytes, skip: str | None, now: float, details: Details = NOTHING) -> int:
        """Add a publication; return its offset."""
        head = self.head = self.head + 1
        self._block_bytes += len(frame)
        if self._block_bytes > BLOCK_BYTES or head - self._blocks[-1] >= BLOCK_MESSAGES:
            if head > self._blocks[-1]:
                self._blocks.append(head)
            self._block_bytes = len(frame)
        size = size_of(frame, skip) + details.size
        self.size += size
        self._total += size
        if skip is not None or self._marks:
            self._mark(skip)
        if details is not NOTHING or self._details:
            self._describe(details)
        self._frames.append(frame)
        self._times.append(now)
        self._totals.append(self._total)
        return head

    def _mark(self, skip: str | None) -> None:
        if not self._marks:
            self._marks = [None] * len(self._frames)
        self._marks.append(skip)
        self.skips += skip is not None

    def _describe(self, details: Details) -> None:
        if not self._details:
            self._details = [NOTHING] * len(self._frames)
        self._details.append(details)
        if details.once is not None:
            self._once[details.once] = self.head

    def prepend(self, older: Sequence[tuple[bytes, str | None, Details, float]]) -> None:
        """Put *older* in front: frame, skip, details and time of each, the newest first."""
        latest = self.time(self.first) if self.first <= self.head else math.inf
        begin = offset = self.first
        total = self._gone
        times, totals = array("d"), array("q")
        # The block under way ends before this one.
        stop, block_bytes = offset, 0
        blocks: list[int] = []
        for frame, skip, details, time in older:
            offset -= 1
            block_bytes += len(frame)
            if block_bytes > BLOCK_BYTES or stop - offset > BLOCK_MESSAGES:
                if offset + 1 < stop:
                    stop = offset + 1
                    blocks.append(stop)
                block_bytes = len(frame)
            latest = min(latest, time)
            times.append(latest)
            totals.append(total)
            size = size_of(frame, skip) + details.size
            self.size += size
            total -= size
            if details.once is not None:
                self._once.setdefault(details.once, offset)
        if offset < begin:
            # What was the first block may have begun with what is gone.
            self._blocks[0] = begin
            self._blocks[:0] = [offset, *reversed(blocks)]
        dead, count = self._dead, len(self._frames)
        if self._marks or any(skip is not None for _, skip, _, _ in older):
            self._marks = self._marks or [None] * count
            self._marks[:dead] = [skip for _, skip, _, _ in reversed(older)]
            self.skips = len(self._marks) - self._marks.count(None)
        if self._details or any(details is not NOTHING for _, _, details, _ in older):
            self._details = self._details or [NOTHING] * count
            self._details[:dead] = [details for _, _, details, _ in reversed(older)]
        self._frames[:dead] = [frame for frame, _, _, _ in reversed(older)]
        times.reverse()
        totals.reverse()
        self._times[:dead] = times
        self._totals[:dead] = totals
        self._dead = 0
        self.first = offset

    def published(self, details: Details) -> int | None:
        """The offset of the publication with the same key, None if there is none."""
        return None if details.once is None else self._once.get(details.once)

    # What is retained: of an offset, or behind a *cursor* up to and including *end*.

    def __getitem__(self, offset: int) -> Publication:
        """The publication at *offset*, which is retained."""
        return Publication(offset, self.frame(offset), self.details(offset))

    def frame(self, offset: int) -> bytes:
        frame = self._frames[offset - self.first + self._dead]
        assert frame is not None
        return frame

    def skip(self, offset: int) -> str | None:
        """The key of who does not get it."""
        return self._marks[offset - self.first + self._dead] if self._marks else None

    def details(self, offset: int) -> Details:
        if not self._details:
            return NOTHING
        details = self._details[offset - self.first + self._dead]
        assert details is not None
        return details

    def time(self, offset: int) -> float:
        """When it was published."""
        return self._times[offset - self.first + self._dead]

    def frames(self, cursor: int, end: int) -> list[bytes]:
        start = cursor + 1 - self.first + self._dead
        return cast("list[bytes]", self._frames[start : start + end - cursor])

    def marks(self, cursor: int, end: int) -> list[str | None]:
        """Who does not get each of them; nothing at all if there is nobody in the whole log."""
        if not self.skips:
            return []
        start = cursor + 1 - self.first + self._dead
        return self._marks[start : start + end - cursor]

    def page(
        self, now: float, after: int | None, count: int | None, *, reverse: bool
    ) -> list[Publication]:
        """Of what retention keeps, *count* at most behind *after*; in reverse, before it."""
        first, head = self.floor(now), self.head
        if reverse:
            end = head if after is None else min(after - 1, head)
            start = first - 1 if count is None else max(first - 1, end - count)
            return [self[offset] for offset in range(end, start, -1)]
        start = first - 1 if after is None else max(after, first - 1)
        end = head if count is None else min(head, start + count)
        return [self[offset] for offset in range(start + 1, end + 1)]

    def block_after(self, cursor: int) -> tuple[int, int]:
        """Where the block of what comes behind *cursor* begins, and the last offset in it."""
        blocks = self._blocks
        # The newest block is asked for most often.
        if cursor + 1 >= blocks[-1]:
            return blocks[-1], self.head
        index = bisect_right(blocks, cursor + 1)
        return blocks[index - 1], blocks[index] - 1

    # What retention keeps.

    def floor(self, now: float) -> int:
        """The offset of the first publication that retention keeps.

        Its cost grows with the logarithm of what the log holds.
        """
        retain = self.retain
        first = max(self.first, self.head + 1 - retain.max_messages)
        shift = self.first - self._dead
        if first < self.head:
            # The newest is kept, whatever its size.
            least = self._total - retain.max_bytes
            before = self._totals[first - 1 - shift] if first > self.first else self._gone
            if before < least:
                index = bisect_left(self._totals, least, first - shift)
                # What ends where the bound begins does not fit into it, but the next does.
                first = min(index + 1 + shift, self.head)
        max_age = retain.max_age
        if max_age is not None and first <= self.head:
            # The same sum as whoever waits for it makes, so that they never disagree.
            index = bisect_right(self._times, now, first - shift, key=lambda time: time + max_age)
            first = index + shift
        return first

    def first_without(self, size: int, keep: int) -> int:
        """Where the log would begin without its oldest publications that together take *size*
        bytes, if it keeps at least the newest *keep* of them."""
        shift = self.first - self._dead
        index = bisect_left(self._totals, self._gone + size, self._dead)
        return min(index + 1 + shift, self.head + 1 - keep)

    @property
    def _gone(self) -> int:
        """The bytes of all that was dropped."""
        return self._total - self.size

    def give_up(self) -> list[list[Any]]:
        """Hand over what takes long to be freed, for somebody to do that by and by: the frames,
        and what belongs to them."""
        remains: list[list[Any]] = [self._frames, self._marks, self._details]
        self._frames, self._marks, self._details = [], _NO_MARKS, _NO_DETAILS
        self._times, self._totals = array("d"), array("q")
        self._dead = self.size = self.skips = 0
        self.first = self.head + 1
        return remains

    def trim(self, first: int) -> None:
        """Drop all before *first*."""
        count = first - self.first
        if count <= 0:
            return
        start, stop = self._dead, self._dead + count
        if self.skips:
            self.skips -= count - self._marks[start:stop].count(None)
        if self._once:
            for offset in range(self.first, first):
                once = self.details(offset).once
                if once is not None and self._once.get(once) == offset:
                    del self._once[once]
        self.size = self._total - self._totals[stop - 1]
        # All of the same length, or empty.
        for kept in (self._frames, self._marks, self._details):
            kept[start:stop] = [None] * min(count, len(kept))
        self._dead = stop
        self.first = first
        # The newest block stays, so that it can be joined.
        del self._blocks[: bisect_right(self._blocks, first) - 1]
        if self._dead > 32 and self._dead * 2 > len(self._frames):
            columns = (self._frames, self._marks, self._details, self._times, self._totals)
            for column in columns:
                del column[: self._dead]
            self._dead = 0
