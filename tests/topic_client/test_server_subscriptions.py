"""A client follows the topics to which the server subscribes it: nothing lost, gaps told."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import Fake, against, client_of, cut
from tests.topic_server.support import FORMATS, by_data, serving, settle
from trioweb import Gap, Joined, Left, Position, Subscribed, Unsubscribed, Welcome
from trioweb._topic_client._granted import _MAX_TOPICS


async def by_user(member: trioweb.Member, request: trioweb.ConnectRequest) -> Welcome:
    """Everybody has a topic of their own, and one that all have."""
    welcome = await by_data(member, request)
    topics = [f"chat:{welcome.user}", "chat:all"]
    return Welcome(user=welcome.user, info=welcome.info, topics=topics)


def waiting(stream: trioweb.ServerSubscriptions[Any]) -> list[tuple[str, Any]]:
    """What waits to be read, in its order."""
    found = []
    while stream._items or stream._gaps:
        item: Any
        topic, item = stream._take()
        is_data = isinstance(item, trioweb.TopicPublication)
        found.append((topic, item.data if is_data else item))
    return found


@FORMATS
async def test_publications_come_with_their_topics_and_are_recovered(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(on_connect=by_user) as web:
        async with client_of(web, subprotocols=[format], data={"user": "ann"}) as client:
            stream = client.server_subscriptions()
            await client.wait_open()
            for number in range(30):
                web.server.publish(f"chat:{('ann', 'all')[number % 2]}", number)
                if number % 7 == 3:
                    await cut(web)
                await trio.sleep(0.05)
            await trio.sleep(5)
            got = [await anext(stream) for _ in range(30)]
            assert not waiting(stream)
            for topic, rest in (("chat:ann", 0), ("chat:all", 1)):
                mine = [publication for name, publication in got if name == topic]
                assert [each.data for each in mine] == list(range(rest, 30, 2))
                assert [each.offset for each in mine] == list(range(1, 16))


async def test_what_cannot_be_recovered_is_raised_in_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(on_connect=by_user) as web, client_of(web, data={"user": "ann"}) as client:
        stream = client.server_subscriptions()
        await client.wait_open()
        web.server.publish("chat:ann", "before")
        await settle()
        web.network.refuse("server", duration=2)
        await cut(web)
        for number in range(11):  # ten are kept
            web.server.publish("chat:ann", number)
        await trio.sleep(5)
        web.server.publish("chat:ann", "after")
        await settle()
        topic, publication = await anext(stream)
        assert (topic, publication.data) == ("chat:ann", "before")
        with pytest.raises(Gap) as caught:
            await anext(stream)
        epoch = web.hub.topic("chat:ann").epoch
        gap = caught.value
        assert (gap.topic, gap.since, gap.position) == ("chat:ann", (epoch, 1), (epoch, 12))
        assert (await anext(stream))[1].data == "after"


async def test_events_stand_among_the_publications(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(on_connect=by_user) as web, client_of(web, data={"user": "ann"}) as client:
        stream = client.server_subscriptions(events=True)
        await client.wait_open()
        own, common = [await anext(stream) for _ in range(2)]
        epoch = web.hub.topic("chat:ann").epoch
        assert own == ("chat:ann", Subscribed(True, Position(epoch, 0), None))
        assert common[0] == "chat:all"
        await settle()
        waiting(stream)  # it has joined itself
        async with client_of(web, host="other", data={"user": "bob"}) as other:
            await other.wait_open()
            topic, joined = await anext(stream)
            assert topic == "chat:all"
            assert isinstance(joined, Joined)
            assert joined.member.user == "bob"
        topic, left = await anext(stream)
        assert (topic, left) == ("chat:all", Left(joined.member))
        [member] = web.server.members
        member.unsubscribe("chat:all", 2100, "as you wish")
        topic, ended = await anext(stream)
        assert topic == "chat:all"
        assert isinstance(ended, Unsubscribed)
        assert (ended.code, ended.reason) == (2100, "as you wish")


async def test_a_topic_that_is_given_again_later_tells_what_lies_between(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web, data={"user": "ann"}) as client:
        stream = client.server_subscriptions()
        await client.wait_open()
        [member] = web.server.members
        await member.subscribe("chat:1")
        web.server.publish("chat:1", "first")
        await settle()
        await cut(web)
        await trio.sleep(5)
        [member] = web.server.members
        # In this life of the connection the program is slow to subscribe it.
        web.server.publish("chat:1", "missed")
        await member.subscribe("chat:1")
        web.server.publish("chat:1", "second")
        await settle()
        member.unsubscribe("chat:1")
        await member.subscribe("chat:1")  # with nothing between the two, nothing was missed
        web.server.publish("chat:1", "third")
        await settle()
        (_, first), (_, gap), (_, second), (_, third) = waiting(stream)
        assert (first, second, third) == ("first", "second", "third")
        assert isinstance(gap, Gap)
        assert gap.missing == 1


async def test_only_topics_of_the_last_connection_are_named_when_it_connects(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A server takes so many, and ends a client for good that names more."""
    place = {"recoverable": True, "positioned": True, "epoch": "e", "offset": 1}
    fake = Fake()
    fake.replies["connect"] = {"connect": {"client": "c"}}
    async with against(fake) as client:
        await client.wait_open()
        for number in range(600):
            await fake.push({"push": {"channel": f"t{number}", "subscribe": place}})
            if number % 100 < 90:
                over = {"code": 2000, "reason": "over"}
                await fake.push({"push": {"channel": f"t{number}", "unsubscribe": over}})
        await settle()
        for expected in (60, 0):
            await fake.connections[-1].aclose(3000, "connection closed")
            await trio.sleep(3)
            assert len(fake.said[-1]["connect"].get("subs", ())) == expected
        # Of more than a server takes, the rest begins anew.
        for number in range(600):
            await fake.push({"push": {"channel": f"t{number}", "subscribe": place}})
        await settle()
        await fake.connections[-1].aclose(3000, "connection closed")
        await trio.sleep(3)
        assert len(fake.said[-1]["connect"]["subs"]) == 512


