"""One connection to a Redis that speaks RESP3, as a node sees it.

Everything is on it: publications, questions, answers and pushes.  The server does what it is sent
in order, and what it sends arrives in the order in which it was done, so an answer belongs to the
first command that has none yet.  What cannot be right ends the link, and the node makes another.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import trio
from trio.lowlevel import enable_ki_protection

from .._tls import network_reason
from .._topics._commands import Answer, Ask, Command, Done, Load, Ping, Publish, Pushed, Refusal
from .._topics._node import EngineLost
from .._waitable import Waitable
from ._entries import read_push
from ._greeting import read_engines
from ._names import Names
from ._presence import REFUSABLE, read_change
from ._share import Share
from ._words import Read, Words

_CHUNK: Final = 64 * 2**10
# Of history that is asked for at a time.  A server drops a subscriber whom it owes too much, by
# default more than 32 MB, and would drop the next connection for the same questions again.
_MAX_OWED: Final = 16 * 2**20
# What the server says while it cannot do its work, or not any more.  A script's error may have it
# inside; older servers put a dash before it there.
_NOT_NOW: Final = re.compile(
    "(?:^|-)(?:LOADING|READONLY|MASTERDOWN|NOSCRIPT|BUSY|TRYAGAIN|CLUSTERDOWN|NOAUTH|NOPERM)(?: |$)"
)

_REFUSABLE: Final = (Publish, *REFUSABLE)


class RedisLink:
    """See `trioweb.Broker`.

    Args:
        id: what the server calls the connection.
        words: what is said on it.
        reader: with what the server has sent beyond its greeting.
    """

    def __init__(
        self,
        id: str,
        stream: trio.abc.Stream,
        reader: hiredis.Reader,
        words: Words,
        names: Names,
        share: Share,
        receive: Callable[[Pushed], None],
    ) -> None:
        self.id = id
        self._stream = stream
        self._reader = reader
        self._words = words
        self._names = names
        self._share = share
        self._receive = receive
        # What waits to be written, with the most that the answer may take; who waits for an
        # answer, in order; and what the answers to what was written may take.
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._asked: deque[tuple[Command, Read, Callable[[Answer], None]]] = deque()
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
        data, read = self._words.say(command)
        self._asked.append((command, read, answered))
        self._unsent.append((data, _weigh(command)))
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

    def _agreed(self, reply: Any) -> Answer:
        self._share.check(read_engines(reply))
        self._words.forget()
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
            self.lose(network_reason(exc))

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
            self.lose(network_reason(exc))
        except hiredis.ProtocolError as exc:
            self.lose(f"the server does not speak RESP3: {exc}")

    @enable_ki_protection
    def _take_all(self) -> None:
        gets = self._reader.gets
        while self._lost is None:
            reply = gets()
            if reply is False:
                return
            try:
                act, about = self._understand(reply)
            except EngineLost as exc:
                self.lose(str(exc))
            except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as exc:
                self.lose(f"what has arrived is not trioweb's: {exc!r}")
            else:
                act(about)

    def _understand(self, reply: Any) -> tuple[Callable[[Any], None], Any]:
        """What is to be called because of *reply*, and with what."""
        if isinstance(reply, hiredis.PushNotification):
            kind = reply[0]
            if kind == b"message":
                return self._receive, self._read_pushed(reply[1], reply[2])
            if kind not in (b"subscribe", b"unsubscribe"):
                return _ignore, None
        command, read, answered = self._asked.popleft()
        if weight := _weigh(command):
            self._owed -= weight
            self._may_write.changed()
        if isinstance(reply, hiredis.ReplyError):
            reason = str(reply)
            # Who is refused anything else cannot know where its topic stands.
            if not isinstance(command, _REFUSABLE) or _NOT_NOW.search(reason):
                return self.lose, reason
            return answered, Refusal(reason)
        return answered, read(reply)

    def _read_pushed(self, channel: bytes, data: bytes) -> Pushed:
        names = self._names
        if names.is_of_presence(channel):
            return read_change(names.topic(channel), data)
        return read_push(names, channel, data)


def _weigh(command: Command) -> int:
    """Bytes of history that the answer to *command* may have."""
    if isinstance(command, Publish):
        return 0
    if isinstance(command, Load) or (isinstance(command, Ask) and command.epoch):
        return command.retain.max_bytes
    return 0


def _ignore(answer: object) -> None:
    pass
