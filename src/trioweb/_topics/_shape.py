"""A shape: how the publications of a topic look on a wire, and what is kept of that.

Publications are encoded once for each shape, and put together once for all subscribers that
stand at the same place.  What is kept for that is for the newest block, and for one older one
that somebody catches up with; `Shapes` counts all of it, for all topics of a hub, and has a bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from trio.lowlevel import disable_ki_protection

from .._policy import Message
from .._protocol._frames import SERVER_FORM, WireForm, encode_message
from ._log import Log, Publication
from ._sink import Form

Encode: TypeAlias = Callable[[Publication], Message]

# Chunks remembered for subscribers that stand elsewhere than the others.
_MAX_CHUNKS: Final = 16
# What an encoded frame takes beside its bytes: 33 of the object, some 100 of its place in a table.
_FRAME_OVERHEAD: Final = 136
_CHUNK_OVERHEAD: Final = 400

# Costs are in quarters of a microsecond, as measured: a small write takes 4 µs, a KiB more of it 1.
COST_OF_WRITE: Final = 16
_COST_OF_ENCODING: Final = 8
# What is encoded without a chance for others to run: a few hundred small publications.
_ENCODED_AT_ONCE: Final = 2048
_MOST_ENCODED_AT_ONCE: Final = _ENCODED_AT_ONCE // _COST_OF_ENCODING

_NOBODY: Final[frozenset[str]] = frozenset()


def cost_of_write(size: int) -> int:
    """What it costs to write *size* bytes."""
    return COST_OF_WRITE + (size >> 8)


# It is the program's, and one that runs for ever must not keep an interrupt out.
@disable_ki_protection
def _call(encode: Encode, entry: Publication) -> Message:
    return encode(entry)


class Chunk:
    """What lies behind a cursor.

    Attributes:
        data: its bytes; `frames` are the same, one for each publication.
        end: the offset that they reach.
        is_cut: whether they end before their block does, since to encode more would have taken
            too long.
        skips: whom some of it is not for; `marks` says for each publication.
        size: how many bytes of memory this takes.
    """

    __slots__ = ("data", "end", "frames", "is_cut", "marks", "size", "skips")

    def __init__(
        self, frames: list[bytes], end: int, marks: list[str | None], *, is_cut: bool
    ) -> None:
        self.frames = frames
        self.end = end
        self.is_cut = is_cut
        self.marks = marks
        self.skips = frozenset([mark for mark in marks if mark is not None]) if marks else _NOBODY
        # A single frame is the log's own object, or counted where it was encoded.
        self.data = frames[0] if len(frames) == 1 else b"".join(frames)
        self.size = _CHUNK_OVERHEAD + 16 * len(frames)
        if len(frames) > 1:
            self.size += len(self.data)


class Shapes:
    """What the shapes of all topics keep, together.

    Args:
        max_bytes: beyond so many bytes, the shape that was used longest ago keeps nothing.

    Attributes:
        size: bytes kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[Shape, int] = OrderedDict()
        self.size = 0

    def count(self, shape: Shape, size: int) -> None:
        """*shape* keeps *size* bytes more; less if that is negative."""
        self._sizes[shape] = self._sizes.get(shape, 0) + size
        self._sizes.move_to_end(shape)
        self.size += size
        while self.size > self._max_bytes:
            next(iter(self._sizes)).drop()

    def drop_all(self) -> None:
        """Keep nothing; it is made again when it is needed."""
        for shape in tuple(self._sizes):
            shape.drop()

    def dropped(self, shape: Shape) -> None:
        """*shape* keeps nothing any more."""
        self.size -= self._sizes.pop(shape, 0)


class _Frames:
    """Frames of one block that were encoded, by offset, and the bytes that they take."""

    __slots__ = ("block", "by_offset", "size")

    def __init__(self, block: int) -> None:
        self.block = block
        self.by_offset: dict[int, bytes] = {}
        self.size = 0


