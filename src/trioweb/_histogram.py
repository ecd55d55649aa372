"""Counts of values by size, as monitoring systems want them.  Knows nothing of what is counted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

# From what a small pass takes to what somebody waits for.
SECONDS: Final = (0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5)


class Histogram:
    """How many of the values so far were at most as large as each of *bounds*.

    Attributes:
        bounds: in ascending order.
        counts: for each, of those values that are not within a lower one; the last one is of
            those beyond all.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
