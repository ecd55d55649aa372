"""Opening a store: whose it is, whether anything is missing, and what the journal has to say.

Positions go on only if nothing can be missing: what the kernel has of a file is all there is of it
until the machine is started again.  So another boot, another machine, and whatever is damaged or
does not fit together ends the epoch of every topic.  What can be read is kept.

Pure of Trio; runs in a thread.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from ..._chance import random_bytes
from ..._dataclass import dataclass
from ..._errors import StoreError
from .._subscription import logger
from ._database import Database, Foreign
from ._journal import Damaged, Journal, Place, create_journal
from ._rows import Standing

# Records that are taken into the database at a time, and bytes of them: many, since what the next
# ones would drop at once need not go in, and not so many that others wait for long.
_BATCH: Final = 8192
_BATCH_BYTES: Final = 2**21
# A boot that nobody can tell: every start may be another.
_UNKNOWN: Final = "unknown"
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store.

    Attributes:
        standings, keys: see `Database`.
        replayed: records that only the journal had.
        ended: why the epochs have ended; None if they go on.
    """

    database: Database
    journal: Journal
    standings: list[Standing]
    keys: dict[str, dict[int, int]]
    replayed: int
    ended: str | None
    lock: int


def boot_id() -> str:
    """What tells one start of one machine from all others."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip() or _UNKNOWN
    except OSError:  # no Linux
        return _UNKNOWN


def journal_path(path: str) -> str:
    """Not "-journal", which is SQLite's."""
    return f"{path}-pending"


def open_store(path: str, capacity: int) -> Opened:
    """Open the store at *path*, made now if there is none, with a journal of *capacity* bytes.

    Raises:
        StoreError: it cannot be used.
    """
    # One store has one lock and one journal, whatever links lead there.
    path = os.path.realpath(path)
    try:
        with ExitStack() as undo:
            lock = _lock(path)
            undo.callback(os.close, lock)
            opened = _open(path, capacity, lock)
            undo.pop_all()
            return opened
    except (OSError, Foreign, sqlite3.Error) as exc:
        # An OSError's text has the name of a file that is made beside it.
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise StoreError(path, reason or str(exc)) from exc


def close_store(opened: Opened) -> None:
    """Close all of it.

    Raises:
        sqlite3.Error: SQLite could not write everything to where it stays.  Nothing is lost.
    """
    try:
        opened.database.close()
    finally:
        opened.journal.close()
        os.close(opened.lock)


def _lock(path: str) -> int:
    """Keep others out, for as long as this process lives."""
    lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":  # pragma: no cover - only on Windows
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise StoreError(path, "another hub has it open, maybe that of another process") from exc
    return lock


def _open(path: str, capacity: int, lock: int) -> Opened:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with ExitStack() as undo:
        ended: str | None = None
        aside = ""
        try:
            database = Database(path)
        except sqlite3.OperationalError:
            raise  # it cannot be read or written now: not damaged
        except sqlite3.DatabaseError as exc:
            if not os.path.exists(journal_path(path)):
                # It may be anything.
                raise Foreign(f"it is no store, or is damaged ({exc})") from exc
            ended = f"the database is damaged ({exc})"
            aside = f"; it is now {_set_aside(path)}"
            database = Database(path)
        undo.callback(database.close)
        boot = boot_id()
        journal, why, replayed = _read_journal(path, database, boot)
        ended = ended or why
        if journal is not None and (ended is not None or journal.capacity != capacity):
            journal.close()
            journal = None
        if ended is not None:
            logger.warning("%s: every topic begins a new epoch: %s%s", path, ended, aside)
        if journal is None:
            journal = _create(path, database, capacity, boot, is_over=ended is not None)
        undo.callback(journal.close)
        standings, keys = database.standings(), database.keys()
        undo.pop_all()
        return Opened(database, journal, standings, keys, replayed, ended, lock)


def _create(path: str, database: Database, capacity: int, boot: str, *, is_over: bool) -> Journal:
    """A new journal for *database*, whose topics get other epochs if the life before *is_over*."""
    # NOTE: A database with tables and without a journal has lost it, so that comes first.
    id = random_bytes(16) if database.is_new else database.id
    if is_over and not database.is_new:
        # A number that no record has: the old journal does not go with this any more.
        database.begin_lives(database.applied + 1)
    create_journal(journal_path(path), capacity, id, boot, database.applied)
    if database.is_new:
        database.create(id)
    journal = Journal(journal_path(path))
    journal.resume(journal.first)
    return journal


def _read_journal(
    path: str, database: Database, boot: str
) -> tuple[Journal | None, str | None, int]:
    """The journal, if it can go on; why the epochs end, if they do; how much it had to say."""
    try:
        journal = Journal(journal_path(path))
    except FileNotFoundError:
        return None, None if database.is_new else "its journal is missing", 0
    except Damaged as exc:
        return None, f"the journal is damaged: {exc}", 0
    if database.is_new:
        # The process may have ended when it had made no more than a journal.
        is_missing = journal.last > 0
        journal.close()
        return None, "the database is missing" if is_missing else None, 0
    try:
        replayed, ended = _replay(journal, database)
    except BaseException:
        journal.close()
        raise
    if ended is None and (boot != journal.boot or boot == _UNKNOWN):
        ended = "the machine was started again, or is another one"
    return journal, ended, replayed


def _replay(journal: Journal, database: Database) -> tuple[int, str | None]:
    """Take in what only the journal has; return how many records, and what is wrong."""
    if journal.id != database.id:
        return 0, "the journal is that of another store"
    ended = None
    if not journal.first.number <= database.applied <= journal.last:
        ended = "database and journal do not belong together"
    known = {standing.name: standing.retain for standing in database.standings()}
    before, place = database.applied, journal.first
    records = journal.read(journal.first, journal.last)
    is_whole = True
    while place.number < journal.last and is_whole:
        batch: list[tuple[Place, bytes]] = []
        try:
            fill(batch, records)
        except Damaged as exc:
            is_whole = False
            ended = f"the journal is damaged: {exc}"
        database.commit(batch, known.get, time.time())
        if batch:
            place = batch[-1][0]
            journal.free(place)
    journal.resume(place)
    return database.applied - before, ended


def fill(batch: list[tuple[Place, bytes]], records: Iterator[tuple[Place, bytes]]) -> None:
    """Put as many of *records* into *batch* as are committed at a time.

    Raises:
        Damaged: what comes behind those that it has now is.
    """
    size = 0
    for record in records:
        batch.append(record)
        size += len(record[1])
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            break


def _set_aside(path: str) -> str:
    """Move a database away; return where it is."""
    aside = f"{path}-damaged-{time.time():.0f}"
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.replace(path + suffix, aside + suffix)
    os.replace(path, aside)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return aside
