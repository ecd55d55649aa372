"""`trioweb serve`: the broadcast server as a process, with its signals."""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from .._access import Access, open_rules
from .._broadcast import Broadcast
from .._errors import CloseCode
from .._policy import Limits, Message, Retain
from .._server import Server, serve_listeners
from .._topics import Hub, open_hub
from . import _secrets as secrets
from ._metrics import listen_for_metrics, serve_metrics
from ._sockets import describe, listen
from ._terminal import UsageError
from ._tls import load_certificate
from ._topics_file import read_topics

_logger = logging.getLogger("trioweb")

_SIGHUP: Final = getattr(signal, "SIGHUP", None)  # Windows has none
# What each signal tells the peers: come back soon, or this server goes.
_CLOSE_CODES: dict[int, CloseCode] = {
    signal.SIGTERM: CloseCode.SERVICE_RESTART,
    signal.SIGINT: CloseCode.GOING_AWAY,
}
if _SIGHUP is not None:
    _CLOSE_CODES[_SIGHUP] = CloseCode.SERVICE_RESTART


def _ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise UsageError("--tls-key needs --tls-cert, the certificate it belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, certificate, key, prefix="--tls-")
    return context


def _access(options: argparse.Namespace) -> Access:
    """Who may do what, as *options* say; everybody everything, if they say nothing."""
    retain = Retain(max_messages=max(options.history, Retain().max_messages))
    path = options.topics
    topics = open_rules(retain) if path is None else read_topics(path, retain)
    return Access(topics, keys=secrets.api_keys(options), tokens=secrets.tokens(options))


@asynccontextmanager
async def _open_broadcast(
    hub: Hub, access: Access, options: argparse.Namespace
) -> AsyncGenerator[Broadcast]:
    """What is served, with a topic server for stock clients where there can be one."""
    echo = not options.no_echo
    broadcast = Broadcast(hub, access, history=options.history, echo=echo, origins=options.origin)
    try:
        from .._topic_server import open_topic_server
    except ImportError as exc:
        _logger.info("no topics for stock clients: %s", exc)
        yield broadcast
        return
    async with open_topic_server(
        hub, topics=access.topics, tokens=access.tokens, on_connect=broadcast.welcome
    ) as broadcast.topic_server:
        yield broadcast


async def serve(options: argparse.Namespace) -> int:
    if options.spread > options.grace:
        raise UsageError(
            f"--spread {options.spread:g}: must not be more than --grace {options.grace:g}, the "
            "seconds for the whole soft close"
        )
    context = _ssl_context(options.tls_cert, options.tls_key)
    access = _access(options)
    heartbeats: dict[Message, Message | None] = dict(options.app_heartbeat)
    limits = Limits(
        max_message_bytes=options.max_message_bytes,
        max_messages_per_second=options.max_messages_per_second,
        max_connections=options.max_connections,
    )
    async with (
        open_hub(max_topics=options.max_topics) as hub,
        listen_for_metrics(options.metrics) as watchers,
        _open_broadcast(hub, access, options) as broadcast,
    ):
        listeners = await listen(options)
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
        with trio.open_signal_receiver(*_CLOSE_CODES) as signals:
            async with trio.open_nursery() as nursery:

                async def serve_and_end(task_status: trio.TaskStatus[Server]) -> None:
                    await run(task_status=task_status)
                    nursery.cancel_scope.cancel()

                broadcast.server = await nursery.start(serve_and_end)
                if watchers:
                    topics = options.metrics_topic
                    await nursery.start(serve_metrics, watchers, broadcast.server, topics)
                    at, _ = describe(watchers[0], options.metrics[:1], secure=False)
                    _logger.info("metrics at %smetrics", at)
                _announce(listeners[0], options.host, secure=context is not None)
                # A terminal that is closed takes its programs along.
                while (number := await signals.__anext__()) == _SIGHUP and not sys.stderr.isatty():
                    await _read_again(broadcast.server, options)
                    await secrets.read_again(access, options)
                nursery.start_soon(
                    broadcast.server.drain, options.grace, options.spread, _CLOSE_CODES[number]
                )
                async for number in signals:
                    if number == signal.SIGINT:
                        raise KeyboardInterrupt
    return 0


async def _read_again(server: Server, options: argparse.Namespace) -> None:
    """Show whoever comes from now on what is in the certificate's files by now."""
    if options.tls_cert is None:
        _logger.info("SIGHUP: there is no certificate that could be read again")
        return
    try:
        # In a thread: it takes tens of milliseconds, and more where files are far away.
        context = await trio.to_thread.run_sync(_ssl_context, options.tls_cert, options.tls_key)
    except UsageError as exc:
        _logger.error("SIGHUP: %s; the old certificate stays", exc)
    else:
        server._ssl_context = context
        _logger.info("SIGHUP: the certificate was read again")


def _announce(listener: trio.abc.Listener[Any], hosts: list[str] | None, *, secure: bool) -> None:
    """Say where to go; the URL stands alone on standard output, for scripts."""
    url, prefix = describe(listener, hosts, secure=secure)
    print(url, flush=True)
    print(
        f"Every path is a topic, for browsers and for {prefix}/… alike. "
        "Ctrl-C closes softly, a second one at once.",
        file=sys.stderr,
        flush=True,
    )
