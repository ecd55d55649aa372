"""A client follows topics over all of its connections: nothing lost, nothing doubled, gaps told."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import Reader, client_of, cut
from tests.topic_server.support import FORMATS, serving, settle
from trioweb import (
    ConnectRequest,
    Gap,
    Joined,
    Left,
    Member,
    Position,
    Refused,
    Retain,
    Subscribed,
    TopicRules,
    Welcome,
)
from trioweb.testing import MemoryBroker


@FORMATS
async def test_publications_are_received_with_all_that_belongs_to_them(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as web:
        async with client_of(web, subprotocols=[format], data={"user": "ann"}) as client:
            async with client.subscription("chat:1") as chat:
                web.server.publish("chat:1", {"a": 1}, tags={"x": "y"})
                await client.publish("chat:1", ["own"])
                first, second = [await anext(chat) for _ in range(2)]
                assert (first.offset, first.data, dict(first.tags)) == (1, {"a": 1}, {"x": "y"})
                assert first.publisher is None
                assert (second.offset, second.data) == (2, ["own"])
                assert second.publisher == trioweb.MemberInfo("ann", client.id, {"name": "ann"})
                topic = web.hub.topic("chat:1")
                assert chat.position == Position(topic.epoch, 2)
            await settle()
            assert not (web.server.presence("chat:1"))


async def test_bytes_come_as_bytes_by_protobuf(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web:
        async with client_of(web, subprotocols=["centrifuge-protobuf"]) as client:
            async with client.subscription("chat:1") as chat:
                await client.publish("chat:1", b"\xff\0")
                assert (await anext(chat)).data == b"\xff\0"


async def test_what_is_missed_without_a_connection_is_recovered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("chat:1") as chat, trio.open_nursery() as nursery:
            reader = Reader(chat)
            nursery.start_soon(reader.run)
            for number in range(30):
                web.server.publish("chat:1", number)
                if number % 7 == 3:
                    await cut(web)
                await trio.sleep(0.05)
            await trio.sleep(5)
            assert reader.data == list(range(30))
            nursery.cancel_scope.cancel()


async def test_what_cannot_be_recovered_is_told_in_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("chat:1") as chat, trio.open_nursery() as nursery:
            reader = Reader(chat)
            nursery.start_soon(reader.run)
            web.server.publish("chat:1", "before")
            await settle()
            web.network.refuse("server", duration=2)
            await cut(web)
            for number in range(11):  # ten are kept
                web.server.publish("chat:1", number)
            await trio.sleep(5)
            web.server.publish("chat:1", "after")
            await settle()
            assert reader.data == ["before", "gap", "after"]
            gap = reader.items[1]
            epoch = web.hub.topic("chat:1").epoch
            assert (gap.topic, gap.since, gap.position) == ("chat:1", (epoch, 1), (epoch, 12))
            assert gap.missing == 11
            nursery.cancel_scope.cancel()


async def test_events_stand_among_the_publications(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web, client_of(web, data={"user": "ann"}) as client:
        async with client.subscription("chat:1", events=True) as chat:
            first = await anext(chat)
            epoch = web.hub.topic("chat:1").epoch
            assert first == Subscribed(recovered=True, position=Position(epoch, 0), data=None)
            async with client_of(web, host="other", data={"user": "bob"}) as other:
                async with other.subscription("chat:1"):
                    joined = await anext(chat)
                    assert isinstance(joined, Joined)
                    assert joined.member.user == "bob"
            left = await anext(chat)
            assert isinstance(left, Left)
            assert left.member == joined.member
            web.server.publish("chat:1", 1)
            published = await anext(chat)
            assert isinstance(published, trioweb.TopicPublication)
            assert published.data == 1
            await cut(web)
            assert await anext(chat) == Subscribed(True, Position(epoch, 1), None)
            web.network.refuse("server", duration=2)
            await cut(web)
            for number in range(11):
                web.server.publish("chat:1", number)
            items = [await anext(chat)]
            while not isinstance(items[-1], Subscribed):
                items.append(await anext(chat))
            *_, gap, subscribed = items
            assert isinstance(gap, Gap)
            assert subscribed == Subscribed(False, Position(epoch, 12), None)


async def test_a_later_program_goes_on_where_an_earlier_one_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web:
        async with client_of(web) as client:
            async with client.subscription("chat:1") as chat:
                for number in range(4):
                    web.server.publish("chat:1", number)
                assert [(await anext(chat)).data for _ in range(2)] == [0, 1]
                known = chat.position
                await settle()
                assert chat.position == known  # what was not read does not count
        async with client_of(web) as client:
            async with client.subscription("chat:1", since=known) as chat:
                assert [(await anext(chat)).data for _ in range(2)] == [2, 3]
            async with client.subscription("chat:1", since=("of another life", 2)) as chat:
                with pytest.raises(Gap, match="an unknown number"):
                    await anext(chat)
                web.server.publish("chat:1", "on it goes")
                assert (await anext(chat)).data == "on it goes"


async def test_a_full_subscription_stops_nothing_and_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    topics = {"chat": TopicRules(retain=Retain(max_messages=1000), presence=True)}
    async with serving(topics=topics) as web, client_of(web) as client:
        async with (
            client.subscription("chat:slow", max_messages=8) as slow,
            client.subscription("chat:quick") as quick,
        ):
            for number in range(100):
                web.server.publish("chat:slow", number)
                web.server.publish("chat:quick", number)
                assert (await anext(quick)).data == number
            await settle()
            assert list(web.server.presence("chat:slow")) == []
            assert len(slow._following.items) == 8
            for number in range(4):
                assert (await anext(slow)).data == number
            await settle()
            # Half of it was read: it is back, full again, and away.
            assert len(slow._following.items) == 8
            for number in range(4, 100):
                assert (await anext(slow)).data == number
            await settle()
            assert len(web.server.presence("chat:slow")) == 1


async def test_a_topic_that_recovers_nothing_tells_what_is_missing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("plain:1") as plain:
            web.server.publish("plain:1", 1)
            assert (await anext(plain)).data == 1
            await cut(web)
            await trio.sleep(5)  # nothing was missed
            web.server.publish("plain:1", 2)
            assert (await anext(plain)).data == 2
            web.network.refuse("server", duration=2)
            await cut(web)
            web.server.publish("plain:1", 3)
            with pytest.raises(Gap) as caught:
                await anext(plain)
            assert caught.value.missing == 1
            web.server.publish("plain:1", 4)
            assert (await anext(plain)).data == 4


async def test_of_a_cache_the_newest_is_recovered(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("now:1") as now:
            web.server.publish("now:1", 1)
            assert (await anext(now)).data == 1
            web.network.refuse("server", duration=2)
            await cut(web)
            for number in (2, 3):
                web.server.publish("now:1", number)
            assert (await anext(now)).data == 3


async def test_what_the_server_refuses_is_raised(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web, client_of(web) as client:
        for topic, code in ("secret:1", 103), ("nothing:1", 102):
            with pytest.raises(Refused) as caught:
                async with client.subscription(topic):
                    raise AssertionError("the block must not begin")
            assert caught.value.code == code
        async with client.subscription("chat:1"):
            with pytest.raises(Refused) as caught:
                async with client.subscription("chat:1"):
                    raise AssertionError("the block must not begin")
            assert caught.value.code == 105
        async with client.subscription("chat:1"):
            pass
        with pytest.raises(Refused) as caught:
            await client.publish("chat:1", 1)
        assert caught.value.code == 103


async def test_the_server_can_unsubscribe_for_good_and_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("chat:1") as chat:
            web.server.publish("chat:1", 1)
            [member] = web.server.members
            member.unsubscribe("chat:1", 2700, "come again")
            web.server.publish("chat:1", 2)
            await settle()
            web.server.publish("chat:1", 3)
            assert [(await anext(chat)).data for _ in range(3)] == [1, 2, 3]
            web.server.publish("chat:1", 4)
            await settle()
            member.unsubscribe("chat:1", 2400, "enough")
            assert (await anext(chat)).data == 4
            for _ in range(2):
                with pytest.raises(trioweb.Unsubscribed, match="enough") as caught:
                    await anext(chat)
                assert caught.value.code == 2400


async def test_subscriptions_end_with_their_block_and_with_the_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web:
        async with client_of(web) as client:
            async with client.subscription("chat:1") as chat:
                web.server.publish("chat:1", 1)
                await settle()
            assert [item.data async for item in chat] == [1]
            reader = Reader(chat)
            async with client.subscription("chat:1") as chat, trio.open_nursery() as nursery:
                reader = Reader(chat)
                nursery.start_soon(reader.run)
                await settle()
                await client._client.aclose()
                await settle()
                assert (reader.is_over, reader.error) == (True, None)
        with pytest.raises(trioweb.ClosedLocally):
            await client.wait_open()


@pytest.mark.parametrize("max_messages", [1, 2])
async def test_the_smallest_buffer_gets_on_beside_events(
    max_messages: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as web, client_of(web) as client, trio.open_nursery() as nursery:
        web.network.shape("client", latency=0.01)
        web.server.publish("chat:1", 0)
        since = (web.hub.topic("chat:1").epoch, 0)
        for number in range(1, 10):
            web.server.publish("chat:1", number)
        async with client.subscription(
            "chat:1", since=since, events=True, max_messages=max_messages
        ) as chat:
            await settle()
            assert len(chat._following.items) <= max_messages + 1
            reader = Reader(chat)
            nursery.start_soon(reader.run)
            await trio.sleep(10)
            assert reader.data == list(range(10))
            nursery.cancel_scope.cancel()


@FORMATS
async def test_a_position_does_not_count_what_came_with_the_beginning(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as web, client_of(web, subprotocols=[format]) as client:
        for number in range(1, 4):
            web.server.publish("chat:1", number)
        epoch = web.hub.topic("chat:1").epoch
        for since in range(3):
            async with client.subscription("chat:1", since=(epoch, since)) as chat:
                assert chat.position == (epoch, since)
                assert (await anext(chat)).data == since + 1
                assert chat.position == (epoch, since + 1)
        async with client.subscription("chat:1", since=("another", 7)) as chat:
            assert chat.position == ("another", 7)
            with pytest.raises(Gap):
                await anext(chat)
            assert chat.position == (epoch, 3)
        async with client.subscription("chat:1") as chat:
            assert chat.position == (epoch, 3)


async def test_what_the_engine_behind_a_server_has_lost_is_told_as_a_gap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over the same connection, unless it was the server that has subscribed the client."""

    async def on_connect(member: Member, request: ConnectRequest) -> Welcome:
        return Welcome(topics=["chat:given"])

    broker = MemoryBroker()
    async with (
        serving(hub={"broker": broker}) as web,
        serving(hub={"broker": broker}, on_connect=on_connect) as giving,
        client_of(web) as asking,
        client_of(giving) as given,
        asking.subscription("chat:1") as chat,
    ):
        stream = given.server_subscriptions()
        await trio.sleep(1)
        for server, topic in ((web.server, "chat:1"), (giving.server, "chat:given")):
            server.publish(topic, "before")
        assert (await anext(chat)).data == "before"
        assert (await anext(stream))[1].data == "before"
        ids = asking.id, given.id
        broker.restart(lost=None)
        await trio.sleep(10)
        for server, topic in ((web.server, "chat:1"), (giving.server, "chat:given")):
            server.publish(topic, "after")
        with pytest.raises(Gap):
            await anext(chat)
        assert (await anext(chat)).data == "after"
        with pytest.raises(Gap):
            await anext(stream)
        assert (await anext(stream))[1].data == "after"
        assert asking.id == ids[0]
        assert given.id != ids[1]


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_or_doubled_over_a_network_that_flaps(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """One publishes, another reads now quickly, now slowly, while connections are cut."""
    random = Random(seed)
    topics: dict[str, Any] = {
        "chat": TopicRules(retain=Retain(max_messages=10_000), publish=True),
        "short": TopicRules(retain=Retain(max_messages=3)),
    }
    async with (
        serving(topics=topics) as web,
        client_of(web, random=Random(seed)) as reading,
        client_of(web, host="writer", random=Random(seed)) as writing,
        reading.subscription("chat:1", max_messages=5) as chat,
        reading.subscription("short:1") as short,
        writing.subscription("chat:1", max_messages=1000) as own,
        trio.open_nursery() as nursery,
    ):
        got: list[int] = []

        async def read() -> None:
            async for item in chat:
                got.append(item.data)
                if random.random() < 0.3:
                    await trio.sleep(random.uniform(0, 0.3))

        async def flap() -> None:
            while True:
                await trio.sleep(random.uniform(0.05, 1.5))
                hosts = random.choice(["client", "writer", "server"])
                match random.randrange(3):
                    case 0:
                        web.network.reset(hosts)
                    case 1:
                        web.network.partition(hosts, duration=random.uniform(0, 1))
                    case 2:
                        web.network.refuse("server", duration=random.uniform(0, 1))
                        web.network.reset(hosts)

        def step() -> float:
            return random.uniform(0, 0.1)

        reader = Reader(short)
        nursery.start_soon(reader.run)
        nursery.start_soon(read)
        flapping = trio.CancelScope()
        nursery.start_soon(_within, flapping, flap)
        for number in range(150):
            await writing.publish("chat:1", number)
            web.server.publish("short:1", number)
            await trio.sleep(step())
        flapping.cancel()
        await trio.sleep(60)
        assert got == list(range(150))
        assert own._following.received is not None
        assert own._following.received.offset == 150
        # Where something is missing, there is a gap, and nowhere else.
        last = 0
        for item in reader.items:
            if isinstance(item, Gap):
                assert item.since is not None
                assert item.position is not None
                assert item.since[1] == last < item.position[1]
                last = item.position[1]
            else:
                last += 1
                assert item.offset == last
        assert last == 150
        nursery.cancel_scope.cancel()


async def _within(scope: trio.CancelScope, function: Any) -> None:
    with scope:
        await function()
