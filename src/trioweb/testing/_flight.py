"""What is on its way from one end of a connection to the other, and when it arrives.

Rules kept here: what was sent first arrives first; when something arrives is computed when
somebody looks, never by a task; what has arrived stays arrived, whatever happens to the path
afterwards.

Knows nothing of streams, hosts or faults: a `Path` answers for those.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

Load = TypeVar("Load")


class Path:
    """One direction between two places; this one takes no time and is always open."""

    def now(self) -> float:
        return 0.0

    def delay(self) -> float:
        """Seconds that a packet which leaves now will be under way."""
        return 0.0

    def opens(self, at: float, born: float | None) -> float:
        """When, at *at* or later, something of a connection made at *born* can leave.

        *born* is None for what belongs to no connection yet.
        """
        return at

    def leaves(self, at: float, size: int, born: float | None) -> float:
        """When the last of *size* bytes that begin to leave at *at* has left."""
        return at

    def bite(self, at: float) -> int:
        """How many bytes go at a time: a slow path shows its receiver something every while."""
        return sys.maxsize

    def piece(self, available: int) -> int:
        """How many of the bytes that have arrived one look at them sees, at least 1."""
        return available


@dataclass(slots=True)
class _Packet(Generic[Load]):
    sent: float
    delay: float
    load: Load


class Flight(Generic[Load]):
    """A queue over a path: loads go in with `send`, and come out of `land` when they arrive.

    Args:
        path: what decides how long that takes.
        born: when the connection was made that this belongs to, None if it is still being made.
        on_change: called whenever the answer of `next` may have become another one.
    """

    def __init__(self, path: Path, born: float | None, on_change: Callable[[], object]) -> None:
        self.path = path
        self.on_change = on_change
        self.born = born
        self._queue: deque[_Packet[Load]] = deque()
        self._landed: deque[tuple[float, Load]] = deque()
        self._left = -math.inf  # when the last packet that landed had left

    def send(self, at: float, load: Load, extra: float = 0) -> None:
        """Let *load* leave at *at*, and be under way for *extra* seconds longer than others."""
        self._queue.append(_Packet(at, self.path.delay() + extra, load))
        self.on_change()

    @property
    def since(self) -> float:
        """From when on it matters what the path was like: infinity if nothing is under way."""
        return max(self._queue[0].sent, self._left) if self._queue else math.inf

    def next(self) -> float:
        """When more will land, as things stand: infinity for perhaps never."""
        return self._times()[1] if self._queue else math.inf

    def settle(self, now: float) -> None:
        """Decide what has arrived by *now*; called before the path changes."""
        while self._queue:
            left, arrived = self._times()
            if arrived > now:
                return
            self._left = left
            self._landed.append((arrived, self._queue.popleft().load))

    def land(self, now: float) -> Iterator[tuple[float, Load]]:
        """Take out what has arrived by *now*, each with the moment when it did."""
        self.settle(now)
        while self._landed:
            yield self._landed.popleft()

    def lose(self) -> None:
        """Forget what is still under way."""
        self._queue.clear()

    def _times(self) -> tuple[float, float]:
        """When the first packet of the queue has left, and when it arrives."""
        packet = self._queue[0]
        begin = self.path.opens(max(packet.sent, self._left), self.born)
        if begin == math.inf:
            return begin, begin
        size = self._begin(begin)
        left = self.path.leaves(begin, size, self.born)
        return left, left + packet.delay

    def _begin(self, at: float) -> int:
        """Get the first packet ready to leave at *at*, and return its size in bytes."""
        return 0


class Signal(Enum):
    """What else arrives among bytes."""

    FIN = "no more will be sent"
    RST = "the connection is gone"


class ByteFlight(Flight[bytes | Signal]):
    """A flight of bytes: they take room on a slow path, and are cut so that it shows."""

    def _begin(self, at: float) -> int:
        packet = self._queue[0]
        if isinstance(packet.load, Signal):
            return 0
        bite = self.path.bite(at)
        if len(packet.load) > bite:
            # The rest follows at its own pace, which is another if the path changes.
            self._queue.insert(1, _Packet(packet.sent, packet.delay, packet.load[bite:]))
            packet.load = packet.load[:bite]
        return len(packet.load)
