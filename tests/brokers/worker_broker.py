"""The broker of workers, with the faults that a MemoryBroker has.

Each node is a worker of its own, connected with one parent by a pair of streams on which what is
sent is under way for a while, and so much at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from trioweb import BrokerPolicy
from trioweb._topics._commands import Pushed
from trioweb._topics._engine_link import EngineLink, EngineLost
from trioweb._waitable import Waitable
from trioweb._workers import Switchboard, WorkerEnd
from trioweb._workers._parent_end import MAX_PUSHED, ParentEnd
from trioweb._workers._pipe import Splitter
from trioweb._workers._worker_end import _WorkerLink

_LATENCY: Final = 0.001
# What is under way before whoever sends waits, as for a socket's buffers.
_MAX_BYTES: Final = 200_000


class _End(trio.abc.Stream):
    """One end; what it sends arrives at the other, while that looks."""

    def __init__(self, latency: float, max_bytes: int) -> None:
        self.other = self
        self.is_gone = False
        self._latency = latency
        self._max_bytes = max_bytes
        self.under_way: deque[tuple[float, bytes]] = deque()
        self.looks = trio.Event()
        self.looks.set()
        self._changed = Waitable()

    def take(self) -> bytes:
        """What is under way to this end."""
        data = b"".join(data for _, data in self.under_way)
        self.under_way.clear()
        self._changed.changed()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        other = self.other
        other.under_way.append((trio.current_time() + self._latency, bytes(data)))
        other._changed.changed()
        while sum(len(each) for _, each in other.under_way) > self._max_bytes:
            if other.is_gone:
                raise trio.BrokenResourceError
            await other._changed.wait_change()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            while not self.under_way:
                if self.other.is_gone:
                    return b""
                await self._changed.wait_change()
            await trio.sleep_until(self.under_way[0][0])
            await self.looks.wait()
            # What was waited for may have been taken meanwhile.
            if self.under_way and self.under_way[0][0] <= trio.current_time():
                self._changed.changed()
                return self.under_way.popleft()[1]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def leave(self) -> None:
        """Its process has gone: what it has sent arrives, and then the end."""
        self.is_gone = True
        self._changed.changed()
        self.other._changed.changed()


def make_ends(latency: float = _LATENCY, max_bytes: int = _MAX_BYTES) -> tuple[_End, _End]:
    one, other = _End(latency, max_bytes), _End(latency, max_bytes)
    one.other, other.other = other, one
    return one, other


class Ignore:
    """A listener to whom nothing is said."""

    def ready(self) -> None:
        raise NotImplementedError

    def numbers(self, question: int, statistics: dict[str, Any], page: str) -> None:
        raise NotImplementedError

    def asks_all(self, question: int) -> None:
        raise NotImplementedError

    def asks_others(self, question: int, what: str, data: Any) -> None:
        raise NotImplementedError

    def done(self, question: int, answer: Any) -> None:
        raise NotImplementedError


class _Worker:
    """A worker and what its parent has of it."""

    def __init__(
        self,
        policy: BrokerPolicy,
        switchboard: Switchboard,
        *,
        latency: float,
        max_bytes: int,
        max_pushed: int,
    ) -> None:
        self.end_of_worker, self.there = make_ends(latency, max_bytes)
        self.end = WorkerEnd(self.end_of_worker, policy)
        self.parent = ParentEnd(self.there, switchboard, Ignore(), max_pushed=max_pushed)

    def freeze(self) -> None:
        """It neither reads nor gets through."""
        self.end_of_worker.looks = self.there.looks = trio.Event()

    def thaw(self) -> None:
        self.there.looks.set()
        self.end_of_worker.looks.set()

    def take_under_way(self) -> bytes:
        """What it has sent, and the parent not received."""
        return self.there.take() + self.end._pipe.take_unsent()

    def arrive(self) -> None:
        """Have the parent receive what is under way."""
        for words in self.parent._pipe.splitter.feed(self.take_under_way()):
            while self.parent.receive(words) is not None:
                # Without a store only a new session waits, until the one before has left.
                self.parent._leave_some()
        self.parent.hand_out()


class FaultyWorkerBroker:
    """See the top of this module, and `MemoryBroker`, whose methods these are.

    Args:
        latency, max_bytes: of what is under way.
        max_pushed: see `ParentEnd`.
    """

    def __init__(
        self,
        policy: BrokerPolicy,
        switchboard: Switchboard,
        *,
        latency: float = _LATENCY,
        max_bytes: int = _MAX_BYTES,
        max_pushed: int = MAX_PUSHED,
    ) -> None:
        self.policy = policy
        self._switchboard = switchboard
        self._engine = switchboard.engine
        self._make_worker = partial(
            _Worker,
            policy,
            switchboard,
            latency=latency,
            max_bytes=max_bytes,
            max_pushed=max_pushed,
        )
        switchboard.engine._durable = policy.durable
        self._workers: dict[str, _Worker] = {}
        self._runs = trio.Event()
        self._runs.set()
        self._is_down = False
        self._pushes_lost = 0

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[EngineLink]:
        if self._is_down:
            raise EngineLost("the engine is down")
        worker = self._workers.get(node)
        if worker is None:
            worker = self._workers[node] = self._make_worker()
            worker.there.looks = self._runs
            # As processes do, they outlive what the node does with them.
            trio.lowlevel.spawn_system_task(worker.end.run)
            trio.lowlevel.spawn_system_task(worker.parent.run)

        def receive_unless_lost(pushed: Pushed) -> None:
            if self._pushes_lost:
                self._pushes_lost -= 1
            else:
                receive(pushed)

        async with worker.end.broker.connect(node, fence, receive_unless_lost) as link:
            yield link

    def end(self, node: str) -> None:
        """The process of *node* has ended."""
        worker = self._workers.pop(node, None)
        if worker is not None:
            worker.end_of_worker.leave()

    @property
    def losses(self) -> int:
        """Sessions of those who run that were ended since they did not keep up."""
        return sum(worker.parent.losses for worker in self._workers.values())

    # Faults.

    def cut(self) -> None:
        for worker in self._workers.values():
            worker.end.broker.lose("the connection was cut")

    def _cut(self, link: EngineLink) -> None:
        assert isinstance(link, _WorkerLink)
        link.lose("the connection was cut")

    def arrive_late(self) -> None:
        for worker in self._workers.values():
            worker.arrive()

    def stop(self) -> None:
        self._runs = trio.Event()
        for worker in self._workers.values():
            worker.there.looks = self._runs

    def resume(self) -> None:
        self._runs.set()

    def freeze(self) -> None:
        for worker in self._workers.values():
            worker.freeze()

    def thaw(self) -> None:
        for worker in self._workers.values():
            worker.thaw()

    def lose_pushes(self, count: int) -> None:
        self._pushes_lost = count

    def flush(self) -> None:
        self._switchboard.engine.flush()

    async def pass_time(self, seconds: int) -> None:
        await trio.sleep(seconds)

    def restart(self, *, lost: int | None = 0) -> None:
        self.cut()
        for worker in self._workers.values():
            worker.take_under_way()
            worker.parent._pipe.splitter = Splitter()
        self._switchboard.engine.restart(lost)

    def fail_over(self, *, lost: int = 0) -> None:
        self.restart(lost=lost)

    def shut_down(self) -> None:
        self.cut()
        self._is_down = True

    def start(self) -> None:
        self._is_down = False

    def refuse(self, reason: str | None) -> None:
        self._switchboard.engine.refusal = reason

    def evict_record(self, topic: str) -> None:
        self._switchboard.engine.forget(topic)

    def evict_log(self, topic: str) -> None:
        self._switchboard.engine.evict_log(topic)
