"""The trio-websocket server; see `common`."""

from contextlib import suppress
from functools import partial

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
)

from tests.interop.servers.common import (
    CLOSE_CODE,
    CLOSE_ME,
    CLOSE_REASON,
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
everybody: set[WebSocketConnection] = set()


async def talk(request: WebSocketRequest) -> None:
    connection = await request.accept(
        subprotocol=SUBPROTOCOL if SUBPROTOCOL in request.proposed_subprotocols else None
    )
    headers = dict(request.headers)
    everybody.add(connection)
    try:
        while True:
            message = await connection.get_message()
            if message == CLOSE_ME:
                await connection.aclose(CLOSE_CODE, CLOSE_REASON)
            elif message == PING_ME:
                await connection.ping()
                await connection.send_message(PONGED)
            elif message == SHOW_HEADER:
                await connection.send_message(headers[HEADER.lower().encode()].decode())
            elif RECORD is None:
                for peer in everybody.copy():
                    with suppress(ConnectionClosed):
                        await peer.send_message(message)
            elif not RECORD.write(str(message)):
                await trio.sleep_forever()
    except ConnectionClosed:
        pass
    everybody.remove(connection)
    assert connection.closed is not None
    say_closed(connection.closed.code, connection.closed.reason)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: WebSocketServer = await nursery.start(
            partial(serve_websocket, talk, "127.0.0.1", PORT, ssl_context=TLS)
        )
        say(server.port)


trio.run(main)
