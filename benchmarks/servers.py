"""The servers under measurement: one small function for each peer, and what they share.

    python -m benchmarks.servers PEER --connections N [--burst N --size BYTES --seconds S]

A server prints its port, then one line of JSON with its figures: CPU time for each delivery, and
for how much of the time in which it could run it had its core. With `--burst 0` nothing is
published, and the figure is memory for each connection.

Its standard input is the load's standard output: one byte when all connections are open, and one
whenever everything published has arrived, so that no two ticks can share a pass.

A peer's function does what the peer's own documentation recommends for a broadcast, without
compression, and with the peer's heartbeat where it has one. It imports the peer itself, so that a
process carries only what it measures.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

from . import wire

# Memory is counted from here on: the first connections fill caches and free lists.
_SETTLED_CONNECTIONS = 100
_WARM_TICKS = 2
_MIN_TICKS = 5

Publish = Callable[[], Awaitable[None]]


def private_bytes() -> int:
    """Return the memory that nobody shares with this process."""
    gc.collect()
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _core_wait() -> float:
    """Return for how long this process could have run, but others had its core."""
    with open("/proc/self/schedstat") as fields:
        return int(fields.read().split()[1]) / 1e9


def _read_told() -> None:
    if not os.read(sys.stdin.fileno(), 1):
        raise EOFError("the load has left")


class Job:
    """One measurement, the same for every peer but for the loop that waits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.text = "x" * options.size
        self.connections: int = options.connections
        self.publishes = options.burst > 0
        self._burst: int = options.burst
        self._seconds: float = options.seconds
        self._connected = 0
        self._settled_bytes = 0

    def run(self, serve: Callable[["Job"], Awaitable[None]]) -> None:
        raise NotImplementedError

    async def _arrived(self) -> None:
        """Wait for the load's byte."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def listening(self, port: int) -> None:
        print(port, flush=True)

    def connected(self) -> None:
        """Note a connection; its handler calls this as soon as it can be published to."""
        self._connected += 1
        if self._connected == _SETTLED_CONNECTIONS and not self.publishes:
            self._settled_bytes = private_bytes()

    async def measure(self, publish: Publish) -> NoReturn:
        """Measure when all are connected, print the figures and end the process."""
        await self._arrived()
        while self._connected < self.connections:
            await self._sleep(0.01)
        if self.publishes:
            figures = await self._time(publish)
        else:
            grown = private_bytes() - self._settled_bytes
            figures = {"bytes": grown / (self._connected - _SETTLED_CONNECTIONS)}
        print(json.dumps(figures), flush=True)
        os._exit(0)  # without a closing handshake: the load counts bytes

    async def _time(self, publish: Publish) -> dict[str, float]:
        async def tick() -> None:
            for _ in range(self._burst):
                await publish()
            await self._arrived()

        for _ in range(_WARM_TICKS):
            await tick()
        ticks = 0
        spent = 0.0
        waited = _core_wait()
        started = time.process_time()
        while ticks < _MIN_TICKS or spent < self._seconds:
            await tick()
            ticks += 1
            spent = time.process_time() - started
        deliveries = ticks * self._burst * self.connections
        waited = _core_wait() - waited
        return {"cpu": spent / deliveries, "busy": spent / (spent + waited)}


class TrioJob(Job):
    def run(self, serve: Callable[[Job], Awaitable[None]]) -> None:
        import trio

        trio.run(serve, self)

    async def _arrived(self) -> None:
        import trio

        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        _read_told()

    async def _sleep(self, seconds: float) -> None:
        import trio

        await trio.sleep(seconds)


class AsyncioJob(Job):
    def run(self, serve: Callable[[Job], Any]) -> None:
        asyncio.run(serve(self))

    async def _arrived(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(sys.stdin, readable.set_result, None)
        await readable
        loop.remove_reader(sys.stdin)
        _read_told()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class UvloopJob(AsyncioJob):
    def run(self, serve: Callable[[Job], Any]) -> None:
        import uvloop

        uvloop.run(serve(self))


class BareJob(AsyncioJob):
    """No loop at all: whatever waits, blocks."""

    async def _arrived(self) -> None:
        _read_told()


async def serve_floor(job: Job) -> None:
    with socket.create_server((wire.HOST, 0)) as listener:
        job.listening(listener.getsockname()[1])
        subscribers: list[socket.socket] = []
        for _ in range(job.connections):
            sock = wire.accept(listener)
            sock.setblocking(False)
            subscribers.append(sock)
            job.connected()
    frame = wire.text_frame(job.text)

    async def publish() -> None:
        for subscriber in subscribers:
            subscriber.send(frame)

    await job.measure(publish)


async def serve_trioweb(job: Job) -> None:
    import trio

    import trioweb

    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news")

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection) if job.publishes else contextlib.nullcontext():
                job.connected()
                async for _ in connection:
                    pass

        async def publish() -> None:
            topic.publish(job.text)

        server = await nursery.start(partial(trioweb.serve, handler, 0, host=wire.HOST, hub=hub))
        job.listening(server.port)
        await job.measure(publish)


async def serve_trio_websocket(job: Job) -> None:
    import trio
    import trio_websocket

    subscribers: list[trio_websocket.WebSocketConnection] = []

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        subscribers.append(connection)
        job.connected()
        while True:
            await connection.get_message()

    async def publish() -> None:
        for subscriber in subscribers:
            await subscriber.send_message(job.text)

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, handler, wire.HOST, 0, None)
        server = await nursery.start(serve)
        job.listening(server.port)
        await job.measure(publish)


async def serve_websockets(job: Job) -> None:
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    subscribers: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        subscribers.append(connection)
        job.connected()
        async for _ in connection:
            pass

    async def publish() -> None:
        broadcast(subscribers, job.text)

    async with serve(handler, wire.HOST, 0, compression=None) as server:
        job.listening(next(iter(server.sockets)).getsockname()[1])
        await job.measure(publish)


async def serve_aiohttp(job: Job) -> None:
    from aiohttp import WSMsgType, web

    subscribers: list[web.WebSocketResponse] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(heartbeat=20, compress=False)
        await connection.prepare(request)
        subscribers.append(connection)
        job.connected()
        async for _ in connection:
            pass
        return connection

    async def publish() -> None:
        message = job.text.encode()
        for subscriber in subscribers:
            await subscriber.send_frame(message, WSMsgType.TEXT)

    application = web.Application()
    application.router.add_get("/", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, wire.HOST, 0).start()
    job.listening(runner.addresses[0][1])
    await job.measure(publish)


async def serve_picows(job: Job) -> None:
    import picows

    subscribers: list[picows.WSTransport] = []

    class Listener(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            subscribers.append(transport)
            job.connected()

    async def publish() -> None:
        message = job.text.encode()
        for subscriber in subscribers:
            subscriber.send(picows.WSMsgType.TEXT, message)

    server = await picows.ws_create_server(
        lambda _request: Listener(), wire.HOST, 0, enable_auto_ping=True
    )
    job.listening(server.sockets[0].getsockname()[1])
    await job.measure(publish)


# Named for the packages that they need, joined by "+"; "floor" needs none.
PEERS: dict[str, tuple[type[Job], Callable[[Job], Awaitable[None]]]] = {
    "trioweb": (TrioJob, serve_trioweb),
    "floor": (BareJob, serve_floor),
    "trio-websocket": (TrioJob, serve_trio_websocket),
    "websockets": (AsyncioJob, serve_websockets),
    "aiohttp": (AsyncioJob, serve_aiohttp),
    "aiohttp+uvloop": (UvloopJob, serve_aiohttp),
    "picows": (AsyncioJob, serve_picows),
    "picows+uvloop": (UvloopJob, serve_picows),
}


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    kind, serve = PEERS[options.peer]
    kind(options).run(serve)


if __name__ == "__main__":
    _main()
