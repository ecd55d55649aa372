"""The `websockets` server; see `common`."""

import asyncio
from collections.abc import Sequence

import websockets
from websockets import Request
from websockets.asyncio.server import ServerConnection, broadcast, serve

from tests.interop.servers.common import (
    CLOSE_CODE,
    CLOSE_ME,
    CLOSE_REASON,
    FRAGMENT_ME,
    FRAGMENTS,
    HEADER,
    PING_ME,
    PONGED,
    SHOW_HEADER,
    SUBPROTOCOL,
    arguments,
    say,
    say_closed,
)

PORT, TLS, RECORD = arguments()
everybody: set[ServerConnection] = set()


async def talk(connection: ServerConnection) -> None:
    everybody.add(connection)
    try:
        async for message in connection:
            if message == CLOSE_ME:
                await connection.close(CLOSE_CODE, CLOSE_REASON)
            elif message == PING_ME:
                await (await connection.ping())
                await connection.send(PONGED)
            elif message == SHOW_HEADER:
                await connection.send(header(connection.request))
            elif message == FRAGMENT_ME:
                await connection.send(FRAGMENTS)
            elif RECORD is None:
                broadcast(everybody, message)
            elif not RECORD.write(str(message)):
                await asyncio.Event().wait()
    except websockets.ConnectionClosedError:
        pass
    everybody.remove(connection)
    say_closed(connection.close_code, connection.close_reason)


def select(
    connection: object, offered: Sequence[websockets.Subprotocol]
) -> websockets.Subprotocol | None:
    """By itself it would refuse a client that offers none."""
    return next((name for name in offered if name == SUBPROTOCOL), None)


def header(request: Request | None) -> str:
    assert request is not None
    return request.headers[HEADER]


async def main() -> None:
    async with serve(talk, "127.0.0.1", PORT, ssl=TLS, select_subprotocol=select) as server:
        say(next(iter(server.sockets)).getsockname()[1])
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
