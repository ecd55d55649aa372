"""The servers under measurement: one small function for each peer.

    python -m benchmarks.servers PEER TASK        (a Task as JSON)

A peer's function does what the peer's own documentation recommends for a broadcast, with the
peer's heartbeat where it has one, and without compression where that is not the question. It
imports the peer itself, so that a process carries only what it measures.
"""

import contextlib
import socket
import ssl
import sys
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from . import wire
from .external import ExternalJob, serve_nchan, serve_node
from .jobs import AsyncioJob, BareJob, Job, TrioJob, UvloopJob
from .peers import BARE_TRIO
from .task import Task


def _ssl_context(job: Job) -> ssl.SSLContext | None:
    if not job.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(job.certificate)
    return context


async def serve_floor(job: Job, *, at_once: bool = False) -> None:
    """Send with nothing around it: each frame by itself, or all of a burst's with one call."""
    context = _ssl_context(job)
    with socket.create_server((wire.HOST, 0), backlog=128) as listener:
        job.listening(listener.getsockname()[1])
        subscribers: list[socket.socket] = []
        for _ in range(job.task.connections):
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                sock = context.wrap_socket(sock, server_side=True)
            wire.accept(sock, deflate=job.task.deflate)
            sock.setblocking(at_once)  # a burst may be more than a buffer holds
            subscribers.append(sock)
            job.connected()
    burst: list[bytes] = []

    async def publish(message: str) -> None:
        payload = message.encode()
        if job.task.deflate:
            compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            payload = compress.compress(payload) + compress.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(b"\x00\x00\xff\xff")  # RFC 7692, section 7.2.1
        frame = wire.text_frame(payload, compressed=job.task.deflate)
        if not at_once:
            for subscriber in subscribers:
                subscriber.send(frame)
            return
        burst.append(frame)
        if len(burst) == job.task.burst:
            frames = b"".join(burst)
            burst.clear()
            for subscriber in subscribers:
                subscriber.sendall(frames)

    await job.measure(publish)


async def serve_bare_trio(job: Job) -> None:
    """Echo with nothing around Trio's sockets: each task reads, unmasks, and writes."""
    import trio

    frame_bytes = len(wire.client_frame(wire.TEXT, bytes(job.task.size)))

    async def echo(stream: trio.SocketStream) -> None:
        sock = stream.socket
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await sock.recv(65536)
        await stream.send_all(wire.accepted(head))
        job.connected()
        frames = b""
        while data := await sock.recv(65536):
            frames += data
            while len(frames) >= frame_bytes:
                # As `text_frame`; a small frame is written whole.
                await sock.send(wire.text_frame(wire.unmasked(frames[:frame_bytes])))
                frames = frames[frame_bytes:]

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, echo, 0, host=wire.HOST)
        [listener] = await nursery.start(serve)
        job.listening(listener.socket.getsockname()[1])
        await job.measure(_publish_nothing)


async def _publish_nothing(_message: str) -> None:
    raise NotImplementedError


async def serve_trioweb(job: Job) -> None:
    import trio

    import trioweb

    broker: Any = None
    if job.task.broker:
        from trioweb.redis import RedisBroker

        broker = RedisBroker(job.task.broker)
    async with (
        trioweb.open_hub(broker=broker) as hub,
        trioweb.open_hub(broker=broker) as other,
        trio.open_nursery() as nursery,
    ):
        topic = hub.topic("news")
        # From node to node, for what is measured in time.
        away = other.topic("news") if broker and job.task.kind == "latency" else topic
        # Before that a subscription begins somewhere that no one knows.
        await topic.wait_live()

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection) if job.publishes else contextlib.nullcontext():
                job.connected()
                if job.echoes:
                    async for message in connection:
                        await connection.send(message)
                elif job.task.many:
                    with contextlib.suppress(trioweb.ConnectionClosed):
                        while True:
                            await connection.receive_many()
                else:
                    async for _ in connection:
                        pass

        async def publish(message: str) -> None:
            away.publish(message)

        options: dict[str, Any] = {"host": wire.HOST, "hub": hub, "ssl_context": _ssl_context(job)}
        if job.task.deflate:
            options["compression"] = trioweb.Deflate()
        server = await nursery.start(partial(trioweb.serve, handler, 0, **options))
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
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                message = await connection.get_message()
                if job.echoes:
                    await connection.send_message(message)

    async def publish(message: str) -> None:
        for subscriber in subscribers:
            await subscriber.send_message(message)

    async with trio.open_nursery() as nursery:
        context = _ssl_context(job)
        serve = partial(trio_websocket.serve_websocket, handler, wire.HOST, 0, context)
        server = await nursery.start(serve)
        job.listening(server.port)
        await job.measure(publish)


