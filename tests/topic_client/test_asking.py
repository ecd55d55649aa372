"""Publishing, calling, and asking: what is done once, what is asked again, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import Fake, against, client_of, cut
from tests.topic_server.support import FORMATS, JSON, PROTOBUF, serving, settle
from trioweb import ConnectionClosed, Member, Refuse, Refused
from trioweb.testing import Chunk, Cut


async def echo(member: Member, data: Any) -> Any:
    return data


async def test_history_and_presence_are_told(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web, client_of(web, data={"user": "ann"}) as client:
        async with client.subscription("chat:1"):
            for number in range(3):
                web.server.publish("chat:1", number)
            epoch = web.hub.topic("chat:1").epoch
            told = await client.history("chat:1")
            assert [each.data for each in told.publications] == [0, 1, 2]
            assert told.position == (epoch, 3)
            told = await client.history("chat:1", limit=1, since=(epoch, 3), reverse=True)
            assert [each.data for each in told.publications] == [1]
            assert (await client.history("chat:1", limit=0)).publications == []
            with pytest.raises(Refused) as caught:
                await client.history("chat:1", since=("another", 1))
            assert caught.value.code == 112
            ann = trioweb.MemberInfo("ann", client.id, {"name": "ann"})
            assert await client.presence("chat:1") == {client.id: ann}
            assert await client.presence_stats("chat:1") == trioweb.PresenceStatistics(1, 1)


async def test_what_changes_nothing_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("chat:1"):
            web.server.publish("chat:1", 1)
            with _lost_replies(web, b"}}", 2) as lost:
                assert len((await client.history("chat:1")).publications) == 1
            assert lost() == 2


@FORMATS
async def test_a_publication_is_made_once_however_often_its_reply_is_lost(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as web, client_of(web, subprotocols=[format]) as client:
        async with client.subscription("chat:1") as chat:
            reply = {JSON: b'"publish":{}}', PROTOBUF: b"\x42\0"}[format]
            with _lost_replies(web, reply, 3) as lost:
                await client.publish("chat:1", "once only")
            assert lost() == 3
            assert web.hub.topic("chat:1").head == 1
            assert (await anext(chat)).data == "once only"
            await client.publish("chat:1", "once only")
            assert web.hub.topic("chat:1").head == 2


async def test_to_another_server_a_publication_is_sent_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fake.replies["publish"] = None
    async with against(fake) as client:
        await client.wait_open()
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                with pytest.raises(ConnectionClosed):
                    await client.publish("news", 1)

            nursery.start_soon(publish)
            await settle()
            await fake.connections[0].aclose(3000, "connection closed")
        await trio.sleep(3)
        assert len(fake.connections) == 2
        assert fake.names().count("publish") == 1
        assert not [each for each in fake.said if "x_key" in str(each)]


async def test_who_publishes_waits_for_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as web:
        web.network.refuse("server", duration=3)
        async with client_of(web) as client, trio.open_nursery() as nursery:
            assert client.state is trioweb.State.CONNECTING
            await client.wait_open()
            async with client.subscription("chat:1") as chat:
                web.network.refuse("server", duration=3)
                await cut(web)
                # Behind the subscription, which it needs.
                nursery.start_soon(client.publish, "chat:1", 1)
                assert (await anext(chat)).data == 1


@FORMATS
async def test_calls_return_what_the_function_does(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def refuse(member: Member, data: Any) -> None:
        raise Refuse(1400, "as you wish", temporary=True)

    calls = {"echo": echo, "refuse": refuse}
    async with serving(calls=calls) as web, client_of(web, subprotocols=[format]) as client:
        for data in ({"a": [1, None]}, 1.5, "", None):
            assert await client.call("echo", data) == data
        with pytest.raises(Refused) as caught:
            await client.call("refuse")
        error = caught.value
        assert (error.code, error.message, error.temporary) == (1400, "as you wish", True)
        with pytest.raises(TypeError):
            await client.call("echo", object())


async def test_a_calls_deadline_and_cancellation_reach_the_function(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends: list[float] = []

    async def sleep(member: Member, data: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async with serving(calls={"sleep": sleep}) as web, client_of(web) as client:
        await client.wait_open()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "sleep")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        await settle()
        assert ends == [pytest.approx(began + 1, abs=0.1)]
        # Where the client cannot tell, the function knows the deadline.
        began = trio.current_time()
        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "sleep")
                await settle()
                web.network.partition("client", duration=10)
        await trio.sleep(1)
        assert ends[1:] == [pytest.approx(began + 2, abs=0.1)]


async def test_a_call_in_a_scope_that_is_cancelled_already_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(calls={}) as web, client_of(web) as client:
        await client.wait_open()
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call("anything")
        assert scope.cancelled_caught


async def test_a_call_is_sent_once(autojump_clock: trio.testing.MockClock) -> None:
    calls: list[Any] = []

    async def note(member: Member, data: Any) -> None:
        calls.append(data)
        await trio.sleep_forever()

    async with serving(calls={"note": note}) as web, client_of(web) as client:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ConnectionClosed):
                    await client.call("note", 1)

            nursery.start_soon(call)
            await settle()
            await cut(web)
        await trio.sleep(3)
        await client.wait_open()
        assert calls == [1]


async def test_the_server_calls_the_client(autojump_clock: trio.testing.MockClock) -> None:
    cancelled: list[bool] = []

    async def double(data: Any) -> Any:
        return data * 2

    async def refuse(data: Any) -> None:
        raise Refuse(1401, "not today")

    async def boom(data: Any) -> None:
        raise ZeroDivisionError

    async def hang(data: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    calls = {"double": double, "refuse": refuse, "boom": boom, "hang": hang}
    async with serving() as web, client_of(web, calls=calls) as client:
        await client.wait_open()
        [member] = web.server.members
        assert await member.call("double", 21) == 42
        for name, code in ("refuse", 1401), ("boom", 100), ("nothing", 104):
            with pytest.raises(Refused) as caught:
                await member.call(name, None)
            assert caught.value.code == code
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ConnectionClosed):
                    await member.call("hang", None)

            nursery.start_soon(call)
            await settle()
            await cut(web)
        assert cancelled == [True]


async def test_messages_go_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async def on_message(member: Member, data: Any) -> None:
        await member.send({"got": data})

    async with serving(on_message=on_message) as web, client_of(web) as client:
        messages = client.messages(max_messages=2)
        await client.send([1])
        assert await anext(messages) == {"got": [1]}
        for number in range(5):
            await client.send(number)
        await settle()
        with pytest.raises(trioweb.Lagged) as caught:
            await anext(messages)
        assert caught.value.skipped == 3
        assert [(await anext(messages))["got"] for _ in range(2)] == [3, 4]
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


class _lost_replies:
    """Drops what the server says with *words* in it, and ends the connection, *count* times."""

    def __init__(self, web: Any, words: bytes, count: int) -> None:
        self._web, self._words, self._count = web, words, count
        self._lost = 0

    def __enter__(self) -> Callable[[], int]:
        self._fault = self._web.network.intercept(self._rule, "server")
        return lambda: self._lost

    def __exit__(self, *_: object) -> None:
        self._fault.heal()

    def _rule(self, chunk: Chunk) -> Cut | None:
        if chunk.data.endswith(self._words) and self._lost < self._count:
            self._lost += 1
            return Cut()
        return None
