"""Who is in a topic, on hubs that are alone and on those that a broker joins, whatever breaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.brokers.conftest import FaultyBroker, MakeBroker
from tests.brokers.test_conformance import open_two
from trioweb import BrokerPolicy, HubFull, PresenceCount, Topic, open_hub
from trioweb._topics._node_presence import NodePresence
from trioweb._topics._presence import Member

# Nothing that is frozen for half a minute is given up.
PATIENT = BrokerPolicy(timeout=60)


class Watcher:
    """Follows who comes to *topic* and who goes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.members: dict[str, bytes] = {}

    async def run(
        self, topic: Topic, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with topic.presence_changes() as changes:
            self.members = dict(await topic.members())
            task_status.started()
            async for change in changes:
                self.told.append(f"{'+' if change.is_there else '-'}{change.key}")
                if change.is_there:
                    self.members[change.key] = change.info
                else:
                    self.members.pop(change.key, None)


@asynccontextmanager
async def watching(topic: Topic) -> AsyncGenerator[Watcher]:
    watcher = Watcher()
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, topic)
        yield watcher
        nursery.cancel_scope.cancel()


class Dies(Exception):
    """What a process dies of."""


async def live_until(broker: FaultyBroker, dies: trio.Event, *keys: str, task_status: Any) -> None:
    """A process that has entered *keys* and dies without a word."""
    with pytest.raises(Dies):
        async with open_hub(broker=broker) as hub:
            for key in keys:
                await hub.topic("news").enter(key)
            task_status.started()
            await dies.wait()
            raise Dies


# What every node knows.


