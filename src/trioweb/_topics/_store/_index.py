"""The index: where each stored topic stands, in memory, so that `publish` need not ask the disk.

It also says what has to leave the database.  Its bounds are those of the hub: so many topics with
publications that nobody uses, so many bytes of all, and positions of others for as long as `linger`
says.  What somebody uses stays.  After a start nobody uses any yet, so none goes for their number
while there are no more than a hub can have had: those that it used, and as many more.

All of it belongs to Trio's thread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import trio

from ..._policy import Retain
from .._retention import POSITIONS_PART, POSITIONS_PER_TOPIC, size_of_position
from ._records import write_place
from ._rows import Standing

# Topics with publications, used or not, as a multiple of those that nobody need use.
_ALL_TOPICS: Final = 2


class StoredTopic:
    """One topic.

    Attributes:
        place: what its records begin with.
        oldest, size: of what is committed; see `Standing`.
        keys: the offset of each publication that has a key, by the key's hash, in order.
        until: when a topic without publications, which nobody uses, is forgotten.
        is_used: whether a window is attached to it.
        numbers: of the last publication of each node, where an engine has its topics here.
    """

    __slots__ = (
        "begin",
        "epoch",
        "head",
        "is_used",
        "keys",
        "name",
        "numbers",
        "oldest",
        "place",
        "retain",
        "size",
        "until",
    )

    def __init__(self, standing: Standing, keys: dict[int, int]) -> None:
        self.name, self.epoch, self.head, self.begin = standing[:4]
        self.oldest, self.size, self.retain = standing[4:]
        self.place = write_place(self.name, self.epoch)
        self.keys = keys
        self.until = math.inf
        self.is_used = False
        self.numbers: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        return self.head < self.oldest

    def published(self, once: int) -> int | None:
        """The offset of the publication with this key; None if there is none any more."""
        offset = self.keys.get(once, 0)
        first = self.oldest
        if self.retain is not None:
            first = max(first, self.head + 1 - self.retain.max_messages)
        return offset if offset >= first else None


class Index:
    """All that are known.

    Args:
        standings, keys: of the database, the longest unused first.
        max_topics, max_bytes, linger: see `open_hub`.

    Attributes:
        size: bytes of memory that all that is committed would take.
    """

    def __init__(
        self,
        standings: list[Standing],
        keys: dict[str, dict[int, int]],
        max_topics: int,
        max_bytes: int,
        linger: float,
    ) -> None:
        self.size = 0
        self._max_topics = max_topics
        self._max_bytes = max_bytes
        self._linger = linger
        self._topics: dict[str, StoredTopic] = {}
        # Those that nobody uses, with publications and without; the longest unused first.
        self._full: OrderedDict[StoredTopic, None] = OrderedDict()
        self._empty: OrderedDict[StoredTopic, None] = OrderedDict()
        self._positions_size = 0
        for standing in standings:
            topic = StoredTopic(standing, keys.get(standing.name, {}))
            self._topics[topic.name] = topic
            self.size += topic.size
            self._file(topic)

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[StoredTopic]:
        return iter(self._topics.values())

    def find(self, name: str) -> StoredTopic | None:
        """The topic *name*, if it is still known."""
        topic = self._topics.get(name)
        return topic if topic is not None and topic.until > trio.current_time() else None

    def retain_of(self, name: str) -> Retain | None:
        """What *name* retains, as far as that is known.  Any thread may ask."""
        topic = self._topics.get(name)
        return None if topic is None else topic.retain

    def use(self, name: str, epoch: str, head: int, retain: Retain) -> tuple[StoredTopic, bool]:
        """The topic *name* in the life *epoch*, which somebody uses; and whether it is new."""
        topic = self._topics.get(name)
        is_new = topic is None or topic.epoch != epoch
        if topic is not None:
            self._unfile(topic)
        if topic is None or is_new:
            self._forget(topic)
            standing = Standing(name, epoch, head, head, head + 1, 0, retain)
            topic = self._topics[name] = StoredTopic(standing, {})
        topic.retain = retain
        topic.is_used = True
        return topic, is_new

    def leave(self, topic: StoredTopic) -> None:
        """Nobody uses *topic* any more."""
        topic.is_used = False
        self._file(topic)

    def committed(self, standing: Standing) -> None:
        """The database has got there."""
        topic = self._topics.get(standing.name)
        if topic is None or topic.epoch != standing.epoch:
            return  # of a life that is over
        self.size += standing.size - topic.size
        topic.size, topic.oldest = standing.size, standing.oldest
        keys = topic.keys
        while keys and keys[first := next(iter(keys))] < topic.oldest:
            del keys[first]
        if not topic.is_used:
            self._unfile(topic)
            self._file(topic)

    def surplus(self) -> tuple[list[str], list[str]]:
        """Topics whose publications have to go, and those of which nothing stays; these are
        forgotten now."""
        emptied: list[str] = []
        excess, idle = self.size - self._max_bytes, len(self._full)
        number = len(self._topics) - len(self._empty)
        count = min(idle - self._max_topics, number - _ALL_TOPICS * self._max_topics)
        for topic in self._full:
            if excess <= 0 and count <= 0:
                break
            emptied.append(topic.name)
            excess -= topic.size
            count -= 1
        dropped: list[str] = []
        now = trio.current_time()
        while self._empty and (
            (topic := next(iter(self._empty))).until <= now
            or len(self._empty) > POSITIONS_PER_TOPIC * self._max_topics
            or self._positions_size > self._max_bytes // POSITIONS_PART
        ):
            dropped.append(topic.name)
            self._unfile(topic)
            self._forget(topic)
        return emptied, dropped

    def _forget(self, topic: StoredTopic | None) -> None:
        if topic is not None:
            self.size -= topic.size
            del self._topics[topic.name]

    def _file(self, topic: StoredTopic) -> None:
        if topic.is_empty:
            self._empty[topic] = None
            self._positions_size += size_of_position(topic.name)
            topic.until = trio.current_time() + self._linger
        else:
            self._full[topic] = None

    def _unfile(self, topic: StoredTopic) -> None:
        self._full.pop(topic, None)
        if topic in self._empty:
            del self._empty[topic]
            self._positions_size -= size_of_position(topic.name)
        topic.until = math.inf
