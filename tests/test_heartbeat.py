"""The monitor, in virtual time: who is silent, since when, and whose fault that is."""

from __future__ import annotations

import gc
import logging
import math
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.support import (
    PING,
    PONG,
    TEXT,
    Ends,
    Frame,
    open_streams,
    transport_of,
)
from trioweb import Connection, ConnectionLost, Heartbeat, Limits, State
from trioweb._client._attending import Reading, attend
from trioweb._heartbeat import Lookout, Monitor, Terms, heartbeat_replies
from trioweb._link import Link
from trioweb._protocol._http import Request
from trioweb._protocol._replies import reply_key
from trioweb._reader import open_reader
from trioweb._tls import TlsStream
from trioweb.testing import stream_pair

Watch = Callable[..., Connection]


KERNEL = ["tcp", "gathered", "unix", "filtered", "filtered-gathered", "tls-tcp"]


@pytest.fixture(params=["memory", "filtered-memory", "tls-memory"])
async def ends(request: pytest.FixtureRequest) -> AsyncGenerator[Ends]:
    async with open_streams(request.param) as streams:
        with open_reader() as reader:
            async with trio.open_nursery() as nursery:
                if reader is not None:
                    nursery.start_soon(reader.run)
                gathers = "gathered" in request.param
                yield Ends(nursery, streams, is_client=False, reader=reader if gathers else None)
                nursery.cancel_scope.cancel()


def write_now(stream: trio.abc.Stream, data: bytes) -> None:
    """Write to a kernel socket without letting anybody run."""
    if isinstance(stream, trio.SSLStream):
        stream._ssl_object.write(data)
        data = stream._outgoing.read()
    elif isinstance(stream, TlsStream):
        data = stream.tls.seal(data)
    transport = transport_of(stream)
    assert isinstance(transport, trio.SocketStream)
    assert os.write(transport.socket.fileno(), data) == len(data)


@pytest.fixture
def watch(ends: Ends) -> Watch:
    """Open our end, watched with the heartbeat given."""

    def start(heartbeat: Heartbeat, limits: Limits = Limits(), **options: Any) -> Connection:
        ours = ends.ours(limits, **options)
        monitor = Monitor(heartbeat)
        monitor.add(ours)
        ends.nursery.start_soon(monitor.run)
        return ours

    return start


async def lost_at(connection: Connection) -> float:
    """When the connection is given up."""
    with pytest.raises(ConnectionLost, match="silent peer"):
        while True:
            await connection.receive()
    return trio.current_time()


