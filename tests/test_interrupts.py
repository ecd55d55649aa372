"""Ctrl-C comes out as KeyboardInterrupt, whichever line and task it strikes.  Invariant 14."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import trioweb
from tests.server.support import Peer
from trioweb._nursery import open_hidden_nursery
from trioweb._waitable import Takers, Waitable
from trioweb.testing import Network, interrupt_everywhere

# What every wait and every block goes through.
_CORE = (
    "trioweb._waitable",
    "trioweb._nursery",
    "trioweb._client._signal",
    "trioweb._client._waiting",
)


# What plain requests, and nothing else, go through.
_PLAIN = tuple(
    f"trioweb._server.{name}"
    for name in ("_exchanges", "_body", "_answering", "_events", "_leaving")
)


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    """A server that is interrupted may have reason to log, and does so hundreds of times here."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def change() -> None:
    """Tasks that wait for changes, of which one is cancelled; and a last change in any case."""
    waitable = Waitable()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waitable.wait_change)
            with trio.move_on_after(1):
                await waitable.wait_change()

            @nursery.start_soon
            async def change_later() -> None:
                await trio.sleep(1)
                waitable.changed()

            await waitable.wait_change()
    finally:
        waitable.changed()


async def take() -> None:
    """Tasks that wait for what one of them can have; all are woken in the end."""
    takers = Takers()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(takers.wait_taking)
            with trio.move_on_after(1):
                await takers.wait_taking()

            @nursery.start_soon
            async def wake_later() -> None:
                await trio.sleep(1)
                takers.wake(1)
                takers.wake(1)

            await takers.wait_taking()
    finally:
        takers.wake_all()


async def hold_tasks() -> None:
    async with open_hidden_nursery() as outer, open_hidden_nursery() as inner:
        outer.start_soon(trio.sleep_forever)
        inner.start_soon(trio.sleep_forever)
        await trio.sleep(1)


@asynccontextmanager
async def serving(
    handler: Callable[[trioweb.Connection], Awaitable[object]], **options: Any
) -> AsyncGenerator[tuple[trioweb.Server, str, dict[str, Any]]]:
    """A server, its URL, and what its clients need besides; no stream is left open."""
    network = Network()
    listener = network.host("server").listen(80)

    async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
        await trioweb.serve_listeners(handler, [listener], task_status=task_status, **options)

    try:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            yield server, "ws://server/", {"dial": network.host("client").dial}
            await server.drain()
    finally:
        assert not network.open_names()


async def echo(connection: trioweb.Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def subscribe() -> None:
    async with trioweb.open_hub() as hub:
        topic = hub.topic("lobby")

        async def watch(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection, history=1):
                await connection.wait_closed()

        topic.publish("0")
        async with serving(watch, hub=hub) as (_, url, options):
            async with trioweb.open_connection(url, **options) as one:
                assert await one.receive() == "0"
                async with trioweb.open_connection(url, **options) as other:
                    assert await other.receive() == "0"
                    topic.publish("1" * 70_000)  # more than is written at once
                    assert len(await one.receive()) == len(await other.receive())


async def connect() -> None:
    async with serving(echo) as (_, url, options):
        async with trioweb.open_connection(url, **options) as connection:
            await connection.send("a")
            assert await connection.receive() == "a"
            await connection.ping()


async def connect_again() -> None:
    """A client sends, receives, loses its connection, flushes and is closed."""
    outbox = trioweb.Outbox(confirm=True)
    async with serving(echo) as (server, url, options):
        async with trioweb.open_client(url, outbox=outbox, **options) as client:
            for message in ("a", "b"):
                await client.send(message)
                assert await client.receive() == message
                for connection in server.connections:
                    await connection.aclose(1012)
            await client.send("c")
            await client.flush()
            await client.aclose()


async def wait_for_turns() -> None:
    """Tasks wait for their turns to send, one is cancelled, and the session begins anew."""
    outbox = trioweb.Outbox(max_messages=1, confirm=True)
    async with serving(echo) as (_, url, options):
        async with trioweb.open_client(url, outbox=outbox, **options) as client:
            with client.messages(max_messages=2) as messages:
                async with trio.open_nursery() as nursery:
                    for text in "abcd":
                        nursery.start_soon(client.send, text)
                    with trio.move_on_after(0):
                        await client.send("e")
                    nursery.start_soon(client.wait_open)
                    nursery.start_soon(client.flush)
                    assert sorted([await messages.receive() for _ in range(4)]) == [*"abcd"]
                await client.reconnect()
                await client.send("f")
                assert await messages.receive_many() == ["f"]


async def ask() -> None:
    """Plain requests over one stream: a body, an answer that is made meanwhile, and events."""
    async with trioweb.open_hub() as hub:
        topic = hub.topic("lobby")

        async def count() -> AsyncGenerator[str]:
            for number in range(3):
                await trio.sleep(1)
                yield str(number)

        async def http(request: trioweb.Request) -> trioweb.Response:
            if await request.body():
                return trioweb.Response(200, count())
            return trioweb.event_stream(request, topic, history=1)

        topic.publish("before")
        async with serving(echo, http=http, hub=hub) as (_, _, options):
            peer = Peer(await options["dial"]("server", 80))
            async with peer.stream:
                head = b"POST / HTTP/1.1\r\nHost: server\r\n%b\r\n\r\n%b"
                await peer.write(head % (b"Transfer-Encoding: chunked", b"2\r\nhi\r\n0\r\n\r\n"))
                assert (await peer.read_one()).body == b"012"
                await peer.write(head % (b"Content-Length: 0", b""))
                await peer.read_head()
                while b"before" not in peer.unparsed:
                    peer.unparsed += await peer.stream.receive_some()
                topic.publish("now")
                while b"now" not in peer.unparsed:
                    peer.unparsed += await peer.stream.receive_some()


async def connect_over_tcp() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trioweb.serve_listeners, echo, listeners)
        url = f"ws://127.0.0.1:{server.port}/"
        async with trioweb.open_connection(url) as connection:
            await connection.send("a")
            assert await connection.receive() == "a"
        async with trioweb.open_client(url) as client:
            await client.send("b")
            assert await client.receive() == "b"
        await server.drain()


