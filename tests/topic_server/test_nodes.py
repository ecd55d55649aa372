"""Topic servers on hubs that a broker joins: who is there, who comes and goes, what was published.

In virtual time.  The engine is some milliseconds away, so whatever is asked takes a while.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio

from tests.topic_server.support import ALL, FORMATS, JSON, Peer, Serving, raw, serving, value
from tests.topic_server.test_presence import changes
from trioweb import (
    ConnectionClosed,
    ConnectRequest,
    Member,
    MemberLimits,
    SubscribeRequest,
    TopicRules,
    Welcome,
    open_hub,
)
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Request
from trioweb._centrifuge._replies import Unsubscribe
from trioweb._topics._window import ASKING
from trioweb.testing import MemoryBroker


@asynccontextmanager
async def two_servers(broker: MemoryBroker, **given: Any) -> AsyncGenerator[tuple[Serving, ...]]:
    async with (
        serving(hub={"broker": broker}, **given) as one,
        serving(hub={"broker": broker}, **given) as other,
    ):
        yield one, other


async def ask(peer: Peer, request: Request) -> Any:
    [id] = await peer.send(request)
    await trio.sleep(0.5)
    return peer.answer(id)


async def subscribe(peer: Peer, **given: Any) -> None:
    answer = await ask(peer, wire.SubscribeRequest(topic="chat:1", **given))
    assert isinstance(answer, wire.SubscribeResult), answer


async def users(peer: Peer) -> list[str]:
    told = await ask(peer, wire.PresenceRequest(topic="chat:1"))
    assert all(client == info.client for client, info in told.presence.items())
    return sorted(info.user for info in told.presence.values())


@FORMATS
async def test_members_of_all_servers_are_told_of_each_other(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two_servers(MemoryBroker()) as (one, other):
        ada, bob = await one.connect(format, "ada"), await other.connect(format, "bob")
        await subscribe(ada, join_leave=True)
        await subscribe(bob, join_leave=True)
        again = await other.connect(JSON, "ada")
        await subscribe(again)
        assert await users(ada) == await users(bob) == ["ada", "ada", "bob"]
        told = await ask(bob, wire.PresenceRequest(topic="chat:1"))
        assert {value(info.conn_info)["name"] for info in told.presence.values()} == {"ada", "bob"}
        stats = wire.PresenceStatsRequest(topic="chat:1")
        for peer in (ada, bob):
            assert await ask(peer, stats) == wire.PresenceStatsResult(num_clients=3, num_users=2)
        await ask(ada, wire.PublishRequest(topic="chat:1", data=raw("hello")))
        history = await ask(bob, wire.HistoryRequest(topic="chat:1", limit=-1))
        [publication] = history.publications
        assert (value(publication.data), publication.info.user) == ("hello", "ada")
        again.connection.link.abort("test")
        await trio.sleep(0.5)
        await ask(bob, wire.UnsubscribeRequest(topic="chat:1"))
        await trio.sleep(0.5)
        # Nobody is told of what they have done themselves.
        assert changes(ada) == ["+bob", "+ada", "-ada", "-bob"]
        assert changes(bob) == ["+ada", "-ada"]
        assert await users(ada) == ["ada"]


async def test_members_of_a_server_that_died_have_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}) as stays:
        watcher = await stays.connect(user="watcher")
        await subscribe(watcher, join_leave=True)
        with pytest.raises(ZeroDivisionError):
            async with serving(hub={"broker": broker}) as dies:
                bob = await dies.connect(user="bob")
                await subscribe(bob)
                assert await users(watcher) == ["bob", "watcher"]
                # It does not get to say anything any more.
                broker.cut()
                raise ZeroDivisionError
        await trio.sleep(10)
        assert changes(watcher) == ["+bob"]
        await trio.sleep(11)
        assert changes(watcher) == ["+bob", "-bob"]
        assert await users(watcher) == ["watcher"]


async def test_who_entered_by_the_program_is_seen_by_clients(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whatever the info is, nobody's decoder fails."""
    async with two_servers(MemoryBroker()) as (one, other):
        ada = await one.connect(user="ada")
        await subscribe(ada, join_leave=True)
        await other.hub.topic("chat:1").enter("robot 1", b"\xff{", user="robot")
        assert await users(ada) == ["ada", "robot"]
        other.hub.topic("chat:1").leave("robot 1")
        await trio.sleep(0.5)
        assert changes(ada) == ["+robot", "-robot"]


async def test_beyond_so_many_members_of_all_servers_nobody_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = MemberLimits(max_announced=3, max_presence=4)
    async with two_servers(MemoryBroker(), limits_of_members=limits) as servers:
        watcher = await servers[0].connect()
        await subscribe(watcher, join_leave=True)
        for number in range(4):
            await subscribe(await servers[number % 2].connect(user=f"u{number}"))
        assert changes(watcher) == ["+u0", "+u1"]
        assert servers[0].server.statistics().unannounced == 2
        assert (await ask(watcher, wire.PresenceRequest(topic="chat:1"))).code == 106
        stats = await ask(watcher, wire.PresenceStatsRequest(topic="chat:1"))
        assert stats.num_clients == 5


