"""What happened on a network, in order: the same seed gives the same trace.

Rules kept here: contents are left out, because not all of them follow from the seed (keys of
handshakes, TLS); only the last events are kept, but all are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import trio


class TraceEvent(NamedTuple):
    """One event: seconds since the first, between whom, what, and how many bytes."""

    time: float
    source: str
    target: str
    event: str
    size: int

    def __str__(self) -> str:
        where = f"{self.source} > {self.target}" if self.target else self.source
        return f"{self.time:12.6f}  {where:40} {self.event}{f' {self.size}' * bool(self.size)}"


class Trace:
    """The last events of a network; iterate over it, or print it.

    Args:
        max_events: how many are kept.  100,000 are some ten MiB.

    Attributes:
        on_event: called with each event as it happens; it must neither wait nor use the network.
    """

    def __init__(self, max_events: int = 100_000) -> None:
        self._events: deque[TraceEvent] = deque(maxlen=max_events)
        self._start: float | None = None
        self.count = 0
        self.on_event: Callable[[TraceEvent], object] | None = None

    def note(self, source: str, target: str, event: str, size: int = 0) -> None:
        if self._start is None and trio.lowlevel.in_trio_run():
            self._start = trio.current_time()
        # What sets a network up before the run begins happens at 0.
        time = 0.0 if self._start is None else trio.current_time() - self._start
        noted = TraceEvent(time, source, target, event, size)
        self._events.append(noted)
        self.count += 1
        if self.on_event is not None:
            self.on_event(noted)

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self._events)

    def tail(self, count: int) -> str:
        """The last *count* events as lines of text, and how many came before them."""
        events = list(self._events)[max(0, len(self._events) - count) :]
        lines = [str(event) for event in events]
        if self.count > len(events):
            lines.insert(0, f"({self.count - len(events)} events before)")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.tail(len(self._events))
