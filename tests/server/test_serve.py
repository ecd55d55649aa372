"""The server's loop: what handlers do to their connections, and what is left afterwards."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.processes import python, running
from tests.server.support import ACCEPT, Peer, echo, start, upgrade_head, wait
from tests.support import BINARY, PING, TEXT, Frame, close_frame, reset, tls_contexts
from trioweb._server._places import Open
from trioweb.testing import Network

# How a handler ends.


async def test_handler_that_returns_closes_its_connection_with_1000(
    nursery: trio.Nursery,
) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await connection.send("bye")

    site = await start(nursery, handler)
    peer = await site.opened()
    assert await peer.frame() == Frame(TEXT, b"bye")
    assert await peer.read_close() == (1000, "")
    await peer.send(close_frame(1000))
    assert await peer.read_end() == b""
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().closed == {1000: 1}
    assert site.server.statistics().handler_errors == 0


class Unlucky(Exception):
    pass


def _plain() -> BaseException:
    return Unlucky("plain")


def _group() -> BaseException:
    return ExceptionGroup("several", [Unlucky("one"), ValueError("two")])


def _another_connections_end() -> BaseException:
    return trioweb.ClosedByPeer(1000)


def _own_exit() -> BaseException:
    return trio.TooSlowError("one that Trio uses, too")


@pytest.mark.parametrize("make", [_plain, _group, _another_connections_end, _own_exit])
async def test_handler_error_closes_its_connection_with_1011_and_nothing_else(
    make: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2: a handler's exception ends its own connection, never the server."""

    async def handler(connection: trioweb.Connection) -> None:
        if connection.request.path == "/unlucky":
            raise make()
        await echo(connection)

    site = await start(nursery, handler)
    neighbour = await site.opened()
    peer = await site.opened("/unlucky")
    assert await peer.read_close() == (1011, "")
    await peer.send(close_frame(1011))
    assert await peer.read_end() == b""

    await neighbour.send(Frame(TEXT, b"still there?"))
    assert await neighbour.frame() == Frame(TEXT, b"still there?")
    statistics = site.server.statistics()
    assert (statistics.handler_errors, statistics.closed) == (1, {1011: 1})
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "/unlucky" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert record.exc_info[1].__traceback__ is not None


async def test_handler_that_only_seems_to_be_async_is_contained(nursery: trio.Nursery) -> None:
    """Invariant 2."""

    @wraps(wait)
    def handler(connection: trioweb.Connection) -> Any:
        return None

    site = await start(nursery, handler)
    peer = await site.opened()
    assert await peer.read_close() == (1011, "")
    assert site.server.statistics().handler_errors == 1


