"""Peers for tests of topics: our side a real link and connection, the far side a bare stream.

A far side reads only when told to, so that a test decides who stalls; what it has read is
decoded into messages. Both kinds of transport are here, because a link writes to a kernel
socket at once and leaves memory streams to its drain task.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import pytest
import trio

from tests.support import filtered
from trioweb import Connection, Limits, Topic
from trioweb._link import Link, SendQueue, Spawn, _link
from trioweb._protocol._decoder import Decoder
from trioweb._protocol._frames import CLOSE, decode_close
from trioweb._protocol._http import Request
from trioweb._wire._wire import Wire
from trioweb.testing import stream_pair

Transport: TypeAlias = Literal["kernel", "tls", "memory"]
TRANSPORTS = pytest.mark.parametrize("transport", ["kernel", "tls", "memory"])

# Small enough for one message of some kilobytes to clog it, for a kernel that doubles it and
# rounds it up as it likes.
SOCKET_BUFFER = 4096


class RecordingQueue(SendQueue):
    """A queue that remembers what topics offered it."""

    __slots__ = ("offers",)

    def __init__(self, wire: Wire, *, owner: Link, spawn: Spawn, send_bytes: int) -> None:
        super().__init__(wire, owner=owner, spawn=spawn, send_bytes=send_bytes)
        self.offers: list[bytes] = []

    def offer(self, data: bytes) -> int:
        self.offers.append(data)
        return super().offer(data)


class Peer:
    """One connection, seen from both ends.

    Attributes:
        link, queue, connection: our side.
        stream: the far side.
        messages: what the far side has read so far, decoded.
        raw: the same before it was decoded.
        close: code and reason of the Close that it has read; None before.
    """

    def __init__(self, link: Link, queue: RecordingQueue, stream: trio.abc.Stream) -> None:
        self.link = link
        self.queue = queue
        self.connection = Connection(link, Request("GET", "/", []))
        self.stream = stream
        self.messages: list[str | bytes] = []
        self.raw = b""
        self.close: tuple[int, str] | None = None
        self._decoder = Decoder(
            masked=link.is_client, max_message_bytes=2**24, on_control=self._on_control
        )
        self._reading = trio.Event()

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.close = decode_close(payload)

    def resume(self) -> None:
        """Read from now on whatever there is."""
        self._reading.set()

    def stall(self) -> None:
        """Stop reading once what is being read has been read."""
        if self._reading.is_set():
            self._reading = trio.Event()

    async def run(self) -> None:
        while True:
            await self._reading.wait()
            try:
                data = bytes(await self.stream.receive_some(2**16))
            except trio.ClosedResourceError:  # by the test
                return
            if not data:
                return
            self.raw += data
            while self._decoder.feed(data, self.messages):
                data = b""

    async def clog(self) -> None:
        """Let the far side stall and the transport be full: the link is busy from here on."""
        self.stall()
        await settle()
        while self.queue.writable:
            self.connection.send_nowait(bytes(1000))
            await settle()
        self.queue.offers.clear()


class Peers:
    """Makes peers. `open_peers` makes one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._streams: list[trio.abc.Stream] = []

    def open(
        self,
        transport: Transport = "memory",
        *,
        reading: bool = True,
        is_client: bool = False,
        max_bytes: int = SOCKET_BUFFER,
        limits: Limits = Limits(),
    ) -> Peer:
        """A new connection.

        Args:
            reading: whether the far side reads from the start.
            is_client: which side ours is.
            max_bytes: what the transport holds.
        """
        ours: trio.abc.Stream
        theirs: trio.abc.Stream
        ours, theirs = stream_pair(max_bytes) if transport == "memory" else _socket_pair(max_bytes)
        if transport == "tls":
            theirs, ours = filtered((theirs, ours))
        spawn = self._nursery.start_soon
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_link, "SendQueue", RecordingQueue)
            link = Link(ours, b"", is_client=is_client, limits=limits, spawn=spawn)
        assert isinstance(link.queue, RecordingQueue)
        peer = Peer(link, link.queue, theirs)
        if reading:
            peer.resume()
        link.carrier.start()
        self._nursery.start_soon(peer.run)
        self._streams.append(theirs)
        return peer

    async def aclose(self) -> None:
        self._nursery.cancel_scope.cancel()
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_peers() -> AsyncGenerator[Peers]:
    async with trio.open_nursery() as nursery:
        peers = Peers(nursery)
        try:
            yield peers
        finally:
            with trio.CancelScope(shield=True):
                await peers.aclose()


def publish(topic: Topic, count: int, size: int = 0) -> None:
    """Publish *count* messages, each beginning with the offset that it gets."""
    for _ in range(count):
        topic.publish(f"{topic.head + 1}:{topic.name}:".ljust(size, "."))


def received(peer: Peer, topic: Topic | None = None) -> list[int]:
    """The offsets of what *peer* got of what `publish` published, on *topic* or any."""
    parts = [message.split(":") for message in peer.messages if isinstance(message, str)]
    return [int(part[0]) for part in parts if topic is None or part[1] == topic.name]


async def settle() -> None:
    """Let all that can happen now happen."""
    await trio.testing.wait_all_tasks_blocked()


def _socket_pair(max_bytes: int) -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max_bytes)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max_bytes)
    return trio.SocketStream(ours), trio.SocketStream(theirs)


class PerTurn(trio.abc.Instrument):
    """Looks by how much *count* changes within one turn of the scheduler.

    Attributes:
        most: the most so far.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self.most = 0
        self._count = count
        self._before = count()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, abs(self._count() - self._before))
