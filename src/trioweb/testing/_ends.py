"""One end of a connection between two hosts: it has addresses, rules judge it, and it may die.

Rules kept here: what a user's rule decides about a chunk of bytes is done when it is sent; what is
left of a dead program reaches nobody.
"""

from __future__ import annotations

import errno
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._flight import Flight, Signal
from ._lines import Line
from ._rules import Chunk, Cut, Delay, Drop, Verdict, ask
from ._streams import MemoryStream

if TYPE_CHECKING:
    from ._hosts import Host


@dataclass(frozen=True, slots=True)
class Addresses:
    """The part of a socket that programs ask who is at its ends."""

    local: tuple[str, int]
    remote: tuple[str, int] | None = None

    def getsockname(self) -> tuple[str, int]:
        return self.local

    def getpeername(self) -> tuple[str, int]:
        if self.remote is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self.remote


class NetworkStream(MemoryStream):
    """One end of a connection between two hosts; `dial` and listeners make them.

    `socket` knows the addresses, as a kernel's does; there is no kernel below it.
    """

    _fin_before_reset = False

    def __init__(self, host: Host, port: int, peer: Host, peer_port: int, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.host = host
        self.socket = Addresses((host.address, port), (peer.address, peer_port))
        self._names = (f"{host.name}:{port}", f"{peer.name}:{peer_port}")
        self._dead = False
        self._dropped = False  # a rule has dropped something, so nothing more arrives

    def close(self) -> None:
        if self._dead:
            self._closed = True
            self._wake()
        else:
            super().close()
            self.host.network.forget(self)

    def die(self, *, silently: bool) -> None:
        """Lose the program at this end; its kernel says so to the peer, or nobody does."""
        self._look()
        self._dead = True
        if not silently:
            self._transmit(self._now(), Signal.RST)
        self._wake()
        self.host.network.forget(self)

    def settle(self, now: float) -> None:
        """Decide what has arrived by now; called before something changes."""
        self._inbound.settle(now)
        self._acks.settle(now)

    def wake(self) -> None:
        self._wake()

    @property
    def gone(self) -> bool:
        return self._gone()

    @property
    def name(self) -> str:
        return " > ".join(self._names)

    @property
    def was_reset(self) -> bool:
        return self._reset

    @property
    def peer(self) -> NetworkStream:
        assert isinstance(self._peer, NetworkStream)
        return self._peer

    @property
    def line(self) -> Line:
        path = self._inbound.path
        assert isinstance(path, Line)
        return path

    @property
    def flights(self) -> tuple[Flight[bytes | Signal], Flight[int]]:
        """What is on its way to this end."""
        return self._inbound, self._acks

    def _transmit(self, at: float, load: bytes | Signal) -> None:
        if self._dropped:
            return
        if isinstance(load, Signal):
            super()._transmit(at, load)
            return
        match self._judge(at, load):
            case Delay(seconds):
                self._note("delay", len(load))
                self._peer._inbound.send(at, load, seconds)
            case Drop(after):
                self._note("drop", len(load[after:]))
                if after:
                    super()._transmit(at, load[:after])
                self._dropped = True
            case Cut(after):
                self._note("cut", len(load))
                if after:
                    super()._transmit(at, load[:after])
                super()._transmit(at, Signal.RST)
                self._inbound.lose()
                self._reset = True
                self._wake()
            case None:
                super()._transmit(at, load)

    def _judge(self, at: float, data: bytes) -> Verdict:
        """What the first rule says that does not let it pass."""
        there = self.peer.line
        for rule in there.rules():
            chunk = Chunk(at, there.source, there.target, self.name, data)
            if (verdict := ask(rule, chunk)) is not None:
                return verdict
        return None

    def _gone(self) -> bool:
        return self._closed or self._dead

    def _held_until(self, doing: str) -> float:
        return math.inf if self._dead else self.host.stands_until(doing)

    def _note(self, event: str, size: int = 0) -> None:
        self.host.network.trace.note(*self._names, event, size)
