"""How the tests here count what an attack costs."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import trio
import trio.testing

from tests.server.support import Site
from trioweb import Connection

KIB: Final = 2**10
MIB: Final = 2**20

# Of a cost that should be linear: measured at one size and at this many times that.
_FACTOR: Final = 8
# Quadratic would be 64 times as much; the machine may have other things to do meanwhile.
_MOST: Final = 24


class Memory:
    """What was allocated in a block, in bytes: at the end, and at the worst moment."""

    kept = 0
    peak = 0


@contextmanager
def traced() -> Generator[Memory]:
    memory = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1] - before
        gc.collect()
        memory.kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def assert_linear(attack: Callable[[int], Awaitable[object]], size: int) -> None:
    """Assert that *attack* costs hardly more than in proportion to its size."""
    costs = []
    for times in 1, _FACTOR:
        rounds = []
        for _ in range(3):
            begun = time.process_time()
            await attack(size * times)
            rounds.append(time.process_time() - begun)
        costs.append(min(rounds))
    assert costs[1] < _MOST * costs[0], f"{_FACTOR} times the size takes {costs} s"


async def assert_alone(site: Site, tasks_before: int) -> None:
    """Assert that nothing is left of anybody: no stream and no task."""
    await trio.testing.wait_all_tasks_blocked()
    assert site.streams == 0
    assert site.server.statistics().opening == 0
    assert tasks() == tasks_before


async def unreachable(_: Connection) -> None:
    raise AssertionError("a handler was started")
