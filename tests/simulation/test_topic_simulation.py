"""Topic clients over a network that flaps, with the ordinary tests: seeds, and proof that it can
fail."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import mutated
from tests.simulation.topic_mutants import TOPIC_MUTANTS
from tests.simulation.topic_world import run, run_all

_SEEDS = 12
_MANY = 40


def test_simulation_of_topic_clients_finds_nothing_and_reaches_everything() -> None:
    total = run_all(0, _SEEDS)
    assert not total.violations, total
    assert not total.unreached, total


@pytest.mark.slow
def test_simulation_of_topic_clients_finds_nothing_in_many_seeds() -> None:
    total = run_all(_SEEDS, _MANY)
    assert not total.violations, total


def test_simulation_of_topic_clients_is_the_same_twice() -> None:
    assert str(run(1).network.trace) == str(run(1).network.trace)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPIC_MUTANTS)
def test_simulation_catches_a_mutant_of_topics(name: str) -> None:
    with mutated(name, TOPIC_MUTANTS):
        assert any(run(seed).checks.violations for seed in range(_SEEDS))
