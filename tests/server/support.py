"""A server on a network in memory, and a raw peer that says exactly what a test wants said.

The peer writes and reads bytes by hand, so that no client of ours stands between a test and
the server's answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

import trioweb
from tests.support import CLOSE, RawPeer
from trioweb._server._settings import Handler
from trioweb.testing import Network

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, and its answer
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def upgrade_head(
    path: str = "/",
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    extra: Iterable[tuple[str, str]] = (),
    **changes: str | None,
) -> bytes:
    """The head of an upgrade; *changes* replace headers of it, or with None leave them out."""
    headers: dict[str, str | None] = {
        "Host": "server",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    lines += [f"{name}: {value}" for name, value in extra]
    return "\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Answer:
    """An HTTP response, read to its end."""

    status: int
    headers: trioweb.Headers
    body: bytes


class Peer(RawPeer):
    """A client made of bytes, from its first one on."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream, is_client=True)

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read_head(self) -> tuple[int, trioweb.Headers]:
        """Read a response's head: its status and headers."""
        while b"\r\n\r\n" not in self.unparsed:
            data = await self.stream.receive_some()
            assert data, f"the end, after {self.unparsed!r}"
            self.unparsed += data
        head, _, self.unparsed = self.unparsed.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), trioweb.Headers((name, value) for name, value in pairs)

    async def read_close(self) -> tuple[int, str]:
        """Read up to the server's Close: its code and reason."""
        while (frame := await self.frame()) is not None:
            if frame.opcode == CLOSE:
                return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()
        raise AssertionError("the end, and no Close")

    async def read_end(self) -> bytes:
        """Read to the end of the stream, and close it."""
        try:
            while data := await self.stream.receive_some():
                self.unparsed += data
        except trio.BrokenResourceError:
            pass
        await self.stream.aclose()
        return self.unparsed

    async def ask(self, head: bytes) -> Answer:
        """Send a request, read its answer to the end, and go."""
        await self.write(head)
        return await self.read_answer(with_body=not head.startswith(b"HEAD "))

    async def read_answer(self, *, with_body: bool = True) -> Answer:
        """Read an answer, and go; if it says so, that nothing follows is seen to."""
        answer = await self.read_one(with_body=with_body)
        rest = b""
        if answer.headers.get("connection") == "close":
            with suppress(trio.ClosedResourceError):  # the body ended with it
                rest = await self.read_end()
        await self.stream.aclose()
        assert rest == b""
        return answer

    async def read_one(self, *, with_body: bool = True) -> Answer:
        """Read an answer, after which others may come."""
        status, headers = await self.read_head()
        body = b""
        if with_body and status not in (204, 304):
            if "content-length" in headers:
                body = await self.read(int(headers["content-length"]))
            elif "transfer-encoding" in headers:
                while size := int(await self._read_line(), 16):
                    body += await self.read(size)
                    assert await self.read(2) == b"\r\n"
                assert await self._read_line() == b""
            else:
                body = await self.read_end()
                self.unparsed = b""
        return Answer(status, headers, body)

    async def read(self, size: int) -> bytes:
        while len(self.unparsed) < size:
            data = await self.stream.receive_some()
            assert data, f"the end, {size - len(self.unparsed)} bytes too early"
            self.unparsed += data
        data, self.unparsed = self.unparsed[:size], self.unparsed[size:]
        return data

    async def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += await self.read(1)
        return line[:-2]

    async def open(self, path: str = "/", **changes: Any) -> trioweb.Headers:
        """Open a WebSocket."""
        await self.write(upgrade_head(path, **changes))
        status, headers = await self.read_head()
        assert status == 101, status
        return headers


class Site:
    """A server on the host "server" of a network in memory, and ways to reach it."""

    def __init__(self, network: Network, server: trioweb.Server) -> None:
        self.network = network
        self.server = server

    async def dial(self, host: str = "server", port: int = 80) -> trio.abc.HalfCloseableStream:
        return await self.network.host("client").dial(host, port)

    async def peer(self) -> Peer:
        return Peer(await self.dial())

    async def opened(self, path: str = "/", **changes: Any) -> Peer:
        """A raw peer with an open WebSocket."""
        peer = await self.peer()
        await peer.open(path, **changes)
        return peer

    async def ask(self, head: bytes) -> Answer:
        return await (await self.peer()).ask(head)

    @property
    def streams(self) -> int:
        """How many of the network's streams are open, both ends counted."""
        return self.network.statistics().streams


async def start(
    nursery: trio.Nursery, handler: Handler, *, network: Network | None = None, **options: Any
) -> Site:
    """Serve *handler* in *nursery*, on the host "server", port 80."""
    network = Network() if network is None else network
    listener = network.host("server").listen(80)
    serve = partial(trioweb.serve_listeners, handler, [listener], **options)
    return Site(network, await nursery.start(serve))


class Handing(trio.abc.Listener[trio.abc.Stream]):
    """A listener to which *streams* come, and nobody else."""

    def __init__(self, streams: Iterable[trio.abc.Stream]) -> None:
        self._streams = list(streams)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self._streams:
            await trio.sleep_forever()
        return self._streams.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def echo(connection: trioweb.Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def wait(connection: trioweb.Connection) -> None:
    await connection.wait_closed()
