"""Who is where, and who is told of it.  Presence equals subscriptions; join and leave balance."""

from __future__ import annotations

import random

import pytest

from tests.topic_server.support import FORMATS, JSON, PROTOBUF, Peer, serving, settle, value
from trioweb import Granted, Member, MemberLimits, SubscribeRequest, TopicRules
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._replies import Join, Leave


def changes(peer: Peer, topic: str = "chat:1") -> list[str]:
    """`+USER` and `-USER` for each that *peer* was told of."""
    found = []
    for push in peer.pushes:
        match push.event:
            case Join(info=wire.ClientInfo(user=user)) if push.topic == topic:
                found.append(f"+{user}")
            case Leave(info=wire.ClientInfo(user=user)) if push.topic == topic:
                found.append(f"-{user}")
    return found


@FORMATS
async def test_presence_tells_who_is_there(format: str) -> None:
    async def on_subscribe(member: Member, request: SubscribeRequest) -> Granted:
        return Granted(info={"via": request.token})

    async with serving(on_subscribe=on_subscribe) as web:
        ada = await web.connect(format, "ada")
        again, bob = await web.connect(JSON, "ada"), await web.connect(PROTOBUF, "bob")
        for peer in (ada, again, bob):
            await peer.subscribe("chat:1", token="door")
        told = await ada.ask(wire.PresenceRequest(topic="chat:1"))
        assert sorted(info.user for info in told.presence.values()) == ["ada", "ada", "bob"]
        assert {*told.presence} == {member.client for member in web.server.members}
        for client, info in told.presence.items():
            assert info.client == client
            assert value(info.conn_info) == {"name": info.user}
            assert value(info.chan_info) == {"via": "door"}
        stats = wire.PresenceStatsRequest(topic="chat:1")
        assert await ada.ask(stats) == wire.PresenceStatsResult(num_clients=3, num_users=2)
        await bob.ask(wire.UnsubscribeRequest(topic="chat:1"))
        again.connection.link.abort("test")
        await settle()
        assert await ada.ask(stats) == wire.PresenceStatsResult(num_clients=1, num_users=1)
        assert [member.user for member in web.server.presence("chat:1")] == ["ada"]


async def test_presence_that_cannot_be_had() -> None:
    topics = {"chat": TopicRules(presence=True), "plain": TopicRules()}
    async with serving(topics=topics, limits_of_members=MemberLimits(max_presence=2)) as web:
        peer = await web.connect()
        for request in (wire.PresenceRequest, wire.PresenceStatsRequest):
            assert (await peer.ask(request(topic="nowhere:1"))).code == 102
            assert (await peer.ask(request(topic="plain:1"))).code == 108
            assert (await peer.ask(request(topic="chat:1"))).code == 103
        for n in range(3):
            await (peer if n == 0 else await web.connect()).subscribe("chat:1")
        assert (await peer.ask(wire.PresenceRequest(topic="chat:1"))).code == 106
        stats = await peer.ask(wire.PresenceStatsRequest(topic="chat:1"))
        assert stats.num_clients == 3


@FORMATS
async def test_who_asks_is_told_who_comes_and_goes(format: str) -> None:
    async with serving() as web:
        watcher, quiet = await web.connect(format, "watcher"), await web.connect(format, "quiet")
        await watcher.subscribe("chat:1", join_leave=True)
        await quiet.subscribe("chat:1")
        bob = await web.connect(JSON, "bob")
        await bob.subscribe("chat:1")
        await bob.ask(wire.UnsubscribeRequest(topic="chat:1"))
        quiet.connection.link.abort("test")
        await settle()
        assert changes(watcher) == ["+quiet", "+bob", "-bob", "-quiet"]
        assert changes(quiet) == []
        # No offset of the topic's own is taken for that.
        assert web.hub.topic("chat:1").head == 0


async def test_nobody_is_told_where_the_rules_do_not_say_so() -> None:
    async with serving(topics={"chat": TopicRules(presence=True)}) as web:
        watcher, other = await web.connect(), await web.connect()
        await watcher.subscribe("chat:1", join_leave=True)
        await other.subscribe("chat:1")
        await settle()
        assert changes(watcher) == []


async def test_beyond_so_many_members_nobody_is_told_and_they_are_counted() -> None:
    async with serving(limits_of_members=MemberLimits(max_announced=3)) as web:
        watcher = await web.connect()
        await watcher.subscribe("chat:1", join_leave=True)
        others = [await web.connect(user=f"u{n}") for n in range(4)]
        for peer in others:
            await peer.subscribe("chat:1")
        assert changes(watcher) == ["+u0", "+u1"]
        for peer in reversed(others):
            await peer.connection.aclose()
            await settle()
        # Whoever is the last to be announced is the last whose leaving is.
        assert changes(watcher) == ["+u0", "+u1", "-u1", "-u0"]
        assert web.server.statistics().unannounced == 4


@pytest.mark.parametrize("seed", range(5))
async def test_presence_equals_subscriptions_and_join_and_leave_balance(seed: int) -> None:
    chance = random.Random(seed)
    async with serving() as web:
        watcher = await web.connect(user="watcher")
        await watcher.subscribe("chat:1", join_leave=True)
        peers: list[Peer] = []
        for n in range(60):
            match chance.randrange(5):
                case 0:
                    peers.append(await web.connect(chance.choice([JSON, PROTOBUF]), f"u{n}"))
                case 1 if peers:
                    chance.choice(peers).connection.link.abort("test")
                case 2 if peers:
                    member = chance.choice(list(web.server.members))
                    if member.user != "watcher":
                        member.unsubscribe("chat:1")
                case _ if peers:
                    request = chance.choice([wire.SubscribeRequest, wire.UnsubscribeRequest])
                    peer = chance.choice(peers)
                    if peer.closed() == (None, ""):
                        await peer.send(request(topic="chat:1"))
            peers = [peer for peer in peers if peer.closed() == (None, "")]
        await settle()
        there = await web.server._presence.members("chat:1")
        members = web.server.presence("chat:1")
        assert {*there} == {member.client for member in members}
        assert web.hub.topic("chat:1").subscribers == len(members)
        told = changes(watcher)
        for name in {change[1:] for change in told}:
            own = [change[0] for change in told if change[1:] == name]
            assert own == ["+", "-"] * (len(own) // 2) + ["+"] * (len(own) % 2)
            assert len(own) % 2 == sum(member.user == name for member in members)
