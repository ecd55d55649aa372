"""Serving, as users ask for it: arguments checked, listeners opened, a Server run."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_kind, wrong
from .._nursery import open_hidden_nursery
from .._observer import Observer
from .._policy import Deflate, Heartbeat, Limits, Message
from .._reader import open_reader
from .._topics import Hub
from ._admission import Admit
from ._front import Http
from ._listening import open_listeners
from ._server import Server
from ._settings import Handler, Settings, settle
from ._unix import open_unix_listener


# All three close what they were given, or have opened, however they end.
@enable_ki_protection
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
    observer: Observer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets on any Trio listeners: TCP, Unix sockets, networks in memory.

    See `serve` for the arguments.  The listeners are closed when this ends.  With *ssl_context*
    TLS is put on top of what they accept, which is several times cheaper for each message than
    a `trio.SSLListener`.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was begun.

    Returns, Cancellation: as `serve`.
    """
    settings = settle(
        handler,
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
        observer=observer,
    )
    if not isinstance(listeners, Iterable):
        raise wrong("serve_listeners", "listeners", "a sequence of trio.abc.Listener", listeners)
    listeners = list(listeners)
    for listener in listeners:
        check_kind("serve_listeners", "each of listeners", listener, trio.abc.Listener)
    await _serve(settings, listeners, task_status)


@enable_ki_protection
async def _serve(
    settings: Settings,
    listeners: Sequence[trio.abc.Listener[Any]],
    task_status: trio.TaskStatus[Server],
) -> None:
    with open_reader() as reader:
        async with open_hidden_nursery() as nursery:
            server = Server(settings, listeners, nursery=nursery, reader=reader)
            await server._serve(task_status)


@enable_ki_protection
async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    host: str | None = None,
    unix: str | os.PathLike[str] | None = None,
    reuse_port: bool = False,
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
    observer: Observer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets over TCP, and plain HTTP beside them on the same port.

    Start it in a nursery: `server = await nursery.start(trioweb.serve, handler, 8000)`.

    Args:
        handler: `async def handler(connection)`, run in a task for each connection.  When
            it returns, its connection is closed with 1000.  An exception closes it with
            1011 and is logged with its traceback; it never ends the server.  Letting the
            connection's own ConnectionClosed out is no error.
        port: 0 for any free one, the same at all addresses; see `Server.port`.  None for no TCP,
            with *unix* alone.
        host: the address to listen on, or a name: then all of its addresses that this machine has;
            None for all of this machine.
        unix: the path of a Unix socket to listen on, too, for its owner and its group (0660).  A
            socket that is left over there, on which nobody listens, is removed, and this one at
            the end, if it is still there.
        reuse_port: other processes of the same user may listen on *port*, too; the kernel then
            gives each of them a share of the connections.
        ssl_context: serve wss and https; `ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)`
            with a certificate loaded.  If it asks peers for certificates, `request.certificate`
            tells `admit`, `http` and the handler whose it is.
        admit: `async def admit(request)`, asked before the upgrade: return Accept or None
            to let it in, raise Reject to refuse it.  Anything else that it returns, and any
            other error, is logged, and the peer is refused with 500.  It is cancelled if the peer
            goes meanwhile.
        http: `async def http(request) -> Response` for requests that are no upgrade, whatever
            their `request.method` is but for CONNECT and TRACE, which get 501.  A body is read by
            `await request.body()`.  It is cancelled if the peer goes meanwhile, and so is the
            making of a response's body; a peer that has ended its sending has gone a second later.
            Without it GET and HEAD are answered with 404, and others with 405.
        origins: Origins that may connect besides the host asked for, as browsers send them
            ("https://example.com", with a port only if it is not the scheme's own); "*" for all.
            A page that is refused is told in the log, the first time at WARNING.
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
        observer: hears of openings, ends, refusals and stalls; see `Observer`.

    Returns:
        After `Server.drain`; otherwise it runs until it is cancelled.

    Raises:
        OSError: the port or the path cannot be listened on; the error's text has the address.
        TypeError, ValueError: an argument cannot work; nothing was begun.

    Cancellation: every connection is sent Close 1001 if the kernel takes it at once, every
    handler is cancelled, every socket is closed.
    """
    settings = settle(
        handler,
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
        observer=observer,
    )
    _check_place(port, host, unix, reuse_port)
    listeners: list[trio.abc.Listener[Any]] = []
    try:
        if port is not None:
            listeners += await open_listeners(port, [host], reuse_port=reuse_port)
        if unix is not None:
            listeners.append(await open_unix_listener(os.fspath(unix)))
        await _serve(settings, listeners, task_status)
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await trio.aclose_forcefully(listener)


def _check_place(port: object, host: object, unix: object, reuse_port: object) -> None:
    check_kind("serve", "port", port, int, optional=True)
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise ValueError(f"serve: port {port} must be from 0 to 65535")
    check_kind("serve", "host", host, str, optional=True)
    check_kind("serve", "unix", unix, str, os.PathLike, optional=True)
    check_kind("serve", "reuse_port", reuse_port, bool)
    if port is None and unix is None:
        raise TypeError("serve: needs a port, or unix=, the path of a Unix socket")
    if port is None and (host is not None or reuse_port):
        raise ValueError("serve: host and reuse_port are for a port, and there is none")
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError(f"serve: reuse_port is nothing that {sys.platform} has")
