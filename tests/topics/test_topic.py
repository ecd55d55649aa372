"""A topic: publishing, history and resumption, retention, slow consumers, readers inside."""

from __future__ import annotations

import gc
import logging
import tracemalloc
import weakref
from typing import Any

import pytest
import trio

from tests.topics.support import TRANSPORTS, Peer, Peers, Transport, publish, received, settle
from trioweb import (
    CloseCode,
    ConnectionClosed,
    Hub,
    Lagged,
    Limits,
    Position,
    Publication,
    Publisher,
    Recovery,
    Retain,
    Topic,
    open_hub,
)
from trioweb._topics import Kind, Slow
from trioweb._topics._life import trim
from trioweb._topics._log import BLOCK_BYTES, OVERHEAD_BYTES

# Publishing.


async def test_publish_returns_offsets_without_waiting_for_the_pump(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    topic.subscribe(peer.connection)
    assert [topic.publish(message) for message in ("a", b"b", "c")] == [1, 2, 3]
    assert topic.head == 3
    assert not peer.queue.offers
    await settle()
    assert peer.messages == ["a", b"b", "c"]


async def test_publish_copies_mutable_buffers(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    topic.subscribe(peer.connection)
    buffer = bytearray(b"abcd")
    topic.publish(buffer)
    topic.publish(memoryview(buffer)[1:3])
    buffer[:] = b"WXYZ"
    with topic.publications(history=2) as publications:
        assert (await anext(publications)).message == b"abcd"
    await settle()
    assert peer.messages == [b"abcd", b"bc"]


@pytest.mark.parametrize(
    ("message", "error"), [(1, TypeError), (None, TypeError), ("\ud800", ValueError)]
)
async def test_publish_publishes_nothing_when_the_message_cannot_be_sent(
    hub: Hub, message: str, error: type[Exception]
) -> None:
    topic = hub.topic("news")
    with pytest.raises(error):
        topic.publish(message)
    assert topic.head == 0
    assert hub.statistics().topics == 0


@TRANSPORTS
async def test_publish_to_everyone_but_the_sender(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    topic = hub.topic("chat")
    a, b, c = (peers.open(transport) for _ in range(3))
    for peer in (a, b, c):
        topic.subscribe(peer.connection)
    # One burst, so that all of this is one chunk for those whom nothing skips.
    topic.publish("1: from a", skip=a.connection)
    topic.publish("2: from nobody")
    topic.publish("3: from b", skip=b.connection)
    topic.publish("4: from a", skip=a.connection)
    await settle()
    assert received(a) == [2, 3]
    assert received(b) == [1, 2, 4]
    assert received(c) == [1, 2, 3, 4]
    assert [len(peer.queue.offers) for peer in (a, b, c)] == [1, 1, 1]


async def test_publish_skips_the_sender_when_there_is_nothing_else_for_it(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("chat")
    peer = peers.open()
    subscription = topic.subscribe(peer.connection)
    topic.publish("mine", skip=peer.connection)
    await settle()
    assert subscription.cursor == 1 and subscription.skipped == 0
    assert not peer.queue.offers


async def test_publish_skips_the_sender_in_history_and_when_it_catches_up(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("chat")
    peer = peers.open(reading=False)
    await peer.clog()
    topic.subscribe(peer.connection)
    topic.publish("1: mine", skip=peer.connection)
    topic.publish("2: not mine")
    await settle()
    again = topic.subscribe(peer.connection, history=2)
    assert again.lag == 2
    peer.resume()
    await settle()
    assert received(peer) == [2, 2]


async def test_skip_cuts_frames_at_the_right_place(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("chat")
    peer = peers.open("kernel", reading=False)
    subscription = topic.subscribe(peer.connection)
    for _ in range(10):
        topic.publish("mine".ljust(500), skip=peer.connection)
        publish(topic, 1, 1500)
    await settle()
    assert 0 < subscription.cursor < 20
    peer.resume()
    await settle()
    assert received(peer) == list(range(2, 21, 2))


async def test_log_does_not_keep_a_skipped_connection_alive(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("chat")
    peer = peers.open()
    topic.publish("mine", skip=peer.connection)
    gone = weakref.ref(peer.connection)
    del peer.connection
    gc.collect()
    assert gone() is None
    # Nobody had asked for this chunk while the connection lived.
    late = peers.open()
    topic.subscribe(late.connection, history=1)
    await settle()
    assert late.messages == ["mine"]


# History and resumption.


@pytest.mark.parametrize(("history", "expected"), [(0, [6]), (2, [4, 5, 6]), (9, [3, 4, 5, 6])])
async def test_history_starts_with_what_is_retained(
    hub: Hub, peers: Peers, history: int, expected: list[int]
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3))
    publish(topic, 5)
    await settle()
    peer = peers.open()
    subscription = topic.subscribe(peer.connection, history=history)
    publish(topic, 1)
    await settle()
    assert received(peer) == expected
    assert subscription.recovered and subscription.skipped == 0


# Five publications, of which the log retains 3, 4 and 5.
SINCE = [
    # since; delivered at once, skipped, recovered
    # Of which life an offset alone is, nobody can tell.
    pytest.param(5, [], 0, False, id="head"),
    pytest.param(4, [5], 0, False, id="inside"),
    pytest.param(2, [3, 4, 5], 0, False, id="just-before-the-log"),
    pytest.param(1, [3, 4, 5], 1, False, id="older-than-the-log"),
    pytest.param(0, [3, 4, 5], 2, False, id="from-the-beginning"),
    pytest.param(6, [3, 4, 5], 2, False, id="beyond-the-head"),
    pytest.param(("right", 5), [], 0, True, id="right-epoch-and-head"),
    pytest.param(("right", 4), [5], 0, True, id="right-epoch"),
    pytest.param(("right", 2), [3, 4, 5], 0, True, id="right-epoch-just-before-the-log"),
    pytest.param(("right", 1), [3, 4, 5], 1, False, id="right-epoch-older-than-the-log"),
    pytest.param(("right", 0), [3, 4, 5], 2, False, id="right-epoch-from-the-beginning"),
    pytest.param(("right", 6), [3, 4, 5], 2, False, id="right-epoch-beyond-the-head"),
    pytest.param(("wrong", 4), [3, 4, 5], 2, False, id="wrong-epoch"),
    pytest.param(("wrong", 0), [3, 4, 5], 2, False, id="wrong-epoch-from-the-beginning"),
]


@pytest.mark.parametrize(("since", "expected", "skipped", "recovered"), SINCE)
async def test_since_resumes_or_says_what_is_missing(
    hub: Hub,
    peers: Peers,
    since: int | tuple[str, int],
    expected: list[int],
    skipped: int,
    recovered: bool,
) -> None:
    """Invariant 4: what cannot be delivered any more is counted."""
    topic = hub.topic("news", retain=Retain(max_messages=3))
    publish(topic, 5)
    await settle()
    if isinstance(since, tuple) and since[0] == "right":
        since = (topic.epoch, since[1])
    peer = peers.open()
    subscription = topic.subscribe(peer.connection, since=since)
    assert (subscription.skipped, subscription.recovered) == (skipped, recovered)
    assert subscription.lag == len(expected)
    subscription._check()
    recovery = topic.recovery(since)
    assert recovery == Recovery(
        Position(topic.epoch, 5 - len(expected)), recovered=recovered, missing=skipped
    )
    again = topic.subscribe(peers.open().connection, since=recovery.position)
    assert (again.cursor, again.skipped, again.recovered) == (5 - len(expected), 0, True)
    with topic.publications(since=since) as publications:
        assert publications.skipped == skipped
        for offset in expected:
            assert (await anext(publications)).offset == offset
    publish(topic, 1)
    await settle()
    assert received(peer) == [*expected, 6]


async def test_since_zero_is_everything_when_nothing_has_left_the_log(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("news")
    publish(topic, 2)
    peer = peers.open()
    subscription = topic.subscribe(peer.connection, since=0)
    await settle()
    assert received(peer) == [1, 2] and subscription.recovered


@pytest.mark.parametrize(
    "place",
    [
        {"since": 1, "history": 1},
        {"since": -1},
        {"since": "1"},
        {"since": ("epoch", -1)},
        {"since": ("epoch",)},
        {"since": ("epoch", None)},
        {"history": -1},
        {"history": 1.5},
    ],
)
async def test_place_is_refused_when_it_cannot_be(hub: Hub, peers: Peers, place: object) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    with pytest.raises(ValueError, match=r"since|history"):
        topic.subscribe(peer.connection, **place)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"since|history"):
        topic.publications(**place)  # type: ignore[arg-type]
    assert topic.subscribers == 0 and hub.statistics().topics == 0


@TRANSPORTS
@pytest.mark.parametrize("reply", ["before", "after"])
async def test_reply_to_a_subscription_precedes_what_it_gets(
    hub: Hub, peers: Peers, transport: Transport, reply: str
) -> None:
    """Whoever answers first and delivers then does so without an await in between."""
    topic = hub.topic("news")
    publish(topic, 30, 4000)
    peer = peers.open(transport)
    await topic.load(since=("other", 7))
    recovery = topic.recovery(("other", 7))
    if reply == "before":
        peer.connection.send_nowait(f"recovered={recovery.recovered}")
    subscription = topic.subscribe(peer.connection, since=recovery.position)
    if reply == "after":
        peer.connection.send_nowait(f"recovered={recovery.recovered}")
    publish(topic, 1)
    await settle()
    assert peer.messages[0] == "recovered=False"
    peer.messages.pop(0)
    assert received(peer) == list(range(1, 32)) and subscription.lag == 0


@pytest.mark.parametrize(
    ("after", "count", "forward", "backward"),
    [
        (None, None, [4, 5, 6, 7, 8], [8, 7, 6, 5, 4]),
        (None, 2, [4, 5], [8, 7]),
        (None, 0, [], []),
        (0, 2, [4, 5], []),
        (4, None, [5, 6, 7, 8], []),
        (6, 1, [7], [5]),
        (8, 3, [], [7, 6, 5]),
        (9, 9, [], [8, 7, 6, 5, 4]),
    ],
)
async def test_history_of_a_topic_is_read_from_both_ends(
    hub: Hub, after: int | None, count: int | None, forward: list[int], backward: list[int]
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5))
    publish(topic, 8)
    assert [one.offset for one in topic.history(after, count)] == forward
    assert [one.offset for one in topic.history(after, count, reverse=True)] == backward
    for wrong in ({"after": -1}, {"count": -1}, {"count": 1.5}):
        with pytest.raises(ValueError, match="history"):
            topic.history(**wrong)


async def test_load_is_a_checkpoint_and_checks_its_arguments(hub: Hub) -> None:
    with trio.testing.assert_checkpoints():
        await hub.topic("news").load(history=3)
    with pytest.raises(ValueError, match="since"):
        await hub.topic("news").load(since=("epoch", -1))


# Retention.


@pytest.mark.parametrize(
    ("retain", "sizes", "retained"),
    [
        (Retain(max_messages=3), [10] * 8, 3),
        # Frames have a head of two bytes, so five of them are 60, and what they take beside.
        (Retain(max_bytes=60 + 5 * OVERHEAD_BYTES), [10] * 8, 5),
        (Retain(max_bytes=59 + 5 * OVERHEAD_BYTES), [10] * 8, 4),
        (Retain(max_bytes=59 + OVERHEAD_BYTES), [10, 10, 100], 1),
    ],
)
async def test_retention_bounds_a_log(
    hub: Hub, retain: Retain, sizes: list[int], retained: int
) -> None:
    """Invariant 8: the log of a topic is bounded in messages and bytes."""
    topic = hub.topic("news", retain=retain)
    for size in sizes:
        topic.publish("x" * size)
    await settle()
    assert topic.retained == retained
    assert topic.size == sum(size + 2 + OVERHEAD_BYTES for size in sizes[-retained:])


async def test_publication_leaves_the_log_when_it_comes_of_age_and_nothing_else_happens(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_age=60))
    publish(topic, 1)
    await trio.sleep(20)
    publish(topic, 1)
    await trio.sleep(39.9)
    assert topic.retained == 2
    await trio.sleep(0.2)
    assert topic.retained == 1
    await trio.sleep(19.7)
    assert topic.retained == 1 and hub.statistics().topics == 1
    await trio.sleep(0.3)
    # An empty log and no subscriber: nothing but the position is left.
    assert hub.statistics().topics == 0


async def test_history_does_not_show_what_has_come_of_age(
    hub: Hub, peers: Peers, mock_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_age=60))
    publish(topic, 1)
    await settle()
    mock_clock.jump(60)
    # The pump has not run since.
    peer = peers.open()
    topic.subscribe(peer.connection, history=1)
    assert not peer.queue.offers


# Slow consumers.


@TRANSPORTS
async def test_slow_consumer_is_evicted_when_what_it_needs_is_about_to_go(
    hub: Hub, peers: Peers, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 4: an eviction is told to the peer, counted and logged."""
    caplog.set_level(logging.INFO, "trioweb.topics")
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=0))
    slow, quick = peers.open(transport, reading=False), peers.open(transport)
    await slow.clog()
    subscription = topic.subscribe(slow.connection)
    topic.subscribe(quick.connection)
    publish(topic, 3)
    await settle()
    assert subscription.lag == 3 and topic.subscribers == 2
    publish(topic, 1)
    await settle()
    assert slow.connection.close_code == CloseCode.TRY_AGAIN_LATER
    assert topic.subscribers == 1
    assert hub.statistics().evicted == 1
    assert "evicted from 'news'" in caplog.text
    slow.resume()
    await settle()
    assert slow.close == (1013, "slow consumer")
    assert received(slow) == []
    assert received(quick) == [1, 2, 3, 4]


@pytest.mark.parametrize("slow", ["evict", "skip"])
async def test_slow_consumer_is_judged_when_even_the_newest_comes_of_age(
    hub: Hub, peers: Peers, slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("news", retain=Retain(max_age=5, patience=0), slow=slow)
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    publish(topic, 1)
    await trio.sleep(5.1)
    assert topic.retained == 0
    assert subscription.skipped == (1 if slow == "skip" else 0)
    assert hub.statistics().evicted == (1 if slow == "evict" else 0)


async def test_evicted_peer_is_aborted_at_the_close_timeout(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6: waiting for a peer that does not read has a deadline."""
    topic = hub.topic("news", retain=Retain(max_messages=1, patience=0))
    peer = peers.open(reading=False, limits=Limits(close_timeout=3))
    await peer.clog()
    topic.subscribe(peer.connection)
    publish(topic, 2)
    start = trio.current_time()
    with pytest.raises(ConnectionClosed):
        await peer.connection.receive()
    await peer.link.wait_closed()
    assert trio.current_time() - start == pytest.approx(3)


@TRANSPORTS
async def test_slow_consumer_jumps_to_the_oldest_retained_when_it_may_skip(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    """Invariant 4: what was skipped is counted, by the subscription and by the hub."""
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=0), slow="skip")
    peer = peers.open(transport, reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    for _ in range(8):
        publish(topic, 1)
        await settle()
    assert (subscription.cursor, subscription.skipped, subscription.lag) == (5, 5, 3)
    assert hub.statistics().skipped == 5
    peer.resume()
    await settle()
    assert received(peer) == [6, 7, 8]


@TRANSPORTS
async def test_latest_gets_only_the_newest_when_its_link_is_free_again(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    """Invariant 4, as above: it does not wait for retention, but it counts."""
    topic = hub.topic("price", slow="latest")
    peer = peers.open(transport, reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    publish(topic, 7)
    await settle()
    assert subscription.lag == 7
    peer.resume()
    await settle()
    assert received(peer) == [7]
    assert (subscription.lag, subscription.skipped) == (0, 6)
    # A burst, while the link is free.
    publish(topic, 5)
    await settle()
    assert received(peer) == [7, 12]
    assert subscription.skipped == 10
    assert hub.statistics().skipped == 10


async def test_latest_counts_alike_when_retention_is_short(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("price", retain=Retain(max_messages=2, patience=0), slow="latest")
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    for _ in range(7):
        publish(topic, 1)
        await settle()
    assert subscription.lag == 7
    peer.resume()
    await settle()
    assert received(peer) == [7]
    assert subscription.skipped == hub.statistics().skipped == 6


@pytest.mark.parametrize("marked", [False, True])
async def test_latest_counts_the_newest_too_when_it_came_of_age(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock, marked: bool
) -> None:
    """Invariant 4: a peer that could not take even that is not told that it has everything."""
    topic = hub.topic("prices", slow="latest", retain=Retain(max_age=5))
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    for _ in range(3):
        topic.publish("x", skip="somebody else" if marked else None)
    await trio.sleep(6)
    assert topic.retained == 0
    peer.resume()
    await settle()
    assert received(peer) == []
    assert (subscription.cursor, subscription.skipped) == (3, 3)
    assert hub.statistics().skipped == 3


async def test_latest_gets_only_the_newest_of_a_burst_after_all_had_been_busy(
    hub: Hub, peers: Peers
) -> None:
    """What is written to several at once is looked at anew when they are free again."""
    topic = hub.topic("prices", slow="latest")
    crowd = [peers.open(reading=False) for _ in range(2)]
    for peer in crowd:
        await peer.clog()
    subscriptions = [topic.subscribe(peer.connection) for peer in crowd]
    for _ in range(2):  # nobody can be written to in the second pass
        publish(topic, 1)
        await settle()
    for peer in crowd:
        peer.resume()
    await settle()
    publish(topic, 5)
    await settle()
    assert [received(peer) for peer in crowd] == [[2, 7], [2, 7]]
    assert [subscription.skipped for subscription in subscriptions] == [5, 5]


async def test_latest_gets_only_the_newest_of_large_publications(hub: Hub, peers: Peers) -> None:
    """Each of which is written alone."""
    topic = hub.topic("prices", slow="latest")
    crowd = [peers.open("kernel", max_bytes=2**20) for _ in range(2)]
    for peer in crowd:
        topic.subscribe(peer.connection)
    publish(topic, 3, 2 * BLOCK_BYTES)
    await settle()
    assert [received(peer) for peer in crowd] == [[3], [3]]


async def test_latest_gets_only_the_newest_of_history(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("price", slow="latest")
    publish(topic, 5)
    peer = peers.open()
    subscription = topic.subscribe(peer.connection, history=4)
    await settle()
    assert received(peer) == [5]
    assert subscription.skipped == hub.statistics().skipped == 3


@TRANSPORTS
async def test_slow_policy_is_not_asked_while_the_link_is_free(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    """A burst far beyond retention evicts nobody who could have been written to."""
    topic = hub.topic("news", retain=Retain(max_messages=5))
    peer = peers.open(transport, max_bytes=2**16)
    topic.subscribe(peer.connection)
    publish(topic, 10)
    await settle()
    assert received(peer) == list(range(1, 11))
    assert hub.statistics().evicted == 0


async def test_slow_policy_of_a_subscription_goes_before_that_of_its_topic(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=0), slow="evict")
    policies: list[Slow | None] = [None, "skip", "latest"]
    clogged: list[Peer] = []
    for slow in policies:
        peer = peers.open(reading=False)
        await peer.clog()
        topic.subscribe(peer.connection, slow=slow)
        clogged.append(peer)
    publish(topic, 5)
    await settle()
    for peer in clogged:
        peer.resume()
    await settle()
    assert [received(peer) for peer in clogged] == [[], [3, 4, 5], [5]]
    assert clogged[0].close is not None
    with pytest.raises(ValueError, match="slow='never'"):
        topic.subscribe(clogged[1].connection, slow="never")  # type: ignore[arg-type]


@TRANSPORTS
@pytest.mark.parametrize("slow", ["evict", "skip", "latest"])
async def test_stalled_subscriber_delays_nobody(
    hub: Hub, peers: Peers, transport: Transport, slow: Slow
) -> None:
    """Invariant 3: others get everything at once, however long a peer does not read."""
    topic = hub.topic("news", retain=Retain(max_messages=5), slow=slow)
    stalled, quick = peers.open(transport, reading=False), peers.open(transport)
    for peer in (stalled, quick):
        topic.subscribe(peer.connection)
    for round_ in range(1, 21):
        publish(topic, 1, 10_000)
        await settle()
        assert received(quick)[-1] == round_
    bound = Limits().send_bytes if transport == "memory" else 0
    assert stalled.link.queue.buffered_amount <= bound + 11_000 or slow == "evict"


@TRANSPORTS
async def test_burst_past_what_is_retained_evicts_nobody_who_reads(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    """Without an await between them, no peer had a chance to read what `publish` itself wrote."""
    topic = hub.topic("news", retain=Retain(max_messages=100), slow="evict")
    peer = peers.open(transport)
    topic.subscribe(peer.connection)
    publish(topic, 450)
    await settle()
    assert received(peer) == list(range(1, 451))


async def test_stalled_subscribers_hold_no_queues(hub: Hub, peers: Peers) -> None:
    """Invariant 3 and 8: each holds a cursor and the rest of one frame."""
    topic = hub.topic("news", retain=Retain(max_messages=1000), slow="skip")
    stalled = [peers.open("kernel", reading=False) for _ in range(50)]
    subscriptions = []
    for number, peer in enumerate(stalled):
        await peer.clog()
        # Staggered, so that hardly two of them stand at the same place.
        publish(topic, number % 10, 1000)
        subscriptions.append(topic.subscribe(peer.connection))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        publish(topic, 500, 1000)
        await settle()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert all(subscription.lag >= 500 for subscription in subscriptions)
    # The log has grown by half a megabyte, twice: as messages and as frames. Fifty queues
    # would be another 25; even fifty lists of references would be seen.
    assert grown < 1.3 * 2**20
    assert all(peer.link.queue.buffered_amount < 2000 for peer in stalled)


# The connection's end.


async def test_subscription_ends_with_its_connection(hub: Hub, peers: Peers) -> None:
    first, second = hub.topic("first"), hub.topic("second")
    peer, other = peers.open(), peers.open()
    subscriptions = [topic.subscribe(peer.connection) for topic in (first, second)]
    first.subscribe(other.connection)
    peer.link.close()
    # At once, not when the closing handshake is over.
    assert (first.subscribers, second.subscribers) == (1, 0)
    publish(first, 1)
    await settle()
    assert [subscription.cursor for subscription in subscriptions] == [0, 0]
    assert (peer.messages, received(other)) == ([], [1])


async def test_subscription_ends_when_its_connection_is_lost(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    topic.subscribe(peer.connection)
    await peer.stream.aclose()
    await settle()
    assert topic.subscribers == 0


async def test_subscription_close_is_idempotent(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    with topic.subscribe(peer.connection) as subscription:
        assert topic.subscribers == 1
        subscription.close()
        assert topic.subscribers == 0
    subscription.close()
    publish(topic, 1)
    await settle()
    assert peer.messages == []


async def test_subscribe_raises_when_the_connection_is_over(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    peer.link.close()
    with pytest.raises(ConnectionClosed):
        topic.subscribe(peer.connection)
    assert hub.statistics().topics == 0


async def test_two_subscriptions_of_one_connection_are_two(hub: Hub, peers: Peers) -> None:
    """Invariant 9: at most once for each subscription."""
    topic = hub.topic("news")
    peer = peers.open()
    with topic.subscribe(peer.connection):
        topic.subscribe(peer.connection)
        publish(topic, 1)
        await settle()
    publish(topic, 1)
    await settle()
    assert received(peer) == [1, 1, 2]


# Readers inside the process.


async def test_publications_are_for_tasks(hub: Hub) -> None:
    topic = hub.topic("news")
    publish(topic, 3)
    with topic.publications(history=1) as publications:
        assert repr(await anext(publications)) == "<Publication 3: '3:news:'>"
        got: list[Publication] = []

        async def read() -> None:
            async for publication in publications:
                got.append(publication)
                if publication.message == b"end":
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await settle()
            publish(topic, 1)
            await settle()
            topic.publish(b"end")
    assert [(publication.offset, publication.message) for publication in got] == [
        (4, "4:news:"),
        (5, b"end"),
    ]
    assert publications.cursor == 5


async def test_publications_raise_lagged_once_and_go_on(hub: Hub) -> None:
    """Invariant 4: a reader is told how many it missed."""
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=0))
    with topic.publications() as publications:
        publish(topic, 5)
        await settle()
        with pytest.raises(Lagged, match="2 publications") as caught:
            await anext(publications)
        assert caught.value.skipped == publications.skipped == 2
        assert (await anext(publications)).offset == 3
        publish(topic, 2)
        await settle()
        with pytest.raises(Lagged):
            await anext(publications)
        assert publications.skipped == 3


async def test_publications_end_with_the_hub_when_all_is_read() -> None:
    async with trio.open_nursery() as nursery:
        got: list[int] = []

        async def read(topic: Topic) -> None:
            with topic.publications() as publications:
                async for publication in publications:
                    got.append(publication.offset)
            got.append(-1)

        async with open_hub() as hub:
            topic = hub.topic("news")
            for _ in range(2):
                nursery.start_soon(read, topic)
            await settle()
            publish(topic, 2)
    assert sorted(got) == [-1, -1, 1, 1, 2, 2]


async def test_publications_are_read_inside_their_block_only(hub: Hub) -> None:
    topic = hub.topic("news")
    publications = topic.publications()
    with pytest.raises(trio.ClosedResourceError):
        await anext(publications)
    with publications:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await anext(publications)


async def test_publications_start_where_the_topic_is_when_the_block_is_entered(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """Between its making and its use the topic may have been forgotten and begun again."""
    topic = hub.topic("news", retain=Retain(max_age=1))
    publish(topic, 5)
    publications = topic.publications()
    await trio.sleep(400)
    assert hub.statistics().topics == 0
    with publications, trio.fail_after(1):
        publish(topic, 1)
        assert (await anext(publications)).offset == 1


async def test_publications_lose_nothing_when_reading_is_cancelled(hub: Hub) -> None:
    topic = hub.topic("news")
    with topic.publications() as publications:
        publish(topic, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(publications)
        assert scope.cancelled_caught
        assert (await anext(publications)).offset == 1


async def test_publications_let_others_run_while_there_is_always_one_more(hub: Hub) -> None:
    """Invariant 12: a reader of a long log yields."""
    topic = hub.topic("news")
    publish(topic, 1000)
    steps = 0
    running = True

    async def count_steps() -> None:
        nonlocal steps
        while running:
            steps += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_steps)
        with topic.publications(history=1000) as publications:
            for _ in range(1000):
                await anext(publications)
        running = False
    assert steps > 10


async def test_publications_keep_a_topic_from_being_forgotten(hub: Hub) -> None:
    topic = hub.topic("news")
    with topic.publications() as publications:
        with publications:
            pass
    assert hub.statistics().topics == 0
    with topic.publications():
        assert hub.statistics().topics == 1


async def test_topic_names_itself(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    topic.subscribe(peers.open().connection)
    publish(topic, 2)
    assert repr(topic) == "<Topic 'news', head 2, 1 subscribers>"


async def test_recovery_tells_of_the_life_that_subscribe_will_begin(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 15: whoever still holds a topic that was forgotten is not told of its old life."""
    async with open_hub(linger=10) as hub:
        topic = hub.topic("news", retain=Retain(max_age=1))
        topic.publish("x")
        before = (topic.epoch, topic.head)
        await trio.sleep(5)
        assert topic.recovery(before).recovered
        topic.subscribe(peers.open().connection).close()
        await trio.sleep(20)
        recovery = topic.recovery(before)
        assert not recovery.recovered
        subscription = topic.subscribe(peers.open().connection, since=recovery.position)
        assert subscription.recovered and subscription.cursor == 0
        assert recovery.position.epoch == topic.epoch != before[0]


# What a publication says beside its message.


async def test_a_publication_keeps_its_key_tags_and_publisher(hub: Hub) -> None:
    topic = hub.topic("news")
    tags = {"lang": "en"}
    ann = Publisher("ann", b"conn")
    topic.publish("a", key="k", tags=tags, publisher=ann)
    topic.publish(b"b")
    tags["lang"] = "de"
    first, second = topic.history()
    assert (first.key, first.tags, first.publisher) == ("k", {"lang": "en"}, ann)
    assert (first.offset, first.message, first.kind) == (1, "a", "text")
    assert (second.key, dict(second.tags), second.publisher) == (None, {}, None)
    with pytest.raises(TypeError):
        first.tags["lang"] = "fr"  # type: ignore[index]


@pytest.mark.parametrize(
    ("message", "kind", "kept", "found"),
    [
        ("a", None, "a", "text"),
        ("a", "text", "a", "text"),
        (b"a", None, b"a", "bytes"),
        (bytearray(b"a"), "bytes", b"a", "bytes"),
        ('{"a": "b"}', "json", '{"a": "b"}', "json"),
        (' 1.50"', "json", ' 1.50"', "json"),
        (' "a\\u00e4\\n"\n', "json", "aä\n", "text"),
        ('"\\ud800"', "json", '"\\ud800"', "json"),
    ],
)
async def test_a_publication_knows_its_kind(
    hub: Hub, message: str | bytes, kind: Kind | None, kept: str | bytes, found: Kind
) -> None:
    topic = hub.topic("news")
    topic.publish(message, kind=kind)
    [publication] = topic.history()
    assert (publication.message, publication.kind) == (kept, found)


async def test_a_key_is_published_once_per_publisher_while_the_log_has_it(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0))
    peer = peers.open()
    topic.subscribe(peer.connection)
    ann, again, bob = Publisher("ann", b"1"), Publisher("ann", b"2"), Publisher("bob", b"1")
    assert topic.publish("a", key="k", publisher=ann) == 1
    assert topic.publish("b", key="k", publisher=again) == 1
    assert topic.publish("c", key="k", publisher=bob) == 2
    assert topic.publish("d", key="k") == 3
    assert topic.publish("e", key="k") == 3
    assert topic.publish("f", key="l") == 4
    assert (topic.head, hub.statistics().published) == (4, 4)
    await settle()
    assert peer.messages == ["a", "c", "d", "f"]
    for _ in range(3):
        topic.publish("-")
    await settle()
    # Of the seven, five are left: those of Ann and Bob are gone, and their keys with them.
    assert topic.publish("g", key="k") == 3
    assert topic.publish("h", key="k", publisher=ann) == 8
    assert topic.publish("i", key="k", publisher=ann) == 8


async def test_keys_go_with_the_log_that_a_hub_forgets() -> None:
    async with open_hub(max_topics=1) as hub:
        topic = hub.topic("a")
        assert topic.publish("x", key="k") == 1
        hub.topic("b").publish("y")
        assert topic.publish("z", key="k") == 2


async def test_keys_that_were_trimmed_take_no_memory(hub: Hub) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3))
    for number in range(100):
        topic.publish("x", key=str(number))
    assert len(topic._log._once) == 3


async def test_details_count_as_the_memory_that_they_take(hub: Hub) -> None:
    """Invariant 17, for what is published with a key, tags and a publisher."""
    topic = hub.topic("news", retain=Retain(max_messages=10**6, max_bytes=2**24))

    def publish(number: int) -> None:
        text = f"{number:>20}"
        tags = {f"{text}{each}": text + "value" for each in range(3)}
        topic.publish(text, key=text + "key", tags=tags, publisher=Publisher(text, text.encode()))

    publish(0)
    gc.collect()
    before = topic.size
    tracemalloc.start()
    for number in range(1, 2001):
        publish(number)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 < taken / (topic.size - before) < 1.1
    trim(topic, topic.head + 1)
    assert topic.size == 0


async def test_retention_counts_details(hub: Hub) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=1000, max_bytes=20_000, patience=0))
    for _ in range(100):
        topic.publish("x", tags={"a": "b" * 3000})
    assert topic.size <= 20_000
    assert topic.retained == 20_000 // (topic.size // topic.retained)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"key": 1}, TypeError, "key must be of type str"),
        ({"key": "k" * 256}, ValueError, "256 characters, at most 255"),
        ({"key": "\ud800"}, ValueError, "key"),
        ({"tags": [1]}, TypeError, "tags must be of type Mapping"),
        ({"tags": {1: "a"}}, TypeError, "tags"),
        ({"tags": {"a": b"b"}}, TypeError, "tags"),
        ({"tags": {"a": "\ud800"}}, ValueError, "tags"),
        ({"publisher": "ann"}, TypeError, "publisher must be of type Publisher"),
        ({"kind": "xml"}, ValueError, "'text', 'json', 'bytes'"),
        ({"kind": "bytes"}, TypeError, "the message is str"),
        ({"message": b"1", "kind": "json"}, TypeError, "the message is bytes"),
        ({"message": 1, "kind": "bytes"}, TypeError, "int"),
        ({"message": '"a', "kind": "json"}, ValueError, "Unterminated string"),
    ],
)
async def test_publish_refuses_details_that_cannot_be(
    hub: Hub, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    topic = hub.topic("news")
    with pytest.raises(error, match=text):
        topic.publish(**{"message": "a"} | arguments)
    assert topic.head == 0


@pytest.mark.parametrize("arguments", [(1,), ("\ud800",), ("a", "b")])
def test_a_publisher_is_checked_when_made(arguments: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError), match="Publisher"):
        Publisher(*arguments)


# The Close of a slow consumer.


async def test_each_subscription_has_its_own_words_for_a_slow_consumer(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=2, patience=0))
    first, second = peers.open(), peers.open()
    topic.subscribe(first.connection, evict=(3008, "slow"))
    topic.subscribe(second.connection)
    for peer in (first, second):
        await peer.clog()
    publish(topic, 5)
    await settle()
    for peer in (first, second):
        peer.resume()
    await settle()
    assert first.close == (3008, "slow")
    assert second.close == (1013, "slow consumer")


@pytest.mark.parametrize(
    ("evict", "error"),
    [
        (3008, TypeError),
        ([3008, "slow"], TypeError),
        ((3008,), TypeError),
        ((1005, ""), ValueError),
        (("a", ""), ValueError),
        ((3008, None), TypeError),
        ((3008, "x" * 124), ValueError),
    ],
)
async def test_subscribe_refuses_words_that_no_close_can_carry(
    hub: Hub, peers: Peers, evict: Any, error: type[Exception]
) -> None:
    topic = hub.topic("news")
    with pytest.raises(error):
        topic.subscribe(peers.open().connection, evict=evict)
    assert topic.subscribers == 0


@pytest.mark.parametrize("connection", [3, None, "ann", [1]])
async def test_subscribe_names_what_is_no_connection(hub: Hub, connection: Any) -> None:
    topic = hub.topic("news")
    with pytest.raises(TypeError, match=r"^subscribe: connection must be .*Connection"):
        topic.subscribe(connection)
    assert topic.subscribers == 0


async def _encode_later(publication: Publication) -> str:
    raise AssertionError("never called")


@pytest.mark.parametrize("encode", [3, "text", [], _encode_later])
async def test_subscribe_names_an_encode_that_cannot_be(
    hub: Hub, peers: Peers, encode: Any
) -> None:
    topic = hub.topic("news")
    with pytest.raises(TypeError, match=r"^subscribe: encode must .*`def encode\(publication\)`"):
        topic.subscribe(peers.open().connection, encode=encode)
    assert topic.subscribers == 0


@pytest.mark.parametrize("bad", [True, "1", 1.5, -1])
async def test_number_of_publications_is_a_whole_number(hub: Hub, bad: Any) -> None:
    topic = hub.topic("news")
    for call in (
        lambda: topic.history(count=bad),
        lambda: topic.history(after=bad),
        lambda: topic.publications(history=bad),
        lambda: topic.recovery(None, bad),
        lambda: topic.publications(since=bad),
        lambda: topic.publications(since=("epoch", bad)),
    ):
        with pytest.raises(ValueError, match=r"(history|after|count|since)="):
            call()


# Publishing with a receipt, on a hub that is alone.


async def test_post_and_publish_confirmed_say_where_it_is(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open()
    topic.subscribe(peer.connection)
    receipt = topic.post("a")
    assert topic.publish("b") == 2
    assert await topic.publish_confirmed("c", key="k") == Position(topic.epoch, 3)
    assert await topic.publish_confirmed("d", key="k") == Position(topic.epoch, 3)
    assert await receipt.confirmed() == Position(topic.epoch, 1)
    assert await receipt.confirmed() == Position(topic.epoch, 1)
    await settle()
    assert peer.messages == ["a", "b", "c"]


async def test_what_cannot_be_published_cannot_be_posted(hub: Hub) -> None:
    topic = hub.topic("news")
    with pytest.raises(TypeError):
        topic.post(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await topic.publish_confirmed("a", skip=1)  # type: ignore[arg-type]
    hub._close()
    with pytest.raises(trio.ClosedResourceError):
        topic.post("a")
    with pytest.raises(trio.ClosedResourceError):
        await topic.publish_confirmed("a")
    assert topic.head == 0


async def test_waiting_for_a_receipt_is_always_a_checkpoint(hub: Hub) -> None:
    receipt = hub.topic("news").post("a")
    with trio.testing.assert_checkpoints():
        await receipt.confirmed()


@pytest.mark.parametrize("text", ['"a b "', ' \n"a b "\t', '"a\\u0020b "'])
async def test_json_string_is_published_as_the_text_that_it_says(hub: Hub, text: str) -> None:
    topic = hub.topic("news")
    topic.publish(text, kind="json")
    [publication] = topic.history()
    assert (publication.message, publication.kind) == ("a b ", "text")


@pytest.mark.parametrize("text", ['"a" b', '"a', '"a"""'])
async def test_what_begins_as_a_json_string_and_is_none_is_refused(hub: Hub, text: str) -> None:
    topic = hub.topic("news")
    with pytest.raises(ValueError, match=r"json|Unterminated"):
        topic.publish(text, kind="json")
    assert topic.head == 0
