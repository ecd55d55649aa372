"""The log: what concerns one connection carries the id of that connection."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import start, wait
from tests.support import TEXT, Frame
from trioweb._chance import random_bytes, random_name, seeded
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
