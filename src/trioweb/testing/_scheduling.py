"""A run that a seed decides: the order of Trio's tasks, trioweb's chance, and Python's `random`.

Trio schedules the tasks of one tick in random order, on purpose.  Its own tests and pytest-trio
make that order repeatable by a private hook, and so do we; a test says when the hook goes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import trio

from .._chance import seeded

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Let every Trio run inside this block go as *seed* says.

    The seed decides in which order Trio schedules tasks, the jitter of clients that were given no
    `random`, masks, the payloads of pings, the epochs of topics, and what Python's `random` gives
    to everybody.  Afterwards all of them go on as if the block had not been.

    What it cannot decide: the clock, which must be virtual (`autojump_clock`), since on the real
    one two runs are never the same; threads and the kernel's sockets; what programs take from the
    operating system themselves (`os.urandom`, `secrets`, `uuid4`, a `Random()` of their own, the
    key of an opening handshake, TLS); and the order of sets of strings, which PYTHONHASHSEED does.

    Args:
        seed: a whole number.

    Concurrency: for one thread at a time, because Trio's order and `random` are the process's.
    """
    run: ModuleType = trio._core._run
    order: random.Random = run._r
    before = getattr(run, _FLAG), order.getstate(), random.getstate()
    setattr(run, _FLAG, True)
    order.seed(seed)
    random.seed(seed)
    try:
        with seeded(seed):
            yield
    finally:
        setattr(run, _FLAG, before[0])
        order.setstate(before[1])
        random.setstate(before[2])
