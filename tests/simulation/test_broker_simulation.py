"""Hubs with a broker while everything fails, with the ordinary tests: seeds, and proof that it can
fail."""

from __future__ import annotations

import pytest

from tests.simulation.broker_mutants import MUTANTS
from tests.simulation.broker_world import Record, run, run_lossy

_SEEDS = range(16)
_MANY = range(16, 266)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [run(seed) for seed in _SEEDS]


def test_the_invariants_hold_whatever_breaks(records: list[Record]) -> None:
    for seed, record in zip(_SEEDS, records, strict=True):
        assert not record.wrong, (seed, record.wrong[:5])
    assert not run_lossy().wrong


def test_the_runs_reach_what_they_are_about(records: list[Record]) -> None:
    reached = set[str]().union(*(record.reached for record in records))
    assert reached >= {"recovered", "not recovered", "a life ended", "full", "refused"}
    assert reached >= {"cut", "late", "restart", "restart with nothing", "fail over", "record"}
    assert reached >= {"log", "memory", "kill", "node killed", "stop", "away", "split"}


@pytest.mark.slow
def test_the_invariants_hold_in_many_seeds() -> None:
    for seed in _MANY:
        record = run(seed)
        assert not record.wrong, (seed, record.wrong[:5])


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert run_lossy().wrong or any(run(seed).wrong for seed in _SEEDS)
