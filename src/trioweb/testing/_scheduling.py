"""Deterministic scheduling: with it the same seed gives the same run.

Trio schedules the tasks of one tick in random order, on purpose.  Its own tests and pytest-trio
make that order repeatable by a private hook, and so do we; a test says when the hook goes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import trio

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Let every Trio run inside this block schedule its tasks as *seed* says.

    Time must be virtual, too: on the real clock two runs are never the same.
    """
    run: ModuleType = trio._core._run
    order: random.Random = run._r
    before = getattr(run, _FLAG), order.getstate()
    setattr(run, _FLAG, True)
    order.seed(seed)
    try:
        yield
    finally:
        setattr(run, _FLAG, before[0])
        order.setstate(before[1])