async def test_a_stream_that_nobody_reads_tells_what_it_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(on_connect=by_user) as web, client_of(web, data={"user": "ann"}) as client:
        small = client.server_subscriptions(max_messages=3)
        large = client.server_subscriptions()
        await client.wait_open()
        for number in range(6):
            web.server.publish("chat:ann", number)
        web.server.publish("chat:all", "other")
        await settle()
        assert [(await anext(small))[1].data for _ in range(2)] == [0, 1]
        web.server.publish("chat:ann", "late")
        await settle()
        assert (await anext(small))[1].data == 2
        with pytest.raises(Gap) as caught:
            await anext(small)
        assert (caught.value.topic, caught.value.missing) == ("chat:ann", 3)
        assert (await anext(small))[1].data == "late"
        # Behind all else, as nothing has come in its topic since.
        with pytest.raises(Gap) as caught:
            await anext(small)
        assert (caught.value.topic, caught.value.missing) == ("chat:all", 1)
        assert [data for _, data in waiting(large)] == [0, 1, 2, 3, 4, 5, "other", "late"]


async def test_positions_that_the_server_invalidates_are_not_said_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    subs = {"news": {"recoverable": True, "positioned": True, "epoch": "e", "offset": 5}}
    fake.replies["connect"] = {"connect": {"client": "c", "subs": subs}}
    async with against(fake) as client:
        stream = client.server_subscriptions(events=True)
        await client.wait_open()
        await fake.push({"push": {"channel": "news", "pub": {"data": 1, "offset": 6}}})
        await settle()
        await fake.connections[-1].aclose(3000, "connection closed")
        await trio.sleep(3)
        await fake.connections[-1].aclose(3014, "state invalidated")
        await trio.sleep(3)
        first, second, third = [each["connect"].get("subs") for each in fake.said]
        assert not first
        assert second == {"news": {"recover": True, "epoch": "e", "offset": 6}}
        assert not third
        kinds = [type(item).__name__ for _, item in waiting(stream)]
        # That of the second connection is behind what the client has: something is wrong there.
        assert kinds == ["Subscribed", "int", "Gap", "Subscribed", "Gap", "Subscribed"]


