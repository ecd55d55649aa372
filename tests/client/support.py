"""A client under test, and the other end of whatever it dials, in the hands of the test."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any, Final

import trio

import trioweb
from tests.support import BINARY, CLOSE, PING, PONG, TEXT, small_buffers
from trioweb import Client, Retry, Unsent
from trioweb.testing import RawPeer, stream_pair

__all__ = ["BINARY", "CLOSE", "ONCE", "PING", "PONG", "TEXT"]

URL: Final = "ws://server/"
# One attempt, so that what ended it comes out as `GaveUp.last`.
ONCE: Final = Retry(max_attempts=1)

MakePair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]
Serve = Callable[[trio.abc.Stream], Awaitable[object]]


class Door:
    """Takes the place of the network: `dial` is for the client, the rest for the test.

    Attributes:
        times: when it was dialled.
        asked: what for, as (host, port).
    """

    def __init__(self, make_pair: MakePair = stream_pair) -> None:
        self.times: list[float] = []
        self.asked: list[tuple[str, int]] = []
        self._make_pair = make_pair
        self._in, self._out = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        self.asked.append((host, port))
        ours, theirs = self._make_pair()
        self._in.send_nowait(theirs)
        return ours

    async def stream(self) -> trio.abc.Stream:
        """The server's end of the next connection."""
        return await self._out.receive()

    async def accept(self) -> RawPeer:
        """The same, with the handshake done."""
        return await RawPeer.accept(await self.stream())

    async def serve(self, *turns: Serve) -> None:
        """A task: each connection gets its turn; the last one is for all that follow."""
        async with trio.open_nursery() as nursery:
            for turn in turns[:-1]:
                nursery.start_soon(turn, await self.stream())
            while True:
                nursery.start_soon(turns[-1], await self.stream())


@asynccontextmanager
async def open_at(door: Door, url: Any = URL, **options: Any) -> AsyncGenerator[Client]:
    """A client that dials *door*, with jitter that is the same in every run."""
    options.setdefault("random", Random(7))
    async with trioweb.open_client(url, dial=door.dial, **options) as client:
        yield client


# The servers' ends, which tests may leave open.
_kernel_ends: list[socket.socket] = []


def kernel_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """A client's and a server's end of a connection through the kernel, which keeps little."""
    ends = socket.socketpair()
    _kernel_ends.append(ends[1])
    ours, theirs = map(trio.socket.from_stdlib_socket, ends)
    small_buffers(ours)
    small_buffers(theirs)
    return trio.SocketStream(ours), trio.SocketStream(theirs)


def close_kernel_ends() -> None:
    """Close what tests have left open of the servers' ends; a client closes its own."""
    while _kernel_ends:
        _kernel_ends.pop().close()


@asynccontextmanager
async def open_raw(
    make_pair: MakePair = stream_pair, **options: Any
) -> AsyncGenerator[tuple[Client, RawPeer]]:
    """A client in its first session, and the raw server of that."""
    door = Door(make_pair)
    async with open_at(door, **options) as client:
        peer = await door.accept()
        await client.wait_open()
        yield client, peer


def answer(status: int, **headers: str) -> Serve:
    """A turn that answers the handshake with *status*."""

    async def turn(stream: trio.abc.Stream) -> None:
        peer = RawPeer(stream, masked=False)
        await peer.receive_head()
        lines = [f"HTTP/1.1 {status} Whatever", "Content-Length: 0", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await peer.send("\r\n".join([*lines, "", ""]).encode())
        await stream.aclose()

    return turn


def close(code: int = 1000, *messages: str) -> Serve:
    """A turn that accepts, sends *messages*, and closes with *code* at once."""

    async def turn(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        for message in messages:
            await peer.send_frame(TEXT, message.encode())
        await peer.send_frame(CLOSE, code.to_bytes(2, "big"))
        await answer_pings(peer)

    return turn


async def hang(stream: trio.abc.Stream) -> None:
    """A turn that never answers the handshake."""
    await trio.sleep_forever()


async def stay(stream: trio.abc.Stream) -> None:
    """A turn that accepts, answers pings and Close, and is silent otherwise."""
    await answer_pings(await RawPeer.accept(stream))


async def answer_pings(peer: RawPeer, texts: list[str] | None = None) -> list[str]:
    """Read up to the end, answering pings and Close; the text messages among it."""
    texts = [] if texts is None else texts
    try:
        while True:
            frame = await peer.receive_frame()
            if frame.opcode == TEXT:
                texts.append(frame.payload.decode())
            elif frame.opcode == PING:
                await peer.send_frame(PONG, frame.payload)
            elif frame.opcode == CLOSE:
                await peer.send_frame(CLOSE, frame.payload)
                break
    except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await trio.aclose_forcefully(peer.stream)
    return texts


async def leave_unsent(client: Client) -> None:
    """Close a client at once, whatever it has not handed over."""
    with trio.move_on_after(0):
        await client.aclose()
    with suppress(Unsent):
        await client.aclose()


async def drop(peer: RawPeer) -> None:
    """End the transport without a Close."""
    await trio.aclose_forcefully(peer.stream)


async def refuse(host: str, port: int) -> trio.abc.Stream:
    """A `dial` that fails."""
    await trio.lowlevel.checkpoint()
    raise ConnectionRefusedError(111, "refused")


def open_refused(**options: Any) -> Any:
    """A client that never gets anywhere."""
    return partial(trioweb.open_client, URL, dial=refuse)(**{"random": Random(7), **options})
