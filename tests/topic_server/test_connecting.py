"""Connecting: who a member is, and what ends before or after that."""

from __future__ import annotations

import pytest
import trio

import trioweb
from tests.topic_server.support import FORMATS, PROTOBUF, raw, serving, settle, value
from trioweb import (
    ConnectRequest,
    Dismiss,
    Granted,
    Member,
    Refuse,
    Welcome,
    open_hub,
    open_topic_server,
)
from trioweb._centrifuge import _schema as wire


@FORMATS
async def test_a_member_is_who_the_callable_says(format: str) -> None:
    seen = []

    async def on_connect(member: Member, request: ConnectRequest) -> Welcome:
        seen.append(request)
        return Welcome(user="ada", info=["i"], data={"hello": "there"})

    async with serving(on_connect=on_connect) as web:
        peer = await web.open(format)
        told = await peer.ask(
            wire.ConnectRequest(
                token="t", data=raw({"a": 1}), name="n", version="v", headers={"x": "y"}
            )
        )
        [member] = web.server.members
        assert (told.client, value(told.data)) == (member.client, {"hello": "there"})
        assert (told.ping, told.pong, told.expires) == (25, True, False)
        assert (member.user, member.info, member.topics) == ("ada", ["i"], ())
        assert seen == [ConnectRequest("t", {"a": 1}, "n", "v", {"x": "y"})]
        assert "t" not in repr(seen[0]).split("token")[-1] or "token" not in repr(seen[0])
        await peer.connection.aclose()
        await settle()
        assert not web.server.members


@pytest.mark.parametrize("query", ["?format=protobuf", "?cf_protocol=protobuf"])
async def test_the_encoding_can_be_asked_for_in_the_query(query: str) -> None:
    async with serving() as web:
        async with trioweb.open_connection(
            web.url + query, dial=web.network.host("client").dial
        ) as connection:
            await connection.send(b"\x04\x08\x01\x22\x00")  # id 1, an empty connect
            assert isinstance(await connection.receive(), bytes)


async def test_a_refused_client_can_try_again_and_what_came_behind_is_void() -> None:
    async def on_connect(member: Member, request: ConnectRequest) -> Welcome | None:
        if request.token == "dismiss":
            raise Dismiss(4501)
        if request.token == "ttl":
            return Welcome(ttl=0)
        if request.token:
            raise Refuse(100, temporary=True)
        return None

    async with serving(on_connect=on_connect) as web:
        peer = await web.open()
        await peer.send(
            wire.ConnectRequest(token="no"),
            wire.SubscribeRequest(topic="chat:1"),
            wire.PublishRequest(topic="chat:1", data=raw(1)),
        )
        await settle()
        [reply] = peer.log
        assert reply.error == wire.Error(100, "internal server error", True)
        assert (await peer.ask(wire.ConnectRequest(token="ttl"))).code == 109
        assert isinstance(await peer.ask(wire.ConnectRequest()), wire.ConnectResult)
        assert web.hub.topic("chat:1").head == 0
        other = await web.open()
        await other.send(wire.ConnectRequest(token="dismiss"))
        await settle()
        assert other.closed() == (4501, "closed")


