"""One connection, a handler that sends without a pause, and a topic: who writes next."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from tests.topics.support import (
    TRANSPORTS,
    Peer,
    Peers,
    PerTurn,
    Transport,
    publish,
    received,
    settle,
)
from trioweb import ConnectionClosed, Hub, Limits, Retain, Topic, open_hub
from trioweb._topics import Slow
from trioweb._topics._log import BLOCK_BYTES


@asynccontextmanager
async def sending(peer: Peer) -> AsyncGenerator[None]:
    """Send to *peer*, for the length of the block, more than it can read."""

    async def send() -> None:
        with suppress(ConnectionClosed):
            while True:
                await peer.connection.send(bytes(2000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        yield
        nursery.cancel_scope.cancel()


def sent(peer: Peer) -> int:
    """How many messages of the handler the peer has read."""
    return sum(isinstance(message, bytes) for message in peer.messages)


async def let_read(peer: Peer, messages: int) -> None:
    """Wait until the peer has read so many more of the handler's."""
    goal = sent(peer) + messages
    for _ in range(10_000):
        if sent(peer) >= goal:
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("nothing of what the handler sends arrives any more")


async def take_turn(peer: Peer, topic: Topic) -> None:
    """Let a topic wait for a busy link, and send what the handler may send before it."""
    await peer.clog()
    publish(topic, 1)
    await settle()
    peer.connection.send_nowait("our turn")


@TRANSPORTS
@pytest.mark.parametrize(("slow", "least"), [("evict", 150), ("latest", 20)])
async def test_topic_has_its_turns_while_a_handler_sends_without_a_pause(
    transport: Transport, slow: Slow, least: int, hub: Hub, peers: Peers
) -> None:
    """Invariant 3: who reads is neither evicted nor forgotten."""
    peer = peers.open(transport)
    topic = hub.topic("news", retain=Retain(max_messages=50, patience=0), slow=slow)
    with topic.subscribe(peer.connection):
        async with sending(peer):
            for _ in range(200):
                publish(topic, 1)
                await let_read(peer, 5)
            assert peer.connection.close_code is None
            assert len(received(peer)) > least


@TRANSPORTS
async def test_handler_has_its_turns_while_a_topic_has_more_than_the_peer_reads(
    transport: Transport, hub: Hub, peers: Peers
) -> None:
    peer = peers.open(transport, limits=Limits(send_bytes=1))
    topic = hub.topic("news", retain=Retain(max_messages=50, patience=0), slow="skip")
    with topic.subscribe(peer.connection) as subscription:
        async with sending(peer):
            while subscription.skipped < 2000:
                publish(topic, 50, 1000)
                await let_read(peer, 1)
    assert received(peer)


async def test_send_nowait_leaves_a_topic_its_turn(hub: Hub, peers: Peers) -> None:
    peer = peers.open("kernel")
    topic = hub.topic("news")
    with topic.subscribe(peer.connection):
        await take_turn(peer, topic)
        with pytest.raises(trio.WouldBlock):
            peer.connection.send_nowait("the topic's turn")
        peer.resume()
        await settle()
        peer.connection.send_nowait("ours again")
        await settle()
    assert [message for message in peer.messages if isinstance(message, str)] == [
        "our turn",
        "1:news:",
        "ours again",
    ]


async def test_handler_need_not_wait_for_a_hub_that_is_cancelled(peers: Peers) -> None:
    peer = peers.open("kernel")
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            topic = hub.topic("news")
            topic.subscribe(peer.connection)
            await take_turn(peer, topic)
            scope.cancel()
            for _ in range(2):  # the first may come before the pump's
                await trio.lowlevel.cancel_shielded_checkpoint()
            peer.connection.send_nowait("there is no other")


async def test_handler_need_not_wait_for_a_subscription_that_was_left(
    hub: Hub, peers: Peers
) -> None:
    peer = peers.open("kernel")
    topic = hub.topic("news")
    with topic.subscribe(peer.connection):
        await take_turn(peer, topic)
    peer.connection.send_nowait("there is no other")


async def test_handler_need_not_wait_for_whom_it_subscribes_to_a_hub_that_is_cancelled(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6: in a line that nobody serves any more nobody stands."""
    peer = peers.open("kernel")
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            topic = hub.topic("news")
            publish(topic, 100, BLOCK_BYTES // 8)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                with topic.subscribe(peer.connection, history=100) as subscription:
                    assert subscription.lag > 0
                    with trio.fail_after(60):
                        for _ in range(20):
                            await peer.connection.send("good-bye")
                    await settle()
    assert peer.messages.count("good-bye") == 20


@TRANSPORTS
async def test_topics_of_two_hubs_share_a_link(transport: Transport, peers: Peers) -> None:
    """Who lags in both stands in line in both, and neither lets go of the other's place."""
    async with open_hub() as one, open_hub() as other:
        peer = peers.open(transport)
        topics = [hub.topic("news") for hub in (one, other)]
        subscriptions = [topic.subscribe(peer.connection) for topic in topics]
        await peer.clog()
        for _ in range(3):
            for number, topic in enumerate(topics):
                topic.publish(f"{number}")
        await settle()
        for subscription in subscriptions:
            subscription._check()
            assert subscription.lag > 0
        subscriptions[0].close()
        await settle()
        subscriptions[1]._check()
        again = topics[0].subscribe(peer.connection, history=3)
        peer.resume()
        await one.wait_caught_up()
        await other.wait_caught_up()
        await settle()
        for subscription in again, subscriptions[1]:
            subscription._check()
            assert subscription.lag == 0
        texts = [message for message in peer.messages if isinstance(message, str)]
        assert sorted(texts) == ["0"] * 3 + ["1"] * 3
        # The end of the connection ends its subscriptions in both.
        peer.connection.link.abort("enough")
        await settle()
        assert topics[0].subscribers == topics[1].subscribers == 0


async def test_link_that_ends_takes_its_subscriptions_along_some_at_a_time(peers: Peers) -> None:
    """Invariant 13: 10,000 of them take 60 ms."""
    async with open_hub() as hub:
        peer, other = peers.open(), peers.open()
        for number in range(2000):
            hub.topic(f"{number}").subscribe(peer.connection)
        subscription = hub.topic("0").subscribe(other.connection)
        turns = PerTurn(lambda: hub.statistics().subscribers)
        trio.lowlevel.add_instrument(turns)
        peer.connection.link.abort("enough")
        hub.topic("0").publish("news")
        await settle()
        trio.lowlevel.remove_instrument(turns)
        assert hub.statistics().subscribers == hub.statistics().topics == 1
        assert hub.statistics().evicted == 0
        assert 0 < turns.most < 300
        assert subscription.lag == 0


async def test_link_that_ends_with_its_hub_leaves_no_subscription(peers: Peers) -> None:
    async with open_hub() as hub:
        peer = peers.open()
        topics = [hub.topic(f"{number}") for number in range(200)]
        for topic in topics:
            topic.subscribe(peer.connection)
        peer.connection.link.abort("enough")
    assert [topic.subscribers for topic in topics] == [0] * 200


async def test_link_that_ends_after_its_hub_was_cancelled_leaves_no_subscription(
    peers: Peers,
) -> None:
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            peer = peers.open()
            topics = [hub.topic(f"{number}") for number in range(200)]
            for topic in topics:
                topic.subscribe(peer.connection)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                peer.connection.link.abort("enough")
                assert [topic.subscribers for topic in topics] == [0] * 200
