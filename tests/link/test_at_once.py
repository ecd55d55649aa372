"""A link that something else reads for closes its transport with the peer's Close, where nothing is
left to wait for; everywhere else a task of its own sees to the end."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.testing

from tests.support import CLOSE, TEXT, Frame, RawPeer, close_frame, encode, open_streams
from trioweb import Limits, State
from trioweb._link import Link
from trioweb._link._state import DRAINING

pytestmark = pytest.mark.network


class Reading:
    """Reads for a link when a test says so."""

    def __init__(self, nursery: trio.Nursery, stream: trio.SocketStream) -> None:
        self.is_watched = False
        self.tasks = 0
        self._nursery = nursery
        self._stream = stream
        limits = Limits(close_timeout=1000)
        self.link = Link(stream, b"", is_client=False, limits=limits, spawn=self._spawn)
        self.let_go: list[bool] = []
        self.link.carrier.on_let_go = lambda link: self.let_go.append(link.state is State.CLOSED)
        self.link.carrier.start(self)

    def _spawn(self, run: Any, *args: Any) -> None:
        self.tasks += 1
        self._nursery.start_soon(run, *args)

    def watch(self, link: Link, fileno: int) -> None:
        self.is_watched = True

    def unwatch(self, link: Link, fileno: int) -> None:
        assert fileno == self._stream.socket.fileno() >= 0, "watched for longer than it is open"
        self.is_watched = False

    @property
    def is_open(self) -> bool:
        return self._stream.socket.fileno() >= 0

    def read(self, max_bytes: int = 2**16) -> None:
        self.link.incoming.receive(
            os.read(self._stream.socket.fileno(), max_bytes), trio.current_time()
        )


@pytest.fixture
async def peer_and_reading(nursery: trio.Nursery) -> AsyncGenerator[tuple[RawPeer, Reading]]:
    async with open_streams("unix") as (client, server):
        assert isinstance(server, trio.SocketStream)
        yield RawPeer(client, is_client=True), Reading(nursery, server)


Pair = tuple[RawPeer, Reading]


async def test_the_peers_close_ends_it_without_a_task(peer_and_reading: Pair) -> None:
    """Invariant 11: what came with it is received."""
    peer, reading = peer_and_reading
    await peer.send(Frame(TEXT, b"last words"), close_frame(4000, "bye"))
    reading.read()
    assert (reading.is_open, reading.is_watched, reading.tasks) == (False, False, 0)
    link = reading.link
    assert (link.state, link.close_code, link.close_reason) == (State.CLOSED, 4000, "bye")
    assert list(link.inbox.messages) == ["last words"]
    assert reading.let_go == [False], "once"
    assert link.queue.state.name == "SHUT"
    with trio.fail_after(5):
        assert await peer.frame() == close_frame(4000)
        assert await peer.frame() is None
        await link.wait_closed()
    link.close(1000)
    link.abort("late")
    link.break_off("later")
    assert (link.close_code, link.state) == (4000, State.CLOSED)


@pytest.mark.parametrize("ends_sending", [False, True], ids=["waits", "has ended"])
async def test_what_came_behind_the_close_does_not_keep_it(
    peer_and_reading: Pair, ends_sending: bool
) -> None:
    peer, reading = peer_and_reading
    await peer.send(close_frame(1000), Frame(TEXT, b"nobody hears this"))
    if ends_sending:
        assert isinstance(peer.stream, trio.SocketStream)
        await peer.stream.send_eof()
    reading.read()
    assert (reading.is_open, reading.tasks) == (False, 0)
    assert reading.link.incoming.messages_received == 0
    with trio.fail_after(5):
        assert await peer.frame() == close_frame(1000)


async def test_what_is_unread_is_read_first(peer_and_reading: Pair) -> None:
    """Section 7.1.1: with bytes unread, the kernel would reset the connection, and the peer might
    never see our Close."""
    peer, reading = peer_and_reading
    close = encode(close_frame(1000), masked=True)
    await peer.stream.send_all(close + b"more, though nothing may follow a Close")
    reading.read(len(close))
    assert reading.is_open
    assert not reading.is_watched
    assert reading.tasks == 1
    with trio.fail_after(5):
        assert await peer.frame() == close_frame(1000)
        assert await peer.frame() is None
        await trio.testing.wait_all_tasks_blocked()
        assert reading.is_open, "it waits for the peer's end"
        await peer.stream.aclose()
        await reading.link.wait_closed()
    assert reading.let_go == [False]


async def test_what_is_queued_is_written_first(peer_and_reading: Pair) -> None:
    peer, reading = peer_and_reading
    queue = reading.link.queue
    payload = bytes(2**20)
    queue.write(encode(Frame(2, payload), masked=False))
    assert queue.state is DRAINING
    await peer.send(close_frame(1000))
    reading.read()
    assert reading.is_open
    with trio.fail_after(5):
        assert await peer.frame() == Frame(2, payload)
        assert await peer.frame() == close_frame(1000)
        await peer.stream.aclose()
        await reading.link.wait_closed()


async def test_a_fault_does_not_end_it_at_once(peer_and_reading: Pair) -> None:
    """Its peer may go on sending, and should hear why."""
    peer, reading = peer_and_reading
    await peer.send(Frame(3))
    reading.read()
    reading.link.incoming.go_on()
    assert (reading.is_open, reading.tasks) == (True, 1)
    with trio.fail_after(5):
        frame = await peer.frame()
        assert frame is not None
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, (1002).to_bytes(2))
        await peer.stream.aclose()
        await reading.link.wait_closed()


async def test_a_peer_that_is_gone_with_its_close_ends_it(peer_and_reading: Pair) -> None:
    peer, reading = peer_and_reading
    await peer.send(close_frame(1000))
    await peer.stream.aclose()
    reading.read()
    with trio.fail_after(5):
        await reading.link.wait_closed()
    assert not reading.is_open
    assert reading.link.close_code == 1000


async def test_a_reset_behind_the_close_ends_it(nursery: trio.Nursery) -> None:
    """Over TCP: a write to a peer that has gone succeeds once."""
    async with open_streams("tcp") as (client, server):
        assert isinstance(client, trio.SocketStream) and isinstance(server, trio.SocketStream)
        reading = Reading(nursery, server)
        await client.send_all(encode(close_frame(1000), masked=True))
        await trio.lowlevel.wait_readable(server.socket.fileno())
        data = os.read(server.socket.fileno(), 2**16)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        reading.link.incoming.receive(data, trio.current_time())
        with trio.fail_after(5):
            await reading.link.wait_closed()
        assert not reading.is_open
        assert reading.link.close_code == 1000
