"""One connection as users hold it: what it says of itself, what it refuses, how it is cancelled.

What must hold on every transport is in test_conformance.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.support import (
    BINARY,
    CLOSE,
    TEXT,
    Ends,
    Frame,
    RawPeer,
    Yields,
    close_frame,
    open_streams,
    start_connection,
)
from trioweb import ClosedLocally, Connection, ConnectionLost, Limits, Request, State
from trioweb._link import Link
from trioweb.testing import stream_pair


@pytest.fixture
async def ends(nursery: trio.Nursery) -> AsyncGenerator[Ends]:
    async with open_streams("memory") as streams:
        yield Ends(nursery, streams, is_client=False)


async def test_connection_says_what_it_is(nursery: trio.Nursery) -> None:
    stream, peer = stream_pair()
    request = Request("GET", "/lobby?x=1", remote=("192.0.2.1", 5), local=("192.0.2.2", 6))
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    connection = Connection(link, request, subprotocol="chat", user="ada")
    assert connection.request is request
    assert (connection.remote, connection.local) == (("192.0.2.1", 5), ("192.0.2.2", 6))
    assert (connection.user, connection.subprotocol) == ("ada", "chat")
    assert (connection.close_code, connection.close_reason) == (None, "")
    assert repr(connection) == "<Connection (server) '/lobby' with 192.0.2.1:5, OPEN>"
    await peer.aclose()
    await connection.wait_closed()
    assert repr(connection).endswith("CLOSED>")
    client = start_connection(nursery, stream, is_client=True)
    assert repr(client) == "<Connection (client) '/' with (no address), OPEN>"


async def test_states_are_numbered_as_in_the_browser() -> None:
    assert [(state.name, state.value) for state in State] == [
        ("CONNECTING", 0),
        ("OPEN", 1),
        ("CLOSING", 2),
        ("CLOSED", 3),
    ]


async def test_state_goes_from_open_over_closing_to_closed(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    states = [ours.state]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose)
        assert await peer.frame() == close_frame(1000)
        states.append(ours.state)
        await peer.send(close_frame(1000))
        await peer.stream.aclose()
    states.append(ours.state)
    assert states == [State.OPEN, State.CLOSING, State.CLOSED]


async def test_leaving_an_async_with_closes(ends: Ends) -> None:
    theirs = ends.theirs()
    async with ends.ours() as ours:
        await ours.send("hello")
    assert ours.state is State.CLOSED
    assert theirs.close_code == 1000


async def test_what_came_behind_the_handshake_is_received(nursery: trio.Nursery) -> None:
    stream, other = stream_pair()
    peer = RawPeer(other, is_client=True)
    first, second = peer.encode(Frame(TEXT, b"first")), peer.encode(Frame(TEXT, b"second"))
    ours = start_connection(nursery, stream, is_client=False, rest=first + second[:3])
    assert await ours.receive() == "first"
    await other.send_all(second[3:])
    assert await ours.receive() == "second"


# What is refused.


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        ({"json": 1}, TypeError, "not dict"),
        ("\ud800", ValueError, "surrogates not allowed"),
    ],
)
async def test_what_is_no_message_is_refused_and_nothing_is_sent(
    ends: Ends, message: Any, error: type[Exception], text: str
) -> None:
    ours, peer = ends.ours(), ends.raw()
    with pytest.raises(error, match=text):
        await ours.send(message)
    with pytest.raises(error, match=text):
        ours.send_nowait(message)
    await ours.send("fine")
    assert await peer.frame() == Frame(TEXT, b"fine")
    assert ours.statistics().messages_sent == 1


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (1005, "", "close code 1005"),
        (1006, "", "close code 1006"),
        (999, "", "close code 999"),
        (5000, "", "close code 5000"),
        (1000, "x" * 124, "124 bytes"),
        (1000, "ü" * 62, "124 bytes"),
    ],
)
async def test_a_close_that_cannot_be_sent_is_refused_and_nothing_is_closed(
    ends: Ends, code: int, reason: str, text: str
) -> None:
    ours, peer = ends.ours(), ends.raw()
    with pytest.raises(ValueError, match=text):
        await ours.aclose(code, reason)
    assert ours.state is State.OPEN
    await ours.send("fine")
    assert await peer.frame() == Frame(TEXT, b"fine")


# Cancellation.


class Sender:
    """Sends messages one by one; a cancellation hits whichever is being sent."""

    def __init__(self, connection: Connection, messages: list[bytes]) -> None:
        self.connection = connection
        self.messages = messages
        self.returned: list[bytes] = []
        self.cancelled: list[bytes] = []
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        self._scope.cancel()

    async def run(self, yields: Yields) -> None:
        for message in self.messages:
            with trio.CancelScope() as self._scope:
                await yields.run(self.connection.send(message))
                self.returned.append(message)
            if self._scope.cancelled_caught:
                self.cancelled.append(message)
        await self.connection.aclose()


async def read_until_close(peer: RawPeer) -> list[Frame | None]:
    frames: list[Frame | None] = []
    while not frames or (frames[-1] is not None and frames[-1].opcode != CLOSE):
        # Only now and then, so that the transport is full.
        await trio.testing.wait_all_tasks_blocked()
        frames.append(await peer.frame())
    await trio.aclose_forcefully(peer.stream)
    return frames


@pytest.mark.parametrize("when", ["parking", "resuming"])
@pytest.mark.parametrize("transport", ["tcp", "unix", "memory", "tls-memory"])
async def test_a_send_cancelled_at_any_point_has_sent_nothing_and_any_other_all(
    transport: str, when: str
) -> None:
    """Invariant 1: a frame is whole or not sent at all, whatever is cancelled and whenever.

    The same messages are sent again and again, to a peer that reads slowly, so that sends wait
    for room while a frame before them is cut.  Each time the cancellation comes one point later,
    until there is none left at which it could.
    """
    # Larger than the bound, so that a sender waits while the drain task is in mid-frame.
    size, count = (40_000, 60) if transport in ("tcp", "unix") else (30_000, 20)
    messages = [bytes([number]) * size for number in range(count)]
    cancelled = points = 0
    while True:
        async with open_streams(transport) as streams, trio.open_nursery() as nursery:
            ends = Ends(nursery, streams, is_client=points % 2 == 0)
            ours, peer = ends.ours(Limits(send_bytes=10_000)), ends.raw()
            sender = Sender(ours, messages)
            yields = Yields(points, when, sender.cancel)
            nursery.start_soon(sender.run, yields)
            frames = await read_until_close(peer)
        expected = [Frame(BINARY, message) for message in sender.returned]
        assert frames == [*expected, close_frame(1000)]
        assert len(sender.returned) + len(sender.cancelled) == len(messages)
        if not yields.acted:
            break
        if when == "parking":
            assert len(sender.cancelled) == 1
        cancelled += len(sender.cancelled)
        points += 1
    assert points > 5
    assert cancelled > 0 or when == "resuming"


async def test_a_send_that_starts_cancelled_sends_nothing(ends: Ends) -> None:
    """Invariant 1, at the first of all points."""
    ours, peer = ends.ours(), ends.raw()
    for _ in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.send("never")
        assert scope.cancelled_caught
    await ours.send("sent")
    assert await peer.frame() == Frame(TEXT, b"sent")
    assert ours.statistics().messages_sent == 1


async def test_receive_many_takes_all_that_has_arrived(ends: Ends) -> None:
    """And goes on reading where a full inbox had stopped that."""
    ours, peer = ends.ours(Limits(inbox_messages=4)), ends.raw()
    found: list[Any] = []

    @ends.nursery.start_soon
    async def receive() -> None:
        # It waits for the first.
        while len(found) < 12:
            batch = await ours.receive_many()
            assert batch
            found.extend(batch)
        with pytest.raises(ConnectionLost):
            await ours.receive_many()

    await trio.testing.wait_all_tasks_blocked()
    for n in range(12):
        await peer.send(Frame(TEXT, b"%d" % n))
    await trio.testing.wait_all_tasks_blocked()
    assert found == [str(n) for n in range(12)]
    await peer.stream.aclose()


async def test_a_cancelled_receive_many_takes_nothing(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    await peer.send(Frame(TEXT, b"a"))
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.receive_many()
    assert scope.cancelled_caught
    assert await ours.receive_many() == ["a"]


async def test_a_cancelled_receive_takes_nothing(ends: Ends) -> None:
    """Invariants 4 and 9."""
    ours, peer = ends.ours(), ends.raw()
    with trio.move_on_after(0) as scope:
        await ours.receive()
    assert scope.cancelled_caught
    messages = [str(number) for number in range(20)]
    await peer.send(*[Frame(TEXT, message.encode()) for message in messages])
    got = [await ours.receive()]
    for _ in range(40):
        with trio.CancelScope() as scope:
            scope.cancel()
            got.append(await ours.receive())
        if len(got) == len(messages):
            break
    rest = len(messages) - len(got)
    got += [await ours.receive() for _ in range(rest)]
    assert got == messages


async def test_a_cancelled_ping_is_forgotten(ends: Ends) -> None:
    """Invariant 8."""
    ours, peer = ends.ours(), ends.raw()
    for _ in range(3):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.ping)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    frames = [await peer.frame() for _ in range(3)]
    for frame in frames:
        assert frame is not None
        await peer.send(Frame(0xA, frame.payload))
    await peer.send(Frame(TEXT, b"behind the pongs"))
    await ours.receive()
    assert ours.latency is None


# Others get their turn.


async def test_sending_lets_others_run_every_few_messages(ends: Ends) -> None:
    """Invariant 12."""
    ours = ends.ours(Limits(send_bytes=2**20))
    yields = Yields(-1, "", lambda: None)
    for _ in range(64):
        await yields.run(ours.send("x"))
    assert yields.count == 4


async def test_an_echo_lets_others_run_no_more_often_than_it_receives(ends: Ends) -> None:
    """To receive has let them run already."""
    ours, peer = ends.ours(Limits(send_bytes=2**20)), ends.raw()
    yields = Yields(-1, "", lambda: None)

    async def echo() -> None:
        for _ in range(64):
            message = await yields.run(ours.receive())
            await yields.run(ours.send(message))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        for _ in range(64):
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(Frame(TEXT, b"x"))
    assert yields.count == 64


async def test_messages_that_wait_to_be_received_do_not_keep_an_echo_from_letting_others_run(
    ends: Ends,
) -> None:
    """Invariant 12."""
    ours, peer = ends.ours(Limits(send_bytes=2**20)), ends.raw()
    await peer.send(*[Frame(TEXT, b"x")] * 64)
    await trio.testing.wait_all_tasks_blocked()
    yields = Yields(-1, "", lambda: None)
    for _ in range(64):
        await yields.run(ours.send(await ours.receive()))
    assert yields.count == 4


async def test_a_flood_of_tiny_messages_lets_others_run(ends: Ends) -> None:
    """Invariant 12: the decoder takes about half a millisecond's worth at a time."""
    ours, peer = ends.ours(Limits(inbox_messages=100_000)), ends.raw()
    steps = []
    data = peer.encode(Frame(BINARY)) * 2_500
    total = 4 * 2_500

    async def watch() -> None:
        while ours.statistics().messages_received < total:
            steps.append(ours.statistics().messages_received)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(4):
            await peer.stream.send_all(data)
    steps.append(total)
    assert max(b - a for a, b in pairwise(steps)) <= 2 * 1024


async def test_an_iteration_over_what_is_there_can_be_cancelled(ends: Ends) -> None:
    ours, peer = ends.ours(Limits(inbox_messages=1000)), ends.raw()
    await peer.send(*[Frame(TEXT, b"x")] * 900)
    await trio.testing.wait_all_tasks_blocked()
    seen = 0
    with trio.CancelScope() as scope:
        async for _ in ours:
            seen += 1
            if seen == 1:
                scope.cancel()
    assert scope.cancelled_caught
    assert seen < 20
    assert ours.statistics().inbox_messages == 900 - seen


# Whose error it is.


async def test_only_errors_of_a_connections_own_end_are_its_own(ends: Ends) -> None:
    ours = ends.ours()
    lost = ConnectionLost(1006)
    # Some other connection's, as long as this one is open.
    assert not ours.link.is_own_end(lost)
    ends.theirs()
    await ours.aclose()
    local = ClosedLocally(1000)
    assert ours.link.is_own_end(local)
    assert ours.link.is_own_end(ExceptionGroup("", [local, ExceptionGroup("", [lost])]))
    assert not ours.link.is_own_end(ExceptionGroup("", [local, ValueError()]))
    assert not ours.link.is_own_end(ValueError())
