"""The engine of a parent: what workers publish gets its place here, and goes to all who read it.

Memory is bounded as that of a hub is: those topics go first that no worker uses, the longest unused
ahead; then the largest logs lose their oldest publications.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

import trio

from .._engine import Engine
from .._topics._commands import (
    Answer,
    Ask,
    Command,
    Done,
    Load,
    Publish,
    Push,
    Pushed,
    Refusal,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
)
from .._topics._log import size_of
from ._pipe import pack
from ._words import say_push

# At the bound, so much more goes than one publication needs: not each has to look again.
_SPARE_PART: Final = 64


class Reader(Protocol):
    """Who is told of what is published."""

    def push(self, data: bytes) -> None:
        """Take what was pushed, packed."""


class Switchboard:
    """See the top of this module.

    Args:
        max_topics: topics beyond those that workers use.
        max_bytes: bytes of memory that all publications may take.
    """

    def __init__(self, *, max_topics: int, max_bytes: int) -> None:
        self.engine = Engine(trio.current_time, durable=False, push=self._push)
        self._max_topics = max_topics
        self._max_bytes = max_bytes
        self._readers: dict[str, dict[Reader, None]] = {}
        self._watchers: dict[str, dict[Reader, None]] = {}
        # Topics that nobody reads, the longest unused first.
        self._idle: OrderedDict[str, None] = OrderedDict()

    def execute(self, reader: Reader, node: str, command: Command) -> Answer:
        """Do what *node* asks, which hears of it by *reader*."""
        match command:
            case Publish(topic, entry=entry):
                size = size_of(entry.frame, entry.skip) + entry.details.size
                if self.engine.size + size > self._max_bytes and not self._make_room(topic, size):
                    return Refusal(f"there is no room: {self._max_bytes} bytes are taken")
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

    def _push(self, pushed: Pushed) -> None:
        told = self._readers if isinstance(pushed, Push) else self._watchers
        if readers := told.get(pushed.topic):
            data = pack(say_push(pushed))
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
