"""A peer that speaks raw frames: what no library sends can be sent, and nothing is hidden.

Rules kept here: it checks nothing and answers nothing by itself; the test decides.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import trio

from .._chance import random_bytes
from .._handshake import accept_token
from .._protocol._frames import encode_frame
from .._protocol._speedups import mask


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame as it came: `rsv` is a number from 0 to 7, the payload is unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


class RawPeer:
    """One side of a WebSocket over *stream*, in the hands of a test.

    Make it by `accept` for a server, by `connect` for a client, or directly where there is no
    handshake, or one that the test does itself by `send` and `receive_head`.
    """

    def __init__(self, stream: trio.abc.Stream, *, masked: bool) -> None:
        self.stream = stream
        self.head = b""
        self._masked = masked
        self._buffer = bytearray()

    @classmethod
    async def accept(cls, stream: trio.abc.Stream) -> RawPeer:
        """Accept a client's opening handshake; `head` is what it asked.

        Args:
            stream: the peer's from here on.

        Raises:
            EOFError: the stream has ended before.

        Cancellation: leaves a stream that can only be closed.  Checkpoint: always.
        """
        peer = cls(stream, masked=False)
        await peer.receive_head()
        key = next(
            value.strip()
            for name, _, value in (line.partition(b":") for line in peer.head.split(b"\r\n"))
            if name.lower() == b"sec-websocket-key"
        )
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_token(key).encode() + b"\r\n\r\n"
        )
        return peer

    @classmethod
    async def connect(
        cls, stream: trio.abc.Stream, path: str = "/", host: str = "server"
    ) -> RawPeer:
        """Open a WebSocket as a client; `head` is the server's answer, whatever it is.

        Args:
            stream: the peer's from here on.
            path: the target of the request, with its query if there is one.
            host: what the header Host says.

        Raises, Cancellation, Checkpoint: as `accept`.
        """
        peer = cls(stream, masked=True)
        key = base64.b64encode(random_bytes(16)).decode()
        await peer.send(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await peer.receive_head()
        return peer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are.

        Cancellation: some of them may have been sent.  Checkpoint: always.
        """
        await self.stream.send_all(data)

    async def send_frame(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0
    ) -> None:
        """Send one frame, masked if this is a client; the values need not make sense.

        Args:
            opcode: from 0 to 15.
            fin: whether the message ends with it.
            rsv: the three reserved bits, from 0 to 7.

        Cancellation, Checkpoint: as `send`.
        """
        frame = encode_frame(opcode, payload, masked=self._masked, fin=fin)
        await self.send(bytes((frame[0] | rsv << 4,)) + frame[1:])

    async def receive_head(self) -> bytes:
        """Receive up to the next blank line, and keep it as `head`."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._receive()
        self.head = self._cut(end + 4)
        return self.head

    async def receive_frame(self) -> RawFrame:
        """Receive one frame, of whatever kind.

        Raises:
            EOFError: the stream has ended, if in the middle of a frame.

        Cancellation: what had come of the frame is lost.  Checkpoint: a frame that has come
        already is taken without one.
        """
        first, second = await self._exactly(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(await self._exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._exactly(8), "big")
        masked = bool(second & 128)
        key = await self._exactly(4) if masked else b""
        payload = await self._exactly(size)
        return RawFrame(
            opcode=first & 15,
            payload=mask(payload, key) if masked else payload,
            fin=bool(first & 128),
            rsv=first >> 4 & 7,
            masked=masked,
        )

    async def receive_eof(self) -> None:
        """Assert that nothing more comes but the end.

        Raises:
            AssertionError: something did; the message shows it.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        try:
            await self._receive()
        except EOFError:
            pass
        assert not self._buffer, f"expected the end, received {bytes(self._buffer)!r}"

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._receive()
        return self._cut(size)

    async def _receive(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError("the peer has ended its stream")
        self._buffer += data

    def _cut(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
