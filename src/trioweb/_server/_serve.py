"""Serving, as users ask for it: arguments checked, listeners opened, a Server run."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import trio

from .._deflate import check_compression
from .._errors import single_cause
from .._handshake import check_subprotocols
from .._heartbeat import heartbeat_replies
from .._incoming import reply_key
from .._policy import Deflate, Heartbeat, Limits, Message, check_message
from .._topics import Hub
from ._admission import Admit
from ._front import Http
from ._proxies import Proxies
from ._reader import open_reader
from ._server import Handler, Server


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    ssl_context: ssl.SSLContext | None = None,
    admit: Admit | None = None,
    http: Http | None = None,
    origins: Collection[str] = (),
    subprotocols: Sequence[str] = (),
    trusted_proxies: Collection[str] = (),
    heartbeat: Heartbeat | None = Heartbeat(),
    app_heartbeats: Mapping[Message, Message | None] | None = None,
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    hub: Hub | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets on any Trio listeners: TCP, Unix sockets, networks in memory.

    See `serve` for the arguments.  The listeners are closed when this ends.  With *ssl_context*
    TLS is put on top of what they accept, which is several times cheaper for each message than
    a `trio.SSLListener`.
    """
    if isinstance(origins, str):
        raise TypeError(f"origins={origins!r}: must be a collection of str")
    check_subprotocols("serve", subprotocols)
    check_compression(compression)
    proxies = Proxies(trusted_proxies)
    replies = dict(heartbeat_replies(heartbeat))
    for message, reply in (app_heartbeats or {}).items():
        check_message("app_heartbeats", message)
        if reply is not None:
            check_message("app_heartbeats", reply)
        replies[reply_key(message)] = reply
    try:
        with open_reader() as reader:
            async with trio.open_nursery() as nursery:
                server = Server(
                    handler,
                    listeners,
                    ssl_context=ssl_context,
                    admit=admit,
                    http=http,
                    origins=origins,
                    subprotocols=subprotocols,
                    proxies=proxies,
                    heartbeat=heartbeat,
                    replies=replies,
                    limits=limits,
                    compression=compression,
                    hub=hub,
                    nursery=nursery,
                    reader=reader,
                )
                await server._serve(task_status)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise single_cause(group) from None


async def serve(
    handler: Handler,
    port: int,
    *,
    host: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    admit: Admit | None = None,
    http: Http | None = None,
    origins: Collection[str] = (),
    subprotocols: Sequence[str] = (),
    trusted_proxies: Collection[str] = (),
    heartbeat: Heartbeat | None = Heartbeat(),
    app_heartbeats: Mapping[Message, Message | None] | None = None,
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    hub: Hub | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets over TCP, and plain HTTP beside them on the same port.

    Start it in a nursery: `server = await nursery.start(trioweb.serve, handler, 8000)`.

    Args:
        handler: `async def handler(connection)`, run in a task for each connection.  When
            it returns, its connection is closed with 1000.  An exception closes it with
            1011 and is logged with its traceback; it never ends the server.  Letting the
            connection's own ConnectionClosed out is no error.
        port: 0 for any free one; see `Server.port`.
        host: the address to listen on; None for all of this machine.
        ssl_context: serve wss and https.
        admit: `async def admit(request)`, asked before the upgrade: return Accept or None
            to let it in, raise Reject to refuse it.
        http: `async def http(request) -> Response` for requests that are no upgrade;
            without it they are answered with 404.
        origins: Origins that may connect besides the host asked for; "*" for all.
        subprotocols: those that the handler speaks, preferred ones first.
        trusted_proxies: addresses and networks ("127.0.0.1", "10.0.0.0/8", "fd00::/8"; "unix"
            for all who come over a Unix socket) of proxies whose X-Forwarded-For is believed.
            `request.remote`, `connection.remote`, the log and `max_connections_per_host` then
            mean the rightmost address there that is no trusted proxy itself, with port 0 if the
            proxy does not tell it; the proxy, if there is none or something is malformed.  No
            other header that a proxy may add is read.
        heartbeat: how dead peers are noticed; None for not at all.
        app_heartbeats: messages of peers that are answered with their value, or swallowed
            if that is None, and that reach neither the handler nor anyone else.  A browser
            cannot send pings.
        limits: see `Limits`.
        compression: agreed to with peers that offer it; by default, with none.  See `Deflate`.
        hub: the hub that the handlers use, so that `drain` can wait for its subscribers and
            `statistics` can tell about it.

    Returns:
        After `Server.drain`; otherwise it runs until it is cancelled.

    Raises:
        OSError: the port cannot be listened on.
        TypeError, ValueError: an argument cannot work; nothing was begun.

    Cancellation: every connection is sent Close 1001 if the kernel takes it at once, every
    handler is cancelled, every socket is closed.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    try:
        await serve_listeners(
            handler,
            listeners,
            ssl_context=ssl_context,
            admit=admit,
            http=http,
            origins=origins,
            subprotocols=subprotocols,
            trusted_proxies=trusted_proxies,
            heartbeat=heartbeat,
            app_heartbeats=app_heartbeats,
            limits=limits,
            compression=compression,
            hub=hub,
            task_status=task_status,
        )
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await trio.aclose_forcefully(listener)