@pytest.mark.parametrize("scenario", [change, take, hold_tasks])
def test_interrupt_at_each_line_of_waiting_and_of_a_hidden_nursery(
    scenario: Callable[[], Awaitable[None]],
) -> None:
    assert interrupt_everywhere(scenario) > 20


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [subscribe, connect, connect_again, wait_for_turns])
@pytest.mark.parametrize(
    ("packages", "max_runs"),
    [(_CORE, None), (("trioweb",), 100), (("trio_websocket",), 30)],
    ids=["core", "all", "trio-websocket"],
)
def test_interrupt_at_each_line_comes_out_of_client_and_server(
    scenario: Callable[[], Awaitable[None]], packages: tuple[str, ...], max_runs: int | None
) -> None:
    assert interrupt_everywhere(scenario, packages=packages, max_runs=max_runs) > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "max_runs"),
    [(_PLAIN, None), (("trioweb._server", "trioweb._topics", "trioweb._link"), 200)],
    ids=["plain HTTP", "below"],
)
def test_interrupt_at_each_line_of_plain_requests_comes_out(
    packages: tuple[str, ...], max_runs: int | None
) -> None:
    assert interrupt_everywhere(ask, packages=packages, max_runs=max_runs) > 100


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("packages", "most"),
    [
        (("trioweb",), 100),
        # Where a client reads by itself, as it does from nothing but a kernel's socket.
        (("trioweb._client._attending", "trioweb._client._open_client"), 60),
    ],
    ids=["all", "attending"],
)
def test_interrupt_leaves_no_socket_open(packages: tuple[str, ...], most: int) -> None:
    assert interrupt_everywhere(connect_over_tcp, packages=packages, max_runs=most) == most


@pytest.mark.parametrize("which", ["handler", "admit", "http", "url", "headers", "on_open"])
def test_interrupt_strikes_at_once_in_the_callables_of_users(which: str) -> None:
    """Or one that runs for ever could not be interrupted."""
    went_on: list[str] = []

    async def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        went_on.append(which)

    async def main() -> None:
        network = Network()
        listener = network.host("server").listen(80)
        served: dict[str, Any] = {"handler": echo, "listeners": [listener]}
        opened: dict[str, Any] = {"url": "ws://server/", "dial": network.host("client").dial}
        (served if which in ("handler", "admit", "http") else opened)[which] = interrupted
        async with open_hidden_nursery() as nursery:
            await nursery.start(partial(trioweb.serve_listeners, **served))
            if which == "http":
                stream = await network.host("client").dial("server", 80)
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
            async with trioweb.open_client(**opened) as client:
                await client.wait_open()
                await trio.sleep(1)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not went_on
