"""A kernel's socket with TLS on it: what is written becomes records when its turn has come.

Records must leave in the order in which they are made, so nothing is sealed before what stands
ahead of it is written.
"""

from __future__ import annotations

from .._tls import RECORD_BYTES, Tls
from ._kernel import Descriptor, KernelWire
from ._wire import Account


class RecordWire(KernelWire):
    """See `Wire`.  What `offer` takes are whole records, the last of which may be the backlog."""

    __slots__ = ("_tls",)

    def __init__(self, socket: Descriptor, write_timeout: float, tls: Tls) -> None:
        super().__init__(socket, write_timeout)
        self._tls = tls

    @property
    def backlog(self) -> int:
        return len(self._tls.unwritten)

    @property
    def has_more(self) -> bool:
        return self._tls.is_due()

    def offer(self, data: bytes) -> int:
        for start in range(0, len(data) or 1, RECORD_BYTES):
            wire = self._tls.seal(data[start : start + RECORD_BYTES])
            written = super().offer(wire)
            if written < len(wire):
                self._tls.unwritten = wire[written:]
                return min(start + RECORD_BYTES, len(data))
        return len(data)

    async def write(self, data: bytes, account: Account) -> None:
        unwritten, self._tls.unwritten = self._tls.unwritten, b""
        await super().write(unwritten, account)
        for start in range(0, len(data) or 1, RECORD_BYTES):
            piece = data[start : start + RECORD_BYTES]
            wire = self._tls.seal(piece)
            account.grew(len(wire) - len(piece))
            await super().write(wire, account)
