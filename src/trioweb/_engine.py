"""The rules of an engine, in Python: one order for each topic, retention, lives.  Who is in a topic
is `_engine_presence`'s, and what the engine has to be asked for it, too.

Pure but for the clock, which is an argument.  A life of a topic ends when the engine cannot know
that nothing is missing: when it has no record of the topic, when another process served it last
(unless that is durable), and when a node has something that it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Protocol

from ._chance import random_name
from ._engine_presence import PresenceEngine
from ._policy import Retain
from ._topics._commands import (
    Answer,
    Ask,
    Changed,
    Command,
    Count,
    Done,
    Entry,
    Load,
    Loaded,
    Members,
    Ping,
    Publish,
    Refusal,
    Standing,
    Stored,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
    entry_of,
)
from ._topics._details import NOTHING
from ._topics._log import Log
from ._topics._position import Position, new_position
from ._topics._sizes import Sizes

# What a publication takes beside its place in a log: its id, and that one's place in a table.
_ID_BYTES: Final = 192
# A log may have so much more than retention keeps, as a power of two of its parts: to look at each
# publication costs more than to publish it.
_SLACK: Final = 4
# Topics from which a node is taken away at a time, in half a millisecond.
_FORGOTTEN_AT_ONCE: Final = 4096


class Keeping(Protocol):
    """Where topics of an engine are kept, so that another one can go on with them."""

    def begin(self, name: str, epoch: str, head: int, retain: Retain) -> None:
        """A life of the topic *name* begins behind *head*."""

    def keep(self, name: str, offset: int, entry: Entry, retain: Retain) -> str | None:
        """Keep *entry*, which is about to have the *offset*; say why that cannot be, if so."""

    def leave(self, name: str, numbers: dict[str, int]) -> None:
        """The engine has no memory any more for the topic *name*, whose nodes have published these
        last."""

    def numbers(self) -> Iterable[dict[str, int]]:
        """Those of each topic of which `leave` told, as it is now, however long that takes."""


class _Topic:
    """What the engine has of a topic.

    Attributes:
        run: of the process that served it last.
        begin: the offset behind which its epoch began.
        ids: of the entries in the log, by offset; "" where that is not known any more.
        numbers: of the last publication of each node.
        counted: bytes of memory that the engine has counted for it.
    """

    __slots__ = ("_size_number", "begin", "counted", "epoch", "ids", "log", "numbers", "run")

    def __init__(self, retain: Retain, run: str) -> None:
        self.run = run
        self.log = Log(retain)
        self.ids: dict[int, str] = {}
        self.numbers: dict[str, int] = {}
        self.counted = 0
        self._size_number: int | None = None
        self.begin_life()

    @property
    def size(self) -> int:
        """Bytes of memory that its publications take."""
        return self.log.size + _ID_BYTES * len(self.ids)

    def begin_life(self) -> None:
        self.epoch = random_name()
        self.begin = self.log.head

    def lose(self, count: int) -> None:
        """Have no record of the newest *count* publications."""
        old = self.log
        head = max(old.first - 1, old.head - count)
        self.log = Log(old.retain, old.first - 1)
        for offset in range(old.first, head + 1):
            self.log.append(
                old.frame(offset), old.skip(offset), old.time(offset), old.details(offset)
            )
        gone = [self.ids.pop(offset) for offset in range(head + 1, old.head + 1)]
        for id in gone:
            node, _, number = id.rpartition(":")
            self.numbers[node] = min(self.numbers.get(node, 0), int(number) - 1)


class Engine:
    """The topics, and who is told of what is published.

    Args:
        clock: the time.
        durable: whether nothing is lost when another process goes on.
        published: called with each publication, as soon as it has its place: the topic, epoch,
            offset, and the entry.
        changed: called with whoever comes to a topic or leaves it.
        keeping: where topics are kept; None for nowhere.

    Attributes:
        run: a name of the process that serves; another one, after a restart.
        refusal: why publications and members are refused; None while they are not.
        topics: by name.
        size: bytes of memory that all publications take.
        presence: who is in which topic.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        durable: bool,
        published: Callable[[str, str, int, Entry], None],
        changed: Callable[[Changed], None],
        keeping: Keeping | None = None,
    ) -> None:
        self.run = random_name()
        self.refusal: str | None = None
        self.topics: dict[str, _Topic] = {}
        self.size = 0
        self._sizes: Sizes[_Topic] = Sizes()
        self.presence = PresenceEngine(clock, changed)
        self._clock = clock
        self._durable = durable
        self._published = published
        self._keeping = keeping

    def execute(self, node: str, command: Command) -> Answer:
        """Do what *node* asks; whom to push to is the caller's business."""
        match command:
            case Publish():
                return self.publish(node, command)
            case Subscribe() | Ask():
                return self._stand(command)
            case Load():
                return self._load(command)
            case Unsubscribe() | Watch() | Unwatch() | Ping():
                return Done()
            case Members() | Count():
                return self.presence.execute(command)
            case _:
                # It needs memory, too.
                refusal = self.refusal
                return self.presence.execute(command) if refusal is None else Refusal(refusal)

    def _topic(self, name: str, retain: Retain) -> _Topic:
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = _Topic(retain, self.run)
            self._has_begun(name, topic)
        if topic.run != self.run:
            topic.run = self.run
            if not self._durable:
                topic.begin_life()
                self._has_begun(name, topic)
        topic.log.retain = retain
        return topic

    def _has_begun(self, name: str, topic: _Topic) -> None:
        """A life of *topic* has."""
        if self._keeping is not None:
            self._keeping.begin(name, topic.epoch, topic.begin, topic.log.retain)

    def restore(
        self,
        name: str,
        position: Position,
        begin: int,
        retain: Retain,
        entries: Sequence[Stored],
        numbers: dict[str, int],
    ) -> None:
        """Go on with the topic *name*, which is not known here, as it was kept.

        Args:
            position: where it stands.
            begin: the offset behind which that epoch began.
            entries: the last ones, up to there.
            numbers: of the last publication of each node.
        """
        topic = self.topics[name] = _Topic(retain, self.run)
        topic.epoch, topic.begin, topic.numbers = position.epoch, begin, numbers
        log = topic.log = Log(retain, position.offset - len(entries))
        latest, now = -float("inf"), self._clock()
        for offset, entry, age in entries:
            # The clock on the wall may have been put back meanwhile.
            latest = max(latest, now - age)
            log.append(entry.frame, entry.skip, latest, entry.details)
            topic.ids[offset] = entry.id
        self._count(topic)

    def _count(self, topic: _Topic) -> None:
        """The log of *topic* has changed."""
        size = topic.size
        self.size += size - topic.counted
        topic.counted = size
        log = topic.log
        self._sizes.put(topic, size if log.head > log.first else None)

    def publish(self, node: str, command: Publish) -> Answer:
        """What `execute` does that is asked for most."""
        name, retain, number, entry, is_retry = command
        id, frame, skip, details, _ = entry
        topic = self._topic(name, retain)
        log = topic.log
        if is_retry and topic.numbers.get(node, 0) >= number:
            offset = next((at for at, its in reversed(topic.ids.items()) if its == id), 0)
            return Position(topic.epoch, offset)
        if details is not NOTHING and (first := log.published(details)) is not None:
            return Position(topic.epoch, first)
        if self.refusal is not None:
            return Refusal(self.refusal)
        if self._keeping is not None:
            refusal = self._keeping.keep(name, log.head + 1, entry, retain)
            if refusal is not None:
                return Refusal(refusal)
        now = self._clock()
        offset = log.append(frame, skip, now, details)
        ids = topic.ids
        ids[offset] = id
        topic.numbers[node] = number
        # What retention does not keep goes when somebody asks, or when there is so much of it.
        count, size = len(ids), log.size
        if count - (count >> _SLACK) > retain.max_messages or (
            size - (size >> _SLACK) > retain.max_bytes
        ):
            self._drop(topic, log.floor(now))
        else:
            self._count(topic)
        self._published(name, topic.epoch, offset, entry)
        return new_position((topic.epoch, offset))

    def _stand(self, command: Subscribe | Ask) -> Standing:
        topic = self._topic(command.topic, command.retain)
        log = topic.log
        self._trim(topic)
        if command.epoch == topic.epoch and not _has(topic, command.offset, command.id):
            topic.begin_life()
            self._has_begun(command.topic, topic)
        cursor = log.head if not command.epoch else topic.begin
        if command.epoch == topic.epoch:
            cursor = command.offset
        entries = self._between(topic, cursor, log.head)
        return Standing(topic.epoch, log.head, topic.begin, log.first, entries)

    def _load(self, command: Load) -> Loaded:
        topic = self._topic(command.topic, command.retain)
        self._trim(topic)
        entries = self._between(topic, command.after, min(command.upto, topic.log.head))
        return Loaded(topic.epoch, topic.log.first, entries)

    def _between(self, topic: _Topic, cursor: int, end: int) -> list[Stored]:
        cursor = max(cursor, topic.log.first - 1)
        return [self._stored(topic, offset) for offset in range(cursor + 1, end + 1)]

    def _stored(self, topic: _Topic, offset: int) -> Stored:
        log = topic.log
        entry = entry_of(
            topic.ids[offset], log.frame(offset), log.skip(offset), log.details(offset)
        )
        return Stored(offset, entry, self._clock() - log.time(offset))

    def _trim(self, topic: _Topic) -> None:
        first = topic.log.floor(self._clock())
        self._drop(topic, first)

    def _drop(self, topic: _Topic, first: int) -> None:
        """Have nothing of *topic* that is before *first*."""
        for offset in range(topic.log.first, first):
            del topic.ids[offset]
        topic.log.trim(first)
        self._count(topic)

    # What bounds its memory.

    def forget(self, name: str) -> None:
        """Know nothing of the topic *name* any more."""
        topic = self.topics.pop(name, None)
        if topic is not None:
            self.size -= topic.counted
            self._sizes.put(topic, None)
            if self._keeping is not None:
                self._keeping.leave(name, topic.numbers)

    def forget_node(self, node: str) -> Iterator[None]:
        """*node* will publish nothing any more, and has nobody in a topic.

        Yields from time to time, so that the caller can let others run.
        """
        self.presence.expire_node(node)
        known = [*self.topics.values()]
        kept = () if self._keeping is None else self._keeping.numbers()
        for count, numbers in enumerate(chain((topic.numbers for topic in known), kept), 1):
            numbers.pop(node, None)
            if not count % _FORGOTTEN_AT_ONCE:
                yield

    def shrink(self, size: int) -> bool:
        """Drop the oldest publications of one of the largest logs, of *size* bytes if it has as
        many besides its newest; return whether there were any."""
        topic = self._sizes.largest()
        if topic is None:
            return False
        self._drop(topic, topic.log.first_without(size, keep=1))
        return True

    # What may happen to an engine.

    def restart(self, lost: int | None) -> None:
        """Another process goes on, without the newest *lost* publications of each topic; None for
        without anything."""
        self.run = random_name()
        if lost is None:
            self.flush()
        for topic in self.topics.values():
            topic.lose(lost or 0)
            self._count(topic)

    def flush(self) -> None:
        """Nothing is known any more."""
        self.topics.clear()
        self._sizes = Sizes()
        self.size = 0
        self.presence.clear()

    def evict_log(self, name: str) -> None:
        """The publications of the topic *name* are gone, but not where it stands."""
        topic = self.topics[name]
        topic.log = Log(topic.log.retain, topic.log.head)
        topic.ids.clear()
        self._count(topic)


def _has(topic: _Topic, offset: int, id: str) -> bool:
    """Whether the log can be that of a node that has the entry *id* at *offset*."""
    if offset > topic.log.head:
        return False
    return not id or (topic.ids.get(offset) or id) == id
