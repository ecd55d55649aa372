"""What every broker with an engine does, whatever breaks: two hubs, one log.

Time passes on Trio's clock alone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.brokers.conftest import FaultyBroker, MakeBroker
from tests.topics.support import Peer, Peers
from trioweb import (
    BrokerFull,
    BrokerPolicy,
    Hub,
    Lagged,
    Outbox,
    Position,
    Publisher,
    Retain,
    Subscription,
    Topic,
    Unpublished,
    open_hub,
)

SMALL = Retain(max_messages=5, patience=0)


@asynccontextmanager
async def open_two(broker: FaultyBroker, **bounds: Any) -> AsyncGenerator[tuple[Hub, Hub]]:
    async with (
        open_hub(broker=broker, **bounds) as first,
        open_hub(broker=broker, **bounds) as second,
    ):
        yield first, second


async def subscribe(peers: Peers, topic: Topic, **arguments: Any) -> tuple[Peer, Subscription]:
    peer = peers.open(max_bytes=2**20)
    subscription = topic.subscribe(peer.connection, **arguments)
    await subscription.wait_placed()
    return peer, subscription


# One log.


async def test_all_nodes_deliver_the_same_in_the_same_order(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 1 and 2 of brokers."""
    async with open_two(broker) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        members = [await subscribe(peers, topic) for topic in topics]
        for number in range(50):
            assert topics[number % 2].publish(f"{number}") == 0
            if number % 7 == 0:
                await trio.sleep(0.0004)
        await trio.sleep(1)
        first, second = (peer.messages for peer, _ in members)
        assert first == second
        assert sorted(map(int, first)) == list(range(50))
        for half in range(2):
            own = [int(message) for message in first if int(message) % 2 == half]
            assert own == sorted(own)
        assert topics[0].epoch == topics[1].epoch
        assert topics[0].head == topics[1].head == 50


