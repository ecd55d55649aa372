"""A wire whose frames are told: what leaves, as it is handed over.

NOTE: What is offered begins with a frame, and what is written ends with one, as `_queue` has it.
"""

from __future__ import annotations

from collections.abc import Callable

from .._protocol._outline import LINES_AT_ONCE, Outline
from .._wire._wire import Account, Wire


class TracedWire:
    """See `Wire`.

    Attributes:
        wire: which carries it all.
        tell: gets a line for each frame; None: nobody does any more.
    """

    __slots__ = ("_outline", "tell", "wire")

    def __init__(self, wire: Wire, tell: Callable[[str], None]) -> None:
        self.wire = wire
        self.tell: Callable[[str], None] | None = tell
        # None while it is not known where the next frame begins.
        self._outline: Outline | None = Outline() if wire.is_queued else None

    @property
    def direct(self) -> None:
        return None

    @property
    def is_queued(self) -> bool:
        return self.wire.is_queued

    @property
    def backlog(self) -> int:
        return self.wire.backlog

    @property
    def has_more(self) -> bool:
        return self.wire.has_more

    def offer(self, data: bytes) -> int:
        taken = self.wire.offer(data)
        if taken:
            self._outline = Outline()
            self._see(data[:taken], is_whole=taken == len(data))
        return taken

    async def write(self, data: bytes, account: Account) -> None:
        self._see(data, is_whole=True)
        await self.wire.write(data, account)

    def _see(self, data: bytes, *, is_whole: bool) -> None:
        """Tell what *data* has.

        Args:
            is_whole: a frame ends where it does.
        """
        if self._outline is not None and self.tell is not None:
            lines, taken = self._outline.read(data)
            for line in lines:
                self.tell(line)
            if len(lines) == LINES_AT_ONCE and taken < len(data):
                self.tell(f"and {len(data) - taken} bytes of further frames")
                self._outline = None
        if is_whole:
            self._outline = Outline()

    async def receive(self, max_bytes: int) -> bytes | None:
        return await self.wire.receive(max_bytes)

    def interrupt(self) -> None:
        self.wire.interrupt()
