"""What several test modules need: transports, connections over them, and a peer made of bytes.

The wire format is written down here a second time, so that a fault in `_frames` cannot hide
behind itself.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import pytest
import trio
import trio.testing
import trustme

from trioweb import Connection, Limits, Request
from trioweb._link import Link
from trioweb._protocol._replies import reply_key
from trioweb._reader import Reader
from trioweb._tls import TlsStream
from trioweb.testing import stream_pair

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
# With an opcode: the first frame of a compressed message.
RSV1: Final = 0x40

HOST: Final = "trioweb.test"

Streams = tuple[trio.abc.Stream, trio.abc.Stream]

# Given explicitly, kernel buffers do not grow, and a test fills them with a few hundred KiB.
_KERNEL_BYTES: Final = 64 * 2**10
_MEMORY_BYTES: Final = 16 * 2**10


@lru_cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context; the client trusts the server, which is HOST."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST, "localhost", "127.0.0.1").configure_cert(server)
    return client, server


def small_buffers(sock: trio.socket.SocketType) -> None:
    """Have the kernel keep little, so that a few messages fill it."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BYTES)


async def _tcp() -> Streams:
    with trio.socket.socket() as listening:
        small_buffers(listening)
        await listening.bind(("127.0.0.1", 0))
        listening.listen()
        client = trio.socket.socket()
        small_buffers(client)
        await client.connect(listening.getsockname())
        server, _ = await listening.accept()
    return trio.SocketStream(client), trio.SocketStream(server)


async def _unix() -> Streams:
    client, server = trio.socket.socketpair()
    small_buffers(client)
    small_buffers(server)
    return trio.SocketStream(client), trio.SocketStream(server)


async def _memory() -> Streams:
    return stream_pair(_MEMORY_BYTES)


async def _trio_memory() -> Streams:
    return trio.testing.memory_stream_pair()


async def over_tls(streams: Streams) -> tuple[trio.SSLStream[Any], trio.SSLStream[Any]]:
    """Put TLS, with its handshake done, on top of a client's and a server's stream."""
    client_context, server_context = tls_contexts()
    client = trio.SSLStream(streams[0], client_context, server_hostname=HOST)
    server = trio.SSLStream(streams[1], server_context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    return client, server


def filtered(streams: Streams) -> tuple[TlsStream, TlsStream]:
    """The same with our own TLS, which on top of a kernel socket is a filter in the link."""
    client_context, server_context = tls_contexts()
    client = TlsStream(streams[0], client_context, server_hostname=HOST)
    server = TlsStream(streams[1], server_context, server_side=True)
    done = False
    while not done:
        done = all([client.tls.shake(), server.tls.shake()])
        client.tls.take(server.tls.seal(b""))
        server.tls.take(client.tls.seal(b""))
    return client, server


async def _filtered_tcp() -> Streams:
    return filtered(await _tcp())


async def _filtered_memory() -> Streams:
    return filtered(await _memory())


async def _tls_tcp() -> Streams:
    return await over_tls(await _tcp())


async def _tls_memory() -> Streams:
    return await over_tls(await _memory())


TRANSPORTS: Final[Mapping[str, Callable[[], Awaitable[Streams]]]] = {
    "tcp": _tcp,
    "gathered": _tcp,  # read by a server's reader, where `Ends` has one
    "unix": _unix,
    "filtered": _filtered_tcp,
    "filtered-gathered": _filtered_tcp,
    "filtered-memory": _filtered_memory,
    "tls-tcp": _tls_tcp,
    "tls-memory": _tls_memory,
    "memory": _memory,
    "trio-memory": _trio_memory,
}


@asynccontextmanager
async def open_streams(transport: str) -> AsyncGenerator[Streams]:
    """A client's and a server's stream over one of TRANSPORTS, closed at the end."""
    streams = await TRANSPORTS[transport]()
    try:
        yield streams
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


def start_connection(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    is_client: bool,
    limits: Limits = Limits(),
    replies: Mapping[str | bytes, str | bytes | None] | None = None,
    rest: bytes = b"",
    reader: Reader | None = None,
) -> Connection:
    """A connection that is open over *stream*, as if its handshake had just ended."""
    link = Link(
        stream,
        rest,
        is_client=is_client,
        limits=limits,
        spawn=nursery.start_soon,
        replies={reply_key(message): reply for message, reply in (replies or {}).items()},
    )
    link.carrier.start(reader)
    return Connection(link, Request("GET", "/"))


@dataclass(frozen=True)
class Frame:
    """One frame, unmasked.  Reserved bits that are set stand with the opcode."""

    opcode: int
    payload: bytes = b""
    fin: bool = True


def compressed(message: bytes) -> bytes:
    """*message* as any peer may send it in a frame with RSV1: without context, best effort."""
    deflate = zlib.compressobj(9, wbits=-15)
    return (deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(frame: Frame) -> bytes:
    """The message in *frame*, which must be compressed, and by itself."""
    assert frame.fin and frame.opcode & 0x70 == RSV1, frame
    return zlib.decompressobj(-15).decompress(frame.payload + b"\x00\x00\xff\xff")


@dataclass(frozen=True)
class Inflating:
    """One call of zlib's: how many bytes it was offered, took of them, and gave."""

    offered: int
    taken: int
    given: int


def count_inflating(patch: pytest.MonkeyPatch) -> list[Inflating]:
    """From now on, the calls of zlib's for inflating."""
    calls: list[Inflating] = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, window_bits: int) -> None:
            self._zlib = make(window_bits)

        def decompress(self, data: bytes, max_bytes: int) -> bytes:
            found = self._zlib.decompress(data, max_bytes)
            left = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            calls.append(Inflating(len(data), len(data) - len(left), len(found)))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._zlib, name)

    patch.setattr(zlib, "decompressobj", Counting)
    return calls


