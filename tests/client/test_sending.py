"""From the outbox to the server: order, flushing, cut frames, confirmation, no deadlock."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.client.support import (
    BINARY,
    CLOSE,
    ONCE,
    PING,
    PONG,
    TEXT,
    Door,
    Serve,
    answer_pings,
    drop,
    hang,
    kernel_pair,
    leave_unsent,
    open_at,
    open_raw,
    open_refused,
    stay,
)
from tests.support import HOST, TRANSPORTS, tls_contexts
from trioweb import (
    Client,
    ClosedLocally,
    ConnectionClosed,
    GaveUp,
    Heartbeat,
    Limits,
    Lost,
    Messages,
    NotReceiving,
    Opened,
    Outbox,
    OutboxFull,
    Retry,
    Undelivered,
    Unsent,
    Waiting,
)
from trioweb.testing import Network, RawPeer, stream_pair, wait_until


async def texts(peer: RawPeer, count: int) -> list[str]:
    """The next *count* messages, with no ping answered."""
    found: list[str] = []
    while len(found) < count:
        frame = await peer.receive_frame()
        if frame.opcode == TEXT:
            found.append(frame.payload.decode())
    return found


# The outbox at its bounds.


async def test_send_needs_no_connection_and_keeps_the_order(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door) as client:
        assert client.state is trioweb.State.CONNECTING
        await client.send("a")
        client.send_nowait(b"b")
        await client.send(bytearray(b"c"))
        assert client.buffered_amount == 3
        peer = await door.accept()
        frames = [await peer.receive_frame() for _ in range(3)]
        assert [(f.opcode, f.payload) for f in frames] == [
            (TEXT, b"a"),
            (BINARY, b"b"),
            (BINARY, b"c"),
        ]
        await client.flush()
        assert client.buffered_amount == 0


async def test_mutable_message_is_copied_when_accepted(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door) as client:
        message = bytearray(b"before")
        await client.send(message)
        message[:] = b"after!"
        assert (await (await door.accept()).receive_frame()).payload == b"before"


@pytest.mark.parametrize("bound", [Outbox(max_messages=2), Outbox(max_bytes=2)], ids=repr)
async def test_send_waits_for_room(bound: Outbox, autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door, outbox=bound) as client:
        sent = []

        async def send() -> None:
            for text in "abcd":
                await client.send(text)
                sent.append(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert sent == ["a", "b"]
            with pytest.raises(trio.WouldBlock):
                client.send_nowait("x")
            assert await texts(await door.accept(), 4) == ["a", "b", "c", "d"]
        assert client.statistics().accepted == 4


async def test_send_raises_when_full_and_so_agreed(autojump_clock: MockClock) -> None:
    with pytest.raises(Unsent):
        async with open_refused(outbox=Outbox(max_messages=1, full="raise")) as client:
            await client.send("a")
            for send in (client.send, client.send_nowait):
                with pytest.raises(OutboxFull, match=r"max_messages=1, max_bytes=1048576"):
                    result = send("b")
                    assert result is not None
                    await result
            assert client.statistics().accepted == 1


async def test_send_drops_the_oldest_and_counts_when_so_agreed(autojump_clock: MockClock) -> None:
    """Invariant 4: what was dropped is counted."""
    door = Door()
    async with open_at(door, outbox=Outbox(max_messages=2, full="drop")) as client:
        for text in "abcd":
            await client.send(text)
        client.send_nowait("e")
        assert client.statistics().dropped == 3
        assert await texts(await door.accept(), 2) == ["d", "e"]
        await client.flush()
        statistics = client.statistics()
        assert (statistics.accepted, statistics.unsent, statistics.dropped) == (5, 0, 3)


async def test_dropping_spares_the_message_that_is_half_written(autojump_clock: MockClock) -> None:
    door = Door(lambda: stream_pair(50))
    async with open_at(door, outbox=Outbox(max_messages=2, full="drop")) as client:
        peer = await door.accept()
        await client.wait_open()
        for text in ("a" * 100, "b", "c"):
            await client.send(text)
            await wait_all_tasks_blocked()
        assert await texts(peer, 2) == ["a" * 100, "c"]


async def test_flush_waits_for_the_half_written_message_that_was_spared(
    autojump_clock: MockClock,
) -> None:
    """What was dropped behind it does not stand for it."""
    door = Door(lambda: stream_pair(50))
    async with open_at(door, outbox=Outbox(max_messages=2, full="drop")) as client:
        peer = await door.accept()
        await client.wait_open()
        await client.send("a" * 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.flush)
            await wait_all_tasks_blocked()
            for text in "bcd":
                await client.send(text)
            await wait_all_tasks_blocked()
            assert client.statistics().dropped == 2
            assert nursery.child_tasks, "flushed a message that is not written"
            assert await texts(peer, 2) == ["a" * 100, "d"]


async def test_message_larger_than_the_outbox_is_an_error_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_raw(outbox=Outbox(max_bytes=4)) as (client, _):
        with pytest.raises(ValueError, match=r"5 bytes.*Outbox\(max_bytes=4\)"):
            await client.send("12345")
        with pytest.raises(ValueError, match="6 bytes"):
            client.send_nowait("äöü")
        await client.send("1234")


@pytest.mark.parametrize("bad", [None, 5, ["x"], {"a": 1}])
async def test_send_refuses_what_is_no_message(bad: object, autojump_clock: MockClock) -> None:
    async with open_raw() as (client, _):
        for send in (client.send, client.send_nowait):
            with pytest.raises(TypeError, match=type(bad).__name__):
                result = send(bad)  # type: ignore[arg-type]
                assert result is not None
                await result
        with pytest.raises(ValueError, match="surrogate"):
            await client.send("\ud800")
        assert client.statistics().accepted == 0


# Reconnecting.


async def test_what_waits_goes_out_in_order_on_the_next_connection(
    autojump_clock: MockClock,
) -> None:
    door = Door()
    async with open_at(door) as client:
        peer = await door.accept()
        await client.send("0")
        assert await texts(peer, 1) == ["0"]
        await client.flush()
        await drop(peer)
        await wait_until(lambda: client.state is trioweb.State.CONNECTING)
        for n in range(1, 200):
            await client.send(str(n))
        assert await texts(await door.accept(), 199) == [str(n) for n in range(1, 200)]


@pytest.mark.network
@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
async def test_frame_that_the_kernel_cut_is_sent_again_on_the_next_connection(
    transport: str, patient_clock: MockClock
) -> None:
    """Invariant 1: half a frame on one connection, all of it on the next."""
    pairs = [await TRANSPORTS["tcp" if transport == "tls" else transport]() for _ in range(2)]
    ends = iter(pairs)
    door = Door(lambda: next(ends))
    client_context, server_context = tls_contexts()
    options: dict[str, Any] = {}
    if transport == "tls":
        options = {"url": f"wss://{HOST}/", "ssl_context": client_context}

    async def accept() -> RawPeer:
        stream = await door.stream()
        if transport == "tls":
            stream = trio.SSLStream(stream, server_context, server_side=True)
        return await RawPeer.accept(stream)

    big = "x" * 600_000
    async with open_at(door, **options) as client:
        first = await accept()
        await client.wait_open()
        await client.send("small")
        await client.flush()
        await client.send(big)
        await client.send("last")
        assert client.buffered_amount == 600_004, "the kernel's buffer is too large for this test"
        await drop(first)
        second = await accept()
        assert await texts(second, 2) == [big, "last"]
        await client.flush()
        assert client.statistics().resent == 0
        await drop(second)


@pytest.mark.network
async def test_message_that_the_kernel_refuses_is_kept(patient_clock: MockClock) -> None:
    pairs = iter([await TRANSPORTS["tcp"]() for _ in range(2)])
    door = Door(lambda: next(pairs))
    async with open_at(door) as client:
        peer = await door.accept()
        await client.wait_open()
        stream = peer.stream
        assert isinstance(stream, trio.SocketStream)
        # An RST is on its way, and no task has run since: the next write meets it.
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0" + b"\0\0\0\0")
        stream.socket.close()
        client.send_nowait("a")
        client.send_nowait("b")
        assert client.statistics().unsent == 2
        second = await door.accept()
        assert await texts(second, 2) == ["a", "b"]
        await drop(second)


@pytest.mark.parametrize("size", [50, 40_000])
async def test_message_that_a_stream_did_not_take_whole_is_kept(
    size: int, autojump_clock: MockClock
) -> None:
    """Streams that are no kernel sockets, such as TLS, take messages one at a time."""
    door = Door(lambda: stream_pair(30))
    async with open_at(door) as client:
        peer = await door.accept()
        await client.wait_open()
        messages = [f"{n}" * size for n in range(5)]
        for message in messages:
            await client.send(message)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def flush() -> None:
                await client.flush()
                assert client.buffered_amount == 0
                assert door.times[1:], "flushed what the first connection had not taken"

            await wait_all_tasks_blocked()
            assert client.statistics().unsent == 5
            await drop(peer)
            assert await texts(await door.accept(), 5) == messages


async def test_message_that_was_written_at_the_last_is_not_sent_again(
    autojump_clock: MockClock,
) -> None:
    """A server may read on behind its own Close: at most once."""
    door = Door(lambda: stream_pair(10))
    async with open_at(door) as client:
        peer = await door.accept()
        await client.wait_open()
        client.send_nowait("a" * 100)
        client.send_nowait("b")
        await wait_all_tasks_blocked()
        await peer.send_frame(CLOSE, b"\x03\xe9")
        assert await texts(peer, 1) == ["a" * 100]
        assert (await peer.receive_frame()).opcode == CLOSE
        await drop(peer)
        assert await texts(await door.accept(), 1) == ["b"]


async def test_flush_means_written(autojump_clock: MockClock) -> None:
    door = Door(lambda: stream_pair(10))
    async with open_at(door) as client:
        peer = await door.accept()
        await client.wait_open()
        await client.flush()
        await client.send("x" * 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.flush)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            await peer.receive_frame()


async def test_flush_waits_only_for_what_was_accepted_before_it(autojump_clock: MockClock) -> None:
    async with open_raw(outbox=Outbox(confirm=True)) as (client, peer):
        await client.send("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.flush)
            ping = None
            while ping is None or ping.opcode != PING:
                ping = await peer.receive_frame()
            await client.send("b")
            await peer.send_frame(PONG, ping.payload)
        assert client.statistics().unsent == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.flush()
            await client.aclose()


# Confirmation.


async def next_ping(peer: RawPeer) -> bytes:
    while (frame := await peer.receive_frame()).opcode != PING:
        pass
    return frame.payload


async def widen(client: Client, peer: RawPeer, window: int) -> None:
    """Answer at once until the window has that size, with nothing in flight then."""
    size = 1
    while size < window:
        for _ in range(max(1, size // 2)):
            client.send_nowait("w")
        await peer.send_frame(PONG, await next_ping(peer))
        await client.flush()
        size *= 2


async def test_flush_means_confirmed_when_so_agreed(autojump_clock: MockClock) -> None:
    async with open_raw(outbox=Outbox(confirm=True)) as (client, peer):
        await client.send("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.flush)
            payload = await next_ping(peer)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            assert client.buffered_amount == 1
            await peer.send_frame(PONG, payload)
        assert client.buffered_amount == 0
        with trio.move_on_after(0):
            await client.aclose()


async def test_pong_that_answers_no_ping_confirms_nothing(autojump_clock: MockClock) -> None:
    async with open_raw(outbox=Outbox(confirm=True)) as (client, peer):
        await client.send("a")
        payload = await next_ping(peer)
        for wrong in (b"", b"x", payload[:-1], payload + b"x", bytes(8), payload[::-1]):
            await peer.send_frame(PONG, wrong)
        await wait_all_tasks_blocked()
        assert client.statistics().unsent == 1
        await peer.send_frame(PONG, payload)
        await client.flush()
        # Once more, it answers nothing.
        await client.send("b")
        await peer.send_frame(PONG, payload)
        await wait_all_tasks_blocked()
        assert client.statistics().unsent == 1
        await peer.send_frame(PONG, await next_ping(peer))
        await client.flush()


async def test_pong_confirms_what_earlier_pings_asked_about(autojump_clock: MockClock) -> None:
    """RFC 6455 section 5.5.3: a peer may answer only the latest of several pings."""
    async with open_raw(outbox=Outbox(confirm=True)) as (client, peer):
        await widen(client, peer, 4)
        pings = []
        for text in "abc":
            await client.send(text)
            pings.append(await next_ping(peer))
        await peer.send_frame(PONG, pings[1])
        await wait_all_tasks_blocked()
        assert client.statistics().unsent == 1
        await peer.send_frame(PONG, pings[0])
        await wait_all_tasks_blocked()
        assert client.statistics().unsent == 1
        await peer.send_frame(PONG, pings[2])
        await client.flush()


@pytest.mark.parametrize("pair", [stream_pair, lambda: stream_pair(100)], ids=["wide", "narrow"])
async def test_many_messages_share_a_ping(
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]], autojump_clock: MockClock
) -> None:
    door = Door(pair)
    async with open_at(door, outbox=Outbox(max_messages=2000, confirm=True)) as client:
        for n in range(1000):
            client.send_nowait(str(n))
        peer = await door.accept()
        pings = messages = 0
        while client.statistics().unsent:
            frame = await peer.receive_frame()
            messages += frame.opcode == TEXT
            if frame.opcode == PING:
                pings += 1
                await peer.send_frame(PONG, frame.payload)
                await wait_all_tasks_blocked()
        assert messages == 1000
        # Up to 32 for each, which is half of the window, and fewer at first.
        assert pings < 50


async def test_window_begins_at_one_in_each_session_and_doubles_with_quick_pongs(
    autojump_clock: MockClock,
) -> None:
    """Slow start: of a burst, nothing is given out that the server may have to get again."""
    door = Door()
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        for n in range(500):
            client.send_nowait(str(n))
        for _ in range(2):
            peer = await door.accept()
            in_flight: list[int] = []
            pings: list[tuple[bytes, int]] = []
            written = confirmed = 0
            while written < 200:
                try:
                    with trio.fail_after(0.01):
                        frame = await peer.receive_frame()
                except trio.TooSlowError:
                    # Nothing more comes before it has an answer.
                    in_flight.append(written - confirmed)
                    payload, confirmed = pings[-1]
                    await peer.send_frame(PONG, payload)
                else:
                    written += frame.opcode == TEXT
                    if frame.opcode == PING and written:
                        pings.append((frame.payload, written))
            assert in_flight[0] == 1
            assert all(2 * a >= b for a, b in itertools.pairwise(in_flight) if b <= 2)
            assert max(in_flight) == 64
            await drop(peer)
        await leave_unsent(client)


async def test_window_does_not_grow_with_pongs_that_take_longer_than_a_second(
    autojump_clock: MockClock,
) -> None:
    async with open_raw(outbox=Outbox(confirm=True)) as (client, peer):
        for text in "abc":
            await client.send(text)
        for text in "abc":
            assert (await peer.receive_frame()).payload == text.encode()
            ping = await next_ping(peer)
            await trio.sleep(1.1)
            await wait_all_tasks_blocked()
            await peer.send_frame(PONG, ping)
        await client.flush()


async def test_window_does_not_grow_with_messages_that_do_not_fill_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """How quickly single messages are handled says nothing of the burst that follows them."""
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, work(0.75, arrived))
    heartbeat = Heartbeat(timeout=5)
    async with open_at(door, heartbeat=heartbeat, outbox=Outbox(confirm=True)) as client:
        for n in range(10):
            await client.send(str(n))
            await client.flush()
        for n in range(10, 30):
            client.send_nowait(str(n))
        await client.flush()
        assert client.statistics().sessions == 1
    assert arrived == [str(n) for n in range(30)]


async def test_ping_stands_for_64_kib_at_most(autojump_clock: MockClock) -> None:
    async with open_raw(outbox=Outbox(max_bytes=2**20, confirm=True)) as (client, peer):
        await widen(client, peer, 64)
        for _ in range(16):
            client.send_nowait(bytes(16 * 2**10))
        kinds = [(await peer.receive_frame()).opcode for _ in range(20)]
        assert kinds == [BINARY, BINARY, BINARY, BINARY, PING] * 4
        await drop(peer)
        client.send_nowait("x")
        await leave_unsent(client)


async def test_unconfirmed_messages_stay_within_the_outbox(autojump_clock: MockClock) -> None:
    """Invariant 8."""
    async with open_raw(outbox=Outbox(max_messages=3, confirm=True)) as (client, peer):
        await widen(client, peer, 4)
        for text in "abc":
            await client.send(text)
        with trio.move_on_after(1) as scope:
            await client.send("d")
        assert scope.cancelled_caught
        pong = await next_ping(peer)
        await peer.send_frame(PONG, pong)
        await client.send("e")
        assert client.statistics().accepted == 6
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.flush()
            await client.aclose()


async def test_unconfirmed_messages_are_sent_again_in_order(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        peer = await door.accept()
        await widen(client, peer, 8)
        for text in "bcd":
            await client.send(text)
        assert await texts(peer, 3) == ["b", "c", "d"]
        await drop(peer)
        await wait_until(lambda: client.state is trioweb.State.CONNECTING)
        await client.send("e")
        peer = await door.accept()
        async with trio.open_nursery() as nursery:
            arrived: list[str] = []
            nursery.start_soon(answer_pings, peer, arrived)
            await client.flush()
            assert arrived == ["b", "c", "d", "e"]
            assert client.statistics().resent == 3
            await client.aclose()


async def test_pong_of_an_earlier_connection_confirms_nothing(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        peer = await door.accept()
        await client.send("a")
        old = await next_ping(peer)
        await drop(peer)
        peer = await door.accept()
        assert await texts(peer, 1) == ["a"]
        new = await next_ping(peer)
        assert new != old
        await peer.send_frame(PONG, old)
        await wait_all_tasks_blocked()
        assert client.statistics().unsent == 1
        await peer.send_frame(PONG, new)


# Messages that are not worth being sent again.


def die_of(poison: str, arrived: list[str], *, pongs: bool = True) -> Serve:
    """A turn that ends the transport at a message, and answers pings in their order, or not."""

    async def turn(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        with suppress(EOFError, trio.BrokenResourceError):
            while (frame := await peer.receive_frame()).opcode != CLOSE:
                if frame.opcode == TEXT:
                    arrived.append(frame.payload.decode())
                    if arrived[-1] == poison:
                        break
                elif frame.opcode == PING and pongs:
                    await peer.send_frame(PONG, frame.payload)
        await drop(peer)

    return turn


@pytest.mark.parametrize("max_resends", [1, 3, None])
async def test_message_of_which_the_server_dies_leaves_after_so_many_sends(
    max_resends: int | None,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a bound, it would hold up for ever what was accepted behind it."""
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, die_of("bad", arrived))
    outbox = Outbox(confirm=True, max_resends=max_resends)
    with pytest.raises(Unsent) as caught:
        async with open_at(door, outbox=outbox) as client:
            with client.messages(events=True) as messages:
                for text in ("a", "bad", "b"):
                    client.send_nowait(text)
                with trio.move_on_after(3600):
                    await client.flush()
                statistics = client.statistics()
                try:
                    await client.aclose()
                finally:
                    events = [event async for event in messages]
    if max_resends is None:
        assert arrived.count("bad") > 100
        assert set(arrived) == {"a", "bad"}
        assert caught.value.messages == ("bad", "b")
        return
    assert list(dict.fromkeys(arrived)) == ["a", "bad", "b"]
    # Once beside "a", whose connection had answered before that.
    assert arrived.count("bad") == max_resends
    assert arrived.count("a") == arrived.count("b") == 1
    assert (statistics.unsent, statistics.undelivered) == (0, 1)
    assert (caught.value.count, caught.value.messages) == (1, ("bad",))
    assert f"3 bytes was sent {max_resends} times and never confirmed" in caplog.text
    assert Undelivered("bad", max_resends) in events
    # In its place: behind the session that it ended, and before the next.
    at = events.index(Undelivered("bad", max_resends))
    assert isinstance(events[at - 1], Lost)
    assert isinstance(events[at + 1], Waiting) and isinstance(events[at + 2], Opened)


