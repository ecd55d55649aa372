"""The two ends of what connects a parent with its workers, over streams in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.brokers.test_bulk import counted
from tests.topics.support import Peers, open_peers
from trioweb import BrokerPolicy, Retain, open_hub
from trioweb._topics._commands import Publish, Subscribe, Watch, entry_of
from trioweb._topics._details import NOTHING
from trioweb._topics._engine_link import EngineLost
from trioweb._workers import Switchboard, WorkerEnd, open_worker
from trioweb._workers._parent_end import _LEFT_AT_ONCE, ParentEnd
from trioweb._workers._pipe import Pipe
from trioweb._workers._switchboard import Reader
from trioweb._workers._words import HELLO, PUBLISHED, PUSH, WELCOME, Words, say_command
from trioweb._workers._worker_end import _WorkerLink
from trioweb.testing import MemoryStream, stream_pair


class Listener:
    """Writes down what a worker says."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def ready(self) -> None:
        self.heard.append(("ready",))

    def numbers(self, question: int, statistics: dict[str, Any], page: str) -> None:
        self.heard.append(("numbers", question, statistics, page))

    def asks_all(self, question: int) -> None:
        self.heard.append(("asks all", question))

    def asks_others(self, question: int, what: str, data: Any) -> None:
        self.heard.append(("asks others", question, what, data))

    def done(self, question: int, answer: Any) -> None:
        self.heard.append(("done", question, answer))


class Worker:
    """A worker, with what its parent has of it."""

    def __init__(self, end: WorkerEnd, parent: ParentEnd, stream: MemoryStream) -> None:
        self.end = end
        self.parent = parent
        self.stream = stream
        self.listener = Listener()
        parent._listener = self.listener


@asynccontextmanager
async def open_connected(
    switchboard: Switchboard, nursery: trio.Nursery, **options: Any
) -> AsyncGenerator[Worker]:
    here, there = stream_pair()
    parent = ParentEnd(there, switchboard, Listener(), **options)
    nursery.start_soon(parent.run)
    async with open_worker(here, BrokerPolicy(timeout=5)) as end:
        yield Worker(end, parent, here)


@pytest.fixture
def switchboard() -> Switchboard:
    return Switchboard(max_topics=100, max_bytes=64 * 2**20)


@pytest.fixture
async def peers() -> AsyncGenerator[Peers]:
    async with open_peers() as peers:
        yield peers