async def test_a_topic_without_positions_has_a_gap_at_each_beginning(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fake.replies["connect"] = {"connect": {"client": "c", "subs": {"news": {}}}}
    async with against(fake) as client:
        stream = client.server_subscriptions()
        for data in 1, 2:
            await client.wait_open()
            await fake.push({"push": {"channel": "news", "pub": {"data": data}}})
            await fake.push({"push": {"channel": "unknown", "pub": {"data": data}}})
            await settle()
            await fake.connections[-1].aclose(3000, "connection closed")
            await trio.sleep(3)
        assert [getattr(item, "topic", item) for _, item in waiting(stream)] == [
            1,
            "news",
            2,
            "news",
        ]


async def test_the_clients_own_subscription_takes_its_publications_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(on_connect=by_user) as web, client_of(web, data={"user": "ann"}) as client:
        stream = client.server_subscriptions()
        async with client.subscription("chat:mine") as mine:
            web.server.publish("chat:mine", "mine")
            web.server.publish("chat:ann", "ann")
            assert (await anext(mine)).data == "mine"
            assert (await anext(stream))[0] == "chat:ann"
        with pytest.raises(trioweb.Refused) as caught:
            async with client.subscription("chat:ann"):
                pass
        assert caught.value.code == 105
        web.server.publish("chat:ann", "still")
        assert (await anext(stream))[1].data == "still"


async def test_a_topic_that_the_server_gives_while_the_client_asks_for_it_is_the_servers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fake.replies["subscribe"] = None  # not yet
    async with against(fake) as client, trio.open_nursery() as nursery:
        stream = client.server_subscriptions()
        await client.wait_open()

        async def follow() -> None:
            with pytest.raises(trioweb.Refused):
                async with client.subscription("news"):
                    pass

        nursery.start_soon(follow)
        await settle()
        await fake.push({"push": {"channel": "news", "subscribe": {}}})
        await fake.push({"push": {"channel": "news", "pub": {"data": 1}}})
        await fake.push({"id": fake.said[-1]["id"], "error": {"code": 105, "message": "so"}})
        await settle()
        assert waiting(stream) == [("news", 1)]


async def test_a_server_that_gives_topics_without_end_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    async with against(fake) as client:
        await client.wait_open()
        with suppress(trioweb.ConnectionClosed):
            for number in range(_MAX_TOPICS + 1):
                await fake.push({"push": {"channel": f"t{number}", "subscribe": {}}})
        await settle()
        assert "more than 1,000 topics" in str(client.last_error)
        # Those of before give way, one by one.
        await trio.sleep(3)
        await client.wait_open()
        await fake.push({"push": {"channel": "another", "subscribe": {}}})
        await settle()
        assert len(client._session.granted._places) == _MAX_TOPICS
        assert client._session.granted.has("another")


async def test_streams_end_with_their_client(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(on_connect=by_user) as web:
        async with client_of(web, data={"user": "ann"}) as client:
            stream = client.server_subscriptions()
            await client.wait_open()
            web.server.publish("chat:ann", 1)
            await settle()
        assert [item.data async for _, item in stream] == [1]
        with pytest.raises(trioweb.ClosedLocally):
            client.server_subscriptions()


async def test_a_cancelled_reader_has_taken_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(on_connect=by_user) as web, client_of(web, data={"user": "ann"}) as client:
        stream = client.server_subscriptions()
        await client.wait_open()
        with trio.move_on_after(1) as scope:
            await anext(stream)
        assert scope.cancelled_caught
        web.server.publish("chat:ann", 1)
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(stream)
        assert scope.cancelled_caught
        assert (await anext(stream))[1].data == 1


@pytest.mark.parametrize("given", [{"max_messages": 0}, {"events": 1}])
async def test_arguments_that_cannot_work_are_told(given: Any) -> None:
    async with against(Fake()) as client:
        with pytest.raises((TypeError, ValueError), match="server_subscriptions"):
            client.server_subscriptions(**given)