@pytest.mark.parametrize(("interval", "grace"), [(20, 20), (20, 3), (3, 20), (0.5, 60)])
async def test_a_silent_peer_is_pinged_once_and_given_up(
    ends: Ends, watch: Watch, interval: float, grace: float, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    ours, peer = watch(Heartbeat(interval=interval, timeout=grace)), ends.raw()
    assert await lost_at(ours) == pytest.approx(start + interval + grace)
    frames = await peer.frames()
    assert [frame.opcode for frame in frames] == [PING]
    with pytest.raises(ConnectionLost, match=f"nothing arrived for {interval + grace:.0f} s"):
        await ours.receive()


@pytest.mark.parametrize(("interval", "grace"), [(20, 20), (20, 3), (3, 20)])
@pytest.mark.parametrize("silence", [0, 1, 2.5, 7])
async def test_a_peer_that_dies_is_noticed_within_interval_and_timeout_of_its_last_byte(
    ends: Ends,
    watch: Watch,
    interval: float,
    grace: float,
    silence: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 5, and never earlier: a byte in answer to a ping starts the interval anew."""
    ours, peer = watch(Heartbeat(interval=interval, timeout=grace)), ends.raw()
    ping = await peer.frame()
    assert ping is not None and ping.opcode == PING
    await trio.sleep(min(silence, grace / 2))
    await peer.send(Frame(PONG, ping.payload))
    last = trio.current_time()
    assert await lost_at(ours) == pytest.approx(last + interval + grace)


async def test_a_peer_that_answers_is_kept_even_if_it_takes_no_time(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    """In virtual time, a pong may come at the very moment of its ping."""
    ours = watch(Heartbeat(interval=10, timeout=5))
    ends.theirs()
    await trio.sleep(1000)
    assert ours.state is State.OPEN
    assert ours.latency == 0


async def test_any_byte_is_a_sign_of_life(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5: half a frame will do, and nobody is pinged meanwhile."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5)), ends.raw()
    for byte in peer.encode(Frame(TEXT, b"slowly, but alive")):
        await trio.sleep(9.9)
        await peer.stream.send_all(bytes([byte]))
    assert await ours.receive() == "slowly, but alive"
    assert ours.state is State.OPEN
    with trio.move_on_after(1):
        assert await peer.frame() is None


@pytest.mark.parametrize("message", [None, "alive?"])
@pytest.mark.parametrize(("interval", "grace"), [(10, 5), (10, 30)])
async def test_a_client_asks_a_busy_server_too(
    message: str | None,
    interval: float,
    grace: float,
    ends: Ends,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Many servers, brokers and proxies close what sends nothing."""
    ours, peer = ends.ours(), ends.raw()
    terms = Terms(Heartbeat(interval=interval, timeout=grace, message=message))
    ends.nursery.start_soon(attend, ours.link, Reading(), Lookout(ours, terms, keeps_alive=True))
    asked: list[float] = []

    @ends.nursery.start_soon
    async def answer() -> None:
        while (frame := await peer.frame()) is not None:
            asked.append(trio.current_time())
            if frame.opcode == PING:
                await peer.send(Frame(PONG, frame.payload))

    begun = trio.current_time()
    for _ in range(1000):
        await peer.send(Frame(TEXT, b"tick"))
        assert await ours.receive() == "tick"
        await trio.sleep(0.1)
    assert [at - begun for at in asked] == pytest.approx(
        [n * interval for n in range(1, len(asked) + 1)], rel=0.02
    )
    assert len(asked) >= 9
    assert (ours.latency is None) == (message is not None)


@pytest.mark.parametrize("heard", [0, 3, 9.9, 14, 27])
@pytest.mark.parametrize("answers", [False, True])
async def test_a_client_gives_a_server_no_less_time_for_being_asked_often(
    heard: float, answers: bool, ends: Ends, autojump_clock: trio.testing.MockClock
) -> None:
    """From its last byte on, the interval and the timeout."""
    ours, peer = ends.ours(), ends.raw()
    terms = Terms(Heartbeat(interval=10, timeout=20))
    ends.nursery.start_soon(attend, ours.link, Reading(), Lookout(ours, terms, keeps_alive=True))
    begun = last = trio.current_time()

    @ends.nursery.start_soon
    async def answer() -> None:
        nonlocal last
        while (frame := await peer.frame()) is not None:
            if frame.opcode == PING and answers and trio.current_time() <= begun + heard:
                await peer.send(Frame(PONG, frame.payload))
                last = trio.current_time()

    await trio.sleep(heard)
    await peer.send(Frame(TEXT, b"tick"))
    last = trio.current_time()
    await ours.receive()
    assert await lost_at(ours) == pytest.approx(last + 30, abs=0.5)


async def test_a_peer_without_pongs_lives_by_its_messages_and_costs_nothing(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: pings that are never answered do not add up."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5)), ends.raw()
    for _ in range(50):
        ping = await peer.frame()
        assert ping is not None and ping.opcode == PING
        await peer.send(Frame(TEXT, b"here"))
        assert await ours.receive() == "here"
    assert ours.state is State.OPEN
    pings = ours.link.pulse._pings
    assert pings is not None and len(pings) <= 1


async def test_a_peer_that_takes_what_was_queued_is_alive(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5: it cannot answer a ping that waits behind what it has yet to read."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5)), ends.raw()
    ours.send_nowait(bytes(1_000_000))
    for _ in range(40):
        await trio.sleep(4)
        await peer.stream.receive_some(16384)
    assert trio.current_time() > 100
    assert ours.state is State.OPEN
    last = trio.current_time()
    assert await lost_at(ours) <= last + 15


class Vanished(trio.abc.Stream):
    """A peer gone without a word: a buffer on the way takes everything, in next to no time."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(0.001)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_buffer_that_has_room_is_no_sign_of_life(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5: neither our pings nor our messages keep a dead peer alive."""
    link = Link(Vanished(), b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    monitor = Monitor(Heartbeat(interval=10, timeout=5))
    monitor.add(on(link))
    nursery.start_soon(monitor.run)

    async def publish() -> None:
        while link.state is State.OPEN:
            link.queue.write(b"\x82\x01.")
            await trio.sleep(1)

    nursery.start_soon(publish)
    with trio.fail_after(100):
        await link.wait_closed()
    assert trio.current_time() == pytest.approx(15)


async def test_a_full_inbox_is_not_the_peers_fault_and_is_logged(
    ends: Ends,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 5: liveness is judged only while we are reading."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5), Limits(inbox_messages=2)), ends.raw()
    # The peer's own address, which behind a proxy is not the transport's.
    ours.request = Request("GET", "/", remote=("203.0.113.7", 4711))
    await peer.send(Frame(TEXT, b"1"), Frame(TEXT, b"2"))
    with caplog.at_level(logging.WARNING, "trioweb"):
        await trio.sleep(105)
    assert ours.state is State.OPEN
    # Once for each time that this happens.
    assert [record.getMessage() for record in caplog.records] == [
        "203.0.113.7:4711: nothing was received from a full inbox for 10 s"
    ]
    # Nobody was pinged; and once we read again, the peer has its whole time.
    assert (await ours.receive(), await ours.receive()) == ("1", "2")
    resumed = trio.current_time()
    assert await lost_at(ours) == pytest.approx(resumed + 15)
    assert [frame.opcode for frame in await peer.frames()] == [PING]


@pytest.mark.parametrize("ends", KERNEL, indirect=True)
async def test_a_pong_that_waits_in_the_kernel_is_seen_before_its_peer_is_judged(
    ends: Ends, watch: Watch, mock_clock: trio.testing.MockClock
) -> None:
    """After a stop of the process, or a call that held the loop: look before judging."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5)), ends.raw()
    # What comes first, the reading or the judging, is a matter of chance.
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10)
        ping = await peer.frame()
        assert ping is not None and ping.opcode == PING
        await trio.testing.wait_all_tasks_blocked()
        # Nobody else runs between the two.
        write_now(ends.their_stream, peer.encode(Frame(PONG, ping.payload)))
        mock_clock.jump(6)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ours.state is State.OPEN


async def test_a_monitor_that_was_held_up_asks_again_before_it_judges(
    ends: Ends, watch: Watch, mock_clock: trio.testing.MockClock
) -> None:
    """The peer may have been held up just as long, and has its whole time then."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5)), ends.raw()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(10)
    assert await peer.frame()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(60)
    ping = await peer.frame()
    assert ping is not None and ping.opcode == PING
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(4.9)
    await trio.testing.wait_all_tasks_blocked()
    assert ours.state is State.OPEN
    mock_clock.jump(0.2)
    with pytest.raises(ConnectionLost, match="silent peer"):
        await ours.receive()


async def test_a_peer_that_was_asked_is_not_blamed_for_an_inbox_filled_meanwhile(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5."""
    ours, peer = watch(Heartbeat(interval=10, timeout=5), Limits(inbox_messages=1)), ends.raw()
    await trio.sleep(12)
    await peer.send(Frame(TEXT, b"instead of a pong"))
    await trio.sleep(60)
    assert ours.state is State.OPEN
    await ours.receive()
    resumed = trio.current_time()
    assert await lost_at(ours) == pytest.approx(resumed + 15)


async def test_a_message_can_stand_for_the_ping_and_its_reply_is_swallowed(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    heartbeat = Heartbeat(interval=10, timeout=5, message='{"op":"ping"}', reply='{"op":"pong"}')
    ours = watch(heartbeat, replies={heartbeat.reply: None})
    peer = ends.raw()
    for _ in range(3):
        assert await peer.frame() == Frame(TEXT, b'{"op":"ping"}')
        await peer.send(Frame(TEXT, b'{"op":"pong"}'))
    await peer.send(Frame(TEXT, b"a message"))
    assert await ours.receive() == "a message"
    assert trio.current_time() == 30
    # `send` sent nothing.
    assert ours.statistics().messages_sent == 0
    assert await lost_at(ours) == pytest.approx(45)


async def test_without_a_reply_nothing_is_swallowed() -> None:
    assert heartbeat_replies(None) == {}
    assert heartbeat_replies(Heartbeat()) == {}
    assert heartbeat_replies(Heartbeat(message="?")) == {}
    assert heartbeat_replies(Heartbeat(message="?", reply=b"!")) == {reply_key(b"!"): None}


async def test_a_link_that_is_closing_is_left_alone(
    ends: Ends, watch: Watch, autojump_clock: trio.testing.MockClock
) -> None:
    ours, peer = watch(Heartbeat(interval=1, timeout=1), Limits(close_timeout=50)), ends.raw()
    await ours.aclose(4000)
    assert trio.current_time() == 50
    assert ours.close_code == 4000
    assert [frame.opcode for frame in await peer.frames()] == [0x8]


def make_links(nursery: trio.Nursery, count: int) -> list[Link]:
    return [
        Link(stream_pair()[0], b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
        for _ in range(count)
    ]


def on(link: Link) -> Connection:
    """A connection on *link*."""
    return Connection(link, Request("GET", "/"))


async def test_one_task_watches_thousands_of_links(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 5 and 12: each in its own time, and others get their turn in between."""
    monitor = Monitor(Heartbeat(interval=20, timeout=10))
    nursery.start_soon(monitor.run)
    links: list[Link] = []
    lost: dict[Link, float] = {}

    def note(link: Link) -> None:
        lost[link] = trio.current_time()

    for _ in range(4):
        for link in make_links(nursery, 500):
            link.queue.set_hooks(link, closed=partial(note, link), drained=lambda: None)
            monitor.add(on(link))
            links.append(link)
        await trio.sleep(1)
    alive = links[::10]
    for _ in range(20):
        await trio.sleep(5)
        for link in alive:
            link.incoming.receive(b"\x8a\x80....", trio.current_time())
    assert len(lost) == 1800
    assert all(link.state is State.OPEN for link in alive)
    for number, link in enumerate(links):
        if number % 10:
            assert lost[link] == pytest.approx(number // 500 + 30)


async def test_looks_due_at_about_the_same_time_are_taken_together(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What an idle link costs depends on it; none is late by more than 1 % of the interval."""
    monitor = Monitor(Heartbeat(interval=10, timeout=10))
    links = make_links(nursery, 101)
    nursery.start_soon(monitor.run)
    for number, link in enumerate(links):
        await trio.sleep_until(number / 100)
        link.pulse.heard()
        monitor.add(on(link))
    await trio.sleep_until(12)
    asked_at = [link.pulse.asked_at for link in links]
    assert len(set(asked_at)) <= 12
    for number, at in enumerate(asked_at):
        assert at is not None and 0 <= at - (10 + number / 100) < 0.1 + 1e-9
    await trio.sleep_until(22)
    assert all(link.state is not State.OPEN for link in links)


async def test_many_looks_at_once_let_others_run(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 12."""
    monitor = Monitor(Heartbeat(interval=20, timeout=10))
    links = make_links(nursery, 1100)
    for link in links:
        monitor.add(on(link))
    nursery.start_soon(monitor.run)
    await trio.sleep(19.9)
    seen: set[int] = set()

    async def watch() -> None:
        while len(links) not in seen:
            seen.add(sum(link.pulse.asked_at is not None for link in links))
            await trio.lowlevel.checkpoint()

    await trio.sleep_until(20)
    await watch()
    steps = [0, *sorted(seen)]
    assert max(b - a for a, b in pairwise(steps)) <= 2 * 64


async def test_a_link_that_was_removed_is_neither_watched_nor_kept(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: not even until its turn would have come."""
    monitor = Monitor(Heartbeat(interval=20, timeout=10))
    nursery.start_soon(monitor.run)
    stream, peer = stream_pair()
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    number = monitor.add(on(link))
    kept = weakref.ref(stream)
    monitor.remove(number)
    await trio.sleep(100)
    assert link.state is State.OPEN
    del stream, link, peer
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("interval", [20, math.inf])
async def test_links_that_were_removed_leave_nothing_to_look_at(
    interval: float, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: however many come and go before one would be due; who stays is watched."""
    monitor = Monitor(Heartbeat(interval=interval, timeout=10))
    nursery.start_soon(monitor.run)
    staying, link = make_links(nursery, 2)
    monitor.add(on(staying))
    for _ in range(1000):
        monitor.remove(monitor.add(on(link)))
        assert len(monitor._agenda) <= 3
    await trio.sleep(31)
    assert (staying.state is State.OPEN) is (interval == math.inf)
    assert link.state is State.OPEN


async def test_links_may_come_at_any_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    monitor = Monitor(Heartbeat(interval=20, timeout=10))
    nursery.start_soon(monitor.run)
    await trio.sleep(1000)
    (link,) = make_links(nursery, 1)
    monitor.add(on(link))
    await trio.sleep(29.9)
    assert link.state is State.OPEN
    await trio.sleep(0.2)
    assert link.close_code == 1006
