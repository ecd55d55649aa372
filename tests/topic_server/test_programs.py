"""What a program does with members and topics itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trioweb
from tests.topic_server.support import FORMATS, JSON, PROTOBUF, by_data, raw, serving, settle, value
from trioweb import ConnectRequest, Member, TopicRules, Welcome
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._replies import Subscribe, Unsubscribe


async def with_topics(member: Member, request: ConnectRequest) -> Welcome:
    welcome = await by_data(member, request)
    topics = request.data.get("topics", ()) if isinstance(request.data, dict) else ()
    return Welcome(user=welcome.user, topics=topics)


@FORMATS
async def test_topics_from_the_start_and_their_recovery(format: str) -> None:
    async with serving(on_connect=with_topics) as web:
        data = raw({"topics": ["chat:1", "secret:1", "chat:1"]})
        peer = await web.connect(format, data=data)
        subs = peer.answer(1).subs
        assert [*subs] == ["chat:1", "secret:1"]  # which members may not ask for
        assert (subs["chat:1"].recoverable, subs["chat:1"].offset) == (True, 0)
        web.server.publish("chat:1", 1)
        await settle()
        assert peer.offsets("chat:1") == [1]
        assert (await peer.subscribe("chat:1")).code == 105
        peer.connection.link.abort("test")
        for n in (2, 3):
            web.server.publish("chat:1", n)
        known = wire.SubscribeRequest(recover=True, epoch=subs["chat:1"].epoch, offset=1)
        again = await web.connect(format, data=data, subs={"chat:1": known})
        told = again.answer(1).subs["chat:1"]
        assert (told.was_recovering, told.recovered) == (True, True)
        assert [value(publication.data) for publication in told.publications] == [2, 3]


async def test_topics_from_the_start_without_rules_are_the_programs_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(on_connect=with_topics) as web:
        peer = await web.open()
        told = await peer.ask(wire.ConnectRequest(data=raw({"topics": ["chat:1", "nowhere:1"]})))
        assert told.code == 100
        assert web.server.presence("chat:1") == ()
    assert "has no rules" in caplog.text


async def test_a_hub_without_room_for_the_topics_from_the_start_refuses_the_client() -> None:
    async with serving(on_connect=with_topics, hub={"max_topics": 1}) as web:
        peer = await web.open()
        told = await peer.ask(wire.ConnectRequest(data=raw({"topics": ["chat:1", "chat:2"]})))
        assert told == wire.Error(100, "internal server error", True)
        assert not web.server.members
        assert web.hub.statistics().subscribers == 0
        assert web.server.statistics().subscriptions == 0


@FORMATS
async def test_the_program_subscribes_and_unsubscribes_a_member(format: str) -> None:
    async with serving() as web:
        peer = await web.connect(format)
        [member] = web.server.members
        web.server.publish("chat:1", 0)
        await member.subscribe("chat:1")
        await member.subscribe("chat:1")
        web.server.publish("chat:1", 1)
        await settle()
        assert member.topics == ("chat:1",)
        first, second = peer.pushes
        epoch = web.hub.topic("chat:1").epoch
        event = Subscribe(recoverable=True, epoch=epoch, offset=1, positioned=True)
        assert (first.topic, first.subscribe) == ("chat:1", event)
        assert second.pub is not None and second.pub.offset == 2
        member.unsubscribe("chat:1")
        member.unsubscribe("chat:1")
        member.unsubscribe("nowhere")
        web.server.publish("chat:1", 2)
        await settle()
        assert peer.pushes[2:] == [
            type(first)(topic="chat:1", unsubscribe=Unsubscribe(2000, "server unsubscribe"))
        ]
        assert not web.server.presence("chat:1")
        with pytest.raises(ValueError, match="nowhere"):
            await member.subscribe("nowhere")
        for code in (1999, 2503, 3000):
            with pytest.raises(ValueError, match=str(code)):
                member.unsubscribe("chat:1", code)


async def test_a_member_that_is_gone_takes_nothing_more() -> None:
    async with serving() as web:
        peer = await web.connect()
        [member] = web.server.members
        peer.connection.link.abort("test")
        await settle()
        member.unsubscribe("chat:1")
        member.dismiss()
        for ask in (member.subscribe("chat:1"), member.send(1), member.call("x")):
            with pytest.raises((trioweb.ConnectionClosed, trioweb.Refused)):
                await ask
        assert web.server.statistics().subscriptions == 0
        assert web.server.presence("chat:1") == ()


async def test_a_member_is_none_before_it_is_welcome() -> None:
    errors: list[Exception] = []

    async def on_connect(member: Member, request: ConnectRequest) -> None:
        for ask in (member.subscribe("chat:1"), member.send(1), member.call("x")):
            try:
                await ask
            except RuntimeError as exc:
                errors.append(exc)

    async with serving(on_connect=on_connect) as web:
        await web.connect()
        assert len(errors) == 3


async def test_cancelling_subscribe_leaves_the_member_out() -> None:
    async with serving() as web:
        peer = await web.connect()
        [member] = web.server.members
        with trio.CancelScope() as scope:
            scope.cancel()
            await member.subscribe("chat:1")
        assert scope.cancelled_caught
        await settle()
        assert (member.topics, peer.pushes) == ((), [])
        await member.subscribe("chat:1")
        assert member.topics == ("chat:1",)


async def test_dismiss_closes_with_a_reason() -> None:
    async with serving() as web:
        for given, wanted in (
            ((), (3503, "force disconnect")),
            ((4500,), (4500, "closed")),
            ((3000, "because"), (3000, "because")),
        ):
            peer = await web.connect()
            [member] = web.server.members
            member.dismiss(*given)
            await settle()
            assert peer.closed() == wanted
        with pytest.raises(ValueError, match="1000"):
            member.dismiss(1000)


async def test_publish_returns_the_offset_and_keeps_keys() -> None:
    async with serving() as web:
        server = web.server
        assert [server.publish("chat:1", n, key=k) for n, k in ((1, "a"), (2, "b"), (3, "a"))] == [
            1,
            2,
            1,
        ]
        with pytest.raises(ValueError, match="nowhere:1"):
            server.publish("nowhere:1", 1)
        with pytest.raises(TypeError):
            server.publish("chat:1", object())
        with pytest.raises(ValueError, match="nested"):
            nested: Any = []
            for _ in range(600):
                nested = [nested]
            server.publish("chat:1", nested)
        assert web.hub.topic("chat:1").head == 2


async def test_rules_go_by_what_stands_before_the_first_colon() -> None:
    topics = {"": TopicRules(), "a": TopicRules(publish=True), "*": TopicRules(history=True)}
    async with serving(topics=topics) as web:
        find = web.server._rules_of
        assert (find("x"), find("a:b:c"), find("b:c")) == tuple(topics.values())
        assert find("a") == topics[""]
    async with serving(topics=lambda name: topics["a"] if name == "x" else None) as web:
        peer = await web.connect()
        assert (await peer.subscribe("x")).recoverable
        assert (await peer.subscribe("y")).code == 102


async def test_a_topic_of_the_programs_with_other_settings_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as web:
        web.hub.topic("chat:1", retain=trioweb.Retain(max_messages=3)).publish("x")
        peer = await web.connect()
        assert (await peer.subscribe("chat:1")).code == 100
    assert "was made with" in caplog.text


async def test_bytes_can_be_told_from_text_in_json() -> None:
    async with serving() as web:
        peers = [await web.connect(format) for format in (JSON, PROTOBUF)]
        for peer in peers:
            await peer.subscribe("chat:1")
        web.hub.topic("chat:1").publish(b"\xff")
        web.hub.topic("chat:1").publish("/w==")
        await settle()
        told = [[one.x_bytes for one in peer.publications("chat:1")] for peer in peers]
        assert told == [[True, False], [False, False]]
