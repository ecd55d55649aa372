"""Topics of an engine as its store keeps them.

What is published is in the store's journal before it has its place in the engine, and so before
anybody hears of it.  The engine has whole logs, in memory: what only the store has is loaded at
once, before anything is done with the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from .._policy import Retain
from .._topics._commands import Entry, Loaded, Stored
from .._topics._details import NOTHING
from .._topics._position import Position
from .._topics._store._records import write_record
from ._pipe import Wait

if TYPE_CHECKING:
    from .._topics._store._index import StoredTopic
    from .._topics._store._keeping import Store


# Seconds for which publications wait for a full journal, before they are refused: many times what
# it takes to commit some of it, and less than the silence for which a worker is given up.
_PATIENCE: Final = 5


class Kept(NamedTuple):
    """A topic as it was kept; see `Engine.restore`."""

    position: Position
    begin: int
    retain: Retain
    entries: Sequence[Stored]
    numbers: dict[str, int]


class KeptTopics:
    """See the top of this module, and `Keeping`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Those that the engine has, and those that are on their way there.
        self._used: dict[str, StoredTopic] = {}
        self._loading: dict[str, trio.Event] = {}
        # Whether the last wait for room was in vain.
        self._is_stuck = False

    # What the engine tells.

    def begin(self, name: str, epoch: str, head: int, retain: Retain) -> None:
        self._used[name] = self._store.use(name, epoch, head, retain)

    def keep(self, name: str, offset: int, entry: Entry, retain: Retain) -> str | None:
        store, topic = self._store, self._used[name]
        _, frame, skip, details, size = entry
        once = None if details is NOTHING else store.once(details)
        record = write_record(topic.place, offset, time(), size, frame, skip, details, once)
        if not store.has_room(record):
            return f"the store has no room: {store.capacity} bytes of journal"
        store.append(record)
        topic.head = offset
        topic.retain = retain
        return None

    def leave(self, name: str, numbers: dict[str, int]) -> None:
        topic = self._used.pop(name)
        topic.numbers = numbers
        self._store.index.leave(topic)

    def numbers(self) -> Iterable[dict[str, int]]:
        return (topic.numbers for topic in [*self._store.index])

    # A journal that is full.

    def wait_room(self, entry: Entry) -> Wait | None:
        """What has to be waited for before there is room for *entry*; None if there is, or if it
        has to be refused."""
        size, store = entry.size, self._store
        if store.has_room_for(size):
            self._is_stuck = False
            return None
        if self._is_stuck or store.is_failing or not store.fits(size):
            return None
        return partial(self._wait_room, size)

    async def _wait_room(self, size: int) -> None:
        with trio.move_on_after(_PATIENCE) as scope:
            await self._store.wait_room(size)
        self._is_stuck = scope.cancelled_caught

    # What only the store has.

    def load(
        self, name: str, retain: Retain, restore: Callable[[str, Kept], None]
    ) -> trio.Event | None:
        """Have *restore* called with the topic *name*, if only the store has it.

        Returns:
            What is set then; None if there is nothing to load.
        """
        if name in self._used:
            return None
        loading = self._loading.get(name)
        if loading is not None:
            return loading
        store = self._store
        topic = store.index.find(name)
        if topic is None:
            return None
        # Used from now on, it does not go meanwhile.
        topic = store.use(name, topic.epoch, topic.head, retain)
        loading = self._loading[name] = trio.Event()
        after = max(topic.oldest - 1, topic.head - retain.max_messages)
        loaded = partial(self._loaded, topic, retain, restore)
        store.load(name, topic.epoch, after, topic.head, loaded)
        return loading

    def _loaded(
        self,
        topic: StoredTopic,
        retain: Retain,
        restore: Callable[[str, Kept], None],
        loaded: Loaded,
    ) -> None:
        head = first = topic.head
        # Where something is damaged, what lies behind it.
        for stored in reversed(loaded.entries):
            if stored.offset != first:
                break
            first -= 1
        entries = loaded.entries[len(loaded.entries) - (head - first) :]
        self._used[topic.name] = topic
        kept = Kept(Position(topic.epoch, head), topic.begin, retain, entries, topic.numbers)
        restore(topic.name, kept)
        self._loading.pop(topic.name).set()
