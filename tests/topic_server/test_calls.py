"""Calls, in both directions, and messages outside of topics."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from tests.topic_server.support import FORMATS, JSON, PROTOBUF, Peer, raw, serving, settle, value
from trioweb import ConnectionClosed, Dismiss, Member, MemberLimits, Refuse, Refused
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Command


async def echo(member: Member, data: Any) -> Any:
    return data


async def fail(member: Member, data: Any) -> None:
    raise Refuse(1400, "as you wish", temporary=True)


async def fail_in_a_nursery(member: Member, data: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, member, data)


async def boom(member: Member, data: Any) -> None:
    raise ZeroDivisionError


async def dismiss(member: Member, data: Any) -> None:
    raise Dismiss(4000, "off you go")


async def no_json(member: Member, data: Any) -> object:
    return object()


async def sleep(member: Member, data: Any) -> str:
    await trio.sleep(data)
    return "slept"


CALLS = {
    function.__name__: function
    for function in (echo, fail, fail_in_a_nursery, boom, dismiss, no_json, sleep)
}


def call(method: str, data: object = None, **given: Any) -> wire.RPCRequest:
    return wire.RPCRequest(method=method, data=raw(data), **given)


@FORMATS
async def test_a_call_returns_what_the_function_does(format: str) -> None:
    async with serving(calls=CALLS) as web:
        peer = await web.connect(format)
        data: Any
        for data in ({"a": [1, "ü", None, 1.5]}, "", 0, 2**80, None, [[]]):
            assert value((await peer.ask(call("echo", data))).data) == data
        assert value((await peer.ask(wire.RPCRequest(method="echo"))).data) is None
        assert await peer.ask(call("nothing")) == wire.Error(104, "method not found")
        for method in ("fail", "fail_in_a_nursery"):
            assert await peer.ask(call(method)) == wire.Error(1400, "as you wish", True)


async def test_bytes_of_a_protobuf_client_are_bytes() -> None:
    async with serving(calls=CALLS) as web:
        peer = await web.connect(PROTOBUF)
        told = await peer.ask(wire.RPCRequest(method="echo", data=msgspec.Raw(b"\xff\x00")))
        assert bytes(told.data) == b"\xff\x00"


async def test_a_function_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(calls=CALLS) as web:
        peer = await web.connect()
        for method in ("boom", "no_json"):
            assert await peer.ask(call(method)) == wire.Error(100, "internal server error", True)
        await peer.ask(wire.UnsubscribeRequest(topic="x"))
        [id] = await peer.send(call("dismiss"))
        await settle()
        assert peer.closed() == (4000, "off you go")
        assert not [reply for reply in peer.log if reply.id == id]
    assert len(caplog.records) == 2


async def test_a_slow_call_delays_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(calls=CALLS) as web:
        peer = await web.connect()
        await peer.send(call("sleep", 5), call("echo", 1))
        await trio.sleep(0.1)
        assert peer.answer(3).data
        assert web.server.statistics().calls == 1
        await trio.sleep(5)
        assert value(peer.answer(2).data) == "slept"


async def test_many_calls_wait_for_their_place_and_none_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(calls=CALLS, limits_of_members=MemberLimits(max_calls=10), ping=2) as web:
        peer = await web.connect()
        ids = await peer.send(*[call("sleep", 1)] * 100)
        for second in range(1, 11):
            await trio.sleep(0.5)
            assert web.server.statistics().calls == 10
            await trio.sleep(0.5)
            answered = [reply for reply in peer.log if reply.id in ids]
            assert len(answered) in ((second - 1) * 10, second * 10)
        await trio.sleep(0.1)
        assert {value(peer.answer(id).data) for id in ids} == {"slept"}
        assert peer.closed() == (None, "")
        assert len(peer.pings) == 5


@FORMATS
async def test_messages_go_both_ways_outside_of_topics(format: str) -> None:
    taken: list[Any] = []

    async def on_message(member: Member, data: Any) -> None:
        if data == "no":
            raise Refuse(500)  # there is nobody to be told
        taken.append(data)
        await member.send({"got": data})

    async with serving(on_message=on_message) as web:
        peer = await web.connect(format)
        await peer.send(wire.SendRequest(data=raw("no")))
        await peer.send(wire.SendRequest(data=raw([1])))
        await settle()
        assert taken == [[1]]
        [push] = peer.pushes
        assert push.message is not None
        assert value(push.message.data) == {"got": [1]}


# What only clients of trioweb's own can do.


async def extended(web: Any, format: str = JSON) -> Peer:
    peer: Peer = await web.connect(format, x_trioweb=1)
    assert peer.answer(1).x_trioweb == 1
    return peer


@FORMATS
async def test_a_calls_deadline_is_kept(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(calls=CALLS) as web:
        peer, stock = await extended(web, format), await web.connect(format)
        assert stock.answer(1).x_trioweb == 0
        for each in (peer, stock):
            await each.send(call("sleep", 5, x_timeout=1500))
        await trio.sleep(1.6)
        assert peer.answer(2) == wire.Error(408, "deadline passed")
        await trio.sleep(5)
        assert value(stock.answer(2).data) == "slept"


@FORMATS
async def test_a_cancelled_call_is_cancelled_at_work(format: str) -> None:
    ended = []

    async def work(member: Member, data: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(data)

    async with serving(calls={"work": work}) as web:
        peer = await extended(web, format)
        a, b = await peer.send(call("work", "a", x_timeout=60_000), call("work", "b"))
        await settle()
        cancel = Command(x_cancel=wire.CancelRequest(id=a))
        await peer.connection.send(peer.codec.encode(cancel))
        await settle()
        assert ended == ["a"]
        assert not [reply for reply in peer.log if reply.id in (a, b)]
        assert web.server.statistics().calls == 1


@FORMATS
async def test_the_program_calls_a_client(format: str) -> None:
    results: list[Any] = []

    async def ask(member: Member, method: str, data: Any) -> None:
        try:
            results.append(await member.call(method, data))
        except (Refused, ConnectionClosed) as exc:
            results.append(exc)

    async with serving() as web:
        peer = await extended(web, format)
        [member] = web.server.members
        async with trio.open_nursery() as nursery:
            for method in ("one", "two", "three"):
                nursery.start_soon(ask, member, method, {"n": method})
                await settle()
            calls = [push.call for push in peer.pushes if push.call is not None]
            assert [value(one.data) for one in calls] == [{"n": one.method} for one in calls]
            by_method = {one.method: one.id for one in calls}
            for answer in (
                wire.AnswerRequest(id=by_method["two"], data=raw([2])),
                wire.AnswerRequest(id=by_method["two"], data=raw("again")),
                wire.AnswerRequest(id=by_method["one"], error=wire.Error(104, "no such")),
            ):
                await peer.connection.send(peer.codec.encode(Command(x_answer=answer)))
            await settle()
            peer.connection.link.abort("test")
        assert results[0] == [2] or results[1] == [2]
        refused = next(one for one in results if isinstance(one, Refused))
        assert (refused.code, refused.message) == (104, "no such")
        assert isinstance(results[2], ConnectionClosed)
        stock = await web.connect(format)
        [member] = web.server.members
        await ask(member, "one", None)
        assert results[3].code == 108
        assert not stock.pushes


@FORMATS
async def test_a_publication_with_a_key_is_published_once_for_each_publisher(format: str) -> None:
    async with serving() as web:
        for user in ("ada", "ada", "bob"):
            peer = await web.connect(format, user)
            await peer.subscribe("chat:1")
            for _ in range(2):
                told = await peer.publish("chat:1", user, x_key="k1")
                assert told == wire.PublishResult()
        assert web.hub.topic("chat:1").head == 2
        assert (await peer.publish("chat:1", 1, x_key="k" * 256)).code == 107
