"""The hub: making and forgetting topics, its bounds, its numbers, its end."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio

from tests.topics.support import Peers, publish, settle
from trioweb import Connection, Hub, HubFull, HubStatistics, Retain, State, Topic, open_hub
from trioweb._topics._log import OVERHEAD_BYTES


def alive(hub: Hub) -> int:
    return hub.statistics().topics


# Making topics.


async def test_topic_of_one_name_is_one_object(hub: Hub) -> None:
    topic = hub.topic("news")
    assert hub.topic("news") is topic
    assert hub.topic("other") is not topic
    topic.publish("a")
    assert hub.topic("news") is topic


async def test_topic_is_kept_by_its_log_alone(hub: Hub) -> None:
    hub.topic("news").publish("a")
    gc.collect()
    assert hub.topic("news").head == 1


async def test_topic_that_nobody_uses_or_holds_is_gone(hub: Hub) -> None:
    """Invariant 8: asking for names costs nothing that stays."""
    gone = weakref.ref(hub.topic("news"))
    gc.collect()
    assert gone() is None
    assert alive(hub) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 1}, TypeError),
        ({"name": b"news"}, TypeError),
        ({"name": "news", "retain": 5}, TypeError),
        ({"name": "news", "slow": "never"}, ValueError),
        ({"name": "news", "slow": ""}, ValueError),
    ],
)
async def test_topic_is_refused_when_an_argument_cannot_be(
    hub: Hub, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        hub.topic(**arguments)  # type: ignore[arg-type]
    # Nothing of it stays.
    assert hub.topic("news").retain == Retain()


@pytest.mark.parametrize("used", [False, True])
async def test_settings_bind_when_a_topic_is_made(hub: Hub, used: bool) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5), slow="skip")
    if used:
        topic.publish("a")
    assert hub.topic("news") is topic
    assert hub.topic("news", slow="skip") is topic
    assert hub.topic("news", retain=Retain(max_messages=5)) is topic
    with pytest.raises(ValueError, match="max_messages=5"):
        hub.topic("news", retain=Retain(max_messages=6))
    with pytest.raises(ValueError, match="slow='skip'"):
        hub.topic("news", slow="evict")
    assert (topic.retain, topic.slow) == (Retain(max_messages=5), "skip")


async def test_settings_may_be_others_when_the_topic_was_forgotten(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=5), slow="skip")
    topic.subscribe(peers.open().connection).close()
    # Who holds it and gives none keeps those that it was made with.
    assert hub.topic("news") is topic
    assert (topic.retain, topic.slow) == (Retain(max_messages=5), "skip")
    topic.subscribe(peers.open().connection).close()
    assert hub.topic("news", retain=Retain(max_messages=1), slow="latest") is topic
    assert (topic.retain, topic.slow) == (Retain(max_messages=1), "latest")
    # They bind again.
    with pytest.raises(ValueError, match="latest"):
        hub.topic("news", slow="skip")
    for message in "ab":
        topic.publish(message)
    await settle()
    assert topic.retained == 1


# Forgetting them.


async def test_topic_goes_without_subscribers_and_log_but_for_its_position(
    hub: Hub, peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 15: whoever missed nothing is told so, though nothing is kept."""
    topic = hub.topic("news", retain=Retain(max_age=60))
    connection = peers.open().connection
    with topic.subscribe(connection), topic.subscribe(connection):
        topic.publish("a")
        await trio.sleep(100)
        position = (topic.epoch, topic.head)
        assert alive(hub) == 1
    assert alive(hub) == 0
    await trio.sleep(299)
    with topic.subscribe(connection, since=position) as subscription:
        assert subscription.recovered and topic.publish("b") == 2
        await trio.sleep(100)
    # Its time begins again.
    await trio.sleep(299)
    assert topic.subscribe(connection, since=(position[0], 2)).recovered
    assert not topic.subscribe(connection, since=position).recovered


