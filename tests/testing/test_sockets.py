"""Programs that know only Trio's sockets, on the network."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from trio_websocket import WebSocketRequest, open_websocket, serve_websocket

from trioweb.testing import Network


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def open_both(
    network: Network, nursery: trio.Nursery
) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Connect two hosts by Trio's own functions."""
    with network.host("server").installed():
        (listener,) = await trio.open_tcp_listeners(80)
    with network.host("laptop").installed():
        ours = await trio.open_tcp_stream("server", 80)
    theirs = await listener.accept()
    await listener.aclose()
    return ours, theirs


async def test_trios_tcp_runs_on_the_network_and_breaks_with_it(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.5)
    async with trio.open_nursery() as nursery:
        with network.host("server").installed():
            await nursery.start(trio.serve_tcp, echo, 80)
        with network.host("laptop").installed():
            stream = await trio.open_tcp_stream("server", 80)
        assert trio.current_time() == 1
        network.partition("laptop", duration=45)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert trio.current_time() == 1 + 45 + 1
        network.reset("laptop")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()


async def test_ends_addresses_and_closing_are_those_of_tcp(autojump_clock: MockClock) -> None:
    network = Network()
    async with trio.open_nursery() as nursery:
        ours, theirs = await open_both(network, nursery)
    server = network.host("server").address
    assert ours.socket.getpeername() == theirs.socket.getsockname() == (server, 80)
    assert theirs.socket.getpeername() == ours.socket.getsockname()
    assert ours.socket.fileno() < 0
    await ours.send_all(b"")
    with trio.move_on_after(1) as scope:
        await ours.send_all(bytes(10**6))
    assert scope.cancelled_caught
    received = b""
    while len(received) < 65536:
        received += await theirs.receive_some()
    await theirs.send_eof()
    assert await ours.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"x")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await theirs.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        await theirs.aclose()
    assert theirs.socket.fileno() == -1
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"")
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await ours.send_all(b"x")


async def test_failures_are_those_of_tcp() -> None:
    network = Network()
    network.host("server")
    with network.host("laptop").installed():
        with pytest.raises(OSError, match="all attempts to connect to server:80 failed") as caught:
            await trio.open_tcp_stream("server", 80)
        attempts = caught.value.__cause__
        assert isinstance(attempts, ExceptionGroup)
        assert isinstance(attempts.exceptions[0], ConnectionRefusedError)
        with pytest.raises(socket.gaierror):
            await trio.open_tcp_stream("elsewhere", 80)
        listeners = await trio.open_tcp_listeners(80)
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(80)
        for listener in listeners:
            await listener.aclose()
        with pytest.raises(OSError, match="not supported"):
            trio.socket.socket(type=socket.SOCK_DGRAM)
        unconnected = trio.socket.socket()
        for operation in (unconnected.recv(1), unconnected.send(b"x"), unconnected.accept()):
            with pytest.raises(OSError, match=r"not connected|Invalid"):
                await operation
        with unconnected:
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            await unconnected.recv(1)


async def test_sockets_offer_what_lower_level_programs_use() -> None:
    network = Network()
    async with trio.open_nursery() as nursery:
        ours, theirs = await open_both(network, nursery)
    await ours.socket.wait_writable()
    assert await ours.socket.send(b"abcdef") == 6
    buffer = bytearray(4)
    assert await theirs.socket.recv_into(buffer) == 4
    assert await theirs.socket.recv_into(buffer, 1) == 1
    assert bytes(buffer) == b"ebcd"
    assert await theirs.socket.recv(10) == b"f"
    ours.socket.shutdown(socket.SHUT_RD)
    shut = [ours.socket.did_shutdown_SHUT_WR]
    ours.socket.shutdown(socket.SHUT_WR)
    assert [*shut, ours.socket.did_shutdown_SHUT_WR] == [False, True]
    assert await theirs.socket.recv(10) == b""
    with pytest.raises(OSError, match="already connected"):
        await ours.socket.connect(("server", 80))


async def test_names_can_be_asked_both_ways() -> None:
    network = Network()
    server = network.host("server")
    with network.host("laptop").installed():
        (found,) = await trio.socket.getaddrinfo("server", 80)
        assert found[4] == (server.address, 80)
        assert await trio.socket.getnameinfo((server.address, 80), 0) == ("server", "80")


class Elsewhere(trio.abc.SocketFactory, trio.abc.HostnameResolver):
    """Somebody else's factory and resolver, which make nothing and know one name."""

    def socket(self, *arguments: object) -> trio.socket.SocketType:
        raise OSError("no sockets here")

    async def getaddrinfo(self, *arguments: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.9.9.9", 9))]

    async def getnameinfo(self, *arguments: object) -> tuple[str, str]:
        return "nine", "9"


async def test_factory_and_resolver_that_were_there_go_on_where_no_host_is_installed() -> None:
    network = Network()
    trio.socket.set_custom_socket_factory(Elsewhere())
    trio.socket.set_custom_hostname_resolver(Elsewhere())
    factories: list[trio.abc.SocketFactory | None] = []
    for host in ("laptop", "server"):
        with network.host(host).installed():
            trio.socket.socket().close()
            factories.append(trio.socket.set_custom_socket_factory(None))
            trio.socket.set_custom_socket_factory(factories[-1])
    assert factories[0] is factories[1]
    with pytest.raises(OSError, match="no sockets here"):
        trio.socket.socket()
    assert (await trio.socket.getaddrinfo("nine", 9))[0][4] == ("10.9.9.9", 9)
    assert await trio.socket.getnameinfo(("10.9.9.9", 9), 0) == ("nine", "9")


async def test_closing_a_socket_ends_its_connecting(autojump_clock: MockClock) -> None:
    network = Network(latency=1)
    listener = network.host("server").listen(80)
    with network.host("laptop").installed():
        connecting = trio.socket.socket()
    assert connecting.getsockname()[0] == network.host("laptop").address

    async def connect() -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await connecting.connect(("server", 80))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.sleep(1)
        connecting.close()
    accepted = await listener.accept()
    assert await accepted.receive_some() == b""
    await accepted.aclose()
    assert network.statistics().streams == 0


@pytest.mark.network
async def test_the_real_network_is_there_where_no_host_is_installed() -> None:
    with Network().host("laptop").installed():
        pass
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        stream = await trio.open_tcp_stream("localhost", listener.socket.getsockname()[1])
        assert stream.socket.fileno() >= 0
        assert await trio.socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        await (await listener.accept()).aclose()
        await stream.aclose()


async def test_trio_websocket_runs_on_the_network(autojump_clock: MockClock) -> None:
    network = Network(latency=0.1, segment=3)

    async def shout(request: WebSocketRequest) -> None:
        connection = await request.accept()
        await connection.send_message((await connection.get_message()).upper())

    async with trio.open_nursery() as nursery:
        with network.host("server").installed():
            await nursery.start(serve_websocket, shout, None, 80, None)
        with network.host("laptop").installed():
            async with open_websocket("server", 80, "/", use_ssl=False) as connection:
                await connection.send_message("hello")
                assert await connection.get_message() == "HELLO"
        nursery.cancel_scope.cancel()
