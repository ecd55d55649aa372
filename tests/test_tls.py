"""TLS: the filter, the stream over it, and what a link makes of both.

What a connection promises is in test_conformance, which runs over TLS, too.
"""

from __future__ import annotations

import errno
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trioweb
from tests.server.support import Peer, echo, upgrade_head
from tests.support import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Ends,
    Frame,
    close_frame,
    encode,
    filtered,
    open_streams,
    tls_contexts,
)
from trioweb._handshake import encode_switch
from trioweb._link._incoming import Incoming
from trioweb._reader import open_reader
from trioweb._tls import RECORD_BYTES, Tls, TlsStream, network_reason
from trioweb.testing import stream_pair

FILTERED = pytest.mark.parametrize("transport", ["filtered", "filtered-gathered"])
OVER_TLS = pytest.mark.parametrize("transport", ["filtered", "filtered-memory", "tls-memory"])


@pytest.fixture
async def ends(transport: str, nursery: trio.Nursery) -> AsyncGenerator[Ends]:
    async with open_streams(transport) as streams:
        with open_reader() as reader:
            async with trio.open_nursery() as own:
                is_gathered = reader is not None and "gathered" in transport
                if reader is not None:
                    own.start_soon(reader.run)
                yield Ends(
                    nursery, streams, is_client=False, reader=reader if is_gathered else None
                )
                own.cancel_scope.cancel()


def tls_of(stream: trio.abc.Stream) -> TlsStream:
    assert isinstance(stream, TlsStream)
    return stream


async def write_wire(stream: trio.abc.Stream, *plain: bytes) -> None:
    """Write each piece as a record of its own, all in one go."""
    secure = tls_of(stream)
    await secure.transport_stream.send_all(b"".join(map(secure.tls.seal, plain)))


# The link.


@FILTERED
async def test_what_stands_before_the_end_of_tls_is_received(ends: Ends) -> None:
    """Invariant 11: the end is in the same chunk, and nobody has received anything yet."""
    ours = ends.ours(trioweb.Limits(inbox_messages=10_000))
    tls = tls_of(ends.their_stream).tls
    frames = encode(Frame(TEXT, b"x"), masked=True) * 3000
    records = tls.seal(frames[:15_000]) + tls.seal(frames[15_000:])
    tls.close()
    await tls_of(ends.their_stream).transport_stream.send_all(records + tls.seal(b""))
    received = []
    with pytest.raises(trioweb.ConnectionLost, match="the peer ended TLS"):
        while True:
            received.append(await ours.receive())
    assert received == ["x"] * 3000


