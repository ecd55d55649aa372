"""What a node's commands look like to the server, and what its replies say.

Of a publication most words are the same as those of the one before in its topic, so they are put
together once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import hiredis

from .._chance import random_name
from .._policy import Retain
from .._topics._commands import (
    Answer,
    Ask,
    Command,
    Done,
    Load,
    Loaded,
    Ping,
    Publish,
    Published,
    Standing,
    Subscribe,
    Unsubscribe,
)
from .._topics._log import size_of
from .._topics._node import EngineLost
from .._topics._position import Position
from ._entries import name_once, read_stored, write_entry
from ._names import Names
from ._presence import say_presence
from ._share import Share

# What the answer to a command makes of a reply.
Read = Callable[[Any], Answer]
# Of how many topics the beginning of a publication is kept.
_MAX_BEGINNINGS: Final = 1_024


class _Beginning(NamedTuple):
    """All words of a publication that do not change: how many, and as they are sent."""

    retain: Retain
    words: int
    data: bytes


class Words:
    """The words of one connection.

    Args:
        node: whose it is.
        run: the name of the server's process.
        scripts: the digests of the scripts, by name.
    """

    def __init__(
        self,
        node: str,
        run: str,
        scripts: dict[str, bytes],
        names: Names,
        share: Share,
        *,
        durable: bool,
        idle: int,
    ) -> None:
        self._node = node
        self._scripts = scripts
        self._names = names
        self._share = share
        self._run = run
        self._durable = b"1" if durable else b""
        self._idle = idle
        # With the server's time, what an epoch is called that begins by way of this connection.
        self._epoch = random_name()
        self._beginnings: dict[str, _Beginning] = {}

    def forget(self) -> None:
        """The list of engines may be another one."""
        self._beginnings.clear()

    def say(self, command: Command) -> tuple[bytes, Read]:
        """*command* as it is sent, and what reads the reply."""
        if isinstance(command, Publish):
            return self._publish(command), _published
        words, read = self._words(command)
        return hiredis.pack_command(words), read

    def _words(self, command: Command) -> tuple[tuple[Any, ...], Read]:
        assert not isinstance(command, Publish)
        names = self._names
        match command:
            case Subscribe():
                return (b"SUBSCRIBE", names.channel(command.topic)), done
            case Unsubscribe():
                return (b"UNSUBSCRIBE", names.channel(command.topic)), done
            case Ask():
                topic, retain, *asked = command
                keys = names.keys(topic)
                return (*self._evaluate("place", topic, retain, keys), *asked), _stands
            case Load():
                topic, retain, *asked = command
                keys = names.keys(topic)
                return (*self._evaluate("load", topic, retain, keys), *asked), _loaded
            case Ping():
                return (b"ROLE",), _led
            case _:
                return say_presence(names, self._scripts, command)

    def _publish(self, command: Publish) -> bytes:
        topic, retain, number, entry, is_retry = command
        beginning = self._beginnings.get(topic)
        if beginning is None or beginning.retain is not retain:
            beginning = self._begin(topic, retain)
        details = entry.details
        size = size_of(entry.frame, entry.skip) + details.size
        retry = b"1" if is_retry else b"0"
        rest: tuple[Any, ...] = number, retry, size, name_once(details), *write_entry(entry)
        packed = hiredis.pack_command(rest)
        # In front of all words stands how many there are.
        start = packed.index(b"\n") + 1
        return b"*%d\r\n%b%b" % (beginning.words + len(rest), beginning.data, packed[start:])

    def _begin(self, topic: str, retain: Retain) -> _Beginning:
        names = self._names
        keys = *names.keys(topic), names.node(topic, self._node)
        words = (*self._evaluate("publish", topic, retain, keys), names.channel(topic))
        packed = hiredis.pack_command(words)
        if len(self._beginnings) >= _MAX_BEGINNINGS:
            self._beginnings.clear()
        found = _Beginning(retain, len(words), packed[packed.index(b"\n") + 1 :])
        self._beginnings[topic] = found
        return found

    def _evaluate(
        self, script: str, topic: str, retain: Retain, keys: tuple[bytes, ...]
    ) -> tuple[Any, ...]:
        """What each script gets first."""
        age = b"" if retain.max_age is None else int(retain.max_age * 1000)
        bounds = retain.max_messages, retain.max_bytes, age, self._idle
        share = self._share.generation, self._share.since(topic)
        shared = self._run, self._durable, self._epoch, *bounds, *share
        return b"EVALSHA", self._scripts[script], len(keys), *keys, *shared


def done(reply: object) -> Answer:
    return Done()


def _led(reply: Any) -> Answer:
    if reply[0] != b"master":
        raise EngineLost(f"the server is a {reply[0].decode()} now")
    return Done()


def _published(reply: Any) -> Answer:
    epoch, offset = reply
    return Published(Position(epoch.decode(), offset))


def _stands(reply: Any) -> Answer:
    epoch, head, begin, oldest, now, entries = reply
    stored = [read_stored(now, entry) for entry in entries]
    return Standing(epoch.decode(), head, begin, oldest, stored)


def _loaded(reply: Any) -> Answer:
    epoch, oldest, now, entries = reply
    return Loaded(epoch.decode(), oldest, [read_stored(now, entry) for entry in entries])