@pytest.mark.parametrize("grouped", [False, True])
async def test_handler_that_lets_its_own_connections_end_out_is_no_error(
    grouped: bool, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        if not grouped:
            await connection.receive()
            return
        async with trio.open_nursery() as both:
            both.start_soon(connection.receive)
            both.start_soon(connection.receive)

    site = await start(nursery, handler)
    peer = await site.opened()
    await peer.send(close_frame(4000))
    assert await peer.read_close() == (4000, "")
    assert await peer.read_end() == b""
    await trio.testing.wait_all_tasks_blocked()
    statistics = site.server.statistics()
    assert (statistics.handler_errors, statistics.closed) == (0, {4000: 1})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.network
async def test_handler_whose_connection_breaks_in_writing_is_no_error(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading goes on then, so the connection is still open when `send` says that it is lost."""
    peers: list[Peer] = []

    async def handler(connection: trioweb.Connection) -> None:
        await connection.receive()
        reset(peers[0].stream)
        for _ in range(3):
            connection.send_nowait("lost")

    serve = partial(trioweb.serve, handler, 0, host="127.0.0.1")
    server: trioweb.Server = await nursery.start(serve)
    peers.append(Peer(await trio.open_tcp_stream("127.0.0.1", server.port)))
    await peers[0].open()
    await peers[0].send(Frame(TEXT, b"go"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    statistics = server.statistics()
    assert (statistics.handler_errors, statistics.connections) == (0, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_handler_cancelled_together_with_an_error_is_logged_and_ends_with_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Invariant 2: the error is contained, the cancellation passed on."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Unlucky("in cleaning up")

    async def handler(connection: trioweb.Connection) -> None:
        async with trio.open_nursery() as both:
            both.start_soon(fail_at_the_end)
            both.start_soon(trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        site = await start(nursery, handler)
        peer = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [record for record in caplog.records if record.levelno == logging.ERROR]
    assert site.server.statistics().handler_errors == 1
    await peer.stream.aclose()


async def test_base_exception_of_a_handler_ends_the_server_and_is_not_wrapped() -> None:
    """Invariant 7: no group for a single cause.  What is no Exception is not contained."""

    async def handler(connection: trioweb.Connection) -> None:
        raise SystemExit(7)

    network = Network()
    listener = network.host("server").listen(80)
    peer = Peer(await network.host("client").dial("server", 80))
    await peer.write(upgrade_head())
    with pytest.raises(SystemExit):
        await trioweb.serve_listeners(handler, [listener])
    await peer.stream.aclose()
    assert (network.statistics().streams, network.statistics().listeners) == (0, 0)


async def test_base_exception_of_a_handler_is_not_lost_when_the_server_is_cancelled() -> None:
    """Ctrl-C for the second time, while the first one's cleaning up goes on."""

    async def handler(connection: trioweb.Connection) -> None:
        try:
            await wait(connection)
        finally:
            raise SystemExit(7)

    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            site = await start(nursery, handler)
            peer = await site.opened()
            nursery.cancel_scope.cancel()
    await peer.stream.aclose()


# The peer's side of a handler's end.


async def test_handler_sees_what_arrived_before_the_peer_went(nursery: trio.Nursery) -> None:
    received: list[trioweb.Connection | str | bytes] = []

    async def handler(connection: trioweb.Connection) -> None:
        async for message in connection:
            received.append(message)
        received.append(connection)

    site = await start(nursery, handler)
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"last words"))
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    message, connection = received
    assert message == "last words"
    assert isinstance(connection, trioweb.Connection)
    assert connection.close_code == 1006
    assert site.server.statistics().closed == {1006: 1}


async def test_messages_sent_along_with_the_upgrade_are_received(nursery: trio.Nursery) -> None:
    site = await start(nursery, echo)
    peer = await site.peer()
    await peer.write(upgrade_head() + peer.encode(Frame(TEXT, b"early")))
    status, headers = await peer.read_head()
    assert (status, headers["sec-websocket-accept"]) == (101, ACCEPT)
    assert await peer.frame() == Frame(TEXT, b"early")


# The end of the server.


async def test_cancelled_server_says_1001_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Invariant 10.  Cancelling `serve` sends Close 1001 if the kernel takes it at once."""
    caplog.set_level(logging.INFO)
    peers: list[Peer] = []
    # Trio picks the order in which tasks are cancelled at random.
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            serve = partial(trioweb.serve, wait, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            for _ in range(3):
                peer = Peer(await trio.open_tcp_stream("127.0.0.1", server.port))
                await peer.open()
                peers.append(peer)
            await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()
        assert not server.connections
        assert server.statistics().opening == 0
        assert server.statistics().closed == {1001: 3}
    for peer in peers:
        assert await peer.read_close() == (1001, "")
        assert await peer.read_end() == b""
        await peer.stream.aclose()
    assert not [record for record in caplog.records if record.name.startswith("trioweb")]


async def test_cancelled_server_waits_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Invariants 6 and 10: not for a silent peer, a full one, a half-open one."""
    flooding = trio.Event()

    async def handler(connection: trioweb.Connection) -> None:
        if connection.request.path == "/flood":
            connection.send_nowait(bytes(200_000))
            flooding.set()
        await wait(connection)

    network = Network(max_bytes=1000)
    async with trio.open_nursery() as nursery:
        site = await start(nursery, handler, network=network, heartbeat=None)
        silent = await site.peer()
        await silent.write(b"GET / HT")
        await site.opened("/flood")
        await site.opened()
        await flooding.wait()
        begun = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == begun
    # What is left are the peers' own ends.
    assert (site.streams, network.statistics().listeners) == (3, 0)


