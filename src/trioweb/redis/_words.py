"""What a node's commands look like to the server, and what its replies say.

Most words of a publication are the same as those of the one before in its topic, and most words
of a question are the same as those of the one about another topic: these are put together once.
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
    Standing,
    Subscribe,
    Unsubscribe,
)
from .._topics._details import NOTHING
from .._topics._engine_link import EngineLost
from .._topics._position import new_position
from ._entries import message_of, name_once, read_stored, write_entry
from ._names import Names
from ._presence import say_presence
from ._share import Share

# What the answer to a command makes of a reply; None if there is more than was asked for.
Read = Callable[[Any], Answer | None]
_DONE: Final = Done()
# A union would be made anew each time.
_QUESTIONS: Final = (Subscribe, Ask)
# Of how many topics the beginning of a publication is kept, and for how many bounds of retention
# that of a question.
_MAX_BEGINNINGS: Final = 1_024
# How many words there are, those that do not change, then number, whether it is a retry, size, no
# key, and an entry of a message only.  To pack these with hiredis takes three times as long.
_PLAIN: Final = (
    b"*%d\r\n%b$%d\r\n%b\r\n$1\r\n%b\r\n$%d\r\n%b\r\n$0\r\n\r\n"
    b"$1\r\ni\r\n$%d\r\n%b\r\n$1\r\n%b\r\n$%d\r\n%b\r\n"
)
_PLACE: Final = b"$%d\r\n%b\r\n" * 4
# Bytes of history that a topic may have for a node that comes back, or it is asked for them again.
# Most topics have none, so that many can be asked at a time.
_LITTLE: Final = 16 * 2**10


class _Beginning(NamedTuple):
    """All words of a publication that do not change: how many, and as they are sent."""

    retain: Retain
    words: int
    data: bytes


# A command as it is sent, what reads the reply, and the most bytes of history in that.
Said = tuple[bytes, Read, int]


class _Frame(NamedTuple):
    """What a question begins with, what stands behind its keys, and by which retention."""

    before_keys: bytes
    behind_keys: bytes
    retain: Retain


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
        # By the id of their retention, which they hold: to hash it takes as long as all the rest.
        self._frames: dict[tuple[str, int, int], _Frame] = {}

    def forget(self) -> None:
        """The list of engines may be another one."""
        self._beginnings.clear()

    def say(self, command: Command) -> Said:
        """What is to be sent for *command*."""
        if isinstance(command, Publish):
            return self._publish(command), _published, 0
        if isinstance(command, _QUESTIONS):
            return self.ask(command, _LITTLE)
        if isinstance(command, Load):
            topic, retain, after, upto = command
            data = self._question("load", topic, retain, 2, _pack((after, upto)))
            return data, _loaded, retain.max_bytes
        names = self._names
        words: tuple[Any, ...]
        read: Read = _done
        if isinstance(command, Unsubscribe):
            words = b"UNSUBSCRIBE", names.channel(command.topic)
        elif isinstance(command, Ping):
            words, read = (b"ROLE",), _led
        else:
            words, read = say_presence(names, self._scripts, command)
        return hiredis.pack_command(words), read, 0

    def ask(self, command: Subscribe | Ask, room: int) -> Said:
        """What is to be sent for *command*, the answer to which has *room* bytes of history at
        most, or none."""
        topic, retain, epoch, offset, id = command
        words = epoch.encode(), b"%d" % offset, id.encode(), b"%d" % room
        one, two, three, four = words
        asked = _PLACE % (len(one), one, len(two), two, len(three), three, len(four), four)
        data = self._question("place", topic, retain, 4, asked)
        if isinstance(command, Subscribe):
            channel = self._names.channel(topic)
            data = b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n%b" % (len(channel), channel, data)
        # A node that has nothing is told of nothing.
        return data, _stands, room if epoch else 0

    def _question(self, script: str, topic: str, retain: Retain, count: int, asked: bytes) -> bytes:
        """What is sent for *asked*, which are so many words."""
        since = self._share.since(topic)
        frame = self._frames.get((script, id(retain), since))
        if frame is None:
            frame = self._frame(script, retain, since, count)
        before_keys, behind_keys, _ = frame
        keys = self._names.packed_keys(topic)
        return b"".join((before_keys, keys, behind_keys, asked))

    def _frame(self, script: str, retain: Retain, since: int, asked: int) -> _Frame:
        before = b"EVALSHA", self._scripts[script], 3
        behind = self._shared(retain, since)
        if len(self._frames) >= _MAX_BEGINNINGS:
            self._frames.clear()
        count = b"*%d\r\n" % (len(before) + 3 + len(behind) + asked)
        found = _Frame(count + _pack(before), _pack(behind), retain)
        self._frames[script, id(retain), since] = found
        return found

    def _publish(self, command: Publish) -> bytes:
        topic, retain, number, entry, is_retry = command
        beginning = self._beginnings.get(topic)
        if beginning is None or beginning.retain is not retain:
            beginning = self._begin(topic, retain)
        count, data = beginning.words, beginning.data
        retry = b"1" if is_retry else b"0"
        id, frame, skip, details, size = entry
        if details is NOTHING and skip is None:
            kind, payload = message_of(frame)
            own, taken, name = b"%d" % number, b"%d" % size, id.encode()
            said = len(own), own, retry, len(taken), taken, len(name), name
            return _PLAIN % (count + 8, data, *said, kind, len(payload), payload)
        rest: tuple[Any, ...] = number, retry, size, name_once(details), *write_entry(entry)
        return b"".join((b"*%d\r\n" % (count + len(rest)), data, _pack(rest)))

    def _begin(self, topic: str, retain: Retain) -> _Beginning:
        names = self._names
        keys = *names.keys(topic), names.node(topic, self._node)
        words = (*self._evaluate("publish", topic, retain, keys), names.channel(topic))
        if len(self._beginnings) >= _MAX_BEGINNINGS:
            self._beginnings.clear()
        found = _Beginning(retain, len(words), _pack(words))
        self._beginnings[topic] = found
        return found

    def _evaluate(
        self, script: str, topic: str, retain: Retain, keys: tuple[bytes, ...]
    ) -> tuple[Any, ...]:
        shared = self._shared(retain, self._share.since(topic))
        return b"EVALSHA", self._scripts[script], len(keys), *keys, *shared

    def _shared(self, retain: Retain, since: int) -> tuple[Any, ...]:
        """What each script gets first."""
        age = b"" if retain.max_age is None else int(retain.max_age * 1000)
        bounds = retain.max_messages, retain.max_bytes, age, self._idle
        return self._run, self._durable, self._epoch, *bounds, self._share.generation, since


def _pack(words: tuple[Any, ...]) -> bytes:
    """*words* as they are sent, without how many there are, which stands in front of them."""
    packed: bytes = hiredis.pack_command(words)
    return packed[packed.index(b"\n") + 1 :]


def _done(reply: object) -> Answer:
    return _DONE


def _led(reply: Any) -> Answer:
    if reply[0] != b"master":
        raise EngineLost(f"the server is a {reply[0].decode()} now")
    return Done()


def _published(reply: Any) -> Answer:
    epoch, offset = reply
    return new_position((epoch.decode(), offset))


def _stands(reply: Any) -> Answer | None:
    epoch, head, begin, oldest, now, entries = reply
    if entries is None:
        return None
    # Mostly there are none.
    stored = [read_stored(now, entry) for entry in entries] if entries else ()
    return Standing(epoch.decode(), head, begin, oldest, stored)


def _loaded(reply: Any) -> Answer:
    epoch, oldest, now, entries = reply
    return Loaded(epoch.decode(), oldest, [read_stored(now, entry) for entry in entries])
