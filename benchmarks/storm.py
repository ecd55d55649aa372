"""Very many peers come back at once to a topic with history, while another topic is live.

Ours has the history in its topic. For others the handler sends it, message by message, as their
users write it; whatever is published meanwhile goes to the subscribers of the live topic.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from . import wire
from .jobs import Job
from .load import RETURN_PATH

# All are to find room at once, where less is the default; Trio asks for as much as there is.
_BACKLOG = 2048


def _history(job: Job) -> list[str]:
    return ["x" * job.task.size] * job.task.publications


async def storm_trioweb(job: Job) -> None:
    import trio

    import trioweb

    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        live = hub.topic("live")
        past = hub.topic("past", retain=trioweb.Retain(max_messages=job.task.publications))
        for message in _history(job):
            past.publish(message)

        async def handler(connection: trioweb.Connection) -> None:
            returns = connection.request.path == RETURN_PATH
            history = job.task.publications if returns else 0
            with (past if returns else live).subscribe(connection, history=history):
                job.connected()
                async for _ in connection:
                    pass

        async def publish(message: str) -> None:
            live.publish(message)

        serve = partial(trioweb.serve, handler, 0, host=wire.HOST, hub=hub)
        server = await nursery.start(serve)
        job.listening(server.port)
        await job.measure(publish)


async def storm_websockets(job: Job) -> None:
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    live: list[ServerConnection] = []
    history = _history(job)

    async def handler(connection: ServerConnection) -> None:
        assert connection.request
        if connection.request.path == RETURN_PATH:
            for message in history:
                await connection.send(message)
        else:
            live.append(connection)
            job.connected()
        async for _ in connection:
            pass

    async def publish(message: str) -> None:
        broadcast(live, message)

    async with serve(handler, wire.HOST, 0, compression=None, backlog=_BACKLOG) as server:
        job.listening(next(iter(server.sockets)).getsockname()[1])
        await job.measure(publish)


async def storm_aiohttp(job: Job) -> None:
    from aiohttp import WSMsgType, web

    live: list[web.WebSocketResponse] = []
    history = _history(job)

    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(heartbeat=20, compress=False)
        await connection.prepare(request)
        if request.path == RETURN_PATH:
            for message in history:
                await connection.send_str(message)
        else:
            live.append(connection)
            job.connected()
        async for _ in connection:
            pass
        return connection

    async def publish(message: str) -> None:
        data = message.encode()
        for subscriber in live:
            await subscriber.send_frame(data, WSMsgType.TEXT)

    application = web.Application()
    application.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, wire.HOST, 0, backlog=_BACKLOG).start()
    job.listening(runner.addresses[0][1])
    await job.measure(publish)


async def storm_picows(job: Job) -> None:
    import picows

    live: list[picows.WSTransport] = []
    history = [message.encode() for message in _history(job)]

    class Live(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            live.append(transport)
            job.connected()

    class Returning(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            for message in history:
                transport.send(picows.WSMsgType.TEXT, message)

    def listener(request: Any) -> picows.WSListener:
        return Returning() if request.path == RETURN_PATH.encode() else Live()

    async def publish(message: str) -> None:
        data = message.encode()
        for subscriber in live:
            subscriber.send(picows.WSMsgType.TEXT, data)

    server = await picows.ws_create_server(
        listener, wire.HOST, 0, enable_auto_ping=True, backlog=_BACKLOG
    )
    job.listening(server.sockets[0].getsockname()[1])
    await job.measure(publish)


STORM: dict[str, Callable[[Job], Awaitable[None]]] = {
    "trioweb": storm_trioweb,
    "websockets": storm_websockets,
    "aiohttp": storm_aiohttp,
    "aiohttp+uvloop": storm_aiohttp,
    "picows": storm_picows,
    "picows+uvloop": storm_picows,
}
