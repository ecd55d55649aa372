"""Delivery: one write for many publications, shared bytes, cut frames, encodings, turns."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings

from tests.topics.support import (
    TRANSPORTS,
    Peer,
    Peers,
    Transport,
    open_peers,
    publish,
    received,
    settle,
)
from trioweb import Hub, Publication, Retain, State, Topic, open_hub
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics import Slow
from trioweb._topics._log import BLOCK_BYTES
from trioweb._topics._pass import _COST_OF_PASS, make_pass
from trioweb._topics._subscription import GONE

# More subscriptions than the pump writes to between two checkpoints.
MANY = 700


class Crowd:
    """So many subscriptions that a pass over them is interrupted.

    They all belong to one connection, whose transport has room for everything.
    """

    def __init__(self, peers: Peers, topic: Topic) -> None:
        self.peer = peers.open("kernel", reading=False, max_bytes=2**20)
        self.subscriptions = [topic.subscribe(self.peer.connection) for _ in range(MANY)]

    async def wait_half_delivered(self, offset: int) -> None:
        """Return in the middle of a pass that delivers up to *offset*."""
        while self.subscriptions[0].cursor < offset:
            await trio.lowlevel.checkpoint()
        assert self.subscriptions[-1].cursor < offset


# One write, one object.


@TRANSPORTS
async def test_burst_costs_one_write_for_each_subscriber(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    topic = hub.topic("news")
    crowd = [peers.open(transport) for _ in range(5)]
    for peer in crowd:
        topic.subscribe(peer.connection)
    publish(topic, 100)
    await settle()
    for peer in crowd:
        assert len(peer.queue.offers) == 1
        assert received(peer, topic) == list(range(1, 101))
    # All stood at the same place, so it was the same object.
    assert len({id(peer.queue.offers[0]) for peer in crowd}) == 1


async def test_single_publication_is_written_as_the_log_keeps_it(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    crowd = [peers.open("kernel") for _ in range(3)]
    for peer in crowd:
        topic.subscribe(peer.connection)
    publish(topic, 1)
    with topic.publications(history=1) as publications:
        frame = (await anext(publications))._frame
    await settle()
    assert all(peer.queue.offers[0] is frame for peer in crowd)


async def test_staggered_subscribers_come_to_share_bytes(hub: Hub, peers: Peers) -> None:
    """Delivery is cut at places that all share, wherever each of them started."""
    topic = hub.topic("news")
    publish(topic, 30, BLOCK_BYTES // 8)
    crowd = [peers.open("kernel", max_bytes=2**20) for _ in range(4)]
    for number, peer in enumerate(crowd):
        topic.subscribe(peer.connection, history=30 - number)
    await settle()
    blocks = [peer.queue.offers for peer in crowd]
    assert all(len(offers) == len(blocks[0]) > 3 for offers in blocks)
    for offers in zip(*blocks, strict=True):
        assert all(len(data) <= BLOCK_BYTES for data in offers)
    for offers in list(zip(*blocks, strict=True))[1:]:
        assert len({id(data) for data in offers}) == 1
    for number, peer in enumerate(crowd):
        assert received(peer, topic) == list(range(1 + number, 31))


async def test_publication_larger_than_a_block_goes_alone(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open("kernel", max_bytes=2**20)
    topic.subscribe(peer.connection)
    for size in (10, BLOCK_BYTES + 1, 10):
        publish(topic, 1, size)
    await settle()
    assert received(peer, topic) == [1, 2, 3]
    assert len(peer.queue.offers) == 3


async def test_burst_of_many_blocks_is_written_block_by_block(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    crowd = [peers.open("kernel", max_bytes=2**20) for _ in range(3)]
    for peer in crowd:
        topic.subscribe(peer.connection)
    publish(topic, 20, BLOCK_BYTES // 8)
    await settle()
    for peer in crowd:
        assert received(peer, topic) == list(range(1, 21))
        assert [len(data) * 8 // BLOCK_BYTES for data in peer.queue.offers] == [7, 7, 6]


async def test_chunks_are_remembered_for_some_places_only(hub: Hub, peers: Peers) -> None:
    """Invariant 8: many subscribers at as many places hold no chunk each."""
    topic = hub.topic("news")
    publish(topic, 100)
    connection = peers.open("kernel", max_bytes=2**20).connection
    subscriptions = [topic.subscribe(connection, history=number) for number in range(1, 60)]
    await settle()
    assert 0 < len(subscriptions[0]._members.shape._chunks) <= 16


# Cut frames.


@TRANSPORTS
@pytest.mark.parametrize("is_client", [False, True])
async def test_cut_frame_is_finished_and_nothing_but_it_is_queued(
    hub: Hub, peers: Peers, transport: Transport, is_client: bool
) -> None:
    """Invariant 1: what was begun is written to its end; the rest stays in the log."""
    topic = hub.topic("news")
    peer = peers.open(transport, reading=False, is_client=is_client)
    subscription = topic.subscribe(peer.connection)
    publish(topic, 40, 1000)
    await settle()
    if transport == "kernel":
        # It has taken some; of the frame that was cut, less than all is queued.
        assert 0 < subscription.cursor < 40
        assert 0 < peer.link.queue.buffered_amount < 1010
    peer.resume()
    await settle()
    assert received(peer, topic) == list(range(1, 41))
    assert peer.link.queue.buffered_amount == 0 and subscription.lag == 0


async def test_kernel_that_takes_nothing_leaves_the_frame_whole(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    peer = peers.open("kernel", reading=False)
    topic.subscribe(peer.connection)
    # Each is written by itself, until one of them finds the kernel full.
    while peer.link.queue.writable:
        publish(topic, 1, 1000)
        await settle()
    assert peer.link.queue.buffered_amount == len(peer.queue.offers[-1])
    publish(topic, 1, 1000)
    peer.resume()
    await settle()
    assert received(peer, topic) == list(range(1, topic.head + 1))


# Encodings.


async def test_encoding_is_called_once_for_each_publication(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    calls: list[int] = []

    def envelope(publication: Publication) -> str:
        calls.append(publication.offset)
        return json.dumps({"offset": publication.offset, "data": publication.message})

    crowd = [peers.open("kernel") for _ in range(5)]
    for peer in crowd[:3]:
        topic.subscribe(peer.connection, encode=envelope)
    topic.subscribe(crowd[3].connection, encode=lambda publication: b"-%d-" % publication.offset)
    topic.subscribe(crowd[4].connection)
    for message in ("a", "b", "c"):
        topic.publish(message)
        await settle()
    # Somebody who comes late, at another place, asks for no encoding anew.
    late = peers.open("kernel")
    topic.subscribe(late.connection, encode=envelope, history=2)
    await settle()
    assert calls == [1, 2, 3]
    for peer in crowd[:3]:
        assert [json.loads(message) for message in peer.messages] == [
            {"offset": 1, "data": "a"},
            {"offset": 2, "data": "b"},
            {"offset": 3, "data": "c"},
        ]
    assert crowd[3].messages == [b"-1-", b"-2-", b"-3-"]
    assert crowd[4].messages == ["a", "b", "c"]
    assert late.messages == crowd[0].messages[1:]


async def test_encoding_that_is_used_no_more_is_dropped_without_a_look_at_the_others(
    hub: Hub, peers: Peers
) -> None:
    """Each subscriber may have its own, a lambda for instance, and all may leave at once."""
    topic = hub.topic("news")
    looks = 0

    class Own:
        def __call__(self, publication: Publication) -> str | bytes:
            return publication.message

        def __hash__(self) -> int:
            nonlocal looks
            looks += 1
            return id(self)

    connection = peers.open().connection
    subscriptions = [topic.subscribe(connection, encode=Own()) for _ in range(50)]
    looks = 0
    for subscription in subscriptions:
        subscription.close()
    assert looks == 50
    assert topic.subscribers == 0 and topic._is_idle


async def test_encodings_are_kept_for_two_blocks_only_and_counted(hub: Hub, peers: Peers) -> None:
    """Invariant 17: what is cached for an encoding is memory, too."""
    topic = hub.topic("news", retain=Retain(max_messages=30_000, max_bytes=2**24))
    shapes = hub._retention.shapes
    connection = peers.open("kernel", max_bytes=2**20).connection
    subscription = topic.subscribe(connection, encode=lambda _: "x" * 1000)
    for _ in range(3000):
        topic.publish("y" * 100)
    await hub.wait_caught_up()
    shape = subscription._members.shape
    assert shape._newest is not None
    assert 0 < len(shape._newest.by_offset) + len(shape._older.by_offset) <= 2 * 700
    kept = sum(len(chunk.data) for chunk in shape._chunks.values())
    for table in (shape._newest, shape._older):
        kept += sum(map(len, table.by_offset.values()))
    assert kept <= shapes.size <= 1.5 * kept
    subscription.close()
    assert shapes.size == 0


async def test_encoding_that_ends_whom_it_is_for_leaves_nothing_that_is_kept(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 8: what was encoded for nobody is not counted, nor does it hold the log."""
    topic = hub.topic("news")

    def encode(publication: Publication) -> str:
        subscription.close()
        return str(publication.message)

    subscription = topic.subscribe(peers.open().connection, encode=encode)
    publish(topic, 3)
    await settle()
    assert topic.subscribers == 0
    assert not hub._retention.shapes._sizes


