"""How a connection ends that still has something to write: every way, on every transport.

Invariant 1, seen from the peer: what it gets is a beginning of what was sent, and all of it, in
whole frames and with a Close behind them where one is due, unless this side had to give up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer
from tests.support import (
    BINARY,
    TRANSPORTS,
    Ends,
    Frame,
    close_frame,
    encode,
    open_streams,
    tls_contexts,
    transport_of,
)
from trioweb import Connection
from trioweb._reader import open_reader
from trioweb._tls import TlsStream
from trioweb.testing import Network

_TRANSPORTS = [name for name in TRANSPORTS if name != "trio-memory"]  # which takes everything
# A trio.SSLStream has no end by half.
_HALVES = [name for name in _TRANSPORTS if not name.startswith("tls-")]
_MESSAGE = bytes(range(256)) * 400
_FRAME = encode(Frame(BINARY, _MESSAGE), masked=False)

Way = Callable[[Ends, Connection], Awaitable[object]]


@pytest.fixture
async def ends(transport: str) -> AsyncGenerator[Ends]:
    async with open_streams(transport) as streams:
        with open_reader() as reader:
            async with trio.open_nursery() as nursery:
                gathers = "gathered" in transport
                own = await nursery.start(_hold_nursery)
                if reader is not None:
                    own.start_soon(reader.run)
                yield Ends(own, streams, is_client=False, reader=reader if gathers else None)
                nursery.cancel_scope.cancel()


async def _hold_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Hold a nursery that can be cancelled without whoever uses it."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def write_a_backlog(connection: Connection) -> bytes:
    """Send until the transport takes no more, and a few messages beyond that."""
    count = 0
    while connection.link.queue.writable:
        connection.link.queue.write(_FRAME)
        count += 1
        await trio.testing.wait_all_tasks_blocked(0.001)
    for _ in range(3):
        connection.link.queue.write(_FRAME)
    return _FRAME * (count + 3)


async def read_all(stream: trio.abc.Stream, data: bytes = b"", up_to: int | None = None) -> bytes:
    """What comes behind *data*, up to a size or the end of the transport."""
    read = bytearray(data)
    try:
        while (up_to is None or len(read) < up_to) and (piece := await stream.receive_some(65536)):
            read += piece
    except trio.BrokenResourceError:
        pass
    return bytes(read)


async def _close(ends: Ends, ours: Connection) -> None:
    ends.nursery.start_soon(ours.aclose)


async def _close_by_peer(ends: Ends, ours: Connection) -> None:
    await ends.raw().send(close_frame(1000))


async def _violate(ends: Ends, ours: Connection) -> None:
    await ends.raw().send(Frame(0x3))


async def _end_tls(ends: Ends, ours: Connection) -> None:
    """The peer's TLS says that nothing more comes; what we send it still reads."""
    if isinstance(ends.their_stream, TlsStream):
        ends.their_stream.tls.close()
        await ends.their_stream._flush()
    else:
        await _half_close(ends, ours)


async def _half_close(ends: Ends, ours: Connection) -> None:
    transport = transport_of(ends.their_stream)
    assert isinstance(transport, trio.abc.HalfCloseableStream)
    await transport.send_eof()


async def _break_tls(ends: Ends, ours: Connection) -> None:
    transport = getattr(ends.their_stream, "transport_stream", None)
    if transport is None:
        await _abort(ends, ours)
    else:
        await transport.send_all(b"\x17\x03\x03\x00\x30" + bytes(0x30))


async def _abort(ends: Ends, ours: Connection) -> None:
    ours.link.abort("enough")


async def _cancel(ends: Ends, ours: Connection) -> None:
    ends.nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("transport", "way", "last"),
    [
        pytest.param(transport, way, last, id=f"{transport}-{name}")
        for name, way, last, transports in (
            ("our close", _close, close_frame(1000), _TRANSPORTS),
            ("the peer's close", _close_by_peer, close_frame(1000), _TRANSPORTS),
            ("a protocol fault", _violate, close_frame(1002, "unknown opcode 3"), _TRANSPORTS),
            ("the peer's end of TLS", _end_tls, None, _HALVES),
            ("the peer's end of the transport", _half_close, None, _HALVES),
        )
        for transport in transports
    ],
)
async def test_what_is_queued_arrives_whole_before_the_end(
    way: Way, last: Frame | None, ends: Ends
) -> None:
    ours = ends.ours()
    expected = await write_a_backlog(ours)
    await way(ends, ours)
    await trio.testing.wait_all_tasks_blocked(0.01)
    expected += b"" if last is None else encode(last, masked=False)
    with trio.fail_after(8):
        # Who closes waits for the peer's own Close, which here never comes.
        data = await read_all(ends.their_stream, up_to=None if last is None else len(expected))
        await trio.aclose_forcefully(ends.their_stream)
        await ours.link.wait_closed()
    # Not as one: a difference of a megabyte takes long to show.
    assert len(data) == len(expected) and data == expected


@pytest.mark.parametrize("transport", _TRANSPORTS)
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(_abort, id="an abort"),
        pytest.param(_cancel, id="a cancellation"),
        pytest.param(_break_tls, id="a failure of TLS"),
    ],
)
async def test_nothing_follows_what_an_abrupt_end_has_cut(way: Way, ends: Ends) -> None:
    ours = ends.ours()
    expected = await write_a_backlog(ours)
    await way(ends, ours)
    with trio.fail_after(8):
        data = await read_all(ends.their_stream)
        await ours.link.wait_closed()
    assert len(data) < len(expected) and expected.startswith(data)


async def _return(server: trioweb.Server) -> None:
    pass


async def _drain(server: trioweb.Server) -> None:
    await server.drain(grace=5)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("where", [pytest.param("kernel", marks=pytest.mark.network), "memory"])
@pytest.mark.parametrize(("way", "code"), [(_return, 1000), (_drain, 1012)])
async def test_what_a_handler_sent_arrives_whole_before_the_end(
    way: Callable[[trioweb.Server], Awaitable[None]], code: int, where: str, secure: bool
) -> None:
    sent = b""
    ready = trio.Event()

    async def handler(connection: Connection) -> None:
        nonlocal sent
        sent = await write_a_backlog(connection)
        ready.set()
        if way is _drain:
            await connection.wait_closed()

    client_context, server_context = tls_contexts()
    options: dict[str, Any] = {"ssl_context": server_context} if secure else {}
    async with trio.open_nursery() as nursery:
        if where == "kernel":
            serve = partial(trioweb.serve, handler, 0, host="127.0.0.1", **options)
            server: trioweb.Server = await nursery.start(serve)
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        else:
            network = Network(max_bytes=16 * 2**10)
            listener = network.host("server").listen(80)
            serve = partial(trioweb.serve_listeners, handler, [listener], **options)
            server = await nursery.start(serve)
            stream = await network.host("client").dial("server", 80)
        if secure:
            stream = TlsStream(stream, client_context, server_hostname="localhost")
            await stream.do_handshake()
        peer = Peer(stream)
        await peer.open()
        await ready.wait()
        nursery.start_soon(way, server)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(8):
            sent += encode(close_frame(code), masked=False)
            data = await read_all(stream, peer.unparsed, len(sent))
        assert len(data) == len(sent) and data == sent
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()
