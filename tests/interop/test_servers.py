"""Our connection against other people's servers, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeAlias

import pytest
import trio
import websockets
from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

import trioweb
from tests.interop.clients import PATIENCE

pytestmark = pytest.mark.network


# What a server calls when it listens: with its port, and with what ends it.
Started: TypeAlias = Callable[[int, Callable[[], object]], None]
CLOSE_ME: Final = "close me"  # a message at which the server closes with 4321, "see you ✓"


async def _websockets(started: Started) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            if message == CLOSE_ME:
                await connection.close(4321, "see you ✓")
            else:
                await connection.send(message)

    subprotocols = [websockets.Subprotocol("chat")]
    async with serve_websockets(echo, "127.0.0.1", 0, subprotocols=subprotocols) as server:
        await _until_stopped(next(iter(server.sockets)).getsockname()[1], started)


async def _aiohttp(started: Started) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(protocols=["chat"])
        await connection.prepare(request)
        async for message in connection:
            if message.data == CLOSE_ME:
                await connection.close(code=4321, message="see you ✓".encode())
            elif message.type == WSMsgType.TEXT:
                await connection.send_str(message.data)
            else:
                await connection.send_bytes(message.data)
        return connection

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await _until_stopped(runner.addresses[0][1], started)
    finally:
        await runner.cleanup()


async def _until_stopped(port: int, started: Started) -> None:
    stopped = asyncio.Event()
    stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopped.set)
    trio.from_thread.run_sync(started, port, stop)
    async with asyncio.timeout(PATIENCE):
        await stopped.wait()


SERVERS: Final[Mapping[str, Callable[[Started], Awaitable[None]]]] = {
    "websockets": _websockets,
    "aiohttp": _aiohttp,
}


connect = partial(trioweb.open_connection, subprotocols=["other", "chat"])


@pytest.fixture(params=SERVERS)
async def url(request: pytest.FixtureRequest) -> AsyncGenerator[str]:
    name: str = request.param
    async with _running(SERVERS[name]) as url:
        yield url


@asynccontextmanager
async def _running(serve: Callable[[Started], Awaitable[None]]) -> AsyncGenerator[str]:
    """Run one of them in a thread; yield its URL."""
    listening = trio.Event()
    found: list[tuple[int, Callable[[], object]]] = []

    def started(port: int, stop: Callable[[], object]) -> None:
        found.append((port, stop))
        listening.set()

    async def main() -> None:
        await serve(started)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lambda: asyncio.run(main()))
        await listening.wait()
        [(port, stop)] = found
        try:
            yield f"ws://127.0.0.1:{port}/"
        finally:
            stop()


async def test_connection_gets_back_what_it_sends(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            assert connection.subprotocol == "chat"
            for size in (0, 1, 125, 126, 65535, 65536, 2**20):
                for message in ("x" * size, b"\xff" * size):
                    await connection.send(message)
                    assert await connection.receive() == message


async def test_connection_pings_the_server(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            assert 0 < await connection.ping() < PATIENCE


async def test_connection_lives_on_heartbeats_alone(url: str) -> None:
    with trio.fail_after(PATIENCE):
        heartbeat = trioweb.Heartbeat(interval=0.1, timeout=0.3)
        async with connect(url, heartbeat=heartbeat) as connection:
            with trio.move_on_after(1):
                await connection.receive()
            assert connection.state is trioweb.State.OPEN
            await connection.send("still there")
            assert await connection.receive() == "still there"


async def test_connection_sees_the_servers_close_with_code_and_reason(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            await connection.send(CLOSE_ME)
            with pytest.raises(trioweb.ClosedByPeer) as caught:
                await connection.receive()
            assert (caught.value.code, caught.value.reason) == (4321, "see you ✓")


async def test_connection_closes_with_its_own_code(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            await connection.aclose(4001, "enough")
            assert (connection.close_code, connection.close_reason) == (4001, "enough")
            assert connection.state is trioweb.State.CLOSED
