"""Whose turn it is: everybody comes back at once, and nobody waits for everybody else.

What is promised in time is counted in work, as writes and bytes for others: virtual time knows of
no CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.topics.support import Peer, Peers, publish, received, settle
from trioweb import Hub, Retain, open_hub
from trioweb._topics import Slow
from trioweb._topics._log import OVERHEAD_BYTES

ARCHIVE = Retain(max_messages=10**6, max_bytes=2**30)
# What the pump does between two checkpoints: so many small writes.
WRITES_PER_TURN = 256


def written(crowd: list[Peer]) -> int:
    """Bytes that were given to the links of *crowd*."""
    return sum(len(data) for peer in crowd for data in peer.queue.offers)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let others run until *condition* holds."""
    for _ in range(100_000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("catching_up", ["on its links", "with what is published"])
async def test_crowd_that_catches_up_delays_no_live_topic(peers: Peers, catching_up: str) -> None:
    """Invariants 3 and 13: before a publication is written there are a few slices for others."""
    async with open_hub(max_bytes=2**30) as hub:
        archive, live = hub.topic("archive", retain=ARCHIVE), hub.topic("live")
        listener = peers.open("kernel")
        live.subscribe(listener.connection)
        crowd = [peers.open("kernel", max_bytes=2**18) for _ in range(20)]
        readers = crowd[:10]
        subscriptions = [archive.subscribe(peer.connection) for peer in readers]
        publish(archive, 300, 16_000)
        if catching_up == "on its links":
            await hub.wait_caught_up()
            readers = crowd[10:]
            subscriptions = [archive.subscribe(peer.connection, since=0) for peer in readers]
        delays: list[int] = []
        while any(subscription.lag for subscription in subscriptions):
            before, offers = written(crowd), len(listener.queue.offers)
            live.publish("x")
            await wait_until(lambda offers=offers: len(listener.queue.offers) > offers)  # type: ignore[misc]
            delays.append(written(crowd) - before)
        assert len(delays) > 10
        # About three turns, where a whole crowd would be more than ten times as much.
        assert max(delays) <= 4 * 2**20
        await hub.wait_caught_up()
        await settle()
    assert all(received(peer) == list(range(1, 301)) for peer in readers)


async def test_topic_with_very_many_subscribers_delays_no_other(hub: Hub, peers: Peers) -> None:
    """Invariant 3: a pass is done in slices, between those of others."""
    large, small = hub.topic("large"), hub.topic("small")
    connection = peers.open("kernel", max_bytes=2**20).connection
    crowd = [large.subscribe(connection) for _ in range(2000)]
    listener = peers.open("kernel")
    small.subscribe(listener.connection)
    for _ in range(5):
        large.publish("x")
        await wait_until(lambda: crowd[0].cursor == large.head)
        before = sum(one.cursor for one in crowd)
        small.publish("x")
        offers = len(listener.queue.offers)
        await wait_until(lambda offers=offers: len(listener.queue.offers) > offers)  # type: ignore[misc]
        assert sum(one.cursor for one in crowd) - before <= 2 * WRITES_PER_TURN
        await hub.wait_caught_up()


async def test_subscribe_writes_nothing_itself(hub: Hub, peers: Peers) -> None:
    """Invariant 13: however fast the peer and long the history, it has to wait for its turns."""
    topic = hub.topic("archive", retain=ARCHIVE)
    publish(topic, 100, 16_000)
    peer = peers.open("kernel", max_bytes=2**22)
    subscription = topic.subscribe(peer.connection, since=0)
    assert written([peer]) == 0
    subscription._check()
    await hub.wait_caught_up()
    await settle()
    assert received(peer) == list(range(1, 101))


async def test_publish_does_a_bounded_amount_of_work(hub: Hub, peers: Peers) -> None:
    """Invariant 13: no pass, whatever stands in the log."""
    topic = hub.topic("news", retain=Retain(max_messages=5))
    crowd = [peers.open("kernel") for _ in range(3)]
    for peer in crowd:
        topic.subscribe(peer.connection)
    publish(topic, 1000)
    assert written(crowd) == 0
    await settle()
    assert all(received(peer) == list(range(1, 1001)) for peer in crowd)
    assert topic.retained == 5


async def test_topic_without_subscribers_needs_no_pass(hub: Hub) -> None:
    """Invariant 13: very many topics with news keep the pump from nothing."""
    topic = hub.topic("news", retain=Retain(max_messages=3))
    for _ in range(100):
        topic.publish("x")
        assert topic.retained <= 3
    assert hub._pump.is_idle


async def test_very_many_topics_that_come_of_age_let_others_run(
    hub: Hub, mock_clock: trio.testing.MockClock
) -> None:
    """Invariant 13: a look that finds nothing to write costs, too."""
    topics = [hub.topic(f"{number}", retain=Retain(max_age=60)) for number in range(2000)]
    for topic in topics:
        topic.publish("x")
    await settle()
    mock_clock.jump(61)
    most = most_noted = 0
    while left := hub.statistics().topics:
        expected = len(hub._pump._expected)
        await trio.lowlevel.checkpoint()
        most = max(most, left - hub.statistics().topics)
        most_noted = max(most_noted, expected - len(hub._pump._expected))
    assert 0 < most <= 2 * 4096 // 24
    # To note that their time has come takes time, too.
    assert 0 < most_noted <= 2 * 4096 // 16


# Slow has time in it.


@pytest.mark.parametrize("slow", ["evict", "skip"])
async def test_slow_consumer_has_the_patience_of_its_topic(
    hub: Hub, peers: Peers, slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 4: until then the log keeps more than it would for others."""
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=2), slow=slow)
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    publish(topic, 10)
    await trio.sleep(1.9)
    assert (topic.retained, subscription.lag, subscription.skipped) == (10, 10, 0)
    await trio.sleep(0.2)
    assert topic.retained == 3
    if slow == "evict":
        assert peer.connection.close_code == 1013
    else:
        assert (subscription.skipped, subscription.lag) == (7, 3)
        subscription._check()


async def test_subscriber_that_catches_up_in_time_gets_everything(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3))
    peer = peers.open(reading=False)
    await peer.clog()
    topic.subscribe(peer.connection)
    publish(topic, 50)
    await trio.sleep(0.9)
    peer.resume()
    await settle()
    assert received(peer) == list(range(1, 51))
    publish(topic, 1)
    await settle()
    assert topic.retained == 3 and not topic._late


async def test_log_exceeds_its_retention_by_what_came_within_the_patience(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 17: one that never reads makes a log no longer than that."""
    topic = hub.topic("news", retain=Retain(max_messages=5), slow="skip")
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    for _ in range(200):
        publish(topic, 1)
        await trio.sleep(0.05)
        assert topic.retained <= 5 + 20 * 1.25 + 1
        assert len(topic._late) <= 10
    assert subscription.skipped == 200 - subscription.lag
    assert subscription.skipped >= 170


async def test_newcomer_gets_no_more_history_than_is_retained(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3))
    stalled, late = peers.open(reading=False), peers.open()
    await stalled.clog()
    topic.subscribe(stalled.connection)
    publish(topic, 10)
    await settle()
    assert topic.retained == 10
    topic.subscribe(late.connection, history=10)
    await settle()
    assert received(late) == [8, 9, 10]


async def test_memory_at_its_bound_has_no_patience(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_hub(max_bytes=100 * (OVERHEAD_BYTES + 20)) as hub:
        topic = hub.topic("news", slow="skip")
        peer = peers.open(reading=False)
        await peer.clog()
        subscription = topic.subscribe(peer.connection)
        publish(topic, 150, 18)
        await settle()
        assert 90 <= topic.retained <= 100
        assert subscription.skipped == 150 - topic.retained


@pytest.mark.parametrize("transport", ["kernel", "tls"])
async def test_pause_of_the_process_makes_nobody_slow(
    hub: Hub, peers: Peers, transport: str, mock_clock: trio.testing.MockClock
) -> None:
    """Look before judging: whoever has read meanwhile is written to first."""
    topic = hub.topic("news", retain=Retain(max_messages=5))
    peer = peers.open(transport, reading=False)  # type: ignore[arg-type]
    await peer.clog()
    topic.subscribe(peer.connection)
    publish(topic, 20)
    await settle()
    assert topic.retained == 20
    # The peer reads while the process stands still, and then everything is due at once.
    peer.resume()
    mock_clock.jump(15)
    await settle()
    assert received(peer) == list(range(1, 21))
    assert hub.statistics().evicted == 0


async def test_process_that_is_always_late_has_slow_consumers_too(
    hub: Hub, peers: Peers, mock_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: or the log would grow as long as somebody does not read."""
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0.1), slow="skip")
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    for _ in range(20):
        publish(topic, 10)
        await settle()
        mock_clock.jump(0.2)
        await settle()
        assert topic.retained <= 5 + 4 * 10
    assert subscription.skipped > 100


async def test_readers_have_the_patience_of_the_topic_too(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3))
    with topic.publications() as publications:
        publish(topic, 10)
        await trio.sleep(0.5)
        for offset in range(1, 11):
            assert (await anext(publications)).offset == offset
        publish(topic, 10)
        await trio.sleep(1.2)
        assert topic.retained == 3


# Who is meant.


async def test_skip_goes_by_a_key_that_outlives_a_connection(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("chat")
    before, after, other = peers.open(), peers.open(), peers.open()
    with topic.subscribe(before.connection, peer="ann"):
        topic.publish("1:", skip="ann")
        topic.publish("2:", skip=other.connection)
        await settle()
        position = (topic.epoch, topic.head)
    topic.publish("3:", skip="ann")
    topic.publish("4:")
    topic.publish("5:", skip=other.connection.peer)
    topic.subscribe(after.connection, since=position, peer="ann")
    topic.subscribe(other.connection, history=5)
    await settle()
    assert received(before) == [2]
    assert received(after) == [4, 5]
    assert received(other) == [1, 3, 4]


@pytest.mark.parametrize("key", [1, b"ann", object()])
async def test_key_of_a_peer_must_be_a_str(hub: Hub, peers: Peers, key: object) -> None:
    topic = hub.topic("chat")
    with pytest.raises(TypeError, match=r"skip=.*key of a peer"):
        topic.publish("x", skip=key)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"peer=.*key of a peer"):
        topic.subscribe(peers.open().connection, peer=key)  # type: ignore[arg-type]
    assert topic.head == topic.subscribers == 0


async def test_latest_is_the_newest_that_is_meant_for_the_peer(hub: Hub, peers: Peers) -> None:
    """Invariant 4: what was never meant for it is not counted as skipped."""
    topic = hub.topic("positions", slow="latest")
    peer = peers.open()
    subscription = topic.subscribe(peer.connection)
    publish(topic, 2)
    for number in (3, 4):
        topic.publish(f"{number}:", skip=peer.connection)
    await settle()
    assert received(peer) == [2]
    assert (subscription.skipped, subscription.lag) == (1, 0)
    topic.publish("5:", skip=peer.connection)
    await settle()
    assert received(peer) == [2]
    assert (subscription.skipped, subscription.lag) == (1, 0)
