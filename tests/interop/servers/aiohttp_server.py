"""The aiohttp server; see `common`."""

import asyncio
from contextlib import suppress

from aiohttp import WSMessage, WSMsgType, web

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
everybody: set[web.WebSocketResponse] = set()


async def talk(request: web.Request) -> web.WebSocketResponse:
    # By itself it would answer pings, but hide the pongs.
    connection = web.WebSocketResponse(protocols=[SUBPROTOCOL], autoping=False)
    await connection.prepare(request)
    everybody.add(connection)
    reason = None
    while not connection.closed:
        message = await connection.receive()
        if message.type is WSMsgType.CLOSE:
            reason = message.extra
        elif message.type is WSMsgType.PING:
            await connection.pong(message.data)
        elif message.type is WSMsgType.PONG:
            if message.data == PING_ME.encode():
                await connection.send_str(PONGED)
        elif message.data == PING_ME:
            await connection.ping(PING_ME.encode())
        elif message.data == SHOW_HEADER:
            await connection.send_str(request.headers[HEADER])
        elif message.data == CLOSE_ME:
            await connection.close(code=CLOSE_CODE, message=CLOSE_REASON.encode())
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            if RECORD is None:
                await broadcast(message)
            elif not RECORD.write(message.data):
                await asyncio.Event().wait()
    everybody.remove(connection)
    say_closed(connection.close_code, reason)
    return connection


async def broadcast(message: WSMessage) -> None:
    for peer in everybody.copy():
        with suppress(ConnectionResetError):
            if message.type is WSMsgType.TEXT:
                await peer.send_str(message.data)
            else:
                await peer.send_bytes(message.data)


async def main(application: web.Application) -> None:
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT, ssl_context=TLS).start()
    say(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    application = web.Application()
    application.router.add_get("/", talk)
    asyncio.run(main(application))