@FILTERED
async def test_a_link_opens_few_records_before_others_run(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariants 12 and 13: a byte in a record of its own costs as much as 500 together."""
    opened: list[int] = []  # the records of each turn
    feed, receive, read = Incoming.feed, Incoming.receive, Tls.read

    def counted_receive(incoming: Incoming, wire: bytes, now: float) -> None:
        opened.append(0)
        receive(incoming, wire, now)
        opened.append(0)

    def counted_feed(incoming: Incoming, data: bytes) -> None:
        feed(incoming, data)
        opened.append(0)

    def counted_read(tls: Tls, max_bytes: int) -> bytes:
        data = read(tls, max_bytes)
        if opened:
            opened[-1] += bool(data)
        return data

    ours = ends.ours(trioweb.Limits(inbox_messages=10_000))
    monkeypatch.setattr(Incoming, "receive", counted_receive)
    monkeypatch.setattr(Incoming, "feed", counted_feed)
    monkeypatch.setattr(Tls, "read", counted_read)
    frames = encode(Frame(TEXT, b"x"), masked=True) * 500 + encode(close_frame(1000), masked=True)
    await write_wire(ends.their_stream, *(frames[i : i + 1] for i in range(len(frames))))
    assert [await ours.receive() for _ in range(500)] == ["x"] * 500
    with pytest.raises(trioweb.ClosedByPeer):
        await ours.receive()
    assert sum(opened) == len(frames)
    assert max(opened) <= 128


@FILTERED
async def test_the_end_of_tls_is_noticed_that_came_with_the_upgrade(ends: Ends) -> None:
    theirs, ours = tls_of(ends.their_stream), tls_of(ends.our_stream)
    theirs.tls.close()
    await theirs.transport_stream.send_all(theirs.tls.seal(b""))
    ours.tls.take(bytes(await ours.transport_stream.receive_some(RECORD_BYTES)))
    connection = ends.ours()
    with trio.fail_after(5), pytest.raises(trioweb.ConnectionLost, match="the peer ended TLS"):
        await connection.receive()


@OVER_TLS
async def test_a_record_that_is_none_ends_the_connection_after_what_came_before(
    ends: Ends,
) -> None:
    ours, peer = ends.ours(), ends.raw()
    await peer.send(Frame(TEXT, b"before"))
    transport = getattr(ends.their_stream, "transport_stream", None)
    assert isinstance(transport, trio.abc.Stream)
    await transport.send_all(b"\x17\x03\x03\x00\x30" + bytes(0x30))
    assert await ours.receive() == "before"
    with pytest.raises(trioweb.ConnectionLost, match=r"(?i)bad.record.mac"):
        await ours.receive()


@FILTERED
async def test_a_part_of_a_record_is_a_sign_of_life(
    ends: Ends, mock_clock: trio.testing.MockClock
) -> None:
    """Liveness is bytes: a large record may take its time on a slow line."""
    ours = ends.ours()
    secure = tls_of(ends.their_stream)
    wire = secure.tls.seal(encode(Frame(TEXT, b"slow"), masked=True))
    for part, at in ((wire[:10], 100.0), (wire[10:-1], 200.0)):
        mock_clock.jump(100)
        await secure.transport_stream.send_all(part)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ours.link.pulse.heard_at == at
    await secure.transport_stream.send_all(wire[-1:])
    assert await ours.receive() == "slow"


@FILTERED
async def test_of_an_offer_to_a_full_kernel_one_record_is_queued(ends: Ends) -> None:
    """Invariants 1 and 8: what was sealed cannot be taken back, the rest stays with the topic."""
    link, peer = ends.ours().link, ends.raw()
    frame = Frame(BINARY, bytes(999))
    size = len(encode(frame, masked=False))
    chunk = encode(frame, masked=False) * 1000
    taken = link.queue.offer(chunk)
    assert 0 < taken < len(chunk) and taken % RECORD_BYTES == 0
    assert not link.queue.writable
    assert 0 < link.queue.buffered_amount < RECORD_BYTES + 100
    if rest := -taken % size:
        link.queue.finish(chunk[:size][-rest:])
    link.queue.write(encode(Frame(TEXT, b"next"), masked=False))
    for _ in range(-(-taken // size)):
        assert await peer.frame() == frame
    assert await peer.frame() == Frame(TEXT, b"next")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (link.queue.writable, link.queue.buffered_amount) == (True, 0)


@FILTERED
async def test_a_peer_whose_tls_asks_without_reading_is_given_up(ends: Ends) -> None:
    """CVE-2011-1473 and invariant 8: what TLS answers by itself passes no other limit."""
    ours = ends.ours()
    assert ours.link.incoming.tls is not None
    ours.link.incoming.tls._outgoing.write(bytes(RECORD_BYTES + 1))
    await write_wire(ends.their_stream, encode(Frame(TEXT, b"?"), masked=True))
    with pytest.raises(trioweb.ConnectionLost, match="does not read"):
        while True:
            await ours.receive()


@FILTERED
async def test_what_tls_has_to_say_waits_behind_a_backlog_as_one(ends: Ends) -> None:
    """Invariant 8: the queue is bounded in bytes, so nothing stands in it that has none."""
    link = ends.ours().link
    count = 0
    frame = Frame(BINARY, bytes(60_000))
    while link.queue.writable:
        link.queue.write(encode(frame, masked=False))
        count += 1
        await trio.testing.wait_all_tasks_blocked(0.001)
    link.queue.write(encode(frame, masked=False))
    backlog = link.queue._backlog
    assert link.incoming.tls is not None and backlog is not None
    # As if it had to refuse another handshake.
    alert = b"\x15\x03\x03\x00\x02\x01\x64"
    link.incoming.tls._outgoing.write(alert)
    entries = len(backlog.frames)
    for number in range(200):
        await write_wire(ends.their_stream, encode(Frame(PONG, b"%d" % number), masked=True))
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(backlog.frames) == entries
    transport, wire = tls_of(ends.their_stream).transport_stream, bytearray()
    while backlog.frames:
        wire += await transport.receive_some(65536)
    # What comes up during the last write is not forgotten, either.
    link.incoming.tls._outgoing.write(alert)
    with trio.move_on_after(0.1):
        while True:
            wire += await transport.receive_some(65536)
    assert wire.count(alert) == 2


@pytest.mark.network
async def test_records_that_came_along_with_the_upgrade_are_received(
    nursery: trio.Nursery,
) -> None:
    """They may be decrypted before there is a connection, in whole or in part."""
    client_context, server_context = tls_contexts()
    serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", ssl_context=server_context)
    server: trioweb.Server = await nursery.start(serve)
    transport = await trio.open_tcp_stream("127.0.0.1", server.port)
    secure = TlsStream(transport, client_context, server_hostname="localhost")
    await secure.do_handshake()
    frames = [Frame(TEXT, b"%d" % number) for number in range(3)]
    pieces = [upgrade_head(), *(encode(frame, masked=True) for frame in frames)]
    wire = b"".join(map(secure.tls.seal, pieces))
    await transport.send_all(wire[:-5])
    peer = Peer(secure)
    assert (await peer.read_head())[0] == 101
    assert [await peer.frame(), await peer.frame()] == frames[:2]
    await transport.send_all(wire[-5:])
    assert await peer.frame() == frames[2]
    await secure.aclose()


class OpenSsl:
    """OpenSSL's own client, with a WebSocket open to an echo server.

    What is sent to it goes to the server, but for a letter on a line of its own: K changes its
    keys and asks for ours (RFC 8446 section 4.6.3), R asks for another handshake (TLS 1.2).
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._output = b""

    @classmethod
    async def open(cls, nursery: trio.Nursery, version: str) -> OpenSsl:
        _, server_context = tls_contexts()
        serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", ssl_context=server_context)
        server: trioweb.Server = await nursery.start(serve)
        command = ["openssl", "s_client", version, "-connect", f"127.0.0.1:{server.port}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        run = partial(trio.run_process, command, check=False, **pipes)
        client = cls(await nursery.start(run))
        await client.read_until(b"Verify return code")
        await client.read_until(b"---\n")
        await client.send(upgrade_head())
        await client.read_until(b"\r\n\r\n")
        return client

    async def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(data)

    async def read_until(self, end: bytes) -> None:
        assert self._process.stdout is not None
        while end not in self._output:
            data = await self._process.stdout.receive_some()
            assert data, self._output
            self._output += data
        self._output = self._output.partition(end)[2]


OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs OpenSSL's program")


@OPENSSL
@pytest.mark.network
async def test_a_peer_may_change_its_keys_and_ask_for_ours(nursery: trio.Nursery) -> None:
    with trio.fail_after(10):
        client = await OpenSsl.open(nursery, "-tls1_3")
        for number in range(3):
            await client.send(encode(Frame(PING, b"%d" % number), masked=True))
            await client.read_until(b"\x8a\x01%d" % number)
            await client.send(b"K\n")
            await client.read_until(b"KEYUPDATE\n")
    nursery.cancel_scope.cancel()


@OPENSSL
@pytest.mark.network
async def test_a_peer_that_wants_another_handshake_is_told_that_there_is_none(
    nursery: trio.Nursery,
) -> None:
    """CVE-2011-1473.  What TLS says by itself does not wait for a message to go with."""
    with trio.fail_after(10):
        client = await OpenSsl.open(nursery, "-tls1_2")
        await client.send(b"R\n")
        await client.read_until(b"no renegotiation")
    nursery.cancel_scope.cancel()


class Server:
    """`openssl s_server`, which speaks TLS 1.2 and leaves HTTP and WebSocket to the test, and a
    relay before it that can hold back what it says.  A line of `r` asks for another handshake.

    Attributes:
        asked: something has come through since `hold` was called.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._output = b""
        self._goes_on = trio.Event()
        self._goes_on.set()
        self.asked = trio.Event()
        self.asked.set()

    @classmethod
    async def open(cls, nursery: trio.Nursery, pem: Path) -> Server:
        where = ["-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = ["openssl", "s_server", "-tls1_2", *where]
        run = partial(trio.run_process, command, check=False, **pipes)
        return cls(await nursery.start(run))

    async def say(self, data: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(data)

    async def hear(self, pattern: bytes) -> bytes:
        assert self._process.stdout is not None
        while (match := re.search(pattern, self._output, re.DOTALL)) is None:
            data = await self._process.stdout.receive_some()
            assert data, self._output
            self._output += data
        self._output = self._output[match.end() :]
        return match[1]

    async def answer(self) -> None:
        key = await self.hear(rb"Sec-WebSocket-Key: (\S+)")
        await self.say(encode_switch(key, subprotocol=None))

    def hold(self) -> None:
        """Let one more chunk through, and then none until `go_on`."""
        self.asked, self._goes_on = trio.Event(), trio.Event()

    def go_on(self) -> None:
        self._goes_on.set()

    async def relay(self, port: int, ours: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as theirs:

            async def forth() -> None:
                async for data in ours:
                    await theirs.send_all(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(forth)
                async for data in theirs:
                    if self.asked.is_set():
                        await self._goes_on.wait()
                    self.asked.set()
                    await ours.send_all(data)


@OPENSSL
@pytest.mark.network
@pytest.mark.parametrize("transport", ["kernel", "stream"])
async def test_a_server_may_want_another_handshake_while_we_send(
    nursery: trio.Nursery, tmp_path: Path, transport: str
) -> None:
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with trio.fail_after(20):
        server = await Server.open(nursery, pem)
        port = int(await server.hear(rb"ACCEPT 127.0.0.1:(\d+)"))
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        [listener] = await nursery.start(serve, partial(server.relay, port), 0)
        relay = listener.socket.getsockname()[1]

        async def dial(host: str, port: int) -> trio.abc.Stream:
            stream = await trio.open_tcp_stream("127.0.0.1", relay)
            return stream if transport == "kernel" else trio.StapledStream(stream, stream)

        nursery.start_soon(server.answer)
        async with trioweb.open_connection(
            f"wss://localhost:{port}/",
            ssl_context=context,
            dial=dial,
            limits=trioweb.Limits(close_timeout=0.1),
        ) as connection:
            for number in range(2):
                server.hold()
                await server.say(b"r\n")
                await server.asked.wait()
                # The peer's answer to our hello is held, and until then nothing can be sealed.
                sent = [bytes([65 + number]) * 5000 for _ in range(8)]
                for message in sent:
                    await connection.send(message)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                assert connection.link.is_whole
                server.go_on()
                await server.say(b"\x81\x05after")
                assert await connection.receive() == "after"
                # Masked, so the lengths have to do: all that was sent has come.
                for _ in sent:
                    await server.hear(rb"(\x82\xfe\x13\x88)")
        nursery.cancel_scope.cancel()


async def test_what_is_held_for_a_handshake_that_never_ends_has_a_bound() -> None:
    _, context = tls_contexts()
    tls = Tls(context, server_side=True, server_hostname=None)
    sealed = 0
    with pytest.raises(ssl.SSLError, match="another handshake"):
        while sealed < 2**22:
            assert tls.seal(bytes(RECORD_BYTES)) == b""
            sealed += RECORD_BYTES
    assert sealed == 2**20
    assert not tls.is_due()


# The stream.


async def test_each_side_of_a_tls_stream_ends_by_itself() -> None:
    client, server = filtered(stream_pair(100))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(50_000))
        received = 0
        while received < 50_000:
            received += len(await server.receive_some(1000))
    await client.send_eof()
    assert await server.receive_some() == await server.receive_some() == b""
    await server.send_all(b"still here")
    assert await client.receive_some() == b"still here"
    await server.aclose()
    assert await client.receive_some() == b""
    await client.aclose()


async def test_a_tls_stream_lets_others_run_between_records() -> None:
    """Invariant 12: all of them have come at once."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with open_streams("filtered-memory") as (theirs, ours), trio.open_nursery() as nursery:
        await write_wire(theirs, *[b"x"] * 100)
        nursery.start_soon(take_turns)
        for _ in range(100):
            assert await ours.receive_some() == b"x"
        nursery.cancel_scope.cancel()
    # Two tasks run in any order, so that one may have been ahead.
    assert turns >= 98


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


_REFUSED = OSError(errno.ECONNREFUSED, "Error connecting to ('192.0.2.1', 80)")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_because(OSError("all attempts failed"), ExceptionGroup("", [_REFUSED])), "refused"),
        (_because(trio.BrokenResourceError(), OSError(errno.ECONNRESET, "")), "reset by peer"),
        (ExceptionGroup("", [socket.gaierror(-2, "unknown")]), "unknown"),
        (trio.BrokenResourceError(), "^BrokenResourceError$"),
    ],
    ids=["refused", "reset", "name", "nothing"],
)
def test_network_reason_finds_who_knows_it(error: Exception, told: str) -> None:
    assert re.search(told, network_reason(error))
