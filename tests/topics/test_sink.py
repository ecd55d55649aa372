"""Topics delivered to what is no WebSocket: lines of text over a wire, with nothing of a link."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import pytest
import trio

from tests.topics.support import Peers, publish, settle
from trioweb import CloseCode, ConnectionLost, Hub, Publication, Retain
from trioweb._link import SendQueue
from trioweb._policy import Message
from trioweb._wire._choice import wire_to
from trioweb.testing import stream_pair


@dataclass(frozen=True)
class Lines:
    """A line for each publication, with its place."""

    epoch: str

    def encode(self, publication: Publication, message: Message) -> bytes:
        if message == "fail":
            raise ZeroDivisionError("cannot be encoded")
        return f"{self.epoch}:{publication.offset} {message!s}\n".encode()


class Feed:
    """A subscriber that gets lines; it is a sink itself, and owns its queue.

    Attributes:
        far: what it is written to.
        ended: the code and the reason of its end.
    """

    id = "a feed"
    peer = "whoever reads lines"
    remote = ("192.0.2.1", 1)

    def __init__(
        self, nursery: trio.Nursery, kind: str, form: Lines, queue: SendQueue | None = None
    ) -> None:
        self.form = form
        self.far: trio.abc.Stream
        ours: trio.abc.Stream
        if kind == "memory":
            ours, self.far = stream_pair(1000)
        else:
            near, far = trio.socket.socketpair()
            near.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)
            ours, self.far = trio.SocketStream(near), trio.SocketStream(far)
        self.stream = ours
        self.queue = queue or SendQueue(
            wire_to(ours, None, 20), owner=self, spawn=nursery.start_soon, send_bytes=1000
        )
        self.ended: tuple[int, str] | None = None

    @property
    def _sink(self) -> Feed:
        return self

    def check_writable(self) -> None:
        if not self.queue.is_open:
            raise ConnectionLost(CloseCode.ABNORMAL, "over")

    def close(self, code: int, reason: str) -> None:
        if self.ended is None:
            self.ended = (code, reason)
            self.queue.shut()

    def missed(self, cursor: int, skipped: int) -> None:
        pass

    def heard(self) -> None:
        pass

    def on_broken(self) -> None:
        pass

    def on_stalled(self) -> None:
        pass

    async def lines(self, count: int) -> list[str]:
        """So many lines as they are read."""
        text = b""
        while text.count(b"\n") < count:
            text += await self.far.receive_some()
        return text.decode().splitlines()


@pytest.fixture(params=["memory", "kernel"])
async def open_feed(
    request: pytest.FixtureRequest, nursery: trio.Nursery
) -> AsyncGenerator[Callable[..., Feed]]:
    feeds: list[Feed] = []

    def make(form: Lines, queue: SendQueue | None = None) -> Feed:
        feeds.append(Feed(nursery, request.param, form, queue))
        return feeds[-1]

    yield make
    for feed in feeds:
        await trio.aclose_forcefully(feed.stream)
        await trio.aclose_forcefully(feed.far)


async def test_topic_is_delivered_whole_and_in_order_to_what_is_no_websocket(
    hub: Hub, peers: Peers, open_feed: Callable[..., Feed]
) -> None:
    topic = hub.topic("news")
    publish(topic, 3)
    feed, peer = open_feed(Lines(topic.epoch)), peers.open()
    with topic.subscribe(feed, history=2) as subscription, topic.subscribe(peer.connection):
        publish(topic, 200, 300)  # more than its wire holds
        topic.publish("not for it", skip="whoever reads lines")
        topic.publish("the last")
        await settle()
        assert subscription.lag > 0
        lines = await feed.lines(203)
        assert [line.split(" ")[0] for line in lines] == [
            f"{topic.epoch}:{offset}" for offset in (*range(2, 204), 205)
        ]
        assert lines[-1].endswith(" the last")
        await hub.wait_caught_up()
        assert subscription.lag == 0
        await settle()
        # And a WebSocket beside it.
        assert len(peer.messages) == 202
        assert peer.messages[-2:] == ["not for it", "the last"]
        subscription._check()
        assert "Feed" in repr(subscription)


async def test_equal_forms_share_what_is_encoded(
    hub: Hub, open_feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = hub.topic("news")
    feeds = [open_feed(Lines(topic.epoch)) for _ in range(5)]
    offers: list[bytes] = []
    offer = SendQueue.offer

    def note(queue: SendQueue, data: bytes) -> int:
        offers.append(data)
        return offer(queue, data)

    monkeypatch.setattr(SendQueue, "offer", note)
    for feed in feeds:
        topic.subscribe(feed)
    topic.publish("once")
    await hub.wait_caught_up()
    assert len(offers) == 5
    assert len({id(data) for data in offers}) == 1


async def test_slow_one_is_evicted_and_its_end_leaves_the_topic(
    hub: Hub, open_feed: Callable[..., Feed]
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5, patience=0))
    feed = open_feed(Lines(topic.epoch))
    subscription = topic.subscribe(feed)
    for _ in range(30):
        publish(topic, 1, 600)
        await settle()
    assert feed.ended == (CloseCode.TRY_AGAIN_LATER, "slow consumer")
    assert subscription._is_gone
    assert topic.subscribers == 0
    assert hub.statistics().evicted == 1
    with pytest.raises(ConnectionLost):
        topic.subscribe(feed)


async def test_form_that_fails_ends_those_who_have_it_and_nobody_else(
    hub: Hub, peers: Peers, open_feed: Callable[..., Feed], caplog: pytest.LogCaptureFixture
) -> None:
    topic = hub.topic("news")
    feed, peer = open_feed(Lines(topic.epoch)), peers.open()
    topic.subscribe(feed)
    topic.subscribe(peer.connection)
    topic.publish("fail")
    await hub.wait_caught_up()
    await settle()
    assert feed.ended == (CloseCode.INTERNAL_ERROR, "encoding failed")
    assert peer.messages == ["fail"]
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_sinks_that_share_a_queue_have_their_turns_at_it(
    hub: Hub, open_feed: Callable[..., Feed]
) -> None:
    """A stream of two topics, each with a form that names its own epoch."""
    one, two = hub.topic("one"), hub.topic("two")
    feed = open_feed(Lines(one.epoch))
    other = open_feed(Lines(two.epoch), feed.queue)
    topics = {one.epoch: one.subscribe(feed), two.epoch: two.subscribe(other)}
    for _ in range(50):
        publish(one, 1, 300)
        publish(two, 1, 300)
    await settle()
    lines = await feed.lines(100)
    for epoch, subscription in topics.items():
        offsets = [line.split(" ")[0].split(":") for line in lines]
        assert [int(offset) for whose, offset in offsets if whose == epoch] == list(range(1, 51))
        assert subscription.lag == 0


@pytest.mark.parametrize("what", [None, "a name", object()])
async def test_what_has_no_sink_cannot_subscribe(hub: Hub, what: object) -> None:
    with pytest.raises(TypeError, match=r"trioweb\.Connection"):
        hub.topic("news").subscribe(what)  # type: ignore[arg-type]
