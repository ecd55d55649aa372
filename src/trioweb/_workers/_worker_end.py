"""A worker's end: its broker, whose engine is the parent, and what the parent has it do.

What is sent arrives in order and is done in order, so that what an earlier session carried is done
before the next one begins, or never: that is the fence which a broker asks for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from .._close_codes import CloseCode
from .._nursery import open_hidden_nursery, protected_block
from .._topics import BrokerPolicy
from .._topics._commands import Answer, Command, Pushed
from .._topics._engine_link import EngineGone, EngineLost
from .._waitable import Waitable
from ._pipe import Pipe
from ._words import (
    ALL,
    ASK_ALL,
    ASK_OTHERS,
    CHANGED,
    DO,
    DONE,
    DRAIN,
    HELLO,
    LAST_OF_ENGINE,
    NUMBERS,
    OTHERS,
    PUSH,
    READY,
    TELL,
    WELCOME,
    Words,
    hear_answers,
    hear_change,
    hear_pushes,
    say_command,
)

_logger = logging.getLogger("trioweb.workers")

# What a worker tells of itself: its statistics, and its page of metrics if that is asked for.
Tell: TypeAlias = Callable[[bool], Awaitable[tuple[dict[str, Any], str]]]

# What a worker does for another one: what, and the data for that.
Do: TypeAlias = Callable[[str, Any], Awaitable[Any]]

# A parent that takes nothing for so long will not miss the last numbers of a worker.
_FAREWELL_SECONDS: Final = 1
_POLICY: Final = BrokerPolicy()


class Order(NamedTuple):
    """How a worker is to end."""

    code: int
    is_handover: bool


class _WorkerLink:
    """One session with the engine; see `EngineLink`."""

    def __init__(self, pipe: Pipe, number: int, receive: Callable[[Pushed], None]) -> None:
        self.id = str(number)
        self.number = number
        self.is_welcome = False
        self.lost: str | None = None
        self.changed = Waitable()
        self._pipe = pipe
        self._receive = receive
        self._asked: deque[Callable[[Answer], None]] = deque()

    # An interrupt between the two would give each answer to the command before.
    @enable_ki_protection
    def send(self, command: Command, answered: Callable[[Answer], None]) -> None:
        if self.lost is None:
            self._asked.append(answered)
            self._pipe.send(say_command(command))

    async def wait_lost(self) -> str:
        while self.lost is None:
            await self.changed.wait_change()
        return self.lost

    def welcome(self) -> None:
        self.is_welcome = True
        self.changed.changed()

    def lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self.changed.changed()

    def hear(self, words: Words) -> None:
        """The engine has said *words*."""
        if not self.is_welcome or self.lost is not None:
            return  # it is of an earlier session
        code = words[0]
        if code == PUSH:
            for push in hear_pushes(words):
                self._receive(push)
        elif code == CHANGED:
            self._receive(hear_change(words))
        else:
            for answer in hear_answers(words):
                self._asked.popleft()(answer)


class WorkerBroker:
    """The broker of a worker's one hub; see `Broker`."""

    def __init__(self, pipe: Pipe, policy: BrokerPolicy) -> None:
        self.policy = policy
        self._pipe = pipe
        self._number = 0
        self._link: _WorkerLink | None = None
        self._is_orphaned = False

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[_WorkerLink]:
        if self._is_orphaned:
            raise EngineGone("the parent has gone")
        self._number += 1
        link = self._link = _WorkerLink(self._pipe, self._number, receive)
        self._pipe.send((HELLO, link.number, node))
        try:
            with trio.move_on_after(self.policy.timeout):
                while not link.is_welcome and link.lost is None:
                    await link.changed.wait_change()
            if link.lost is not None:
                raise EngineLost(link.lost)
            if not link.is_welcome:
                raise EngineLost(f"the parent was silent for {self.policy.timeout} seconds")
            yield link
        finally:
            link.lose("it was left")
            self._link = None

    def receive(self, words: Words) -> None:
        """The parent has said *words*, as the engine."""
        link = self._link
        if link is None:
            return
        code = words[0]
        if code < WELCOME:
            link.hear(words)
        elif words[1] == link.number:
            if code == WELCOME:
                link.welcome()
            else:
                link.lose(words[2])

    def lose(self, why: str) -> None:
        """End the session, if there is one."""
        if self._link is not None:
            self._link.lose(why)

    def orphan(self) -> None:
        """There is no parent any more."""
        self._is_orphaned = True
        self.lose("the parent has gone")


