"""The journal alone: a ring of records that tells what was cut off from what was damaged."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from trioweb._topics._store._journal import Damaged, Journal, Place, create_journal

CAPACITY = 4096
ID = bytes(range(16))
HEAD = 4096


def make(path: Path, number: int = 0) -> Journal:
    create_journal(str(path), CAPACITY, ID, "boot", number)
    return reopen(path)


def reopen(path: Path) -> Journal:
    journal = Journal(str(path))
    places = [journal.first, *(place for place, _ in journal.read(journal.first, journal.last))]
    journal.resume(places[-1])
    return journal


def bodies(path: Path) -> list[bytes]:
    journal = Journal(str(path))
    try:
        return [body for _, body in journal.read(journal.first, journal.last)]
    finally:
        journal.close()


def filled(path: Path) -> list[bytes]:
    """A journal whose records go around the end of the ring."""
    journal = make(path)
    rng = random.Random(0)
    written: list[bytes] = []
    for number in range(60):
        body = bytes([number]) * rng.randrange(200)
        while not journal.has_room(len(body)):
            place, _ = next(journal.read(journal.first, journal.last))
            journal.free(place)
            written.pop(0)
        journal.append(body)
        written.append(body)
    journal.close()
    assert bodies(path) == written
    return written


def test_records_come_back_in_order_around_the_end_of_the_ring(tmp_path: Path) -> None:
    written = filled(tmp_path / "journal")
    assert 10 < len(written) < 60
    journal = reopen(tmp_path / "journal")
    assert (journal.id, journal.boot, journal.last) == (ID, "boot", 60)
    assert journal.first.number == 60 - len(written)
    journal.close()


def test_numbers_go_on_behind_the_one_that_was_given(tmp_path: Path) -> None:
    journal = make(tmp_path / "journal", 41)
    journal.append(b"x")
    assert [place.number for place, _ in journal.read(journal.first, journal.last)] == [42]
    journal.close()


def test_room_is_what_the_ring_has_left(tmp_path: Path) -> None:
    journal = make(tmp_path / "journal")
    assert journal.has_room(CAPACITY - 16)
    assert not journal.has_room(CAPACITY - 15)
    journal.append(bytes(CAPACITY - 16))
    assert not journal.has_room(0)
    assert journal.used == CAPACITY
    place, _ = next(journal.read(journal.first, journal.last))
    journal.free(place)
    assert journal.used == 0
    assert journal.has_room(CAPACITY - 16)
    journal.close()


def test_whatever_byte_is_flipped_nothing_is_missing_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written = filled(path)
    good = path.read_bytes()
    rng = random.Random(1)
    told = 0
    with open(path, "r+b", buffering=0) as file:
        for at in [*range(300), *range(HEAD, HEAD + CAPACITY)]:
            os.pwrite(file.fileno(), bytes([good[at] ^ 1 << rng.randrange(8)]), at)
            try:
                assert bodies(path) == written, at
            except Damaged:
                told += 1
            os.pwrite(file.fileno(), good[at : at + 1], at)
    assert told > sum(map(len, written))


def test_wherever_it_is_cut_off_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path)
    good = path.read_bytes()
    for size in [0, 1, 72, HEAD - 1, HEAD, HEAD + 1, len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(Damaged, match="cut off"):
            Journal(str(path))


def test_record_that_was_cut_off_in_writing_was_not_written(tmp_path: Path) -> None:
    """The process has ended in the middle of `append`, at each of its bytes."""
    path = tmp_path / "journal"
    journal = make(path)
    journal.append(b"first")
    before = path.read_bytes()
    journal.append(b"second")
    journal.close()
    after = path.read_bytes()
    start = HEAD + 16 + len(b"first")
    for size in range(16 + len(b"second") + 1):
        path.write_bytes(before[:start] + after[start : start + size] + before[start + size :])
        assert bodies(path) == [b"first"]
    # Then its number, and then that inverted.
    for end in (16 * 8 + 8, 16 * 8 + 16):
        path.write_bytes(after[:end] + before[end:HEAD] + after[HEAD:])
        assert bodies(path) == [b"first", b"second"]


def test_place_that_was_cut_off_in_writing_is_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = make(path)
    places = []
    for body in (b"a", b"b", b"c"):
        journal.append(body)
        places = [place for place, _ in journal.read(journal.first, journal.last)]
    journal.free(places[0])
    before = path.read_bytes()
    journal.free(places[1])
    journal.close()
    after = path.read_bytes()
    changed = [at for at in range(HEAD) if before[at] != after[at]]
    for size in range(len(changed) + 1):
        torn = bytearray(before)
        for at in changed[:size]:
            torn[at] = after[at]
        path.write_bytes(torn)
        expected = [b"c"] if size == len(changed) else [b"b", b"c"]
        assert bodies(path) == expected


def test_file_has_its_size_on_the_disk_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    make(path).close()
    stat = path.stat()
    assert stat.st_mode & 0o777 == 0o600
    assert stat.st_size == HEAD + CAPACITY
    assert stat.st_blocks * 512 >= HEAD + CAPACITY
    assert [each.name for each in tmp_path.iterdir()] == ["journal"]


def test_places_are_told_by_number_and_bytes(tmp_path: Path) -> None:
    journal = make(tmp_path / "journal")
    journal.append(b"abc")
    assert [place for place, _ in journal.read(journal.first, 1)] == [Place(1, 19)]
    assert list(journal.read(Place(1, 19), 1)) == []
    journal.close()
