"""What the testsuite talks to: an echo server and an echo client, of trioweb and of its peers.

    python -m tests.conformance.echo LIBRARY serve PORT CERTIFICATES
    python -m tests.conformance.echo LIBRARY run URL REPEATS CERTIFICATES
    python -m tests.conformance.echo trioweb run URL REPEATS CERTIFICATES PORT

CERTIFICATES is a directory (see `suite`), or "-" for no TLS.  A client runs the cases that the
testsuite's server at URL has, REPEATS times, and has it write its reports.  PORT is a proxy's;
the suite's server insists on being called by its own.

All of them compress, if they can; only the suite's sections 12 and 13 ask for it.
Nothing here may time out or refuse: the suite sends 16 MiB in one message and takes its time.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
import trio_websocket
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.exceptions

import trioweb

MAX_MESSAGE_BYTES: Final = 17 * 2**20
HOST: Final = "127.0.0.1"
LIMITS: Final = trioweb.Limits(
    max_message_bytes=MAX_MESSAGE_BYTES,
    inbox_bytes=MAX_MESSAGE_BYTES,
    connect_timeout=60,
    write_timeout=600,
)
# For all sizes, however little there is to gain.
COMPRESSION: Final = trioweb.Deflate(min_bytes=1)
# A case that has not ended by then never will; the suite's own patience ends earlier.
CASE_SECONDS: Final = 120

# Connects to a path of the testsuite's and echoes until the end; returns the last message.
Visit = Callable[[str], Awaitable[str | bytes]]


async def serve_with_trioweb(port: int, context: ssl.SSLContext | None) -> None:
    async def echo(connection: trioweb.Connection) -> None:
        async for message in connection:
            await connection.send(message)

    await trioweb.serve(
        echo,
        port,
        host=HOST,
        ssl_context=context,
        heartbeat=None,
        limits=LIMITS,
        compression=COMPRESSION,
    )


async def run_with_trioweb(
    url: str, repeats: int, context: ssl.SSLContext | None, proxy_port: int | None
) -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        return await trio.open_tcp_stream(host, proxy_port or port)

    async def visit(path: str) -> str | bytes:
        message: str | bytes = ""
        with trio.fail_after(CASE_SECONDS), suppress(trioweb.ConnectionClosed):
            async with trioweb.open_connection(
                url + path,
                ssl_context=context,
                heartbeat=None,
                limits=LIMITS,
                compression=COMPRESSION,
                dial=dial,
            ) as connection:
                async for message in connection:
                    await connection.send(message)
        return message

    await run_cases(visit, repeats)


async def serve_with_trio_websocket(port: int, context: ssl.SSLContext | None) -> None:
    async def echo(request: trio_websocket.WebSocketRequest) -> None:
        with suppress(trio_websocket.ConnectionClosed):
            connection = await request.accept()
            while True:
                await connection.send_message(await connection.get_message())

    await trio_websocket.serve_websocket(
        echo, HOST, port, context, max_message_size=MAX_MESSAGE_BYTES
    )


async def run_with_trio_websocket(url: str, repeats: int, context: ssl.SSLContext | None) -> None:
    async def visit(path: str) -> str | bytes:
        message: str | bytes = ""
        with trio.fail_after(CASE_SECONDS), suppress(trio_websocket.ConnectionClosed):
            async with trio_websocket.open_websocket_url(
                url + path, context, max_message_size=MAX_MESSAGE_BYTES
            ) as connection:
                while True:
                    message = await connection.get_message()
                    await connection.send_message(message)
        return message

    await run_cases(visit, repeats)


async def serve_with_websockets(port: int, context: ssl.SSLContext | None) -> None:
    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        with suppress(websockets.exceptions.ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with websockets.asyncio.server.serve(
        echo, HOST, port, ssl=context, max_size=None, ping_interval=None
    ) as server:
        await server.serve_forever()


async def run_with_websockets(url: str, repeats: int, context: ssl.SSLContext | None) -> None:
    async def visit(path: str) -> str | bytes:
        message: str | bytes = ""
        async with asyncio.timeout(CASE_SECONDS):
            with suppress(websockets.exceptions.ConnectionClosed):
                async with websockets.asyncio.client.connect(
                    url + path, ssl=context, max_size=None, ping_interval=None
                ) as connection:
                    async for message in connection:
                        await connection.send(message)
        return message

    await run_cases(visit, repeats)


async def run_cases(visit: Visit, repeats: int) -> None:
    """Run every case of the testsuite's server *repeats* times, then have it report."""
    count = int(await visit("/getCaseCount"))
    for agent in range(1, repeats + 1):
        for case in range(1, count + 1):
            await visit(f"/runCase?case={case}&agent={agent}")
    await visit("/updateReports?agent=1")


def server_context(certificates: str) -> ssl.SSLContext | None:
    if certificates == "-":
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(certificates, "server.pem"), Path(certificates, "server.key"))
    return context


def client_context(certificates: str) -> ssl.SSLContext | None:
    if certificates == "-":
        return None
    return ssl.create_default_context(cafile=Path(certificates, "authority.pem"))


def main() -> None:
    match sys.argv[1:]:
        case "trioweb", "serve", port, certificates:
            trio.run(serve_with_trioweb, int(port), server_context(certificates))
        case "trioweb", "run", url, repeats, certificates, *proxy:
            proxy_port = int(proxy[0]) if proxy else None
            trio.run(run_with_trioweb, url, int(repeats), client_context(certificates), proxy_port)
        case "trio-websocket", "serve", port, certificates:
            trio.run(serve_with_trio_websocket, int(port), server_context(certificates))
        case "trio-websocket", "run", url, repeats, certificates:
            trio.run(run_with_trio_websocket, url, int(repeats), client_context(certificates))
        case "websockets", "serve", port, certificates:
            asyncio.run(serve_with_websockets(int(port), server_context(certificates)))
        case "websockets", "run", url, repeats, certificates:
            asyncio.run(run_with_websockets(url, int(repeats), client_context(certificates)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
