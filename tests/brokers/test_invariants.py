"""The invariants of brokers, whatever breaks and whenever: two hubs on one engine, by seeds.

1. One (epoch, offset) is one message, on every node.
2. A node delivers in the engine's order, without holes, or says so.
3. A subscriber that is told that it recovered, and of nothing skipped, has missed nothing.
4. What was accepted is published once, in its publisher's order, or refused, or counted as
   unanswered in the end.
5. What waits for the engine is bounded.

Mutants prove that a run can fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
import trio.testing

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
from trioweb import _engine as engine
from trioweb._topics._commands import Subscribe
from trioweb._topics._node import EngineLink, EngineNode
from trioweb._topics._window import Window
from trioweb.testing import MemoryBroker, deterministic

OUTBOX = Outbox(max_messages=40, max_bytes=100_000, full="raise")
RETAIN = Retain(max_messages=30, patience=0)
SEEDS = range(16)
_PUBLICATIONS = 200


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


class Watcher:
    """A subscriber that comes back with its position, and what it was given."""

    def __init__(self, record: Record, hub: Hub, peers: Peers) -> None:
        self.record = record
        self.topic = hub.topic("news", retain=RETAIN)
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
        topic, since, record = self.topic, self.position, self.record
        with topic.subscribe(
            peer.connection, since=since, encode=self.encode, slow="skip"
        ) as subscription:
            with trio.move_on_after(seconds):
                await subscription.wait_placed()
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
            if missing != skipped:
                record.wrong.append(f"3: {missing} of {start}..{cursor} missing, {skipped} told")
            if skipped:
                record.reached.add("skipped")
        if topic.epoch:
            self.position = Position(topic.epoch, cursor)


async def _publish(record: Record, hub: Hub, name: str, chance: random.Random) -> None:
    topic = hub.topic("news", retain=RETAIN)
    node = hub._node
    assert isinstance(node, EngineNode)
    for number in range(_PUBLICATIONS):
        text = f"{name}{number}"
        try:
            record.receipts.append((text, topic.post(text)))
        except BrokerFull:
            record.reached.add("full")
        if node.statistics().waiting > OUTBOX.max_messages:
            record.wrong.append(f"5: {node.statistics().waiting} wait")
        await trio.sleep(chance.choice([0, 0, 0.005, 0.02, 0.1]))


async def _break(record: Record, broker: MemoryBroker, chance: random.Random) -> None:
    faults: dict[str, Callable[[], object]] = {
        "cut": broker.cut,
        "late": broker.arrive_late,
        "restart": broker.restart,
        "fail over": lambda: broker.fail_over(lost=chance.randrange(8)),
        "record": lambda: broker.evict_record("news"),
        "memory": lambda: broker.refuse("out of memory"),
    }
    names = ["cut"] * 6 + ["late"] * 6 + list(faults)
    while True:
        await trio.sleep(chance.uniform(0, 0.5))
        name = chance.choice([*names, "stop"])
        if name == "stop":
            broker.stop()
            await trio.sleep(chance.choice([0.1, 3]))
            broker.resume()
        else:
            faults[name]()
        if name == "memory":
            await trio.sleep(0.1)
            broker.refuse(None)
        record.reached.add(name)


async def _run(seed: int, *, durable: bool) -> Record:
    chance = random.Random(seed)
    record = Record()
    policy = BrokerPolicy(
        durable=durable,
        outbox=OUTBOX,
        timeout=1,
        retry=Retry(initial=0.05, maximum=0.5),
        linger=1,
        flush_timeout=10,
    )
    broker = MemoryBroker(latency=chance.choice([0.001, 0.02, 0.05]), policy=policy)
    async with (
        open_peers() as peers,
        open_hub(broker=broker) as first,
        open_hub(broker=broker) as second,
    ):
        hubs = {"a": first, "b": second}
        # Where nobody watches, nobody but the engine knows what there was.
        count = seed % 3
        watchers = [Watcher(record, hub, peers) for hub in hubs.values() for _ in range(count)]

        async def watch(watcher: Watcher) -> None:
            pace = random.Random(f"{seed} {watchers.index(watcher)}")
            while True:
                await watcher.visit(pace.choice([0.01, 0.5, 3]))
                await trio.sleep(pace.choice([0, 0.2, 2]))

        async with trio.open_nursery() as watching:
            for watcher in watchers:
                watching.start_soon(watch, watcher)
            async with trio.open_nursery() as breaking:
                breaking.start_soon(_break, record, broker, chance)
                async with trio.open_nursery() as nursery:
                    for name, hub in hubs.items():
                        pace = random.Random(f"{seed}{name}")
                        nursery.start_soon(_publish, record, hub, name, pace)
                breaking.cancel_scope.cancel()
            # The last ones are under way.
            broker.resume()
            broker.refuse(None)
            if seed % 2:
                broker.cut()
            await trio.sleep(5)
            broker.arrive_late()
            _check_heads(
                record, broker, [hub.topic("news", retain=RETAIN) for hub in hubs.values()]
            )
            for name, hub in hubs.items():
                text = f"{name}{_PUBLICATIONS}"
                record.receipts.append((text, hub.topic("news", retain=RETAIN).post(text)))
            await trio.sleep(5)
            watching.cancel_scope.cancel()
        await _check_receipts(record)
        _check_end(record, broker, [hub.topic("news", retain=RETAIN) for hub in hubs.values()])
    return record


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
            publisher = epoch, text[0]
            if offset <= last.get(publisher, 0):
                record.wrong.append(f"4: {text} at {offset}, behind {last[publisher]}")
            last[publisher] = offset


def _check_end(record: Record, broker: MemoryBroker, topics: list[Topic]) -> None:
    """What is left in the engine was published once each, by each in order."""
    kept = broker._engine.topics["news"].log
    texts = [str(kept[offset].message) for offset in range(kept.first, kept.head + 1)]
    for name in "ab":
        numbers = [int(text[1:]) for text in texts if text[0] == name]
        if numbers != sorted(set(numbers)):
            record.wrong.append(f"4: {name} was published as {numbers}")
    for topic in topics:
        for entry in topic.history():
            record.is_at(topic.epoch, entry.offset, str(entry.message))
        # Something was published since the last fault, which tells of a new life.
        if topic.epoch and topic.epoch != broker._engine.topics["news"].epoch:
            record.wrong.append("2: a node is in a life that has ended")
    _check_heads(record, broker, topics)


def _check_heads(record: Record, broker: MemoryBroker, topics: list[Topic]) -> None:
    """2: nothing that the engine has is lacking where it was received."""
    there = broker._engine.topics.get("news")
    for topic in topics:
        if there is not None and topic.epoch == there.epoch and topic.head != there.log.head:
            record.wrong.append(f"2: a node ends at {topic.head} of {there.log.head}")


def run(seed: int, *, durable: bool = False) -> Record:
    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(lambda: _run(seed, durable=durable), clock=clock)


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


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [run(seed) for seed in SEEDS]


def test_the_invariants_hold_whatever_breaks(records: list[Record]) -> None:
    for seed, record in zip(SEEDS, records, strict=True):
        assert not record.wrong, (seed, record.wrong[:5])
    assert not run_lossy().wrong


def test_the_runs_reach_what_they_are_about(records: list[Record]) -> None:
    reached = set[str]().union(*(record.reached for record in records))
    assert reached >= {"recovered", "not recovered", "a life ended", "full", "refused"}
    assert reached >= {"cut", "late", "restart", "fail over", "record", "memory", "stop"}


# Mutants.


def _no_dedup(patch: pytest.MonkeyPatch) -> None:
    publish = engine.Engine._publish
    patch.setattr(
        engine.Engine,
        "_publish",
        lambda self, node, command: publish(self, node, command._replace(is_retry=False)),
    )


def _no_life_check(patch: pytest.MonkeyPatch) -> None:
    begin = engine.Engine.restart

    def restart(self: engine.Engine, lost: int | None) -> None:
        run = self.run
        begin(self, lost)
        self.run = run
        for topic in self.topics.values():
            topic.run = run

    patch.setattr(engine.Engine, "restart", restart)


def _place_once(self: EngineNode, link: EngineLink, window: Window) -> None:
    link.send(Subscribe(window.topic.name), lambda answer: None)
    if not window.topic.epoch:
        window.ask()
        link.send(window.question, lambda answer: self._stands(window, answer))


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no fence": lambda patch: patch.setattr(MemoryBroker, "_fence", lambda self, id: None),
    "no dedup": _no_dedup,
    "no life check": _no_life_check,
    "no bound": lambda patch: patch.setattr(EngineNode, "_has_room", lambda self, size: True),
    "no question after a hole": lambda patch: patch.setattr(
        Window,
        "receive",
        lambda self, epoch, stored: self._append(stored) if self.is_attached else None,
    ),
    "no matching": lambda patch: patch.setattr(engine, "_has", lambda topic, offset, id: True),
    "no resync": lambda patch: patch.setattr(EngineNode, "_place", _place_once),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert run_lossy().wrong or any(run(seed).wrong for seed in SEEDS)
