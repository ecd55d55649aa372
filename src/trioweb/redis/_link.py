"""One connection to a Redis that speaks RESP3, as a node sees it.

Everything is on it: publications, questions, answers and pushes.  The server does what it is sent
in order, and what it sends arrives in the order in which it was done, so an answer belongs to the
first command that has none yet.  What cannot be right ends the link, and the node makes another.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import hiredis
import trio
from trio.lowlevel import enable_ki_protection

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
    Pushed,
    Refusal,
    Standing,
    Subscribe,
    Unsubscribe,
)
from .._topics._log import size_of
from .._topics._node import EngineLost
from .._topics._position import Position
from .._waitable import Waitable
from ._entries import name_once, read_push, read_stored, write_entry
from ._greeting import read_engines
from ._names import Names
from ._presence import REFUSABLE, read_change, say_presence
from ._share import Share

_CHUNK: Final = 64 * 2**10
# Of history that is asked for at a time.  A server drops a subscriber whom it owes too much, by
# default more than 32 MB, and would drop the next connection for the same questions again.
_MAX_OWED: Final = 16 * 2**20
# What the server says while it cannot do its work, or not any more.  A script's error may have it
# inside; older servers put a dash before it there.
_NOT_NOW: Final = re.compile(
    "(?:^|-)(?:LOADING|READONLY|MASTERDOWN|NOSCRIPT|BUSY|TRYAGAIN|CLUSTERDOWN|NOAUTH|NOPERM)(?: |$)"
)

# What the answer to a command makes of a reply.
_Read = Callable[[Any], Answer]


def why(error: BaseException) -> str:
    """What *error* says; Trio's errors of streams say nothing themselves."""
    cause = error.__cause__
    return str(error) or (why(cause) if cause is not None else type(error).__name__)


