"""The log against a model that keeps everything and counts naively."""

from __future__ import annotations

import gc
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trioweb import Retain
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics._details import NOTHING, Details
from trioweb._topics._log import BLOCK_BYTES, BLOCK_MESSAGES, OVERHEAD_BYTES, Log

_JSON = Details(is_json=True, size=50)

# Around the bounds of the logs below, and around the size of a block.
SIZES = st.sampled_from([2, 90, 400, 21_000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])


class LogMachine(RuleBasedStateMachine):
    """Invariant 8 (a log is bounded) and 9 (offsets run in order and without holes)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        # Size, time, who does not get it and the tag, from offset 1 on.
        self.entries: list[tuple[int, float, str | None, Details]] = []
        self.first = 1

    @initialize(
        max_messages=st.integers(1, 70),
        max_bytes=st.sampled_from([1, 2, 500, 2000, 10_000, 3 * BLOCK_BYTES]),
        max_age=st.sampled_from([None, 3.0, 10.0]),
    )
    def make(self, max_messages: int, max_bytes: int, max_age: float | None) -> None:
        self.retain = Retain(max_messages=max_messages, max_bytes=max_bytes, max_age=max_age)
        self.log = Log(self.retain)

    @rule(
        sizes=st.lists(SIZES, min_size=1, max_size=40),
        age=st.sampled_from([0.0, 1.0]),
        skip=st.sampled_from([None, None, "a", "bb"]),
        details=st.sampled_from([NOTHING, NOTHING, _JSON]),
    )
    def append(self, sizes: list[int], age: float, skip: str | None, details: Details) -> None:
        for size in sizes:
            self.now += age
            self.entries.append((size, self.now, skip, details))
            offset = self.log.append(bytes(size), skip, self.now, details)
            assert offset == len(self.entries)
            skip = None  # one of them is enough

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(part=st.sampled_from([0.3, 1.0, 1.0]))
    def trim(self, part: float) -> None:
        floor = self.log.floor(self.now)
        assert floor == self.naive_floor()
        self.first += int((floor - self.first) * part)
        self.log.trim(self.first)

    @rule(count=st.sampled_from([0, 1, 7, 200]), part=st.sampled_from([0, 0.5]))
    def load(self, count: int, part: float) -> None:
        """As a node with a broker does, which has the publications that have left its log."""
        older = self.entries[max(0, self.first - 1 - count) : self.first - 1]
        self.log.prepend(
            [(bytes(size), skip, details, time) for size, time, skip, details in reversed(older)]
        )
        self.first -= len(older)
        self.knows_what_it_holds()
        self.first += int(len(older) * part)
        self.log.trim(self.first)

    def naive_size(self, first: int) -> int:
        return sum(
            size + OVERHEAD_BYTES + len(skip or "") + details.size
            for size, _, skip, details in self.entries[first - 1 :]
        )

    def naive_floor(self) -> int:
        """The smallest offset from which everything may be kept."""
        head, retain = len(self.entries), self.retain
        for first in range(self.first, head + 1):
            is_young = retain.max_age is None or self.entries[first - 1][1] > (
                self.now - retain.max_age
            )
            fits = head + 1 - first <= retain.max_messages and (
                self.naive_size(first) <= retain.max_bytes or first == head
            )
            if is_young and fits:
                return first
        return head + 1

    @invariant()
    def knows_what_it_holds(self) -> None:
        log, head = self.log, len(self.entries)
        assert (log.first, log.head) == (self.first, head)
        assert log.size == self.naive_size(self.first)
        for offset in range(self.first, head + 1):
            expected = self.entries[offset - 1]
            about = log.time(offset), log.skip(offset), log.details(offset)
            assert (len(log.frame(offset)), *about) == expected
            assert log[offset].offset == offset
        skips = [skip for _, _, skip, _ in self.entries[self.first - 1 :]]
        assert log.skips == len(skips) - skips.count(None)
        assert log.marks(self.first - 1, head) == (skips if log.skips else [])

    @rule(size=st.sampled_from([1, 300, 5000, 200_000]), keep=st.integers(0, 2))
    def ask_for_bytes(self, size: int, keep: int) -> None:
        head = len(self.entries)
        first = self.log.first_without(size, min(keep, head + 1 - self.first))
        freed = self.naive_size(self.first) - self.naive_size(first)
        left = head + 1 - first
        assert freed >= size or left <= keep
        assert left >= min(keep, head + 1 - self.first)
        if first > self.first:
            assert self.naive_size(self.first) - self.naive_size(first - 1) < size

    @invariant()
    def cuts_blocks_where_everybody_does(self) -> None:
        log = self.log
        ends = []
        for cursor in range(log.first - 1, log.head):
            block, end = log.block_after(cursor)
            assert block <= cursor + 1 <= end
            frames = log.frames(cursor, end)
            assert len(frames) == end - cursor
            assert len(frames) == 1 or sum(map(len, frames)) <= BLOCK_BYTES
            is_newest = end == log.head >= log.newest_block
            assert (block == log.newest_block) is is_newest
            ends.append(end)
        # A cursor inside a block gets the rest of it, so all meet at its end.
        for offset, (end, following) in enumerate(pairwise(ends), log.first):
            assert end == offset or following == end

    @invariant()
    def holds_no_memory_for_what_is_gone(self) -> None:
        retained = self.log.head + 1 - self.log.first
        for column in self.log._frames, self.log._marks, self.log._details:
            assert len(column) - retained <= max(32, retained)
            assert len(column) in (0, len(self.log._frames))
            assert all(each in (None, NOTHING) for each in column[: self.log._dead])
        assert len(self.log._times) == len(self.log._totals) == len(self.log._frames)
        assert len(self.log._blocks) <= retained + 1


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("size", [10, 10 * BLOCK_BYTES])
def test_log_keeps_the_newest_publication_when_it_is_larger_than_the_bound(size: int) -> None:
    log = Log(Retain(max_bytes=1))
    log.append(bytes(5), None, 0)
    assert log.floor(0) == 1
    log.append(bytes(size), None, 0)
    assert log.floor(0) == 2
    log.trim(2)
    assert [len(frame) for frame in log.frames(1, log.block_after(1)[1])] == [size]


def test_log_drops_even_the_newest_publication_when_it_comes_of_age() -> None:
    log = Log(Retain(max_age=10))
    log.append(bytes(5), None, 0)
    log.append(bytes(5), None, 4)
    assert [log.floor(now) for now in (9.9, 10, 13.9, 14)] == [1, 2, 2, 3]


def test_log_that_goes_on_has_offsets_behind_those_that_are_gone() -> None:
    log = Log(Retain(), head=7)
    assert (log.first, log.head, log.floor(0)) == (8, 7, 8)
    assert log.append(bytes(5), None, 0) == 8
    assert log.block_after(7) == (8, 8)


def test_block_of_tiny_publications_is_bounded_in_number() -> None:
    """Invariant 12: they take as long to put together as large ones to write."""
    log = Log(Retain())
    for _ in range(BLOCK_MESSAGES + 5):
        log.append(bytes(3), None, 0)
    assert log.block_after(0) == (1, BLOCK_MESSAGES)
    assert log.block_after(BLOCK_MESSAGES) == (BLOCK_MESSAGES + 1, BLOCK_MESSAGES + 5)


def test_log_knows_how_many_of_its_publications_are_not_for_everybody() -> None:
    log = Log(Retain())
    for skip in (None, "a", "b", None, "a"):
        log.append(bytes(5), skip, 0)
    assert log.skips == 3
    log.trim(3)
    assert log.skips == 2
    log.trim(6)
    assert (log.skips, log.size) == (0, 0)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_publication_makes_its_message_of_its_frame(size: int, kind: str) -> None:
    message = "ü" * (size // 2) if kind == "text" else b"x" * size
    log = Log(Retain())
    log.append(encode_message(message, SERVER_FORM), None, 0)
    assert log[1].message == message


def test_publication_names_itself_shortly() -> None:
    log = Log(Retain())
    log.append(encode_message("a" * 1000, SERVER_FORM), None, 0)
    text = repr(log[1])
    assert text.startswith("<Publication 1: 'aaa") and len(text) < 100


def test_log_finds_keys_in_what_is_put_in_front_of_it_until_that_goes() -> None:
    log = Log(Retain(), head=3)
    first, second = Details(key="a", size=100), Details(key="b", size=200)
    log.append(b"..", None, 5, first)
    size = log.size
    log.prepend([(b"..", "ann", second, 4), (b"..", None, NOTHING, 3)])
    assert (log.first, log.head, log.skips) == (2, 4, 1)
    assert log.size == size + 200 + 2 * (OVERHEAD_BYTES + 2) + 3
    assert [log.published(details) for details in (first, second)] == [4, 3]
    assert [log[offset].key for offset in (2, 3, 4)] == [None, "b", "a"]
    log.trim(4)
    assert (log.size, log.skips) == (size, 0)
    assert [log.published(details) for details in (first, second)] == [4, None]


def test_publications_are_nothing_that_the_garbage_collector_walks_through() -> None:
    """It looked at one object for each, of hundreds of thousands, while all stood still."""
    log = Log(Retain(max_messages=10**6))
    gc.collect()
    before = len(gc.get_objects())
    for number in range(5000):
        log.append(b"%d" % number, "peer" if number % 2 else None, number, _JSON)
    gc.collect()
    assert len(gc.get_objects()) - before < 50
