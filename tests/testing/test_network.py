"""The network when nothing is wrong with it: connections, time, bounds and endings."""

from __future__ import annotations

import itertools
import socket

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trioweb.testing import Network, NetworkStream

# Conditions that make a connection take its time, and lines that differ in each of them.
LINES = [
    {},
    {"latency": 0.05},
    {"latency": 0.05, "jitter": 0.5},
    {"bandwidth": 50_000},
    {"latency": 0.01, "jitter": 0.02, "bandwidth": 200_000, "segment": 700},
]


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        chunk = await stream.receive_some(count - len(received))
        assert chunk, f"the end after {len(received)} of {count} bytes"
        received += chunk
    return received


@pytest.mark.parametrize("conditions", LINES, ids=str)
async def test_streams_pass_trios_checks(
    conditions: dict[str, float], autojump_clock: MockClock
) -> None:
    async def make() -> tuple[NetworkStream, NetworkStream]:
        network = Network(**conditions)  # type: ignore[arg-type]
        return await network.connect("laptop", "server")

    async def make_clogged() -> tuple[NetworkStream, NetworkStream]:
        a, b = await make()
        await a.send_all(bytes(65536))
        await b.send_all(bytes(65536))
        return a, b

    await trio.testing.check_half_closeable_stream(make, make_clogged)


@pytest.mark.parametrize("segment", [1, 3])
async def test_segments_cut_what_the_receiver_sees(segment: int, autojump_clock: MockClock) -> None:
    network = Network(segment=segment)
    a, b = await network.connect("laptop", "server")
    message = bytes(range(200))
    await a.send_all(message)
    chunks: list[bytes] = []
    while len(b"".join(chunks)) < len(message):
        chunks.append(await b.receive_some())
    assert b"".join(chunks) == message
    assert {len(chunk) for chunk in chunks} == set(range(1, segment + 1))


async def test_latency_delays_what_is_sent_and_the_news_of_its_end(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.25)
    begun = trio.current_time()
    a, b = await network.connect("laptop", "server")
    assert trio.current_time() - begun == pytest.approx(0.5)  # there and back
    begun = trio.current_time()
    await a.send_all(b"x")
    await a.aclose()
    assert trio.current_time() == begun
    assert await b.receive_some() == b"x"
    assert trio.current_time() - begun == pytest.approx(0.25)
    assert await b.receive_some() == b""
    assert trio.current_time() - begun == pytest.approx(0.25)


async def test_jitter_varies_the_delay_and_keeps_the_order(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1, jitter=1)
    a, b = await network.connect("laptop", "server")
    delays: list[float] = []
    for i in range(20):
        begun = trio.current_time()
        await a.send_all(bytes([i]))
        assert await b.receive_some() == bytes([i])
        delays.append(trio.current_time() - begun)
    assert 1 <= min(delays) < 1.3 < 1.7 < max(delays) <= 2
    for i in range(20):
        await a.send_all(bytes([i]))
        await trio.sleep(0.01)
    assert await receive_exactly(b, 20) == bytes(range(20))


