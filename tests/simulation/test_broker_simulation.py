"""Hubs with a broker while everything fails, with the ordinary tests: seeds, and proof that it can
fail."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation.broker_mutants import MUTANTS, WORKER_MUTANTS
from tests.simulation.broker_world import KINDS, Kind, Record, run, run_lossy

_SEEDS = {"memory": range(16), "workers": range(10)}
# What can happen with one of them only, or that seldom in few seeds.
_ALONE = {"memory": {"split", "node killed"}, "workers": {"stall", "a worker was too slow"}}
_MANY = {"memory": range(16, 266), "workers": range(10, 110)}


@cache
def records(kind: Kind) -> list[Record]:
    return [run(seed, kind) for seed in _SEEDS[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_invariants_hold_whatever_breaks(kind: Kind) -> None:
    for seed, record in zip(_SEEDS[kind], records(kind), strict=True):
        assert not record.wrong, (seed, record.wrong[:5])


def test_an_engine_that_loses_something_in_silence_is_found_out() -> None:
    assert not run_lossy().wrong


@pytest.mark.parametrize("kind", KINDS)
def test_the_runs_reach_what_they_are_about(kind: Kind) -> None:
    reached = set[str]().union(*(record.reached for record in records(kind)))
    assert reached >= {"recovered", "not recovered", "a life ended", "full", "refused", "came back"}
    assert reached >= {"cut", "late", "restart", "restart with nothing", "fail over", "record"}
    assert reached >= {"log", "memory", "kill", "stop", "away"}
    assert reached >= _ALONE[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_invariants_hold_in_many_seeds(kind: Kind) -> None:
    for seed in _MANY[kind]:
        record = run(seed, kind)
        assert not record.wrong, (seed, record.wrong[:5])


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert run_lossy().wrong or any(run(seed).wrong for seed in _SEEDS["memory"])


@pytest.mark.parametrize("name", WORKER_MUTANTS)
def test_mutants_of_workers_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    WORKER_MUTANTS[name](monkeypatch)
    assert any(run(seed, "workers").wrong for seed in _SEEDS["workers"])
