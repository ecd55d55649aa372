"""One suite for every transport, run from both sides.

What a connection promises must not depend on what carries it: kernel sockets, which are written
to at once, and everything else, which is written to by a task.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.support import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    TRANSPORTS,
    Ends,
    Frame,
    close_frame,
    open_streams,
    reset,
    split_frame,
    transport_of,
)
from trioweb import (
    ClosedByPeer,
    ClosedLocally,
    Connection,
    ConnectionClosed,
    ConnectionLost,
    Limits,
    State,
)
from trioweb._reader import open_reader

# Those that hold up a sender whose peer does not read.
BOUNDED = [name for name in TRANSPORTS if name != "trio-memory"]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["client", "server"])
async def ends(
    transport: str, request: pytest.FixtureRequest, nursery: trio.Nursery
) -> AsyncGenerator[Ends]:
    is_client = request.param == "client"
    async with open_streams(transport) as streams:
        if "gathered" in transport:
            with open_reader() as reader:
                assert reader is not None
                async with trio.open_nursery() as own:
                    own.start_soon(reader.run)
                    yield Ends(nursery, streams, is_client=is_client, reader=reader)
                    own.cancel_scope.cancel()
        else:
            yield Ends(nursery, streams, is_client=is_client)


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Virtual time that does not outrun what the kernel has under way."""
    return trio.testing.MockClock(autojump_threshold=0.02)


async def received(connection: Connection) -> list[str | bytes]:
    return [message async for message in connection]


# Messages.


async def test_messages_arrive_in_order_and_of_their_kind_both_ways(ends: Ends) -> None:
    """Invariant 9: order."""
    ours, theirs = ends.ours(), ends.theirs()
    messages: list[str | bytes] = ["text", b"bytes", "", b"", "grüße ☕", b"\x00\xff"]
    messages += ["x" * 125, b"y" * 126, "z" * 65535, b"z" * 65536]
    for message in messages:
        await ours.send(message)
        await theirs.send(message)
    assert [await theirs.receive() for _ in messages] == messages
    assert [await ours.receive() for _ in messages] == messages
    assert ours.statistics().messages_sent == theirs.statistics().messages_received == len(messages)


async def test_mutable_buffers_are_copied(ends: Ends) -> None:
    ours, theirs = ends.ours(), ends.theirs()
    buffer = bytearray(b"before")
    await ours.send(buffer)
    ours.send_nowait(memoryview(buffer)[:3])
    buffer[:] = b"after!"
    assert await theirs.receive() == b"before"
    assert await theirs.receive() == b"bef"


async def test_large_messages_cross_each_other(ends: Ends) -> None:
    ours, theirs = ends.ours(), ends.theirs()
    message = bytes(range(256)) * 2500
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, message)
        nursery.start_soon(theirs.send, message)
        assert await ours.receive() == message
        assert await theirs.receive() == message


async def test_many_small_messages_arrive_in_order(ends: Ends) -> None:
    """Invariants 4 and 9, beyond every bound of the inbox."""
    ours, theirs = ends.ours(), ends.theirs(Limits(inbox_messages=16))
    messages = [f"{number}" for number in range(3000)]

    async def send() -> None:
        for message in messages:
            await ours.send(message)
        await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await received(theirs) == messages


async def test_fragments_make_one_message_and_a_ping_among_them_is_answered(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    await peer.send(
        Frame(TEXT, b"gr", fin=False),
        Frame(0, "ü".encode()[:1], fin=False),
        Frame(PING, b"?"),
        Frame(0, "ü".encode()[1:] + b"n"),
    )
    assert await peer.frame() == Frame(PONG, b"?")
    assert await ours.receive() == "grün"


async def test_several_receivers_get_each_message_once(ends: Ends) -> None:
    ours, theirs = ends.ours(), ends.theirs()
    got: list[str | bytes] = []

    async def receive() -> None:
        got.append(await ours.receive())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3):
            await theirs.send(str(number))
    assert sorted(got) == ["0", "1", "2"]


