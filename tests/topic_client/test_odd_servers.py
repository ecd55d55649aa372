"""What a server by hand says and does not say: pings, errors, lies, silence."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random
from typing import Any, Final

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import Fake, against
from tests.topic_server.support import settle
from trioweb import Gap, GaveUp, Refused


async def test_one_pong_answers_one_ping_and_only_where_one_is_wanted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    for pong in (True, False):
        fake.said.clear()
        fake.replies["connect"] = {"connect": {"client": "c", "ping": 25, "pong": pong}}
        async with against(fake) as client:
            await client.wait_open()
            for count in range(1, 4):
                await trio.sleep(25)
                await fake.push({})
                await settle()
                assert fake.said[1:] == [{}] * (count if pong else 0)
            await trio.sleep(30)
            assert len(fake.said) == (4 if pong else 1)


async def test_a_ping_right_behind_the_reply_to_connect_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()

    async def handle(connection: trioweb.Connection) -> None:
        fake.said.append({"first": await connection.receive()})
        await connection.send('{"id":1,"connect":{"client":"c","ping":25,"pong":true}}\n{}')
        fake.said.append({"second": await connection.receive()})
        await trio.sleep_forever()

    fake.handle = handle  # type: ignore[method-assign]
    async with against(fake) as client:
        await client.wait_open()
        await settle()
        assert fake.said[1] == {"second": "{}"}


async def test_a_server_without_its_ping_is_left(autojump_clock: trio.testing.MockClock) -> None:
    fake = Fake()
    fake.replies["connect"] = {"connect": {"client": "c", "ping": 25, "pong": True}}
    async with against(fake) as client:
        await client.wait_open()
        began = trio.current_time()
        await trio.sleep(34)
        assert len(fake.connections) == 1
        # What else it says is no ping.
        await fake.push({"push": {"channel": "x", "pub": {"data": 1}}})
        await trio.sleep(3)
        assert len(fake.connections) == 2
        assert trio.current_time() == began + 37
        assert "no ping" in str(client.last_error)


async def test_a_program_that_stood_still_reads_the_pings_that_have_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fake.replies["connect"] = {"connect": {"client": "c", "ping": 25, "pong": True}}
    async with against(fake) as client:
        await client.wait_open()
        await fake.push({})
        await trio.testing.wait_all_tasks_blocked()
        autojump_clock.jump(40)
        await fake.push({})
        await trio.sleep(20)
        assert len(fake.connections) == 1


async def test_nothing_is_extended_before_the_server_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    async with against(fake) as client, client.subscription("news"):
        await client.publish("news", 1)
        with trio.move_on_after(1):
            fake.replies["rpc"] = None
            await client.call("method")
    for command in fake.said[1:]:
        assert "x_" not in str(command)
    assert fake.said[0]["connect"]["x_trioweb"] == 1
    assert "send" not in fake.names()


async def test_tokens_are_asked_for_once_more_when_they_have_expired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    tokens: list[str] = []

    async def token() -> str:
        tokens.append(f"token {len(tokens) + 1}")
        return tokens[-1]

    def connect(command: dict[str, Any]) -> dict[str, Any]:
        if command["connect"]["token"] == "token 1":
            return {"error": {"code": 109, "message": "token expired"}}
        return {"connect": {"client": "c"}}

    def subscribe(command: dict[str, Any]) -> dict[str, Any]:
        if command["subscribe"]["token"] == "token 3":
            return {"error": {"code": 109, "message": "token expired"}}
        return {"subscribe": {}}

    fake.replies.update(connect=connect, subscribe=subscribe)
    async with against(fake, token=token) as client:
        await client.wait_open()
        assert len(fake.connections) == 1
        assert trio.current_time() < 0.1  # at once
        async with client.subscription("news", token=token):
            assert trio.current_time() < 0.1
        assert tokens == ["token 1", "token 2", "token 3", "token 4"]
        # One that is good is kept.
        await fake.connections[0].aclose(3000, "connection closed")
        await trio.sleep(2)
        assert len(tokens) == 4
        # Not beyond a connection that its end has ended.
        await fake.connections[1].aclose(3005, "connection expired")
        await trio.sleep(2)
        assert len(tokens) == 5


async def test_tokens_are_renewed_before_they_expire(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fails = 0

    async def token() -> str:
        nonlocal fails
        if fails:
            fails -= 1
            raise OSError("the office is closed")
        return f"token at {trio.current_time():.0f}"

    expires = {"expires": True, "ttl": 100}
    fake.replies["connect"] = {"connect": {"client": "c", **expires}}
    fake.replies["refresh"] = {"refresh": {"client": "c", **expires}}
    fake.replies["subscribe"] = {"subscribe": {"expires": True, "ttl": 50}}
    fake.replies["sub_refresh"] = {"sub_refresh": {"expires": True, "ttl": 50}}
    async with against(fake, token=token) as client:
        async with client.subscription("news", token=token):
            await trio.sleep(89)
            assert fake.names() == ["connect", "subscribe", "sub_refresh"]
            await trio.sleep(10)
            assert fake.names()[3:] == ["sub_refresh", "refresh"] or fake.names()[3:] == [
                "refresh",
                "sub_refresh",
            ]
            assert fake.said[2]["sub_refresh"]["token"] == "token at 45"
            fails = 2
            await trio.sleep(80)
            assert fake.names()[5:].count("sub_refresh") == 1
            await trio.sleep(5)
            assert "refresh" in fake.names()[5:]
        assert len(fake.connections) == 1


async def test_a_token_that_fails_for_a_while_is_asked_for_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked in (1, 3, 4):
            raise OSError("the office is closed")
        return "good"

    async with against(fake, token=token) as client:
        async with client.subscription("news", token=token):
            assert asked == 5

    async def broken() -> str:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, allow_unwrapped=True, flatten_subgroups=True):
        async with against(fake) as client:
            async with client.subscription("news", token=broken):
                raise AssertionError("the block must not begin")


async def test_who_is_not_let_in_is_told(autojump_clock: trio.testing.MockClock) -> None:
    fake = Fake()
    fake.replies["connect"] = {"error": {"code": 101, "message": "unauthorized"}}
    with pytest.raises(Refused, match="unauthorized"):
        async with against(fake) as client:
            await client.wait_open()
    assert len(fake.connections) == 1
    fake.replies["connect"] = {"error": {"code": 100, "message": "busy", "temporary": True}}
    async with against(fake) as client:
        with trio.move_on_after(5) as scope:
            await client.wait_open()
        assert scope.cancelled_caught
        assert len(fake.connections) > 4
        fake.replies["connect"] = {"connect": {"client": "c"}}
        await client.wait_open()


@pytest.mark.parametrize(
    ("code", "comes_back"), [(3000, True), (3001, True), (1008, True), (3503, False), (4500, False)]
)
async def test_the_code_of_a_close_says_whether_to_come_back(
    code: int, comes_back: bool, autojump_clock: trio.testing.MockClock
) -> None:
    fake = Fake()
    told = False
    try:
        async with against(fake) as client, client.subscription("news") as news:
            await fake.connections[0].aclose(code, "so it is")
            await trio.sleep(5)
            assert len(fake.connections) == (2 if comes_back else 1)
            if not comes_back:
                for _ in range(2):
                    with pytest.raises(GaveUp):
                        await anext(news)
                with pytest.raises(GaveUp):
                    await client.publish("news", 1)
                told = True
        assert comes_back or told
    except GaveUp:
        raise AssertionError("it was told already") from None


async def test_giving_up_is_told_by_the_block_if_by_nobody_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    with pytest.raises(GaveUp):
        async with against(fake) as client:
            await client.wait_open()
            await fake.connections[0].aclose(3503, "force disconnect")
            await trio.sleep(1)


async def test_positions_are_dropped_where_the_server_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    state = {"recoverable": True, "positioned": True, "epoch": "one", "offset": 5}
    fake.replies["subscribe"] = {"subscribe": state}
    async with against(fake) as client, client.subscription("news") as news:
        await fake.push({"push": {"channel": "news", "pub": {"data": 1, "offset": 6}}})
        assert (await anext(news)).data == 1
        assert news.position == ("one", 6)
        await fake.push({"push": {"channel": "news", "unsubscribe": {"code": 2502}}})
        with pytest.raises(Gap):
            await anext(news)
        assert "recover" not in fake.said[-1]["subscribe"]
        await fake.connections[0].aclose(3014, "state invalidated")
        with pytest.raises(Gap):
            await anext(news)
        assert "recover" not in fake.said[-1]["subscribe"]
        await fake.connections[1].aclose(3000, "connection closed")
        await trio.sleep(2)
        again = fake.said[-1]["subscribe"]
        assert (again["recover"], again["epoch"], again["offset"]) == (True, "one", 5)


async def test_publications_come_once_even_if_they_are_sent_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    state = {"recoverable": True, "positioned": True, "epoch": "one", "offset": 5}
    fake.replies["subscribe"] = {"subscribe": state}
    async with against(fake) as client, client.subscription("news") as news:
        for offset in (5, 6, 6, 7, 5):
            await fake.push(
                {"push": {"channel": "news", "pub": {"data": offset, "offset": offset}}}
            )
        assert [(await anext(news)).data for _ in range(2)] == [6, 7]
        recovered = {
            "recovered": True,
            "was_recovering": True,
            "publications": [{"data": n, "offset": n} for n in (7, 8)],
        }
        fake.replies["subscribe"] = {"subscribe": {**state, "offset": 7, **recovered}}
        await fake.connections[0].aclose(3000, "connection closed")
        assert (await anext(news)).data == 8
        await settle()
        assert not news._following.items


async def test_a_server_that_does_not_answer_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    fake.replies["history"] = None
    async with against(fake, limits=trioweb.Limits(connect_timeout=3)) as client:
        with trio.move_on_after(10) as scope:
            await client.history("news")
        assert scope.cancelled_caught
        assert len(fake.connections) > 2  # each of them was asked
        assert fake.names().count("history") == len(fake.connections)
    fake = Fake()
    fake.replies["connect"] = None
    async with against(fake, limits=trioweb.Limits(connect_timeout=3)) as client:
        with trio.move_on_after(10):
            await client.wait_open()
        assert len(fake.connections) > 2


@pytest.mark.parametrize(
    "nonsense",
    ["no json", '{"push":{"channel":1}}', "[]", '{"push":{"pub":{"data":' + "[" * 100_000 + "}}}"],
)
async def test_nonsense_ends_the_connection_and_not_the_client(
    nonsense: str, autojump_clock: trio.testing.MockClock
) -> None:
    fake = Fake()
    async with against(fake) as client, client.subscription("news"):
        await fake.connections[0].send(nonsense)
        await trio.sleep(5)
        assert len(fake.connections) == 2
        assert client.state is trioweb.State.OPEN


async def test_what_nobody_asked_for_is_ignored(autojump_clock: trio.testing.MockClock) -> None:
    fake = Fake()
    async with against(fake) as client, client.subscription("news") as news:
        for push in (
            {"id": 77, "publish": {}},
            {"push": {"channel": "other", "pub": {"data": 1}}},
            {"push": {"channel": "news", "unknown": {}}},
            {"push": {"channel": "news", "join": {}}},
            {"push": {"channel": "news", "pub": {"data": 10**4000}}},
            {"push": {"channel": "news", "pub": {}}},
        ):
            await fake.push(push)
        assert (await anext(news)).data == 10**4000
        assert (await anext(news)).data is None
        assert len(fake.connections) == 1


async def test_errors_that_pass_are_tried_again_and_others_end_the_subscription(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    attempts = 0

    def subscribe(command: dict[str, Any]) -> dict[str, Any]:
        nonlocal attempts
        attempts += 1
        if attempts in (1, 2, 4):
            return {"error": {"code": 100, "message": "busy", "temporary": True}}
        if attempts == 5:
            return {"error": {"code": 103, "message": "permission denied"}}
        return {"subscribe": {}}

    fake.replies["subscribe"] = subscribe
    async with against(fake) as client, client.subscription("news") as news:
        assert attempts == 3
        await fake.connections[0].aclose(3000, "connection closed")
        with pytest.raises(Refused, match="permission denied"):
            await anext(news)
        assert attempts == 5
        assert client.state is trioweb.State.OPEN


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"token": 1}, TypeError),
        ({"token": lambda: "x"}, TypeError),
        ({"data": object()}, TypeError),
        ({"calls": {"x": lambda data: data}}, TypeError),
        ({"retry": 1}, TypeError),
        ({"limits": 1}, TypeError),
        ({"random": 1}, TypeError),
    ],
)
async def test_arguments_that_cannot_work_are_refused(
    given: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        async with trioweb.open_topic_client("ws://server/", **given):
            raise AssertionError("the block must not begin")


async def test_arguments_of_subscriptions_that_cannot_work_are_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with against(Fake()) as client:
        given: dict[str, Any]
        for given in (
            {"topic": ""},
            {"since": 5},
            {"since": ("x", -1)},
            {"max_messages": 0},
        ):
            with pytest.raises(ValueError, match="subscription"):
                async with client.subscription(**dict({"topic": "news"}, **given)):
                    raise AssertionError("the block must not begin")
        with pytest.raises(ValueError, match="messages"):
            client.messages(max_messages=0)
        with pytest.raises(ValueError, match="history"):
            await client.history("news", limit=2**31)


async def test_a_server_that_sends_it_away_again_and_again_is_not_asked_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()

    async def handle(connection: trioweb.Connection) -> None:
        fake.connections.append(connection)
        async for message in connection:
            command = json.loads(str(message))
            fake.said.append(command)
            name = next(name for name in command if name != "id")
            await connection.send(json.dumps({"id": command["id"], name: {}}))
            if name == "subscribe":
                await connection.send('{"push":{"channel":"news","unsubscribe":{"code":2500}}}')

    fake.handle = handle  # type: ignore[method-assign]
    async with against(fake) as client, client.subscription("news", events=True) as news:
        with trio.move_on_after(10):
            async for _ in news:
                # About two in each second, once the waits have grown.
                assert fake.names().count("subscribe") < 10 + 4 * trio.current_time()
        # Within a second at most, as `RETRY` has it.
        assert fake.names().count("subscribe") > 10


async def test_events_are_bounded_however_often_the_connection_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fake = Fake()
    async with against(fake) as client:
        async with client.subscription("news", events=True, max_messages=4) as news:
            for _ in range(20):
                await fake.connections[-1].aclose(3000, "connection closed")
                await trio.sleep(2)
            assert len(news._following.items) <= 4 + 2
            assert isinstance(await anext(news), trioweb.Subscribed)
            while not isinstance(item := await anext(news), trioweb.TopicPublication):
                await fake.push({"push": {"channel": "news", "pub": {"data": "after all"}}})
            assert item.data == "after all"


async def test_of_many_calls_some_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    fake = Fake()
    fake.replies["connect"] = {"connect": {"client": "c", "x_trioweb": 1}}

    async def wait(data: Any) -> None:
        await trio.sleep(1)

    async with against(fake, calls={"wait": wait}) as client:
        await client.wait_open()
        for id in range(1, 71):
            await fake.push({"push": {"call": {"id": id, "method": "wait"}}})
        await settle()
        refused = [command["x_answer"] for command in fake.said[1:]]
        assert [(each["id"], each["error"]["code"]) for each in refused] == [
            (id, 111) for id in range(65, 71)
        ]
        await trio.sleep(2)
        assert len(fake.said) == 1 + 70


async def test_a_server_that_asks_and_does_not_read_is_left(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioweb._topic_client._line._MOST_UNREAD", 1000)
    fake = Fake()

    async def handle(connection: trioweb.Connection) -> None:
        fake.connections.append(connection)
        await connection.receive()
        await connection.send('{"id":1,"connect":{"client":"c","ping":25,"pong":true}}')
        if len(fake.connections) == 1:
            while True:
                await connection.send("\n".join(["{}"] * 1000))
        await trio.sleep_forever()

    fake.handle = handle  # type: ignore[method-assign]
    async with against(fake) as client:
        await trio.sleep(10)
        assert len(fake.connections) == 2
        assert client.state is trioweb.State.OPEN
        assert "does not read" in str(client.last_error)


_PARTS: Final[tuple[dict[str, Any], ...]] = (
    *({name: {}} for name in ("connect", "subscribe", "publish", "history", "rpc", "refresh")),
    {"subscribe": {"recoverable": True, "epoch": "e", "offset": 2**64 - 1, "publications": [{}]}},
    {"subscribe": {"expires": True}},
    {"subscribe": {"recovered": True, "publications": [{"offset": 3, "tags": {"a": "b"}}]}},
    {"history": {"publications": [{"data": [1], "info": {"user": "x", "conn_info": {}}}]}},
    {"error": {}},
    {"error": {"code": 2**32 - 1, "temporary": True}},
    {"error": {"code": 109}},
    {"presence": {"presence": {"x": {}}}},
    {"push": {}},
    {"push": {"channel": "news", "join": {"info": {}}, "pub": {"offset": 1}}},
    {"push": {"channel": "news", "unsubscribe": {}}},
    {"push": {"channel": "news", "unsubscribe": {"code": 2502}}},
    {"push": {"channel": "news", "subscribe": {}}},
    {"push": {"call": {}}},
    {"push": {"message": {}}},
    {"push": {"disconnect": {"code": 3000}}},
    {},
)


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_a_server_says_the_client_fails_by_its_own_errors_alone(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    random = Random(seed)
    fake = Fake()

    async def handle(connection: trioweb.Connection) -> None:
        fake.connections.append(connection)
        async for message in connection:
            id = json.loads(str(message)).get("id", 0)
            fake.said.append({})
            if len(fake.connections) % 2 and id == 1:
                await connection.send('{"id":1,"connect":{"x_trioweb":1}}')
                continue
            for _ in range(random.randrange(3)):
                part = random.choice(_PARTS)
                await connection.send(json.dumps({"id": id - random.randrange(-1, 2), **part}))
            if id:
                await connection.send(json.dumps({"id": id, **random.choice(_PARTS)}))

    fake.handle = handle  # type: ignore[method-assign]
    with trio.move_on_after(300), suppress(trioweb.TriowebError):
        async with against(fake, limits=trioweb.Limits(connect_timeout=1)) as client:
            while True:
                with trio.move_on_after(5), suppress(trioweb.TriowebError):
                    async with client.subscription("news", events=True) as news:
                        await anext(news)
                        await client.publish("news", 1)
                        await client.call("method")
                        await client.history("news")
                        await client.presence("news")
                        await client.presence_stats("news")
                await trio.sleep(1)
    assert len(fake.said) > 20
