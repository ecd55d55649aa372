"""`trioweb serve`: the broadcast server as a process, with its signals."""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from .._access import Access, open_rules
from .._broadcast import Broadcast
from .._dataclass import dataclass
from .._errors import StoreError
from .._metrics import metrics
from .._policy import Limits, Message, Retain
from .._server import Server, serve_listeners
from .._topic_server._rules import TopicRules
from .._topics import Broker, Hub, open_hub
from . import _secrets as secrets
from ._admin import Office, open_office
from ._broker import open_broker
from ._metrics import listen_apart, serve_metrics
from ._notify import Notifier
from ._parent import serve_with_workers
from ._rereading import Part, Rereading
from ._signals import CLOSE_CODES, SIGHUP
from ._sockets import announce, describe, listen
from ._terminal import UsageError
from ._tls import load_certificate
from ._topics_file import read_topics, shown
from ._worker import Worker, open_worker_of

_logger = logging.getLogger("trioweb")


def _ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise UsageError("--tls-key needs --tls-cert, the certificate it belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, certificate, key, prefix="--tls-")
    return context


def _topics(options: argparse.Namespace) -> dict[str, TopicRules]:
    """The rules, as *options* say; everybody may do everything, if they say nothing."""
    retain = Retain(max_messages=max(options.history, Retain().max_messages))
    path = options.topics
    return open_rules(retain) if path is None else read_topics(path, retain)


def _access(options: argparse.Namespace) -> Access:
    """Who may do what."""
    keys, tokens = secrets.api_keys(options), secrets.tokens(options)
    return Access(_topics(options), keys=keys, tokens=tokens, cookie=options.token_cookie)


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
        hub,
        topics=access.rules_of,
        tokens=access.tokens,
        on_connect=broadcast.welcome,
        on_subscribe=broadcast.grant,
    ) as broadcast.topic_server:
        broadcast.replace_rules(access.topics)
        yield broadcast


