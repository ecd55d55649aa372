"""Rows: where a topic stands in the database, and the sums that rows have.

Pure.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias
from zlib import crc32

from ..._policy import Retain
from ._records import BEGIN, Record


class Standing(NamedTuple):
    """Where a topic stands in the database.

    Attributes:
        begin: the offset behind which its epoch began.
        oldest: the offset of its first publication here; head + 1 for none.
        size: bytes of memory that its publications would take.
    """

    name: str
    epoch: str
    head: int
    begin: int
    oldest: int
    size: int
    retain: Retain | None


# Offset, total, size, time, once, flags, sum, data, as in the table.
_Row: TypeAlias = tuple[int, int, int, float, int | None, int, int, bytes]


class TopicRow:
    """A topic in one transaction; its names are those of the table."""

    def __init__(self, name: str, row: tuple[int, str, int, int, int, int, int] | None) -> None:
        self.name = name
        self.id: int | None
        self.id, self.epoch, self.head, self.begin, self.oldest, self.total, self.gone = row or (
            (None, "", 0, 0, 1, 0, 0)
        )
        self.rows: list[_Row] = []
        # Whether nothing of it stays that is in the table.
        self.is_anew = False
        self.bounds: tuple[int | None, int | None, float | None] = (None, None, None)

    def add(self, record: Record) -> None:
        is_begin = bool(record.flags & BEGIN)
        before = record.offset if is_begin else record.offset - 1
        if record.epoch != self.epoch or before != self.head:
            # Another life; or a hole, which only what is damaged can have.
            self.epoch, self.head, self.begin = record.epoch, before, before
            self.empty()
        if is_begin:
            return
        self.head = record.offset
        self.total += record.size
        told = self.head, self.total, record.size, record.time, record.once, record.flags
        self.rows.append((*told, sum_of(told, record.data), record.data))

    def empty(self) -> None:
        self.rows.clear()
        self.is_anew = True
        self.oldest, self.gone = self.head + 1, self.total

    def standing(self, retain: Retain | None) -> Standing:
        size = self.total - self.gone
        return Standing(self.name, self.epoch, self.head, self.begin, self.oldest, size, retain)

    @property
    def sum(self) -> int:
        told = self.name, self.epoch, self.head, self.begin, self.oldest, self.total, self.gone
        return crc32(repr((told, self.bounds)).encode())


def sum_of(told: tuple[object, ...], data: bytes) -> int:
    return crc32(data, crc32(repr(told).encode()))


def sum_of_store(id: bytes, applied: int) -> int:
    return crc32(id, applied & 0xFFFFFFFF)
