"""The peer of raw frames, against the library on the other side and against itself."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trioweb import Connection, ConnectionClosed, open_connection, serve_listeners
from trioweb.testing import Network, RawFrame, RawPeer, stream_pair

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("masked", [False, True])
async def test_frames_arrive_as_they_were_sent(size: int, masked: bool) -> None:
    a, b = stream_pair(100_000)
    here, there = RawPeer(a, masked=masked), RawPeer(b, masked=not masked)
    payload = bytes(i & 255 for i in range(size))
    await here.send_frame(11, payload, fin=False, rsv=5)
    assert await there.receive_frame() == RawFrame(11, payload, fin=False, rsv=5, masked=masked)
    await a.send_eof()
    await there.receive_eof()
    with pytest.raises(EOFError):
        await there.receive_frame()


async def test_receive_eof_fails_on_anything_else() -> None:
    a, b = stream_pair()
    await a.send_all(b"more")
    with pytest.raises(AssertionError, match="more"):
        await RawPeer(b, masked=False).receive_eof()


async def test_peer_is_a_client_of_our_server_and_may_break_the_rules(
    autojump_clock: MockClock,
) -> None:
    network = Network()

    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    listener = network.host("server").listen(80)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_listeners, echo, [listener])
        stream = await network.host("laptop").dial("server", 80)
        peer = await RawPeer.connect(stream, "/path")
        assert peer.head.startswith(b"HTTP/1.1 101 ")
        await peer.send_frame(TEXT, b"hello")
        assert await peer.receive_frame() == RawFrame(TEXT, b"hello")
        await peer.send_frame(TEXT, b"reserved", rsv=4)
        close = await peer.receive_frame()
        assert (close.opcode, close.payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))
        nursery.cancel_scope.cancel()


async def test_peer_is_a_server_for_our_client() -> None:
    network = Network()

    async def serve(listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        peer = await RawPeer.accept(await listener.accept())
        assert peer.head.startswith(b"GET /path?x=1 HTTP/1.1\r\n")
        frame = await peer.receive_frame()
        assert frame == RawFrame(TEXT, b"hello", masked=True)
        await peer.send_frame(BINARY, b"bye")
        await peer.send_frame(CLOSE, (4321).to_bytes(2, "big") + b"why not")
        assert (await peer.receive_frame()).opcode == CLOSE
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, network.host("server").listen(80))
        dial = network.host("laptop").dial
        async with open_connection("ws://server/path?x=1", dial=dial) as connection:
            await connection.send("hello")
            assert await connection.receive() == b"bye"
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
        assert caught.value.code == 4321
