"""Many connections in one block: what they share, and that none is in another's way."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.client.support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    URL,
    Door,
    answer,
    answer_pings,
    kernel_pair,
)
from trioweb import (
    ClosedByPeer,
    ClosedLocally,
    Connection,
    ConnectionLost,
    Connections,
    HandshakeRejected,
    Heartbeat,
    State,
)
from trioweb.testing import RawPeer, stream_pair


@pytest.fixture(params=[stream_pair, kernel_pair], ids=["memory", "kernel"])
def door(request: pytest.FixtureRequest) -> Door:
    return Door(request.param)


async def open_one(door: Door, connections: Connections) -> tuple[Connection, RawPeer]:
    """A connection, and the raw server of it."""
    peers: list[RawPeer] = []

    async def accept() -> None:
        peers.append(await door.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        connection = await connections.open(URL)
    return connection, peers[0]


async def open_some(
    door: Door, connections: Connections, count: int
) -> tuple[list[Connection], list[RawPeer]]:
    pairs = [await open_one(door, connections) for _ in range(count)]
    return [connection for connection, _ in pairs], [peer for _, peer in pairs]


async def code_of(peer: RawPeer) -> int:
    """The code of the Close that comes next."""
    frame = await peer.receive_frame()
    assert frame.opcode == CLOSE
    return int.from_bytes(frame.payload[:2], "big")


async def test_messages_go_both_ways_until_the_block_ends(door: Door) -> None:
    async with trio.open_nursery() as nursery:
        async with trioweb.open_connections(dial=door.dial) as connections:
            ours, peers = await open_some(door, connections, 5)
            assert list(connections) == ours
            for n, (connection, peer) in enumerate(zip(ours, peers, strict=True)):
                await connection.send(f"to {n}")
                assert (await peer.receive_frame()).payload == f"to {n}".encode()
                await peer.send_frame(TEXT, f"from {n}".encode())
            for n, connection in enumerate(ours):
                assert await connection.receive() == f"from {n}"
            for peer in peers:
                nursery.start_soon(answer_pings, peer)
        assert not connections
        assert {connection.close_code for connection in ours} == {1000}
        assert {connection.state for connection in ours} == {State.CLOSED}


async def test_one_that_ends_takes_no_other_along(door: Door) -> None:
    async with trio.open_nursery() as nursery:
        async with trioweb.open_connections(dial=door.dial) as connections:
            (first, second, third), peers = await open_some(door, connections, 3)
            await peers[0].send_frame(CLOSE, (4001).to_bytes(2, "big"))
            assert await code_of(peers[0]) == 4001
            await peers[0].stream.aclose()
            await peers[1].send_frame(TEXT, b"last words")
            await peers[1].stream.aclose()
            with pytest.raises(ClosedByPeer):
                await first.receive()
            assert await second.receive() == "last words"
            with pytest.raises(ConnectionLost):
                await second.receive()
            await wait_all_tasks_blocked()
            assert list(connections) == [third]
            nursery.start_soon(answer_pings, peers[2])
            assert await third.ping() >= 0
            await third.aclose()
            assert len(connections) == 0
            # And there is room for more.
            _, peer = await open_one(door, connections)
            nursery.start_soon(answer_pings, peer)


@pytest.mark.skipif(sys.platform != "linux", reason="only there one task reads for all")
async def test_one_that_idles_has_no_task() -> None:
    door = Door(kernel_pair)
    async with trio.open_nursery() as nursery:
        async with trioweb.open_connections(dial=door.dial) as connections:
            block = trio.lowlevel.current_task().child_nurseries[-1]
            counts = []
            for _ in range(3):
                _, peer = await open_one(door, connections)
                nursery.start_soon(answer_pings, peer)
                await wait_all_tasks_blocked()
                counts.append(len(block.child_tasks))
            assert counts[0] == counts[2] == 2


async def test_silent_server_is_given_up_and_a_busy_one_is_asked(
    door: Door, patient_clock: MockClock
) -> None:
    heartbeat = Heartbeat(interval=10, timeout=5)
    async with (
        trio.open_nursery() as nursery,
        trioweb.open_connections(dial=door.dial, heartbeat=heartbeat) as connections,
    ):
        (silent, busy), peers = await open_some(door, connections, 2)

        @nursery.start_soon
        async def send() -> None:
            for _ in range(30):
                await peers[1].send_frame(TEXT, b"tick")
                await trio.sleep(1)
            frame = await peers[1].receive_frame()
            assert frame.opcode == PING
            await peers[1].send_frame(PONG, frame.payload)
            await answer_pings(peers[1])

        with pytest.raises(ConnectionLost, match="silent peer: nothing arrived for 15 s"):
            await silent.receive()
        for _ in range(30):
            await busy.receive()
        await trio.sleep(5)
        assert busy.state is State.OPEN
        assert busy.latency is not None
        await peers[0].stream.aclose()


async def test_block_that_fails_says_so_on_each(door: Door) -> None:
    peers: list[RawPeer] = []
    codes: list[int] = []

    async def take_close(peer: RawPeer) -> None:
        codes.append(await code_of(peer))
        await peer.send_frame(CLOSE, (1011).to_bytes(2, "big"))
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            async with trioweb.open_connections(dial=door.dial) as connections:
                _, peers = await open_some(door, connections, 3)
                for peer in peers:
                    nursery.start_soon(take_close, peer)
                raise ZeroDivisionError
    assert codes == [1011] * 3


async def test_block_that_is_cancelled_leaves_no_transport(door: Door) -> None:
    with trio.CancelScope() as scope:
        async with trioweb.open_connections(dial=door.dial) as connections:
            ours, peers = await open_some(door, connections, 3)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert {connection.state for connection in ours} == {State.CLOSED}
    assert {connection.close_code for connection in ours} == {1001}
    for peer in peers:
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            while (await peer.receive_frame()).opcode == CLOSE:
                pass


async def test_attempt_that_fails_is_in_nobodys_way(door: Door) -> None:
    async with trio.open_nursery() as nursery:
        async with trioweb.open_connections(dial=door.dial) as connections:
            connection, peer = await open_one(door, connections)
            async with trio.open_nursery() as refusing:

                @refusing.start_soon
                async def refuse() -> None:
                    await answer(404)(await door.stream())

                with pytest.raises(HandshakeRejected):
                    await connections.open(URL)
            with pytest.raises(ValueError, match="http"):
                await connections.open("http://server/")
            assert list(connections) == [connection]
            nursery.start_soon(answer_pings, peer)


async def test_nothing_is_opened_once_the_block_was_left(door: Door) -> None:
    """Nor is what was under way."""
    begun = trio.Event()
    go_on = trio.Event()
    theirs: list[trio.abc.Stream] = []

    async def dial(host: str, port: int) -> trio.abc.Stream:
        begun.set()
        await go_on.wait()
        return await door.dial(host, port)

    async def open_late(connections: Connections) -> None:
        with pytest.raises(ClosedLocally):
            await connections.open(URL)

    async def accept() -> None:
        theirs.append((await door.accept()).stream)

    async with trio.open_nursery() as nursery:
        async with trioweb.open_connections(dial=dial) as connections:
            nursery.start_soon(open_late, connections)
            await begun.wait()
        nursery.start_soon(accept)
        go_on.set()
    [stream] = theirs
    with pytest.raises((AssertionError, trio.BrokenResourceError)):
        assert await stream.receive_some()
    with pytest.raises(ClosedLocally):
        await connections.open(URL)


@pytest.mark.parametrize(
    ("option", "value"), [("heartbeat", 20), ("limits", 3), ("redirects", -1), ("dial", 5)]
)
async def test_argument_that_cannot_work_is_told(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"open_connections.*{option}|{option}"):
        async with trioweb.open_connections(**{option: value}):
            pass
