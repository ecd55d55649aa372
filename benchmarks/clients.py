"""The clients under measurement: one small function for each peer, and what they share.

    python -m benchmarks.clients PEER [--seconds S]

A client reads from its standard input the port of a sender that never pauses, receives for a while
in the way that the peer's own documentation shows, and prints one line of JSON: messages received
in a second of its CPU time, and how much of the clock's time that was. Near 1 means that neither
the sender nor anybody else on this core made it wait.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

from . import wire

_BATCH = 10_000  # messages between two looks at the clock; the first batch warms up


async def measure(messages: AsyncIterable[Any], seconds: float) -> None:
    """Receive for `seconds`, print the figures and end the process."""
    received = 0
    mark = _BATCH
    started = spent = 0.0
    async for _ in messages:
        received += 1
        if received == mark:
            mark += _BATCH
            if received == _BATCH:
                started, spent = time.perf_counter(), time.process_time()
            elif (elapsed := time.perf_counter() - started) >= seconds:
                break
    spent = time.process_time() - spent
    figures = {"rate": (received - _BATCH) / spent, "busy": spent / elapsed}
    print(json.dumps(figures), flush=True)
    os._exit(0)  # the sender does not listen for a closing handshake


async def receive_trioweb(url: str, seconds: float) -> None:
    import trioweb

    async with trioweb.open_connection(url) as connection:
        await measure(connection, seconds)


async def receive_resilient(url: str, seconds: float) -> None:
    import trioweb

    async with trioweb.open_client(url) as client:
        await measure(aiter(client), seconds)


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


# Named for the packages that they need, joined by "+".
PEERS: dict[str, tuple[Callable[..., None], Callable[[str, float], Awaitable[None]]]] = {
    "trioweb": (_run_trio, receive_trioweb),
    "trio-websocket": (_run_trio, receive_trio_websocket),
    "websockets": (_run_asyncio, receive_websockets),
    "aiohttp": (_run_asyncio, receive_aiohttp),
    "aiohttp+uvloop": (_run_uvloop, receive_aiohttp),
}


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--resilient", action="store_true", help="our client with a supervisor")
    options = parser.parse_args()
    run, receive = PEERS[options.peer]
    if options.resilient and options.peer == "trioweb":
        receive = receive_resilient
    run(receive, f"ws://{wire.HOST}:{int(sys.stdin.readline())}/", options.seconds)


if __name__ == "__main__":
    _main()