async def test_encodings_of_very_many_subscribers_are_bounded_together(peers: Peers) -> None:
    """Invariant 17: an encoding for each subscriber does not multiply what a topic takes."""
    async with open_hub(max_bytes=2**20) as hub:
        topic = hub.topic("news")
        connection = peers.open("kernel", max_bytes=2**20).connection
        for number in range(50):
            topic.subscribe(connection, encode=lambda _, n=number: f"{n}" * 100)  # type: ignore[misc]
        for _ in range(1000):
            topic.publish("y" * 100)
            if topic.head % 100 == 0:
                await hub.wait_caught_up()
        assert 0 < hub._retention.shapes.size <= 2**17
        assert topic.retained == 1000


@TRANSPORTS
async def test_subscriber_of_a_client_side_gets_masked_frames(
    hub: Hub, peers: Peers, transport: Transport
) -> None:
    """RFC 6455 section 5.1: a client masks, whatever its server subscribes it to."""
    topic = hub.topic("news")
    clients = [peers.open(transport, is_client=True) for _ in range(2)]
    server = peers.open(transport)
    for peer in (*clients, server):
        topic.subscribe(peer.connection)
    topic.publish("hello")
    await settle()
    assert all(peer.messages == ["hello"] for peer in (*clients, server))
    assert all(peer.raw[1] & 0x80 for peer in clients)
    # Masked once: the same bytes for both.
    assert clients[0].queue.offers[0] is clients[1].queue.offers[0]
    assert server.raw == encode_message("hello", SERVER_FORM)


