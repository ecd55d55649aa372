"""The clients under measurement: one small function for each peer, and what they share.

    python -m benchmarks.clients PEER TASK        (a Task as JSON)

A client reads from its standard input the port of a sender that never pauses, receives for a while
in the way that the peer's own documentation shows, and prints one line of JSON: messages received
in a second of its CPU time, and how much of the clock's time that was. Near 1 means that neither
the sender nor anybody else on this core made it wait.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

from . import wire
from .task import Task

_BATCH = 2_000  # messages between two looks at the clock; the first batch warms up


class Meter:
    """Counts messages, and at the end of the time prints the figures and ends the process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._received = 0
        self._started = self._spent = 0.0

    def batch(self) -> None:
        """Note that another `_BATCH` messages have been received."""
        self._received += _BATCH
        if self._received == _BATCH:
            self._started, self._spent = time.perf_counter(), time.process_time()
        elif (elapsed := time.perf_counter() - self._started) >= self._seconds:
            spent = time.process_time() - self._spent
            figures = {"rate": (self._received - _BATCH) / spent, "busy": spent / elapsed}
            print(json.dumps(figures), flush=True)
            os._exit(0)  # the sender does not listen for a closing handshake


async def measure(messages: AsyncIterable[Any], seconds: float) -> None:
    meter = Meter(seconds)
    received = 0
    async for _ in messages:
        received += 1
        if received == _BATCH:
            received = 0
            meter.batch()


async def receive_trioweb(url: str, seconds: float) -> None:
    import trioweb

    async with trioweb.open_connection(url) as connection:
        await measure(connection, seconds)


async def receive_resilient(url: str, seconds: float) -> None:
    import trioweb

    async with trioweb.open_client(url) as client:
        await measure(aiter(client), seconds)


async def receive_many(url: str, seconds: float) -> None:
    import trioweb

    meter = Meter(seconds)
    received = 0
    async with trioweb.open_connection(url) as connection:
        while True:
            received += len(await connection.receive_many())
            while received >= _BATCH:
                received -= _BATCH
                meter.batch()


async def receive_trio_websocket(url: str, seconds: float) -> None:
    import trio_websocket

    async def messages() -> AsyncIterator[str | bytes]:
        while True:
            yield await connection.get_message()

    async with trio_websocket.open_websocket_url(url) as connection:
        await measure(messages(), seconds)


async def receive_websockets(url: str, seconds: float) -> None:
    from websockets.asyncio.client import connect

    async with connect(url, compression=None, proxy=None) as connection:
        await measure(connection, seconds)


async def receive_websockets_trio(url: str, seconds: float) -> None:
    from websockets.trio.client import connect

    async with connect(url, compression=None, proxy=None) as connection:
        await measure(connection, seconds)


async def receive_picows(url: str, seconds: float) -> None:
    import picows

    meter = Meter(seconds)

    class Listener(picows.WSListener):
        def __init__(self) -> None:
            self.received = 0

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            frame.get_payload_as_utf8_text()
            self.received += 1
            if self.received == _BATCH:
                self.received = 0
                meter.batch()

    transport, _ = await picows.ws_connect(Listener, url)
    await transport.wait_disconnected()


async def receive_aiohttp(url: str, seconds: float) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        await measure(connection, seconds)


def _run_trio(receive: Callable[[str, float], Awaitable[None]], url: str, seconds: float) -> None:
    import trio

    trio.run(receive, url, seconds)


def _run_asyncio(receive: Callable[[str, float], Any], url: str, seconds: float) -> None:
    asyncio.run(receive(url, seconds))


def _run_uvloop(receive: Callable[[str, float], Any], url: str, seconds: float) -> None:
    import uvloop

    uvloop.run(receive(url, seconds))


CLIENTS: dict[str, tuple[Callable[..., None], Callable[[str, float], Awaitable[None]]]] = {
    "trioweb": (_run_trio, receive_trioweb),
    "trio-websocket": (_run_trio, receive_trio_websocket),
    "websockets": (_run_asyncio, receive_websockets),
    "websockets (Trio)": (_run_trio, receive_websockets_trio),
    "aiohttp": (_run_asyncio, receive_aiohttp),
    "aiohttp+uvloop": (_run_uvloop, receive_aiohttp),
    "picows": (_run_asyncio, receive_picows),
    "picows+uvloop": (_run_uvloop, receive_picows),
}


def _main() -> None:
    peer, task = sys.argv[1], Task.from_json(sys.argv[2])
    run, receive = CLIENTS[peer]
    if task.resilient and peer == "trioweb":
        receive = receive_resilient
    if task.many and peer == "trioweb":
        receive = receive_many
    run(receive, f"ws://{wire.HOST}:{int(sys.stdin.readline())}/", task.seconds)


if __name__ == "__main__":
    _main()
