"""A session is one task, which over a kernel's socket reads as well; and what a client costs."""

from __future__ import annotations

import gc
import math
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
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
    URL,
    Door,
    answer_pings,
    kernel_pair,
    leave_unsent,
    open_at,
    open_raw,
)
from tests.support import HOST, tls_contexts
from trioweb import (
    Client,
    ConnectionLost,
    GaveUp,
    Heartbeat,
    Limits,
    Lost,
    Opened,
    Outbox,
    Retry,
    State,
)
from trioweb._link import Link
from trioweb.testing import RawPeer, stream_pair

# Generous: no test takes a second.
_SECONDS = 20
# Nor after a connection that lasted.
_NEVER_AGAIN = Retry(max_attempts=1, stable_after=math.inf)


@pytest.fixture(params=["kernel", "kernel, TLS"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Opens a client, and the raw server of its first session, over a kernel's socket."""

    @asynccontextmanager
    async def over_tls(**options: Any) -> AsyncGenerator[tuple[Client, RawPeer]]:
        door = Door(kernel_pair)
        client_context, server_context = tls_contexts()
        options.setdefault("ssl_context", client_context)
        async with open_at(door, f"wss://{HOST}/", **options) as client:
            stream = trio.SSLStream(await door.stream(), server_context, server_side=True)
            peer = await RawPeer.accept(stream)
            await client.wait_open()
            yield client, peer

    @asynccontextmanager
    async def over_tcp(**options: Any) -> AsyncGenerator[tuple[Client, RawPeer]]:
        async with open_raw(kernel_pair, **options) as ends:
            yield ends

    return over_tls if "TLS" in request.param else over_tcp


def link_of(client: Client) -> Link:
    link = client._life.signal.link
    assert link is not None
    return link


# What it costs.


@pytest.mark.parametrize("confirm", [False, True])
async def test_client_that_idles_is_one_task_beside_its_block(confirm: bool) -> None:
    async with open_raw(kernel_pair, outbox=Outbox(confirm=confirm)) as (_, peer):
        await wait_all_tasks_blocked()
        nursery = trio.lowlevel.current_task().child_nurseries[-1]
        [task] = nursery.child_tasks
        assert not task.child_nurseries
        await peer.stream.aclose()


async def test_client_that_idles_takes_little_memory() -> None:
    """All that Python allocates for a client, its connection, and the task of its block."""
    count = 40
    door = Door(kernel_pair)
    held: list[int] = []

    async def hold() -> None:
        async with trioweb.open_client(URL, dial=door.dial, receive=False) as client:
            await client.wait_open()
            await trio.sleep_forever()

    async def open_some(nursery: trio.Nursery) -> None:
        for _ in range(count):
            nursery.start_soon(hold)
            peer = await door.accept()
            assert isinstance(peer.stream, trio.SocketStream)
            # Nothing of the server's is counted but this number.
            held.append(os.dup(peer.stream.socket.fileno()))
            await peer.stream.aclose()
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        # The first ones fill caches.
        await open_some(nursery)
        gc.collect()
        tracemalloc.start()
        try:
            await open_some(nursery)
            del door.times[:], door.asked[:]
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        nursery.cancel_scope.cancel()
    for fileno in held:
        os.close(fileno)
    assert taken / count < 16 * 2**10


# What comes in.


async def test_messages_of_all_sizes_come_whole_and_in_order(opened: Callable[..., Any]) -> None:
    texts = [str(n) * (n % 50 + 1) for n in range(2000)] + ["é" * 300_000, "end"]
    async with opened() as (client, peer), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for text in texts:
                await peer.send_frame(TEXT, text.encode())

        assert [await client.receive() for _ in texts] == texts
        await client.send("bye")
        assert (await peer.receive_frame()).payload == b"bye"
        nursery.start_soon(answer_pings, peer)
        await client.aclose()


async def test_stream_that_is_full_stops_the_reading_until_there_is_room(
    opened: Callable[..., Any],
) -> None:
    """And nothing is lost, whoever reads afterwards."""
    texts = [f"{n} ".ljust(500, "x") for n in range(400)]
    sent = 0
    async with opened(limits=Limits(inbox_messages=8)) as (client, peer):
        with client.messages(max_messages=4) as messages:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    nonlocal sent
                    for text in texts:
                        await peer.send_frame(TEXT, text.encode())
                        sent += 1

                await wait_all_tasks_blocked()
                assert sent < len(texts)
                assert link_of(client).inbox.paused_at is not None
                for text in texts[:200]:
                    assert await messages.receive() == text
                # While somebody sends, too.
                await client.send("half")
                for text in texts[200:]:
                    assert await messages.receive() == text
            assert link_of(client).inbox.paused_at is None
            assert (await peer.receive_frame()).payload == b"half"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_pings, peer)
                await client.aclose()


async def test_what_a_stream_has_no_room_for_moves_up_as_soon_as_it_has(
    opened: Callable[..., Any], patient_clock: MockClock
) -> None:
    async with opened() as (client, peer):
        with client.messages(max_messages=4) as messages:
            for n in range(20):
                await peer.send_frame(TEXT, str(n).encode())
            await wait_all_tasks_blocked()
            assert len(link_of(client).inbox.messages) == 16
            assert [await messages.receive() for _ in range(20)] == list(map(str, range(20)))
            assert trio.current_time() < 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


async def test_server_that_is_too_fast_is_read_more_slowly(
    opened: Callable[..., Any], patient_clock: MockClock
) -> None:
    async with opened(limits=Limits(max_messages_per_second=10)) as (client, peer):
        begun_at = trio.current_time()
        for n in range(40):
            await peer.send_frame(TEXT, str(n).encode())
        assert [await client.receive() for _ in range(40)] == list(map(str, range(40)))
        assert 2 <= trio.current_time() - begun_at <= 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


# What goes out meanwhile.


async def test_change_does_not_disturb_who_waits_to_write(opened: Callable[..., Any]) -> None:
    message = bytes(range(256)) * 2000
    async with opened() as (client, peer):
        await client.send(message)
        for _ in range(5):
            await wait_all_tasks_blocked()
            # Wakes the session's task, while another waits for room in the kernel.
            client.messages().__exit__(None, None, None)
        frame = await peer.receive_frame()
        assert (frame.opcode, frame.payload) == (BINARY, message)
        assert client.state is State.OPEN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


async def test_messages_are_confirmed(opened: Callable[..., Any], patient_clock: MockClock) -> None:
    async with opened(outbox=Outbox(confirm=True)) as (client, peer):
        texts: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer, texts)
            for n in range(300):
                await client.send(str(n))
            await client.flush()
            await wait_all_tasks_blocked()
            # What is far from filling the window is asked about at once, too.
            await client.send("300")
            await client.flush()
            assert client.buffered_amount == 0
            assert trio.current_time() < 1
            await client.aclose()
        assert texts == list(map(str, range(301)))


