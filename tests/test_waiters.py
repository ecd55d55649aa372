"""Fairness among the tasks that send, receive and ping on one connection, and what their waiting
costs others.

First come, first served; and what one waits for wakes nobody who waits for something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.support import CLOSE, PING, PONG, TEXT, Frame, RawPeer, start_connection
from trioweb import ClosedByPeer, Connection, ConnectionClosed, ConnectionLost, Limits
from trioweb.testing import stream_pair


class Schedule(trio.abc.Instrument):
    """Counts how often each task was woken, by its name."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.times[task.name] += 1


@pytest.fixture
async def schedule() -> AsyncGenerator[Schedule]:
    instrument = Schedule()
    trio.lowlevel.add_instrument(instrument)
    yield instrument
    trio.lowlevel.remove_instrument(instrument)


def pair(nursery: trio.Nursery, send_bytes: int = 1000) -> tuple[Connection, RawPeer]:
    ours, theirs = stream_pair(1000)
    limits = Limits(send_bytes=send_bytes, inbox_messages=1000)
    connection = start_connection(nursery, ours, is_client=False, limits=limits)
    return connection, RawPeer(theirs, is_client=True)


# Senders.


async def fill(connection: Connection) -> None:
    """Send until nobody can without waiting."""
    while True:
        with trio.move_on_after(0.01) as scope:
            await connection.send(b"f" * 700)
        if scope.cancelled_caught:
            return


async def start_senders(
    nursery: trio.Nursery, connection: Connection, messages: list[bytes]
) -> None:
    """Have each of *messages* wait to be sent by a task of its own, in that order."""
    for number, message in enumerate(messages):
        nursery.start_soon(connection.send, message, name=f"sender {number}")
        await trio.testing.wait_all_tasks_blocked()


async def test_first_to_wait_is_the_first_to_send_whatever_the_sizes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    await fill(connection)
    messages = [bytes([number]) * (1 + number % 3 * 5000) for number in range(30)]
    await start_senders(nursery, connection, messages)
    got: list[bytes] = []
    while len(got) < len(messages):
        frame = await peer.frame()
        assert frame is not None
        if frame.payload[:1] != b"f":
            got.append(frame.payload)
    assert got == messages


async def test_equal_senders_get_equal_shares(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)

    async def push(payload: bytes) -> None:
        while True:
            await connection.send(payload)

    for number in range(20):
        nursery.start_soon(push, bytes([number]) * 2000)
    await trio.testing.wait_all_tasks_blocked()
    shares: Counter[int] = Counter()
    for _ in range(400):
        frame = await peer.frame()
        assert frame is not None
        shares[frame.payload[0]] += 1
    nursery.cancel_scope.cancel()
    assert len(shares) == 20
    assert max(shares.values()) - min(shares.values()) <= 2


