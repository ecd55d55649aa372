"""A line: one direction between two hosts, its conditions and the faults that act on it.

Rules kept here: every answer is a function of a moment and of the faults known so far, so that
readers and writers can ask at any time, about the past too; what is random comes from the seed
and the line's own ends, so that one line's traffic does not change another's luck.
"""

from __future__ import annotations

import math
import random
import sys
from typing import Final

import trio

from ._faults import ActiveFault, Conditions
from ._flight import Path
from ._rules import Rule

# A slow line shows its receiver something at least so often, if only a byte.
_BITE_SECONDS: Final = 0.1


class Line(Path):
    """Args: the names of both ends, what it is like, and where its luck comes from."""

    def __init__(self, source: str, target: str, conditions: Conditions, seed: int) -> None:
        self.source = source
        self.target = target
        self.conditions = conditions
        self.faults: list[ActiveFault] = []
        # A string's seed does not depend on PYTHONHASHSEED.
        self._random = random.Random(f"{seed} {source} {target}")

    def now(self) -> float:
        return trio.current_time()

    def rules(self) -> list[Rule]:
        """Those that are asked about what is sent now, in the order in which they began."""
        now = self.now()
        return [each.fault.rule for each in self.faults if each.fault.rule and each.acts(now)]

    def forget_faults(self, since: float, eldest: float) -> None:
        """Keep those that can still concern what is under way; see `ActiveFault.matters`."""
        self.faults = [fault for fault in self.faults if fault.matters(since, eldest)]

    def delay(self) -> float:
        conditions = self._conditions(self.now())
        delay = conditions.latency or 0.0
        if conditions.jitter:
            delay += self._random.uniform(0, conditions.jitter)
        return delay

    def opens(self, at: float, born: float | None) -> float:
        while (later := max((f.silent_until(at, born) for f in self.faults), default=at)) > at:
            at = later
        return at

    def leaves(self, at: float, size: int, born: float | None) -> float:
        left: float = size
        while at < math.inf and (rate := self._rate(at)) < math.inf:
            moments = (moment for fault in self.faults for moment in (fault.start, fault.end))
            change = min((moment for moment in moments if moment > at), default=math.inf)
            if at + left / rate <= change:
                return at + left / rate
            left -= (change - at) * rate
            at = self.opens(change, born)
        return at

    def bite(self, at: float) -> int:
        rate = self._rate(at)
        return sys.maxsize if rate == math.inf else max(1, int(rate * _BITE_SECONDS))

    def piece(self, available: int) -> int:
        segment = self._conditions(self.now()).segment
        return available if segment is None else min(available, self._random.randint(1, segment))

    def _rate(self, at: float) -> float:
        return self._conditions(at).bandwidth or math.inf

    def _conditions(self, at: float) -> Conditions:
        conditions = self.conditions
        for fault in self.faults:
            if fault.fault.kind == "shape" and fault.acts(at):
                conditions = fault.fault.conditions.over(conditions)
        return conditions
