"""Pings: strictly periodic, since many clients listen to nothing else."""

from __future__ import annotations

import pytest
import trio

from tests.topic_server.support import FORMATS, serving
from trioweb._centrifuge import _schema as wire
from trioweb._topic_server._timetable import Timetable


@FORMATS
async def test_pings_come_each_interval_whatever_else_comes(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(ping=5) as web:
        peer = await web.connect(format)
        await peer.subscribe("chat:1")
        start = trio.current_time()
        for n in range(310):
            web.server.publish("chat:1", n)
            await trio.sleep(0.1)
        assert [round(ping - start, 1) for ping in peer.pings] == [5, 10, 15, 20, 25, 30]
        assert len(peer.offsets("chat:1")) == 310


async def test_a_ping_that_came_late_moves_none_of_those_to_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(ping=5) as web:
        peer = await web.connect()
        start = trio.current_time()
        await trio.sleep(4.5)
        autojump_clock.jump(0.8)  # as if something had held the loop
        await trio.sleep(10)
        assert [round(ping - start, 1) for ping in peer.pings] == [5.3, 10, 15]


async def test_who_asks_for_ping_frames_gets_no_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(ping=5) as web:
        peer = await web.open(query="?cf_ws_frame_ping_pong=true")
        told = await peer.ask(wire.ConnectRequest())
        assert (told.ping, told.pong) == (0, False)
        await trio.sleep(60)
        assert (peer.pings, peer.closed()) == ([], (None, ""))


async def test_who_is_not_heard_until_the_next_ping_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(ping=5) as web:
        silent, other = await web.connect(), await web.connect()
        silent.answers = False
        await trio.sleep(9.9)
        assert silent.closed() == (None, "")
        await trio.sleep(0.3)
        assert silent.closed() == (3012, "no pong")
        await trio.sleep(100)
        assert other.closed() == (None, "")
        assert len(web.server.members) == 1


async def test_a_stopped_process_pings_on_and_blames_nobody_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(ping=5) as web:
        peer = await web.connect()
        await trio.sleep(6)
        with web.network.freeze("server"):
            await trio.sleep(4)
        await trio.sleep(20)
        assert peer.closed() == (None, "")
        assert len(peer.pings) >= 4


async def test_a_timetable_keeps_its_times_and_forgets_what_was_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    done: list[tuple[str, float]] = []

    def note(name: str) -> None:
        done.append((name, trio.current_time() - start))

    timetable = Timetable()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timetable.run)
        await trio.sleep(1)
        timetable.at(start + 3, lambda: note("later"))
        timetable.at(start + 2, lambda: note("first"))
        cancelled = [timetable.at(start + 2.5, lambda: note("never")) for _ in range(1000)]
        for entry in cancelled:
            timetable.cancel(entry)
            timetable.cancel(entry)
        assert len(timetable._agenda) < 200
        await trio.sleep(5)
        timetable.cancel(cancelled[0])
        nursery.cancel_scope.cancel()
    assert done == [("first", 2), ("later", 3)]


async def test_one_that_fails_does_not_keep_others_from_their_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    done = []

    def fail() -> None:
        raise ZeroDivisionError

    timetable = Timetable()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timetable.run)
        timetable.at(trio.current_time() + 1, fail)
        timetable.at(trio.current_time() + 1, lambda: done.append(1))
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert done == [1]
    assert "ZeroDivisionError" in caplog.text