async def test_positions_are_confirmed_as_they_are_everywhere(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        receipts = [one.post(text) for text in "abc"]
        positions = [await receipt.confirmed() for receipt in receipts]
        assert [position.offset for position in positions] == [1, 2, 3]
        last = await other.publish_confirmed("d")
        assert last == Position(positions[0].epoch, 4)
        await other.load(history=10)
        assert [each.message for each in other.history()] == ["a", "b", "c", "d"]
        assert other.epoch == last.epoch


async def test_details_and_skips_go_along(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        ann = Publisher("ann", b"info")
        peer, _ = await subscribe(peers, other, peer="ann")
        one.publish('{"a": 1}', "ann", tags={"a": "b"}, publisher=ann, key="k", kind="json")
        one.publish(b"b")
        await trio.sleep(1)
        assert peer.messages == [b"b"]
        await one.load(history=2)
        for topic in (one, other):
            first, second = topic.history()
            assert (first.key, first.tags, first.publisher) == ("k", {"a": "b"}, ann)
            assert (first.kind, second.kind) == ("json", "bytes")


async def test_a_key_is_published_once_by_all_nodes(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        first = await one.publish_confirmed("a", key="k")
        assert await other.publish_confirmed("b", key="k") == first
        bob = Publisher("bob")
        assert (await other.publish_confirmed("c", key="k", publisher=bob)).offset == 2


# Places.


async def test_a_node_that_comes_later_loads_what_is_asked_for(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        for number in range(20):
            position = await one.publish_confirmed(f"{number}")
        late, last_five = await subscribe(peers, other, history=5)
        assert (last_five.recovered, last_five.skipped) == (True, 0)
        assert other.retained == 5
        back, rest = await subscribe(peers, other, since=Position(position.epoch, 8))
        assert (rest.recovered, rest.skipped) == (True, 0)
        one.publish("20")
        await trio.sleep(1)
        assert late.messages == [f"{number}" for number in range(15, 21)]
        assert back.messages == [f"{number}" for number in range(8, 21)]


async def test_load_recovery_and_subscribe_agree(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news", retain=SMALL) for hub in hubs)
        for number in range(20):
            position = await one.publish_confirmed(f"{number}")
        since = Position(position.epoch, 12)
        await other.load(since=since)
        recovery = other.recovery(since)
        assert (recovery.recovered, recovery.missing) == (False, 3)
        peer, subscription = await subscribe(peers, other, since=recovery.position)
        assert subscription.recovered
        await trio.sleep(1)
        assert peer.messages == [f"{number}" for number in range(15, 20)]


async def test_a_position_of_another_life_recovers_nothing(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        position = await one.publish_confirmed("a")
        _, wrong = await subscribe(peers, other, since=("other", 1))
        _, beyond = await subscribe(peers, other, since=(position.epoch, 2))
        _, right = await subscribe(peers, other, since=position)
        assert [each.recovered for each in (wrong, beyond, right)] == [False, False, True]


async def test_a_subscription_waits_for_its_place(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        broker.stop()
        waiting, closed, gone = (topic.subscribe(peers.open().connection) for _ in range(3))
        peer = peers.open()
        topic.subscribe(peer.connection)
        await peer.connection.aclose()
        assert (waiting.placed, waiting.recovered, waiting.lag) == (False, False, 0)
        assert topic.subscribers == 3
        closed.close()
        assert topic.subscribers == 2
        with pytest.raises(trio.ClosedResourceError):
            await closed.wait_placed()
        # Nothing is owed to those who wait, so a soft stop does not wait for them.
        with trio.fail_after(1):
            await hub.wait_caught_up()
        gone.connection.link.close(1000, "")
        broker.resume()
        await waiting.wait_placed()
        assert (waiting.placed, waiting.recovered) == (True, True)
        assert topic.subscribers == 1


async def test_who_waits_for_a_place_learns_that_the_hub_was_closed(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    broker.stop()
    errors = []

    async def load(topic: Topic) -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await topic.load()
        errors.append(caught.value)

    async def read(topic: Topic) -> None:
        with topic.publications(history=1) as publications:
            assert [each async for each in publications] == []

    async with trio.open_nursery() as nursery:
        async with open_hub(broker=broker) as hub:
            topic = hub.topic("news")
            pending = topic.subscribe(peers.open().connection)
            nursery.start_soon(load, topic)
            nursery.start_soon(read, topic)
            await trio.sleep(1)
    assert len(errors) == 1
    with pytest.raises(trio.ClosedResourceError):
        await pending.wait_placed()


async def test_a_topic_that_nobody_uses_is_received_for_a_while(
    make_broker: MakeBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(make_broker(BrokerPolicy(linger=10))) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        _, subscription = await subscribe(peers, other)
        epoch = other.epoch

        def attached() -> int:
            found = hubs[1].statistics().broker
            assert found is not None
            return found.attached

        subscription.close()
        await trio.sleep(9)
        assert attached() == 1
        _, subscription = await subscribe(peers, other)
        await trio.sleep(9)
        subscription.close()
        one.publish("a")
        await trio.sleep(9)
        assert (attached(), other.head) == (1, 1)
        await trio.sleep(2)
        assert (attached(), other.epoch) == (0, "")
        assert hubs[1].statistics().topics == 0
        one.publish("b")
        peer, subscription = await subscribe(peers, other, since=(epoch, 0))
        assert subscription.recovered
        await trio.sleep(1)
        assert peer.messages == ["a", "b"]


async def test_a_reader_in_the_process_reads_from_every_node(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        await one.publish_confirmed("a")
        with other.publications(history=1) as publications:
            assert (await anext(publications)).message == "a"
            one.publish("b")
            assert (await anext(publications)).message == "b"
            broker.restart()
            with pytest.raises(Lagged):
                await anext(publications)
            await one.publish_confirmed("c")
            assert (await anext(publications)).message == "c"


# What breaks.


async def test_cut_connections_lose_and_repeat_nothing(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        members = [await subscribe(peers, topic) for topic in topics]
        epoch = topics[0].epoch
        receipts = []
        for number in range(100):
            receipts.append(topics[number % 2].post(f"{number}"))
            await trio.sleep(0.05)
            if number % 20 == 10:
                topics[0].publish("x")
                await trio.sleep(0.0005 * (number // 20))
                broker.cut()
        await trio.sleep(20)
        first, second = (peer.messages for peer, _ in members)
        assert first == second
        kept = [message for message in first if message != "x"]
        assert sorted(map(str, kept), key=int) == [f"{number}" for number in range(100)]
        offsets = [(await receipt.confirmed()).offset for receipt in receipts]
        assert [first[offset - 1] for offset in offsets] == [f"{n}" for n in range(100)]
        assert {topic.epoch for topic in topics} == {epoch}
        assert all(subscription.recovered for _, subscription in members)


@pytest.mark.parametrize("before", [True, False])
async def test_what_arrives_late_is_not_published_twice(
    broker: FaultyBroker, peers: Peers, before: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 4 of brokers."""
    async with open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        peer, _ = await subscribe(peers, topic)
        receipts = [topic.post(f"{number}") for number in range(20)]
        broker.cut()
        if before:
            broker.arrive_late()
        await trio.sleep(5)
        broker.arrive_late()
        await trio.sleep(1)
        assert peer.messages == [f"{number}" for number in range(20)]
        positions = [await receipt.confirmed() for receipt in receipts]
        assert [position.offset for position in positions] == list(range(1, 21))


async def test_an_answer_that_was_lost_is_found_even_if_the_log_lost_the_publication(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news", retain=SMALL) for hub in hubs)
        await one.publish_confirmed("a")
        receipt = one.post("b")
        broker.cut()
        broker.arrive_late()
        broker.evict_log("news")
        assert (await receipt.confirmed()).offset == 0
        assert (await other.publish_confirmed("c")).offset == 3


@pytest.mark.parametrize("seconds", [3, 30])
async def test_an_engine_that_stood_still_has_lost_nothing(
    broker: FaultyBroker, peers: Peers, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_two(broker) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        members = [await subscribe(peers, topic) for topic in topics]
        broker.stop()
        for number in range(20):
            topics[0].publish(f"{number}")
            await trio.sleep(seconds / 20)
        assert members[0][0].messages == []
        broker.resume()
        await trio.sleep(30)
        broker.arrive_late()
        for peer, subscription in members:
            assert peer.messages == [f"{number}" for number in range(20)]
            assert subscription.recovered
        statistics = hubs[0].statistics().broker
        assert statistics is not None
        assert (statistics.connects > 1) is (seconds > 10)


async def test_what_waits_for_the_engine_is_bounded(
    make_broker: MakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5 of brokers."""
    outbox = Outbox(max_messages=3, max_bytes=10_000, full="raise")
    broker = make_broker(BrokerPolicy(outbox=outbox))
    async with open_hub(broker=broker) as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news")
        broker.stop()
        topic.publish("a" * 5000)
        with pytest.raises(BrokerFull) as caught:
            topic.publish("b" * 5000)
        assert isinstance(caught.value, trio.WouldBlock)
        topic.publish("c")
        topic.publish("d")
        with pytest.raises(BrokerFull, match="3 publications"):
            topic.post("e")
        positions = []

        async def publish() -> None:
            positions.append(await topic.publish_confirmed("f"))

        nursery.start_soon(publish)
        await trio.sleep(1)
        assert positions == []
        broker.resume()
        await trio.sleep(1)
        assert [position.offset for position in positions] == [4]


async def test_what_the_engine_refuses_is_told(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        broker.refuse("out of memory")
        for _ in range(3):
            with pytest.raises(Unpublished, match="memory"):
                await topic.publish_confirmed("a")
        broker.refuse(None)
        assert (await topic.publish_confirmed("b")).offset == 1
        statistics = hub.statistics().broker
        assert statistics is not None
        assert (statistics.refused, statistics.waiting) == (3, 0)
    # One line a minute, not one each.
    lines = [line for line in caplog.messages if "refused" in line]
    assert len(lines) == 1
    assert lines[0].startswith("the broker has refused to publish to 'news': ")


@pytest.mark.parametrize(
    ("fault", "durable", "goes_on"),
    [
        ("restart", False, False),
        ("restart", True, True),
        ("restart and lose 3", False, False),
        ("restart and lose 3", True, False),  # it is not durable, which is found
        ("restart and lose all", True, False),
        ("fail over", False, False),
        ("evict record", False, False),
        ("evict log", False, True),
    ],
)
async def test_a_life_ends_unless_nothing_can_be_missing(
    make_broker: MakeBroker,
    peers: Peers,
    fault: str,
    durable: bool,
    goes_on: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 3 of brokers."""
    broker = make_broker(BrokerPolicy(durable=durable))
    async with open_two(broker) as hubs:
        one, other = (hub.topic("news") for hub in hubs)
        skips, skipping = await subscribe(peers, other, slow="skip")
        evicts, _ = await subscribe(peers, other)
        await subscribe(peers, one, slow="skip")
        for number in range(10):
            position = await one.publish_confirmed(f"{number}")
        await trio.sleep(1)
        match fault:
            case "restart":
                broker.restart()
            case "restart and lose 3":
                broker.restart(lost=3)
            case "restart and lose all":
                broker.restart(lost=None)
            case "fail over":
                broker.fail_over(lost=3)
            case "evict record":
                broker.evict_record("news")
            case "evict log":
                broker.evict_log("news")
        after = await one.publish_confirmed("after")
        await trio.sleep(5)
        assert (after.epoch == position.epoch) is goes_on
        assert other.epoch == after.epoch
        assert skipping.recovered is goes_on
        assert evicts.close == (None if goes_on else (1012, "topic restarted"))
        assert skips.messages == [f"{number}" for number in range(10)] + ["after"]
        _, resumed = await subscribe(peers, other, since=position)
        assert resumed.recovered is goes_on


async def test_another_publication_in_the_place_of_ours_ends_the_life(
    make_broker: MakeBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """A failover that was called durable, behind which the new log has grown past the old one."""
    broker = make_broker(BrokerPolicy(durable=True))
    async with open_hub(broker=broker) as one:
        topic = one.topic("news")
        peer, subscription = await subscribe(peers, topic, slow="skip")
        for number in range(5):
            position = await topic.publish_confirmed(f"{number}")
        broker.shut_down()
        broker.fail_over(lost=2)
        await trio.sleep(1)
        async with open_hub(broker=broker) as other:
            # The other node is the first to be connected.
            broker.start()
            for number in range(5):
                await other.topic("news").publish_confirmed(f"new {number}")
            await trio.sleep(10)
            assert topic.epoch != position.epoch
            assert not subscription.recovered
            last = await other.topic("news").publish_confirmed("last")
            await trio.sleep(1)
            assert last.epoch == topic.epoch
            assert peer.messages[-1] == "last"


async def test_a_node_that_was_away_for_long_says_how_much_it_has_missed(
    make_broker: MakeBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    broker, away = (make_broker(BrokerPolicy()) for _ in range(2))
    async with open_hub(broker=broker) as one, open_hub(broker=away) as other:
        topics = [hub.topic("news", retain=SMALL) for hub in (one, other)]
        await topics[0].publish_confirmed("first")
        skips, skipping = await subscribe(peers, topics[1], slow="skip")
        latest, newest = await subscribe(peers, topics[1], slow="latest")
        evicts, _ = await subscribe(peers, topics[1])
        with topics[1].publications() as publications:
            away.shut_down()
            for number in range(20):
                position = await topics[0].publish_confirmed(f"{number}")
            away.start()
            await trio.sleep(10)
            with pytest.raises(Lagged) as caught:
                await anext(publications)
        assert caught.value.skipped == 15
        assert skips.messages == [f"{number}" for number in range(15, 20)]
        assert skipping.skipped == 15
        assert latest.messages == ["19"]
        assert newest.skipped == 19
        assert evicts.close == (1012, "topic restarted")
        assert topics[1].epoch == position.epoch


async def test_what_does_not_fit_into_a_hub_is_missing_there_alone(
    broker: FaultyBroker, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: a hub's memory is bounded, whatever others publish."""
    async with open_hub(broker=broker) as one, open_hub(broker=broker, max_bytes=20_000) as other:
        topics = [hub.topic("news") for hub in (one, other)]
        peer, subscription = await subscribe(peers, topics[1], slow="skip")
        topics[0].publish("a")
        await trio.sleep(1)
        topics[0].publish("b" * 30_000)
        topics[0].publish("c")
        await trio.sleep(1)
        assert peer.messages == ["a", "c"]
        assert subscription.skipped == 1
        back, resumed = await subscribe(peers, topics[1], since=(topics[1].epoch, 1))
        assert (resumed.recovered, resumed.skipped) == (False, 1)
        await trio.sleep(1)
        assert back.messages == ["c"]
        assert other.statistics().retained_bytes <= 20_000


async def test_a_cancelled_publisher_knows_what_becomes_of_its_message(
    make_broker: MakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    outbox = Outbox(max_messages=1, full="raise")
    broker = make_broker(BrokerPolicy(outbox=outbox))
    async with open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        await topic.publish_confirmed("a")
        broker.stop()
        with trio.move_on_after(1):
            await topic.publish_confirmed("waits for its answer")
        with trio.move_on_after(1):
            await topic.publish_confirmed("waits for room")
        broker.resume()
        assert (await topic.publish_confirmed("b")).offset == 3
        await topic.load(history=9)
        assert [each.message for each in topic.history()] == ["a", "waits for its answer", "b"]


async def test_a_cancelled_load_leaves_nothing_behind(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        broker.stop()
        with trio.move_on_after(1) as scope:
            await topic.load(history=9)
        assert scope.cancelled_caught and topic._is_idle
        broker.resume()
        await trio.sleep(broker.policy.linger + 1)
        assert hub.statistics().topics == 0


# The end.


async def test_leaving_the_block_waits_for_answers(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(broker=broker) as hub:
        receipt = hub.topic("news").post("a")
    assert (await receipt.confirmed()).offset == 1


@pytest.mark.parametrize(
    ("texts", "told"), [("a", "1 publication was"), ("ab", "2 publications were")]
)
async def test_what_was_not_answered_in_the_end_is_counted(
    texts: str,
    told: str,
    make_broker: MakeBroker,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = make_broker(BrokerPolicy(flush_timeout=3))
    caplog.set_level(logging.WARNING)
    broker.stop()
    before = trio.current_time()
    async with open_hub(broker=broker) as hub:
        receipts = [hub.topic("news").post(text) for text in texts]
    assert trio.current_time() == pytest.approx(before + 3)
    for receipt in receipts:
        with pytest.raises(Unpublished, match="closed before the broker had answered"):
            await receipt.confirmed()
    assert f"{told} not answered by the broker" in caplog.messages


async def test_an_exception_leaves_the_block_at_once(
    broker: FaultyBroker, autojump_clock: trio.testing.MockClock
) -> None:
    broker.stop()
    before = trio.current_time()
    with pytest.raises(ZeroDivisionError):
        async with open_hub(broker=broker) as hub:
            hub.topic("news").publish("a")
            raise ZeroDivisionError
    assert trio.current_time() == before