async def test_worker_says_that_it_serves_and_what_it_has_counted(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_connected(switchboard, nursery) as worker:
        pages: list[bool] = []

        async def tell(with_page: bool) -> tuple[dict[str, Any], str]:
            pages.append(with_page)
            return {"opened": 3, "closed": {1000: 2}}, "page" if with_page else ""

        worker.end.tell = tell
        worker.end.ready()
        worker.parent.tell(7, with_page=False)
        await trio.sleep(1)
        await worker.end.say_farewell()
        await trio.sleep(1)
        numbers = {"opened": 3, "closed": {1000: 2}}
        assert worker.listener.heard == [
            ("ready",),
            ("numbers", 7, numbers, ""),
            ("numbers", 0, numbers, "page"),
        ]


async def test_worker_is_told_what_it_asks_of_all(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_connected(switchboard, nursery) as worker:
        answers: list[dict[str, Any]] = []

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await worker.end.ask_all())

        await trio.sleep(1)
        assert worker.listener.heard == [("asks all", 1)]
        worker.parent.answer_all(1, {"opened": 5})
        await trio.sleep(1)
        assert answers == [{"opened": 5}]
        with trio.move_on_after(1):
            await worker.end.ask_all()
        # The answer to somebody who has gone harms nobody.
        worker.parent.answer_all(2, {"opened": 6})
        await trio.sleep(1)
        await worker.stream._peer.aclose()
        with pytest.raises(EngineLost):
            await worker.end.ask_all()


async def test_worker_ends_as_its_parent_says(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_connected(switchboard, nursery) as worker:
        worker.parent.drain(1001, handover=False)
        worker.parent.drain(1012, handover=True)
        assert await worker.end.wait_order() == (1001, False)


async def test_worker_whose_parent_has_gone_ends_and_has_no_broker(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        open_connected(switchboard, nursery) as worker,
        open_hub(broker=worker.end.broker) as hub,
    ):
        await hub.topic("news").publish_confirmed("a")
        before = trio.current_time()
        await worker.stream._peer.aclose()
        assert await worker.end.wait_order() == (1012, False)
        assert trio.current_time() == before
        hub.topic("news").publish("b")
        await trio.sleep(10)
        assert not switchboard.engine.topics["news"].numbers
        statistics = hub.statistics().broker
        assert statistics is not None
        assert (statistics.connected, statistics.waiting, statistics.connects) == (False, 1, 1)


async def test_hub_of_a_worker_whose_parent_has_gone_waits_for_no_answer(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It held the processes of a parent that was killed for five seconds."""
    async with open_connected(switchboard, nursery) as worker:
        async with open_hub(broker=worker.end.broker) as hub:
            await hub.topic("news").enter("ann")
            await worker.stream._peer.aclose()
            hub.topic("news").publish("b")
            gone_at = trio.current_time()
        assert trio.current_time() - gone_at < 1


async def test_what_is_posted_at_once_is_answered_and_pushed_by_few_words_and_in_order(
    switchboard: Switchboard,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []
    hear = _WorkerLink.hear

    def noting(self: _WorkerLink, words: Words) -> None:
        heard.append(words[0])
        hear(self, words)

    monkeypatch.setattr(_WorkerLink, "hear", noting)
    async with (
        open_connected(switchboard, nursery) as one,
        open_connected(switchboard, nursery) as other,
        open_hub(broker=one.end.broker) as hub,
        open_hub(broker=other.end.broker) as reading,
    ):
        with reading.topic("news").publications() as publications:
            await reading.topic("news").load()
            await hub.topic("first").publish_confirmed("x")
            heard.clear()
            receipts = [hub.topic("news").post(f"{number}") for number in range(200)]
            # One of another topic, among them, is answered in its turn.
            receipts.insert(100, hub.topic("alone").post("x"))
            positions = [await receipt.confirmed() for receipt in receipts]
            messages = [(await anext(publications)).message for _ in range(200)]
    epoch, alone = positions[0].epoch, positions.pop(100)
    assert alone.epoch != epoch and alone.offset == 1
    assert positions == [(epoch, offset) for offset in range(1, 201)]
    assert messages == [f"{number}" for number in range(200)]
    assert (heard.count(PUBLISHED), heard.count(PUSH)) == (5, 4)


async def test_stalled_worker_holds_nobody_up_and_then_gets_what_it_has_missed(
    switchboard: Switchboard,
    nursery: trio.Nursery,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        open_connected(switchboard, nursery) as one,
        open_connected(switchboard, nursery, max_pushed=200_000) as other,
        open_hub(broker=one.end.broker) as hub,
        open_hub(broker=other.end.broker) as stalled,
    ):
        topics = [each.topic("news") for each in (hub, stalled)]
        peer = peers.open(max_bytes=2**20)
        subscription = topics[1].subscribe(peer.connection)
        await subscription.wait_placed()
        epoch = topics[1].epoch
        # It does not read: what it is sent stays in the stream, and then in its parent.
        receive_some = other.stream.receive_some
        thaw = trio.Event()

        async def stall(max_bytes: int | None = None) -> bytes:
            await thaw.wait()
            return await receive_some(max_bytes)

        other.stream.receive_some = stall  # type: ignore[method-assign]
        for number in range(400):
            await topics[0].publish_confirmed(f"{number}" + "x" * 1000)
            assert other.parent._pipe.waiting < 300_000
        assert other.parent.losses == 1
        assert other.parent._pipe.waiting < 100_000
        thaw.set()
        await trio.sleep(30)
        assert [str(message).rstrip("x") for message in peer.messages] == [
            f"{number}" for number in range(400)
        ]
        assert (subscription.recovered, topics[1].epoch) == (True, epoch)
        statistics = stalled.statistics().broker
        assert statistics is not None and statistics.connects == 2
        # An order goes through, whatever was thrown away.
        other.parent.drain(1012, handover=True)
        assert await other.end.wait_order() == (1012, True)


async def test_what_a_worker_asks_for_waits_while_it_does_not_take_the_answers(
    switchboard: Switchboard, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """An answer may be larger than what may be pushed, and is not thrown away for that."""
    async with (
        open_connected(switchboard, nursery) as one,
        open_connected(switchboard, nursery, max_pushed=10_000) as other,
        open_hub(broker=one.end.broker) as hub,
        open_hub(broker=other.end.broker) as late,
    ):
        for name in "abc":
            for _ in range(9):
                await hub.topic(name).publish_confirmed("x" * 100_000)
        most = 0

        @nursery.start_soon
        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, other.parent._pipe.waiting)
                assert other.parent.losses == 0
                await trio.lowlevel.checkpoint()

        async def load(name: str) -> None:
            await late.topic(name).load(history=9)
            assert late.topic(name).retained in (9, 10)

        async with trio.open_nursery() as loading:
            for name in "abc":
                loading.start_soon(load, name)
            # What others publish meanwhile comes behind all that was asked for.
            while most < 900_000:
                await trio.lowlevel.checkpoint()
            hub.topic("a").publish("y")
        assert 900_000 < most < 1_300_000
        nursery.cancel_scope.cancel()


async def test_what_a_worker_had_in_very_many_topics_goes_while_others_run(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in each turn, when a session ends and when a worker goes."""
    topics = [f"{number}" for number in range(4 * _LEFT_AT_ONCE)]
    switchboard = Switchboard(max_topics=len(topics), max_bytes=64 * 2**20)
    here, there = stream_pair()
    worker, parent = Pipe(here), ParentEnd(there, switchboard, Listener())
    heard: list[Words] = []
    nursery.start_soon(worker.run, heard.append)
    nursery.start_soon(parent.run)
    with counted() as work:
        leave, unwatch = switchboard.leave, switchboard.unwatch

        def count_leave(reader: Reader, topic: str) -> None:
            work.done += 1
            leave(reader, topic)

        def count_unwatch(reader: Reader, topic: str) -> None:
            work.done += 1
            unwatch(reader, topic)

        monkeypatch.setattr(switchboard, "leave", count_leave)
        monkeypatch.setattr(switchboard, "unwatch", count_unwatch)
        for session in (1, 2):
            worker.send((HELLO, session, "node"))
            await trio.sleep(1)
            assert heard[-1] == (WELCOME, session)
            assert not switchboard._readers and not switchboard._watchers
            assert not any(words[0] == PUSH for words in heard)
            for topic in topics:
                worker.send(say_command(Subscribe(topic, Retain(), "", 0, "")))
                worker.send(say_command(Watch(topic)))
            await trio.sleep(1)
            assert len(switchboard._readers) == len(switchboard._watchers) == len(topics)
            if session == 1:
                # What is published between two sessions is not for the next one.
                parent._lose()
                entry = entry_of("other:1", b"", None, NOTHING)
                publish = Publish(topics[0], Retain(), 1, entry, False)
                switchboard.execute(parent, "other", publish)
                switchboard.hand_out()
        for topic in topics:
            switchboard.engine.topics[topic].numbers["node"] = 1
        await here.aclose()
        await trio.sleep(1)
    assert not switchboard._readers and not switchboard._watchers
    assert all("node" not in topic.numbers for topic in switchboard.engine.topics.values())
    assert work.most == 2 * _LEFT_AT_ONCE