class RedisLink:
    """See `trioweb.Broker`.

    Args:
        id: what the server calls the connection.
        run: the name of the server's process.
        scripts: the digests of the scripts, by name.
        reader: with what the server has sent beyond its greeting.
    """

    def __init__(
        self,
        id: str,
        run: str,
        stream: trio.abc.Stream,
        reader: hiredis.Reader,
        scripts: dict[str, bytes],
        names: Names,
        share: Share,
        *,
        durable: bool,
        idle: int,
        receive: Callable[[Pushed], None],
    ) -> None:
        self.id = id
        self._stream = stream
        self._reader = reader
        self._scripts = scripts
        self._names = names
        self._share = share
        self._run = run
        self._durable = b"1" if durable else b""
        self._idle = idle
        self._receive = receive
        # What waits to be written, with the most that the answer may take; who waits for an
        # answer, in order; and what the answers to what was written may take.
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._asked: deque[tuple[Command, _Read, Callable[[Answer], None]]] = deque()
        self._owed = 0
        self._may_write = Waitable()
        self._lost: str | None = None
        self._was_lost = trio.Event()

    # An interrupt between the two would give each answer to the command before.
    @enable_ki_protection
    def send(self, command: Command, answered: Callable[[Answer], None]) -> None:
        """See `trioweb.Broker`."""
        if self._lost is not None:
            return
        if isinstance(command, Ping):
            # Who has another list of engines may have been let in since.
            question: tuple[Any, ...] = b"HGETALL", self._names.engines
            self._asked.append((command, self._agreed, _ignore))
            self._unsent.append((hiredis.pack_command(question), 0))
        words, read = self._say(command)
        self._asked.append((command, read, answered))
        self._unsent.append((hiredis.pack_command(words), _weigh(command)))
        self._may_write.changed()

    async def wait_lost(self) -> str:
        await self._was_lost.wait()
        assert self._lost is not None
        return self._lost

    def lose(self, reason: str) -> None:
        """The connection is of no use any more."""
        if self._lost is None:
            self._lost = reason
            self._was_lost.set()

    # What is said.

    def _say(self, command: Command) -> tuple[tuple[Any, ...], _Read]:
        """The words of *command*, and what reads the reply."""
        names = self._names
        match command:
            case Publish():
                return self._publish(command), _published
            case Subscribe():
                return (b"SUBSCRIBE", names.channel(command.topic)), _done
            case Unsubscribe():
                return (b"UNSUBSCRIBE", names.channel(command.topic)), _done
            case Ask():
                _, _, *asked = command
                return self._evaluate("place", command.topic, command.retain, *asked), _stands
            case Load():
                _, _, *asked = command
                return self._evaluate("load", command.topic, command.retain, *asked), _loaded
            case Ping():
                return (b"ROLE",), _led
            case _:
                return say_presence(names, self._scripts, command)

    def _publish(self, command: Publish) -> tuple[Any, ...]:
        topic, retain, number, entry, is_retry = command
        details = entry.details
        node = entry.id.rpartition(":")[0]
        return self._evaluate(
            "publish",
            topic,
            retain,
            number,
            b"1" if is_retry else b"0",
            size_of(entry.frame, entry.skip) + details.size,
            name_once(details),
            self._names.channel(topic),
            *write_entry(entry),
            node=self._names.node(topic, node),
        )

    def _evaluate(
        self, script: str, topic: str, retain: Retain, *more: object, node: bytes | None = None
    ) -> tuple[Any, ...]:
        keys: tuple[bytes, ...] = self._names.keys(topic)
        if node is not None:
            keys += (node,)
        age = b"" if retain.max_age is None else int(retain.max_age * 1000)
        bounds = retain.max_messages, retain.max_bytes, age, self._idle
        share = self._share.generation, self._share.since(topic)
        shared = self._run, self._durable, random_name(), *bounds, *share
        return b"EVALSHA", self._scripts[script], len(keys), *keys, *shared, *more

    def _agreed(self, reply: Any) -> Answer:
        self._share.check(read_engines(reply))
        return Done()

    # What is heard.

    async def write(self) -> None:
        """Write what waits, until the link is lost."""
        try:
            while True:
                if data := self._take_unsent():
                    await self._stream.send_all(data)
                else:
                    await self._may_write.wait_change()
        except (OSError, trio.BrokenResourceError) as exc:
            self.lose(why(exc))

    def _take_unsent(self) -> bytes:
        taken = []
        while self._unsent:
            data, weight = self._unsent[0]
            if weight and self._owed and self._owed + weight > _MAX_OWED:
                break
            self._unsent.popleft()
            self._owed += weight
            taken.append(data)
        return b"".join(taken)

    async def read(self) -> None:
        """Hand on what arrives, until the link is lost."""
        try:
            while self._lost is None:
                self._take_all()
                data = await self._stream.receive_some(_CHUNK)
                if data:
                    self._reader.feed(bytes(data))
                else:
                    self.lose("the server has closed the connection")
        except (OSError, trio.BrokenResourceError) as exc:
            self.lose(why(exc))
        except hiredis.ProtocolError as exc:
            self.lose(f"the server does not speak RESP3: {exc}")

    @enable_ki_protection
    def _take_all(self) -> None:
        while self._lost is None:
            reply = self._reader.gets()
            if reply is False:
                return
            try:
                act = self._understand(reply)
            except EngineLost as exc:
                self.lose(str(exc))
            except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as exc:
                self.lose(f"what has arrived is not trioweb's: {exc!r}")
            else:
                act()

    def _understand(self, reply: Any) -> Callable[[], None]:
        """What is to be done about *reply*."""
        if isinstance(reply, hiredis.PushNotification):
            kind = reply[0]
            if kind == b"message":
                return partial(self._receive, self._read_pushed(reply[1], reply[2]))
            if kind not in (b"subscribe", b"unsubscribe"):
                return _nothing
        command, read, answered = self._asked.popleft()
        if weight := _weigh(command):
            self._owed -= weight
            self._may_write.changed()
        if isinstance(reply, hiredis.ReplyError):
            reason = str(reply)
            # Who is refused anything else cannot know where its topic stands.
            if not isinstance(command, (Publish, *REFUSABLE)) or _NOT_NOW.search(reason):
                return partial(self.lose, reason)
            return partial(answered, Refusal(reason))
        return partial(answered, read(reply))

    def _read_pushed(self, channel: bytes, data: bytes) -> Pushed:
        names = self._names
        if names.is_of_presence(channel):
            return read_change(names.topic(channel), data)
        return read_push(names, channel, data)


def _weigh(command: Command) -> int:
    """Bytes of history that the answer to *command* may have."""
    if isinstance(command, Load) or (isinstance(command, Ask) and command.epoch):
        return command.retain.max_bytes
    return 0


def _nothing() -> None:
    pass


def _done(reply: object) -> Answer:
    return Done()


def _led(reply: Any) -> Answer:
    if reply[0] != b"master":
        raise EngineLost(f"the server is a {reply[0].decode()} now")
    return Done()


def _ignore(answer: Answer) -> None:
    pass


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
