"""When something is due for a member: one task for all of them.

Pings, and whatever ends unless it is renewed.  What is due is called, and must neither wait nor
raise.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, NoReturn

import trio

_logger = logging.getLogger("trioweb.topics")

# A ping takes some 10 µs: after so many, others get their turn.
_CALLS_PER_CHECKPOINT: Final = 64
# So many cancelled entries are kept at least, before those that are not are gathered anew.
_MOST_DEAD: Final = 64


class Entry:
    """Something that is due once.

    Attributes:
        due: when, in Trio's time.
        call: what is called then; None once it was, or was cancelled.
    """

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call


class Timetable:
    """What is due, and the task (`run`) that sees to it."""

    def __init__(self) -> None:
        # (due, number, entry): a number, as two may be due at the same time.
        self._agenda: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        self._dead = 0
        self._nap = trio.CancelScope()

    def at(self, due: float, call: Callable[[], None]) -> Entry:
        """Have *call* called at *due*, unless it is cancelled before."""
        entry = Entry(due, call)
        heappush(self._agenda, (due, next(self._numbers), entry))
        if due < self._nap.deadline:
            self._nap.deadline = due
        return entry

    def cancel(self, entry: Entry | None) -> None:
        """*entry* is not due any more, if it still was."""
        if entry is None or entry.call is None:
            return
        entry.call = None
        self._dead += 1
        if self._dead > max(_MOST_DEAD, len(self._agenda) // 2):
            self._agenda = [one for one in self._agenda if one[2].call is not None]
            heapify(self._agenda)
            self._dead = 0

    async def run(self) -> NoReturn:
        calls = 0
        while True:
            with trio.CancelScope() as self._nap:
                self._nap.deadline = self._agenda[0][0] if self._agenda else math.inf
                await trio.sleep_forever()
            # Whoever became readable at the same moment reads first.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            while self._agenda and self._agenda[0][0] <= now:
                _, _, entry = heappop(self._agenda)
                if entry.call is None:
                    self._dead -= 1
                    continue
                call, entry.call = entry.call, None
                try:
                    call()
                except Exception:
                    # All members depend on this task.
                    _logger.exception("unexpected error in what was due for a member")
                calls += 1
                if calls % _CALLS_PER_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()
