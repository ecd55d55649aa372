"""The admin's topic server: who is let in, what is listed, and what may be changed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trioweb
from tests.admin.support import KEY, OTHER_KEY, Office, administering, rows
from tests.topic_server.support import settle
from trioweb import GaveUp, Refused


async def refused(client: trioweb.TopicClient, method: str, data: Any) -> int:
    with pytest.raises(Refused) as caught:
        await client.call(method, data)
    return caught.value.code


# Who is let in.


@pytest.mark.parametrize("key", ["", "the-key-of-the-admiN", "schlüssel", "日本", KEY[:-1]])
async def test_nobody_is_let_in_without_a_key(
    key: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with administering() as office:
        with pytest.raises(GaveUp) as caught:
            async with office.desk(key) as client:
                await client.call("topics")
        assert isinstance(caught.value.last, trioweb.ClosedByPeer)
        assert (caught.value.last.code, caught.value.last.reason) == (3500, "invalid token")
    [told] = [each for each in caplog.records if "no admin key" in each.getMessage()]
    assert told.__dict__["address"].startswith("10.0.0.")
    assert KEY not in caplog.text


async def guess(office: Office) -> int:
    """Show a wrong key; return the code with which that ends."""
    with pytest.raises(GaveUp) as caught:
        async with office.desk("wrong", retry=trioweb.Retry(max_attempts=1)) as client:
            await client.wait_open()
    assert isinstance(caught.value.last, trioweb.ClosedByPeer)
    return caught.value.last.code


async def test_keys_are_guessed_once_a_second_with_those_of_other_doors(
    autojump_clock: MockClock,
) -> None:
    async with administering() as office:
        start = trio.current_time()
        assert [await guess(office) for _ in range(4)] == [3500] * 4
        assert 3 <= trio.current_time() - start < 4
        local = (await office.visitor(host="admin")).connection.local
        for _ in range(10):
            office.nursery.start_soon(office.access.pace.wait, (str(local[0]), 1))
        await settle()
        assert await guess(office) == 4429
        # Who has the key does not wait.
        start = trio.current_time()
        async with office.desk() as client:
            await client.call("topics")
        assert trio.current_time() - start < 0.5


async def test_keys_that_are_replaced_do_not_count_any_more(autojump_clock: MockClock) -> None:
    async with administering() as office:
        async with office.desk() as old:
            await old.call("topics")
            office.admin.replace_keys([OTHER_KEY.encode()])
            with pytest.raises(trioweb.ClosedByPeer):
                await old.call("topics")
            with pytest.raises(GaveUp):
                await old.call("topics")
        async with office.desk(OTHER_KEY) as client:
            assert await rows(client, "topics") == []


async def test_no_other_door_leads_to_what_an_admin_sees(autojump_clock: MockClock) -> None:
    async with administering() as office:
        async with office.desk() as client, client.subscription("overview"):
            assert "overview" not in office.hub.topics
            dial = office.network.host("visitor").dial
            async with trioweb.open_topic_client(
                office.url("/connection/websocket"), dial=dial, heartbeat=None
            ) as visitor:
                assert await refused_code(visitor, "topics") == 104
                async with visitor.subscription("overview") as stranger:
                    await trio.sleep(5)
                    assert stranger.position is not None and stranger.position.offset == 0


async def refused_code(client: trioweb.TopicClient, method: str) -> int:
    return await refused(client, method, {})


async def test_what_is_not_connected_gets_nothing(autojump_clock: MockClock) -> None:
    async with administering() as office:
        dial = office.network.host("visitor").dial
        async with trioweb.open_connection(
            office.url("/admin/socket"), dial=dial, heartbeat=None
        ) as connection:
            await connection.send('{"id":1,"rpc":{"method":"topics"}}')
            with pytest.raises(trioweb.ConnectionClosed):
                await connection.receive()
            assert connection.close_code == 3501


# The figures.


async def test_figures_come_once_a_second_while_somebody_watches(autojump_clock: MockClock) -> None:
    async with administering() as office:
        lobby = office.hub.topic("lobby")
        await office.visitor("/lobby")
        lobby.publish("before")
        async with office.desk() as client, client.subscription("overview") as overview:
            start = trio.current_time()
            first = (await anext(overview)).data
            assert first["publication_rate"] is None
            for number in range(5):
                lobby.publish(str(number))
            await trio.lowlevel.checkpoint()
            second = (await anext(overview)).data
            assert 1.9 < trio.current_time() - start < 2.3
            assert 4.9 < second["publication_rate"] == second["delivery_rate"] < 5.1
            expected = {
                "node": "node-1",
                "alone": True,
                "draining": False,
                "connections": 2,
                "topics": 1,
                "subscribers": 1,
                "publications": 6,
                "deliveries": 6,
                "lag": 0,
                "evicted": 0,
            }
            assert {name: second[name] for name in expected} == expected
            [row] = await rows(client, "topics")
            assert 4.9 < row["rate"] < 5.1
            third = (await anext(overview)).data
            assert (third["publication_rate"], third["delivery_rate"]) == (0.0, 0.0)
            [row] = await rows(client, "topics")
            assert row["rate"] == 0.0


async def test_nothing_is_published_or_done_when_nobody_watches(autojump_clock: MockClock) -> None:
    async with administering() as office:
        async with office.desk() as client:
            await trio.sleep(100)
            async with client.subscription("overview") as overview:
                await anext(overview)
        await settle()
        before = office.admin._figures._taken
        await trio.sleep(100)
        assert office.admin._figures._taken == before


async def test_with_a_broker_it_says_that_it_is_not_alone(autojump_clock: MockClock) -> None:
    async with administering(hub={"broker": trioweb.testing.MemoryBroker()}) as office:
        async with office.desk() as client, client.subscription("overview") as overview:
            assert (await anext(overview)).data["alone"] is False


# Lists.


async def test_topics_are_listed_in_any_order_and_searched(autojump_clock: MockClock) -> None:
    async with administering() as office:
        for number, name in enumerate(["alpha", "beta", "Alphabet", "<img onerror=alert(1)>"]):
            topic = office.hub.topic(name)
            for _ in range(number):
                topic.publish("x" * (10 - number))
        await office.visitor("/alpha")
        async with office.desk() as client:
            found = await client.call("topics", {"sort": "head"})
            assert (found["total"], found["found"]) == (4, 4)
            assert [row["head"] for row in found["rows"]] == [3, 2, 1, 0]
            found = await rows(client, "topics", sort="name", descending=False, limit=2)
            assert [row["name"] for row in found] == ["<img onerror=alert(1)>", "Alphabet"]
            found = await client.call("topics", {"search": "ALPHA", "sort": "subscribers"})
            assert (found["total"], found["found"]) == (4, 2)
            assert [row["name"] for row in found["rows"]] == ["alpha", "Alphabet"]
            assert found["rows"][0]["subscribers"] == 1
            for column in ("rate", "retained", "bytes", "lag"):
                assert len(await rows(client, "topics", sort=column)) == 4


async def test_first_of_very_many_are_found_and_others_have_their_turns(
    autojump_clock: MockClock,
) -> None:
    async with administering() as office:
        names = [f"topic-{number:05}" for number in range(3000)]
        for name in names:
            office.hub.topic(name).publish("x")
        turns = 0
        async with office.desk() as client, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            found = await rows(client, "topics", sort="name", descending=False, limit=200)
            assert [row["name"] for row in found] == names[:200]
            found = await rows(client, "topics", sort="name", limit=1)
            assert [row["name"] for row in found] == names[-1:]
            nursery.cancel_scope.cancel()
        # 3,000 of 8 units of work, and 200 rows, in turns of 4,000 units; twice.
        assert turns >= 2 * 6


async def test_connections_are_listed_with_what_they_subscribe_to(
    autojump_clock: MockClock,
) -> None:
    async with administering() as office:
        await office.visitor("/lobby", host="ann")
        await trio.sleep(5)
        await office.visitor("/news", host="bob")
        await trio.sleep(5)
        dial = office.network.host("cleo").dial
        async with (
            trioweb.open_topic_client(
                office.url("/connection/websocket"), dial=dial, heartbeat=None
            ) as member,
            member.subscription("a"),
            member.subscription("b"),
            office.desk() as client,
        ):
            found = await rows(client, "connections", sort="age")
            told = [(row["path"], row["topics"], round(row["age"])) for row in found]
            assert told == [
                ("/lobby", ["lobby"], 10),
                ("/news", ["news"], 5),
                ("/connection/websocket", ["a", "b"], 0),
                ("/admin/socket", [], 0),
            ]
            assert found[3]["user"] == "admin"
            assert {row["id"] for row in found} == {each.id for each in office.server.connections}
            [row] = await rows(client, "connections", search=found[1]["id"])
            assert row["address"] == found[1]["address"]
            [row] = await rows(client, "connections", search="LOBBY")
            assert row["path"] == "/lobby"
            for column in ("address", "user", "rtt", "queued", "subscriptions", "lag", "sent"):
                assert len(await rows(client, "connections", sort=column)) == 4


async def test_lag_is_told_of_topics_and_connections(autojump_clock: MockClock) -> None:
    limits = trioweb.Limits(send_bytes=1)
    async with administering(limits=limits) as office:
        visitor = await office.visitor("/lobby", limits=trioweb.Limits(inbox_messages=1))
        topic = office.hub.topic("lobby")
        for _ in range(100):
            topic.publish("x" * 10_000)
            await settle()
        assert topic.lag > 0
        async with office.desk() as client:
            [row] = await rows(client, "topics")
            assert row["lag"] == topic.lag
            first = (await rows(client, "connections", sort="lag"))[0]
            assert (first["lag"], first["topics"]) == (topic.lag, ["lobby"])
            assert first["queued"] > 0
            async with client.subscription("overview") as overview:
                figures = (await anext(overview)).data
            assert figures["lag"] == topic.lag and figures["queued"] == first["queued"]
        assert visitor.connection.state is trioweb.State.OPEN


async def test_newest_publications_are_shown_and_long_ones_in_part(
    autojump_clock: MockClock,
) -> None:
    async with administering() as office:
        topic = office.hub.topic("lobby")
        topic.publish("<img src=x onerror=alert(1)>")
        topic.publish('{"a": 1}', kind="json")
        topic.publish(bytes(1000))
        topic.publish("é" * 5000)
        async with office.desk() as client:
            told = await client.call("publications", {"topic": "lobby"})
            assert (told["head"], told["epoch"]) == (4, topic.epoch)
            found = told["rows"]
            assert [(row["offset"], row["kind"], row["bytes"], row["cut"]) for row in found] == [
                (4, "text", 10_000, True),
                (3, "bytes", 1000, True),
                (2, "json", 8, False),
                (1, "text", 28, False),
            ]
            assert found[0]["text"] == "é" * 2000
            assert found[1]["text"] == ("00 " * 100).strip()
            assert found[3]["text"] == "<img src=x onerror=alert(1)>"
            assert await refused(client, "publications", {"topic": "none"}) == 102
            assert "none" not in office.hub.topics


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("topics", {"sort": "colour"}),
        ("topics", {"limit": 0}),
        ("topics", {"limit": 201}),
        ("connections", {"search": 1}),
        ("connections", {"descending": "no"}),
        ("publications", {}),
        ("publications", "lobby"),
        ("publish", {"topic": "lobby"}),
        ("publish", {"topic": "lobby", "text": "a", "kind": "bytes"}),
        ("publish", {"topic": "lobby", "text": "{", "kind": "json"}),
        ("publish", {"topic": "é" * 200, "text": "a"}),
        ("close", {"id": "nobody"}),
        ("close", {"id": "nobody", "code": 1005}),
        ("close", {"id": "nobody", "code": "1000"}),
        ("close", {"id": "nobody", "reason": "x" * 124}),
        ("trace", {"id": 5}),
        ("trace", None),
    ],
)
async def test_what_cannot_be_is_refused(method: str, data: Any, autojump_clock: MockClock) -> None:
    async with administering() as office:
        async with office.desk() as client:
            assert await refused(client, method, data) == 107


# Changes.


def changes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """What the log has of them: the text without the address, and what a record is about."""
    found = []
    for record in caplog.records:
        if record.name == "trioweb.admin":
            address = record.__dict__["address"]
            assert address.startswith("10.0.0.")
            about: dict[str, Any] = {
                name: record.__dict__[name]
                for name in ("connection", "topic", "code")
                if name in record.__dict__
            }
            found.append((record.getMessage().replace(address, "ADDRESS"), about))
    return found


async def test_publishing_is_done_and_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with administering() as office:
        visitor = await office.visitor("/lobby")
        async with office.desk() as client:
            told = await client.call("publish", {"topic": "lobby", "text": "hello"})
            topic = office.hub.topic("lobby")
            assert told == {"offset": 1, "epoch": topic.epoch}
            await client.call("publish", {"topic": "lobby", "text": "[1]", "kind": "json"})
        assert await visitor.connection.receive_many() == ["hello", "[1]"]
        assert [each.kind for each in topic.history()] == ["text", "json"]
    assert changes(caplog) == [("admin at ADDRESS published to 'lobby'", {"topic": "lobby"})] * 2


async def test_connection_is_closed_with_the_code_and_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with administering() as office:
        visitor = await office.visitor("/lobby", host="ann")
        other = await office.visitor("/lobby", host="bob")
        async with office.desk() as client:
            [row] = await rows(client, "connections", search=visitor.address)
            await client.call("close", {"id": row["id"], "code": 4001, "reason": "enough"})
            await settle()
            ends = visitor.connection
            assert (ends.close_code, ends.close_reason) == (4001, "enough")
            assert other.connection.state is trioweb.State.OPEN
            assert await refused(client, "close", {"id": row["id"]}) == 107
    [(text, about)] = changes(caplog)
    assert text == f"admin at ADDRESS closed the connection of {row['address']}"
    assert about == {"connection": row["id"], "code": 4001}


async def test_frames_of_a_connection_are_logged_while_that_is_wanted(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    async with administering() as office:
        visitor = await office.visitor("/lobby", host="ann")
        await office.visitor("/lobby", host="bob")
        async with office.desk() as client:
            [row] = await rows(client, "connections", search=visitor.address)
            assert row["traced"] is False
            await client.call("trace", {"id": row["id"]})
            assert (await rows(client, "connections", search=visitor.address))[0]["traced"] is True
            await visitor.connection.send("hello")
            await settle()
            await client.call("trace", {"id": row["id"], "on": False})
            assert (await rows(client, "connections", search=visitor.address))[0]["traced"] is False
            await visitor.connection.send("again")
            await settle()
    told = [each.getMessage() for each in caplog.records if each.name == "trioweb.frames"]
    assert told == [f"{row['address']} {way} text, 5 bytes: 'hello'" for way in ("<", ">")]


async def test_drain_ends_the_server_softly_and_is_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with administering() as office:
        visitor = await office.visitor("/lobby")
        async with office.desk() as client:
            await client.call("drain")
            await office.drained.wait()
            assert visitor.connection.close_code == 1012
    assert changes(caplog) == [("admin at ADDRESS drains the server", {})]


@pytest.mark.parametrize("method", ["publish", "close", "trace", "drain"])
async def test_pages_of_other_origins_change_nothing_even_if_they_are_listed(
    method: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with administering(origins=["https://else.example"]) as office:
        visitor = await office.visitor("/lobby")
        headers = [("Origin", "https://else.example")]
        async with office.desk(headers=headers) as client:
            row = (await rows(client, "connections", search="lobby"))[0]
            data = {"topic": "lobby", "text": "x", "id": row["id"]}
            assert await refused(client, method, data) == 103
            await settle()
        assert visitor.connection.state is trioweb.State.OPEN
        assert office.hub.topic("lobby").head == 0
        assert not office.server.draining
        [(text, _)] = changes(caplog)
        assert "a change was refused: Origin https://else.example is not of the host" in text
        async with office.desk(headers=[("Origin", "http://server:80")]) as client:
            await client.call("publish", {"topic": "lobby", "text": "x"})


async def test_pages_of_other_origins_that_are_not_listed_get_no_socket(
    autojump_clock: MockClock,
) -> None:
    async with administering() as office:
        headers = [("Origin", "https://else.example")]
        with pytest.raises(GaveUp) as caught:
            async with office.desk(headers=headers) as client:
                await client.wait_open()
        assert isinstance(caught.value.last, trioweb.HandshakeRejected)
        assert caught.value.last.status == 403


async def test_topics_without_rules_cannot_be_published_to(autojump_clock: MockClock) -> None:
    async with administering() as office:
        office.admin._changes._rules = lambda name: None
        async with office.desk() as client:
            assert await refused(client, "publish", {"topic": "lobby", "text": "x"}) == 102
        assert not office.hub.topics


async def test_admin_may_be_gone_in_the_middle_of_anything(autojump_clock: MockClock) -> None:
    async with administering() as office:
        for number in range(2000):
            office.hub.topic(f"topic-{number}").publish("x")
        for turns in range(12):
            with trio.CancelScope() as scope:
                async with office.desk() as client:
                    office.nursery.start_soon(_cancel_after, turns, scope)
                    while True:
                        await client.call("topics", {"sort": "name"})
            await settle()
            assert not office.admin._walking.locked()
            assert office.admin._visits == 0


async def _cancel_after(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(3 * turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()
