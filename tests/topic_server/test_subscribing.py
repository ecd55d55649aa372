"""Subscribing, publishing, unsubscribing: what is replied, in which order, and what follows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio

import trioweb
from tests.topic_server.support import FORMATS, JSON, PROTOBUF, Peer, raw, serving, settle, value
from trioweb import Dismiss, Granted, Member, Refuse, Retain, SubscribeRequest, TopicRules
from trioweb._centrifuge import _schema as wire


def kinds(peer: Peer) -> list[str]:
    """What came to *peer*, in its order."""
    found = []
    for reply in peer.log:
        if reply.push is not None:
            found.append(f"{type(reply.push.event).__name__} {reply.push.topic}".strip())
        else:
            found.append(f"{reply.id} {type(reply.result or reply.error).__name__}")
    return found


@FORMATS
async def test_subscribers_get_what_a_member_publishes(format: str) -> None:
    async with serving() as web:
        a, b = await web.connect(format, "ada"), await web.connect(JSON, "bob")
        for peer in (a, b):
            told = await peer.subscribe("chat:1")
            assert (told.recoverable, told.positioned, told.offset) == (True, True, 0)
            assert told.epoch == web.hub.topic("chat:1").epoch
        assert await a.publish("chat:1", {"x": [1, "ü", None]}) == wire.PublishResult()
        for peer in (a, b):
            [publication] = peer.publications("chat:1")
            assert value(publication.data) == {"x": [1, "ü", None]}
            assert publication.offset == 1
            assert publication.info is not None
            assert publication.info.user == "ada"
            assert value(publication.info.conn_info) == {"name": "ada"}


@FORMATS
async def test_a_publication_reaches_everybody_in_their_own_encoding(format: str) -> None:
    """Text, JSON and bytes, of members and of the program: nobody's decoder fails."""
    async with serving() as web:
        peer = await web.connect(format)
        await peer.subscribe("chat:1")
        topic = web.hub.topic("chat:1")
        topic.publish("no json")
        topic.publish(b"\xff\x00")
        topic.publish('[1, "x"]', kind="json")
        web.server.publish("chat:1", {"a": 1.5}, tags={"b": "c"})
        web.server.publish("chat:1", b"\xfe")
        await settle()
        found = [bytes(p.data) for p in peer.publications("chat:1") if p.data]
        if format == JSON:
            assert found == [b'"no json"', b'"/wA="', b'[1, "x"]', b'{"a":1.5}', b'"/g=="']
        else:
            assert found == [b"no json", b"\xff\x00", b'[1, "x"]', b'{"a":1.5}', b"\xfe"]
        assert [dict(p.tags) for p in peer.publications("chat:1")] == [{}, {}, {}, {"b": "c"}, {}]


@FORMATS
async def test_a_json_string_comes_back_as_it_was_published(format: str) -> None:
    async with serving() as web:
        peer = await web.connect(format)
        await peer.subscribe("chat:1")
        await peer.publish("chat:1", "line\nbreak")
        web.server.publish("chat:1", "")
        await settle()
        assert [value(p.data) for p in peer.publications("chat:1")] == ["line\nbreak", ""]


async def test_subscribe_and_publish_in_one_message_bring_ones_own_publication() -> None:
    async with serving() as web:
        peer = await web.connect()
        await peer.send(
            wire.SubscribeRequest(topic="chat:1"),
            wire.PublishRequest(topic="chat:1", data=raw(1)),
        )
        await settle()
        assert sorted(kinds(peer)[1:]) == [
            "2 SubscribeResult",
            "3 PublishResult",
            "Publication chat:1",
        ]
        assert kinds(peer)[1] == "2 SubscribeResult"
        assert peer.offsets("chat:1") == [1]


async def test_everything_in_one_message_is_answered_in_one() -> None:
    async with serving() as web:
        peer = await web.open()
        await peer.send(
            wire.ConnectRequest(),
            wire.SubscribeRequest(topic="chat:1"),
            wire.SubscribeRequest(topic="chat:2"),
            wire.SubscribeRequest(topic="nowhere:1"),
        )
        await settle()
        assert kinds(peer) == [
            "1 ConnectResult",
            "2 SubscribeResult",
            "3 SubscribeResult",
            "4 Error",
        ]
        assert peer.connection.statistics().messages_received == 1
        assert peer.answer(4) == wire.Error(102, "unknown channel")