async def _hold_websockets(job: Job, subscribers: list[Any], connection: Any) -> None:
    """The handler of both packages of websockets."""
    subscribers.append(connection)
    job.connected()
    if job.echoes:
        async for message in connection:
            await connection.send(message)
    else:
        async for _ in connection:
            pass


async def serve_websockets(job: Job) -> None:
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    subscribers: list[ServerConnection] = []

    handler = partial(_hold_websockets, job, subscribers)

    async def publish(message: str) -> None:
        broadcast(subscribers, message)

    compression = "deflate" if job.task.deflate else None
    context = _ssl_context(job)
    async with serve(handler, wire.HOST, 0, ssl=context, compression=compression) as server:
        job.listening(next(iter(server.sockets)).getsockname()[1])
        await job.measure(publish)


async def serve_websockets_trio(job: Job) -> None:
    import trio
    from websockets.trio.server import ServerConnection, broadcast, serve

    subscribers: list[ServerConnection] = []

    handler = partial(_hold_websockets, job, subscribers)

    async def publish(message: str) -> None:
        await broadcast(subscribers, message)

    async with trio.open_nursery() as nursery:
        options: dict[str, Any] = {"host": wire.HOST, "ssl": _ssl_context(job)}
        options["compression"] = "deflate" if job.task.deflate else None
        server = await nursery.start(partial(serve, handler, 0, **options))
        job.listening(server.listeners[0].socket.getsockname()[1])
        await job.measure(publish)


async def serve_aiohttp(job: Job) -> None:
    from aiohttp import WSMsgType, web

    subscribers: list[web.WebSocketResponse] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(heartbeat=20, compress=job.task.deflate)
        await connection.prepare(request)
        subscribers.append(connection)
        job.connected()
        if job.echoes:
            async for message in connection:
                await connection.send_str(message.data)
        else:
            async for _ in connection:
                pass
        return connection

    async def publish(message: str) -> None:
        data = message.encode()
        for subscriber in subscribers:
            await subscriber.send_frame(data, WSMsgType.TEXT)

    application = web.Application()
    application.router.add_get("/", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, wire.HOST, 0, ssl_context=_ssl_context(job)).start()
    job.listening(runner.addresses[0][1])
    await job.measure(publish)


async def serve_picows(job: Job) -> None:
    import picows

    subscribers: list[picows.WSTransport] = []

    class Listener(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            subscribers.append(transport)
            job.connected()

    class Echoing(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    class Reading(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            frame.get_payload_as_utf8_text()

    async def publish(message: str) -> None:
        data = message.encode()
        for subscriber in subscribers:
            subscriber.send(picows.WSMsgType.TEXT, data)

    listener = {"echo": Echoing, "receive": Reading}.get(job.task.kind, Listener)
    options: dict[str, Any] = {"ssl": context} if (context := _ssl_context(job)) else {}
    server = await picows.ws_create_server(
        lambda _request: listener(), wire.HOST, 0, enable_auto_ping=True, **options
    )
    job.listening(server.sockets[0].getsockname()[1])
    await job.measure(publish)


SERVERS: dict[str, tuple[type[Job], Callable[[Job], Awaitable[None]]]] = {
    "trioweb": (TrioJob, serve_trioweb),
    "floor": (BareJob, serve_floor),
    "floor in bursts": (BareJob, partial(serve_floor, at_once=True)),
    BARE_TRIO: (TrioJob, serve_bare_trio),
    "trio-websocket": (TrioJob, serve_trio_websocket),
    "websockets": (AsyncioJob, serve_websockets),
    "websockets (Trio)": (TrioJob, serve_websockets_trio),
    "aiohttp": (AsyncioJob, serve_aiohttp),
    "aiohttp+uvloop": (UvloopJob, serve_aiohttp),
    "picows": (AsyncioJob, serve_picows),
    "picows+uvloop": (UvloopJob, serve_picows),
    "Node ws": (ExternalJob, serve_node),
    "nginx nchan": (ExternalJob, serve_nchan),
}


def _main() -> None:
    peer, task = sys.argv[1], Task.from_json(sys.argv[2])
    kind, serve = SERVERS[peer]
    if task.kind == "stalled":
        from .stalled import serve_beside_stalled as serve
    if task.door:
        from .members import serve_doors as serve
    if task.kind == "storm":
        from .storm import STORM

        serve = STORM[peer]
    kind(task).run(serve)


if __name__ == "__main__":
    _main()
