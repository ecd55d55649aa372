"""A broker in memory, whose engine and whose connections fail on command."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from .._engine import Engine
from .._topics import BrokerPolicy
from .._topics._commands import (
    Answer,
    Command,
    Entry,
    Push,
    Pushed,
    Stored,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
)
from .._topics._engine_link import EngineLost
from .._waitable import Waitable


class _Lane:
    """One direction of a connection: what is sent arrives in order, each after the latency."""

    def __init__(self, latency: float) -> None:
        self.under_way: deque[tuple[float, Callable[[], None]]] = deque()
        self._latency = latency
        self._changed = Waitable()

    def send(self, item: Callable[[], None]) -> None:
        self.under_way.append((trio.current_time() + self._latency, item))
        self._changed.changed()

    async def run(self, wait_open: Callable[[], Awaitable[None]]) -> None:
        while True:
            while not self.under_way:
                await self._changed.wait_change()
            await trio.sleep_until(self.under_way[0][0])
            await wait_open()
            # It may have been cut off while the engine stood still.
            if self.under_way:
                self.under_way.popleft()[1]()


class _Interests:
    """What one connection is to be pushed."""

    __slots__ = ("_subscribed", "_watched")

    def __init__(self) -> None:
        self._subscribed: set[str] = set()
        self._watched: set[str] = set()

    def note(self, command: Command) -> None:
        """The connection has sent *command*."""
        match command:
            case Subscribe(topic):
                self._subscribed.add(topic)
            case Unsubscribe(topic):
                self._subscribed.discard(topic)
            case Watch(topic):
                self._watched.add(topic)
            case Unwatch(topic):
                self._watched.discard(topic)

    def have(self, pushed: Pushed) -> bool:
        """Whether it gets *pushed*."""
        return pushed.topic in (self._subscribed if isinstance(pushed, Push) else self._watched)


class _MemoryLink:
    """One connection of a node to the engine."""

    def __init__(
        self, broker: MemoryBroker, id: str, node: str, receive: Callable[[Pushed], None]
    ) -> None:
        self.id = id
        self.interests = _Interests()
        self.node = node
        self.lost: str | None = None
        self.changed = Waitable()
        self.to_engine = _Lane(broker.latency)
        self.to_node = _Lane(broker.latency)
        self._broker = broker
        self._receive = receive

    def send(self, command: Command, answered: Callable[[Answer], None]) -> None:
        def execute() -> None:
            answer = self._broker._execute(self, command)
            self.to_node.send(lambda: answered(answer))

        if self.lost is None:
            self.to_engine.send(execute)

    def push(self, pushed: Pushed) -> None:
        if self.interests.have(pushed):
            self.to_node.send(lambda: self._receive(pushed))

    async def wait_lost(self) -> str:
        while self.lost is None:
            await self.changed.wait_change()
        return self.lost

    def lose(self, why: str) -> None:
        self.lost = why
        self.to_node.under_way.clear()
        self.changed.changed()


class MemoryBroker:
    """A broker whose engine is in this process, for tests of programs on several hubs.

    Give it to several hubs, `open_hub(broker=broker)`: each is a node.  All of it happens in the
    time of Trio's clock, and its methods make happen what may happen to a real one.

    Args:
        latency: seconds for which what is sent to the engine, or by it, is under way.
        policy: what the nodes go by.

    Concurrency: all methods may be called by any task; none of them waits.
    """

    def __init__(self, *, latency: float = 0.001, policy: BrokerPolicy | None = None) -> None:
        self.latency = latency
        self.policy = policy = policy or BrokerPolicy()
        self._engine = Engine(
            trio.current_time,
            durable=policy.durable,
            published=self._published,
            changed=self._push,
        )
        self._links: dict[str, _MemoryLink] = {}
        # What lost connections still carry to the engine, by connection.
        self._late: dict[str, list[Callable[[], None]]] = {}
        self._runs = trio.Event()
        self._runs.set()
        self._nodes_run = trio.Event()
        self._nodes_run.set()
        self._is_down = False
        self._pushes_lost = 0
        self._number = 0

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[_MemoryLink]:
        """For hubs; see `trioweb.Broker`."""
        with trio.move_on_after(self.policy.timeout) as scope:
            await trio.sleep(2 * self.latency)
            await self._runs.wait()
        if scope.cancelled_caught:
            raise EngineLost(f"the engine was silent for {self.policy.timeout} seconds")
        if self._is_down:
            raise EngineLost("the engine is down")
        self._fence(fence)
        self._number += 1
        link = _MemoryLink(self, str(self._number), node, receive)
        self._links[link.id] = link
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.to_engine.run, self._wait_open)
                nursery.start_soon(link.to_node.run, self._wait_open)
                yield link
                nursery.cancel_scope.cancel()
        finally:
            # What a node leaves behind may still arrive, until it has fenced it.
            left = self._links.pop(link.id, None)
            if left is not None:
                self._leave(left)

    async def _wait_open(self) -> None:
        """Wait until both ends of all connections run."""
        while not (self._runs.is_set() and self._nodes_run.is_set()):
            await self._runs.wait()
            await self._nodes_run.wait()

    def _fence(self, id: str) -> None:
        """Do nothing any more of what the connection *id* carried."""
        self._late.pop(id, None)

    def _leave(self, link: _MemoryLink) -> None:
        items = [item for _, item in link.to_engine.under_way]
        link.to_engine.under_way.clear()
        if items:
            self._late.setdefault(link.id, []).extend(items)

    def _execute(self, link: _MemoryLink, command: Command) -> Answer:
        link.interests.note(command)
        return self._engine.execute(link.node, command)

    def _published(self, topic: str, epoch: str, offset: int, entry: Entry) -> None:
        self._push(Push(topic, epoch, Stored(offset, entry, 0)))

    def _push(self, pushed: Pushed) -> None:
        if self._pushes_lost:
            self._pushes_lost -= 1
            return
        for link in self._links.values():
            link.push(pushed)

    # Faults.

    def cut(self) -> None:
        """Cut all connections.  What was under way to the engine waits for `arrive_late`; what was
        under way from it is lost."""
        for link in tuple(self._links.values()):
            self._cut(link)

    def _cut(self, link: _MemoryLink) -> None:
        if self._links.pop(link.id, None) is not None:
            self._leave(link)
            link.lose("the connection was cut")

    def arrive_late(self) -> None:
        """Have what cut connections still carried arrive, but what their nodes have fenced."""
        late, self._late = self._late, {}
        for items in late.values():
            for item in items:
                item()

    def stop(self) -> None:
        """Have the engine stand still, with all connections open, until `resume`."""
        self._runs = trio.Event()

    def resume(self) -> None:
        """Have the engine go on."""
        self._runs.set()

    def freeze(self) -> None:
        """Have the nodes of this broker stand still, with all connections open, until `thaw`."""
        self._nodes_run = trio.Event()

    def thaw(self) -> None:
        """Have the nodes go on."""
        self._nodes_run.set()

    def lose_pushes(self, count: int) -> None:
        """Have the next *count* publications, or changes of who is in a topic, reach nobody."""
        self._pushes_lost = count

    def flush(self) -> None:
        """Have the engine lose everything, with all connections open."""
        self._engine.flush()

    def restart(self, *, lost: int | None = 0) -> None:
        """Have another process go on, and cut all connections for that.

        Args:
            lost: how many of the newest publications of each topic it has no record of; None for
                having none of anything.
        """
        self.cut()
        self._late.clear()
        self._engine.restart(lost)

    def fail_over(self, *, lost: int = 0) -> None:
        """Have a replica take over that had not got the newest *lost* publications of each topic;
        what the nodes had sent to the old process was for that one."""
        self.restart(lost=lost)

    def shut_down(self) -> None:
        """Cut all connections, and refuse others until `start`."""
        self.cut()
        self._is_down = True

    def start(self) -> None:
        """Take connections again."""
        self._is_down = False

    def refuse(self, reason: str | None) -> None:
        """Refuse publications and members, as an engine that is out of memory.

        Args:
            reason: what publishers are told; None: everything is taken again.
        """
        self._engine.refusal = reason

    def evict_record(self, topic: str) -> None:
        """Have the engine forget *topic*, as an engine that evicts keys does."""
        self._engine.forget(topic)

    def evict_log(self, topic: str) -> None:
        """Have the engine lose the publications of *topic*, but not where it stands."""
        self._engine.evict_log(topic)