async def test_server_that_confirms_nothing_is_left_though_it_sends(
    opened: Callable[..., Any], patient_clock: MockClock
) -> None:
    options = {"retry": _NEVER_AGAIN, "outbox": Outbox(confirm=True), "receive": False}
    async with opened(**options) as (client, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                while True:
                    await peer.send_frame(TEXT, b"tick")
                    await trio.sleep(1)

            await client.send("hello")
            with pytest.raises(GaveUp, match="no confirmation for 20 s"):
                await client.flush()
            nursery.cancel_scope.cancel()
        await leave_unsent(client)


# Signs of life.


async def test_silent_server_is_asked_once_and_given_up(
    opened: Callable[..., Any], patient_clock: MockClock
) -> None:
    with pytest.raises(GaveUp) as caught:
        async with opened(retry=_NEVER_AGAIN, heartbeat=Heartbeat(interval=10, timeout=5)) as ends:
            client, peer = ends
            begun_at = trio.current_time()
            try:
                await client.receive()
            finally:
                assert trio.current_time() - begun_at == pytest.approx(15, abs=0.5)
                assert (await peer.receive_frame()).opcode == PING
    assert "silent peer: nothing arrived for 15 s" in str(caught.value)


@pytest.mark.parametrize("make_pair", [stream_pair, kernel_pair])
async def test_server_that_is_silent_during_on_open_is_given_up(
    make_pair: Any, patient_clock: MockClock
) -> None:
    """While a callable of the user's has the session's task."""

    async def wait(connection: trioweb.Connection) -> None:
        await connection.receive()

    door = Door(make_pair)
    options: dict[str, Any] = {
        "retry": _NEVER_AGAIN,
        "on_open": wait,
        "heartbeat": Heartbeat(interval=2, timeout=1),
    }
    with pytest.raises(GaveUp, match="silent peer: nothing arrived for 3 s"):
        async with open_at(door, **options) as client:
            peer = await door.accept()
            try:
                await client.wait_open()
            finally:
                await peer.stream.aclose()


@pytest.mark.parametrize("make_pair", [stream_pair, kernel_pair])
async def test_server_that_is_silent_after_on_open_is_given_up(
    make_pair: Any, patient_clock: MockClock
) -> None:
    async def greet(connection: trioweb.Connection) -> None:
        await connection.send("hello")

    options: dict[str, Any] = {
        "retry": _NEVER_AGAIN,
        "on_open": greet,
        "heartbeat": Heartbeat(interval=2, timeout=1),
    }
    with pytest.raises(GaveUp, match="silent peer: nothing arrived for 3 s"):
        async with open_raw(make_pair, **options) as (client, _):
            await client.receive()


async def test_server_that_answers_is_kept(
    opened: Callable[..., Any], patient_clock: MockClock
) -> None:
    async with opened(heartbeat=Heartbeat(interval=10, timeout=5)) as (client, peer):
        for _ in range(5):
            frame = await peer.receive_frame()
            assert frame.opcode == PING
            await peer.send_frame(PONG, frame.payload)
        assert trio.current_time() == pytest.approx(50, abs=2)
        assert client.state is State.OPEN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


# The end.


async def test_client_waits_for_the_server_to_end_the_transport() -> None:
    """RFC 6455 section 7.1.1: who closes first has to remember the connection for minutes."""
    async with open_raw(kernel_pair, retry=ONCE) as (client, peer):
        link = link_of(client)
        await peer.send_frame(CLOSE, (1000).to_bytes(2, "big"))
        assert (await peer.receive_frame()).opcode == CLOSE
        await wait_all_tasks_blocked()
        assert link.state is State.CLOSING
        await peer.stream.aclose()
        with pytest.raises(GaveUp):
            await client.receive()
        await link.wait_closed()


async def test_what_had_arrived_is_received_before_a_loss_is_told() -> None:
    door = Door(kernel_pair)
    async with open_at(door) as client:
        with client.messages(events=True) as messages:
            peer = await door.accept()
            assert isinstance(await messages.receive(), Opened)
            for n in range(20):
                await peer.send_frame(TEXT, str(n).encode())
            await peer.stream.aclose()
            assert [await messages.receive() for _ in range(20)] == list(map(str, range(20)))
            lost = await messages.receive()
            assert isinstance(lost, Lost) and isinstance(lost.error, ConnectionLost)
            # And there is another.
            peer = await door.accept()
            while not isinstance(await messages.receive(), Opened):
                pass
            await peer.stream.aclose()


async def test_reset_ends_the_session() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    with trio.fail_after(_SECONDS):
        async with listening, trioweb.open_client(url, retry=ONCE) as client:
            stream = await listening.accept()
            await RawPeer.accept(stream)
            await client.wait_open()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
            with pytest.raises(GaveUp) as caught:
                await client.receive()
    assert isinstance(caught.value.last, ConnectionLost)


async def test_reconnect_wakes_a_session_that_waits_for_bytes() -> None:
    door = Door(kernel_pair)
    async with open_at(door) as client, trio.open_nursery() as nursery:
        peer = await door.accept()
        await client.wait_open()
        await wait_all_tasks_blocked()
        nursery.start_soon(answer_pings, peer)
        await client.reconnect()
        peer = await door.accept()
        await client.wait_open()
        nursery.start_soon(answer_pings, peer)
        await client.aclose()


@pytest.mark.parametrize("make_pair", [stream_pair, kernel_pair])
async def test_block_that_is_cancelled_says_so_and_leaves_no_transport(make_pair: Any) -> None:
    door = Door(make_pair)
    with trio.CancelScope() as scope:
        async with open_at(door) as client:
            peer = await door.accept()
            await client.wait_open()
            await wait_all_tasks_blocked()
            link = link_of(client)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert link.state is State.CLOSED
    if make_pair is kernel_pair:  # which takes it at once
        frame = await peer.receive_frame()
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await peer.receive_frame()


@pytest.mark.parametrize("make_pair", [stream_pair, kernel_pair])
async def test_observer_hears_of_an_end_once_the_transport_is_closed(make_pair: Any) -> None:
    class Notes(trioweb.Observer):
        def __init__(self) -> None:
            self.states: list[State] = []

        def on_end(self, connection: trioweb.Connection) -> None:
            self.states.append(connection.state)

    notes = Notes()
    door = Door(make_pair)
    with trio.CancelScope() as scope:
        async with open_at(door, URL, observer=notes) as client:
            await door.accept()
            await client.wait_open()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert notes.states == [State.CLOSED]
