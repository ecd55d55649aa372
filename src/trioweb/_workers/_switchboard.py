"""The engine of a parent: what workers publish gets its place here, and goes to all who read it.

Memory is bounded as that of a hub is: those topics go first that no worker uses, the longest unused
ahead; then the largest logs lose their oldest publications.  With a store, a topic that went comes
back, as does one of the life of the parent before, when somebody uses it: `wait_for` comes before
`execute`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, Protocol

import trio

from .._engine import Engine
from .._nursery import open_hidden_nursery, protected_block
from .._topics._commands import (
    Answer,
    Ask,
    Changed,
    Command,
    Done,
    Entry,
    Load,
    Publish,
    Refusal,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
)
from ._kept import Kept, KeptTopics
from ._pipe import Wait, pack
from ._words import Words, say_change, say_entry, say_pushes

if TYPE_CHECKING:
    from .._topics._store._keeping import Store

# Seconds for which the position of a topic stays that nobody uses, as for a hub.
_LINGER: Final = 300
# At the bound, so much more goes than one publication needs: not each has to look again.
_SPARE_PART: Final = 64
# Publications of which readers are told, and publishers, by the same words.  Most of what a chunk
# has can be told together, and with so many a worker is busy for less than a millisecond.
MAX_TOGETHER: Final = 64


class _Run:
    """Publications of a topic, each behind the other, that its readers have to be told of."""

    __slots__ = ("entries", "epoch", "first", "topic")

    def __init__(self, topic: str, epoch: str, first: int, entry: Words) -> None:
        self.topic = topic
        self.epoch = epoch
        self.first = first
        self.entries = [entry]


class Reader(Protocol):
    """Who is told of what is published."""

    def push(self, data: bytes) -> None:
        """Take what was pushed, packed."""


class Switchboard:
    """See the top of this module.

    Args:
        max_topics: topics beyond those that workers use.
        max_bytes: bytes of memory that all publications may take.
        store: what keeps the topics; None for nothing.

    Attributes:
        store: the same.
    """

    def __init__(self, *, max_topics: int, max_bytes: int, store: Store | None = None) -> None:
        self.store = store
        self._kept = None if store is None else KeptTopics(store)
        self.engine = Engine(
            trio.current_time,
            durable=False,
            published=self._published,
            changed=self._changed,
            keeping=self._kept,
        )
        self._max_topics = max_topics
        self._max_bytes = max_bytes
        self._readers: dict[str, dict[Reader, None]] = {}
        self._watchers: dict[str, dict[Reader, None]] = {}
        self._run: _Run | None = None
        # Topics that nobody reads, the longest unused first.
        self._idle: OrderedDict[str, None] = OrderedDict()

    def wait_for(self, command: Command) -> Wait | None:
        """What has to be waited for before *command* can be executed; then it is asked again."""
        kept = self._kept
        if kept is None or not isinstance(command, (Publish, Subscribe, Ask, Load)):
            return None
        loading = kept.load(command.topic, command.retain, self._restore)
        if loading is not None:
            return loading.wait
        return kept.wait_room(command.entry) if isinstance(command, Publish) else None

    def _restore(self, name: str, kept: Kept) -> None:
        entries = kept.entries
        sizes = [entry.size for _, entry, _ in entries]
        first = 0
        # What is left to be had of it, if there is no room for all, are the newest.
        while first < len(entries) and not self._make_room(name, sum(sizes[first:])):
            first = (first + len(entries) + 1) // 2
        self.engine.restore(
            name, kept.position, kept.begin, kept.retain, entries[first:], kept.numbers
        )
        if name not in self._readers:
            self._rest(name)

    def execute(self, reader: Reader, node: str, command: Command) -> Answer:
        """Do what *node* asks, which hears of it by *reader*.

        NOTE: Before others run, `hand_out` has to be called.
        """
        if isinstance(command, Publish):
            return self._publish(node, command)
        self.hand_out()
        match command:
            case Subscribe(topic):
                self._readers.setdefault(topic, {})[reader] = None
                self._idle.pop(topic, None)
            case Unsubscribe(topic):
                self.leave(reader, topic)
            case Watch(topic):
                self._watchers.setdefault(topic, {})[reader] = None
                return Done()
            case Unwatch(topic):
                self.unwatch(reader, topic)
                return Done()
            case Ask(topic) | Load(topic):
                pass
            case _:
                return self.engine.execute(node, command)
        answer = self.engine.execute(node, command)
        if topic not in self._readers:
            self._rest(topic)
        return answer

    def _publish(self, node: str, command: Publish) -> Answer:
        topic, size = command.topic, command.entry.size
        if self.engine.size + size > self._max_bytes and not self._make_room(topic, size):
            return Refusal(f"there is no room: {self._max_bytes} bytes are taken")
        answer = self.engine.publish(node, command)
        if topic not in self._readers:
            self._rest(topic)
        return answer

    def leave(self, reader: Reader, topic: str) -> None:
        """*reader* is not told of *topic* any more."""
        readers = self._readers.get(topic, {})
        readers.pop(reader, None)
        if not readers:
            self._readers.pop(topic, None)
            self._rest(topic)

    def unwatch(self, reader: Reader, topic: str) -> None:
        """*reader* is not told any more who comes to *topic* and who leaves it."""
        watchers = self._watchers.get(topic, {})
        watchers.pop(reader, None)
        if not watchers:
            self._watchers.pop(topic, None)

    def _published(self, topic: str, epoch: str, offset: int, entry: Entry) -> None:
        if topic not in self._readers:
            return
        said, run = say_entry(entry), self._run
        if run is not None and run.topic == topic and run.epoch == epoch:
            entries = run.entries
            if run.first + len(entries) == offset and len(entries) < MAX_TOGETHER:
                entries.append(said)
                return
        self.hand_out()
        self._run = _Run(topic, epoch, offset, said)

    def hand_out(self) -> None:
        """Tell those who read it of what was published."""
        run, self._run = self._run, None
        if run is not None:
            said = say_pushes(run.topic, run.epoch, run.first, run.entries)
            self._push(self._readers.get(run.topic), said)

    def _changed(self, change: Changed) -> None:
        self._push(self._watchers.get(change.topic), say_change(change))

    def _push(self, readers: dict[Reader, None] | None, words: Words) -> None:
        if readers:
            data = pack(words)
            # One that cannot keep up leaves.
            for reader in tuple(readers):
                reader.push(data)

    def _rest(self, topic: str) -> None:
        """Nobody reads *topic*, which was used just now."""
        self._idle[topic] = None
        self._idle.move_to_end(topic)
        while len(self._idle) > self._max_topics:
            self._forget_longest_unused()

    def _forget_longest_unused(self) -> None:
        name, _ = self._idle.popitem(last=False)
        self.engine.forget(name)

    def _make_room(self, topic: str, size: int) -> bool:
        """Make room for *size* bytes in *topic*; return whether there is any."""
        if size > self._max_bytes:
            return False
        if topic in self._idle:
            self._idle.move_to_end(topic)
        engine = self.engine
        while (excess := engine.size + size - self._max_bytes) > 0:
            if self._idle and next(iter(self._idle)) != topic:
                self._forget_longest_unused()
            elif not engine.shrink(excess + self._max_bytes // _SPARE_PART):
                return False
        return True


@protected_block
async def open_switchboard(
    *, max_topics: int, max_bytes: int, store: str | os.PathLike[str] | None = None
) -> AsyncGenerator[Switchboard]:
    """Open a switchboard for the length of the block.

    Args:
        max_topics, max_bytes: see `Switchboard`; they hold for what is stored, too.
        store: the path of a file that keeps the topics; None for none.

    Raises:
        StoreError: it cannot be opened.

    With a store, leaving the block waits until everything is committed; see `open_hub`.
    """
    if store is None:
        yield Switchboard(max_topics=max_topics, max_bytes=max_bytes)
        return
    # Whoever has no store needs no SQLite.
    from .._topics._store._keeping import open_store_of

    opened = await open_store_of(os.fsdecode(store), max_topics, max_bytes, _LINGER)
    try:
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(opened.run)
            yield Switchboard(max_topics=max_topics, max_bytes=max_bytes, store=opened)
    finally:
        await opened.aclose()
