"""The node of a hub with a store: what is published is in the journal before it is in the log.

A task commits what the journal has, some of it at a time, in a thread.  Topics have windows, as
with an engine: in memory is what is used, and what is older is loaded when somebody needs it.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import trio

from ..._chance import random_bytes
from ..._effort import EFFORT
from ..._errors import HubFull
from ..._waitable import Waitable, wrong_thread
from .._broker import Receipt
from .._commands import Loaded, Standing, Stored
from .._details import NOTHING, Details
from .._log import size_of
from .._position import Position
from .._presence import LocalPresence
from .._publishing import accept
from .._shape import COST_OF_WRITE
from .._subscription import logger
from .._window import Window
from ._index import Index, StoredTopic
from ._journal import Damaged, Place
from ._opening import Opened, close_store, fill, open_store
from ._records import BEGIN, hasher, read_entry, read_record, write_begin, write_record
from ._rows import Standing as Committed
from ._statistics import StoreStatistics

if TYPE_CHECKING:
    from .._retention import Retention
    from .._topic import Topic

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

# The journal takes this part of the hub's bound of memory, as its pages are memory, too.
_JOURNAL_PART: Final = 4
_LEAST_JOURNAL: Final = 64 * 2**10
# Seconds for which records are collected, unless a quarter of the journal is full before.
_COLLECTING: Final = 0.25
_MUCH: Final = 4
# Seconds between two attempts to commit, where the disk is full, and to see what is too old.
_RETRY: Final = 1
_AGING: Final = 60
# Seconds that leaving the block takes at most; what is not committed then stays in the journal.
_MAX_CLOSING: Final = 10
# What a record takes beside what the log counts of a publication, at most, but for a long name.
_RECORD_BYTES: Final = 128


async def open_stored_node(path: str, max_topics: int, max_bytes: int, linger: float) -> StoreNode:
    """Open the store at *path* for a hub with these bounds.

    Raises:
        StoreError: it cannot be used.
    """
    capacity = max(max_bytes // _JOURNAL_PART, _LEAST_JOURNAL)
    opened = await trio.to_thread.run_sync(open_store, path, capacity)
    index = Index(opened.standings, opened.keys, max_topics, max_bytes, linger)
    return StoreNode(opened, index)


class StoreNode:
    """A hub's node.  `run` is its task.

    Attributes:
        restarts, lingers: see `Keeper`.  No topic begins anew while its store is open, and none
            that is empty has to stay.
    """

    def __init__(self, opened: Opened, index: Index) -> None:
        self.restarts = 0
        self.lingers = False
        self._opened = opened
        self._database = opened.database
        self._journal = opened.journal
        self._index = index
        self._once = hasher(opened.database.id)
        # Those that have a window, by name.
        self._used: dict[str, StoredTopic] = {}
        self._loads: list[tuple[Window, int, int]] = []
        self._work = Waitable()
        # More than so much in the journal wakes the task.
        self._wake_above: float = 0
        self._room = Waitable()
        self._failing: str | None = None
        # A thread of its own, whatever else the program has threads for.
        self._limiter = trio.CapacityLimiter(1)

    def statistics(self) -> StoreStatistics:
        journal = self._journal
        return StoreStatistics(
            topics=len(self._index),
            bytes=self._index.size,
            waiting=journal.last - journal.first.number,
            waiting_bytes=journal.used,
            max_waiting_bytes=journal.capacity,
            replayed=self._opened.replayed,
            ended=self._opened.ended,
            failing=self._failing,
        )

    # Publishing.

    def publish(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> int:
        try:
            now = trio.current_time()
        except RuntimeError:
            raise wrong_thread() from None
        hub = topic._hub
        if hub.closed or topic.name not in hub._retention.topics:
            hub._use(topic)
        stored = self._used.get(topic.name)
        if stored is None:
            assert topic._window is not None
            topic._window.use()
            stored = self._used[topic.name]
        once = None
        if details is not NOTHING and (once := self._once(details)) is not None:
            first = stored.published(once)
            if first is not None:
                EFFORT.spent += COST_OF_WRITE
                return first
        size = size_of(frame, skip) + details.size
        offset = topic._log.head + 1
        record = write_record(stored.place, offset, time(), size, frame, skip, details, once)
        journal = self._journal
        if not journal.has_room(len(record)):
            hub._retention.settle(topic)
            raise HubFull(f"{journal.capacity} bytes of journal")
        hub._retention.reserve(topic, size)
        journal.append(record)
        if journal.used > self._wake_above:
            self._wake()
        stored.head = offset
        stored.retain = topic.retain  # which may have been replaced
        if once is not None:
            stored.keys.pop(once, None)
            stored.keys[once] = offset
        return accept(topic, frame, skip, details, size, now)

    def post(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> Receipt:
        offset = self.publish(topic, frame, skip, details)
        return Receipt(Position(topic.epoch, offset))

    async def wait_room(self, topic: Topic, size: int) -> None:
        size += _RECORD_BYTES
        while not self._journal.has_room(size) and size <= self._journal.capacity:
            await self._room.wait_change()

    def open_presence(self, retention: Retention) -> LocalPresence:
        return LocalPresence(retention)

    # Windows.

    def window(self, topic: Topic) -> Window:
        return Window(topic, self)

    def begin(self, topic: Topic) -> tuple[str, int]:
        stored = self._index.find(topic.name)
        if stored is None:
            return random_bytes(8).hex(), 0
        if topic._window is not None:
            topic._window.begin = stored.begin
        return stored.epoch, stored.head

    def attach(self, window: Window) -> None:
        topic = window.topic
        stored, is_new = self._index.use(topic.name, topic.epoch, topic.head, topic.retain)
        self._used[topic.name] = stored
        if is_new:
            # A peer may be told of this epoch.  Where there is no room, it ends with the process.
            record = write_begin(stored.place, topic.head)
            if self._journal.has_room(len(record)):
                self._journal.append(record)
                if self._journal.used > self._wake_above:
                    self._wake()
        window.stands(Standing(stored.epoch, stored.head, stored.begin, stored.oldest, ()))

    def detach(self, window: Window) -> None:
        self._index.leave(self._used.pop(window.topic.name))

    def in_use(self, window: Window) -> None:
        pass

    def unused(self, window: Window) -> None:
        pass

    def ask(self, window: Window) -> None:  # pragma: no cover - nothing else has the topic
        raise AssertionError("what is here is all that there is")

    def load(self, window: Window, after: int, upto: int) -> None:
        self._loads.append((window, after, upto))
        self._wake()

    # The task.

    def _wake(self) -> None:
        self._wake_above = math.inf
        self._work.changed()

    async def run(self) -> None:
        """Commit and load, whenever there is something to do."""
        while True:
            journal = self._journal
            if not self._loads and not journal.used:
                self._wake_above = 0
                with trio.move_on_after(_AGING):
                    await self._work.wait_change()
            much = math.inf if self._failing is not None else journal.capacity / _MUCH
            if not self._loads and journal.used <= much:
                self._wake_above = much
                with trio.move_on_after(_COLLECTING if self._failing is None else _RETRY):
                    await self._work.wait_change()
            self._wake_above = math.inf
            await self._commit()
            await self._load()

    async def _commit(self) -> None:
        journal, index = self._journal, self._index
        if not journal.used and not len(index):
            return
        emptied, dropped = index.surplus()
        standings: list[Committed] = []
        try:
            await self._in_thread(self._commit_until, journal.last, standings, emptied, dropped)
        except (sqlite3.Error, OSError, Damaged) as exc:
            if self._failing is None:
                logger.warning(
                    "%s: cannot commit: %s; the journal keeps what is published, while it has room",
                    self._database.path,
                    exc,
                )
            self._failing = str(exc)
        else:
            if self._failing is not None:
                logger.warning("%s: commits again", self._database.path)
            self._failing = None
        for standing in standings:
            index.committed(standing)
        self._room.changed()

    def _commit_until(
        self, last: int, standings: list[Committed], emptied: list[str], dropped: list[str]
    ) -> None:
        """Commit what the journal has up to the record *last*; tell by *standings* what changed."""
        database, journal = self._database, self._journal
        with database.lock:
            records = journal.read(journal.first, last)
            while True:
                batch: list[tuple[Place, bytes]] = []
                fill(batch, records)
                standings += database.commit(
                    batch, self._index.retain_of, time(), emptied=emptied, dropped=dropped
                )
                if batch:
                    journal.free(batch[-1][0])
                if journal.first.number >= last:
                    return
                emptied, dropped = [], []

    async def _load(self) -> None:
        loads, self._loads = self._loads, []
        for window, after, upto in loads:
            topic = window.topic
            loaded = await self._in_thread(
                self._read, topic.name, topic.epoch, after, upto, self._journal.last
            )
            window.older(after, loaded)

    def _read(self, name: str, epoch: str, after: int, upto: int, last: int) -> Loaded:
        now = time()
        with self._database.lock:
            try:
                oldest, found = self._database.read(name, epoch, after, upto, now)
            except (sqlite3.Error, UnicodeDecodeError) as exc:
                logger.warning("%s: cannot read %r: %s", self._database.path, name, exc)
                return Loaded(epoch, upto + 1, ())
            # While nothing can be committed, more of it may be in the journal.
            for _, body in self._journal.read(self._journal.first, last):
                record = read_record(body)
                if record.name != name or record.epoch != epoch or record.flags & BEGIN:
                    continue
                if record.offset > max(after, found[-1].offset if found else 0):
                    if record.offset > upto:
                        break
                    entry = read_entry(record.flags, record.data)
                    found.append(Stored(record.offset, entry, max(0.0, now - record.time)))
        return Loaded(epoch, oldest, found)

    async def _in_thread(self, work: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        # Where the disk does not answer, whoever ends the hub need not wait for it; `lock` has
        # whatever comes next wait.
        return await trio.to_thread.run_sync(
            work, *args, abandon_on_cancel=True, limiter=self._limiter
        )

    # The end.

    async def aclose(self) -> None:
        """Commit everything and close, unless the disk does not answer.

        Cancellation: is waited out, for a bounded time by the real clock, as is the disk's.
        """
        closed = threading.Event()

        def close() -> None:
            try:
                self._close()
            finally:
                closed.set()

        # A thread that may be left alone: Trio waits for its own.
        threading.Thread(target=close, name="trioweb store", daemon=True).start()
        with trio.CancelScope(shield=True):
            if not await trio.to_thread.run_sync(closed.wait, _MAX_CLOSING):
                logger.warning(
                    "%s: not closed within %d seconds; what is not committed is in the journal",
                    self._database.path,
                    _MAX_CLOSING,
                )

    def _close(self) -> None:
        path = self._database.path
        try:
            self._commit_until(self._journal.last, [], [], [])
        except (sqlite3.Error, OSError, Damaged) as exc:
            count = self._journal.last - self._journal.first.number
            logger.warning("%s: %d records stay in the journal: %s", path, count, exc)
        try:
            with self._database.lock:
                close_store(self._opened)
        except sqlite3.Error as exc:
            logger.warning("%s: %s", path, exc)
