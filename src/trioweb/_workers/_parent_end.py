"""A parent's end of what connects it with one worker: sessions with the engine, and orders.

What a worker asks for is done while it takes the answers.  What others publish cannot wait for
it: if too much of that is not taken, its session is ended, and the next one begins with what is
missing.  Where topics have a store, what a worker asks for may have to wait for that, and all that
it asks for behind it waits, too, so that it is done in order.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._topics._commands import Answer, Publish, Subscribe, Unsubscribe, Unwatch, Watch
from .._topics._position import Position
from ._pipe import Pipe, Wait
from ._switchboard import MAX_TOGETHER, Switchboard
from ._words import (
    ALL,
    ASK_ALL,
    ASK_OTHERS,
    DO,
    DONE,
    DRAIN,
    HELLO,
    LOST,
    NUMBERS,
    OTHERS,
    READY,
    TELL,
    WELCOME,
    Words,
    hear_command,
    say_answer,
    say_published,
)

# What may wait for a worker before it is not listened to until it has taken some of it.
_MAX_ANSWERS: Final = 256 * 2**10
# Read at a time: a parent has no peers that would wait for its turn.
_READ_BYTES: Final = 64 * 2**10
# What may wait for it of what others have published, beside answers: a burst that a busy worker
# takes within seconds.
MAX_PUSHED: Final = 16 * 2**20
# Topics that it leaves at a time, in half a millisecond.
_LEFT_AT_ONCE: Final = 256


class Listener(Protocol):
    """Who is told what a worker says that is not for the engine."""

    def ready(self) -> None:
        """It serves."""

    def numbers(self, question: int, statistics: dict[str, Any], page: str) -> None:
        """Its statistics and its metrics ("" if not asked for), as the answer to that
        `ParentEnd.tell`; 0: its last."""

    def asks_all(self, question: int) -> None:
        """It wants the statistics of all, by `ParentEnd.answer_all`."""

    def asks_others(self, question: int, what: str, data: Any) -> None:
        """It wants all others to do *what*, and their answers by `ParentEnd.answer_others`."""

    def done(self, question: int, answer: Any) -> None:
        """It has done what that `ParentEnd.do` asked for."""


class ParentEnd:
    """See the top of this module.

    Args:
        switchboard: the engine; None if workers have another one.

    Attributes:
        losses: sessions that were ended since the worker did not keep up.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        switchboard: Switchboard | None,
        listener: Listener,
        *,
        max_pushed: int = MAX_PUSHED,
    ) -> None:
        self.losses = 0
        self._pipe = Pipe(stream, _MAX_ANSWERS, read_bytes=_READ_BYTES)
        self._switchboard = switchboard
        self._listener = listener
        self._max_pushed = max_pushed
        # The session's number, 0 for none; the node; what it reads; whose members it
        # watches; and what may wait for it.
        self._session = 0
        self._node = ""
        self._topics: set[str] = set()
        self._watched: set[str] = set()
        self._bound = max_pushed
        # Publications of the session that are to be answered: their epoch, the offset of the first,
        # and how many there are, each behind the other.
        self._epoch, self._first, self._count = "", 0, 0

    async def run(self) -> None:
        """Do what the worker asks, until it has gone."""
        try:
            await self._pipe.run(self.receive, self.hand_out)
        finally:
            self._session = 0
            with trio.CancelScope(shield=True):
                await self._leave()
                if self._switchboard is not None and self._node:
                    for _ in self._switchboard.engine.forget_node(self._node):
                        await trio.lowlevel.checkpoint()

    # Orders.

    def drain(self, code: int, *, handover: bool) -> None:
        """Have it end softly; see `Server.drain`."""
        self._pipe.order((DRAIN, int(code), handover))

    def tell(self, question: int, *, with_page: bool) -> None:
        """Have it tell its numbers."""
        self._pipe.order((TELL, question, with_page))

    def answer_all(self, question: int, statistics: dict[str, Any]) -> None:
        """Answer `Listener.asks_all`."""
        self._pipe.order((ALL, question, statistics))

    def do(self, question: int, what: str, data: Any) -> None:
        """Have it do *what* for another worker."""
        self._pipe.order((DO, question, what, data))

    def answer_others(self, question: int, answers: list[tuple[int, Any]]) -> None:
        """Answer `Listener.asks_others`: the number of each, and its answer."""
        self._pipe.order((OTHERS, question, answers))

    # The engine.

    @enable_ki_protection
    def receive(self, words: Words) -> Wait | None:
        """The worker has said *words*; see `Pipe.run`."""
        code = words[0]
        if code < HELLO:
            # What belongs to no session will be sent again in the next one.
            if self._session:
                return self._execute(words)
        elif code == HELLO:
            self._session = self._count = 0
            if self._topics or self._watched:
                return self._leave
            _, self._session, self._node = words
            self._bound = self._pipe.waiting + self._max_pushed
            self._pipe.send((WELCOME, self._session))
        elif code == READY:
            self._listener.ready()
        elif code == NUMBERS:
            self._listener.numbers(*words[1:])
        elif code == ASK_ALL:
            self._listener.asks_all(words[1])
        elif code == ASK_OTHERS:
            self._listener.asks_others(*words[1:])
        else:
            assert code == DONE
            self._listener.done(*words[1:])
        return None

    def _execute(self, words: Words) -> Wait | None:
        switchboard = self._switchboard
        assert switchboard is not None
        command = hear_command(words)
        if (wait := switchboard.wait_for(command)) is not None:
            return wait
        answer = switchboard.execute(self, self._node, command)
        match command:
            case Publish():
                pass
            case Subscribe(topic):
                self._topics.add(topic)
            case Unsubscribe(topic):
                self._topics.discard(topic)
            case Watch(topic):
                self._watched.add(topic)
            case Unwatch(topic):
                self._watched.discard(topic)
        if self._session:
            self._answer(answer)
        return None

    def _answer(self, answer: Answer) -> None:
        if isinstance(answer, Position):
            epoch, offset = answer
            count = self._count
            if epoch != self._epoch or offset != self._first + count or count == MAX_TOGETHER:
                self._answer_published()
                self._epoch, self._first = epoch, offset
            self._count += 1
        else:
            self._answer_published()
            self._send(say_answer(answer))

    def _answer_published(self) -> None:
        if self._count:
            self._send(say_published(self._epoch, self._first, self._count))
            self._count = 0

    def _send(self, answer: Words) -> None:
        self._pipe.send(answer)
        # It was asked for, however large it is.
        self._bound = self._pipe.waiting + self._max_pushed

    @enable_ki_protection
    def hand_out(self) -> None:
        """Say what was put together, as others are about to run."""
        if self._switchboard is not None:
            self._switchboard.hand_out()
        self._answer_published()

    def push(self, data: bytes) -> None:
        """See `Reader`."""
        if not self._session:
            pass  # it has yet to leave
        elif self._pipe.waiting + len(data) > self._bound:
            self._lose()
        else:
            self._pipe.send_packed(data)

    def _lose(self) -> None:
        """End the session of a worker that does not keep up."""
        number, self._session, self._count = self._session, 0, 0
        self.losses += 1
        self._pipe.take_unsent()
        self._pipe.send((LOST, number, "the parent had more for this worker than it took"))

    async def _leave(self) -> None:
        """Read and watch nothing any more.  A worker may have had very many topics, which others do
        not wait for."""
        while self._topics or self._watched:
            self._leave_some()
            await trio.lowlevel.checkpoint()

    @enable_ki_protection
    def _leave_some(self) -> None:
        switchboard = self._switchboard
        assert switchboard is not None, "without one it reads nothing"
        for _ in range(min(_LEFT_AT_ONCE, len(self._topics))):
            switchboard.leave(self, self._topics.pop())
        for _ in range(min(_LEFT_AT_ONCE, len(self._watched))):
            switchboard.unwatch(self, self._watched.pop())