async def test_who_does_not_say_who_they_are_is_closed_as_stale(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web:
        peer, other = await web.open(), await web.connect()
        await trio.sleep(9.9)
        assert peer.closed() == (None, "")
        await trio.sleep(0.2)
        assert peer.closed() == (3502, "stale")
        assert other.closed() == (None, "")


async def test_what_the_program_does_for_a_peer_ends_with_the_connection() -> None:
    """Whatever it is, and nobody is left in a topic."""
    doing: list[str] = []
    ended: list[str] = []

    async def work(name: str) -> None:
        doing.append(name)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    async def on_connect(member: Member, request: ConnectRequest) -> Welcome:
        if request.token:
            await work("connect")
        return Welcome(user="ada")

    async def on_subscribe(member: Member, request: object) -> None:
        if isinstance(request, trioweb.SubscribeRequest) and request.token:
            await work("subscribe")

    async def on_publish(member: Member, topic: str, data: object) -> None:
        await work("publish")

    async def on_refresh(member: Member, token: str) -> Welcome:
        await work("refresh")
        return Welcome()

    async def on_renew(member: Member, topic: str, token: str) -> Granted:
        await work("renew")
        return Granted()

    async def on_message(member: Member, data: object) -> None:
        await work("message")

    async def call(member: Member, data: object) -> None:
        await work("call")

    async with serving(
        on_connect=on_connect,
        on_subscribe=on_subscribe,
        on_publish=on_publish,
        on_refresh=on_refresh,
        on_renew=on_renew,
        on_message=on_message,
        calls={"call": call},
    ) as web:
        watcher = await web.connect()
        await watcher.subscribe("chat:1", join_leave=True)
        last = {
            "connect": None,
            "subscribe": wire.SubscribeRequest(topic="chat:2", token="x"),
            "publish": wire.PublishRequest(topic="chat:1", data=raw(1)),
            "refresh": wire.RefreshRequest(token="x"),
            "renew": wire.SubRefreshRequest(topic="chat:1", token="x"),
            "message": wire.SendRequest(data=raw(1)),
            "call": wire.RPCRequest(method="call"),
        }
        for name, request in last.items():
            peer = await web.open()
            if request is None:
                await peer.send(wire.ConnectRequest(token="x"))
            else:
                await peer.send(wire.ConnectRequest(), wire.SubscribeRequest(topic="chat:1"))
                await peer.send(request)
            await settle()
            assert doing[-1:] == [name]
            peer.connection.link.abort("test")
            await settle()
            assert ended == doing
            assert len(web.server.members) == 1
        events = [type(push.event).__name__ for push in watcher.pushes]
        assert events == ["Join", "Leave"] * 6


async def test_what_was_sent_just_before_the_end_is_done_as_far_as_that_takes_no_time() -> None:
    taken = []

    async def on_message(member: Member, data: object) -> None:
        taken.append(data)
        await trio.sleep(10)
        taken.append("never")

    async with serving(on_message=on_message) as web:
        peer = await web.connect()
        await peer.subscribe("chat:1")
        await peer.send(wire.PublishRequest(topic="chat:1", data=raw(1)))
        await peer.send(wire.SendRequest(data=raw("bye")))
        await peer.connection.aclose()
        await settle()
        assert web.hub.topic("chat:1").head == 1
        assert taken == ["bye"]


async def test_what_begins_after_the_end_gets_no_further_than_to_its_first_wait() -> None:
    done = []

    async def work(what: str) -> None:
        done.append(what)
        await trio.sleep_forever()

    async with serving() as web:
        peer = await web.connect()
        [member] = web.server.members
        await peer.connection.aclose()
        await settle()
        with pytest.raises(trioweb.ConnectionClosed):
            await member._ask("work(what)", work, "once")
        assert done == ["once"]


async def test_a_server_that_ends_sends_its_members_elsewhere() -> None:
    async with serving() as web:
        peer = await web.connect()
        web.server._close()
        await settle()
        assert peer.closed() == (3001, "shutdown")


async def test_a_server_that_has_ended_takes_nobody() -> None:
    async with serving() as web:
        early = await web.open()
        web.server._close()
        late = await web.open()
        await early.send(wire.ConnectRequest())
        await settle()
        assert early.closed() == late.closed() == (3001, "shutdown")
        assert not web.server.members


async def test_a_closed_hub_sends_members_elsewhere() -> None:
    async with serving() as web:
        peer = await web.connect()
        web.hub._close()
        await peer.send(wire.SubscribeRequest(topic="chat:1"))
        await settle()
        assert peer.closed() == (3001, "shutdown")


async def test_a_drain_loses_nothing_that_was_published_before() -> None:
    async with serving() as web:
        peer = await web.connect(PROTOBUF)
        await peer.subscribe("chat:1")
        for n in range(10):
            web.server.publish("chat:1", n)
        await web.web.drain(code=3001, reason="shutdown")
        await settle()
        assert peer.offsets("chat:1") == list(range(1, 11))
        assert peer.closed() == (3001, "shutdown")


async def test_wrong_arguments_are_told_by_their_name() -> None:
    async def wrong(**given: object) -> None:
        async with open_hub() as hub, open_topic_server(hub, **{"topics": {}, **given}):  # type: ignore[arg-type]
            pass

    for error, text, given in (
        (TypeError, "on_connect", {"on_connect": lambda: None}),
        (TypeError, "calls", {"calls": ["x"]}),
        (TypeError, "ping", {"ping": 2.5}),
        (ValueError, "ping", {"ping": 0}),
        (TypeError, "topics", {"topics": {"a": 1}}),
        (ValueError, "colon", {"topics": {"a:b": trioweb.TopicRules()}}),
        (TypeError, "limits", {"limits": None}),
    ):
        with pytest.raises(error, match=text):
            await wrong(**given)