async def test_listener_that_fails_ends_the_server_with_its_error(nursery: trio.Nursery) -> None:
    """Invariant 7."""

    class Broken(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise Unlucky("no more")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with pytest.raises(Unlucky, match="no more"):
        await trioweb.serve_listeners(wait, [Broken()])


@pytest.mark.parametrize("opened_by", ["serve", "serve_listeners"])
async def test_error_of_a_listener_is_not_lost_when_the_server_is_cancelled(
    opened_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            scope.cancel()
            raise Unlucky("no more")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async def open_listeners(
        port: int, hosts: object, *, reuse_port: bool
    ) -> list[trio.abc.Listener[Any]]:
        return [Broken()]

    monkeypatch.setattr("trioweb._server._serve.open_listeners", open_listeners)
    with pytest.raises(Unlucky, match="no more"), trio.CancelScope() as scope:
        if opened_by == "serve":
            await trioweb.serve(wait, 0)
        else:
            await trioweb.serve_listeners(wait, [Broken()])


class Given(trio.abc.Listener[trio.abc.Stream]):
    """A listener that accepts the streams that it was given."""

    def __init__(self, *streams: trio.abc.Stream) -> None:
        self.streams = list(streams)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self.streams:
            await trio.sleep_forever()
        return self.streams.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_stream_that_raises_what_no_stream_should_ends_nobody_else(
    caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    """Invariant 2, for what is not even a handler's."""

    async def explode() -> None:
        raise Unlucky("odd")

    ours, _ = trio.testing.memory_stream_pair()
    ours.receive_stream.receive_some_hook = explode

    listen = partial(trioweb.serve_listeners, echo, [Given(ours)])
    server: trioweb.Server = await nursery.start(listen)
    await trio.testing.wait_all_tasks_blocked()
    assert server.statistics().opening == 0
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Unlucky)


@pytest.mark.parametrize("fault", ["address", "close"])
async def test_stream_that_fails_at_its_beginning_or_end_ends_nobody_else(
    fault: str, caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    close = ours.aclose

    async def explode() -> None:
        try:
            await close()
        finally:
            raise trio.BrokenResourceError("no way to close")

    other, friends = trio.testing.memory_stream_pair()
    if fault == "close":
        ours.aclose = explode  # type: ignore[method-assign]
    else:
        ours.socket = object()  # type: ignore[attr-defined]  # which has no name
    listen = partial(trioweb.serve_listeners, echo, [Given(ours, other)])
    server: trioweb.Server = await nursery.start(listen)
    peer, friend = Peer(theirs), Peer(friends)
    if fault == "close":
        await peer.open()
        await peer.send(close_frame(1000))
        assert await peer.read_close() == (1000, "")
    assert await peer.read_end() == b""
    await friend.open()
    await friend.send(Frame(TEXT, b"still there?"))
    assert await friend.frame() == Frame(TEXT, b"still there?")
    assert server.statistics().opening == 0
    # How a stream closes concerns nobody.
    told = [record.getMessage() for record in caplog.records]
    assert told == ([] if fault == "close" else ["unexpected error while serving (no address)"])


# Listeners of every kind.


async def exchange(url: str, **options: Any) -> tuple[object, object]:
    """Echo something; return the two addresses as the client sees them."""
    async with trioweb.open_connection(url, **options) as connection:
        for message in ("text", b"binary", "x" * 100_000):
            await connection.send(message)
            assert await connection.receive() == message
        return connection.remote, connection.local


@pytest.mark.network
async def test_serve_listens_on_tcp_and_tells_its_port(nursery: trio.Nursery) -> None:
    seen: list[tuple[object, object]] = []

    async def handler(connection: trioweb.Connection) -> None:
        seen.append((connection.local, connection.remote))
        await echo(connection)

    serve = partial(trioweb.serve, handler, 0, host="127.0.0.1")
    server: trioweb.Server = await nursery.start(serve)
    assert seen == []
    ends = await exchange(f"ws://127.0.0.1:{server.port}/")
    assert seen == [ends]
    assert ends[0] == ("127.0.0.1", server.port)


@pytest.mark.network
async def test_serve_listens_with_tls_beside_plain_http(nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", ssl_context=server_context)
    server: trioweb.Server = await nursery.start(serve)
    remote, _ = await exchange(f"wss://localhost:{server.port}/", ssl_context=client_context)
    assert remote == ("127.0.0.1", server.port)
    stream = await trio.open_ssl_over_tcp_stream(
        "localhost", server.port, ssl_context=client_context
    )
    answer = await Peer(stream).ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.status == 404
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.statistics().opening == 0


@pytest.mark.network
@pytest.mark.skipif(sys.platform == "win32", reason="Trio has no Unix sockets on Windows")
async def test_serve_listeners_takes_unix_sockets_and_several_listeners(
    nursery: trio.Nursery,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(path)
        socket.listen()
        listeners = [trio.SocketListener(socket), *await trio.open_tcp_listeners(0)]
        # One address may not have more than one connection; what has none is not counted.
        limits = trioweb.Limits(max_connections_per_host=1)
        server: trioweb.Server = await nursery.start(
            partial(trioweb.serve_listeners, echo, listeners, limits=limits)
        )
        assert server.port == listeners[1].socket.getsockname()[1]

        async def dial(host: str, port: int) -> trio.abc.Stream:
            return await trio.open_unix_socket(path)

        async with trioweb.open_connection("ws://localhost/", dial=dial) as first:
            remote, _ = await exchange("ws://localhost/", dial=dial)
            assert remote == path
            await first.send("both")
            assert await first.receive() == "both"
        await exchange(f"ws://127.0.0.1:{server.port}/")


async def test_port_is_that_of_any_listener_whose_socket_has_one(nursery: trio.Nursery) -> None:
    listener = Network().host("server").listen()
    server: trioweb.Server = await nursery.start(trioweb.serve_listeners, echo, [listener])
    assert server.port == listener.port


async def test_port_is_a_lookup_error_when_no_listener_has_one(nursery: trio.Nursery) -> None:
    class Silent(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    server: trioweb.Server = await nursery.start(trioweb.serve_listeners, echo, [Silent()])
    with pytest.raises(LookupError):
        _ = server.port


@pytest.mark.network
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_cancelled_serve_leaves_no_descriptor() -> None:
    """Invariant 10: no socket outlives its connection."""
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, wait, 0, host="127.0.0.1")
        server: trioweb.Server = await nursery.start(serve)
        peers = [Peer(await trio.open_tcp_stream("127.0.0.1", server.port)) for _ in range(6)]
        for peer in peers[:4]:
            await peer.open()
        nursery.cancel_scope.cancel()
    for peer in peers:
        await peer.stream.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.network
@pytest.mark.parametrize("is_full", [False, True])
async def test_cancelled_server_closes_connections_though_their_handlers_clean_up(
    is_full: bool,
) -> None:
    """Invariant 6: nobody reads for them any more, which a shielded receive must not wait for."""
    cleaned_up = 0

    async def handler(connection: trioweb.Connection) -> None:
        nonlocal cleaned_up
        try:
            while is_full and connection.link.inbox.pause is None:
                await trio.lowlevel.checkpoint()
            ready.set()
            await trio.sleep_forever()
        finally:
            with trio.fail_after(5, shield=True), pytest.raises(trioweb.ClosedLocally):
                while True:
                    await connection.receive()
            cleaned_up += 1

    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        limits = trioweb.Limits(inbox_messages=1)
        serve = partial(trioweb.serve, handler, 0, host="127.0.0.1", limits=limits)
        server: trioweb.Server = await nursery.start(serve)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", server.port))
        await peer.open()
        await peer.send(*[Frame(TEXT, b"x")] * 3)
        await ready.wait()
        nursery.cancel_scope.cancel()
    await peer.stream.aclose()
    assert cleaned_up == 1


# Arguments.


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"handler": None}, TypeError),
        ({"handler": lambda connection: None}, TypeError),
        ({"port": "8000"}, TypeError),
        ({"port": None}, TypeError),
        ({"port": True}, TypeError),
        ({"port": -1}, ValueError),
        ({"port": 65536}, ValueError),
        ({"host": ["127.0.0.1"]}, TypeError),
        ({"ssl_context": "cert.pem"}, TypeError),
        ({"ssl_context": True}, TypeError),
        ({"admit": lambda request: True}, TypeError),
        ({"admit": False}, TypeError),
        ({"admit": trioweb.Accept()}, TypeError),
        ({"http": lambda request: trioweb.Response()}, TypeError),
        ({"http": trioweb.Response()}, TypeError),
        ({"origins": None}, TypeError),
        ({"origins": "https://example.com"}, TypeError),
        ({"origins": [None]}, TypeError),
        ({"subprotocols": None}, TypeError),
        ({"subprotocols": "chat"}, TypeError),
        ({"subprotocols": [1]}, TypeError),
        ({"subprotocols": ["a b"]}, ValueError),
        ({"subprotocols": ["a", "a"]}, ValueError),
        ({"trusted_proxies": None}, TypeError),
        ({"heartbeat": 20}, TypeError),
        ({"app_heartbeats": ["ping"]}, TypeError),
        ({"app_heartbeats": {1: "pong"}}, TypeError),
        ({"app_heartbeats": {"ping": 1}}, TypeError),
        ({"limits": {"max_connections": 5}}, TypeError),
        ({"limits": None}, TypeError),
        ({"compression": True}, TypeError),
        ({"hub": trioweb.open_hub}, TypeError),
    ],
    ids=str,
)
async def test_serve_tells_a_wrong_argument_by_its_name_before_it_listens(
    options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioweb._server._serve.open_listeners", None)
    [name] = options
    with pytest.raises(error, match=rf"\b{name.removesuffix('s')}"):
        await trioweb.serve(**{"handler": wait, "port": 0, **options})


@pytest.mark.parametrize("listeners", [None, 8000, ["127.0.0.1"]], ids=str)
async def test_serve_listeners_tells_what_is_no_listener(listeners: Any) -> None:
    with pytest.raises(TypeError, match=r"serve_listeners: (each of )?listeners must be"):
        await trioweb.serve_listeners(wait, listeners)


async def test_serve_raises_os_error_when_the_port_is_taken() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await trioweb.serve(wait, port, host="127.0.0.1")


# Heartbeats, as far as they are the server's.


async def test_server_aborts_a_peer_that_is_silent(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6."""
    heartbeat = trioweb.Heartbeat(interval=5, timeout=3)
    site = await start(nursery, wait, heartbeat=heartbeat)
    peer = await site.opened()
    begun = trio.current_time()
    frame = await peer.frame()
    assert frame is not None and frame.opcode == PING
    assert trio.current_time() - begun == pytest.approx(5)
    assert await peer.read_end() == b""
    assert trio.current_time() - begun == pytest.approx(8)
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().closed == {1006: 1}


async def test_app_heartbeats_are_answered_and_reach_no_handler(nursery: trio.Nursery) -> None:
    site = await start(
        nursery, echo, app_heartbeats={"ping": "pong", '{"keepalive":"live"}': None, b"?": b"!"}
    )
    peer = await site.opened()
    for message in (b"ping", b'{"keepalive":"live"}', b"real"):
        await peer.send(Frame(TEXT, message))
    await peer.send(Frame(BINARY, b"?"))
    frames = {await peer.frame() for _ in range(3)}
    assert frames == {Frame(TEXT, b"pong"), Frame(TEXT, b"real"), Frame(BINARY, b"!")}
    await peer.send(close_frame(1000))
    assert await peer.frame() == close_frame(1000)


# Each side has a text and the same as bytes, or gets the one where it expects the other.
_ALIKE = """
from functools import partial, wraps

import trio

import trioweb
from trioweb.testing import Network

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    network = Network()
    listener = network.host("server").listen(80)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(
            trioweb.serve_listeners,
            echo,
            [listener],
            heartbeat=trioweb.Heartbeat(message="?", reply=b"ping"),
            app_heartbeats={"ping": "pong"},
        ))
        async with trioweb.open_connection(
            "ws://server/",
            heartbeat=trioweb.Heartbeat(message="?", reply="swallowed"),
            dial=network.host("client").dial,
        ) as connection:
            for message in b"ping", "ping", b"swallowed", "swallowed", b"pong":
                await connection.send(message)
            print([await connection.receive() for _ in range(3)])
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.network
async def test_text_and_bytes_that_are_alike_never_meet() -> None:
    """To compare them raises under `python -bb`, and a peer could make the server do it."""
    async with running(python("-bb", "-c", _ALIKE)) as program:
        assert await program.ended() == (0, "['pong', b'swallowed', b'pong']\n", "")


# What a server tells about itself.


async def test_statistics_tell_what_is_open_and_what_was(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with trioweb.open_hub() as hub:
        site = await start(nursery, wait, hub=hub)
        assert site.server.statistics() == trioweb.ServerStatistics(
            connections=0,
            opening=0,
            opened=0,
            refused={},
            answered={},
            closed={},
            handler_errors=0,
            hub=hub.statistics(),
        )
        silent = await site.peer()
        peer = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        statistics = site.server.statistics()
        assert (statistics.connections, statistics.opening, statistics.opened) == (1, 1, 1)
        [connection] = site.server.connections
        assert connection.request.path == "/"
        await silent.write(b"GET")
        await silent.stream.aclose()
        await peer.stream.aclose()
        assert (await site.ask(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")).status == 404
        assert (await site.ask(b"POST / HTTP/1.1\r\nHost: server\r\n\r\n")).status == 405
        await trio.testing.wait_all_tasks_blocked()
        statistics = site.server.statistics()
        assert (statistics.connections, statistics.opening) == (0, 0)
        assert (statistics.refused, statistics.answered) == ({0: 1, 405: 1}, {404: 1})
        assert statistics.closed == {1006: 1}


async def test_connections_are_told_without_a_look_at_each(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, wait)
    connections = site.server.connections
    assert len(connections) == 0 and list(connections) == []
    peers = [await site.opened() for _ in range(3)]
    await trio.sleep(1)
    found = list(connections)
    assert len(found) == len(connections) == 3
    assert all(connection in connections for connection in found)
    nothing: Any = "no connection"
    assert nothing not in connections
    # Who iterates may wait, and others come and go meanwhile.
    iterator = iter(connections)
    await peers[0].stream.aclose()
    await trio.sleep(1)
    assert list(iterator) == found
    assert len(connections) == 2 and found[0] not in connections

    class Unseen(dict[Any, Any]):
        def values(self) -> Any:
            raise AssertionError("a look at each")

        __iter__ = items = values

    view = Open(Unseen(site.server._places._connections))
    assert len(view) == 2 and found[1] in view and found[0] not in view
    assert repr(view) == "<2 open connections>"
    with pytest.raises(AssertionError, match="a look at each"):
        list(view)
