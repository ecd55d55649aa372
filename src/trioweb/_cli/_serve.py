"""`trioweb serve`: the broadcast server as a process, with its signals."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from functools import partial

import trio

from .._broadcast import Broadcast
from .._errors import CloseCode
from .._http import format_address
from .._policy import Limits, Message
from .._server import Server, serve_listeners
from .._server._listening import open_listeners
from .._topics import open_hub
from ._terminal import UsageError
from ._tls import load_certificate

# Where to listen unless told otherwise: for this machine alone.
_HOST = "127.0.0.1"
# What each signal tells the peers: come back soon, or this server goes.
_CLOSE_CODES: dict[int, CloseCode] = {
    signal.SIGTERM: CloseCode.SERVICE_RESTART,
    signal.SIGINT: CloseCode.GOING_AWAY,
}


def _ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise UsageError("--tls-key needs --tls-cert, the certificate it belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, certificate, key, prefix="--tls-")
    return context


async def serve(options: argparse.Namespace) -> int:
    if options.spread > options.grace:
        raise UsageError(
            f"--spread {options.spread:g}: must not be more than --grace {options.grace:g}, the "
            "seconds for the whole soft close"
        )
    context = _ssl_context(options.tls_cert, options.tls_key)
    heartbeats: dict[Message, Message | None] = dict(options.app_heartbeat)
    limits = Limits(
        max_message_bytes=options.max_message_bytes,
        max_messages_per_second=options.max_messages_per_second,
        max_connections=options.max_connections,
    )
    async with open_hub(max_topics=options.max_topics) as hub:
        broadcast = Broadcast(hub, history=options.history, echo=not options.no_echo)
        listeners = await _listen(options)
        run = partial(
            serve_listeners,
            broadcast.handle,
            listeners,
            ssl_context=context,
            admit=broadcast.admit,
            http=broadcast.http,
            origins=options.origin,
            subprotocols=options.subprotocol,
            app_heartbeats=heartbeats,
            limits=limits,
            hub=hub,
        )
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:

                async def serve_and_end(task_status: trio.TaskStatus[Server]) -> None:
                    await run(task_status=task_status)
                    nursery.cancel_scope.cancel()

                broadcast.server = await nursery.start(serve_and_end)
                _announce(
                    (options.host or [_HOST])[0], broadcast.server.port, secure=context is not None
                )
                close_code = _CLOSE_CODES[await signals.__anext__()]
                nursery.start_soon(
                    broadcast.server.drain, options.grace, options.spread, close_code
                )
                async for number in signals:
                    if number == signal.SIGINT:
                        raise KeyboardInterrupt
    return 0


async def _listen(options: argparse.Namespace) -> list[trio.SocketListener]:
    hosts = options.host or [_HOST]
    try:
        return await open_listeners(options.port, hosts)
    except (OSError, UnicodeError) as exc:  # the latter for a name that no host can have
        where = ", ".join(format_address((host, options.port)) for host in hosts)
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(
            f"cannot listen on {where}: {reason}; choose another --host or --port"
        ) from exc


def _announce(host: str, port: int, *, secure: bool) -> None:
    """Say where to go; the URL stands alone on standard output, for scripts."""
    address = format_address((host, port))
    s = "s" if secure else ""
    print(f"http{s}://{address}/", flush=True)
    print(
        f"Every path is a topic, for browsers and for ws{s}://{address}/… alike. "
        "Ctrl-C closes softly, a second one at once.",
        file=sys.stderr,
        flush=True,
    )
