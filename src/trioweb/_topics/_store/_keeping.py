"""A store that is open: what is published is in the journal before anybody knows its place.

A task commits what the journal has, some of it at a time, and reads what somebody needs, in a
thread.  Whose topics these are is not its business: those of a hub, see `_node`, or of an engine.

A disk may not answer, for as long as it likes.  Then nothing can be read, which is told to whoever
needs it as if it were gone; and the task tries again, as it does where the disk is full.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from time import time
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from ..._policy import Retain
from ..._waitable import Waitable
from .._commands import Loaded, Stored
from .._subscription import logger
from ._index import Index, StoredTopic
from ._journal import Damaged, Place
from ._opening import Opened, close_store, fill, open_store
from ._records import BEGIN, hasher, read_entry, read_record, write_begin
from ._rows import Standing
from ._statistics import StoreStatistics

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

# The journal takes this part of the bound of memory, as its pages are memory, too.
_JOURNAL_PART: Final = 4
_LEAST_JOURNAL: Final = 64 * 2**10
# Seconds for which records are collected, unless a quarter of the journal is full before.
_COLLECTING: Final = 0.25
_MUCH: Final = 4
# Seconds between two attempts to commit, where the disk is full, and to see what is too old.
_RETRY: Final = 1
_AGING: Final = 60
# Seconds of the real clock after which a disk is said not to answer.  One that is busy takes less,
# and a worker whose parent waits for it gives that up after 5.
_SILENCE: Final = 4.0
# Seconds that closing takes at most; what is not committed then stays in the journal.
_MAX_CLOSING: Final = 10
# What a record takes beside what the log counts of a publication, at most, but for a long name.
_RECORD_BYTES: Final = 128


async def open_store_of(path: str, max_topics: int, max_bytes: int, linger: float) -> Store:
    """Open the store at *path* for topics with these bounds; see `open_hub`.

    Raises:
        StoreError: it cannot be used.
    """
    capacity = max(max_bytes // _JOURNAL_PART, _LEAST_JOURNAL)
    opened = await trio.to_thread.run_sync(open_store, path, capacity)
    index = Index(opened.standings, opened.keys, max_topics, max_bytes, linger)
    return Store(opened, index)


class Store:
    """See the top of this module.  `run` is its task.

    Attributes:
        index: what it has.
        once: the hash of whose key a publication has, and the key; see `hasher`.
    """

    def __init__(self, opened: Opened, index: Index) -> None:
        self.index = index
        self.once = hasher(opened.database.id)
        self._opened = opened
        self._database = opened.database
        self._journal = opened.journal
        self._loads: list[tuple[str, str, int, int, Callable[[Loaded], None]]] = []
        self._work = Waitable()
        # More than so much in the journal wakes the task.
        self._wake_above: float = 0
        self._room = Waitable()
        self._failing: str | None = None
        self._forgotten = 0
        # What has changed in the database, as the thread tells it, which may be late.
        self._standings: deque[Standing] = deque()
        # What a thread does, and one more waits for, whatever else the program has threads for.
        self._under_way: Future[Any] | None = None
        self._limiter = trio.CapacityLimiter(1)

    @property
    def capacity(self) -> int:
        """Bytes that the journal may take."""
        return self._journal.capacity

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be committed now."""
        return self._failing is not None

    def statistics(self) -> StoreStatistics:
        journal = self._journal
        return StoreStatistics(
            topics=len(self.index),
            bytes=self.index.size,
            waiting=journal.last - journal.first.number,
            waiting_bytes=journal.used,
            max_waiting_bytes=journal.capacity,
            forgotten=self._forgotten,
            replayed=self._opened.replayed,
            ended=self._opened.ended,
            failing=self._failing,
        )

    # Writing.

    def has_room(self, record: bytes) -> bool:
        """Whether `append` can be called."""
        return self._journal.has_room(len(record))

    def append(self, record: bytes) -> None:
        """Keep *record*: it is there, whatever becomes of the process, when this returns."""
        journal = self._journal
        journal.append(record)
        if journal.used > self._wake_above:
            self._wake()

    def has_room_for(self, size: int) -> bool:
        """Whether a publication of *size* bytes can be kept."""
        return self._journal.has_room(size + _RECORD_BYTES)

    def fits(self, size: int) -> bool:
        """Whether it ever can be."""
        return size + _RECORD_BYTES <= self.capacity

    async def wait_room(self, size: int) -> None:
        """Wait until it can be kept, if it ever can be.  Checkpoint: not always."""
        while self.fits(size) and not self.has_room_for(size):
            await self._room.wait_change()

    def use(self, name: str, epoch: str, head: int, retain: Retain) -> StoredTopic:
        """The topic *name* in the life *epoch*, which somebody uses until `Index.leave`."""
        stored, is_new = self.index.use(name, epoch, head, retain)
        if is_new:
            # A peer may be told of this epoch.  Where there is no room, it ends with the process.
            record = write_begin(stored.place, head)
            if self.has_room(record):
                self.append(record)
        return stored

    # Reading.

    def load(
        self, name: str, epoch: str, after: int, upto: int, loaded: Callable[[Loaded], None]
    ) -> None:
        """Call *loaded* with what lies there, as far as the disk tells it in time."""
        if self._is_failing_in_silence:
            loaded(Loaded(epoch, upto + 1, ()))
        else:
            self._loads.append((name, epoch, after, upto, loaded))
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
        journal, index = self._journal, self.index
        if not journal.used and not len(index):
            return
        last = journal.last
        emptied, dropped = index.surplus()
        work = partial(self._commit_some, last, self._standings, emptied, dropped)
        try:
            while await self._in_thread(work):
                work = partial(self._commit_some, last, self._standings)
        except (sqlite3.Error, OSError, Damaged) as exc:
            self._fail(exc)
        else:
            if self._failing is not None:
                logger.warning("%s: commits again", self._database.path)
            self._failing = None
            self._count_forgotten(len(emptied))
        while self._standings:
            index.committed(self._standings.popleft())
        self._room.changed()

    def _fail(self, error: Exception) -> None:
        if self._failing is None:
            logger.warning(
                "%s: cannot commit: %s; the journal keeps what is published, while it has room",
                self._database.path,
                error,
            )
        self._failing = str(error)

    def _count_forgotten(self, count: int) -> None:
        if count and not self._forgotten:
            logger.warning(
                "%s: more topics or bytes than max_topics and max_bytes: the publications of %d"
                " topics that nobody has used longest are gone; statistics count those that follow",
                self._database.path,
                count,
            )
        self._forgotten += count

    def _commit_some(
        self,
        last: int,
        standings: deque[Standing],
        emptied: Sequence[str] = (),
        dropped: Sequence[str] = (),
    ) -> bool:
        """Commit some of what the journal has up to the record *last*; tell by *standings* what has
        changed.  Return whether there is more."""
        database, journal = self._database, self._journal
        with database.lock:
            batch: list[tuple[Place, bytes]] = []
            fill(batch, journal.read(journal.first, last))
            standings += database.commit(
                batch, self.index.retain_of, time(), emptied=emptied, dropped=dropped
            )
            if batch:
                journal.free(batch[-1][0])
            return journal.first.number < last

    async def _load(self) -> None:
        loads, self._loads = self._loads, []
        for name, epoch, after, upto, loaded in loads:
            found = Loaded(epoch, upto + 1, ())
            # The others need not find out for themselves that the disk does not answer.
            if not self._is_failing_in_silence:
                last = self._journal.last
                try:
                    found = await self._in_thread(self._read, name, epoch, after, upto, last)
                except TimeoutError as exc:
                    self._fail(exc)
            loaded(found)

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

    # The thread.

    @property
    def _is_failing_in_silence(self) -> bool:
        """Whether the disk was waited for, and has still not answered."""
        under_way = self._under_way
        return self._failing is not None and under_way is not None and not under_way.done()

    async def _in_thread(self, work: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        """Do *work* in a thread, of which there is one at a time.

        Raises:
            TimeoutError: the disk has not answered; once it does, this is done all the same.
        """
        if self._under_way is not None:
            await self._wait_for(self._under_way)
        future = self._under_way = Future[_Result]()
        # Nobody has to wait for it: neither Trio nor whoever ends the hub or the process.
        threading.Thread(target=_do, args=(future, work, *args), daemon=True).start()
        await self._wait_for(future)
        return future.result()

    async def _wait_for(self, future: Future[Any]) -> None:
        if not future.done():
            await trio.to_thread.run_sync(
                wait, [future], _SILENCE, abandon_on_cancel=True, limiter=self._limiter
            )
        if not future.done():
            raise TimeoutError(f"the disk has not answered for {_SILENCE:g} seconds")

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
            while self._commit_some(self._journal.last, deque()):
                pass
        except (sqlite3.Error, OSError, Damaged) as exc:
            count = self._journal.last - self._journal.first.number
            logger.warning("%s: %d records stay in the journal: %s", path, count, exc)
        try:
            with self._database.lock:
                close_store(self._opened)
        except sqlite3.Error as exc:
            logger.warning("%s: %s", path, exc)


def _do(future: Future[_Result], work: Callable[[*_Args], _Result], *args: *_Args) -> None:
    """Do *work*, and tell *future* what became of it."""
    try:
        future.set_result(work(*args))
    except BaseException as exc:
        future.set_exception(exc)