async def test_all_nodes_know_who_is_there(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        async with watching(other) as watcher:
            await one.enter("ann", b"\0first", user="Ann")
            await one.enter("ann again", user="Ann")
            await other.enter("bob", b"here", user="Bob")
            there = {"ann": b"\0first", "ann again": b"", "bob": b"here"}
            for topic in (one, other):
                assert await topic.members() == there
                assert await topic.count_members() == PresenceCount(3, 2)
            await one.enter("ann", b"second", user="Bob")
            await one.enter("ann", b"second", user="Bob")
            one.leave("ann again")
            one.leave("ann again")
            one.leave("bob")  # it is not this hub's
            await trio.sleep(1)
            assert await other.members() == {"ann": b"second", "bob": b"here"}
            assert await other.count_members() == PresenceCount(2, 1)
            assert watcher.told == ["+ann", "+ann again", "+bob", "+ann", "-ann again"]
            assert watcher.members == await one.members()
        assert await hubs[0].topic("else").members() == {}
        assert await hubs[0].topic("else").count_members() == PresenceCount(0, 0)
        # It is no publication.
        await one.load(history=1)
        assert (one.head, other.head) == (0, 0)


async def test_a_hub_that_is_closed_takes_its_members_along(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker) as stays:
        async with watching(stays.topic("news")) as watcher:
            async with open_hub(broker=broker) as goes:
                for number in range(600):
                    goes._presence.enter("news", f"{number}", Member("", b""))
                await trio.sleep(1)
                assert len(watcher.members) == 600
            assert await stays.topic("news").members() == {}
            await trio.sleep(1)
            assert watcher.members == {}
            with pytest.raises(trio.ClosedResourceError):
                await goes.topic("news").enter("a")


async def test_names_and_infos_may_be_anything(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    names = ["", " ", "{a}", "a:b 3:", "é\0\n", "x" * 255, "\U0001f600"]
    async with open_two(broker) as hubs:
        one, other = (hub.topic("a {b} :w0\ud800") for hub in hubs)
        async with watching(other) as watcher:
            for name in names:
                await one.enter(name, name.encode() + b"\0\xff 1:", user=name)
            expected = {name: name.encode() + b"\0\xff 1:" for name in names}
            assert await other.members() == expected
            await trio.sleep(1)
            assert watcher.members == expected
            assert await other.count_members() == PresenceCount(len(names), len(names))


async def test_thousands_are_read_in_pages_while_others_come_and_go(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        for number in range(3000):
            hubs[0]._presence.enter("news", f"{number}", Member("", b""))
        await one.enter("last")
        async with watching(other) as watcher:
            for number in range(1000):
                one.leave(f"{number}")
            await one.enter("new")
            await trio.sleep(2)
            assert len(watcher.members) == 2002
            assert watcher.members == await other.members() == await one.members()


# What breaks.


async def test_a_node_that_died_is_gone_when_its_lease_is_over(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    dies = trio.Event()
    async with open_hub(broker=broker) as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news")
        await topic.enter("stays")
        async with watching(topic) as watcher:
            await nursery.start(live_until, broker, dies, "a", "b")
            await trio.sleep(1)
            assert watcher.told == ["+a", "+b"]
            dies.set()
            await broker.pass_time(10)
            assert set(await topic.members()) == {"stays", "a", "b"}
            # Nobody reads who has no lease, and within a renewal they are told to have left.
            await broker.pass_time(6)
            assert set(await topic.members()) == {"stays"}
            await broker.pass_time(5)
            assert watcher.told == ["+a", "+b", "-a", "-b"] or watcher.told[2:] == ["-b", "-a"]
            assert await topic.count_members() == PresenceCount(1, 1)
            await broker.pass_time(30)
            assert set(await topic.members()) == {"stays"}


async def test_a_frozen_node_that_was_reaped_enters_again(
    make_broker: MakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    awake, frozen = make_broker(PATIENT), make_broker(PATIENT)
    async with open_hub(broker=awake) as one, open_hub(broker=frozen) as other:
        await other.topic("news").enter("bob", b"info")
        async with watching(one.topic("news")) as watcher:
            frozen.freeze()
            await awake.pass_time(22)
            assert watcher.told == ["-bob"]
            frozen.thaw()
            await awake.pass_time(6)
            assert watcher.told == ["-bob", "+bob"]
            assert await one.topic("news").members() == {"bob": b"info"}
        statistics = other.statistics().broker
        assert statistics is not None and statistics.connects == 1


@pytest.mark.parametrize("fault", ["flush", "restart", "restart and lose all", "cut"])
async def test_whatever_the_engine_forgets_is_entered_again(
    broker: FaultyBroker, fault: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        await one.enter("ann", b"info", user="Ann")
        await other.enter("bob")
        async with watching(other) as watcher:
            match fault:
                case "flush":
                    broker.flush()
                case "restart":
                    broker.restart()
                case "restart and lose all":
                    broker.restart(lost=None)
                case "cut":
                    broker.cut()
            await broker.pass_time(12)
            await one.enter("new")
            await broker.pass_time(25)
            assert await one.members() == {"ann": b"info", "bob": b"", "new": b""}
            assert await one.count_members() == PresenceCount(3, 2)
            assert watcher.members == await other.members()
            if fault in ("restart", "cut"):
                # Nobody was told to have left who is there all the while.
                assert watcher.told == ["+new"]


async def test_who_leaves_while_nobody_can_be_told_is_gone_afterwards(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        for key in "abc":
            await one.enter(key)
        async with watching(other) as watcher:
            broker.shut_down()
            one.leave("a")
            one.leave("b")
            broker.start()
            await broker.pass_time(8)
            assert watcher.told in (["-a", "-b"], ["-b", "-a"])
            assert set(await other.members()) == {"c"}


async def test_a_change_that_did_not_arrive_is_found_by_the_next(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        for key in "abc":
            await one.enter(key)
        async with watching(other) as watcher:
            await trio.sleep(1)
            broker.lose_pushes(2)
            one.leave("a")
            await one.enter("d")
            await trio.sleep(1)
            assert watcher.told == []
            await one.enter("e")
            await trio.sleep(1)
            assert sorted(watcher.told) == ["+d", "+e", "-a"]
            assert watcher.members == await one.members()


async def test_a_page_that_is_late_is_not_taken_for_one_of_the_next_reading(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    """A change is lost while thousands are read."""
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        for number in range(3000):
            hubs[0]._presence.enter("news", f"{number}", Member("", b""))
        await one.enter("last")
        with other.presence_changes() as changes:
            mirror = hubs[1]._presence._mirrors.get("news")  # type: ignore[attr-defined]
            while len(mirror.members) < 2200:
                await trio.lowlevel.checkpoint()
                await trio.sleep(0.0001)
            broker.lose_pushes(1)
            one.leave("0")
            await one.enter("new")
            await trio.sleep(2)
            assert mirror.members.keys() == (await one.members()).keys()
            assert len(mirror.members) == 3001
            told = [await anext(changes) for _ in range(len(changes._pending))]
            assert {change.key for change in told} <= {"0", "new"}


async def test_a_key_is_of_the_node_that_entered_it_last(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    dies = trio.Event()
    async with open_two(broker) as hubs, trio.open_nursery() as nursery:
        one, other = (hub.topic("news") for hub in hubs)
        await one.enter("ann", b"one")
        await other.enter("ann", b"other")
        assert await one.members() == {"ann": b"other"}
        one.leave("ann")
        await trio.sleep(1)
        assert await one.members() == {"ann": b"other"}
        other.leave("ann")
        await trio.sleep(1)
        assert await one.members() == {}
        # What a dead node had, and has no more, is not its to take along.
        await nursery.start(live_until, broker, dies, "bob")
        await one.enter("bob", b"one")
        dies.set()
        await broker.pass_time(25)
        assert await other.members() == {"bob": b"one"}


async def test_an_engine_without_memory_is_asked_again(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs, trio.open_nursery() as nursery:
        one, other = (hub.topic("news") for hub in hubs)
        await one.enter("a")
        broker.refuse("out of memory")
        one.leave("a")
        entered = trio.Event()

        async def enter() -> None:
            await one.enter("b")
            entered.set()

        nursery.start_soon(enter)
        await trio.sleep(3)
        assert not entered.is_set()
        assert set(await other.members()) == {"a"}
        broker.refuse(None)
        await broker.pass_time(6)
        assert entered.is_set()
        assert set(await other.members()) == {"b"}
        assert all(hub.statistics().broker.connects == 1 for hub in hubs)  # type: ignore[union-attr]


async def test_questions_wait_for_a_connection_and_end_with_the_hub(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        await other.enter("a")
        broker.stop()
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await one.members())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(2)
            broker.cut()
            assert answers == []
            broker.resume()
        assert answers == [{"a": b""}]
        broker.stop()
        with trio.move_on_after(1) as scope:
            await one.enter("b")
        assert scope.cancelled_caught
        broker.resume()
        await trio.sleep(1)
        assert set(await other.members()) == {"a", "b"}


# What is bounded.


async def test_members_take_half_of_a_hub_at_most(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker, max_bytes=40_000) as small, open_hub(broker=broker) as big:
        topic = small.topic("news")
        entered = 0
        with pytest.raises(HubFull):
            for entered in range(1000):
                await topic.enter(f"{entered}", bytes(100))
        assert 30 < entered < 70
        # There is room for publications all the same, and again for others when somebody leaves.
        await topic.publish_confirmed("a" * 10_000)
        topic.leave("0")
        await topic.enter("another", bytes(100))
        for number in range(100):
            await big.topic("other").enter(f"{number}", bytes(100))
        # Whoever cannot follow all of them is told so.
        with small.topic("other").presence_changes() as changes:
            with pytest.raises(HubFull):
                async for _ in changes:
                    raise AssertionError("nothing has changed")
        for key in tuple(await topic.members()):
            topic.leave(key)
        assert small._retention.max_bytes == 40_000


async def test_whoever_reads_slowly_is_told_what_has_become_of_each(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        await one.enter("stays")
        with other.presence_changes() as changes:
            await other.members()
            for number in range(50):
                await one.enter("comes and goes")
                await one.enter("stays", b"%d" % number)
                one.leave("comes and goes")
            await trio.sleep(1)
            assert len(changes._pending) == 1
            change = await anext(changes)
            assert (change.key, change.info, change.is_there) == ("stays", b"49", True)
        with pytest.raises(trio.ClosedResourceError):
            await anext(changes)


async def test_a_stalled_engine_is_owed_no_more_than_there_are_members(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        await one.enter("a")
        broker.stop()
        for number in range(5000):
            hubs[0]._presence.enter("news", f"{number}", Member("", b""))
            one.leave(f"{number}")
        presence = hubs[0]._presence
        assert isinstance(presence, NodePresence)
        updates = presence._updates
        assert updates._under_way <= 256 and len(updates._unsent) <= 256
        broker.resume()
        await trio.sleep(2)
        assert set(await other.members()) == {"a"}
