"""The node of a hub with a store: what is published is in the journal before it is in the log.

Topics have windows, as with an engine: in memory is what is used, and what is older is loaded when
somebody needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

import trio

from ..._chance import random_bytes
from ..._effort import EFFORT
from ..._errors import HubFull
from ..._waitable import wrong_thread
from .._broker import Receipt
from .._commands import Answer, Standing
from .._details import NOTHING, Details
from .._log import size_of
from .._position import Position
from .._presence import DoLater, LocalPresence
from .._publishing import accept
from .._shape import COST_OF_WRITE
from .._window import Window
from ._index import StoredTopic
from ._keeping import Store, open_store_of
from ._records import write_record
from ._statistics import StoreStatistics

if TYPE_CHECKING:
    from .._retention import Retention
    from .._topic import Topic


async def open_stored_node(path: str, max_topics: int, max_bytes: int, linger: float) -> StoreNode:
    """Open the store at *path* for a hub with these bounds.

    Raises:
        StoreError: it cannot be used.
    """
    return StoreNode(await open_store_of(path, max_topics, max_bytes, linger))


class StoreNode:
    """A hub's node.  `run` is its task.

    Attributes:
        store: what keeps its topics.
        restarts, lingers: see `Keeper`.  No topic begins anew while its store is open, and none
            that is empty has to stay.
    """

    def __init__(self, store: Store) -> None:
        self.restarts = 0
        self.lingers = False
        self.store = store
        # Those that have a window, by name.
        self._used: dict[str, StoredTopic] = {}

    def statistics(self) -> StoreStatistics:
        return self.store.statistics()

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
        store, once = self.store, None
        if details is not NOTHING and (once := store.once(details)) is not None:
            first = stored.published(once)
            if first is not None:
                EFFORT.spent += COST_OF_WRITE
                return first
        size = size_of(frame, skip) + details.size
        offset = topic._log.head + 1
        record = write_record(stored.place, offset, time(), size, frame, skip, details, once)
        if not store.has_room(record):
            hub._retention.settle(topic)
            raise HubFull(f"{store.capacity} bytes of journal")
        hub._retention.reserve(topic, size)
        store.append(record)
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
        await self.store.wait_room(size)

    def open_presence(self, retention: Retention, do_later: DoLater) -> LocalPresence:
        return LocalPresence(retention)

    # Windows.

    def window(self, topic: Topic) -> Window:
        return Window(topic, self)

    def begin(self, topic: Topic) -> tuple[str, int]:
        stored = self.store.index.find(topic.name)
        if stored is None:
            return random_bytes(8).hex(), 0
        if topic._window is not None:
            topic._window.begin = stored.begin
        return stored.epoch, stored.head

    def attach(self, window: Window) -> None:
        topic = window.topic
        stored = self.store.use(topic.name, topic.epoch, topic.head, topic.retain)
        self._used[topic.name] = stored
        told = window.ask()
        told(Standing(stored.epoch, stored.head, stored.begin, stored.oldest, ()))

    def detach(self, window: Window) -> None:
        self.store.index.leave(self._used.pop(window.topic.name))

    def in_use(self, window: Window) -> None:
        pass

    def unused(self, window: Window) -> None:
        pass

    def ask(self, window: Window) -> None:  # pragma: no cover - nothing else has the topic
        raise AssertionError("what is here is all that there is")

    def load(self, window: Window, after: int, upto: int, loaded: Callable[[Answer], None]) -> None:
        topic = window.topic
        self.store.load(topic.name, topic.epoch, after, upto, loaded)

    # The task, and the end.

    async def run(self) -> None:
        """Commit and load, whenever there is something to do."""
        await self.store.run()

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        await self.store.aclose()
