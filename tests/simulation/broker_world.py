"""Hubs joined by an engine, while both and what is between them fail: by seeds, in virtual time.

The rows of the table of faults (docs/processes.md) happen in any order and at any time, and these
must hold, as seen from outside:

1. One (epoch, offset) is one message, on every node.
2. A node delivers in the engine's order, without holes, or says so.
3. A subscriber that is told that it recovered, and of nothing skipped, has missed nothing.
4. What was accepted is published once, in its publisher's order, or refused, or counted as
   unanswered in the end.
5. What waits for the engine is bounded.
6. A hub that is alone in the same process notices nothing of it.
7. No exception leaves but those that are documented.

The engine is that of a MemoryBroker, or the parent of workers, with the real ends of their pipes.
A parent cannot be split from itself; it ends the session of a worker that does not keep up instead.

Mutants (`broker_mutants`) prove that a run can fail.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from typing import Any, Final, Literal, TypeAlias

import trio
import trio.testing

from tests.brokers.worker_broker import FaultyWorkerBroker
from tests.topics.support import Peers, open_peers
from trioweb import (
    BrokerFull,
    BrokerPolicy,
    Hub,
    Outbox,
    Position,
    Publication,
    Receipt,
    Retain,
    Retry,
    Topic,
    Unpublished,
    open_hub,
)
from trioweb._topics._commands import Pushed
from trioweb._topics._details import NOTHING
from trioweb._topics._engine_link import EngineLink, EngineLost
from trioweb._topics._node import EngineNode
from trioweb._workers import Switchboard
from trioweb.testing import MemoryBroker, deterministic

Kind: TypeAlias = Literal["memory", "workers"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "workers")
AnyBroker: TypeAlias = MemoryBroker | FaultyWorkerBroker

OUTBOX = Outbox(max_messages=40, max_bytes=100_000, full="raise")
RETAIN = Retain(max_messages=30, patience=0)
_PUBLICATIONS = 200
_PASSES = 40
# Of what is under way to a worker, and of what waits in its parent: some publications.
_PIPE_BYTES = 1000
_MAX_PUSHED = 1000


class Record:
    """What was seen of one run from outside.

    Attributes:
        wrong: what must not be.
        reached: what has happened at all.
    """

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.reached: set[str] = set()
        self.places: dict[tuple[str, int], str] = {}
        self.receipts: list[tuple[str, Receipt]] = []

    def is_at(self, epoch: str, offset: int, text: str) -> None:
        if self.places.setdefault((epoch, offset), text) != text:
            self.wrong.append(f"1: {epoch}, {offset} is {self.places[epoch, offset]} and {text}")


class Way:
    """The way of one node to the engine, which can be cut without those of others."""

    def __init__(self, world: World) -> None:
        self.policy = world.broker.policy
        self.is_cut = False
        self.node = ""
        # Whose side of a broken network it is on.
        self.broker = world.broker
        self._link: Any = None

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[EngineLink]:
        if self.is_cut:
            raise EngineLost("the way to the engine is cut")
        broker = self.broker
        self.node = node
        async with broker.connect(node, fence, receive) as link:
            self._link = link
            if broker is not self.broker or self.is_cut:
                self._cut_at(broker)  # while it was made
            yield link

    def cut(self) -> None:
        self._cut_at(self.broker)

    def _cut_at(self, broker: AnyBroker) -> None:
        link = self._link
        if link is not None and link.lost is None:
            broker._cut(link)

    def end(self) -> None:
        """The node of this way has ended, and its process with it."""
        if isinstance(self.broker, FaultyWorkerBroker):
            self.broker.end(self.node)


class World:
    """The engine, the ways to it, and the hub of each node at present."""

    broker: AnyBroker

    def __init__(self, record: Record, kind: Kind, latency: float, policy: BrokerPolicy) -> None:
        self.record = record
        self.kind = kind
        self.policy = policy
        self.latency = latency
        if kind == "memory":
            self.broker = MemoryBroker(latency=latency, policy=policy)
        else:
            self.broker = FaultyWorkerBroker(
                policy,
                Switchboard(max_topics=100, max_bytes=2**20),
                latency=latency,
                max_bytes=_PIPE_BYTES,
                max_pushed=_MAX_PUSHED,
            )
        self.ways = {name: Way(self) for name in "ab"}
        self.hubs: dict[str, Hub] = {}
        self._lives: dict[str, trio.CancelScope] = {}
        self._count = Counter[str]()
        self.hurried = 0

    async def live(self, name: str) -> None:
        """Have a node, and another one as soon as that is killed."""
        while True:
            with trio.CancelScope() as self._lives[name]:
                async with open_hub(broker=self.ways[name]) as hub:
                    self.hubs[name] = hub
                    self._count[name] += 1
                    await trio.sleep_forever()
            self.ways[name].end()

    def kill(self, name: str) -> None:
        self._lives[name].cancel()

    def publisher(self, name: str) -> str:
        """Who publishes there: one that is killed is another than the one that comes after it."""
        return f"{name}{self._count[name]}"

    def place(self, name: str, topic: str) -> tuple[str, int] | None:
        """Where *topic* stands in the engine of a node; None if that knows nothing of it."""
        there = self.ways[name].broker._engine.topics.get(topic)
        return None if there is None else (there.epoch, there.log.head)

    def hurry(self) -> None:
        """Have what cut connections carried arrive; to a parent all that is under way does."""
        self.hurried += 1
        self.broker.arrive_late()

    def split(self) -> None:
        """Have another server lead, too, with all that there is by now, and a node on its side."""
        assert isinstance(self.broker, MemoryBroker)
        other = MemoryBroker(latency=self.latency, policy=self.policy)
        here, there = self.broker._engine, other._engine
        # In one copy, since sizes are those of these topics.
        had = here.topics, here._sizes, here.size
        there.topics, there._sizes, there.size = deepcopy(had, {id(NOTHING): NOTHING})
        self.ways["b"].cut()
        self.ways["b"].broker = other

    def join(self) -> None:
        """Have the old one follow the other."""
        other = self.ways["b"].broker
        self.ways["a"].cut()
        self.ways["a"].broker = self.broker = other


class Watcher:
    """A subscriber that comes back with its position, at any node, and what it was given."""

    def __init__(self, record: Record, world: World, chance: random.Random, peers: Peers) -> None:
        self.record = record
        self.world = world
        self.chance = chance
        self.peers = peers
        self.position: Position | None = None
        self.got: list[str] = []

    def encode(self, publication: Publication) -> str:
        text = f"{publication.offset} {publication.message!s}"
        self.record.is_at(self.topic.epoch, publication.offset, str(publication.message))
        return text

    async def visit(self, seconds: float) -> None:
        """Subscribe for so long; see that nothing is missing that was not told."""
        peer = self.peers.open(max_bytes=2**22)
        hub = self.world.hubs[self.chance.choice("ab")]
        if hub.closed:
            return
        topic, since, record = hub.topic("news", retain=RETAIN), self.position, self.record
        self.topic = topic
        with topic.subscribe(
            peer.connection, since=since, encode=self.encode, slow="skip"
        ) as subscription:
            with trio.move_on_after(seconds):
                try:
                    await subscription.wait_placed()
                except trio.ClosedResourceError:
                    record.reached.add("killed while it waits")
                    return
            if not subscription.placed:
                return
            epoch, recovered = topic.epoch, subscription.recovered
            if recovered and since is not None:
                record.reached.add("recovered")
                if since.epoch != epoch:
                    record.wrong.append(f"3: {since} was said to recover in {epoch}")
            if not recovered:
                record.reached.add("not recovered")
            await trio.sleep(seconds)
            # What is written reaches the peer without time passing.
            await trio.testing.wait_all_tasks_blocked()
            skipped, cursor = subscription.skipped, subscription.cursor
        if topic._hub.closed:
            # What was on its way to the peer may be gone, and its position is what it has got.
            record.reached.add("node killed")
            received = [int(str(message).split(" ", 1)[0]) for message in peer.messages]
            if recovered and received and topic.epoch == epoch:
                self.position = Position(epoch, received[-1])
            return
        pairs = [str(message).split(" ", 1) for message in peer.messages]
        offsets = [int(offset) for offset, _ in pairs]
        self.got += [text for _, text in pairs]
        if topic.epoch != epoch:
            record.reached.add("a life ended")
        elif recovered:
            # What lies behind its position is here, or was counted.
            if offsets != sorted(set(offsets)):
                record.wrong.append(f"2: {offsets}")
            start = offsets[0] - 1 if offsets else cursor
            start = start if since is None else since.offset
            missing = cursor - start - len(offsets)
            # Without a position, where it began is not seen if something was skipped then.
            if missing != skipped and (since is not None or missing > skipped):
                record.wrong.append(f"3: {missing} of {start}..{cursor} missing, {skipped} told")
            if skipped:
                record.reached.add("skipped")
        if topic.epoch:
            self.position = Position(topic.epoch, cursor)


async def _publish(record: Record, world: World, name: str, chance: random.Random) -> None:
    for number in range(_PUBLICATIONS):
        hub = world.hubs[name]
        if hub.closed:
            await trio.sleep(0.01)
            continue
        text = f"{world.publisher(name)}-{number}"
        topic, node = hub.topic("news", retain=RETAIN), hub._node
        assert isinstance(node, EngineNode)
        try:
            record.receipts.append((text, topic.post(text)))
        except BrokerFull:
            record.reached.add("full")
        if node.statistics().waiting > OUTBOX.max_messages:
            record.wrong.append(f"5: {node.statistics().waiting} wait")
        await trio.sleep(chance.choice([0, 0, 0.005, 0.02, 0.1]))


async def _pass_by(record: Record, world: World, peers: Peers, chance: random.Random) -> None:
    """2: whoever leaves a topic and comes back while its first question is under way begins where
    the topic stood then, or later."""
    peer = peers.open(max_bytes=2**22)
    for number in range(_PASSES):
        name, other = chance.sample("ab", 2)
        await trio.sleep(chance.uniform(0, 0.2))
        hub, elsewhere = world.hubs[name], world.hubs[other]
        if hub.closed:
            continue
        topic = hub.topic("by", retain=RETAIN)
        topic.subscribe(peer.connection).close()
        await trio.sleep(chance.uniform(0, world.latency))
        if not elsewhere.closed:
            with suppress(BrokerFull):
                text = f"{world.publisher(other)}by-{number}"
                receipt = elsewhere.topic("by", retain=RETAIN).post(text)
                record.receipts.append((text, receipt))
        await trio.sleep(chance.uniform(0.1, 1) * world.latency)
        if topic._hub.closed:
            continue
        window = topic._window
        # Where the node receives it already, it does not ask.
        asks, hurried = window is not None and not window.is_attached, world.hurried
        with topic.subscribe(peer.connection) as subscription, trio.move_on_after(0.5):
            # Just before the question is there.
            await trio.sleep(0.95 * world.latency)
            least = world.place(name, "by")
            with suppress(trio.ClosedResourceError):
                await subscription.wait_placed()
            there = world.place(name, "by")
            # In the same life, and on the same side of a broken network.
            asks = asks and world.hurried == hurried
            if asks and least and there and least[0] == there[0] == topic.epoch:
                record.reached.add("came back")
                if topic.head < min(least[1], there[1]):
                    record.wrong.append(f"2: a node began at {topic.head} of {least[1]}")


async def _be_alone(record: Record, chance: random.Random) -> None:
    """6: a hub without a broker, which publishes and delivers at once whatever happens."""
    async with open_hub() as hub:
        topic = hub.topic("news", retain=RETAIN)
        with topic.publications() as publications:
            for number in range(1, _PUBLICATIONS):
                if topic.publish(f"{number}") != number:
                    record.wrong.append(f"6: publication {number} has another offset")
                before = trio.current_time()
                if (await anext(publications)).offset != number or trio.current_time() != before:
                    record.wrong.append(f"6: publication {number} was not delivered at once")
                await trio.sleep(chance.choice([0, 0.01, 0.1]))


async def _break(record: Record, world: World, chance: random.Random) -> None:
    faults: dict[str, Callable[[], object]] = {
        "cut": lambda: world.broker.cut(),
        "late": world.hurry,
        "restart": lambda: world.broker.restart(),
        "restart with nothing": lambda: world.broker.restart(lost=None),
        "fail over": lambda: world.broker.fail_over(lost=chance.randrange(8)),
        "record": lambda: world.broker.evict_record("news"),
        "log": lambda: world.broker.evict_log("news"),
        "memory": lambda: world.broker.refuse("out of memory"),
        "kill": lambda: world.kill(chance.choice("ab")),
    }
    names = ["cut"] * 6 + ["late"] * 6 + ["kill"] + list(faults)
    while True:
        await trio.sleep(chance.uniform(0, 0.5))
        others = ["split"] if world.kind == "memory" else ["stall"] * 6
        name = chance.choice([*names, "stop", "away", *others])
        way = world.ways[chance.choice("ab")]
        record.reached.add(name)
        if name == "stop":
            world.broker.stop()
            await trio.sleep(chance.choice([0.1, 3]))
            world.broker.resume()
        elif name == "away":
            # A node that stands still, or is on no side of a broken network.
            way.is_cut = True
            way.cut()
            await trio.sleep(chance.choice([0.1, 3]))
            way.is_cut = False
        elif name == "stall":
            assert isinstance(world.broker, FaultyWorkerBroker)
            world.broker.freeze()
            await trio.sleep(chance.choice([0.1, 0.8]))
            world.broker.thaw()
            if world.broker.losses:
                record.reached.add("a worker was too slow")
        elif name == "split":
            world.split()
            await trio.sleep(chance.choice([0.1, 2]))
            world.join()
        elif name != "log" or "news" in world.broker._engine.topics:
            faults[name]()
        if name == "memory":
            await trio.sleep(0.1)
            world.broker.refuse(None)


async def _run(seed: int, record: Record, kind: Kind, *, durable: bool) -> None:
    chance = random.Random(seed)
    policy = BrokerPolicy(
        durable=durable,
        outbox=OUTBOX,
        timeout=1,
        retry=Retry(initial=0.05, maximum=0.5),
        # What is left at once is often attached again while the first question is under way.
        linger=random.Random(f"{seed} linger").choice([0, 1]),
        flush_timeout=10,
    )
    world = World(record, kind, chance.choice([0.001, 0.02, 0.05]), policy)
    async with open_peers() as peers, trio.open_nursery() as living:
        for name in world.ways:
            living.start_soon(world.live, name)
        await trio.testing.wait_all_tasks_blocked()
        # Where nobody watches, nobody but the engine knows what there was.
        watchers = [
            Watcher(record, world, random.Random(f"{seed} watcher {number}"), peers)
            for number in range(2 * (seed % 3))
        ]

        async def watch(watcher: Watcher) -> None:
            pace = random.Random(f"{seed} {watchers.index(watcher)}")
            while True:
                await watcher.visit(pace.choice([0.01, 0.5, 3]))
                await trio.sleep(pace.choice([0, 0.2, 2]))

        async with trio.open_nursery() as watching:
            watching.start_soon(_be_alone, record, random.Random(f"{seed} alone"))
            watching.start_soon(_pass_by, record, world, peers, random.Random(f"{seed} by"))
            for watcher in watchers:
                watching.start_soon(watch, watcher)
            async with trio.open_nursery() as breaking:
                breaking.start_soon(_break, record, world, chance)
                async with trio.open_nursery() as nursery:
                    for name in world.ways:
                        pace = random.Random(f"{seed}{name}")
                        nursery.start_soon(_publish, record, world, name, pace)
                breaking.cancel_scope.cancel()
            # The last ones are under way, and whatever has begun to fail is over.
            for way in world.ways.values():
                way.is_cut = False
            if kind == "memory":
                world.join()
            world.broker.resume()
            world.broker.thaw()
            world.broker.refuse(None)
            if seed % 2:
                world.broker.cut()
            await trio.sleep(5)
            world.broker.arrive_late()
            await trio.sleep(1)
            topics = [hub.topic("news", retain=RETAIN) for hub in world.hubs.values()]
            _check_heads(record, world.broker, topics)
            for name, topic in zip(world.hubs, topics, strict=True):
                text = f"{world.publisher(name)}-{_PUBLICATIONS}"
                record.receipts.append((text, topic.post(text)))
            await trio.sleep(5)
            watching.cancel_scope.cancel()
        await _check_receipts(record)
        _check_end(record, world.broker, topics)
        living.cancel_scope.cancel()


async def _check_receipts(record: Record) -> None:
    """4: each has its outcome, in the order of its publisher, and one place."""
    last: dict[tuple[str, str], int] = {}
    for text, receipt in record.receipts:
        if receipt._outcome is None:
            record.wrong.append(f"4: {text} has no outcome")
            continue
        try:
            epoch, offset = await receipt.confirmed()
        except Unpublished:
            record.reached.add("refused")
            continue
        if offset:
            record.is_at(epoch, offset, text)
            publisher = epoch, text.partition("-")[0]
            if offset <= last.get(publisher, 0):
                record.wrong.append(f"4: {text} at {offset}, behind {last[publisher]}")
            last[publisher] = offset


def _check_end(record: Record, broker: AnyBroker, topics: list[Topic]) -> None:
    """What is left in the engine was published once each, by each in order."""
    kept = broker._engine.topics["news"].log
    texts = [str(kept[offset].message) for offset in range(kept.first, kept.head + 1)]
    published: dict[str, list[int]] = {}
    for text in texts:
        name, _, number = text.partition("-")
        published.setdefault(name, []).append(int(number))
    for name, numbers in published.items():
        if numbers != sorted(set(numbers)):
            record.wrong.append(f"4: {name} was published as {numbers}")
    for topic in topics:
        for entry in topic.history():
            record.is_at(topic.epoch, entry.offset, str(entry.message))
        # Something was published since the last fault, which tells of a new life.
        if topic.epoch and topic.epoch != broker._engine.topics["news"].epoch:
            record.wrong.append("2: a node is in a life that has ended")
    _check_heads(record, broker, topics)


def _check_heads(record: Record, broker: AnyBroker, topics: list[Topic]) -> None:
    """2: nothing that the engine has is lacking where it was received."""
    there = broker._engine.topics.get("news")
    for topic in topics:
        if there is not None and topic.epoch == there.epoch and topic.head != there.log.head:
            record.wrong.append(f"2: a node ends at {topic.head} of {there.log.head}")


def run(seed: int, kind: Kind = "memory", *, durable: bool = False) -> Record:
    record = Record()
    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            trio.run(lambda: _run(seed, record, kind, durable=durable), clock=clock)
        except Exception as exc:
            record.wrong.append(f"7: {exc!r}")
    return record


async def _lose_in_silence() -> Record:
    """An engine that is called durable loses something that a node has, then all of it."""
    record = Record()
    broker = MemoryBroker(policy=BrokerPolicy(durable=True))
    async with open_peers() as peers, open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        with topic.subscribe(peers.open().connection, slow="skip") as subscription:
            for number in range(5):
                record.is_at(*await topic.publish_confirmed(f"{number}"), f"{number}")
            broker.restart(lost=2)
            await trio.sleep(5)
            record.is_at(*await topic.publish_confirmed("new"), "new")
            if subscription.recovered:
                record.wrong.append("3: two publications are gone, and none was told")
            broker.evict_record("news")
            last = await topic.publish_confirmed("last")
            await trio.sleep(1)
            if topic.epoch != last.epoch:
                record.wrong.append("3: the record is gone, and nobody noticed")
    return record


def run_lossy() -> Record:
    return trio.run(_lose_in_silence, clock=trio.testing.MockClock(autojump_threshold=0))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the simulation of hubs with a broker.")
    parser.add_argument("--seeds", type=int, default=300, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (%(default)s)")
    parser.add_argument("--engine", choices=KINDS, default="memory", help="(%(default)s)")
    options = parser.parse_args()
    logging.disable()
    wrong = 0
    for seed in range(options.first, options.first + options.seeds):
        record = run(seed, options.engine)
        for line in record.wrong:
            print(f"seed {seed}: {line}")
        wrong += bool(record.wrong)
    print(f"{options.seeds} seeds, {wrong} of them wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
