"""One engine: how a node connects to it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import trio

from .._callbacks import awaitable
from .._tls import network_reason
from .._topics import BrokerPolicy
from .._topics._commands import Pushed
from .._topics._engine_link import EngineLost
from ._greeting import Greeting
from ._link import RedisLink
from ._names import Names
from ._share import Share
from ._target import Target
from ._words import Words

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
Credentials: TypeAlias = Callable[[], Awaitable[tuple[str, str]]]
Resolve: TypeAlias = Callable[[], Awaitable[tuple[str, int]]]


async def open_stream(
    target: Target, address: tuple[str, int], dial: Dial, tls: ssl.SSLContext | None
) -> trio.abc.Stream:
    """A stream to *target*, which is at *address* unless it is a Unix socket.

    Raises:
        OSError: there is none.
    """
    if target.path is not None:
        return await trio.open_unix_socket(target.path)
    stream = await awaitable("dial(host, port)", dial(*address))
    assert isinstance(stream, trio.abc.Stream)
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_hostname=target.host, https_compatible=True)


@dataclass(frozen=True, slots=True, eq=False)
class RedisEngine:
    """See `trioweb.Broker`, which this is, and `RedisBroker` for what it goes by."""

    policy: BrokerPolicy
    target: Target
    share: Share
    names: Names
    scripts: dict[str, str]
    idle: int
    tls: ssl.SSLContext | None
    dial: Dial
    credentials: Credentials | None
    resolve: Resolve | None

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[RedisLink]:
        """See `trioweb.Broker`."""
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(self.policy.timeout) as scope:
                try:
                    credentials = self.target.credentials
                    if self.credentials is not None:
                        credentials = await awaitable("credentials()", self.credentials())
                    address = self.target.host, self.target.port
                    if self.resolve is not None:
                        address = await awaitable("resolve()", self.resolve())
                    stream = await open_stream(self.target, address, self.dial, self.tls)
                    greeting = Greeting(stream, self.scripts, self.names, self.share)
                    await greeting.exchange(credentials, self.target.database, fence)
                except (OSError, trio.BrokenResourceError) as exc:
                    raise EngineLost(f"{self.target.name}: {network_reason(exc)}") from exc
            if scope.cancelled_caught:
                raise EngineLost(f"no greeting within {self.policy.timeout} seconds")
            assert stream is not None
            words = Words(
                node,
                greeting.run,
                greeting.scripts,
                self.names,
                self.share,
                durable=self.policy.durable,
                idle=self.idle,
            )
            link = RedisLink(
                greeting.id, stream, greeting.reader, words, self.names, self.share, receive
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.read)
                nursery.start_soon(link.write)
                yield link
                nursery.cancel_scope.cancel()
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)
