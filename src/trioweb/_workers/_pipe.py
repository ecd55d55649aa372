"""One end of what connects a parent and a worker: words in both directions, in order.

On the wire each has its size, as four bytes, and what `marshal` makes of it.  What it says is the
business of `_words`.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from .._waitable import Waitable
from ._words import Words

# Read at a time: some hundred publications, which are a millisecond of work.
_READ_BYTES: Final = 16 * 2**10
# Written at a time, where so much waits.
_WRITTEN_BYTES: Final = 64 * 2**10
_SIZE_BYTES: Final = 4


# What has to happen before words can be done.
Wait: TypeAlias = Callable[[], Awaitable[None]]


def pack(words: Words) -> bytes:
    """*words* as they stand on the wire."""
    data = marshal.dumps(words)
    return len(data).to_bytes(_SIZE_BYTES, "big") + data


def _nothing() -> None:
    pass


class Splitter:
    """Finds words in what arrives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | bytearray) -> list[Words]:
        """The words that *data* completes."""
        buffer = self._data
        buffer += data
        found: list[Words] = []
        at, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while end - at >= _SIZE_BYTES:
                start = at + _SIZE_BYTES
                stop = start + int.from_bytes(view[at:start], "big")
                if stop > end:
                    break
                found.append(marshal.loads(view[start:stop]))
                at = stop
        del buffer[:at]
        return found


class Pipe:
    """See the top of this module.

    Args:
        max_waiting: while more bytes than this wait to be written, nothing is read: so what the
            other end asks for cannot fill this one's memory.  None for reading always.
        read_bytes: read at a time, and dealt with before others run.

    Attributes:
        waiting: bytes that wait to be written.
        splitter: what was read, up to where its last words end.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        max_waiting: int | None = None,
        *,
        read_bytes: int = _READ_BYTES,
    ) -> None:
        self.waiting = 0
        self.splitter = Splitter()
        self._stream = stream
        self._max_waiting = max_waiting
        self._read_bytes = read_bytes
        self._orders: deque[bytes] = deque()
        self._unsent: deque[bytes] = deque()
        self._changed = Waitable()

    def send(self, words: Words) -> None:
        """Send *words*, behind what waits."""
        self.send_packed(pack(words))

    def send_packed(self, data: bytes) -> None:
        """Send what `pack` has made."""
        self._unsent.append(data)
        self.waiting += len(data)
        if len(self._unsent) == 1:
            self._changed.changed()

    def order(self, words: Words) -> None:
        """Send *words* ahead of what waits; `take_unsent` does not take them."""
        data = pack(words)
        self._orders.append(data)
        self.waiting += len(data)
        self._changed.changed()

    def take_unsent(self) -> bytes:
        """Take back what was sent and nobody has begun to write."""
        data = b"".join(self._unsent)
        self._unsent.clear()
        self.waiting -= len(data)
        return data

    async def wait_sent(self) -> None:
        """Wait until all is written.  Checkpoint: not always."""
        while self.waiting:
            await self._changed.wait_change()

    async def run(
        self, receive: Callable[[Words], Wait | None], before_wait: Callable[[], None] = _nothing
    ) -> None:
        """Write what is sent, and call *receive* with what arrives, until the other end has gone.

        If it returns something to wait for, nothing is read meanwhile, and then it has the same
        words again.  *before_wait* is called when others are about to run.

        Cancellation: words may have been written in part.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read(receive, before_wait)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _write(self) -> None:
        orders, unsent = self._orders, self._unsent
        while True:
            while not (orders or unsent):
                await self._changed.wait_change()
            taken, size = list(orders), sum(map(len, orders))
            orders.clear()
            while unsent and size < _WRITTEN_BYTES:
                taken.append(unsent.popleft())
                size += len(taken[-1])
            await self._stream.send_all(b"".join(taken))
            self.waiting -= size
            self._changed.changed()

    async def _read(
        self, receive: Callable[[Words], Wait | None], before_wait: Callable[[], None]
    ) -> None:
        bound = self._max_waiting
        while data := await self._stream.receive_some(self._read_bytes):
            for words in self.splitter.feed(data):
                while (wait := receive(words)) is not None:
                    before_wait()
                    await wait()
                while bound is not None and self.waiting > bound:
                    before_wait()
                    await self._changed.wait_change()
            before_wait()
