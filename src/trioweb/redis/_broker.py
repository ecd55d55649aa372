"""What programs hold: where the engine is, and what the nodes of an application go by."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypedDict, Unpack

import trio

from .._arguments import check_async, check_kind, check_passes_on, check_texts, is_count
from .._policy import Outbox, Retry
from .._topics import BrokerPolicy
from .._topics._commands import Pushed
from .._topics._engine_link import Broker, EngineLink
from ._engine import Credentials, Dial, RedisEngine, Resolve, open_stream
from ._greeting import read_scripts
from ._names import Names
from ._sentinel import Sentinels
from ._share import ALONE, Share, owner
from ._target import Target, parse_target

_DAY: Final = 86_400
_SENTINEL_PORT: Final = 26379


class Options(TypedDict, total=False):
    """What `RedisBroker.sentinel` hands on."""

    prefix: str
    ssl_context: ssl.SSLContext | None
    credentials: Credentials | None
    durable: bool
    outbox: Outbox
    timeout: float
    retry: Retry
    linger: float
    flush_timeout: float
    idle: int


class RedisBroker:
    """Joins hubs of several processes and machines by a Redis (from 6.2 on) or a Valkey.

    Give one to the hub of each process, `open_hub(broker=RedisBroker(url))`; all whose URL leads to
    the same database and that have the same prefix share their topics.  Each hub has one
    connection, on which everything is.  A connection that ends is made again, and what was not
    answered is published again, once and in order.  What may be missing then is told, as
    `open_hub` says: a server that was started again or replaced ends the epoch of each topic,
    unless it is `durable`.

    Run the server with `maxmemory-policy noeviction`.  What it keeps of a topic goes by the
    topic's `retain`, as on a hub that is alone.

    Args:
        url: redis://[user:password@]host[:port][/database], rediss:// for TLS, or
            unix:///path/to/socket[?db=database].  Several of them are several servers, each with
            its part of the topics and a connection of its own: a server that fails takes its part
            along, and no other.  All nodes must have the same list, with the same names of hosts.
        prefix: what all keys and channels begin with; one for each application.
        ssl_context: for rediss://, by default `ssl.create_default_context()`.
        credentials: an async callable without arguments that returns user and password; called
            each time before a server is connected to.
        durable, outbox, timeout, retry, linger, flush_timeout: see `trioweb.BrokerPolicy`.  The
            bounds of the outbox are those of each server.
        idle: seconds for which the server keeps the publications of a topic after the last one.
            The epoch, which must live longer, is kept for 30 times as long.
        dial: an async callable of host and port that returns a stream to the server, in place of
            `trio.open_tcp_stream`.  TLS, if there is any, comes on top.
        resolve: an async callable without arguments that returns host and port of the server,
            asked each time before it is connected to; the host in the URL is what its certificate
            is checked for.  `RedisBroker.sentinel` has one.
        generation: a number that is raised whenever the list of several servers is changed, on all
            nodes together.  The servers keep it: a node that has another list is not let in, and
            the epoch ends of each topic that has moved to another server.

    Attributes:
        policy: what the nodes go by.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was connected to.

    Concurrency: several hubs of a process may share one.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "redis://127.0.0.1:6379/0",
        *,
        prefix: str = "trioweb",
        ssl_context: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        durable: bool = False,
        outbox: Outbox = Outbox(max_messages=10_000, max_bytes=16 * 2**20, full="raise"),
        timeout: float = 5,
        retry: Retry = Retry(initial=0.1, maximum=5),
        linger: float = 10,
        flush_timeout: float = 5,
        idle: int = _DAY,
        dial: Dial | None = None,
        resolve: Resolve | None = None,
        generation: int = 1,
    ) -> None:
        check_kind("RedisBroker", "prefix", prefix, str)
        check_kind("RedisBroker", "ssl_context", ssl_context, ssl.SSLContext, optional=True)
        check_async("RedisBroker", "credentials()", credentials, optional=True)
        check_async("RedisBroker", "resolve()", resolve, optional=True)
        check_passes_on("RedisBroker", "dial(host, port)", dial)
        if not prefix or any(letter in prefix for letter in "{}"):
            raise ValueError(f"RedisBroker: prefix={prefix!r} must not be empty, nor have braces")
        for name, count in ("idle", idle), ("generation", generation):
            if not is_count(count, least=1):
                raise ValueError(f"RedisBroker: {name}={count!r} must be a whole number from 1 on")
        urls = [url] if isinstance(url, str) else check_texts("RedisBroker", "url", url)
        targets = [parse_target(each) for each in urls]
        own_names = [target.name for target in targets]
        if not targets or len(set(own_names)) < len(targets):
            raise ValueError("RedisBroker: url must be one or several, each another one")
        if ssl_context is not None and not any(target.is_secure for target in targets):
            raise ValueError("RedisBroker: an ssl_context, but the url is none of rediss://")
        if credentials is not None and any(target.credentials for target in targets):
            raise ValueError("RedisBroker: credentials, and others in the url")
        if (dial or resolve) is not None and any(target.path for target in targets):
            raise ValueError("RedisBroker: dial and resolve do not lead to a Unix socket")
        if resolve is not None and len(targets) > 1:
            raise ValueError("RedisBroker: resolve leads to one server, and there are several")
        self.policy = policy = BrokerPolicy(
            durable=durable,
            outbox=outbox,
            timeout=timeout,
            retry=retry,
            linger=linger,
            flush_timeout=flush_timeout,
        )
        secure = any(target.is_secure for target in targets)
        tls = ssl_context or (ssl.create_default_context() if secure else None)
        scripts = read_scripts()
        self._names = ALONE if len(targets) == 1 else tuple(own_names)
        self._engines = {
            name: RedisEngine(
                policy,
                target,
                Share(name, self._names, generation),
                Names(prefix, target.database),
                scripts,
                idle,
                tls if target.is_secure else None,
                dial or trio.open_tcp_stream,
                credentials,
                resolve,
            )
            for name, target in zip(self._names, targets, strict=True)
        }

    @classmethod
    def sentinel(
        cls,
        sentinels: str | Sequence[str],
        service: str,
        url: str = "redis://",
        *,
        dial: Dial | None = None,
        **options: Unpack[Options],
    ) -> RedisBroker:
        """A broker on the server that leads *service*, as sentinels say each time before it is
        connected to.  After a failover the epoch of each topic ends, since what the server that
        takes over had not got yet is gone.

        Args:
            sentinels: their URLs, as for `RedisBroker`, on port 26379 unless they say another.
            service: what they call it.
            url: how the server is spoken to: by TLS or not, as whom, in which database.  Its host
                is what the certificate is checked for, and does not lead anywhere.
            dial: as for `RedisBroker`; for sentinels, too.
            options: as for `RedisBroker`.

        Raises:
            TypeError, ValueError: as `RedisBroker`.
        """
        owner = "RedisBroker.sentinel"
        check_kind(owner, "service", service, str)
        check_kind(owner, "url", url, str)
        check_passes_on(owner, "dial(host, port)", dial)
        urls = (
            [sentinels]
            if isinstance(sentinels, str)
            else check_texts(owner, "sentinels", sentinels)
        )
        targets = [parse_target(each, _SENTINEL_PORT) for each in urls]
        if not targets or any(target.database for target in targets):
            raise ValueError(f"{owner}: sentinels must be URLs, and have no databases")
        tls = options.get("ssl_context")
        if tls is None and any(target.is_secure for target in targets):
            tls = ssl.create_default_context()

        async def open(target: Target) -> trio.abc.Stream:
            context = tls if target.is_secure else None
            where = target.host, target.port
            return await open_stream(target, where, dial or trio.open_tcp_stream, context)

        return cls(url, dial=dial, resolve=Sentinels(targets, service, open), **options)

    @property
    def engines(self) -> Sequence[Broker]:
        """For hubs: the servers."""
        return tuple(self._engines.values())

    def engine_of(self, topic: str) -> Broker:
        """For hubs: the server that has *topic*."""
        return self._engines[owner(self._names, topic)]

    def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AbstractAsyncContextManager[EngineLink]:
        """For hubs, where there is one server; see `trioweb.Broker`."""
        [engine] = self._engines.values()
        return engine.connect(node, fence, receive)

    def __repr__(self) -> str:
        where = ", ".join(repr(engine.target) for engine in self._engines.values())
        return f"<RedisBroker {where}>"