async def test_nothing_of_a_topic_comes_behind_the_reply_to_unsubscribe() -> None:
    async with serving() as web:
        peer = await web.connect()
        await peer.subscribe("chat:1")
        for _ in range(3):
            web.server.publish("chat:1", 0)
        [id] = await peer.send(wire.UnsubscribeRequest(topic="chat:1"))
        await settle()
        web.server.publish("chat:1", 0)
        await settle()
        assert peer.answer(id) == wire.UnsubscribeResult()
        assert peer.log[-1].id == id
        assert web.server.presence("chat:1") == ()
        # What is not subscribed can be unsubscribed.
        assert await peer.ask(wire.UnsubscribeRequest(topic="chat:1")) == wire.UnsubscribeResult()


@pytest.mark.parametrize("max_bytes", [1000, 65536])
async def test_a_reply_comes_before_its_publications_on_a_busy_topic(max_bytes: int) -> None:
    """And every offset behind it, once."""
    async with serving(max_bytes=max_bytes) as web:

        async def publish() -> None:
            while True:
                web.server.publish("chat:busy", "x" * 50)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for _ in range(10):
                peer = await web.open()
                await peer.send(wire.ConnectRequest(), wire.SubscribeRequest(topic="chat:busy"))
                while len(peer.log) < 30:
                    await trio.lowlevel.checkpoint()
                assert [reply.id for reply in peer.log[:2]] == [1, 2]
                start = peer.answer(2).offset
                offsets = peer.offsets("chat:busy")
                assert offsets == list(range(start + 1, start + 1 + len(offsets)))
            nursery.cancel_scope.cancel()


async def test_what_may_not_be_is_refused_and_nothing_else_ends() -> None:
    async with serving() as web:
        peer = await web.connect()
        errors = [
            (await peer.subscribe("nowhere:1"), 102),
            (await peer.subscribe("nowhere"), 102),
            (await peer.subscribe("secret:1"), 103),
            (await peer.subscribe("chat:" + "x" * 251), 107),
            (await peer.subscribe("chat:1", tf=wire.FilterNode(key="a")), 107),
            (await peer.subscribe("chat:1", type=1), 108),
            (await peer.publish("chat:1", 1), 103),  # not subscribed
            (await peer.publish("nowhere:1", 1), 102),
            (await peer.ask(wire.SubRefreshRequest(topic="chat:1", token="x")), 103),
            (await peer.ask(wire.RefreshRequest(token="x")), 108),
        ]
        assert [error.code for error, _ in errors] == [code for _, code in errors]
        assert all(error.message and not error.temporary for error, _ in errors)
        for name, is_too_long in (("x" * 250, False), ("ü" * 125, False), ("ü" * 126, True)):
            told = await peer.subscribe(f"chat:{name}")  # 5 bytes before that
            assert (isinstance(told, wire.Error) and told.code == 107) == is_too_long
        await peer.subscribe("plain:1")
        assert (await peer.publish("plain:1", 1)).code == 103
        assert (await peer.subscribe("plain:1")).code == 105
        assert peer.connection.state is trioweb.State.OPEN


async def test_a_member_has_so_many_topics_and_no_more() -> None:
    async with serving() as web:
        peer = await web.connect()
        ids = await peer.send(*(wire.SubscribeRequest(topic=f"chat:{n}") for n in range(129)))
        await settle()
        assert [type(peer.answer(id)).__name__ for id in ids[:-1]] == ["SubscribeResult"] * 128
        assert peer.answer(ids[-1]).code == 106
        await peer.ask(wire.UnsubscribeRequest(topic="chat:0"))
        assert (await peer.subscribe("chat:128")).recoverable


