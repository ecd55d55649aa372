"""Runs scenarios, one or thousands, and says what came of it: `python -m tests.simulation.runner`.

Rules kept here: the same seed gives the same run; a failure comes with the line that runs it
again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from trioweb.testing import deterministic

from .checks import KINDS
from .scenario import Scenario
from .world import World

_DAY = 86400


@dataclass
class Result:
    """What came of one run, or of many."""

    seeds: int = 0
    seconds: float = 0
    outages: int = 0
    messages: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    # By seed.
    violations: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Result) -> None:
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.outages += other.outages
        self.messages += other.messages
        self.reached += other.reached
        self.violations |= other.violations

    @property
    def unreached(self) -> list[str]:
        return [kind for kind in KINDS if not self.reached[kind]]

    def __str__(self) -> str:
        lines = [
            f"{self.seeds} seeds, {self.seconds / _DAY:.1f} days of virtual time, "
            f"{self.outages} outages, {self.messages} messages",
            *(f"{self.reached[kind]:8} {kind}" for kind in KINDS),
        ]
        for seed, violations in sorted(self.violations.items())[:10]:
            lines.append(f"seed {seed}: run it again with: {again(seed)}")
            lines += [f"    {violation}" for violation in violations[:5]]
        if len(self.violations) > 10:
            lines.append(f"and {len(self.violations) - 10} seeds more")
        if self.unreached:
            lines.append(f"never reached: {', '.join(self.unreached)}")
        return "\n".join(lines)


def again(seed: int) -> str:
    return f"python -m tests.simulation.runner --seed {seed}"


def run(scenario: Scenario) -> tuple[Result, World]:
    """Run *scenario*; the world is for whoever wants to look at its network's trace."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    world = World(scenario)
    with _without_logs(), deterministic(scenario.seed):
        begun = clock.current_time()
        try:
            trio.run(world.live, clock=clock)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            world.checks.violations.append("".join(traceback.format_exception(exc)))
    checks = world.checks
    result = Result(
        seeds=1,
        seconds=clock.current_time() - begun,
        outages=world.outages,
        messages=checks.messages,
        reached=checks.reached,
    )
    if checks.violations:
        result.violations[scenario.seed] = checks.violations
    return result, world


def run_seed(seed: int) -> Result:
    return run(Scenario.of(seed))[0]


def run_seeds(seeds: Iterable[int], processes: int) -> Iterator[Result]:
    """The results of *seeds* as they come, from so many processes."""
    # Not a fork of whatever threads this process has.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(run_seed, seeds, chunksize=10)


@contextmanager
def _without_logs() -> Iterator[None]:
    """What goes wrong on purpose need not be told line by line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the simulation of trioweb.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="only this one, with its network's last events")
    parser.add_argument("--events", type=int, default=60, help="how many of those (%(default)s)")
    options = parser.parse_args()
    if options.seed is not None:
        scenario = Scenario.of(options.seed)
        total, world = run(scenario)
        print(world.network.trace.tail(options.events), scenario, total, sep="\n\n")
        return bool(total.violations)
    total, begun = Result(), time.perf_counter()
    for result in run_seeds(range(options.first, options.first + options.seeds), options.processes):
        total.add(result)
    print(total, f"in {time.perf_counter() - begun:.0f} s", sep="\n")
    return bool(total.violations or total.unreached)


if __name__ == "__main__":
    sys.exit(main())
