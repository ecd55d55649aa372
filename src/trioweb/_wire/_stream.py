"""Any stream of Trio's: whether it has room cannot be asked, so that all is written by a task."""

from __future__ import annotations

from typing import Final

import trio

from ._wire import Account

# In pieces of this size, so that a peer which takes some of a large frame within the write
# timeout is seen to take it.
_PIECE_BYTES: Final = 16 * 2**10
# Whether there was room or it had to wait for the peer cannot be asked either, only timed.  A peer
# too slow to answer a ping within its timeout keeps a piece waiting for much longer than this; a
# busy scheduler hardly ever does.
_STALL_SECONDS: Final = 0.1


class StreamWire:
    """See `Wire`.

    Args:
        write_timeout: seconds for which the peer may take no piece.
    """

    __slots__ = ("_reading", "_stream", "_timeout")

    direct: Final = None
    is_queued: Final = True
    backlog: Final = 0
    has_more: Final = False

    def __init__(self, stream: trio.abc.Stream, write_timeout: float) -> None:
        self._stream = stream
        self._timeout = write_timeout
        self._reading: trio.CancelScope | None = None

    def offer(self, data: bytes) -> int:
        return 0

    async def write(self, data: bytes, account: Account) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            begun_at = trio.current_time()
            with trio.fail_after(self._timeout):
                await self._stream.send_all(piece)
            is_stalled = trio.current_time() - begun_at >= _STALL_SECONDS
            account.wrote(len(piece), by_peer=is_stalled)

    async def receive(self, max_bytes: int) -> bytes | None:
        with trio.CancelScope() as self._reading:
            return bytes(await self._stream.receive_some(max_bytes))
        return None

    def interrupt(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
