"""Streams that tell how long their readers hear nothing."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trioweb.testing import NetworkListener, NetworkStream


class Tap(trio.abc.HalfCloseableStream):
    """A stream that tells how long its reader hears nothing.

    Attributes:
        hindered_at: when its reader was last seen not to read, or its writer to wait.
    """

    def __init__(self, stream: NetworkStream, heard_nothing: Callable[[float], None]) -> None:
        self.socket = stream.socket
        self.hindered_at = trio.current_time()
        self.on_close: Callable[[], None] = lambda: None
        self._stream = stream
        self._heard_nothing = heard_nothing
        self._reading = False
        self._took_at = self._read_at = trio.current_time()
        self._writing_since: float | None = None

    def is_hindered_since(self, moment: float) -> bool:
        return self.hindered_at >= moment or not self._reading or self._writing_since is not None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        begun = trio.current_time()
        if begun > self._read_at:
            self.hindered_at = begun
        self._reading = True
        try:
            return await self._stream.receive_some(max_bytes)
        finally:
            self._reading = False
            now = self._read_at = trio.current_time()
            self._heard_nothing(now - max(begun, self._took_at))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        begun = self._writing_since = trio.current_time()
        await self._stream.send_all(data)
        # Otherwise it is hindered for good.
        self._writing_since = None
        # A peer that makes room is alive, too.
        if trio.current_time() > begun:
            self.hindered_at = self._took_at = trio.current_time()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self.on_close()
        self.on_close = lambda: None
        await self._stream.aclose()


class TappedListener(trio.abc.Listener[Tap]):
    def __init__(self, listener: NetworkListener, heard_nothing: Callable[[float], None]) -> None:
        self.socket = listener.socket
        self._listener = listener
        self._heard_nothing = heard_nothing

    async def accept(self) -> Tap:
        return Tap(await self._listener.accept(), self._heard_nothing)

    async def aclose(self) -> None:
        await self._listener.aclose()
