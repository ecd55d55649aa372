"""The `websockets` server on Trio; it keeps no record.  See `common`."""

from functools import partial

import trio
import websockets
from websockets.trio.server import Server, ServerConnection, broadcast, serve

from tests.interop.servers.common import (
    CLOSE_CODE,
    CLOSE_ME,
    CLOSE_REASON,
    FRAGMENT_ME,
    FRAGMENTS,
    PING_ME,
    PONGED,
    SHOW_HEADER,
    say,
    say_closed,
)
from tests.interop.servers.websockets_server import PORT, TLS, header, select

everybody: set[ServerConnection] = set()


async def talk(connection: ServerConnection) -> None:
    everybody.add(connection)
    try:
        async for message in connection:
            if message == CLOSE_ME:
                await connection.aclose(CLOSE_CODE, CLOSE_REASON)
            elif message == PING_ME:
                await (await connection.ping()).wait()
                await connection.send(PONGED)
            elif message == SHOW_HEADER:
                await connection.send(header(connection.request))
            elif message == FRAGMENT_ME:
                await connection.send(FRAGMENTS)
            else:
                await broadcast(everybody, message)
    except websockets.ConnectionClosedError:
        pass
    everybody.remove(connection)
    say_closed(connection.close_code, connection.close_reason)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        start = partial(
            serve,
            talk,
            PORT,
            host="127.0.0.1",
            ssl=TLS,
            select_subprotocol=select,
        )
        server: Server = await nursery.start(start)
        say(server.listeners[0].socket.getsockname()[1])


trio.run(main)
