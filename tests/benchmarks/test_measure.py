"""Each kind of measurement once, in its smallest size, with what needs no other package."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from benchmarks.cases import CASES, Case
from benchmarks.measure import Cores, measure
from benchmarks.peers import BARE_TRIO, FLOOR, OURS
from benchmarks.task import Task

pytestmark = [pytest.mark.network, pytest.mark.slow]


def _smallest(task: Task) -> Task:
    small = replace(task, connections=min(task.connections, 4), burst=min(task.burst, 5))
    match task.kind:
        case "stalled":
            # Large messages, so that they stall although they are few.
            return replace(small, stalled=4, publications=200, size=16 * 1024, rate=200)
        case "herd":
            return replace(small, returning=8)
        case "storm":
            return replace(small, returning=8, publications=5, seconds=0.05)
        case "hub-memory":
            return replace(small, publications=1000)
        case "broker":
            return replace(small, publications=128, seconds=0.05)
        case "reconnect":
            return replace(small, connections=1)
        case _:
            return replace(small, seconds=0.05)


def _measurements() -> list[object]:
    """Each distinct one, with the name of the first case that it stands for."""
    found: dict[tuple[str, Task], tuple[str, Case]] = {}
    for name, case in CASES.items():
        for peer in (peer for peer in case.peers if peer in (OURS, FLOOR, BARE_TRIO)):
            # Neither the number of connections nor a size makes another code path.
            same = replace(_smallest(case.task), connections=1, burst=1, size=64)
            found.setdefault((peer, same), (name, case))
    return [
        pytest.param(
            peer,
            case,
            id=f"{name}-{peer}",
            marks=[pytest.mark.redis] if case.task.kind == "broker" else [],
        )
        for (peer, _), (name, case) in found.items()
    ]


@pytest.mark.parametrize(("peer", "case"), _measurements())
def test_measurement_finds_the_figures_of_its_case(peer: str, case: Case) -> None:
    cores = sorted(os.sched_getaffinity(0))
    figures = measure(peer, Cores(cores[0], cores[-1]), _smallest(case.task))
    assert set(case.figures) <= set(figures)