async def test_ping_tells_its_round_trip_time(ends: Ends) -> None:
    ours = ends.ours()
    ends.theirs()
    assert ours.latency is None
    took = await ours.ping()
    assert 0 < took < 5
    assert ours.latency == took


async def test_a_pong_answers_the_pings_before_it_too(ends: Ends) -> None:
    """RFC 6455 section 5.5.3."""
    ours, peer = ends.ours(), ends.raw()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.ping)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ours.ping)
        first, second = await peer.frame(), await peer.frame()
        assert first is not None and second is not None
        assert first.opcode == second.opcode == PING and first.payload != second.payload
        await peer.send(Frame(PONG, b"of no ping"), Frame(PONG, second.payload))


# Closing.


async def test_closing_tells_code_and_reason_at_both_ends(ends: Ends) -> None:
    ours, theirs = ends.ours(), ends.theirs()
    await ours.send("last words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose, 4001, "grüße")
        assert await received(theirs) == ["last words"]
        await theirs.wait_closed()
    for connection in (ours, theirs):
        assert connection.state is State.CLOSED
        assert (connection.close_code, connection.close_reason) == (4001, "grüße")
    with pytest.raises(ClosedLocally) as local:
        await ours.receive()
    with pytest.raises(ClosedByPeer) as remote:
        await theirs.receive()
    assert (local.value.code, local.value.reason) == (4001, "grüße")
    assert (remote.value.code, remote.value.reason) == (4001, "grüße")


async def test_a_close_is_echoed_and_the_transport_ends_behind_it(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    await peer.send(close_frame(3456, "bye"))
    frames = []
    with trio.fail_after(5):
        frames.append(await peer.frame())
        await trio.aclose_forcefully(peer.stream)
        await ours.wait_closed()
    # RFC 6455 section 5.5.1: the code is echoed; what for, the peer knows itself.
    assert frames == [close_frame(3456)]
    assert ours.close_reason == "bye"


async def test_a_close_without_code_is_echoed_without_and_told_as_1005(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    await peer.send(Frame(CLOSE))
    assert await peer.frame() == Frame(CLOSE)
    with pytest.raises(ClosedByPeer) as closed:
        await ours.receive()
    assert closed.value.code == ours.close_code == 1005


async def test_simultaneous_closes_end_at_once(ends: Ends) -> None:
    ours, theirs = ends.ours(), ends.theirs()
    # What TLS has to say at first is read.
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.aclose, 4001)
            nursery.start_soon(theirs.aclose, 4002)
    assert ours.state is theirs.state is State.CLOSED
    # Each says what it did itself, which was the first that it knew of.
    assert (ours.close_code, theirs.close_code) == (4001, 4002)


async def test_queued_messages_are_delivered_before_the_close(ends: Ends) -> None:
    limits = Limits(send_bytes=2**21)
    ours, theirs = ends.ours(limits), ends.theirs(Limits(inbox_messages=1))
    messages = [bytes([number]) * 50_000 for number in range(30)]
    for message in messages:
        await ours.send(message)
    assert ours.buffered_amount > 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert await received(theirs) == messages
    assert ours.buffered_amount == 0
    assert theirs.close_code == 1000


async def test_a_closing_end_discards_and_counts_what_still_arrives(ends: Ends) -> None:
    """Invariants 4 and 6: not even a full inbox keeps the peer's Close from being seen."""
    ours, peer = ends.ours(Limits(inbox_messages=2)), ends.raw()
    await peer.send(Frame(TEXT, b"1"), Frame(TEXT, b"2"))
    while ours.statistics().inbox_messages < 2:
        await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose)
        assert await peer.frame() == close_frame(1000)
        await peer.send(Frame(TEXT, b"3"), Frame(PING, b"?"), Frame(TEXT, b"4"))
        await peer.send(close_frame(1000))
        # No pong: RFC 6455 section 5.5.1, no frames after a Close.
        with trio.move_on_after(0.2):
            assert await peer.frames() == []
        await trio.aclose_forcefully(peer.stream)
    assert await received(ours) == ["1", "2"]
    assert ours.statistics().discarded == 2
    assert ours.close_code == 1000


async def test_a_peer_that_never_answers_a_close_is_left_after_the_close_timeout(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariant 6: every wait on a peer has a deadline."""
    ours, peer = ends.ours(Limits(close_timeout=7)), ends.raw()
    start = trio.current_time()
    await ours.aclose(4000)
    assert trio.current_time() - start == pytest.approx(7, abs=0.5)
    assert ours.state is State.CLOSED
    assert await peer.frames() == [close_frame(4000)]


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_peer_that_reads_nothing_cannot_put_off_the_end(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariant 6, with a queue that nobody takes."""
    ours = ends.ours(Limits(close_timeout=7, write_timeout=60, send_bytes=2**21))
    for _ in range(20):
        await ours.send(bytes(50_000))
    start = trio.current_time()
    await ours.aclose()
    assert trio.current_time() - start == pytest.approx(7, abs=0.5)
    assert ours.state is State.CLOSED
    assert ours.close_code == 1000


async def test_aclose_is_idempotent_and_any_task_may_call_it(ends: Ends) -> None:
    """Invariant 6."""
    ours = ends.ours()
    ends.theirs()
    async with trio.open_nursery() as nursery:
        for code in (4001, 4002, 4003):
            nursery.start_soon(ours.aclose, code)
    assert ours.close_code in (4001, 4002, 4003)
    code = ours.close_code
    await ours.aclose(4004)
    await ours.wait_closed()
    assert ours.close_code == code


async def test_aclose_closes_even_when_cancelled(ends: Ends) -> None:
    """Invariant 6."""
    ours, peer = ends.ours(), ends.raw()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose()
    assert scope.cancelled_caught
    with trio.fail_after(5):
        await ours.wait_closed()
        # To a kernel socket, Close was written all the same.
        assert await peer.frames() in ([], [close_frame(1000)])


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_kernel_socket_gets_the_close_of_a_cancelled_aclose(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose(4000)
    assert await peer.frames() == [close_frame(4000)]


async def test_aclose_in_progress_ends_at_once_when_cancelled(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose)
        assert await peer.frame() == close_frame(1000)
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await ours.wait_closed()
        assert await peer.frames() == []


async def test_wait_closed_reads_discards_and_counts(ends: Ends) -> None:
    """Invariant 4: a handler that only pushes is told how much it did not look at."""
    ours, theirs = ends.ours(Limits(inbox_messages=4)), ends.theirs()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.wait_closed)
        for _ in range(50):
            await theirs.send("ignored")
        await theirs.ping()
        await theirs.aclose()
    assert ours.statistics().discarded == ours.statistics().messages_received == 50
    assert ours.statistics().inbox_messages == 0


# A peer that is too fast.


async def test_a_peer_that_sends_too_fast_is_read_more_slowly(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariant 4: nothing is dropped.  What may pass at once depends on how it arrives: one or
    two seconds' worth."""
    ours, theirs = ends.ours(Limits(max_messages_per_second=10)), ends.theirs()
    begun_at = trio.current_time()
    messages = [f"{number}" for number in range(50)]
    for message in messages:
        await theirs.send(message)
    await theirs.send("the end")
    assert [await ours.receive() for _ in messages] == messages
    assert trio.current_time() - begun_at == pytest.approx(50 / 10 - 1.5, abs=0.6)
    assert await ours.receive() == "the end"
    assert ours.state is theirs.state is State.OPEN


@pytest.mark.parametrize("inbox_messages", [1, 256], ids=["full", "not full"])
async def test_taking_from_the_inbox_lets_no_peer_that_is_too_fast_go_on(
    inbox_messages: int, ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    limits = Limits(inbox_messages=inbox_messages, max_messages_per_second=0.1)
    ours, peer = ends.ours(limits), ends.raw()
    begun_at = trio.current_time()
    await peer.send(Frame(TEXT, b"1"), Frame(TEXT, b"2"), Frame(TEXT, b"3"))
    taken_at = []
    for message in ("1", "2", "3"):
        assert await ours.receive() == message
        taken_at.append(trio.current_time() - begun_at)
    assert taken_at == pytest.approx([0, 9, 19], abs=0.5)
    await peer.send(Frame(TEXT, b"4"))
    # Its time comes while nobody takes anything, so it is taken later.
    await trio.sleep(100)
    assert await ours.receive() == "4"


@pytest.mark.parametrize("ended_by", ["close", "abort"])
async def test_the_end_does_not_wait_for_a_peer_that_is_too_fast(
    ended_by: str, ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 10: nor does any of its tasks."""
    begun_at = trio.current_time()
    async with trio.open_nursery() as ends.nursery:
        ours, theirs = ends.ours(Limits(max_messages_per_second=0.001)), ends.theirs()
        await theirs.send("1")
        await theirs.send("2")
        assert await ours.receive() == "1"
        if ended_by == "close":
            await ours.aclose(4000)
            assert theirs.close_code == 4000
            assert ours.statistics().discarded == 1
        else:
            ours.link.abort("enough")
            await ours.wait_closed()
    assert trio.current_time() - begun_at < 1
    assert ours.state is State.CLOSED


# Ends that nobody asked for.


async def test_what_arrived_is_delivered_before_the_loss_is_told(ends: Ends) -> None:
    """Invariant 11, when the transport ends without a Close."""
    ours, peer = ends.ours(), ends.raw()
    await peer.send(*[Frame(TEXT, b"%d" % number) for number in range(200)])
    await trio.aclose_forcefully(peer.stream)
    for number in range(200):
        assert await ours.receive() == str(number)
    with pytest.raises(ConnectionLost) as lost:
        await ours.receive()
    assert lost.value.code == ours.close_code == 1006
    assert lost.value.reason


async def test_what_arrived_is_delivered_before_a_loss_even_from_a_full_inbox(ends: Ends) -> None:
    """Invariant 11, with more behind the inbox's bound than in it."""
    ours, peer = ends.ours(Limits(inbox_messages=3)), ends.raw()
    await peer.send(*[Frame(TEXT, b"%d" % number) for number in range(3000)])
    await trio.aclose_forcefully(peer.stream)
    await trio.testing.wait_all_tasks_blocked()
    assert ours.state is State.OPEN
    assert await received(ours) == [str(number) for number in range(3000)]
    assert ours.close_code == 1006


@pytest.mark.parametrize("transport", ["tcp", "filtered", "tls-tcp"])
async def test_a_reset_is_a_loss_and_what_arrived_is_delivered(ends: Ends) -> None:
    """Invariant 11, when the peer's machine has forgotten us."""
    ours, peer = ends.ours(), ends.raw()
    await peer.send(Frame(TEXT, b"1"), Frame(TEXT, b"2"))
    while ours.statistics().inbox_messages < 2:
        await trio.testing.wait_all_tasks_blocked()
    reset(peer.stream)
    assert await received(ours) == ["1", "2"]
    with pytest.raises(ConnectionLost):
        await ours.receive()
    await ours.wait_closed()


async def test_half_a_frame_at_the_end_is_not_a_message(ends: Ends) -> None:
    """Invariant 1, seen from the receiver."""
    ours, peer = ends.ours(), ends.raw()
    whole, half = peer.encode(Frame(TEXT, b"whole")), peer.encode(Frame(TEXT, b"half"))
    await peer.stream.send_all(whole + half[:-1])
    await trio.aclose_forcefully(peer.stream)
    assert await received(ours) == ["whole"]
    assert ours.close_code == 1006


async def _close_locally(connection: Connection, ends: Ends) -> None:
    ends.nursery.start_soon(connection.aclose)


async def _close_by_peer(connection: Connection, ends: Ends) -> None:
    await ends.raw().send(close_frame(1000))


async def _lose(connection: Connection, ends: Ends) -> None:
    await trio.aclose_forcefully(ends.their_stream)


Finish = Callable[[Connection, Ends], Awaitable[None]]
FINISHES: dict[type[ConnectionClosed], Finish] = {
    ClosedLocally: _close_locally,
    ClosedByPeer: _close_by_peer,
    ConnectionLost: _lose,
}


@pytest.fixture(params=FINISHES)
def kind(request: pytest.FixtureRequest) -> type[ConnectionClosed]:
    kind: type[ConnectionClosed] = request.param
    return kind


async def test_every_end_wakes_everyone_who_waits(
    ends: Ends, kind: type[ConnectionClosed], transport: str
) -> None:
    """Invariant 6: nobody waits for a connection that is over."""
    ours = ends.ours(Limits(send_bytes=1))
    woken: list[str] = []

    async def wait(name: str, operation: Callable[[], Awaitable[object]]) -> None:
        with suppress(kind):
            while True:
                await operation()
        woken.append(name)

    async def wait_closed() -> None:
        await ours.link.wait_closed()
        woken.append("wait_closed")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "receive", ours.receive)
            nursery.start_soon(wait, "ping", ours.ping)
            nursery.start_soon(wait_closed)
            if transport != "trio-memory":  # which has room without end
                nursery.start_soon(wait, "send", lambda: ours.send(bytes(100_000)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert woken == []
            await FINISHES[kind](ours, ends)
            await trio.testing.wait_all_tasks_blocked()
            # So that the transport's end does not wait for the close timeout.
            await trio.aclose_forcefully(ends.their_stream)
    assert len(woken) == (3 if transport == "trio-memory" else 4)


async def test_operations_after_the_end_say_whose_doing_it_was(
    ends: Ends, kind: type[ConnectionClosed]
) -> None:
    """Invariant 7, and so that handlers of Trio's two resource errors work."""
    ours = ends.ours()
    await FINISHES[kind](ours, ends)
    while ours.state is State.OPEN:
        await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        with pytest.raises(kind):
            await ours.send("too late")
        with pytest.raises(kind):
            ours.send_nowait("too late")
        with pytest.raises(kind):
            await ours.ping()
        with pytest.raises(kind) as closed:
            await ours.receive()
        local = kind is ClosedLocally
        assert isinstance(closed.value, trio.ClosedResourceError) is local
        assert isinstance(closed.value, trio.BrokenResourceError) is not local
        # Then again with the transport closed.
        await trio.aclose_forcefully(ends.their_stream)
        await ours.wait_closed()


async def test_nothing_outlives_a_connection(ends: Ends, kind: type[ConnectionClosed]) -> None:
    """Invariant 10: its tasks end by themselves, and its transport is closed."""
    async with trio.open_nursery() as nursery:
        ends.nursery = nursery
        ours = ends.ours()
        await ours.send("something")
        await FINISHES[kind](ours, ends)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(ends.their_stream)
    assert ours.state is State.CLOSED
    with pytest.raises(trio.ClosedResourceError):
        await transport_of(ends.our_stream).receive_some(1)


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if "gathered" not in name])
async def test_cancelling_the_nursery_closes_the_transport(ends: Ends) -> None:
    """Invariants 1, 6 and 10: with a queue, and nobody who would take it."""
    peer = ends.raw()
    async with trio.open_nursery() as nursery:
        ends.nursery = nursery
        ours = ends.ours(Limits(send_bytes=2**21))
        for _ in range(10):
            await ours.send(bytes(100_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ours.state is State.CLOSED
    assert ours.close_code == 1001
    # What arrived are frames from the first on, cut once at most: at the very end.
    with suppress(trio.BrokenResourceError):
        while data := await peer.stream.receive_some(65536):
            peer.unparsed += data
    rest = peer.unparsed
    while (split := split_frame(rest, masked=ends.is_client)) is not None:
        frame, rest = split
        assert frame in (Frame(BINARY, bytes(100_000)), close_frame(1001))
    assert len(rest) < 100_014 and rest[:1] in (b"", b"\x82")


# Backpressure.


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_sender_waits_for_a_peer_that_does_not_read(ends: Ends) -> None:
    """Invariants 3 and 8: the queue is bounded, and nothing is lost for it."""
    limits = Limits(send_bytes=50_000)
    ours, theirs = ends.ours(limits), ends.theirs(Limits(inbox_messages=1))
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(40):
            await ours.send(bytes([number]) * 40_000)
            sent += 1
        await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert 1 < sent < 40
        # One message more than the bound, at most.
        assert 50_000 < ours.buffered_amount < 50_000 + 40_100
        with pytest.raises(trio.WouldBlock):
            ours.send_nowait("no")
        assert await received(theirs) == [bytes([number]) * 40_000 for number in range(40)]
    assert ours.buffered_amount == 0


async def test_send_nowait_takes_a_message_of_any_size_while_there_is_room(ends: Ends) -> None:
    ours, theirs = ends.ours(Limits(send_bytes=1)), ends.theirs()
    ours.send_nowait(bytes(200_000))
    assert len(await theirs.receive()) == 200_000


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_full_inbox_stops_reading_until_there_is_room(ends: Ends) -> None:
    """Invariants 3 and 8: a peer that sends faster than it is handled has to wait."""
    ours, peer = ends.ours(Limits(inbox_messages=4)), ends.raw()
    begun = await peer.fill(Frame(BINARY, bytes(10_000)))
    # The last of them was not taken whole; the rest waits on its way, not here.
    assert begun > 5
    arrived = ours.statistics().inbox_messages
    assert 4 <= arrived <= 4 + 120 * 2**10 // 10_000
    assert ours.statistics().bytes_received < 2 * 120 * 2**10
    for _ in range(begun - 1):
        assert len(await ours.receive()) == 10_000


async def test_pings_are_answered_again_once_there_is_room(ends: Ends) -> None:
    ours, theirs = ends.ours(Limits(inbox_messages=4)), ends.theirs()
    for number in range(4):
        await theirs.send(str(number))
    while ours.statistics().inbox_messages < 4:
        await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.ping)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert theirs.latency is None
        # Half of the bound: so that one message does not start and stop the reading.
        await ours.receive()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert theirs.latency is None
        await ours.receive()
    assert theirs.latency is not None


async def test_an_inbox_is_bounded_in_bytes_too(ends: Ends) -> None:
    """Invariant 8."""
    ours, peer = ends.ours(Limits(inbox_bytes=1000)), ends.raw()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, *[Frame(BINARY, bytes(999)) for _ in range(1000)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        # One message, and what one read brings.
        assert 2 <= ours.statistics().inbox_messages <= 2 + 120 * 2**10 // 999
        for _ in range(1000):
            await ours.receive()


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_peer_that_asks_without_reading_costs_one_answer_of_a_kind(ends: Ends) -> None:
    """Invariants 1, 3 and 8: RFC 6455 section 5.5.3 lets the latest ping alone be answered.

    The answers go ahead of the messages that have not been begun, and never into one that has.
    """
    limits = Limits(send_bytes=2**21)
    ours, peer = ends.ours(limits, replies={"?": "!", "quiet": None}), ends.raw()
    messages = [bytes([number]) * 500_000 for number in range(3)]
    for message in messages:
        await ours.send(message)
    await trio.testing.wait_all_tasks_blocked(0.01)
    queued = ours.buffered_amount
    for number in range(1000):
        await peer.send(Frame(PING, b"%d" % number), Frame(TEXT, b"?"), Frame(TEXT, b"quiet"))
    await peer.send(Frame(TEXT, b"a message"))
    assert await ours.receive() == "a message"
    assert ours.buffered_amount <= queued
    assert await peer.frame() == Frame(BINARY, messages[0])
    answers = []
    while (frame := await peer.frame()) and frame.opcode != BINARY:
        answers.append(frame)
    assert frame == Frame(BINARY, messages[1])
    assert answers == [Frame(PONG, b"999"), Frame(TEXT, b"!")]
    assert await peer.frame() == Frame(BINARY, messages[2])
    # And from here on each is answered as it comes.
    await peer.send(Frame(TEXT, b"?"), Frame(PING, b"1"))
    assert {await peer.frame(), await peer.frame()} == {Frame(TEXT, b"!"), Frame(PONG, b"1")}


async def test_every_one_of_a_few_pings_is_answered_even_if_they_come_at_once(ends: Ends) -> None:
    """RFC 6455 section 5.5.3 asks for less, but the Autobahn testsuite (2.10) does not."""
    _, peer = ends.ours(), ends.raw()
    pings = [b"payload-%d" % number for number in range(10)]
    await peer.send(*[Frame(PING, payload) for payload in pings])
    with trio.fail_after(5):
        assert [await peer.frame() for _ in pings] == [Frame(PONG, payload) for payload in pings]


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_flood_of_pings_that_is_not_read_is_held_in_a_few_pongs(ends: Ends) -> None:
    """Invariants 3 and 8, with nothing else to send."""
    ours, peer = ends.ours(), ends.raw()
    pings = [Frame(PING, bytes([number % 256]) * 125) for number in range(200)]
    for _ in range(20):
        await peer.send(*pings)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert ours.buffered_amount <= 512 + 131
    await peer.send(Frame(PING, b"the last"))
    with trio.fail_after(5):
        while await peer.frame() != Frame(PONG, b"the last"):
            pass


async def test_replies_are_given_to_those_messages_alone(ends: Ends) -> None:
    ours, peer = ends.ours(replies={"ping": "pong", b"ping": b"\x00", "quiet": None}), ends.raw()
    await peer.send(Frame(TEXT, b"ping"))
    assert await peer.frame() == Frame(TEXT, b"pong")
    await peer.send(Frame(BINARY, b"ping"), Frame(TEXT, b"quiet"), Frame(BINARY, b"quiet"))
    assert await peer.frame() == Frame(BINARY, b"\x00")
    assert await ours.receive() == b"quiet"
    assert ours.statistics().inbox_messages == 0


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_peer_that_takes_nothing_is_given_up_after_the_write_timeout(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariants 3, 6 and 11."""
    ours, peer = ends.ours(Limits(write_timeout=20, close_timeout=1)), ends.raw()
    await peer.send(Frame(TEXT, b"arrived"))
    start = trio.current_time()
    ours.send_nowait(bytes(1_000_000))
    await ours.link.wait_closed()
    assert trio.current_time() - start == pytest.approx(20, abs=0.5)
    assert await received(ours) == ["arrived"]
    with pytest.raises(ConnectionLost, match=r"took nothing for 20 s \(Limits\.write_timeout\)"):
        await ours.receive()


@pytest.mark.parametrize("transport", BOUNDED)
async def test_a_peer_that_takes_a_little_now_and_then_is_not_given_up(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    ours, peer = ends.ours(Limits(write_timeout=20)), ends.raw()
    ours.send_nowait(bytes(2_400_000))
    taken = 0
    for _ in range(8):
        await trio.sleep(15)
        # A kernel tells its peer of room when there is a good deal of it.
        for _ in range(12):
            taken += len(await peer.stream.receive_some(16384))
    assert ours.state is State.OPEN
    assert trio.current_time() >= 120
    assert ours.buffered_amount > 0
    while taken < 2_400_000:
        taken += len(await peer.stream.receive_some(65536))


# Violations.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(0x3, b"")], 1002),
        ([Frame(0, b"")], 1002),
        ([Frame(PING, bytes(126))], 1002),
        ([Frame(CLOSE, b"\x03")], 1002),
        ([close_frame(1005)], 1002),
        ([close_frame(999)], 1002),
        ([Frame(TEXT, b"\xff")], 1007),
        ([Frame(CLOSE, b"\x03\xe8\xff")], 1007),
        ([Frame(BINARY, bytes(600), fin=False), Frame(0, bytes(600))], 1009),
    ],
)
async def test_a_violation_gets_its_close_code_and_is_a_loss(
    ends: Ends, frames: list[Frame], code: int
) -> None:
    """RFC 6455 section 7.1.7; invariant 11 for what came before it."""
    ours, peer = ends.ours(Limits(max_message_bytes=1000)), ends.raw()
    await peer.send(Frame(TEXT, b"good"), *frames, Frame(TEXT, b"never read"))
    close = await peer.frame()
    assert close is not None and close.opcode == CLOSE
    assert int.from_bytes(close.payload[:2], "big") == code
    await trio.aclose_forcefully(peer.stream)
    assert await received(ours) == ["good"]
    with pytest.raises(ConnectionLost) as lost:
        await ours.receive()
    assert lost.value.code == code
    # Whose setting it was, is told here; the peer has no use for it.
    told, _, limit = lost.value.reason.partition(" (Limits.")
    assert limit == ("max_message_bytes)" if code == 1009 else "")
    assert told.encode() == close.payload[2:]
    await ours.wait_closed()


async def test_without_a_limit_nothing_is_too_large_and_the_inbox_counts_the_other_way(
    ends: Ends,
) -> None:
    none = Limits(max_message_bytes=None, inbox_bytes=None, inbox_messages=2)
    ours, peer = ends.ours(none), ends.raw()
    await peer.send(Frame(BINARY, bytes(2**21)), Frame(TEXT, b"a"), Frame(TEXT, b"b"))
    assert await ours.receive() == bytes(2**21)
    assert [await ours.receive() for _ in range(2)] == ["a", "b"]


async def test_a_violator_that_goes_on_sending_sees_the_close_and_is_cut_off(
    ends: Ends, patient_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 8: what it sends is neither decoded nor kept, and not for long."""
    ours, peer = ends.ours(Limits(close_timeout=5)), ends.raw()
    await peer.send(Frame(0x3, b""))
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for _ in range(20):
            await peer.send(Frame(TEXT, b"more" * 2000))
    assert await peer.frame() == close_frame(1002, "unknown opcode 3")
    assert ours.statistics().messages_received == 0
    with trio.fail_after(6):
        await ours.wait_closed()
    assert ours.statistics().inbox_messages == 0
    await trio.aclose_forcefully(peer.stream)


async def test_a_mask_of_the_wrong_side_is_a_violation(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    peer.is_client = not peer.is_client
    await peer.send(Frame(TEXT, b"?"))
    peer.is_client = not peer.is_client
    close = await peer.frame()
    assert close is not None and close.payload[:2] == (1002).to_bytes(2, "big")
    await trio.aclose_forcefully(peer.stream)
    await ours.wait_closed()


async def test_nothing_behind_a_close_counts(ends: Ends) -> None:
    """RFC 6455 section 5.5.1; and a flood of Closes gets one answer."""
    ours, peer = ends.ours(), ends.raw()
    await peer.send(
        Frame(TEXT, b"before"),
        close_frame(4000),
        Frame(TEXT, b"behind"),
        Frame(PING, b"?"),
        *[close_frame(4001)] * 1000,
    )
    with suppress(trio.BrokenResourceError):
        await peer.send(*[close_frame(4002)] * 1000)
    assert await peer.frame() == close_frame(4000)
    with trio.move_on_after(0.1):
        assert await peer.frames() == []
    await trio.aclose_forcefully(peer.stream)
    assert await received(ours) == ["before"]
    assert ours.close_code == 4000
    await ours.wait_closed()


async def test_a_violation_while_closing_changes_nothing_but_ends_the_reading(ends: Ends) -> None:
    ours, peer = ends.ours(), ends.raw()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose, 4000)
        assert await peer.frame() == close_frame(4000)
        await peer.send(Frame(0x3, b""), Frame(TEXT, b"?"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.aclose_forcefully(peer.stream)
    assert ours.close_code == 4000
    with pytest.raises(ClosedLocally):
        await ours.receive()