async def test_path_that_answers_no_pings_empties_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """That nothing is confirmed there says nothing about the message."""
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, die_of("a", arrived, pongs=False))
    with pytest.raises(Unsent) as caught:
        async with open_at(door, outbox=Outbox(confirm=True, max_resends=2)) as client:
            client.send_nowait("a")
            await trio.sleep(3600)
            assert client.statistics().undelivered == 0
    assert len(arrived) > 100
    assert caught.value.messages == ("a",)


async def test_messages_that_were_given_up_are_kept_within_the_bounds_of_the_outbox(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 8: all of them are counted, and the last come back."""
    door = Door()

    async def die(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        while (frame := await peer.receive_frame()).opcode == PING:
            await peer.send_frame(PONG, frame.payload)
            await wait_all_tasks_blocked()
        await drop(peer)

    nursery.start_soon(door.serve, die)
    with pytest.raises(Unsent) as caught:
        async with open_at(
            door, outbox=Outbox(max_messages=2, confirm=True, max_resends=1)
        ) as client:
            for n in range(5):
                await client.send(str(n))
                await client.flush()
    assert caught.value.count == 5
    assert caught.value.messages == ("3", "4")


async def test_unanswered_confirming_ping_ends_the_session_though_other_bytes_arrive(
    autojump_clock: MockClock,
) -> None:
    async with open_raw(
        outbox=Outbox(confirm=True), heartbeat=Heartbeat(interval=20, timeout=4), retry=ONCE
    ) as (client, peer):
        begun = trio.current_time()
        await client.send("a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def chatter() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await peer.send_frame(TEXT, b"still here")
                        await trio.sleep(0.5)

            with pytest.raises(GaveUp, match="no confirmation for 4 s"):
                await client.flush()
            assert trio.current_time() - begun == 4
            await leave_unsent(client)
        await drop(peer)


async def test_confirmation_is_awaited_only_while_we_are_reading(autojump_clock: MockClock) -> None:
    """Invariant 5: the pong may wait behind what the program does not receive."""
    async with open_raw(
        outbox=Outbox(confirm=True),
        heartbeat=Heartbeat(interval=20, timeout=5),
        limits=Limits(inbox_messages=4),
    ) as (client, peer):
        with client.messages(max_messages=4) as messages:
            await client.send("a")
            ping = await next_ping(peer)
            for n in range(20):
                await peer.send_frame(TEXT, str(n).encode())
            await trio.sleep(100)
            assert client.statistics().unsent == 1
            for n in range(20):
                assert await messages.receive() == str(n)
            await trio.sleep(4)
            assert client.state is trioweb.State.OPEN
            await peer.send_frame(PONG, ping)
            await client.flush()
        assert client.statistics().sessions == 1


async def test_seconds_of_reading_are_counted_over_the_pauses(
    autojump_clock: MockClock,
) -> None:
    """A program that is a little slow leaves a server that confirms nothing, too."""
    door = Door(lambda: stream_pair(1000))
    retry = Retry(worth=lambda error: False)
    async with open_at(door, outbox=Outbox(confirm=True), retry=retry) as client:
        await client.send("a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def serve() -> None:
                peer = await door.accept()
                nursery.start_soon(answer_nothing, peer)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while True:
                        await peer.send_frame(TEXT, b"tick")
                        await trio.sleep(0.001)

            @nursery.start_soon
            async def receive() -> None:
                with suppress(GaveUp):
                    async for _ in client:
                        await trio.sleep(0.01)

            with pytest.raises(GaveUp, match="no confirmation for 20 s"):
                await client.flush()
            assert 20 <= trio.current_time() < 60
            await leave_unsent(client)


async def answer_nothing(peer: RawPeer) -> None:
    with suppress(EOFError, trio.BrokenResourceError):
        while True:
            await peer.receive_frame()
    await drop(peer)


def work(seconds: float, arrived: list[str]) -> Serve:
    """A turn that takes *seconds* for each message before it reads on."""

    async def turn(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        with suppress(EOFError, trio.BrokenResourceError):
            while (frame := await peer.receive_frame()).opcode != CLOSE:
                if frame.opcode == PING:
                    await peer.send_frame(PONG, frame.payload)
                else:
                    await trio.sleep(seconds)
                    arrived.append(frame.payload.decode())
        await trio.aclose_forcefully(stream)

    return turn


async def test_timeout_of_a_confirmation_counts_from_the_last_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The pings of a backlog are all sent at once."""
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, work(0.25, arrived))
    messages = [str(n) for n in range(256)]
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        for message in messages:
            client.send_nowait(message)
        await client.flush()
        assert trio.current_time() > 60
        assert arrived == messages
        assert client.statistics().sessions == 1


