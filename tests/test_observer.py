"""The observer hears of what happens, and harms nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.client.support import Door
from tests.server.support import start, wait
from tests.support import CLOSE, TEXT, Frame
from tests.topics.support import open_peers, settle


class Recorder(trioweb.Observer):
    """Keeps what it is told; raises as well, if asked to."""

    def __init__(self, *, raises: bool = False) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._raises = raises

    def _keep(self, *what: object) -> None:
        self.told.append(what)
        if self._raises:
            raise KeyError("a fault of the observer's")

    def on_open(self, connection: trioweb.Connection) -> None:
        self._keep("open", connection)

    def on_end(self, connection: trioweb.Connection) -> None:
        self._keep("end", connection, connection.close_code)

    def on_refusal(self, remote: object, status: int, reason: str) -> None:
        self._keep("refusal", status, reason)

    def on_stall(self, connection: trioweb.Connection, seconds: float) -> None:
        self._keep("stall", connection, round(seconds))

    def on_failure(self, error: Exception, attempts: int) -> None:
        self._keep("failure", type(error), attempts)

    def on_pass(self, topic: str, offsets: range, seconds: float) -> None:
        self._keep("pass", topic, list(offsets), seconds >= 0)

    def on_eviction(self, connection: trioweb.Connection, topic: str) -> None:
        self._keep("eviction", connection, topic)


RAISES = pytest.mark.parametrize("raises", [False, True])


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log; only errors of an observer may stand in it."""
    with caplog.at_level(logging.ERROR, "trioweb"):
        yield caplog
    assert all("error in an observer" in record.getMessage() for record in caplog.records)


@RAISES
async def test_observer_of_a_server_hears_of_an_opening_and_its_end(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    quiet: pytest.LogCaptureFixture,
    raises: bool,
) -> None:
    observer = Recorder(raises=raises)
    connections = []

    async def handler(connection: trioweb.Connection) -> None:
        assert observer.told == [("open", connection)]
        connections.append(connection)
        await connection.aclose(4000)
        await trio.sleep(5)
        assert len(observer.told) == 1  # the handler has not ended yet

    site = await start(nursery, handler, observer=observer)
    peer = await site.opened()
    assert await peer.read_close() == (4000, "")
    await peer.stream.aclose()
    await trio.sleep(20)
    [connection] = connections
    assert observer.told == [("open", connection), ("end", connection, 4000)]
    assert len(quiet.records) == (2 if raises else 0)


@RAISES
async def test_observer_of_a_server_hears_of_refusals(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    quiet: pytest.LogCaptureFixture,
    raises: bool,
) -> None:
    observer = Recorder(raises=raises)
    site = await start(nursery, wait, observer=observer)
    answer = await (await site.peer()).ask(b"nonsense\r\n\r\n")
    assert answer.status == 400
    gone = await site.peer()
    await gone.stream.send_all(b"GET / HT")
    await gone.stream.aclose()
    await trio.sleep(20)
    assert [event[:2] for event in observer.told] == [("refusal", 400), ("refusal", 0)]
    assert all(event[2] for event in observer.told)


async def sleep(connection: trioweb.Connection) -> None:
    await trio.sleep_forever()


@RAISES
async def test_observer_hears_of_a_stall_once(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    raises: bool,
) -> None:
    observer = Recorder(raises=raises)
    site = await start(
        nursery,
        sleep,
        observer=observer,
        heartbeat=trioweb.Heartbeat(interval=10, timeout=10),
        limits=trioweb.Limits(inbox_messages=1),
    )
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"one"), Frame(TEXT, b"two"))
    await trio.sleep(100)
    stalls = [event for event in observer.told if event[0] == "stall"]
    assert stalls == [("stall", observer.told[0][1], 10)]


@RAISES
async def test_observer_of_a_hub_hears_of_passes_and_of_an_eviction(
    autojump_clock: trio.testing.MockClock, quiet: pytest.LogCaptureFixture, raises: bool
) -> None:
    observer = Recorder(raises=raises)
    async with trioweb.open_hub(observer=observer) as hub, open_peers() as peers:
        topic = hub.topic("prices", retain=trioweb.Retain(max_messages=1, patience=1))
        fast, slow = peers.open(), peers.open(reading=False)
        with topic.subscribe(fast.connection), topic.subscribe(slow.connection):
            topic.publish("one")
            topic.publish("two")
            await settle()
            assert observer.told == [("pass", "prices", [1, 2], True)]
            await slow.clog()
            topic.publish("three")
            await settle()
            topic.publish("four")
            await trio.sleep(5)
    assert observer.told[1:3] == [("pass", "prices", [3], True), ("pass", "prices", [4], True)]
    assert ("eviction", slow.connection, "prices") in observer.told
    # That it came of age was no news.
    assert observer.told[-1] == ("pass", "prices", [], True)
    assert fast.messages == ["one", "two", "three", "four"]
    assert slow.connection.close_code == 1013


@RAISES
async def test_observer_of_a_client_hears_of_failures_openings_and_ends(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    observer = Recorder(raises=raises)
    door = Door()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        if len(observer.told) < 2:
            raise OSError("no route")
        return await door.dial(host, port)

    with trio.fail_after(100):
        async with trioweb.open_client("ws://server/", dial=dial, observer=observer) as client:
            peer = await door.accept()
            await client.wait_open()
            await peer.send_frame(CLOSE, (1012).to_bytes(2, "big"))
            await door.accept()
            await client.wait_open()
    told = [event[:1] + event[2:] for event in observer.told]
    assert told == [
        ("failure", 1),
        ("failure", 2),
        ("open",),
        ("end", 1012),
        ("open",),
        ("end", 1000),
    ]
    assert issubclass(observer.told[0][1], trioweb.ConnectFailed)
    assert observer.told[2][1] is observer.told[3][1] is not observer.told[4][1]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == (6 if raises else 0)


async def test_observer_of_a_client_hears_of_the_end_that_a_cancellation_makes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    observer = Recorder()
    door = Door()
    with trio.move_on_after(10):
        async with trioweb.open_client("ws://server/", dial=door.dial, observer=observer):
            await door.accept()
            await trio.sleep_forever()
    assert [event[0] for event in observer.told] == ["open", "end"]
    assert observer.told[1][2] == 1001


@pytest.mark.parametrize("bad", [Recorder, "an observer", 3])
async def test_observer_of_another_kind_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="observer must be of type Observer or None"):
        async with trioweb.open_hub(observer=bad):
            pass
    with pytest.raises(TypeError, match="observer must be of type Observer or None"):
        await trioweb.serve(wait, 0, observer=bad)
    with pytest.raises(TypeError, match="observer must be of type Observer or None"):
        async with trioweb.open_client("ws://server/", observer=bad):
            pass