class Shape:
    """One wire form of a topic's publications.

    Args:
        log: where they are.
        encode: makes the message of one; None: the message as it was published.
        form: how messages become frames, or what stands in their place.
        shapes: counts what is kept.

    Attributes:
        spent: what the making of chunks has cost since this was last set to 0.
    """

    __slots__ = (
        "_chunk_bytes",
        "_chunks",
        "_encode",
        "_form",
        "_is_over",
        "_log",
        "_newest",
        "_older",
        "_shapes",
        "spent",
    )

    def __init__(self, log: Log, encode: Encode | None, form: Form, shapes: Shapes) -> None:
        self._log = log
        self._encode = encode
        self._form = form
        self._shapes = shapes
        self._chunks: dict[int, Chunk] = {}
        self._chunk_bytes = 0
        # Of the newest block and of an older one; None where the log itself keeps such frames.
        is_logs = encode is None and form == SERVER_FORM
        self._newest: _Frames | None = None if is_logs else _Frames(-1)
        self._older = _Frames(-1)
        self._is_over = False
        self.spent = 0

    @property
    def key(self) -> tuple[Encode | None, Form]:
        """What its topic has it under."""
        return self._encode, self._form

    def chunk(self, cursor: int) -> Chunk:
        """What lies behind *cursor*, up to the end of its block, or of what can be encoded at once.

        NOTE: This calls the user's `encode`, which may do anything: look again at what you have
        looked at before.
        """
        known = self._chunks.get(cursor)
        if known is not None and known.is_cut:
            return known
        log = self._log
        block, last = log.block_after(cursor)
        if known is not None and known.end == last:
            return known
        marks = log.marks(cursor, last)
        frames = self.frames(cursor, last, block)
        count = len(frames)
        end = cursor + count
        self.spent += count >> 2
        chunk = Chunk(frames, end, marks[:count], is_cut=end < last)
        if count == 1 or self._is_over:
            # Nothing was put together, and whoever keeps the frame may let go of it; or what was
            # encoded has ended those whom it was for.
            return chunk
        if len(self._chunks) >= _MAX_CHUNKS:
            self.drop_chunks()
        before = self._chunks.get(cursor)
        self._chunks[cursor] = chunk
        added = chunk.size if before is None else chunk.size - before.size
        self._chunk_bytes += added
        self._shapes.count(self, added)
        return chunk

    def frames(self, cursor: int, end: int, block: int) -> list[bytes]:
        """The frames of what lies behind *cursor*, up to *end* and all of one *block*: at least of
        the first, and of as many as can be encoded at once.  NOTE: as `chunk`."""
        log = self._log
        if self._newest is None:
            return log.frames(cursor, end)
        table = self._table(self._newest, block)
        known, encode, form = table.by_offset, self._encode, self._form
        # Beforehand: what encodes may do anything, and the log lose them meanwhile.
        lacking = (offset for offset in range(cursor + 1, end + 1) if offset not in known)
        entries = {offset: log[offset] for offset in islice(lacking, _MOST_ENCODED_AT_ONCE)}
        frames: list[bytes] = []
        size = cost = 0
        for offset in range(cursor + 1, end + 1):
            if offset in known:
                frames.append(known[offset])
                continue
            if cost >= _ENCODED_AT_ONCE:
                break
            entry = entries[offset]
            message = entry.message if encode is None else _call(encode, entry)
            if isinstance(form, WireForm):
                frame = encode_message(message, form)
            else:
                frame = form.encode(entry, message)
            known[offset] = frame
            frames.append(frame)
            size += len(frame) + _FRAME_OVERHEAD
            cost += _COST_OF_ENCODING + (len(frame) >> 6)
        self.spent += cost
        if size and table in (self._newest, self._older):
            table.size += size
            self._shapes.count(self, size)
        return frames

    def _table(self, newest: _Frames, block: int) -> _Frames:
        """Where the frames of *block* are kept."""
        if newest.block == block:
            return newest
        if self._older.block == block:
            return self._older
        table = _Frames(block)
        self._shapes.count(self, -self._older.size)
        if block == self._log.newest_block:
            # Who lags is most likely to ask for what was the newest until now.
            self._older, self._newest = newest, table
        else:
            self._older = table
        return table

    def drop_chunks(self) -> None:
        """Keep no chunks: nobody stands where they begin."""
        self._chunks.clear()
        size, self._chunk_bytes = self._chunk_bytes, 0
        if size:
            self._shapes.count(self, -size)

    def rebase(self, log: Log) -> None:
        """The publications are in *log* now."""
        self.drop()
        self._log = log

    def end(self) -> None:
        """Keep nothing from now on: there is nobody left whom it was for."""
        self.drop()
        self._is_over = True

    def drop(self) -> None:
        """Keep nothing; it is made again when it is needed."""
        self._chunks.clear()
        self._chunk_bytes = 0
        if self._newest is not None:
            self._newest = self._older = _Frames(-1)
        self._shapes.dropped(self)