async def test_position_is_remembered_for_linger_seconds(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    connection = peers.open().connection
    async with open_hub(linger=10) as hub:
        for seconds, is_known in ((9.9, True), (10.1, False)):
            with hub.topic("news").subscribe(connection) as subscription:
                position = (subscription.topic.epoch, subscription.topic.head)
            del subscription
            await trio.sleep(seconds)
            with hub.topic("news").subscribe(connection, since=position) as subscription:
                assert subscription.recovered == is_known
            del subscription


async def test_positions_are_remembered_in_a_bounded_table(peers: Peers) -> None:
    """Invariant 8: very many names fill nothing."""
    connection = peers.open().connection
    async with open_hub(max_topics=10) as hub:
        for number in range(100):
            hub.topic(f"{number}").subscribe(connection).close()
            assert alive(hub) == 0 and len(hub._retention._positions) <= 20
        assert list(hub._retention._positions) == [f"{number}" for number in range(80, 100)]


async def test_positions_with_long_names_take_no_more_than_their_part(peers: Peers) -> None:
    """Invariant 17: peers may choose the names of topics."""
    async with open_hub(max_bytes=2**20) as hub:
        for number in range(200):
            with hub.topic(f"{number}".ljust(10_000)).publications():
                pass
        positions = hub._retention._positions
        assert 10 <= len(positions) <= 13
        last = hub.topic(next(reversed(positions)))
        assert hub._retention.position(last.name) == (last.epoch, 0)
        for name in tuple(positions):
            hub.topic(name).publish("x")
        assert hub._retention._positions_size == 0


async def test_topic_with_a_log_is_not_forgotten(hub: Hub, peers: Peers) -> None:
    topic = hub.topic("news")
    epoch = topic.epoch
    with topic.subscribe(peers.open().connection):
        topic.publish("a")
        await settle()
    assert (alive(hub), topic.epoch) == (1, epoch)


@pytest.mark.parametrize("linger", [0, 300])
async def test_topic_that_is_held_goes_on_or_begins_anew_when_it_is_used_again(
    peers: Peers, linger: float
) -> None:
    async with open_hub(max_topics=1, linger=linger) as hub:
        topic = hub.topic("news")
        assert [topic.publish("old") for _ in range(3)] == [1, 2, 3]
        old = (topic.epoch, topic.head)
        hub.topic("other").publish("a")
        assert topic.retained == 0
        hub.topic("news")
        # Its publications are gone, its position is not, unless there was too much since.
        assert topic.publish("new") == (1 if linger == 0 else 4)
        assert alive(hub) == 1 and hub.topic("news") is topic
        assert (topic.epoch == old[0]) == (linger > 0)
        peer = peers.open()
        subscription = topic.subscribe(peer.connection, since=old)
        await settle()
        assert subscription.recovered == (linger > 0)
        assert peer.messages == ["new"]


# Bounds.


async def test_hub_forgets_the_longest_idle_topic_beyond_max_topics(peers: Peers) -> None:
    """Invariant 8: a thousand names a second fill nothing."""
    async with open_hub(max_topics=3) as hub:
        busy, a, b = (hub.topic(name) for name in ("busy", "a", "b"))
        connection = peers.open().connection
        subscription = busy.subscribe(connection)
        for topic in (busy, a, b, a):  # so b is idle longest, and busy is not idle
            topic.publish("x")
        c = hub.topic("c")
        assert [topic.retained for topic in (busy, a, b)] == [1, 2, 0]
        c.publish("x")
        # Idle since the last subscriber left, which is later than the others.
        subscription.close()
        for name in ("d", "e"):
            hub.topic(name).publish("x")
        assert [topic.retained for topic in (busy, a, c)] == [1, 0, 0]
        assert hub.statistics().forgotten == 3
        for number in range(100):
            hub.topic(str(number)).publish("x")
            assert alive(hub) <= 3


async def test_hub_is_full_when_no_topic_can_go(peers: Peers) -> None:
    async with open_hub(max_topics=2) as hub:
        held = hub.topic("held")
        connection = peers.open().connection
        first = hub.topic("first").subscribe(connection)
        with hub.topic("second").publications():
            with pytest.raises(HubFull, match="2 topics"):
                hub.topic("third")
            # Those that there are can still be had and used.
            hub.topic("first").publish("a")
            for use in (
                lambda: held.publish("a"),
                lambda: held.subscribe(connection),
                lambda: held.publications().__enter__(),
            ):
                with pytest.raises(HubFull):
                    use()
            assert held.head == held.subscribers == 0
            first.close()
            assert held.publish("a") == 1


def filler(size: int) -> bytes:
    """A message whose publication takes so many bytes."""
    return bytes(size - OVERHEAD_BYTES - (2 if size - OVERHEAD_BYTES < 128 else 4))


async def test_hub_forgets_idle_topics_beyond_max_bytes(peers: Peers) -> None:
    """Invariant 8: the logs of all topics together are bounded."""
    async with open_hub(max_bytes=3000) as hub:
        busy, a, b = (hub.topic(name) for name in ("busy", "a", "b"))
        busy.subscribe(peers.open().connection)
        for topic in (a, b, busy):
            topic.publish(filler(900))
        assert alive(hub) == 3 and hub.statistics().retained_bytes == 2700
        busy.publish(filler(400))
        assert [topic.retained for topic in (busy, a, b)] == [2, 0, 1]
        # What has just been published to does not go.
        b.publish(filler(800))
        assert [topic.retained for topic in (busy, a, b)] == [2, 0, 2]
        assert hub.statistics().forgotten == 1


async def test_hub_trims_the_largest_logs_when_all_topics_are_used(peers: Peers) -> None:
    """Invariant 17: a topic in use is in the bound, too; its slow consumers are told."""
    async with open_hub(max_bytes=100_000) as hub:
        peer, stalled = peers.open(), peers.open(reading=False)
        await stalled.clog()
        large, small = hub.topic("large"), hub.topic("small", slow="skip")
        for topic in (large, small):
            topic.subscribe(peer.connection)
        slow = small.subscribe(stalled.connection)
        publish(small, 20)
        for _ in range(300):
            large.publish(filler(1000))
            await settle()
            assert hub.statistics().retained_bytes <= 100_000
        assert small.retained == 20 and large.retained > 80
        for _ in range(90):
            small.publish(filler(1000))
            await settle()
        # Both have about the same now, and who lags has lost something: that does not wait.
        assert 30_000 < large.size < 70_000 and small.retained < 110
        assert slow.skipped == 110 - small.retained
        assert len(peer.messages) == 20 + 300 + 90


async def test_hub_is_full_when_the_newest_publications_fill_it(peers: Peers) -> None:
    """Invariant 4: nothing is published then, and nothing changes."""
    async with open_hub(max_bytes=4000) as hub:
        topics = [hub.topic(f"{number}") for number in range(4)]
        peer = peers.open("kernel", max_bytes=2**16)
        for topic in topics:
            topic.subscribe(peer.connection)
            topic.publish(filler(900))
        before = hub.statistics()
        with pytest.raises(HubFull, match="4000 bytes"):
            hub.topic("new").publish(filler(900))
        with pytest.raises(HubFull, match="4000 bytes"):
            topics[0].publish(filler(1400))
        assert hub.statistics() == before
        # It may take the place of the one before.
        await settle()
        assert topics[0].publish(filler(1200)) == 2
        assert topics[0].retained == 1
        await settle()
        assert len(peer.messages) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("max_topics", "max_bytes")
            for value in (0, -1, 1.5, None, True)
        ),
        *(("linger", value) for value in (-1, "1", None, True)),
    ],
)
async def test_open_hub_refuses_bounds_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        async with open_hub(**{name: value}):  # type: ignore[arg-type]
            pass


