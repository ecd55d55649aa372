"""A RedisBroker to a real server, with the faults that a MemoryBroker has: all made for real.

Connections are cut in this process, so that what they still carried can arrive late: it is written
to the server's socket later, and the server does it, unless it has closed that.

Time passes on Trio's clock, but never while a server that runs owes an answer.  What it pushes
without being asked has some milliseconds of quiet to arrive in.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Final

import trio
import trio.testing

from tests.brokers.redis_server import RedisServer
from trioweb import BrokerPolicy
from trioweb._topics._commands import Answer, Command, Pushed
from trioweb.redis import RedisBroker
from trioweb.redis._link import RedisLink

QUIET: Final = 0.02
_SECONDS: Final = 20


class _Stream(trio.abc.Stream):
    """A connection that can be cut on this side alone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.inner = stream
        self.is_cut = False
        self.runs = trio.Event()
        self.runs.set()
        self.under_way = b""
        self._reading = trio.CancelScope()

    def cut(self, under_way: bytes) -> None:
        self.is_cut, self.under_way = True, under_way
        self._reading.cancel()

    def arrive(self) -> None:
        """Have what was under way done by the server, unless it has closed this."""
        # Of which the server has done everything else once it answers.
        data = self.under_way + b"SUBSCRIBE trioweb:late\r\n"
        with socket.socket(fileno=self.inner.socket.detach()) as connection:
            connection.settimeout(_SECONDS)
            answer = b""
            try:
                connection.sendall(data)
                while b"trioweb:late" not in answer and (chunk := connection.recv(65536)):
                    answer += chunk
            except (BrokenPipeError, ConnectionResetError):
                pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with trio.CancelScope() as self._reading:
            await self.runs.wait()
            return await self.inner.receive_some(max_bytes)
        raise trio.BrokenResourceError("the connection was cut")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.runs.wait()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        if not self.is_cut:
            await self.inner.aclose()


class Timekeeper:
    """Lets time pass on *clock* while no server owes an answer."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.brokers: list[FaultyRedisBroker] = []
        self._clock = clock

    def look(self) -> None:
        owed = any(broker.is_owed for broker in self.brokers)
        self._clock.autojump_threshold = math.inf if owed else QUIET


class _Link:
    """A link that has the time kept."""

    def __init__(self, broker: FaultyRedisBroker, link: RedisLink, stream: _Stream) -> None:
        self.id = link.id
        self.link = link
        self.stream = stream
        self._broker = broker

    def send(self, command: Command, answered: Callable[[Answer], None]) -> None:
        def then(answer: Answer) -> None:
            answered(answer)
            self._broker.look()

        self.link.send(command, then)
        self._broker.look()

    async def wait_lost(self) -> str:
        return await self.link.wait_lost()


class FaultyRedisBroker:
    """See the top of this module, and `MemoryBroker`, whose methods these are."""

    def __init__(
        self, server: RedisServer, policy: BrokerPolicy, times: Timekeeper, user: str = ""
    ) -> None:
        self.server = server
        self.policy = policy
        self._times = times
        self._inner = RedisBroker(
            f"redis://{user}127.0.0.1:{server.port}",
            dial=self._dial,
            **{field.name: getattr(policy, field.name) for field in fields(policy)},
        )
        self._streams: list[_Stream] = []
        self._links: list[_Link] = []
        self._late: list[_Stream] = []
        self._connecting = 0
        self._pushes_lost = 0
        self._is_stopped = self._is_frozen = False
        self._is_down = False
        times.brokers.append(self)

    @property
    def is_owed(self) -> bool:
        if self._is_stopped or self._is_frozen:
            return False
        return self._connecting > 0 or any(each.link._asked for each in self._links)

    def look(self) -> None:
        self._times.look()

    async def _dial(self, host: str, port: int) -> trio.abc.Stream:
        if self._is_down:
            raise ConnectionRefusedError("the engine is down")
        # Which may be another one by now.
        stream = _Stream(await trio.open_tcp_stream(host, self.server.port))
        self._streams.append(stream)
        return stream

    @contextmanager
    def _connects(self) -> Generator[None]:
        self._connecting += 1
        self.look()
        try:
            yield
        finally:
            self._connecting -= 1
            self.look()

    @asynccontextmanager
    async def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AsyncGenerator[_Link]:
        def receive_unless_lost(pushed: Pushed) -> None:
            if self._pushes_lost:
                self._pushes_lost -= 1
            else:
                receive(pushed)

        inner = self._inner.connect(node, fence, receive_unless_lost)
        with self._connects():
            found = await inner.__aenter__()
        assert isinstance(found, RedisLink)
        assert isinstance(found._stream, _Stream)
        link = _Link(self, found, found._stream)
        self._links.append(link)
        try:
            yield link
        finally:
            if link in self._links:
                self._links.remove(link)
            self.look()
            await inner.__aexit__(None, None, None)

    def close(self) -> None:
        """Close what was cut."""
        for stream in self._streams:
            left = stream.inner.socket.detach()
            if left != -1:
                socket.close(left)

    # Faults.

    def cut(self) -> None:
        for each in self._links:
            unsent = each.link._unsent
            each.stream.cut(b"".join(data for data in unsent if isinstance(data, bytes)))
            unsent.clear()
            each.link.lose("the connection was cut")
            self._late.append(each.stream)
        self._links.clear()
        self.look()

    def arrive_late(self) -> None:
        late, self._late = self._late, []
        for stream in late:
            stream.arrive()

    def freeze(self) -> None:
        """Have the nodes of this broker read and write nothing any more."""
        self._is_frozen = True
        for each in self._links:
            each.stream.runs = trio.Event()

    def thaw(self) -> None:
        self._is_frozen = False
        for each in self._links:
            each.stream.runs.set()
        self.look()

    def lose_pushes(self, count: int) -> None:
        self._pushes_lost = count

    def flush(self) -> None:
        self.server.ask("FLUSHALL")

    async def pass_time(self, seconds: int) -> None:
        """As its clock is not ours, a second of it passes with each of ours."""
        for _ in range(seconds):
            for lease in self.server.ask("ZRANGE", "trioweb:leases", 0, -1):
                self.server.ask("ZINCRBY", "trioweb:leases", -1000, lease)
            await trio.sleep(1)

    def stop(self) -> None:
        self.server.stop()
        self._is_stopped = True
        self.look()

    def resume(self) -> None:
        self.server.resume()
        self._is_stopped = False
        self.look()

    def restart(self, *, lost: int | None = 0) -> None:
        self.cut()
        self._late.clear()
        if lost is None:
            self.server.ask("FLUSHALL")
        elif lost:
            self.server.lose(lost)
        self.server.kill()
        self.server.start()

    def fail_over(self, *, lost: int = 0) -> None:
        self.restart(lost=lost)

    def shut_down(self) -> None:
        self.cut()
        self._is_down = True

    def start(self) -> None:
        self._is_down = False

    def refuse(self, reason: str | None) -> None:
        """For its own reason, which is that it is out of memory."""
        self.server.ask("CONFIG", "SET", "maxmemory", 0 if reason is None else 1)

    def evict_record(self, topic: str) -> None:
        assert self.server.ask("DEL", f"trioweb:{{{topic}}}:m") == 1

    def evict_log(self, topic: str) -> None:
        assert self.server.ask("DEL", f"trioweb:{{{topic}}}:s") == 1