def final_blocks(*messages: bytes) -> bytes:
    """*messages* as zlib ends a stream, each in final blocks (RFC 7692 section 7.2.1)."""
    streams = []
    for message in messages:
        deflate = zlib.compressobj(wbits=-15)
        streams.append(deflate.compress(message) + deflate.flush())
    return b"".join(streams) + b"\x00"


def close_frame(code: int, reason: str = "") -> Frame:
    return Frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def encode(frame: Frame, *, masked: bool) -> bytes:
    size = len(frame.payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    first = frame.opcode | (0x80 if frame.fin else 0)
    if not masked:
        return bytes([first]) + length + frame.payload
    key = b"\x5a\x00\xff\x31"
    stretched = key * (size // 4 + 1)
    payload = bytes(a ^ b for a, b in zip(frame.payload, stretched, strict=False))
    return bytes([first, length[0] | 0x80]) + length[1:] + key + payload


def split_frame(data: bytes, *, masked: bool) -> tuple[Frame, bytes] | None:
    """Take the first frame off *data*; None if it is not all there."""
    if len(data) < 2:
        return None
    assert bool(data[1] & 0x80) is masked, "a client masks, a server does not"
    size, start = data[1] & 0x7F, 2
    if size > 125:
        start += 2 if size == 126 else 8
        size = int.from_bytes(data[2:start], "big")
    key = data[start : start + 4] if masked else b""
    start += len(key)
    if len(data) < start + size:
        return None
    payload = data[start : start + size]
    if masked:
        # Whole words at once: some payloads here are large.
        word = int.from_bytes((key * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ word).to_bytes(size, "big")
    return Frame(data[0] & 0x7F, payload, bool(data[0] & 0x80)), data[start + size :]


class RawPeer:
    """The other end of a connection, which sends and reads whatever a test wants.

    It reads only when told to, so it is a peer that does not read, too.
    """

    def __init__(self, stream: trio.abc.Stream, *, is_client: bool) -> None:
        self.stream = stream
        self.is_client = is_client
        self.unparsed = b""

    async def send(self, *frames: Frame) -> None:
        await self.stream.send_all(self.encode(*frames))

    def encode(self, *frames: Frame) -> bytes:
        return b"".join(encode(frame, masked=self.is_client) for frame in frames)

    async def frame(self) -> Frame | None:
        """The next frame; None if the transport ends (or is reset) between two of them."""
        while (split := split_frame(self.unparsed, masked=not self.is_client)) is None:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                assert not self.unparsed, "the transport ended in the middle of a frame"
                return None
            self.unparsed += data
        frame, self.unparsed = split
        return frame

    async def frames(self) -> list[Frame]:
        """Every frame up to the end of the transport."""
        frames = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    async def fill(self, frame: Frame) -> int:
        """Send *frame* again and again, until the transport takes no more of it.

        Returns:
            How many were begun; the last of them may not be whole.
        """
        begun = 0
        async with trio.open_nursery() as nursery:

            async def fill() -> None:
                nonlocal begun
                while True:
                    begun += 1
                    await self.send(frame)

            nursery.start_soon(fill)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        return begun


def transport_of(stream: trio.abc.Stream) -> trio.abc.Stream:
    """What is under TLS, or *stream* itself."""
    return getattr(stream, "transport_stream", stream)


def reset(stream: trio.abc.Stream) -> None:
    """Close the socket under *stream* so that its peer gets an RST."""
    transport = transport_of(stream)
    assert isinstance(transport, trio.SocketStream)
    # The struct linger of SO_LINGER: on, for 0 seconds.
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.socket.close()


class Yields:
    """Counts how often coroutines give way to the scheduler, and does something at one of them.

    Args:
        at: which of them, counted from 0 over all that is run.
        when: "parking", before the scheduler hears of it, or "resuming", after it has
            decided to go on, when a cancellation comes too late for that wait.
        act: what is done then.
    """

    def __init__(self, at: int, when: str, act: Callable[[], object]) -> None:
        self.count = 0
        self._at = at
        self._when = when
        self._act = act

    @property
    def acted(self) -> bool:
        return self.count > self._at

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """*coroutine*, to be awaited, with its yields counted."""
        return _Counted(self, coroutine)

    def reach(self, when: str) -> None:
        if when == self._when and self.count == self._at:
            self._act()
        self.count += when == "resuming"


class _Counted:
    def __init__(self, yields: Yields, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._yields = yields
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        resume = partial(self._coroutine.send, None)
        while True:
            try:
                trap = resume()
            except StopIteration as stop:
                return stop.value
            self._yields.reach("parking")
            try:
                resume = partial(self._coroutine.send, (yield trap))
            except BaseException as exc:
                resume = partial(self._coroutine.throw, exc)
            self._yields.reach("resuming")


class Ends:
    """The two ends of a transport: ours, which is tested, and theirs."""

    def __init__(
        self,
        nursery: trio.Nursery,
        streams: Streams,
        *,
        is_client: bool,
        reader: Reader | None = None,
    ) -> None:
        self.nursery = nursery
        self.reader = reader
        self.is_client = is_client
        self.our_stream, self.their_stream = streams if is_client else streams[::-1]

    def ours(self, limits: Limits = Limits(), **options: Any) -> Connection:
        return start_connection(
            self.nursery,
            self.our_stream,
            is_client=self.is_client,
            limits=limits,
            reader=self.reader,
            **options,
        )

    def theirs(self, limits: Limits = Limits(), **options: Any) -> Connection:
        return start_connection(
            self.nursery, self.their_stream, is_client=not self.is_client, limits=limits, **options
        )

    def raw(self) -> RawPeer:
        return RawPeer(self.their_stream, is_client=not self.is_client)


Reads = Iterable[bytes | BaseException]


class Script(trio.abc.Stream):
    """A transport that does as it is told.

    Args:
        reads: what `receive_some` gives, one after the other: bytes, or an error to raise; then
            the end.  Or a callable that is asked for them at the first read, with all that was
            sent until then.
        silent: instead of the end there is nothing, for ever.
        on_read: called before each read.
        fault: what `send_all` raises.
    """

    def __init__(
        self,
        reads: Reads | Callable[[bytes], Reads] = (),
        *,
        silent: bool = False,
        on_read: Callable[[], object] = lambda: None,
        fault: BaseException | None = None,
    ) -> None:
        self.sent = b""
        self._reads = reads
        self._left: list[bytes | BaseException] | None = None
        self._silent = silent
        self._on_read = on_read
        self._fault = fault

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self._on_read()
        if self._left is None:
            self._left = list(self._reads(self.sent) if callable(self._reads) else self._reads)
        if not self._left:
            if self._silent:
                await trio.sleep_forever()
            return b""
        read = self._left.pop(0)
        if isinstance(read, BaseException):
            raise read
        if read[max_bytes:]:
            self._left.insert(0, read[max_bytes:])
        return read[:max_bytes]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._fault is not None:
            raise self._fault
        self.sent += bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def one_by_one(data: bytes) -> list[bytes]:
    """*data* as single bytes."""
    return [data[i : i + 1] for i in range(len(data))]