class WorkerEnd:
    """A worker, as its own process has it.

    Attributes:
        broker: joins the hub of this worker with those of the others.
        tell: what the parent is told when it asks for numbers.
        do: what this worker does for others, and answers; an answer is what `marshal` can write.
    """

    tell: Tell
    do: Do

    def __init__(self, stream: trio.abc.Stream, policy: BrokerPolicy) -> None:
        self._pipe = Pipe(stream)
        self.broker = WorkerBroker(self._pipe, policy)
        self._order: Order | None = None
        self._is_orphaned = False
        self._changed = Waitable()
        self.do = _do_nothing
        # What was asked: the numbers of the questions, and the answers.
        self._questions = 0
        self._answers: dict[int, Any] = {}

    def ready(self) -> None:
        """Say that this worker serves."""
        self._pipe.send((READY,))

    async def wait_order(self) -> Order:
        """Wait until the parent has told this worker to end, or has gone.  Checkpoint: not
        always."""
        while self._order is None:
            await self._changed.wait_change()
        return self._order

    async def ask_all(self) -> dict[str, Any]:
        """The statistics of all workers together.

        Raises:
            EngineLost: the parent has gone.
        """
        answer: dict[str, Any] = await self._ask(ASK_ALL)
        return answer

    async def ask_others(self, what: str, data: Any) -> list[tuple[int, Any]]:
        """Have each other worker do *what*; the number of each, and what it answers; None if it
        has not answered in time.

        Raises:
            EngineLost: the parent has gone.
        """
        answers: list[tuple[int, Any]] = await self._ask(ASK_OTHERS, what, data)
        return answers

    async def _ask(self, code: int, *rest: Any) -> Any:
        self._questions += 1
        number = self._questions
        self._answers[number] = None
        self._pipe.send((code, number, *rest))
        try:
            while (answer := self._answers[number]) is None:
                if self._is_orphaned:
                    raise EngineLost("the parent has gone")
                await self._changed.wait_change()
            return answer
        finally:
            del self._answers[number]

    async def say_farewell(self) -> None:
        """Tell the parent the last numbers of this worker, if it still listens."""
        with trio.move_on_after(_FAREWELL_SECONDS):
            self._pipe.send((NUMBERS, 0, *await self.tell(True)))
            await self._pipe.wait_sent()

    async def run(self) -> None:
        """Hear the parent, until it has gone."""
        async with trio.open_nursery() as nursery:

            async def tell(number: int, with_page: bool) -> None:
                self._pipe.send((NUMBERS, number, *await self.tell(with_page)))

            async def do(number: int, what: str, data: Any) -> None:
                answer = None
                try:
                    answer = await self.do(what, data)
                except Exception:
                    # What another worker asks for must not end this one.
                    _logger.exception("error while doing %r for another worker", what)
                self._pipe.send((DONE, number, answer))

            @enable_ki_protection
            def receive(words: Words) -> None:
                code = words[0]
                if code <= LAST_OF_ENGINE:
                    self.broker.receive(words)
                elif code == TELL:
                    nursery.start_soon(tell, *words[1:])
                elif code == DO:
                    nursery.start_soon(do, *words[1:])
                elif code in (ALL, OTHERS):
                    if words[1] in self._answers:
                        self._answers[words[1]] = words[2]
                        self._changed.changed()
                else:
                    assert code == DRAIN
                    self._end(Order(words[1], words[2]))

            await self._pipe.run(receive)
            nursery.cancel_scope.cancel()
        self._is_orphaned = True
        self.broker.orphan()
        # Its peers come back, to whoever listens there by then.
        self._end(Order(CloseCode.SERVICE_RESTART, is_handover=False))

    def _end(self, order: Order) -> None:
        if self._order is None:
            self._order = order
        self._changed.changed()


async def _do_nothing(what: str, data: Any) -> None:
    await trio.lowlevel.checkpoint()


@protected_block
async def open_worker(
    stream: trio.abc.Stream, policy: BrokerPolicy = _POLICY
) -> AsyncGenerator[WorkerEnd]:
    """Be a worker for the length of the block; *stream*, which leads to the parent, is closed at
    its end."""
    try:
        async with open_hidden_nursery() as nursery:
            end = WorkerEnd(stream, policy)
            nursery.start_soon(end.run)
            yield end
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