async def test_encoding_that_fails_ends_nobody_who_has_left(
    hub: Hub, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    topic = hub.topic("news")
    leaving, staying = peers.open(), peers.open()

    def encode(publication: Publication) -> str:
        gone.close()
        raise ValueError("no such thing")

    gone = topic.subscribe(leaving.connection, encode=encode)
    topic.subscribe(staying.connection, encode=encode)
    publish(topic, 1)
    await settle()
    assert leaving.close is None and leaving.connection.state is State.OPEN
    assert staying.close == (1011, "encoding failed")
    leaving.connection.send_nowait("still there")
    await settle()
    assert leaving.messages == ["still there"]


@pytest.mark.parametrize("result", [ValueError("no such thing"), 1, "\ud800"])
async def test_encoding_that_fails_ends_its_subscribers_only(
    hub: Hub, peers: Peers, caplog: pytest.LogCaptureFixture, result: object
) -> None:
    """Invariant 2, for callables other than handlers: 1011, logged, and nobody else."""
    topic = hub.topic("news")

    def encode(publication: Publication) -> str:
        if publication.offset < 2:
            return "fine"
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value]

    good = peers.open()
    bad = [peers.open() for _ in range(2)]
    for peer in bad:
        topic.subscribe(peer.connection, encode=encode)
    topic.subscribe(good.connection)
    for _ in range(3):
        publish(topic, 1)
        await settle()
    assert received(good, topic) == [1, 2, 3]
    for peer in bad:
        assert peer.messages == ["fine"]
        assert peer.close == (1011, "encoding failed")
    assert topic.subscribers == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is not None