# Age.


async def test_expiry_remembers_no_more_topics_than_there_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 8: what the hub knows of topics that went to make room goes, too."""
    async with open_hub(max_topics=10) as hub:
        for number in range(200):
            hub.topic(f"{number}", retain=Retain(max_age=1000)).publish("x")
            await settle()
        assert alive(hub) == 10
        assert len(hub._pump._agenda) <= 52
        assert len(hub._pump._expected) == 10
        await trio.sleep(1001)
        assert alive(hub) == 0 and not hub._pump._expected


@pytest.mark.parametrize("lives", [2, 50])
async def test_age_counts_from_a_topics_own_life(
    lives: int, autojump_clock: trio.testing.MockClock
) -> None:
    """What an earlier life was to be looked at for, later than this one, is not waited for."""
    async with open_hub(max_topics=1) as hub:
        for life in range(lives, 0, -1):
            hub.topic("other").publish("x")
            topic = hub.topic("news", retain=Retain(max_age=60 * life))
            topic.publish("x")
            await settle()
        assert len(hub._pump._expected) <= 1
        await trio.sleep(59)
        topic.publish("y")
        await trio.sleep(1.1)
        assert topic.retained == 1
        await trio.sleep(59)
        assert alive(hub) == 0
        await trio.sleep(60 * lives)
        assert not hub._pump._expected


async def test_age_is_looked_after_while_the_pump_has_no_rest(
    hub: Hub, peers: Peers, mock_clock: trio.testing.MockClock
) -> None:
    old, busy = hub.topic("old", retain=Retain(max_age=60)), hub.topic("busy")
    connection = peers.open("kernel", max_bytes=2**20).connection
    for _ in range(700):
        busy.subscribe(connection)
    old.publish("x")
    await settle()
    mock_clock.jump(61)
    for _ in range(50):
        busy.publish("x")
        await trio.lowlevel.checkpoint()
    assert old.retained == 0


# Catching up.


class Waiter:
    """Waits until a hub has caught up."""

    def __init__(self) -> None:
        self.done = trio.Event()

    async def run(self, hub: Hub) -> None:
        await hub.wait_caught_up()
        self.done.set()


async def test_wait_caught_up_waits_for_what_is_queued(
    hub: Hub, peers: Peers, nursery: trio.Nursery
) -> None:
    topic = hub.topic("news")
    peer = peers.open(reading=False)
    await peer.clog()
    topic.subscribe(peer.connection)
    topic.publish("a")
    waiter = Waiter()
    nursery.start_soon(waiter.run, hub)
    await settle()
    assert not waiter.done.is_set()
    peer.resume()
    await settle()
    assert waiter.done.is_set() and peer.messages[-1] == "a"


async def test_wait_caught_up_is_a_checkpoint_when_there_is_nothing_to_wait_for(
    hub: Hub,
) -> None:
    with trio.testing.assert_checkpoints():
        await hub.wait_caught_up()


@pytest.mark.parametrize("end", ["leave", "close", "lose", "evict"])
async def test_wait_caught_up_ends_when_who_lags_does(
    hub: Hub, peers: Peers, nursery: trio.Nursery, end: str
) -> None:
    topic = hub.topic("news", retain=Retain(max_messages=3, patience=0))
    peer = peers.open(reading=False)
    await peer.clog()
    subscription = topic.subscribe(peer.connection)
    topic.publish("a")
    waiter = Waiter()
    nursery.start_soon(waiter.run, hub)
    await settle()
    assert not waiter.done.is_set()
    match end:
        case "leave":
            subscription.close()
        case "close":
            peer.link.close()
        case "lose":
            await peer.stream.aclose()
        case "evict":
            for _ in range(3):
                topic.publish("b")
    await settle()
    assert waiter.done.is_set()


async def test_wait_caught_up_ends_with_the_hub(peers: Peers, nursery: trio.Nursery) -> None:
    waiter = Waiter()
    connection = peers.open("kernel", max_bytes=2**20).connection
    async with open_hub() as hub:
        topic = hub.topic("news")
        first, *_, last = [topic.subscribe(connection) for _ in range(700)]
        topic.publish("a")
        nursery.start_soon(waiter.run, hub)
        while not first.cursor:
            await trio.lowlevel.checkpoint()
        # The pump is in the middle of a pass, and has more to do behind it.
        assert not last.cursor
        topic.publish("b")
    await settle()
    assert waiter.done.is_set()


async def test_wait_caught_up_ends_when_the_hub_is_cancelled(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """Also in clean-up that is shielded; and who says good-bye there gets no error for it."""
    connection = peers.open().connection
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            topic = hub.topic("news")
            topic.subscribe(connection)
            await settle()
            scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()
            topic.publish("good-bye")
            with trio.fail_after(10, shield=True):
                await hub.wait_caught_up()
    assert hub.closed


# Numbers.


async def test_statistics_add_up(hub: Hub, peers: Peers) -> None:
    """Invariant 4: what was dropped is counted where somebody looks."""
    assert hub.statistics() == HubStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0)
    news = hub.topic("news", retain=Retain(max_messages=3, patience=0))
    chat = hub.topic("chat")
    slow = [peers.open(reading=False) for _ in range(3)]
    for peer in slow:
        await peer.clog()
    news.subscribe(slow[0].connection)
    news.subscribe(slow[1].connection, slow="skip")
    news.subscribe(slow[2].connection, slow="latest")
    chat.subscribe(slow[2].connection)
    for _ in range(5):
        news.publish("x" * 98)
    chat.publish("x" * 48)
    await settle()
    assert hub.statistics() == HubStatistics(
        topics=2,
        subscribers=3,
        retained_messages=4,
        retained_bytes=3 * 100 + 50 + 4 * OVERHEAD_BYTES,
        published=6,
        deliveries=0,
        evicted=1,
        skipped=2,
        forgotten=0,
    )


# The end.


async def test_hub_that_is_closed_is_of_no_more_use(peers: Peers) -> None:
    peer = peers.open()
    async with open_hub() as hub:
        topic = hub.topic("news")
        subscription = topic.subscribe(peer.connection)
        publications = topic.publications()
        topic.publish("written before the end, or not at all")
    for use in (
        lambda: hub.topic("news"),
        lambda: hub.topic("other"),
        lambda: topic.publish("a"),
        lambda: topic.subscribe(peer.connection),
        publications.__enter__,
    ):
        with pytest.raises(trio.ClosedResourceError):
            use()
    assert topic.subscribers == 0
    subscription.close()
    # The connection is not the hub's.
    assert peer.connection.state is State.OPEN
    await peer.connection.send("still here")
    await settle()
    assert peer.messages[-1] == "still here"


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_open_hub_lets_an_error_of_its_block_out_unchanged(
    error: BaseException, cancelled: bool
) -> None:
    """Invariant 7: no group around what is one cause; and no cancellation in its place."""
    with pytest.raises(type(error)) as caught, trio.CancelScope() as scope:
        async with open_hub() as hub:
            if cancelled:
                scope.cancel()
            raise error
    assert caught.value is error and hub.closed


async def test_open_hub_can_be_cancelled(peers: Peers) -> None:
    """Invariant 10: the pump ends with the block."""
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            hub.topic("news").subscribe(peers.open().connection)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_two_hubs_may_have_the_same_connection(hub: Hub, peers: Peers) -> None:
    def follow(hub: Hub, connection: Connection) -> Topic:
        topic = hub.topic("news")
        topic.subscribe(connection)
        return topic

    async with open_hub() as other:
        peer = peers.open(reading=False)
        await peer.clog()
        topics = [follow(one, peer.connection) for one in (hub, other)]
        for topic in topics:
            topic.publish("a")
        await settle()
        peer.resume()
        await settle()
        assert peer.messages[-2:] == ["a", "a"]
        peer.link.close()
        assert [topic.subscribers for topic in topics] == [0, 0]
