"""The simulation with the ordinary tests: some seeds and determinism; with the slow ones 200 seeds,
and proof that it can fail."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.runner import Result, run, run_seed
from tests.simulation.scenario import Scenario
from tests.simulation.yardstick import measure_seed

_ROOT = Path(__file__).parents[2]
_SEEDS = range(200)
_FEW = range(30)
# What must not become rare, and how often it is to be reached in those seeds.
_OFTEN = {
    "evictions": 50,
    "skips": 50,
    "recoveries": 100,
    "readers caught up": 200,
    "readers vanished": 5,
    "publications written at once": 5000,
}
# The seed of a kind that is rare; the test looks that it is.
_SECURE_ARCHIVE = 92


@pytest.fixture(scope="module")
def runs() -> dict[int, tuple[Result, str]]:
    """What came of each seed, and what its trace is to be in every other run."""
    return {seed: _run(seed) for seed in _SEEDS}


def _run(seed: int) -> tuple[Result, str]:
    result, world = run(Scenario.of(seed))
    return result, hashlib.sha256(str(world.network.trace).encode()).hexdigest()


def test_simulation_finds_nothing_in_a_few_seeds() -> None:
    for seed in _FEW:
        assert not run_seed(seed).violations, seed


@pytest.mark.slow
def test_simulation_finds_nothing_and_reaches_everything(
    runs: dict[int, tuple[Result, str]],
) -> None:
    total = Result()
    for result, _ in runs.values():
        total.add(result)
    assert total.seeds == len(_SEEDS)
    assert not total.violations, total
    assert not total.unreached, total
    for kind, least in _OFTEN.items():
        assert total.reached[kind] >= least, total


# One of each kind: plain, TLS, an archive, an archive over TLS, orderly servers.
@pytest.mark.parametrize("seed", [0, 7, 22, _SECURE_ARCHIVE, 4])
def test_simulation_of_a_seed_is_the_same_twice(seed: int) -> None:
    scenario = Scenario.of(_SECURE_ARCHIVE)
    assert scenario.secure
    assert scenario.archive is not None
    assert _trace(seed) == _trace(seed)


@pytest.mark.slow
def test_simulation_of_each_seed_is_the_same_twice(runs: dict[int, tuple[Result, str]]) -> None:
    assert not [seed for seed, (_, trace) in runs.items() if _run(seed)[1] != trace]


# Plain, and an archive over TLS, whose keys are new in each process.
@pytest.mark.parametrize("seed", ["0", str(_SECURE_ARCHIVE)])
def test_simulation_of_a_seed_is_the_same_whatever_the_hashes(seed: str) -> None:
    def play(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tests.simulation.runner", "--seed", seed, "--events", "100000"],
            cwd=_ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        ).stdout

    first = play("0")
    assert first.count("\n") > 500
    assert play("1") == first


def _trace(seed: int) -> str:
    return str(run(Scenario.of(seed))[1].network.trace)


def test_simulation_of_a_scenario_can_be_written_down() -> None:
    scenario = Scenario.of(3)
    names: dict[str, object] = {}
    exec("from trioweb import *; from trioweb.testing import *", names)
    exec("from tests.simulation.scenario import *", names)
    again = eval(repr(scenario), names)
    assert again == scenario
    assert str(run(again)[1].network.trace) == str(run(scenario)[1].network.trace)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_simulation_catches_a_mutant(name: str) -> None:
    with mutated(name):
        assert any(run_seed(seed).violations for seed in _SEEDS)


def test_yardstick_measures_the_same_run_alike_and_another_one_not() -> None:
    assert measure_seed(3) == measure_seed(3)
    assert measure_seed(3)[1:] != measure_seed(4)[1:]
