"""Topic servers on hubs that a broker joins: who is there, who comes and goes, what was published.

In virtual time.  The engine is some milliseconds away, so whatever is asked takes a while.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.topic_server.support import FORMATS, JSON, Peer, Serving, raw, serving, value
from tests.topic_server.test_presence import changes
from trioweb import MemberLimits, TopicRules
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Request
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


async def test_who_waits_for_the_broker_does_not_outlive_its_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}) as web:
        peer = await web.connect()
        await subscribe(peer)
        broker.stop()
        await peer.send(wire.PresenceRequest(topic="chat:1"))
        await trio.sleep(1)
        peer.connection.link.abort("test")
        await trio.sleep(1)
        assert not web.web.connections


async def test_the_engine_hears_of_nobody_whom_nobody_may_see(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with serving(hub={"broker": broker}, topics={"chat": TopicRules()}) as web:
        await subscribe(await web.connect())
        assert not broker._engine.presence.topics