def _check(options: argparse.Namespace) -> None:
    """Check those of *options* that depend on each other."""
    if options.spread > options.grace:
        raise UsageError(
            f"--spread {options.spread:g}: must not be more than --grace {options.grace:g}, the "
            "seconds for the whole soft close"
        )
    if options.store is not None and options.broker:
        raise UsageError("--store: a --broker keeps the topics itself")
    if options.workers is not None and options.admin is not None:
        raise UsageError("--admin: one address leads to one worker; with --workers leave it out")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What *options* name, once that was read."""

    ssl_context: ssl.SSLContext | None
    access: Access
    admin_keys: tuple[bytes, ...]
    limits: Limits
    broker: Broker | None


def _prepare(options: argparse.Namespace) -> _Prepared:
    """Read all that *options* name.

    Raises:
        UsageError: something cannot be.
    """
    _check(options)
    return _Prepared(
        _ssl_context(options.tls_cert, options.tls_key),
        _access(options),
        secrets.admin_keys(options),
        Limits(
            max_message_bytes=options.max_message_bytes,
            max_messages_per_second=options.max_messages_per_second,
            max_connections=options.max_connections,
        ),
        open_broker(options),
    )


def _tell(options: argparse.Namespace, access: Access, admin_keys: Sequence[bytes]) -> None:
    """Print what would be used: the lines of a file that says the same."""
    for used in options.used:
        print(used.line)
    print(f"# API keys: {len(access.keys)}")
    print(f"# admin keys: {len(admin_keys)}")
    print(f"# keys of tokens: {0 if access.tokens is None else len(access.tokens)}")
    names = ", ".join(f"[{shown(name)}]" for name in access.topics)
    print(f"# rules of topics: {names}")


async def serve(options: argparse.Namespace) -> int:
    for name in options.settings.strange_variables():
        _logger.warning("%s in the environment is no setting", name)
    prepared = _prepare(options)
    if options.check:
        _tell(options, prepared.access, prepared.admin_keys)
        return 0
    try:
        if options.worker is None and options.workers is not None:
            return await serve_with_workers(options)
        async with open_worker_of(options) as worker:
            return await _serve(options, prepared, worker)
    except StoreError as exc:
        raise UsageError(f"--store {exc.path}: {exc.reason}") from exc


async def _serve(options: argparse.Namespace, prepared: _Prepared, worker: Worker | None) -> int:
    context, access = prepared.ssl_context, prepared.access
    broker, store = prepared.broker, options.store
    if worker is not None:
        # The topics are the parent's, and so is their store.
        broker, store = broker or worker.end.broker, None
    heartbeats: dict[Message, Message | None] = dict(options.app_heartbeat)
    topics: list[str] = [*options.metrics_topic]
    async with (
        open_hub(max_topics=options.max_topics, broker=broker, store=store) as hub,
        listen_apart("--metrics", options.metrics if worker is None else None) as watchers,
        open_office(hub, access, prepared.admin_keys, options, topics) as office,
        _open_broadcast(hub, access, options) as broadcast,
    ):
        listeners = await listen(options) if worker is None else worker.listeners
        run = partial(
            serve_listeners,
            broadcast.handle,
            listeners,
            ssl_context=context,
            admit=broadcast.admit,
            http=broadcast.http,
            origins=options.origin,
            subprotocols=options.subprotocol,
            trusted_proxies=options.trusted_proxy,
            app_heartbeats=heartbeats,
            limits=prepared.limits,
            hub=hub,
        )
        with trio.open_signal_receiver(*CLOSE_CODES) as signals, Notifier() as manager:
            async with trio.open_nursery() as nursery:

                async def serve_and_end(task_status: trio.TaskStatus[Server]) -> None:
                    await run(task_status=task_status)
                    if worker is not None:
                        await worker.end.say_farewell()
                    nursery.cancel_scope.cancel()

                broadcast.server = await nursery.start(serve_and_end)
                await office.start(broadcast, nursery, options, context)
                if worker is not None:
                    broadcast.ask_all = worker.end.ask_all
                    office.join(worker, are_all=not options.broker)
                    await worker.serve(broadcast.server, signals, options)
                    return 0
                if watchers:
                    tell = partial(metrics, broadcast.server, topics=topics)
                    await nursery.start(serve_metrics, watchers, tell)
                    at, _ = describe(watchers[0], options.metrics[:1], secure=False)
                    _logger.info("metrics at %smetrics", at)
                announce(listeners[0], options.host, secure=context is not None)
                manager.ready()
                nursery.start_soon(manager.keep_alive)
                rereading = _rereading(options, broadcast, access, topics, office)
                # A terminal that is closed takes its programs along.
                while (number := await signals.__anext__()) == SIGHUP and not sys.stderr.isatty():
                    manager.reloading()
                    await rereading.read_again()
                    manager.ready()
                manager.stopping()
                options = rereading.options
                nursery.start_soon(
                    broadcast.server.drain, options.grace, options.spread, CLOSE_CODES[number]
                )
                async for number in signals:
                    if number == signal.SIGINT:
                        raise KeyboardInterrupt
    return 0


def _rereading(
    options: argparse.Namespace,
    broadcast: Broadcast,
    access: Access,
    metrics_topics: list[str],
    office: Office,
) -> Rereading:
    """What a SIGHUP reads again, and where that is put."""
    server = broadcast.server

    def load_certificate(options: argparse.Namespace) -> Callable[[], None]:
        context = _ssl_context(options.tls_cert, options.tls_key)
        if (context is None) != (server._ssl_context is None):
            raise UsageError("--tls-cert: whether there is one: takes a restart")

        def put() -> None:
            for each in (server, office.server):
                if each is not None:
                    each._ssl_context = context

        return put

    def load_topics(options: argparse.Namespace) -> Callable[[], None]:
        return partial(broadcast.replace_rules, _topics(options))

    def put(options: argparse.Namespace) -> None:
        broadcast.replace_origins(options.origin)
        metrics_topics[:] = options.metrics_topic
        office.use(server, options)
        logging.getLogger().setLevel(options.log_level.upper())

    parts = [
        Part("certificate", ("tls_cert", "tls_key"), load_certificate),
        *secrets.again(access),
        *office.again(),
        Part("rules of topics", ("topics",), load_topics),
    ]
    return Rereading(options, check=_check, parts=parts, put=put)
