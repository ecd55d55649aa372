"""The journal: a bounded ring of records in a memory-mapped file.

What stands in it outlives the process, however that ends: the pages are the kernel's.  A record is
written first, and then the number of the last one, so that what was cut off in the middle is told
from what was damaged:

    page 0   magic, capacity, id of the store, boot: checked by a sum
             the number of the last record, twice, the second time inverted
             two places behind which the needed records begin, written by turns, each with a sum
    behind   records: length (4), sum (4), number (8), body; around the end of the ring

Numbers run 1, 2, 3, … for the life of a store.  A record is freed once the database has it, which
knows the number of the last that it has: so a hole between the two is seen, too.

Pure of Trio.  One thread appends.  Another may read up to a number that it was told, and free.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

_MAGIC: Final = b"trioweb1"
_HEADER: Final = Struct("=8sQ16s40s")
_SUM: Final = Struct("=I")
_DATA: Final = 4096
# Where these stand, in words of eight bytes, each of which is written at once.
_LAST: Final = 16
_FIRST: Final = (24, 28)
_PLACE: Final = Struct("=QQ")
_MASK: Final = 2**64 - 1
_FRAME: Final = Struct("=IIQ")
_FRAME_SIZE: Final = _FRAME.size
_write_frame: Final = _FRAME.pack

_O_BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows has one


class Damaged(Exception):
    """What stands there is not what was written.  Never leaves the store."""


class Place(NamedTuple):
    """Behind the record *number*, and behind so many bytes of all that was ever written."""

    number: int
    written: int


class Journal:
    """A journal that `create_journal` has made.  `resume` comes before the first `append`.

    Attributes:
        capacity: bytes that records may take.
        id: of its store.
        boot: which start of which machine it was written in.
        first: the place behind which the records are that are needed.
        last: the number of the last record.

    Raises:
        Damaged: it is not what was written.
        OSError: it cannot be opened.
    """

    __slots__ = (
        "_memory",
        "_slot",
        "_words",
        "_written",
        "boot",
        "capacity",
        "first",
        "id",
        "last",
    )

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | _O_BINARY)
        try:
            size = os.fstat(descriptor).st_size
            if size <= _DATA:
                raise Damaged("it was cut off")
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory)[:_DATA].cast("Q")
        self._written = 0
        self.capacity: int
        self.id: bytes
        try:
            self._read_header(size)
        except BaseException:
            self.close()
            raise

    def _read_header(self, size: int) -> None:
        magic: bytes
        boot: bytes
        magic, self.capacity, self.id, boot = _HEADER.unpack_from(self._memory)
        (check,) = _SUM.unpack_from(self._memory, _HEADER.size)
        if magic != _MAGIC or check != crc32(self._memory[: _HEADER.size]):
            raise Damaged("its head is not what was written")
        if size != _DATA + self.capacity:
            raise Damaged("it was cut off")
        self.boot = boot.rstrip(b"\0").decode()
        words = self._words
        self.last: int = words[_LAST]
        # The process may have ended between the two.
        if self.last not in ((inverted := ~words[_LAST + 1] & _MASK), inverted + 1):
            raise Damaged("the number of its last record is not what was written")
        places = [
            (Place(words[at], words[at + 1]), slot)
            for slot, at in enumerate(_FIRST)
            if words[at + 2] == crc32(_PLACE.pack(words[at], words[at + 1]))
        ]
        if not places:
            raise Damaged("where it begins is not what was written")
        self.first, self._slot = max(places)
        if self.first.number > self.last:
            raise Damaged("it begins behind its end")

    def close(self) -> None:
        self._words.release()
        self._memory.close()

    @property
    def used(self) -> int:
        """Bytes that records take which are needed."""
        return self._written - self.first.written

    def has_room(self, size: int) -> bool:
        """Whether a record whose body has *size* bytes can be appended."""
        return self._written + size + _FRAME_SIZE - self.first.written <= self.capacity

    def append(self, body: bytes) -> None:
        """Write a record, for which there is room.

        It is there, whatever becomes of the process, when this returns.
        """
        number = self.last + 1
        record = _write_frame(len(body), crc32(body, number & 0xFFFFFFFF), number) + body
        size = len(record)
        start = _DATA + self._written % self.capacity
        end = start + size
        memory = self._memory
        if end <= _DATA + self.capacity:
            memory[start:end] = record
        else:
            fitting = _DATA + self.capacity - start
            memory[start : start + fitting] = record[:fitting]
            memory[_DATA : _DATA + size - fitting] = record[fitting:]
        self._written += size
        # NOTE: In this order, which `_read_header` knows, and behind the record.
        words = self._words
        words[_LAST] = number
        words[_LAST + 1] = ~number & _MASK
        self.last = number

    def read(self, place: Place, last: int) -> Iterator[tuple[Place, bytes]]:
        """The bodies behind *place*, up to the record number *last*, and the place behind each.

        Raises:
            Damaged: the next one is not what was written.
        """
        number, written = place
        while number < last:
            number += 1
            length, check, its_number = _FRAME.unpack(self._bytes(written, _FRAME_SIZE))
            end = written + _FRAME_SIZE + length
            if its_number != number or end - self.first.written > self.capacity:
                raise Damaged(f"record {number} is not what was written")
            body = self._bytes(written + _FRAME_SIZE, length)
            if crc32(body, number & 0xFFFFFFFF) != check:
                raise Damaged(f"record {number} is not what was written")
            written = end
            yield Place(number, written), body

    def _bytes(self, written: int, size: int) -> bytes:
        start = _DATA + written % self.capacity
        end = start + size
        over = end - _DATA - self.capacity
        if over <= 0:
            return self._memory[start:end]
        return self._memory[start : end - over] + self._memory[_DATA : _DATA + over]

    def resume(self, place: Place) -> None:
        """Go on behind *place*, which is that of the last record."""
        self._written = place.written

    def free(self, place: Place) -> None:
        """The records up to *place* are not needed any more."""
        self._slot = 1 - self._slot
        _write_place(self._words, self._slot, place)
        # NOTE: Only now may their room be used: until here, the other slot counts.
        self.first = place


def _write_place(words: memoryview, slot: int, place: Place) -> None:
    at = _FIRST[slot]
    words[at], words[at + 1] = place
    words[at + 2] = crc32(_PLACE.pack(*place))


def create_journal(path: str, capacity: int, id: bytes, boot: str, number: int) -> None:
    """Put an empty journal at *path*, in one step; its records begin behind *number*.

    All that it will take of the disk is taken here: where a page could not be had, writing into the
    memory would end the process.

    Raises:
        OSError: there is no room, or no right.
    """
    head = _HEADER.pack(_MAGIC, capacity, id, boot.encode())
    page = bytearray(_DATA)
    page[: len(head)] = head
    _SUM.pack_into(page, len(head), crc32(head))
    words = memoryview(page).cast("Q")
    words[_LAST], words[_LAST + 1] = number, ~number & _MASK
    for slot in (0, 1):
        _write_place(words, slot, Place(number, 0))
    words.release()
    new = f"{path}-new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _O_BINARY, 0o600)
    try:
        os.write(descriptor, page)
        _allocate(descriptor, _DATA, capacity)
    except BaseException:
        os.close(descriptor)
        os.unlink(new)
        raise
    os.close(descriptor)
    os.replace(new, path)


def _allocate(descriptor: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, size)
        return
    os.lseek(descriptor, start, os.SEEK_SET)  # pragma: no cover - only on macOS and Windows
    zeros = bytes(2**16)  # pragma: no cover - likewise
    while size > 0:  # pragma: no cover - likewise
        size -= os.write(descriptor, zeros[:size])
