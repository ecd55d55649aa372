"""The database: what is committed, in SQLite.

    topics        where each stands, and what it retains
    publications  their records, by topic and offset
    store         its id, and the number of the last record that is in here

What SQLite does not check, which is what stands in a row, has a sum beside it.

Pure of Trio.  All of it takes its time, so it runs in threads; in one at a time, which `lock` sees
to.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Final

from ..._chance import random_bytes
from ..._policy import Retain
from .._commands import Stored
from .._subscription import logger
from ._journal import Place
from ._records import decode_name, encode_name, read_entry, read_record
from ._rows import Standing, TopicRow, sum_of, sum_of_store


class Foreign(Exception):
    """This is something else than a store.  Never leaves one."""


_APPLICATION: Final = 0x74726F77  # "trow"
_VERSION: Final = 1
_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE store (id BLOB NOT NULL, applied INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL, epoch TEXT NOT NULL,
    head INTEGER NOT NULL, begin INTEGER NOT NULL, oldest INTEGER NOT NULL,
    total INTEGER NOT NULL, gone INTEGER NOT NULL, used INTEGER NOT NULL,
    max_messages INTEGER, max_bytes INTEGER, max_age REAL, sum INTEGER NOT NULL);
CREATE TABLE publications (
    topic INTEGER NOT NULL, offset INTEGER NOT NULL, total INTEGER NOT NULL, size INTEGER NOT NULL,
    time REAL NOT NULL, once INTEGER, flags INTEGER NOT NULL, sum INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (topic, offset)) WITHOUT ROWID;
CREATE INDEX aging ON topics (id) WHERE max_age IS NOT NULL;
CREATE INDEX keys ON publications (topic, offset, once) WHERE once IS NOT NULL;
"""
# Beyond so much, the log of SQLite is cut when it is written back.
_WAL_BYTES: Final = 8 * 2**20