async def test_message_received_wakes_nobody_who_waits_to_send(
    nursery: trio.Nursery, schedule: Schedule, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    await fill(connection)
    await start_senders(nursery, connection, [b"x"] * 50)
    schedule.times.clear()
    for number in range(100):
        await peer.send(Frame(TEXT, b"%d" % number))
        assert await connection.receive() == str(number)
    assert not [name for name in schedule.times if name.startswith("sender")]
    nursery.cancel_scope.cancel()


async def test_room_wakes_each_sender_once_in_its_turn_and_no_receiver(
    nursery: trio.Nursery, schedule: Schedule, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    await fill(connection)
    await start_senders(nursery, connection, [b"x" * 700] * 50)
    nursery.start_soon(connection.receive, name="receiver")
    await trio.testing.wait_all_tasks_blocked()
    schedule.times.clear()
    for _ in range(50):
        await peer.frame()
    await trio.testing.wait_all_tasks_blocked()
    assert max(schedule.times[f"sender {number}"] for number in range(50)) == 1
    assert schedule.times["receiver"] == 0
    nursery.cancel_scope.cancel()


async def test_nobody_gets_ahead_of_those_who_wait(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    await fill(connection)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as senders:
            await start_senders(senders, connection, [b"waits"])
            with pytest.raises(trio.WouldBlock):
                connection.send_nowait(b"ahead")
            scope.cancel()
    # One who has left the line is in nobody's way, and has sent nothing.
    await start_senders(nursery, connection, [b"later"])
    while (frame := await peer.frame()) is not None and frame.payload[:1] == b"f":
        pass
    assert frame is not None
    assert frame.payload == b"later"
    connection.send_nowait(b"now")


async def test_very_many_who_have_their_turn_at_once_have_it_in_slices(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 12; and nobody gets ahead in between."""
    connection, peer = pair(nursery, send_bytes=2**20)
    connection.send_nowait(bytes(2**21))
    await start_senders(nursery, connection, [b"%d" % number for number in range(1000)])
    sent: list[int] = []

    async def watch() -> None:
        while True:
            sent.append(connection.statistics().messages_sent)
            with suppress(trio.WouldBlock):
                connection.send_nowait(b"ahead")
            await trio.lowlevel.checkpoint()

    got: list[bytes] = []
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(watch)
    while len(got) < 1000:
        frame = await peer.frame()
        assert frame is not None
        if frame.payload != b"ahead" and len(frame.payload) < 10:
            got.append(frame.payload)
    assert got == [b"%d" % number for number in range(1000)]
    assert max(after - before for before, after in pairwise(sent)) <= 130
    nursery.cancel_scope.cancel()


async def test_end_tells_all_who_wait_to_send(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    for end in ("closed by the peer", "lost"):
        connection, peer = pair(nursery)
        await fill(connection)
        kind = ClosedByPeer if end == "closed by the peer" else ConnectionLost
        told = 0

        async def push(connection: Connection, kind: type[Exception]) -> None:
            nonlocal told
            with pytest.raises(kind):
                await connection.send("x")
            told += 1

        for _ in range(5):
            nursery.start_soon(push, connection, kind)
        await trio.testing.wait_all_tasks_blocked()
        if end == "lost":
            await trio.aclose_forcefully(peer.stream)
        else:
            await peer.send(Frame(CLOSE))
        await trio.testing.wait_all_tasks_blocked()
        assert told == 5
        await trio.aclose_forcefully(peer.stream)


# Receivers.


class Receivers:
    """Tasks that receive one message each, or are told why there is none, in their order."""

    def __init__(self, connection: Connection) -> None:
        self.got: list[tuple[int, str | bytes | type[Exception]]] = []
        self._connection = connection

    async def receive(self, number: int) -> None:
        try:
            self.got.append((number, await self._connection.receive()))
        except ConnectionClosed as exc:
            self.got.append((number, type(exc)))


async def start_receivers(
    nursery: trio.Nursery, connection: Connection, count: int
) -> tuple[Receivers, list[trio.CancelScope]]:
    """Have *count* tasks receive, begun in the order of their numbers; each has its scope."""
    receivers = Receivers(connection)
    scopes = [trio.CancelScope() for _ in range(count)]

    async def receive(number: int) -> None:
        with scopes[number]:
            await receivers.receive(number)

    for number in range(count):
        nursery.start_soon(receive, number, name=f"receiver {number}")
        await trio.testing.wait_all_tasks_blocked()
    return receivers, scopes


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "in one chunk"])
async def test_message_wakes_the_receiver_who_waits_longest_and_no_other(
    at_once: bool,
    nursery: trio.Nursery,
    schedule: Schedule,
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, peer = pair(nursery)
    receivers, _ = await start_receivers(nursery, connection, 50)
    schedule.times.clear()
    frames = [Frame(TEXT, b"%d" % number) for number in range(10)]
    for some in [frames] if at_once else [[frame] for frame in frames]:
        await peer.send(*some)
        await trio.testing.wait_all_tasks_blocked()
    if at_once:
        # Trio has those who wake together run in any order.
        assert sorted(number for number, _ in receivers.got) == list(range(10))
        assert [message for _, message in receivers.got] == [str(number) for number in range(10)]
    else:
        assert receivers.got == [(number, str(number)) for number in range(10)]
    woken = [schedule.times[f"receiver {number}"] for number in range(50)]
    assert woken == [1] * 10 + [0] * 40
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), (1, 2)], ids=str)
async def test_receiver_that_was_cancelled_has_taken_nothing_and_holds_up_nobody(
    gone: tuple[int, ...], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    receivers, scopes = await start_receivers(nursery, connection, 4)
    for number in gone:
        scopes[number].cancel()
    await trio.testing.wait_all_tasks_blocked()
    left = [number for number in range(4) if number not in gone]
    for number in left:
        await peer.send(Frame(TEXT, b"%d" % number))
        await trio.testing.wait_all_tasks_blocked()
    assert receivers.got == [(number, str(number)) for number in left]


async def test_receiver_whose_message_was_taken_waits_for_the_next(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    receivers, _ = await start_receivers(nursery, connection, 2)
    inbox = connection.link.inbox
    inbox.put(["snatched"])
    # By somebody who did not have to wait.
    assert inbox.messages.popleft() == "snatched"
    await trio.testing.wait_all_tasks_blocked()
    assert receivers.got == []
    for message in (b"a", b"b"):
        await peer.send(Frame(TEXT, message))
        await trio.testing.wait_all_tasks_blocked()
    assert receivers.got == [(1, "a"), (0, "b")]


# Pings.


class Pings:
    """Tasks that wait for the pong of a ping each."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.told: list[type[Exception]] = []


async def start_pings(
    nursery: trio.Nursery, connection: Connection, peer: RawPeer, count: int
) -> tuple[Pings, list[bytes]]:
    """Have *count* tasks ping, one after the other; return what their pings carry, too."""
    pings = Pings()
    payloads: list[bytes] = []

    async def ping(number: int) -> None:
        try:
            await connection.ping()
            pings.answered.append(number)
        except ConnectionClosed as exc:
            pings.told.append(type(exc))

    for number in range(count):
        nursery.start_soon(ping, number, name=f"pinger {number}")
        frame = await peer.frame()
        assert frame is not None and frame.opcode == PING
        payloads.append(frame.payload)
    await trio.testing.wait_all_tasks_blocked()
    return pings, payloads


async def test_pong_wakes_who_waits_for_it_and_nobody_else(
    nursery: trio.Nursery, schedule: Schedule, autojump_clock: trio.testing.MockClock
) -> None:
    """Nobody but those whose pings it answers: a pong answers those before it, too."""
    connection, peer = pair(nursery)
    receivers, _ = await start_receivers(nursery, connection, 10)
    pings, payloads = await start_pings(nursery, connection, peer, 10)
    schedule.times.clear()
    await peer.send(Frame(PONG, payloads[1]))
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(Frame(TEXT, b"x"), Frame(TEXT, b"y"))
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(pings.answered) == [0, 1]
    assert sorted(number for number, _ in receivers.got) == [0, 1]
    waiters = {name: times for name, times in schedule.times.items() if "er " in name}
    assert waiters == {"pinger 0": 1, "pinger 1": 1, "receiver 0": 1, "receiver 1": 1}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["closed", "lost"])
async def test_end_tells_all_who_receive_or_wait_for_a_pong(
    end: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = pair(nursery)
    receivers, _ = await start_receivers(nursery, connection, 5)
    pings, _ = await start_pings(nursery, connection, peer, 5)
    if end == "closed":
        await peer.send(Frame(TEXT, b"the last"), Frame(CLOSE))
    else:
        await peer.send(Frame(TEXT, b"the last"))
        await trio.aclose_forcefully(peer.stream)
    await trio.testing.wait_all_tasks_blocked()
    kind = ClosedByPeer if end == "closed" else ConnectionLost
    assert [what for _, what in receivers.got] == ["the last", kind, kind, kind, kind]
    assert pings.told == [kind] * 5


async def test_link_that_cannot_be_written_to_tells_who_waits_for_a_pong_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """And goes on being received from, see invariant 11."""
    connection, peer = pair(nursery)
    pings, _ = await start_pings(nursery, connection, peer, 3)
    await peer.send(Frame(TEXT, b"arrived"))
    await trio.testing.wait_all_tasks_blocked()
    begun_at = trio.current_time()
    connection.link.break_off("cut")
    await trio.testing.wait_all_tasks_blocked()
    assert pings.told == [ConnectionLost] * 3
    assert trio.current_time() == begun_at
    assert await connection.receive() == "arrived"