@pytest.mark.parametrize("size", [100, 100_000])
async def test_bandwidth_spreads_bytes_over_time(size: int, autojump_clock: MockClock) -> None:
    network = Network(bandwidth=1000)
    a, b = await network.connect("laptop", "server")
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.send_all, bytes(size))
        arrivals = []
        for _ in range(size // 100):
            await receive_exactly(b, 100)
            arrivals.append(trio.current_time() - begun)
    assert arrivals == pytest.approx([0.1 * (i + 1) for i in range(size // 100)], abs=0.05)


async def test_latency_bounds_the_throughput_by_the_window(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.5, max_bytes=1000)
    a, b = await network.connect("laptop", "server")
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.send_all, bytes(5000))
        await receive_exactly(b, 5000)
    assert trio.current_time() - begun == pytest.approx(4.5)


async def test_dial_is_refused_where_nobody_listens(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1)
    listener = network.host("server").listen(80)
    with pytest.raises(ConnectionRefusedError, match="server:81"):
        await network.host("laptop").dial("server", 81)
    await listener.aclose()
    with pytest.raises(ConnectionRefusedError, match="server:80"):
        await network.host("laptop").dial("server", 80)
    assert trio.current_time() == pytest.approx(4)


async def test_dial_takes_names_addresses_and_localhost() -> None:
    network = Network()
    server = network.host("server")
    async with server.listen(80) as listener:
        for name in ("server", server.address):
            ours = await network.host("laptop").dial(name, 80)
            theirs = await listener.accept()
            ends = ours.socket, theirs.socket
            assert ends[0].getpeername() == ends[1].getsockname() == (server.address, 80)
            assert ends[1].getpeername() == ends[0].getsockname() != (server.address, 80)
        for name in ("localhost", "127.0.0.1", "server"):
            await server.dial(name, 80)
            assert (await listener.accept()).socket.getpeername()[0] == server.address
        with pytest.raises(ConnectionRefusedError):
            await network.host("laptop").dial("localhost", 80)
        with pytest.raises(OSError, match="not connected"):
            listener.socket.getpeername()
        with pytest.raises(socket.gaierror, match="elsewhere"):
            await server.dial("elsewhere", 80)


async def test_cancelled_dial_leaves_nothing(autojump_clock: MockClock) -> None:
    network = Network(latency=1)
    listener = network.host("server").listen(80)
    for deadline in (0, 0.5, 1.5):
        with trio.move_on_after(deadline) as scope:
            await network.host("laptop").dial("server", 80)
        assert scope.cancelled_caught
    assert network.statistics().streams == 0
    with trio.move_on_after(10) as scope:
        await listener.accept()
    assert scope.cancelled_caught


async def test_dial_waits_while_the_listeners_backlog_is_full() -> None:
    network = Network()
    listener = network.host("server").listen(80, backlog=3)
    laptop = network.host("laptop")
    for _ in range(3):
        await laptop.dial("server", 80)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(laptop.dial, "server", 80)
        await trio.testing.wait_all_tasks_blocked()
        assert network.statistics().streams == 2 * 3
        await listener.accept()
    assert network.statistics().streams == 2 * 4


async def test_closed_listener_resets_who_was_not_accepted_and_wakes_who_accepts() -> None:
    network = Network()
    laptop, server = network.host("laptop"), network.host("server")
    listener = server.listen(80)
    waiting = await laptop.dial("server", 80)
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await waiting.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()

    listener = server.listen(80)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()


async def test_listener_serves_with_trios_own_loop() -> None:
    network = Network()

    async def echo(stream: NetworkStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    listener = network.host("server").listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, echo, [listener])
        stream = await network.host("laptop").dial("server", listener.port)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        nursery.cancel_scope.cancel()
    assert network.statistics().listeners == 0


async def test_listen_finds_a_free_port_and_refuses_one_in_use() -> None:
    host = Network().host("server")
    ports = {host.listen().port for _ in range(10)}
    assert len(ports) == 10
    with pytest.raises(OSError, match="in use"):
        host.listen(max(ports))
    host.listen(max(ports) + 1)
    assert host.listen().port == max(ports) + 2
    for port in (-1, 65536, "80"):
        with pytest.raises(ValueError, match="port"):
            host.listen(port)  # type: ignore[arg-type]


async def test_close_with_bytes_unread_resets_the_peer_as_tcp_does(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.1)
    a, b = await network.connect("laptop", "server")
    await a.send_all(b"never read")
    await b.send_all(b"read")
    await trio.sleep(1)
    await b.aclose()
    assert await a.receive_some() == b"read"
    with pytest.raises(trio.BrokenResourceError):
        await a.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await a.send_all(b"x")


async def test_send_to_a_closed_peer_breaks_a_round_trip_later(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.1)
    a, b = await network.connect("laptop", "server")
    await b.aclose()
    await trio.sleep(1)
    await a.send_all(b"the kernel takes it")
    await trio.sleep(0.15)
    await a.send_all(b"and still does")
    await trio.sleep(0.1)
    with pytest.raises(trio.BrokenResourceError):
        await a.send_all(b"now it knows")
    assert await a.receive_some() == b""  # FIN came first


async def test_dial_is_refused_when_the_listener_closes_before_it_is_done(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1)
    listener = network.host("server").listen(80)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def dial() -> None:
            with pytest.raises(ConnectionRefusedError):
                await network.host("laptop").dial("server", 80)

        await trio.sleep(1.5)
        await listener.aclose()
    assert network.statistics().streams == 0


async def test_writer_learns_of_a_close_that_nothing_else_announces(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1, max_bytes=10)
    a, b = await network.connect("laptop", "server")
    await b.send_eof()
    await trio.sleep(5)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await a.send_all(bytes(100))

        await trio.testing.wait_all_tasks_blocked()
        await b.aclose()
    assert trio.current_time() - begun == pytest.approx(2)


async def test_writer_that_is_blocked_learns_of_the_reset_when_it_arrives(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=0.1, max_bytes=10)
    a, b = await network.connect("laptop", "server")
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await a.send_all(bytes(100))
            assert trio.current_time() - begun == pytest.approx(0.2)

        await b.aclose()


async def test_statistics_count_what_is_open_and_forget_what_is_not() -> None:
    network = Network()
    pairs = [await network.connect("laptop", "server") for _ in range(3)]
    assert (network.statistics().streams, network.statistics().listeners) == (6, 0)
    network.host("server").listen()
    assert network.statistics().listeners == 1
    for stream in itertools.chain(*pairs):
        await stream.aclose()
    assert network.statistics().streams == 0
    assert not network._streams


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "7"}, "seed"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"latency": -1}, "latency"),
        ({"jitter": float("nan")}, "jitter"),
        ({"bandwidth": 0}, "bandwidth"),
        ({"segment": 0}, "segment"),
        ({"segment": 1.5}, "segment"),
    ],
    ids=str,
)
def test_network_refuses_what_makes_no_sense(arguments: dict[str, float], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Network(**arguments)  # type: ignore[arg-type]


def test_host_is_the_same_each_time_and_says_who_it_is() -> None:
    network = Network()
    assert network.host("server") is network.host("server") is not network.host("laptop")
    assert repr(network.host("laptop")) == "<host laptop 10.0.0.2>"


def test_host_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        Network().host("")