class Database:
    """An open database.

    Args:
        path: of a file, which may be empty.

    Attributes:
        id: of the store.
        is_new: whether there is nothing in it, not even tables: `create` comes first.
        applied: the number of the last record that is in here.
        lock: held while it is used.

    Raises:
        Foreign: this is something else than a store.
        sqlite3.Error: it is damaged, or locked by something that is no store.
    """

    def __init__(self, path: str) -> None:
        self.id = b""
        self.applied = 0
        self.lock = Lock()
        self.path = path
        self._connection = sqlite3.connect(
            path, timeout=1, isolation_level=None, check_same_thread=False
        )
        self._connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        self._execute = self._connection.execute
        try:
            self._open()
        except UnicodeDecodeError as exc:  # what SQLite says has names of the damaged schema in it
            self._connection.close()
            raise sqlite3.DatabaseError(str(exc)) from exc
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        execute = self._execute
        (application,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise sqlite3.DatabaseError("another program has made it")
        if tables and version != _VERSION:
            raise Foreign(f"it was written by another version of trioweb (its format is {version})")
        # Now that it is ours; SQLite gives what it puts beside the file the same mode.
        os.chmod(self.path, 0o600)
        execute("PRAGMA journal_mode = WAL")
        # What the kernel has outlives the process; for a loss of power nothing is promised.
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        self.is_new = not tables
        if self.is_new:
            return
        if (found := execute("PRAGMA quick_check(1)").fetchall()) != [("ok",)]:
            raise sqlite3.DatabaseError(str(found[0][0]))
        try:
            self.id, self.applied, sum = execute("SELECT id, applied, sum FROM store").fetchone()
            is_whole = sum == sum_of_store(self.id, self.applied)
        except (sqlite3.OperationalError, TypeError) as exc:
            raise sqlite3.DatabaseError(f"its tables are not what was written: {exc}") from exc
        if not is_whole:
            raise sqlite3.DatabaseError("the number of its last record is not what was written")

    def create(self, id: bytes) -> None:
        """Make the tables of the store *id*."""
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                self._execute(statement)
            self._execute("INSERT INTO store VALUES (?, 0, ?)", (id, sum_of_store(id, 0)))
        self.id, self.applied = id, 0

    def close(self) -> None:
        """Write everything to where it stays, and close."""
        try:
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended it
                self._execute("ROLLBACK")
            raise

    # Writing.

    def commit(
        self,
        records: Iterable[tuple[Place, bytes]],
        retain_of: Callable[[str], Retain | None],
        now: float,
        *,
        emptied: Iterable[str] = (),
        dropped: Iterable[str] = (),
    ) -> list[Standing]:
        """Take *records* in, all or none of them.

        Args:
            retain_of: what a topic retains; None where that is not known, which drops nothing.
            now: the time.
            emptied: topics whose publications go.
            dropped: topics of which not even the position stays.

        Returns:
            Where the topics stand that have changed.
        """
        topics: dict[str, TopicRow] = {}
        number = self.applied
        with self._transaction():
            for place, body in records:
                if place.number <= number:
                    continue
                number = place.number
                record = read_record(body)
                topic = topics.get(record.name)
                if topic is None:
                    topic = topics[record.name] = self._find(record.name)
                topic.add(record)
            for name in self._expired(now):
                topics.setdefault(name, self._find(name))
            for name in emptied:
                topics.setdefault(name, self._find(name)).empty()
            standings = [
                self._write(topic, retain_of(topic.name), number, now) for topic in topics.values()
            ]
            for name in dropped:
                self._drop(self._find(name).id)
            if number != self.applied:
                self._set_applied(number)
        self.applied = number
        return standings

    def begin_lives(self, number: int) -> None:
        """Give each topic another epoch, which begins behind its head; records go on behind
        *number*."""
        standings = self.standings()
        with self._transaction():
            for standing in standings:
                topic = self._find(standing.name)
                topic.epoch, topic.begin = random_bytes(8).hex(), topic.head
                if (retain := standing.retain) is not None:
                    topic.bounds = (retain.max_messages, retain.max_bytes, retain.max_age)
                self._execute(
                    "UPDATE topics SET epoch = ?, begin = ?, sum = ? WHERE id = ?",
                    (topic.epoch, topic.begin, topic.sum, topic.id),
                )
            self._set_applied(number)
        self.applied = number

    def _set_applied(self, number: int) -> None:
        sum = sum_of_store(self.id, number)
        self._execute("UPDATE store SET applied = ?, sum = ?", (number, sum))

    def _find(self, name: str) -> TopicRow:
        row = self._execute(
            "SELECT id, epoch, head, begin, oldest, total, gone FROM topics WHERE name = ?",
            (encode_name(name),),
        ).fetchone()
        return TopicRow(name, row)

    def _expired(self, now: float) -> list[str]:
        """Topics that have something which is too old."""
        found = self._execute(
            "SELECT name FROM topics, publications WHERE max_age IS NOT NULL AND topic = id"
            " AND offset = oldest AND time <= ? - max_age",
            (now,),
        )
        return [decode_name(name) for (name,) in found]

    def _write(self, topic: TopicRow, retain: Retain | None, used: int, now: float) -> Standing:
        if topic.id is None:
            topic.id = self._execute(
                "INSERT INTO topics VALUES (NULL, ?, '', 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0)",
                (encode_name(topic.name),),
            ).lastrowid
        elif topic.is_anew:
            self._execute("DELETE FROM publications WHERE topic = ?", (topic.id,))
        first, least = topic.oldest, topic.gone
        if retain is not None:
            first = max(first, topic.head + 1 - retain.max_messages)
            least = max(least, topic.total - retain.max_bytes)
        # What would be dropped at once need not go in.
        self._connection.executemany(
            "INSERT INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (topic.id, *row)
                for row in topic.rows
                if row[0] == topic.head or (row[0] >= first and row[1] - row[2] >= least)
            ),
        )
        if retain is not None:
            self._trim(topic, first, least, now - (retain.max_age or math.inf))
            topic.bounds = (retain.max_messages, retain.max_bytes, retain.max_age)
        self._execute(
            "UPDATE topics SET epoch = ?, head = ?, begin = ?, oldest = ?, total = ?, gone = ?,"
            " used = ?, max_messages = ?, max_bytes = ?, max_age = ?, sum = ? WHERE id = ?",
            (
                *(topic.epoch, topic.head, topic.begin, topic.oldest, topic.total, topic.gone),
                *(used, *topic.bounds, topic.sum, topic.id),
            ),
        )
        return topic.standing(retain)

    def _trim(self, topic: TopicRow, first: int, least: int, after: float) -> None:
        """Drop what lies before *first*, before *least* of the total, and not *after* that time;
        the newest goes by its age alone."""
        if first == topic.oldest and least == topic.gone and after == -math.inf:
            return
        # What it passes over is what is dropped.
        found = self._execute(
            "SELECT offset, total - size FROM publications WHERE topic = ? AND offset >= ?"
            " AND (total - size >= ? OR offset = ?) AND time > ? ORDER BY offset LIMIT 1",
            (topic.id, first, least, topic.head, after),
        ).fetchone()
        oldest, topic.gone = found or (topic.head + 1, topic.total)
        if oldest > topic.oldest:
            self._execute(
                "DELETE FROM publications WHERE topic = ? AND offset < ?", (topic.id, oldest)
            )
            topic.oldest = oldest

    def _drop(self, id: int | None) -> None:
        self._execute("DELETE FROM publications WHERE topic = ?", (id,))
        self._execute("DELETE FROM topics WHERE id = ?", (id,))

    # Reading.

    def standings(self) -> list[Standing]:
        """Where all topics stand, the longest unused first.

        A topic whose row is not what was written is forgotten.
        """
        standings = []
        damaged = []
        for name, *row, max_messages, max_bytes, max_age, sum in self._execute(
            "SELECT name, id, epoch, head, begin, oldest, total, gone, max_messages, max_bytes,"
            " max_age, sum FROM topics ORDER BY used"
        ):
            topic = TopicRow(decode_name(name), tuple(row))
            topic.bounds = (max_messages, max_bytes, max_age)
            if topic.sum != sum:
                damaged.append(topic.id)
                continue
            retain = None
            if max_messages is not None:
                retain = Retain(max_messages=max_messages, max_bytes=max_bytes, max_age=max_age)
            standings.append(topic.standing(retain))
        if damaged:
            logger.warning("%s: %d topics are damaged and forgotten", self.path, len(damaged))
            with self._transaction():
                for id in damaged:
                    self._drop(id)
        return standings

    def keys(self) -> dict[str, dict[int, int]]:
        """By topic and hash, the offset of each publication that has a key."""
        keys: dict[str, dict[int, int]] = {}
        for name, once, offset in self._execute(
            "SELECT name, once, offset FROM publications JOIN topics ON topic = id"
            " WHERE once IS NOT NULL ORDER BY topic, offset"
        ):
            keys.setdefault(decode_name(name), {})[once] = offset
        return keys

    def read(
        self, name: str, epoch: str, after: int, upto: int, now: float
    ) -> tuple[int, list[Stored]]:
        """The offset of the oldest that is here, and what lies behind *after* up to *upto*.

        Nothing is told behind which there is something that is not what was written.
        """
        topic = self._find(name)
        if topic.epoch != epoch:
            return 1, []  # nothing of this life is committed
        oldest = topic.oldest
        found: list[Stored] = []
        for *told, sum, data in self._execute(
            "SELECT offset, total, size, time, once, flags, sum, data FROM publications"
            " WHERE topic = ? AND offset > ? AND offset <= ? ORDER BY offset",
            (topic.id, after, upto),
        ):
            offset, _, _, time, _, flags = told
            is_whole = isinstance(data, bytes) and sum == sum_of(tuple(told), data)
            if not is_whole or (found and found[-1].offset != offset - 1):
                logger.warning("%s: publication %r of %r is damaged", self.path, offset, name)
                oldest = (found[-1].offset if found else after) + 2
                found.clear()
            else:
                found.append(Stored(offset, read_entry(flags, data), max(0.0, now - time)))
        return oldest, found