# What may wait for an engine.
_WAITING: Final[dict[str, Request]] = {
    "presence": wire.PresenceRequest(topic="chat:1"),
    "presence_stats": wire.PresenceStatsRequest(topic="chat:1"),
    "history": wire.HistoryRequest(topic="chat:1", limit=10),
    "publish": wire.PublishRequest(topic="chat:1", data=raw(1)),
    "subscribe": wire.SubscribeRequest(topic="chat:2"),
    "connect": wire.ConnectRequest(data=raw(["chat:2"])),
}


async def with_topics(member: Member, request: ConnectRequest) -> Welcome:
    return Welcome(topics=request.data or ())


@pytest.mark.parametrize("what", _WAITING)
async def test_who_waits_for_the_broker_does_not_outlive_its_connection(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    broker = MemoryBroker()
    async with (
        open_hub(broker=broker) as other,
        serving(hub={"broker": broker}, on_connect=with_topics) as web,
    ):
        await other.topic("chat:1", retain=ALL.retain).publish_confirmed("of another node")
        peer = await web.open()
        if what != "connect":
            await peer.send(wire.ConnectRequest())
            await subscribe(peer)
        broker.stop()
        [id] = await peer.send(_WAITING[what])
        await trio.sleep(1)
        assert not [reply for reply in peer.log if reply.id == id]
        peer.connection.link.abort("test")
        await trio.sleep(1)
        assert web.handling == 0


async def test_a_program_that_subscribes_a_member_waits_no_longer_than_its_connection_lasts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}) as web:
        peer = await web.connect()
        [member] = web.server.members

        async def subscribe_in_vain() -> None:
            with pytest.raises(ConnectionClosed):
                await member.subscribe("chat:1")

        broker.stop()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(subscribe_in_vain)
                await trio.sleep(1)
                peer.connection.link.abort("test")


@FORMATS
async def test_members_are_told_that_their_topic_has_begun_anew(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Of what an engine has lost nobody else would tell them."""
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}, on_connect=with_topics) as web:
        asked, also = await web.connect(format), await web.connect(format)
        given = await web.open(format)
        await ask(given, wire.ConnectRequest(data=raw(["chat:1"])))
        for peer in (asked, also):
            await subscribe(peer)
        web.server.publish("chat:1", "before")
        await trio.sleep(1)
        epoch = web.hub.topic("chat:1").epoch
        broker.restart(lost=None)
        await trio.sleep(5)
        for peer in (asked, also):
            assert peer.offsets("chat:1") == [1]
            event = Unsubscribe(2500, "insufficient state")
            assert [push.unsubscribe for push in peer.pushes[1:]] == [event]
            assert peer.closed() == (None, "")
        # Who was subscribed by the program cannot subscribe again.
        assert given.closed() == (3010, "insufficient state")
        assert not web.server.presence("chat:1")
        assert web.server.statistics().subscriptions == 0
        again = wire.SubscribeRequest(topic="chat:1", recover=True, epoch=epoch, offset=1)
        told = await ask(asked, again)
        assert (told.was_recovering, told.recovered, told.offset) == (True, False, 0)
        assert told.epoch == web.hub.topic("chat:1").epoch != epoch
        web.server.publish("chat:1", "after")
        await trio.sleep(1)
        assert asked.offsets("chat:1") == [1, 1]
        assert also.offsets("chat:1") == [1]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_reply_that_is_overtaken_by_the_engines_is_taken_back(
    is_lost: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """While a node asks where a topic stands, a member is told where it stood before."""
    broker = MemoryBroker(latency=0.001)

    async def on_subscribe(member: Member, request: SubscribeRequest) -> None:
        if request.topic != "chat:2":
            return
        # The last of these pushes fits to nothing that is here.
        if is_lost:
            broker.flush()
        else:
            broker.lose_pushes(1)
            web.server.publish("chat:1", "not pushed")
        web.server.publish("chat:1", "last")
        await trio.sleep(0.003)
        window = web.hub.topic("chat:1")._window
        assert window is not None
        assert window._state is ASKING

    async with serving(hub={"broker": broker}, on_subscribe=on_subscribe) as web:
        topics = [web.hub.topic(f"chat:{n}", retain=ALL.retain) for n in (1, 2)]
        with topics[0].publications(), topics[1].publications():
            for topic in topics:
                await topic.publish_confirmed("first")
            await trio.sleep(1)
            epoch = topics[0].epoch
            peer = await web.connect()
            ids = await peer.send(*(wire.SubscribeRequest(topic=topic.name) for topic in topics))
            await trio.sleep(1)
            told = peer.answer(ids[0])
            assert (told.epoch, told.offset) == (epoch, 1)
            over = [push.unsubscribe for push in peer.pushes if push.unsubscribe]
            assert over == ([Unsubscribe(2500, "insufficient state")] if is_lost else [])
            assert peer.offsets("chat:1") == ([] if is_lost else [2, 3])
            assert (topics[0].epoch != epoch) is is_lost


async def test_the_engine_hears_of_nobody_whom_nobody_may_see(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}, topics={"chat": TopicRules()}) as web:
        await subscribe(await web.connect())
        assert not broker._engine.presence.topics
