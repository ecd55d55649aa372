"""Invariant 17 in the simulation: what a hub holds of the memory of the process, at its bound and
while very many catch up."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import pytest

from tests.simulation.checks import Checks, Visit
from tests.simulation.runner import run
from tests.simulation.scenario import NEWS, SERVERS, TICKS, Archive, Person, Scenario, Trouble
from trioweb import Limits, Retain, Topic
from trioweb.testing import Conditions, Plan

_BOUND = 2 * 2**20
# From where memory is asked for to the topic that wants it; more of them cost very much time.
_FRAMES = 4
# How many ticks pass between two looks, which cost more than all else.
_TICKS_PER_LOOK = 16


@pytest.mark.slow
def test_memory_of_a_hub_is_within_its_bound_while_many_catch_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Twice what the hub may hold; and a block is small beside that, since those that are under way
    # to peers count here, too.
    archive = Archive(publications=200, size=20_000, readers=16, max_bytes=2 * _BOUND)
    scenario = replace(
        Scenario.of(0),
        people=(Person("ann", topics=(NEWS, TICKS)),),
        max_hub_bytes=_BOUND,
        ticks=5,
        archive=archive,
        limits=Limits(),
        retain=Retain(),
        conditions=Conditions(),
        max_bytes=2**16,
        busy=60,
        quiet=0,
        plan=Plan(),
        secure=False,
        troubles=(Trouble("rush", SERVERS[0], 10), Trouble("rush", SERVERS[0], 40)),
    )
    published = Checks.published
    held: list[int] = []

    def look(self: Checks, topic: Topic, offset: int, text: str, skip: Visit | None) -> None:
        published(self, topic, offset, text, skip)
        if topic.name == TICKS and offset % _TICKS_PER_LOOK == 0:
            held.append(_held_by_topics())

    monkeypatch.setattr(Checks, "published", look)
    tracemalloc.start(_FRAMES)
    try:
        result, _ = run(scenario)
    finally:
        tracemalloc.stop()
    assert len(held) > 5
    assert 0.5 * _BOUND < max(held) < 1.5 * _BOUND, held
    assert not result.violations


def _held_by_topics() -> int:
    """Bytes of memory that topics have asked for, themselves or by what they called."""
    gc.collect()
    topics = tracemalloc.Filter(True, "*/trioweb/_topics/*", all_frames=True)
    snapshot = tracemalloc.take_snapshot().filter_traces([topics])
    return sum(trace.size for trace in snapshot.traces)