@pytest.mark.parametrize("heartbeat", [None, Heartbeat()], ids=["deaf", "heartbeat"])
@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.7, 1, 3, 15])
async def test_server_that_handles_slowly_gets_nothing_twice(
    heartbeat: Heartbeat | None,
    seconds: float,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    """And all of it in the time that the handling takes."""
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, work(seconds, arrived))
    async with open_at(door, heartbeat=heartbeat, outbox=Outbox(confirm=True)) as client:
        for n in range(300):
            client.send_nowait(str(n))
        await client.flush()
        assert trio.current_time() == pytest.approx(300 * seconds)
        assert client.statistics().sessions == 1
    assert arrived == [str(n) for n in range(300)]


async def test_server_that_takes_longer_than_the_timeout_for_a_message_is_waited_for_in_the_end(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    arrived: list[str] = []
    nursery.start_soon(door.serve, work(25, arrived))
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        for n in range(20):
            client.send_nowait(str(n))
        await client.flush()
        # And not begun anew for each message.
        assert client.statistics().sessions == 2
    assert list(dict.fromkeys(arrived)) == [str(n) for n in range(20)]


async def test_timeout_of_a_confirmation_doubles_until_one_comes_in_time(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    async with open_at(door, heartbeat=None, outbox=Outbox(confirm=True)) as client:

        async def session(answer_after: float | None = None) -> float:
            """How long a session goes on after the first answer, and without any other."""
            peer = await door.accept()
            if answer_after is not None:
                await texts(peer, 1)
                ping = await next_ping(peer)
                await trio.sleep(answer_after)
                await peer.send_frame(PONG, ping)
                await wait_all_tasks_blocked()
                client.send_nowait("b")
            begun = trio.current_time()
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                while True:
                    await peer.receive_frame()
            await drop(peer)
            return round(trio.current_time() - begun, 3)

        client.send_nowait("a")
        lengths = [await session() for _ in range(6)]
        assert lengths == [20, 40, 80, 160, 160, 160]
        assert await session(answer_after=21) == 160
        assert await session(answer_after=19) == 20
        # A connection that just dies says nothing of how slow the server is.
        peer = await door.accept()
        await trio.sleep(10)
        await drop(peer)
        assert await session() == 40
        assert "no confirmation for 160 s" in caplog.text
        nursery.start_soon(answer_pings, await door.accept())


@pytest.mark.parametrize("seed", range(5))
async def test_every_confirmed_message_arrives_over_servers_that_die(
    seed: int, autojump_clock: MockClock
) -> None:
    """At least once, and first arrivals in order."""
    random = Random(seed)
    door = Door(lambda: stream_pair(random.choice([60, 700, 65536])))
    arrived: list[int] = []

    async def serve(stream: trio.abc.Stream) -> None:
        with trio.move_on_after(random.expovariate(2)):
            peer = await RawPeer.accept(stream)
            while True:
                frame = await peer.receive_frame()
                await trio.sleep(random.choice([0, 0, 0.01]))
                if frame.opcode == PING:
                    await peer.send_frame(PONG, frame.payload)
                elif frame.opcode == TEXT:
                    arrived.append(int(frame.payload))
                elif frame.opcode == CLOSE:
                    break
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, serve)
        async with open_at(
            door, retry=Retry(maximum=1), outbox=Outbox(max_messages=50, confirm=True)
        ) as client:
            for n in range(600):
                await client.send(str(n))
                if random.random() < 0.05:
                    await trio.sleep(random.random())
            await client.flush()
            statistics = client.statistics()
        nursery.cancel_scope.cancel()
    assert list(dict.fromkeys(arrived)) == list(range(600))
    assert statistics.sessions > 3
    assert statistics.resent >= len(arrived) - 600


@pytest.mark.parametrize("seed", range(5))
async def test_no_unconfirmed_message_arrives_twice_over_servers_that_die(
    seed: int, autojump_clock: MockClock
) -> None:
    """At most once, and in order, without confirmation."""
    random = Random(seed)
    door = Door(lambda: stream_pair(random.choice([60, 700])))
    arrived: list[int] = []

    async def serve(stream: trio.abc.Stream) -> None:
        with trio.move_on_after(random.expovariate(2)):
            peer = await RawPeer.accept(stream)
            while (frame := await peer.receive_frame()).opcode == TEXT:
                await trio.sleep(random.choice([0, 0, 0.01]))
                arrived.append(int(frame.payload))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, serve)
        async with open_at(door, retry=Retry(maximum=1), outbox=Outbox(max_messages=50)) as client:
            for n in range(300):
                await client.send(str(n))
                if random.random() < 0.05:
                    await trio.sleep(random.random())
            await client.flush()
            assert client.statistics().sessions > 3
        nursery.cancel_scope.cancel()
    assert arrived == sorted(set(arrived))
    # What a dying connection had in its buffer is lost, and no more than that.
    assert len(arrived) > 150


