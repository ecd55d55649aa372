"""Peers that go: whatever their connection is doing, its place is free for another one.

How a link notices that is tested in tests/test_gone.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, upgrade_head
from tests.support import TEXT, Frame, tls_contexts
from trioweb._tls import TlsStream
from trioweb.testing import Network

_HEARTBEAT = trioweb.Heartbeat(interval=10, timeout=10)

Serve = Callable[..., Awaitable[trioweb.Server]]


class Place:
    """Somewhere to serve, and to come from."""

    def __init__(self, where: str, nursery: trio.Nursery) -> None:
        self._where = where
        self._nursery = nursery
        self._network = Network(max_bytes=16 * 2**10)
        self._is_secure = "tls" in where
        self.server: trioweb.Server

    async def serve(self, handler: Any, **options: Any) -> trioweb.Server:
        if self._is_secure:
            options["ssl_context"] = tls_contexts()[1]
        if "memory" in self._where:
            listener = self._network.host("server").listen(80)
            serve = partial(trioweb.serve_listeners, handler, [listener], **options)
        else:
            serve = partial(trioweb.serve, handler, 0, host="127.0.0.1", **options)
        self.server = await self._nursery.start(serve)
        return self.server

    async def peer(self) -> Peer:
        stream: trio.abc.Stream
        if "memory" in self._where:
            stream = await self._network.host("client").dial("server", 80)
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", self.server.port)
        if self._is_secure:
            stream = TlsStream(stream, tls_contexts()[0], server_hostname="localhost")
            await stream.do_handshake()
        return Peer(stream)


@pytest.fixture(
    params=[
        pytest.param("kernel", marks=pytest.mark.network),
        pytest.param("kernel-tls", marks=pytest.mark.network),
        "memory",
        "memory-tls",
    ]
)
async def place(request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    async with trio.open_nursery() as nursery:
        yield Place(request.param, nursery)
        nursery.cancel_scope.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(8):
        while not is_so():
            await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize(
    ("count", "limits"),
    [
        pytest.param(8, trioweb.Limits(inbox_messages=8), id="full inbox"),
        pytest.param(500, trioweb.Limits(inbox_messages=8), id="more than that"),
        pytest.param(8, trioweb.Limits(max_messages_per_second=0.01), id="rate limit"),
        pytest.param(0, trioweb.Limits(), id="idle"),
    ],
)
async def test_place_of_a_peer_that_has_gone_is_free_though_its_handler_runs_on(
    count: int, limits: trioweb.Limits, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = 0
    go_on = trio.Event()
    received: list[list[str | bytes]] = []

    async def handler(connection: trioweb.Connection) -> None:
        nonlocal handlers
        handlers += 1
        await go_on.wait()
        received.append([message async for message in connection])
        handlers -= 1

    bounds = {name: getattr(limits, name) for name in ("inbox_messages", "max_messages_per_second")}
    limits = trioweb.Limits(max_connections=5, max_connections_per_host=5, **bounds)
    server = await place.serve(handler, limits=limits, heartbeat=_HEARTBEAT)
    for _ in range(3):
        peers = [await place.peer() for _ in range(5)]
        for peer in peers:
            await peer.open()
            for number in range(count):
                await peer.send(Frame(TEXT, b"%d" % number))
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(server.connections) == 5
        for peer in peers:
            await trio.aclose_forcefully(peer.stream)
        await until(lambda: not server.connections)
        statistics = server.statistics()
        assert (statistics.connections, statistics.opening) == (0, 0)
    # There are none left to refuse anybody for; but the handlers are what they were.
    assert handlers == 15 and server.statistics().opened == 15
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    go_on.set()
    if limits.max_messages_per_second is None:
        await until(lambda: not handlers)
        assert received == [[str(number) for number in range(count)]] * 15


async def test_drain_waits_for_the_handler_of_a_peer_that_has_gone(place: Place) -> None:
    may_end, ended = trio.Event(), trio.Event()

    async def handler(connection: trioweb.Connection) -> None:
        await may_end.wait()
        ended.set()

    server = await place.serve(handler, heartbeat=_HEARTBEAT)
    peer = await place.peer()
    await peer.open()
    await trio.aclose_forcefully(peer.stream)
    await until(lambda: not server.connections)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        may_end.set()
    assert ended.is_set()


@pytest.mark.parametrize("way", ["close", "end by half"])
async def test_peer_that_goes_while_admit_makes_up_its_mind_is_noticed(
    way: str, place: Place
) -> None:
    """Whatever that waits for is cancelled, and the next one may come."""
    cancelled = 0

    async def admit(request: trioweb.Request) -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async def handler(connection: trioweb.Connection) -> None:
        raise AssertionError("nobody was let in")

    limits = trioweb.Limits(max_connections=2)
    server = await place.serve(handler, admit=admit, limits=limits)
    for number in range(3):
        peers = [await place.peer() for _ in range(2)]
        for peer in peers:
            await peer.write(upgrade_head())
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.statistics().opening == 2
        for peer in peers:
            if way == "close":
                await trio.aclose_forcefully(peer.stream)
            else:
                assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
                await peer.stream.send_eof()
        await until(lambda: server.statistics().opening == 0)
        assert cancelled == 2 * number + 2
        for peer in peers:
            await trio.aclose_forcefully(peer.stream)
    assert server.statistics().refused == {0: 6}


async def test_peer_that_is_there_is_let_in_though_admit_takes_its_time(place: Place) -> None:
    """And what it sends meanwhile, which it should not, is not lost."""
    may_decide = trio.Event()

    async def admit(request: trioweb.Request) -> trioweb.Accept:
        await may_decide.wait()
        return trioweb.Accept(user="somebody")

    async def handler(connection: trioweb.Connection) -> None:
        await connection.send(f"{connection.user}: {await connection.receive()!r}")

    await place.serve(handler, admit=admit)
    peer = await place.peer()
    await peer.write(upgrade_head())
    await trio.testing.wait_all_tasks_blocked(0.01)
    await peer.send(Frame(TEXT, b"early"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    may_decide.set()
    status, _ = await peer.read_head()
    assert status == 101
    assert await peer.frame() == Frame(TEXT, b"somebody: 'early'")
    await trio.aclose_forcefully(peer.stream)


async def test_what_admit_raises_comes_out_as_it_is(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def admit(request: trioweb.Request) -> None:
        await trio.lowlevel.checkpoint()
        if request.path == "/no":
            raise trioweb.Reject(401, "who are you?\n")
        raise ZeroDivisionError

    async def handler(connection: trioweb.Connection) -> None:
        raise AssertionError("nobody was let in")

    server = await place.serve(handler, admit=admit)
    for path, status in (("/no", 401), ("/fault", 500)):
        peer = await place.peer()
        assert (await peer.ask(upgrade_head(path))).status == status
    assert server.statistics().handler_errors == 1
