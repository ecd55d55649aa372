"""The log: what concerns one connection carries the id of that connection."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
import trio.testing

import trioweb
from tests.client.support import Door
from tests.server.support import start, wait
from tests.support import CLOSE, TEXT, Frame
from tests.topics.support import open_peers, settle
from trioweb._chance import random_bytes, random_name, seeded
from trioweb._logs import FIELDS
from trioweb.testing import Network


def _ids(caplog: pytest.LogCaptureFixture, text: str) -> list[object]:
    """Of each record that has *text*, the id that it carries; None for one that has none."""
    return [
        getattr(record, "connection", None)
        for record in caplog.records
        if text in record.getMessage()
    ]


async def test_records_of_a_handlers_error_and_of_the_end_carry_the_id(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ids = []

    async def handler(connection: trioweb.Connection) -> None:
        ids.append(connection.id)
        raise KeyError("a fault of the handler's")

    site = await start(nursery, handler)
    with caplog.at_level(logging.DEBUG, "trioweb"):
        for _ in range(2):
            peer = await site.opened()
            await peer.read_close()
            await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
    assert len(set(ids)) == 2
    assert _ids(caplog, "error in the handler") == ids
    assert _ids(caplog, "1011") == ids


async def test_record_of_a_request_that_was_refused_carries_no_id(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    site = await start(nursery, wait)
    with caplog.at_level(logging.DEBUG, "trioweb"):
        await (await site.peer()).ask(b"nonsense\r\n\r\n")
    assert _ids(caplog, "refused with 400") == [None]


async def test_record_of_a_full_inbox_carries_the_id(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await trio.sleep_forever()

    site = await start(nursery, handler, limits=trioweb.Limits(inbox_messages=1))
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"1"), Frame(TEXT, b"2"))
    await trio.sleep(60)
    [connection] = site.server.connections
    assert _ids(caplog, "full inbox") == [connection.id]


async def test_record_of_an_eviction_carries_the_id(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trioweb.open_hub() as hub:
        topic = hub.topic("news", retain=trioweb.Retain(max_messages=1))

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection):
                await wait(connection)

        site = await start(nursery, handler, hub=hub)
        await site.opened()  # and reads nothing more
        await trio.testing.wait_all_tasks_blocked()
        [connection] = site.server.connections
        with caplog.at_level(logging.INFO, "trioweb.topics"):
            for _ in range(20):
                topic.publish(bytes(100_000))
                await trio.sleep(0.2)
    assert _ids(caplog, "evicted") == [connection.id]


async def test_record_of_what_a_callback_should_not_raise_carries_the_id(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    site = await start(nursery, wait)
    peer = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    [connection] = site.server.connections

    def fail() -> None:
        raise KeyError("a fault of a callback's")

    connection.link.queue.set_hooks(object(), closed=fail, drained=fail)
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert _ids(caplog, "error in what a link calls back") == [connection.id]


async def test_records_of_a_clients_session_carry_the_id_of_its_connection(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ids = []

    async def on_open(connection: trioweb.Connection) -> None:
        ids.append(connection.id)

    async def handler(connection: trioweb.Connection) -> None:
        await trio.sleep(3)
        await connection.aclose(1012)

    site = await start(nursery, handler)
    open_client = partial(trioweb.open_client, dial=site.dial, receive=False)
    with caplog.at_level(logging.INFO, "trioweb.client"):
        async with open_client("ws://server/", on_open=on_open):
            await trio.sleep(6)
    assert len(set(ids)) == 2
    assert _ids(caplog, "connected") == ids
    assert _ids(caplog, "connecting again") == ids[:1]


async def test_record_of_an_attempt_that_led_to_no_connection_carries_no_id(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    host = Network().host("client")
    with trio.move_on_after(1):
        async with trioweb.open_client("ws://nobody/", dial=host.dial):
            await trio.sleep_forever()
    assert set(_ids(caplog, "connecting again")) == {None}


async def test_no_id_is_made_for_a_record_that_nobody_wants(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    site = await start(nursery, wait)
    with caplog.at_level(logging.WARNING, "trioweb"):
        peer = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        [connection] = site.server.connections
        await peer.stream.aclose()
        await connection.wait_closed()
        await trio.testing.wait_all_tasks_blocked()
    assert connection.link._id is None


def test_level_of_the_log_does_not_change_what_a_seed_decides() -> None:
    """Ids have chance of their own, so a record more changes no mask and no key."""
    with seeded(7):
        keys = [random_bytes(4) for _ in range(2)]
    with seeded(7):
        names = [random_name()]
        assert [random_bytes(4) for _ in range(2)] == keys
    with seeded(7):
        assert [random_name()] == names


def _about(caplog: pytest.LogCaptureFixture, text: str) -> list[dict[str, object]]:
    """Of each record that has *text*, what it says that it is about."""
    return [
        {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        for record in caplog.records
        if text in record.getMessage()
    ]


async def test_records_of_a_server_say_what_they_are_about(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    connections = []

    async def handler(connection: trioweb.Connection) -> None:
        connections.append(connection)
        await connection.receive()
        raise KeyError("a fault of the handler's")

    async def http(request: trioweb.Request) -> trioweb.Response:
        raise KeyError("a fault of its own")

    site = await start(nursery, handler, http=http)
    with caplog.at_level(logging.DEBUG, "trioweb"):
        peer = await site.opened()
        await peer.send(Frame(TEXT, b"hello"))
        await peer.read_close()
        await peer.stream.aclose()
        await (await site.peer()).ask(b"nonsense\r\n\r\n")
        await (await site.peer()).ask(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        await (await site.peer()).stream.aclose()
        gone = await site.peer()
        await gone.stream.send_all(b"GET")
        await gone.stream.aclose()
        await trio.sleep(10)
    [connection] = connections
    assert isinstance(connection.remote, tuple)
    host, port = connection.remote
    whose = {"connection": connection.id, "address": f"{host}:{port}"}
    assert _about(caplog, "error in the handler") == [whose]
    assert _about(caplog, "1011") == [{**whose, "code": 1011}]
    [refused] = _about(caplog, "refused with 400")
    assert refused == {"address": f"{host}:{port + 1}", "status": 400}
    assert _about(caplog, "error while answering") == [
        {"address": f"{host}:{port + 2}", "status": 500}
    ]
    assert _about(caplog, "without a byte") == [{"address": f"{host}:{port + 3}"}]
    assert _about(caplog, "gone while opening") == [{"address": f"{host}:{port + 4}", "status": 0}]


async def test_record_of_an_eviction_names_the_topic(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trioweb.open_hub() as hub, open_peers() as peers:
        topic = hub.topic("prices", retain=trioweb.Retain(max_messages=1, patience=1))
        slow = peers.open(reading=False)
        topic.subscribe(slow.connection)
        await slow.clog()
        with caplog.at_level(logging.INFO, "trioweb"):
            for _ in range(3):
                topic.publish("news")
                await trio.sleep(2)
    [about] = _about(caplog, "evicted")
    assert about["topic"] == "prices"
    assert about["connection"] == slow.connection.id


async def test_record_of_an_encoding_that_fails_names_the_topic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(publication: trioweb.Publication) -> str:
        raise KeyError("a fault of the encoding's")

    async with trioweb.open_hub() as hub, open_peers() as peers:
        topic = hub.topic("prices")
        topic.subscribe(peers.open().connection, encode=fail)
        topic.publish("news")
        await settle()
    assert _about(caplog, "error in an encoding") == [{"topic": "prices"}]


async def test_record_of_a_client_that_lost_its_connection_has_the_code(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    with caplog.at_level(logging.INFO, "trioweb"), trio.fail_after(100):
        async with trioweb.open_client("ws://server/", dial=door.dial) as client:
            peer = await door.accept()
            await client.wait_open()
            await peer.send_frame(CLOSE, (1012).to_bytes(2, "big"))
            await door.accept()
    [about, *_] = _about(caplog, "connecting again in")
    assert about["code"] == 1012
    assert about["connection"] == _about(caplog, "connected: ")[0]["connection"]
