"""A transport while a connection opens: nothing is waited for that is there already.

A request's head mostly arrives together with the connection itself, and the kernel takes a 101
at once.  Then a deadline and a turn of the scheduler for each cost more than the reading and the
writing.  Knows nothing of HTTP, nor of what follows it.
"""

from __future__ import annotations

import os

import trio

from .._wire._kernel import kernel_socket


class Eager(trio.abc.Stream):
    """A *stream* each of whose waits ends at *deadline*, with TooSlowError.

    Attributes:
        has_received: whether anything at all has come.

    Checkpoint: a cancellation point always; others run whenever it waits.
    """

    def __init__(self, stream: trio.abc.Stream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline
        self.has_received = False
        self._socket = kernel_socket(stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._receive_some(max_bytes)
        self.has_received |= bool(data)
        return data

    async def _receive_some(self, max_bytes: int | None) -> bytes:
        if self._socket is not None and max_bytes is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                return os.read(self._socket.fileno(), max_bytes)
            except BlockingIOError:
                pass
            except OSError as exc:
                raise trio.BrokenResourceError(exc.strerror) from exc
        with trio.CancelScope(deadline=self._deadline):
            return bytes(await self._stream.receive_some(max_bytes))
        raise trio.TooSlowError("the peer sends too slowly")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        taken = 0
        if self._socket is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                taken = os.write(self._socket.fileno(), data)
            except BlockingIOError:
                pass
            except OSError as exc:
                raise trio.BrokenResourceError(exc.strerror) from exc
        if taken < len(data):
            with trio.CancelScope(deadline=self._deadline) as scope:
                await self._stream.send_all(data[taken:])
            if scope.cancelled_caught:
                raise trio.TooSlowError("the peer reads too slowly")

    async def wait_send_all_might_not_block(self) -> None:
        with trio.fail_at(self._deadline):
            await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
