"""What programs hold: where the engine is, and what the nodes of an application go by."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

import trio

from .._arguments import awaitable, check_async, check_kind, check_passes_on, is_count
from .._policy import Outbox, Retry
from .._topics import BrokerPolicy
from .._topics._commands import Push
from .._topics._node import EngineLink, EngineLost
from ._greeting import Greeting, read_scripts
from ._link import RedisLink, why
from ._names import Names
from ._target import parse_target

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
Credentials: TypeAlias = Callable[[], Awaitable[tuple[str, str]]]

_DAY: Final = 86_400


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
            unix:///path/to/socket[?db=database].
        prefix: what all keys and channels begin with; one for each application.
        ssl_context: for rediss://, by default `ssl.create_default_context()`.
        credentials: an async callable without arguments that returns user and password; called
            each time before the server is connected to.
        durable, outbox, timeout, retry, linger, flush_timeout: see `trioweb.BrokerPolicy`.
        idle: seconds for which the server keeps the publications of a topic after the last one.
            The epoch, which must live longer, is kept for 30 times as long.
        dial: an async callable of host and port that returns a stream to the server, in place of
            `trio.open_tcp_stream`.  TLS, if there is any, comes on top.

    Attributes:
        policy: what the nodes go by.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was connected to.

    Concurrency: several hubs of a process may share one.
    """

    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379/0",
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
    ) -> None:
        check_kind("RedisBroker", "url", url, str)
        check_kind("RedisBroker", "prefix", prefix, str)
        check_kind("RedisBroker", "ssl_context", ssl_context, ssl.SSLContext, optional=True)
        check_async("RedisBroker", "credentials()", credentials, optional=True)
        check_passes_on("RedisBroker", "dial(host, port)", dial)
        if not prefix or any(letter in prefix for letter in "{}"):
            raise ValueError(f"RedisBroker: prefix={prefix!r} must not be empty, nor have braces")
        if not is_count(idle, least=1):
            raise ValueError(f"RedisBroker: idle={idle!r} must be a whole number of seconds")
        self._target = target = parse_target(url)
        if ssl_context is not None and not target.is_secure:
            raise ValueError("RedisBroker: an ssl_context, but the url is none of rediss://")
        if credentials is not None and target.credentials is not None:
            raise ValueError("RedisBroker: credentials, and others in the url")
        if dial is not None and target.path is not None:
            raise ValueError("RedisBroker: dial does not lead to a Unix socket")
        self.policy = BrokerPolicy(
            durable=durable,
            outbox=outbox,
            timeout=timeout,
            retry=retry,
            linger=linger,
            flush_timeout=flush_timeout,
        )
        self._tls = ssl_context
        if target.is_secure and ssl_context is None:
            self._tls = ssl.create_default_context()
        self._credentials = credentials
        self._dial = dial or trio.open_tcp_stream
        self._idle = idle
        self._names = Names(prefix, target.database)
        self._scripts = read_scripts()

    def connect(
        self, node: str, fence: str, receive: Callable[[Push], None]
    ) -> AbstractAsyncContextManager[EngineLink]:
        """For hubs; see `trioweb.Broker`."""
        return self._connect(fence, receive)

    @asynccontextmanager
    async def _connect(
        self, fence: str, receive: Callable[[Push], None]
    ) -> AsyncGenerator[RedisLink]:
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(self.policy.timeout) as scope:
                try:
                    credentials = self._target.credentials
                    if self._credentials is not None:
                        credentials = await awaitable("credentials()", self._credentials())
                    stream = await self._open()
                    if self._tls is not None:
                        stream = self._secure(stream, self._tls)
                    greeting = Greeting(stream, self._scripts)
                    await greeting.exchange(credentials, self._target.database, fence)
                except (OSError, trio.BrokenResourceError) as exc:
                    raise EngineLost(why(exc)) from exc
            if scope.cancelled_caught:
                raise EngineLost(f"no greeting within {self.policy.timeout} seconds")
            assert stream is not None
            link = RedisLink(
                greeting.id,
                greeting.run,
                stream,
                greeting.reader,
                greeting.scripts,
                self._names,
                durable=self.policy.durable,
                idle=self._idle,
                receive=receive,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.read)
                nursery.start_soon(link.write)
                yield link
                nursery.cancel_scope.cancel()
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _open(self) -> trio.abc.Stream:
        target = self._target
        if target.path is not None:
            return await trio.open_unix_socket(target.path)
        stream = await awaitable("dial(host, port)", self._dial(target.host, target.port))
        assert isinstance(stream, trio.abc.Stream)
        return stream

    def _secure(self, stream: trio.abc.Stream, context: ssl.SSLContext) -> trio.abc.Stream:
        return trio.SSLStream(
            stream, context, server_hostname=self._target.host, https_compatible=True
        )

    def __repr__(self) -> str:
        return f"<RedisBroker {self._target!r}>"