async def test_message_that_was_written_is_not_sent_again_when_a_pong_behind_it_was_not(
    autojump_clock: MockClock,
) -> None:
    """At most once: what the queue holds behind a message says nothing about it."""
    network = Network(max_bytes=1000, latency=0.1)
    listener = network.host("server").listen(80)
    received: list[bytes] = []

    async def serve() -> None:
        for session in range(2):
            stream = await listener.accept()
            peer = await RawPeer.accept(stream)
            await peer.send_frame(PING, bytes(125))
            await trio.sleep(1)  # the pong is queued behind the message
            while (frame := await peer.receive_frame()).opcode != TEXT:
                pass
            received.append(frame.payload)
            if session == 0:
                # The message fills what the network holds to the last byte; the pong stays behind.
                stream.abort()

    dial = network.host("client").dial
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with trioweb.open_client("ws://server/", dial=dial) as client:
            await client.wait_open()
            await client.send("x" * 2992)
            await trio.sleep(30)
            assert client.statistics().sessions == 2
        nursery.cancel_scope.cancel()
    assert len(received) == 1


# Sending from inside the receiving loop.


async def test_program_that_sends_in_its_receiving_loop_does_not_deadlock(
    autojump_clock: MockClock,
) -> None:
    """The pongs come behind more messages than the inbox holds."""
    limits = Limits(inbox_messages=8)
    async with open_raw(outbox=Outbox(max_messages=2, confirm=True), limits=limits) as (
        client,
        peer,
    ):

        async def serve() -> None:
            """The first pong comes behind far more than the inbox and the stream hold."""
            await peer.send_frame(TEXT, b"begin")
            ping = await next_ping(peer)
            for _ in range(35):
                await peer.send_frame(TEXT, b"more")
            await peer.send_frame(PONG, ping)
            await answer_pings(peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            received = 0
            with client.messages(max_messages=8) as messages, trio.fail_after(1):
                async for _ in messages:
                    received += 1
                    for _ in range(3):
                        await client.send("reply")
                    if received == 36:
                        break
            await client.aclose()
        assert client.statistics().accepted == 3 * 36


async def test_not_receiving_is_raised_past_four_times_the_inbox(autojump_clock: MockClock) -> None:
    async with open_raw(
        outbox=Outbox(max_messages=1, confirm=True),
        limits=Limits(inbox_messages=8),
        heartbeat=Heartbeat(timeout=5),
    ) as (client, peer):
        with client.messages(max_messages=1) as messages:
            await client.send("a")
            ping = await next_ping(peer)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    with pytest.raises(NotReceiving, match=r"32 messages .* another task"):
                        await client.send("b")

                for n in range(32):
                    await peer.send_frame(TEXT, str(n).encode())
                await trio.sleep(4)
                assert len(nursery.child_tasks) == 1
                await peer.send_frame(TEXT, b"32")
                full_at = trio.current_time()
            assert trio.current_time() == full_at + 5
            # As long as nothing is received, there is no need to wait for that again.
            with pytest.raises(NotReceiving):
                await client.flush()
            assert trio.current_time() == full_at + 5
            await peer.send_frame(PONG, ping)
            assert [await messages.receive() for _ in range(33)] == [str(n) for n in range(33)]
            await client.flush()
            assert client.statistics().accepted == 1


async def test_receiving_a_little_makes_way_for_as_much(autojump_clock: MockClock) -> None:
    """Too little for the stream to be filled up again at once."""
    async with open_raw(
        outbox=Outbox(confirm=True), limits=Limits(inbox_messages=2), heartbeat=Heartbeat(timeout=5)
    ) as (client, peer):
        with client.messages(max_messages=4) as messages:
            await client.send("a")
            ping = await next_ping(peer)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def flush() -> None:
                    with pytest.raises(NotReceiving):
                        await client.flush()

                for n in range(12):
                    await peer.send_frame(TEXT, str(n).encode())
                    await wait_all_tasks_blocked()
            await peer.send_frame(PONG, ping)
            assert await messages.receive() == "0"
            with trio.fail_after(1):
                await client.flush()


async def test_receiving_slowly_in_another_task_is_no_reason_for_not_receiving(
    autojump_clock: MockClock,
) -> None:
    door = Door(lambda: stream_pair(20))
    async with open_at(
        door,
        outbox=Outbox(confirm=True),
        limits=Limits(inbox_messages=8),
        heartbeat=Heartbeat(timeout=5),
    ) as client:
        peer = await door.accept()
        with client.messages(max_messages=8) as messages:
            await client.send("a")
            ping = await next_ping(peer)
            received: list[object] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def serve() -> None:
                    for n in range(100):
                        await peer.send_frame(TEXT, str(n).encode())
                    await peer.send_frame(PONG, ping)
                    await answer_pings(peer)

                @nursery.start_soon
                async def receive() -> None:
                    async for message in messages:
                        await trio.sleep(4)
                        received.append(message)

                await client.flush()
                assert trio.current_time() > 100
                await client.aclose()
            assert received == [str(n) for n in range(100)]


def hang_up(*messages: str) -> Serve:
    """A turn that accepts, sends *messages*, and ends the transport."""

    async def turn(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        for message in messages:
            await peer.send_frame(TEXT, message.encode())
        await drop(peer)

    return turn


@asynccontextmanager
async def open_held_up(arrived: list[str]) -> AsyncGenerator[tuple[Client, Messages[Any]]]:
    """A client that has accepted a message, and will not connect before more is received: there
    are 10 messages in a stream for one."""
    door = Door()

    async def collect(stream: trio.abc.Stream) -> None:
        await answer_pings(await RawPeer.accept(stream), arrived)

    async with trio.open_nursery() as nursery:
        turns = hang_up(*map(str, range(10))), hang_up(), collect
        nursery.start_soon(door.serve, *turns)
        async with open_at(
            door,
            outbox=Outbox(max_messages=1, confirm=True),
            heartbeat=Heartbeat(timeout=5),
        ) as client:
            with client.messages(max_messages=1) as messages:
                client.send_nowait("a")
                yield client, messages
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("begun", ["before", "meanwhile"])
@pytest.mark.parametrize("operation", ["send", "flush", "wait_open"])
async def test_not_receiving_is_raised_where_that_is_in_the_way_of_a_connection(
    operation: str, begun: str, autojump_clock: MockClock
) -> None:
    arrived: list[str] = []
    async with open_held_up(arrived) as (client, messages):
        if begun == "meanwhile" or operation == "wait_open":
            await trio.sleep(60)
            assert client.statistics().sessions == 2
        with (
            trio.fail_after(60),
            pytest.raises(NotReceiving, match=r"no new connection .* another task"),
        ):
            await (client.send("b") if operation == "send" else getattr(client, operation)())
        # Whoever does receive after that finds all in order.
        assert [await messages.receive() for _ in range(10)] == [str(n) for n in range(10)]
        with trio.fail_after(60):
            await client.send("b")
            await client.flush()
        assert arrived == ["a", "b"]
        assert client.statistics().discarded == 0


async def test_receiving_slowly_is_no_reason_for_not_receiving_between_connections(
    autojump_clock: MockClock,
) -> None:
    arrived: list[str] = []
    async with open_held_up(arrived) as (client, messages):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                for n in range(10):
                    assert await messages.receive() == str(n)
                    await trio.sleep(4)

            await client.send("b")
            await client.flush()
        assert arrived == ["a", "b"]


@pytest.mark.parametrize("begun", ["before", "meanwhile"])
async def test_leaving_goes_on_to_the_next_connection_though_nobody_receives(
    begun: str, autojump_clock: MockClock
) -> None:
    """What the outbox holds goes before what nobody will receive any more."""
    arrived: list[str] = []
    async with open_held_up(arrived) as (client, messages):
        if begun == "meanwhile":
            await trio.sleep(60)
        await client.aclose()
        assert arrived == ["a"]
        assert client.statistics().sessions == 3
        # That much had been given out already.
        assert [message async for message in messages] == [str(n) for n in range(10)]


async def test_what_was_in_the_way_of_a_connection_is_not_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Once it is received, who waits for a server that cannot be reached is not blamed for that."""
    door = Door()
    nursery.start_soon(door.serve, hang_up(*map(str, range(10))), hang_up(), hang)
    async with open_at(door, outbox=Outbox(confirm=True), heartbeat=Heartbeat(timeout=5)) as client:
        with client.messages(max_messages=1) as messages:
            client.send_nowait("a")
            await trio.sleep(3)
            assert client.statistics().sessions == 2
            for _ in range(10):
                await messages.receive()
            for _ in range(2):
                with trio.move_on_after(1):
                    await client.flush()
                await trio.sleep(10)
            assert client.state is trioweb.State.CONNECTING
        await leave_unsent(client)


@pytest.mark.parametrize("make_pair", [stream_pair, kernel_pair])
async def test_who_waited_before_the_connection_is_answered_behind_a_full_inbox(
    make_pair: Any, patient_clock: MockClock
) -> None:
    door = Door(make_pair)
    async with open_at(
        door, outbox=Outbox(confirm=True), limits=Limits(inbox_messages=8)
    ) as client:
        with client.messages(max_messages=1):
            client.send_nowait("a")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.flush)
                await wait_all_tasks_blocked()
                peer = await door.accept()
                ping = await next_ping(peer)
                for _ in range(20):
                    await peer.send_frame(TEXT, b"news")
                await peer.send_frame(PONG, ping)
                nursery.cancel_scope.deadline = trio.current_time() + 1
            assert not nursery.cancel_scope.cancelled_caught
        await leave_unsent(client)


async def test_burst_that_the_program_does_take_is_no_reason_for_not_receiving(
    autojump_clock: MockClock,
) -> None:
    async with open_raw(
        outbox=Outbox(max_messages=1, confirm=True), limits=Limits(inbox_messages=1), receive=False
    ) as (client, peer):
        await client.send("a")
        ping = await next_ping(peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "b")
            await wait_all_tasks_blocked()
            for _ in range(20):
                # Ten messages in one piece, which is more than four times the bound.
                await peer.send(b"\x81\x01x" * 10)
                await wait_all_tasks_blocked()
            await peer.send_frame(PONG, ping)
        assert client.statistics().discarded == 200
        await peer.send_frame(PONG, await next_ping(peer))


async def test_full_inbox_below_the_stretched_bound_is_read_on_from(
    autojump_clock: MockClock,
) -> None:
    async with open_raw(
        outbox=Outbox(max_messages=1, confirm=True), limits=Limits(inbox_messages=8)
    ) as (client, peer):
        with client.messages(max_messages=1):
            await client.send("a")
            ping = await next_ping(peer)
            # In one piece: more than half of the stretched bound, and less than all of it.
            await peer.send(b"\x81\x01x" * 25)
            await wait_all_tasks_blocked()
            await peer.send_frame(PONG, ping)
            with trio.fail_after(1):
                await client.flush()


async def test_leaving_reads_on_behind_messages_that_nobody_takes(
    autojump_clock: MockClock,
) -> None:
    """What flushing has to wait behind is discarded, counted: nobody will receive any more."""
    door = Door()
    async with trio.open_nursery() as nursery:
        async with open_at(
            door, outbox=Outbox(confirm=True), limits=Limits(inbox_messages=8)
        ) as client:
            peer = await door.accept()
            await client.wait_open()
            await client.send("a")

            @nursery.start_soon
            async def serve() -> None:
                ping = await next_ping(peer)
                for _ in range(1000):
                    await peer.send_frame(TEXT, b"news")
                await peer.send_frame(PONG, ping)
                await answer_pings(peer)

        statistics = client.statistics()
        assert statistics.unsent == 0
        assert statistics.discarded > 0


async def test_leaving_keeps_what_flushing_did_not_have_to_wait_behind(
    autojump_clock: MockClock,
) -> None:
    """Though the inbox is full again once nobody waits any more."""
    async with open_raw(outbox=Outbox(confirm=True), limits=Limits(inbox_messages=4)) as (
        client,
        peer,
    ):
        with client.messages(max_messages=1) as messages:
            await client.send("a")
            ping = await next_ping(peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.aclose)
                for n in range(10):
                    await peer.send_frame(TEXT, str(n).encode())
                    await wait_all_tasks_blocked()
                await peer.send_frame(PONG, ping)
                await answer_pings(peer)
            assert [message async for message in messages] == [str(n) for n in range(10)]
        assert client.statistics().discarded == 0


async def test_inbox_is_no_larger_than_before_once_nobody_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_raw(
        outbox=Outbox(confirm=True), limits=Limits(inbox_messages=8), heartbeat=Heartbeat(timeout=5)
    ) as (client, peer):
        with client.messages(max_messages=1):
            await client.send("a")
            with trio.move_on_after(1):
                await client.flush()
            await peer.send_frame(PONG, await next_ping(peer))
            for n in range(9):
                await peer.send_frame(TEXT, str(n).encode())
            await trio.sleep(6)
            assert "nothing was received for 5 s: 8 messages have arrived" in caplog.text
        with suppress(trio.BrokenResourceError):
            await drop(peer)


# The end.


async def test_every_sending_operation_raises_gave_up_after_the_end(
    autojump_clock: MockClock,
) -> None:
    async with open_refused(retry=Retry(max_attempts=3)) as client:
        with pytest.raises(GaveUp) as caught:
            await client.wait_open()
        assert caught.value.attempts == 3
        assert isinstance(caught.value.last, trioweb.ConnectFailed)
        assert client.state is trioweb.State.CLOSED
        for operation in (client.flush, client.wait_open, client.receive):
            with pytest.raises(GaveUp):
                await operation()
        with pytest.raises(GaveUp):
            await client.send("x")
        with pytest.raises(GaveUp):
            client.send_nowait("x")
        assert client.statistics().accepted == 0


@pytest.mark.parametrize("confirm", [False, True])
async def test_waiting_operations_raise_gave_up_when_it_comes(
    confirm: bool, autojump_clock: MockClock
) -> None:
    outbox = Outbox(max_messages=1, confirm=confirm)
    async with open_refused(retry=Retry(max_attempts=5), outbox=outbox) as client:
        await client.send("a")

        async def expect(operation: Callable[[], object]) -> None:
            with pytest.raises(GaveUp):
                await operation()  # type: ignore[misc]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, client.flush)
            nursery.start_soon(expect, lambda: client.send("b"))
            nursery.start_soon(expect, client.receive)
            nursery.start_soon(expect, client.wait_open)
        assert client.statistics().unsent == 1
        await leave_unsent(client)


async def test_sending_after_aclose_says_that_the_client_was_closed(
    autojump_clock: MockClock,
) -> None:
    door = Door()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, stay)
        async with open_at(door) as client:
            await client.wait_open()
            await client.aclose()
            for operation in (client.flush, client.wait_open, client.receive):
                with pytest.raises(ClosedLocally):
                    await operation()
            with pytest.raises(trio.ClosedResourceError):
                await client.send("x")
            with pytest.raises(ConnectionClosed):
                client.send_nowait("x")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reachable", [False, True])
@pytest.mark.parametrize("waits", [False, True], ids=["begins then", "waits already"])
async def test_send_while_the_client_is_being_closed_is_refused(
    autojump_clock: MockClock, waits: bool, reachable: bool
) -> None:
    """At once, even if flushing makes room for the message."""
    door = Door()
    async with trio.open_nursery() as nursery:
        async with open_at(door, outbox=Outbox(max_messages=1)) as client:
            client.send_nowait("a")

            async def send() -> None:
                with pytest.raises(ClosedLocally, match="being closed"):
                    await client.send("b")

            async def close() -> None:
                with nullcontext() if reachable else pytest.raises(Unsent):
                    await client.aclose()

            for task in (send, close) if waits else (close, send):
                nursery.start_soon(task)
                await wait_all_tasks_blocked()
            if reachable:
                assert await answer_pings(await door.accept()) == ["a"]
            await wait_until(lambda: client.state is trioweb.State.CLOSED)
        assert client.statistics().accepted == 1