async def test_encoding_that_fails_for_history_ends_its_subscriber(
    hub: Hub, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    topic = hub.topic("news")
    publish(topic, 1)
    peer = peers.open()

    def encode(publication: Publication) -> str:
        raise KeyError("no")

    topic.subscribe(peer.connection, encode=encode, history=1)
    await settle()
    assert topic.subscribers == 0
    assert peer.close == (1011, "encoding failed")
    assert len(caplog.records) == 1


async def test_encoding_that_fails_when_a_link_has_drained_ends_its_subscribers_only(
    hub: Hub, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    topic = hub.topic("news")

    def encode(publication: Publication) -> str:
        raise KeyError("no")

    bad, good = peers.open(reading=False), peers.open()
    await bad.clog()
    topic.subscribe(bad.connection, encode=encode)
    topic.subscribe(good.connection)
    publish(topic, 1)
    await settle()
    assert not caplog.records
    bad.resume()
    await settle()
    assert bad.close == (1011, "encoding failed")
    assert len(caplog.records) == 1
    publish(topic, 1)
    await settle()
    assert received(good, topic) == [1, 2]


async def test_encoding_that_fails_leaves_nobody_behind_who_joined_meanwhile(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 12: nobody is left whom the pump would look at for ever."""
    topic = hub.topic("news")
    fails = False

    def encode(publication: Publication) -> str:
        if fails:
            raise KeyError("no")
        return str(publication.message)

    late = peers.open(reading=False)
    await late.clog()
    crowd = [peers.open() for _ in range(200)]
    for peer in crowd:
        topic.subscribe(peer.connection, encode=encode)
    publish(topic, 1)
    await settle()
    fails = True
    publish(topic, 1)
    while all(peer.connection.close_code is None for peer in crowd):
        await trio.lowlevel.checkpoint()
    assert any(peer.connection.close_code is None for peer in crowd)
    topic.subscribe(late.connection, encode=encode, history=1)
    late.resume()
    for _ in range(1000):
        await trio.lowlevel.checkpoint()
    assert late.close == (1011, "encoding failed")
    assert topic.subscribers == 0 and hub._pump.is_idle


async def test_encoding_may_use_its_topic(hub: Hub, peers: Peers) -> None:
    """Invariant 9: it is called between a look and its use, and changes what was looked at."""
    topic = hub.topic("news", retain=Retain(max_messages=2))
    peer, other = peers.open(), peers.open()
    left = 8

    def encode(publication: Publication) -> str:
        nonlocal left
        if left:
            left -= 1
            publish(topic, 1)
        return str(publication.message)

    topic.subscribe(peer.connection, encode=encode)
    topic.subscribe(other.connection)
    publish(topic, 1)
    await settle()
    assert received(peer) == received(other) == list(range(1, 10))
    assert peer.connection.close_code is None


@pytest.mark.parametrize("what", ["subscription", "connection", "another"])
@pytest.mark.parametrize("slow", ["skip", "latest"])
async def test_encoding_may_end_who_it_is_called_for(
    hub: Hub, peers: Peers, what: str, slow: Slow
) -> None:
    """Invariant 9, as above: nothing is written behind the end."""
    topic = hub.topic("news", slow=slow)
    crowd = [peers.open("kernel") for _ in range(3)]

    def encode(publication: Publication) -> str:
        match what:
            case "subscription":
                subscriptions[0].close()
            case "connection":
                crowd[0].link.close()
            case "another":
                subscriptions[1].close()
        return str(publication.message)

    subscriptions = [topic.subscribe(peer.connection, encode=encode) for peer in crowd]
    publish(topic, 1)
    await settle()
    got = [received(peer) for peer in crowd]
    assert got == ([[1], [], [1]] if what == "another" else [[], [1], [1]])
    assert topic.subscribers == 2


# While the pump is in the middle of a pass, others run.


async def test_pass_does_not_write_to_who_left_in_its_middle(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    crowd = Crowd(peers, topic)
    leaving = [peers.open("kernel") for _ in range(40)]
    subscriptions = [topic.subscribe(peer.connection) for peer in leaving]
    staying = peers.open("kernel")
    topic.subscribe(staying.connection)
    publish(topic, 1)
    await crowd.wait_half_delivered(1)
    for subscription in subscriptions:
        subscription.close()
    await settle()
    assert all(not peer.queue.offers for peer in leaving)
    assert received(staying, topic) == [1]


@pytest.mark.parametrize("slow", ["evict", "skip"])
async def test_pass_does_not_trim_what_one_needs_who_joined_in_its_middle(
    hub: Hub, peers: Peers, slow: Slow
) -> None:
    """Invariant 4: whoever loses something is judged before, and told."""
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0), slow=slow)
    busy = peers.open(reading=False)
    await busy.clog()
    crowd = Crowd(peers, topic)
    publish(topic, 5)
    await crowd.wait_half_delivered(5)
    subscription = topic.subscribe(busy.connection, history=5)
    assert subscription.cursor == 0
    publish(topic, 3)
    await settle()
    busy.resume()
    await settle()
    if slow == "evict":
        assert received(busy, topic) == []
        assert busy.close == (1013, "slow consumer")
    else:
        assert received(busy, topic) == [4, 5, 6, 7, 8]
        assert subscription.skipped == 3
    assert all(other.cursor == 8 for other in crowd.subscriptions)


async def test_pass_goes_on_when_its_topic_began_a_new_life_in_its_middle(peers: Peers) -> None:
    async with open_hub(max_topics=1) as hub:
        topic = hub.topic("news", retain=Retain(max_messages=3))
        crowd = Crowd(peers, topic)
        publish(topic, 6)
        await crowd.wait_half_delivered(6)
        for subscription in crowd.subscriptions:
            subscription.close()
        # Nobody needs it, so another may have its place, and then the other way round.
        with hub.topic("other").publications():
            pass
        assert topic.retained == 0
        peer = peers.open()
        topic.subscribe(peer.connection)
        publish(topic, 5)
        await settle()
        assert received(peer, topic) == [7, 8, 9, 10, 11]
        assert topic.retained == 3
        assert hub.statistics().retained_bytes == topic.size


async def test_life_that_begins_in_the_middle_of_a_pass_gets_its_own_pass(peers: Peers) -> None:
    """Invariant 4: where an encoding ends a topic's life and begins another, what is published in
    that one is not taken for delivered."""
    async with open_hub(max_topics=1, linger=0) as hub:
        topic = hub.topic("news")
        before, after = peers.open(), peers.open()

        def encode(publication: Publication) -> str:
            if publication.offset == 3 and topic.subscribers:
                first.close()
                hub.topic("another").publish("x")
                topic.subscribe(after.connection)
                publish(topic, 1)
            return str(publication.message)

        first = topic.subscribe(before.connection, encode=encode)
        publish(topic, 3)
        await settle()
        assert hub.statistics().forgotten == 2
        assert received(after) == [1]


async def test_latest_gets_only_the_newest_of_what_came_in_the_middle_of_a_pass(
    hub: Hub, peers: Peers
) -> None:
    topic = hub.topic("price")
    crowd = Crowd(peers, topic)
    peer = peers.open("kernel")
    topic.subscribe(peer.connection, slow="latest")
    publish(topic, 1)
    await crowd.wait_half_delivered(1)
    publish(topic, 3)
    await settle()
    assert received(peer, topic) == [4]


async def test_burst_in_the_middle_of_a_pass_is_for_the_next_one(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0), slow="skip")
    busy, quick = peers.open(reading=False), peers.open("kernel", max_bytes=2**20)
    await busy.clog()
    stuck = topic.subscribe(busy.connection)
    crowd = Crowd(peers, topic)
    topic.subscribe(quick.connection)
    publish(topic, 3)
    await crowd.wait_half_delivered(3)
    publish(topic, 30)
    await settle()
    assert received(quick, topic) == list(range(1, 34))
    assert (stuck.skipped, stuck.lag) == (28, 5)
    busy.resume()
    await settle()
    assert received(busy, topic) == [29, 30, 31, 32, 33]


# Letting others run.


async def most_between_two_checkpoints(count: Callable[[], int], end: int) -> int:
    """How much *count* grows at most while others do not run, on its way to *end*.

    That can be twice what the pump does in one go: within a round of the scheduler, tasks run
    in any order.
    """
    most, last = 0, count()
    while last < end:
        await trio.lowlevel.checkpoint()
        now = count()
        most, last = max(most, now - last), now
    return most


async def test_pump_lets_others_run_after_about_a_millisecond_of_writes(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 12: a write costs about 4 µs."""
    topic = hub.topic("news")
    crowds = [Crowd(peers, topic) for _ in range(3)]
    subscriptions = [one for crowd in crowds for one in crowd.subscriptions]
    publish(topic, 1)
    most = await most_between_two_checkpoints(
        lambda: sum(one.cursor for one in subscriptions), len(subscriptions)
    )
    assert 16 <= most <= 2 * 256 + 32


async def test_pump_lets_others_run_more_often_when_writes_are_large(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 12: a write of 64 KiB costs as much as 16 small ones."""
    topic = hub.topic("news")
    crowd = [peers.open() for _ in range(100)]
    subscriptions = [topic.subscribe(peer.connection) for peer in crowd]
    publish(topic, 1, BLOCK_BYTES - 10)
    most = await most_between_two_checkpoints(
        lambda: sum(one.cursor for one in subscriptions), len(subscriptions)
    )
    assert most <= 32


async def test_pump_lets_others_run_more_often_when_it_leaves_out_what_is_skipped(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 12: what is put together for one subscriber costs by the publication."""
    topic = hub.topic("chat")
    crowd = Crowd(peers, topic)
    for _ in range(500):
        topic.publish("mine", skip=crowd.peer.connection)
    most = await most_between_two_checkpoints(
        lambda: sum(one.cursor for one in crowd.subscriptions) // 500, MANY
    )
    assert most <= 64


async def test_pump_lets_others_run_while_it_evicts(hub: Hub, peers: Peers) -> None:
    """Invariant 12: a net that breaks makes very many slow at the same time."""
    topic = hub.topic("news", retain=Retain(max_messages=1, patience=0))
    crowd = [peers.open(reading=False, max_bytes=16) for _ in range(150)]
    for peer in crowd:
        peer.connection.send_nowait(bytes(100_000))
        topic.subscribe(peer.connection)
    await settle()
    publish(topic, 2)
    assert await most_between_two_checkpoints(lambda: hub._evicted, len(crowd)) <= 72


async def test_pump_lets_others_run_while_it_ends_those_whose_encoding_fails(
    hub: Hub, peers: Peers
) -> None:
    """Invariant 12, as above."""
    topic = hub.topic("news")

    def encode(publication: Publication) -> str:
        raise KeyError("no")

    crowd = [peers.open() for _ in range(150)]
    for peer in crowd:
        topic.subscribe(peer.connection, encode=encode)
    publish(topic, 1)
    most = await most_between_two_checkpoints(lambda: len(crowd) - topic.subscribers, len(crowd))
    assert most <= 72


# Turns.


async def test_pump_lets_others_run_while_it_sets_aside(hub: Hub, peers: Peers) -> None:
    """Invariant 12: however many links are busy, and nothing is written at all."""
    topic = hub.topic("news")
    peer = peers.open(reading=False)
    await peer.clog()
    subscriptions = [topic.subscribe(peer.connection) for _ in range(4000)]
    publish(topic, 1)
    members = subscriptions[0]._members
    assert await most_between_two_checkpoints(lambda: 4000 - len(members.ready), 4000) <= 1500


async def test_pump_lets_others_run_while_it_encodes(hub: Hub, peers: Peers) -> None:
    """Invariant 12: a block of small publications has very many to be encoded."""
    topic = hub.topic("news")
    calls = 0

    def encode(publication: Publication) -> str:
        nonlocal calls
        calls += 1
        return str(publication.message)

    crowd = [peers.open("kernel", max_bytes=2**20) for _ in range(2)]
    for peer in crowd:
        topic.subscribe(peer.connection, encode=encode)
    publish(topic, 3000)
    assert await most_between_two_checkpoints(lambda: calls, 3000) <= 1500
    await hub.wait_caught_up()
    await settle()
    assert calls == 3000
    for peer in crowd:
        assert received(peer) == list(range(1, 3001))
    # What others have had encoded is written as one.
    assert len(crowd[0].queue.offers) == len(crowd[1].queue.offers) <= 20


async def test_pump_lets_others_run_while_one_link_takes_everything(
    hub: Hub, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=10**4, max_bytes=2**25))
    peer = peers.open("kernel")
    written = 0

    def offer(self: object, data: bytes) -> int:
        nonlocal written
        written += len(data)
        return len(data)

    monkeypatch.setattr(type(peer.queue), "offer", offer)
    topic.subscribe(peer.connection)
    publish(topic, 1000, 16_000)
    assert await most_between_two_checkpoints(lambda: written, 16 * 10**6) <= 2**21


async def test_pass_costs_something_for_each_encoding(hub: Hub, peers: Peers) -> None:
    """Invariant 12: to ask who of its subscribers lags takes its time, even if nobody does."""
    topic = hub.topic("news")
    connection = peers.open("kernel", max_bytes=2**20).connection
    for _ in range(300):
        topic.subscribe(connection, encode=lambda publication: publication.message)
    assert sum(make_pass(topic)) >= 3 * 300


async def test_pass_costs_nothing_for_those_who_do_not_read(hub: Hub, peers: Peers) -> None:
    """Invariant 3: however many they are, and wherever they stand."""
    topic = hub.topic("news", slow="skip")
    stalled = [peers.open("kernel") for _ in range(20)]
    for peer in stalled:
        topic.subscribe(peer.connection)
        publish(topic, 1)
        await peer.clog()
    publish(topic, 1)
    await settle()
    publish(topic, 1)
    # To find out who of them stands furthest back costs little.
    assert sum(make_pass(topic)) < _COST_OF_PASS + len(stalled)
    assert topic.subscribers == 20
    # And none of them is forgotten.
    for peer in stalled:
        peer.resume()
    await settle()
    for number, peer in enumerate(stalled, start=1):
        assert received(peer, topic) == list(range(number, 23))


@TRANSPORTS
async def test_busy_topic_starves_no_other(hub: Hub, peers: Peers, transport: Transport) -> None:
    """A topic that has news whenever the link is free does not take it each time."""
    busy, calm = hub.topic("busy"), hub.topic("calm")
    peer = peers.open(transport)
    busy.subscribe(peer.connection)
    calm.subscribe(peer.connection)
    for round_ in range(100):
        publish(busy, 1, 9000)
        if round_ == 20:
            publish(calm, 1)
        await trio.lowlevel.checkpoint()
        if received(peer, calm):
            break
    assert received(peer, calm) and not received(peer, busy)[40:]


async def test_link_that_has_drained_is_not_judged_before_its_turn(hub: Hub, peers: Peers) -> None:
    """Whoever waits for the pump is not called slow."""
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0))
    peer = peers.open("kernel", reading=False)
    await peer.clog()
    topic.subscribe(peer.connection)
    publish(topic, 3)
    await settle()
    # So many that what it needs has to go, before the pump knows of the link.
    more = [8]
    peer.link.queue.set_hooks(
        "test", closed=lambda: None, drained=lambda: publish(topic, more.pop() if more else 0)
    )
    peer.resume()
    await settle()
    assert received(peer, topic) == list(range(1, 12))
    assert hub.statistics().evicted == 0


async def test_link_that_drains_in_the_middle_of_a_pass_takes_its_turns_first(
    hub: Hub, peers: Peers
) -> None:
    calm, busy = hub.topic("calm"), hub.topic("busy")
    crowds = [Crowd(peers, busy) for _ in range(6)]
    peer = peers.open("kernel", reading=False)
    await peer.clog()
    calm.subscribe(peer.connection)
    busy.subscribe(peer.connection)
    publish(calm, 1)
    await settle()
    publish(busy, 1)
    await crowds[0].wait_half_delivered(1)
    peer.resume()
    while peer.link.queue.buffered_amount:
        await trio.lowlevel.checkpoint()
    # The pass has not come to it yet.
    assert crowds[-1].subscriptions[-1].cursor == 0
    await settle()
    texts = [message for message in peer.messages if isinstance(message, str)]
    assert texts == ["1:calm:", "1:busy:"]


@TRANSPORTS
async def test_topics_of_one_link_take_turns(hub: Hub, peers: Peers, transport: Transport) -> None:
    topics = [hub.topic(name) for name in ("a", "b", "c")]
    peer = peers.open(transport, reading=False)
    await peer.clog()
    for topic in topics:
        topic.subscribe(peer.connection)
        publish(topic, 35, 9000)  # seven to a block
    await settle()
    peer.resume()
    await settle()
    order = [message.split(":")[1] for message in peer.messages if isinstance(message, str)]
    for topic in topics:
        assert received(peer, topic) == list(range(1, 36))
    # Never more than a block of one topic while the others have something, too.
    for start in range(70):
        assert len({*order[start : start + 8]}) > 1


# Everything at once, against a model.

ACTIONS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 1), st.integers(1, 30)),
    st.tuples(st.just("large"), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("stall"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("resume"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("subscribe"), st.integers(0, 3), st.integers(0, 40)),
    st.tuples(st.just("leave"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("run"), st.just(0), st.integers(1, 4)),
    st.tuples(st.just("settle"), st.just(0), st.just(0)),
)


class Follower:
    """A subscription, and what the model knows of it."""

    def __init__(self, peer: Peer, topic: Topic, slow: Slow, history: int) -> None:
        self.peer = peer
        self.topic = topic
        self.slow = slow
        floor = topic._log.floor(trio.current_time())
        self.start = max(floor - 1, topic.head - history)
        self.subscription = topic.subscribe(peer.connection, history=history)

    def check(self) -> None:
        """Look at it when all is over."""
        got = received(self.peer, self.topic)
        cursor, skipped = self.subscription.cursor, self.subscription.skipped
        # Invariant 9: in order, at most once.
        assert got == sorted(set(got))
        assert all(self.start < offset <= cursor for offset in got)
        # Invariant 4: what is missing up to the cursor is exactly what was counted.
        assert cursor - self.start - len(got) == skipped
        if self.slow == "evict":
            assert skipped == 0
        if self.subscription._place is not GONE:
            # The newest has arrived, whatever had to be skipped before it.
            assert cursor == self.topic.head
            assert got[-1:] == [cursor] or cursor == self.start


@TRANSPORTS
@pytest.mark.parametrize("slow", ["evict", "skip", "latest"])
@settings(max_examples=25, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=5, max_size=40), patience=st.sampled_from([0, 1]))
async def test_every_subscriber_sees_what_the_model_says(
    transport: Transport, slow: Slow, actions: list[tuple[str, int, int]], patience: float
) -> None:
    """Invariants 4 and 9, whatever is published, stalled, resumed, joined and left."""
    async with open_hub() as hub, open_peers() as peers:
        topics = [
            hub.topic("a", retain=Retain(max_messages=10, patience=patience), slow=slow),
            hub.topic("b", retain=Retain(max_bytes=20_000, patience=patience), slow=slow),
        ]
        crowd = [peers.open(transport) for _ in range(4)]
        # A peer follows each topic at most once, so its messages tell whose they are.
        followers: dict[tuple[Peer, Topic], Follower] = {}

        def subscribe(peer: Peer, topic: Topic, history: int) -> None:
            if (peer, topic) not in followers and peer.connection.close_code is None:
                followers[peer, topic] = Follower(peer, topic, slow, history)

        for peer in crowd[:2]:
            for topic in topics:
                subscribe(peer, topic, 0)
        for action, number, amount in actions:
            match action:
                case "publish":
                    publish(topics[number], amount, 50)
                case "large":
                    publish(topics[number], amount, 7000)
                case "stall":
                    crowd[number].stall()
                case "resume":
                    crowd[number].resume()
                case "subscribe":
                    subscribe(crowd[number], topics[amount % 2], amount)
                case "leave":
                    for (peer, _), follower in followers.items():
                        if peer is crowd[number]:
                            follower.subscription.close()
                case "run":
                    for _ in range(amount):
                        await trio.lowlevel.checkpoint()
                case "settle":
                    await settle()
            for follower in followers.values():
                follower.subscription._check()
        for peer in crowd:
            peer.resume()
        await hub.wait_caught_up()
        await settle()
        for follower in followers.values():
            follower.check()
        evicted = [peer for peer in crowd if peer.connection.close_code is not None]
        assert all(peer.close == (1013, "slow consumer") for peer in evicted)
        assert not evicted or slow == "evict"
        statistics = hub.statistics()
        assert statistics.evicted == len(evicted)
        assert statistics.skipped == sum(
            follower.subscription.skipped for follower in followers.values()
        )
        assert statistics.published == sum(topic.head for topic in topics)
        assert statistics.retained_bytes == sum(topic.size for topic in topics)
        assert statistics.subscribers == sum(topic.subscribers for topic in topics)
