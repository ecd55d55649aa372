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
from hiredis import PushNotification, ReplyError
from trio.lowlevel import enable_ki_protection

from .._tls import network_reason
from .._topics._commands import (
    Answer,
    Ask,
    Command,
    Done,
    Ping,
    Publish,
    Pushed,
    Refusal,
    Subscribe,
)
from .._topics._engine_link import EngineLost, ignore
from .._waitable import Waitable
from ._entries import read_push
from ._greeting import read_engines
from ._names import Names
from ._presence import REFUSABLE, read_change
from ._share import Share
from ._words import Read, Said, Words

# Bytes that are read or written at a time, and replies that are taken before others may run.
_CHUNK: Final = 64 * 2**10
_TAKEN_AT_ONCE: Final = 64
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
        # What waits to be written, behind the most that the answer may take if that is much; who
        # waits for an answer, in order; and what the answers to what was written may take.  Of the
        # many objects that a resync would have here, few are such as Python's collector goes
        # through.
        self._unsent: deque[bytes | int] = deque()
        self._asked: deque[tuple[Command, Read, Callable[[Answer], None], int]] = deque()
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
            self._put(command, (hiredis.pack_command(question), self._agreed, 0), ignore)
        self._put(command, self._words.say(command), answered)

    def _put(self, command: Command, said: Said, answered: Callable[[Answer], None]) -> None:
        data, read, weight = said
        self._asked.append((command, read, answered, weight))
        unsent = self._unsent
        if not unsent:
            self._may_write.changed()
        if weight:
            unsent.append(weight)
        unsent.append(data)

    @enable_ki_protection
    def _ask_in_full(self, again: tuple[Command, Callable[[Answer], None]]) -> None:
        """There is more behind what the node has than fits into an answer to many questions."""
        command, answered = again
        assert isinstance(command, Subscribe | Ask)
        question = Ask(*command)
        self._put(question, self._words.ask(question, question.retain.max_bytes), answered)

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
        unsent, taken, size = self._unsent, [], 0
        while unsent and size < _CHUNK:
            first = unsent[0]
            if isinstance(first, bytes):
                size += len(first)
                taken.append(first)
            elif self._owed and self._owed + first > _MAX_OWED:
                break
            else:
                self._owed += first
            unsent.popleft()
        return b"".join(taken)

    async def read(self) -> None:
        """Hand on what arrives, until the link is lost."""
        try:
            while self._lost is None:
                while self._take_some():
                    await trio.lowlevel.checkpoint()
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
    def _take_some(self) -> bool:
        """Hand on what was read; return whether there is more, which can wait."""
        gets = self._reader.gets
        for _ in range(_TAKEN_AT_ONCE):
            reply = gets()
            if reply is False or self._lost is not None:
                return False
            try:
                act, about = self._understand(reply)
            except EngineLost as exc:
                self.lose(str(exc))
            except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as exc:
                self.lose(f"what has arrived is not trioweb's: {exc!r}")
            else:
                act(about)
        return self._lost is None and self._reader.has_data()

    def _understand(self, reply: Any) -> tuple[Callable[[Any], None], Any]:
        """What is to be called because of *reply*, and with what."""
        if isinstance(reply, PushNotification):
            kind = reply[0]
            if kind == b"message":
                return self._receive, self._read_pushed(reply[1], reply[2])
            # That of a Subscribe comes in front of where the topic stands, which is its answer.
            if kind not in (b"subscribe", b"unsubscribe") or (
                isinstance(self._asked[0][0], Subscribe)
            ):
                return ignore, None
        command, read, answered, weight = self._asked.popleft()
        if weight:
            self._owed -= weight
            # Not for each: what may be written then is written together.
            if self._unsent and self._owed <= _MAX_OWED // 2:
                self._may_write.changed()
        if isinstance(reply, ReplyError):
            reason = str(reply)
            # Who is refused anything else cannot know where its topic stands.
            if not isinstance(command, _REFUSABLE) or _NOT_NOW.search(reason):
                return self.lose, reason
            return answered, Refusal(reason)
        answer = read(reply)
        if answer is None:
            return self._ask_in_full, (command, answered)
        return answered, answer

    def _read_pushed(self, channel: bytes, data: bytes) -> Pushed:
        names = self._names
        if names.is_of_presence(channel):
            return read_change(names.topic(channel), data)
        return read_push(names, channel, data)