@FORMATS
async def test_very_many_subscriptions_of_one_message_begin_some_at_a_time(format: str) -> None:
    """Others have their turns in between: each takes as long as a few deliveries."""
    async with serving() as web:
        peer = await web.open(format)
        topics = [wire.SubscribeRequest(topic=f"chat:{n}") for n in range(128)]
        began: list[int] = []

        class Counting(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                began.append(web.server.statistics().subscriptions)

        instrument = Counting()
        trio.lowlevel.add_instrument(instrument)
        ids = await peer.send(wire.ConnectRequest(), *topics)
        await settle()
        trio.lowlevel.remove_instrument(instrument)
        assert web.server.statistics().subscriptions == 128
        assert [reply.id for reply in peer.log] == ids
        assert max(after - before for before, after in pairwise(began)) <= 32
        assert peer.connection.statistics().messages_received == 5


async def test_subscribe_that_waits_then_unsubscribe_then_subscribe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def on_subscribe(member: Member, request: SubscribeRequest) -> None:
        await trio.sleep(1)

    async with serving(on_subscribe=on_subscribe) as web:
        peer = await web.connect()
        await peer.send(wire.SubscribeRequest(topic="chat:1"))
        await peer.send(wire.UnsubscribeRequest(topic="chat:1"))
        await peer.send(wire.SubscribeRequest(topic="chat:1"))
        await trio.sleep(3)
        assert kinds(peer)[1:] == ["2 SubscribeResult", "3 UnsubscribeResult", "4 SubscribeResult"]
        assert web.hub.topic("chat:1").subscribers == 1
        assert web.server.statistics().subscriptions == 1


async def test_a_callable_decides_about_a_subscription() -> None:
    seen = []

    async def on_subscribe(member: Member, request: SubscribeRequest) -> Granted | None:
        seen.append((member.user, request))
        if request.token == "no":
            raise Refuse(700, "not you")
        return Granted(data={"hi": 1}, publish=False, recover=None) if request.token else None

    async with serving(on_subscribe=on_subscribe) as web:
        peer = await web.connect(user="ada")
        assert await peer.subscribe("chat:1", token="no") == wire.Error(700, "not you")
        told = await peer.subscribe("chat:1", token="yes", data=raw([1]))
        assert (value(told.data), told.recoverable, told.epoch) == ({"hi": 1}, False, "")
        assert (await peer.publish("chat:1", 1)).code == 103
        assert (await peer.subscribe("secret:1")).code == 103
        assert seen[1] == ("ada", SubscribeRequest("chat:1", "yes", [1], None))


async def test_a_callable_checks_or_replaces_what_is_published() -> None:
    async def on_publish(member: Member, topic: str, data: object) -> object:
        if data == "no":
            raise Refuse(107, "bad words")
        return {"was": data} if data == "change" else None

    async with serving(on_publish=on_publish) as web:
        peer = await web.connect()
        await peer.subscribe("chat:1")
        assert (await peer.publish("chat:1", "no")).message == "bad words"
        await peer.publish("chat:1", "change")
        await peer.publish("chat:1", 1)
        assert [value(p.data) for p in peer.publications("chat:1")] == [{"was": "change"}, 1]


async def test_a_failing_callable_is_logged_and_can_be_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def on_subscribe(member: Member, request: SubscribeRequest) -> None:
        raise ZeroDivisionError

    async with serving(on_subscribe=on_subscribe) as web:
        peer = await web.connect()
        assert await peer.subscribe("chat:1") == wire.Error(100, "internal server error", True)
        assert (await peer.subscribe("chat:1")).code == 100  # and not 105
    assert "ZeroDivisionError" in caplog.text


@FORMATS
@pytest.mark.parametrize(
    ("callback", "request_"),
    [
        ("on_connect", wire.ConnectRequest(token="x")),
        ("on_subscribe", wire.SubscribeRequest(topic="chat:2")),
        ("on_publish", wire.PublishRequest(topic="chat:1", data=raw(1))),
        ("on_refresh", wire.RefreshRequest(token="x")),
        ("on_renew", wire.SubRefreshRequest(topic="chat:1", token="x")),
    ],
)
async def test_whichever_callable_fails_or_dismisses_it_is_told(
    callback: str, request_: Any, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault: Exception = ZeroDivisionError("of the program's own")

    async def fail(*args: Any) -> Any:
        request = args[-1]
        is_asked = getattr(request, "token", "x") or getattr(request, "topic", "") == "chat:2"
        if is_asked:
            raise fault

    given: dict[str, Any] = {callback: fail}
    async with serving(**given) as web:
        for fault in (ZeroDivisionError("of the program's own"), Dismiss(4501)):
            peer = await web.open(format)
            if callback != "on_connect":
                await peer.send(wire.ConnectRequest(), wire.SubscribeRequest(topic="chat:1"))
            [id] = await peer.send(request_)
            await settle()
            if isinstance(fault, Dismiss):
                assert peer.closed() == (4501, "closed")
            else:
                assert peer.answer(id) == wire.Error(100, "internal server error", True)
                assert peer.closed() == (None, "")
    assert len(caplog.records) == 1


async def test_a_full_hub_can_be_tried_again() -> None:
    async with serving(hub={"max_topics": 1}) as web:
        a, b = await web.connect(), await web.connect()
        await a.subscribe("chat:1")
        assert await b.subscribe("chat:2") == wire.Error(100, "internal server error", True)
        await a.ask(wire.UnsubscribeRequest(topic="chat:1"))
        assert (await b.subscribe("chat:2")).recoverable


async def test_a_publication_is_encoded_once_for_each_encoding() -> None:
    async with serving() as web:
        for format in (JSON, PROTOBUF) * 3:
            peer = await web.connect(format)
            await peer.subscribe("chat:1", join_leave=True)
        assert len(web.hub.topic("chat:1")._members) == 2
        assert len(web.server._announcer.changes("chat:1")._members) == 2


async def test_who_does_not_read_is_not_read_from(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However much it asks for."""
    async with serving() as web:
        peer = await web.connect()
        await peer.subscribe("chat:1")
        for _ in range(10):
            web.server.publish("chat:1", "x" * 10_000)
        await settle()
        [member] = web.server.members
        with web.network.stall("client"):
            await peer.send(*[wire.HistoryRequest(topic="chat:1", limit=10)] * 100)
            for _ in range(50):
                await trio.sleep(0.1)
                assert member.connection.buffered_amount < 300_000  # of 10 MB
        await trio.sleep(30)
        assert len(peer.log) >= 100


async def test_who_does_not_read_is_closed_with_3008_and_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web:
        slow, other = await web.connect(), await web.connect(client="other")
        for peer in (slow, other):
            await peer.subscribe("chat:1")
        connection = web.server.presence("chat:1")[0].connection
        with web.network.freeze("client"):
            for number in range(1, 201):  # 10 MB
                web.server.publish("chat:1", "x" * 50_000)
                await trio.sleep(0.03)
                assert connection.buffered_amount < 2**17
                # Nobody else waits for it.
                assert other.offsets("chat:1")[-1] == number
            assert (connection.close_code, connection.close_reason) == (3008, "slow")
            assert len(web.server.presence("chat:1")) == 1
        await trio.sleep(1)
        assert slow.closed() == (3008, "slow")
        assert other.offsets("chat:1") == list(range(1, 201))


async def test_where_all_is_recovered_nothing_is_passed_over_whatever_a_topic_is_for_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    topics = {"all": TopicRules(retain=Retain(max_messages=3)), "now": TopicRules(recover="latest")}
    async with serving(topics=topics) as web:
        made = [
            web.hub.topic("all:1", retain=topics["all"].retain, slow="skip"),
            web.hub.topic("now:1", slow="latest"),
        ]
        slow, tolerant = await web.connect(client="slow"), await web.connect(client="tolerant")
        await slow.subscribe("all:1")
        await tolerant.subscribe("now:1")
        with web.network.freeze(["slow", "tolerant"]):
            for number in range(100):
                for topic in ("all:1", "now:1"):
                    web.server.publish(topic, f"{number}" + "x" * 20_000)
                await trio.sleep(0.1)
        await trio.sleep(1)
        assert slow.closed() == (3008, "slow")
        offsets = slow.offsets("all:1")
        assert offsets == list(range(1, len(offsets) + 1))
        assert tolerant.closed() == (None, "")
        assert tolerant.offsets("now:1")[-1] == 100
        assert [topic.slow for topic in made] == ["skip", "latest"]
