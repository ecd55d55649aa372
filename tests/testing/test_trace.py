"""The same seed gives the same trace: in one process, in another, whatever its hashes are."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trioweb._chance import new_random, random_bytes
from trioweb.testing import Network, Trace, deterministic

_SCENARIO = Path(__file__).with_name("scenario.py")


def trace_of_a_process(seed: int, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, _SCENARIO, str(seed)],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_trace_depends_on_the_seed_and_on_nothing_else() -> None:
    first = trace_of_a_process(7, "0")
    assert first.count("\n") > 50
    assert trace_of_a_process(7, "1") == first
    assert trace_of_a_process(7, "4711") == first
    assert trace_of_a_process(8, "0") != first


def test_deterministic_decides_pythons_random_and_gives_it_back() -> None:
    before = random.getstate()
    with deterministic(1):
        first = random.random()
    assert random.getstate() == before
    with deterministic(2), deterministic(1):
        assert random.random() == first


def test_chance_is_the_systems_again_after_a_seed() -> None:
    def draw() -> tuple[bytes, float]:
        return random_bytes(8), new_random().random()

    with deterministic(1):
        first = draw()
        with deterministic(1):
            assert draw() == first
        assert draw() != first
    assert len({draw() for _ in range(3)} | {first}) == 4


def test_deterministic_makes_trios_order_repeatable_and_restores_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def order() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            seen.append(number)
            await trio.lowlevel.checkpoint()
            seen.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(note, number)
        return seen

    def order_of(seed: int) -> list[int]:
        with deterministic(seed):
            return trio.run(order)

    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    with deterministic(0):
        allowed = [trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING]
    assert [*allowed, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING] == [True, False]
    before = trio._core._run._r.getstate()
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(20)}) > 1
    assert trio._core._run._r.getstate() == before


def test_trio_still_has_the_hook_that_makes_its_order_repeatable() -> None:
    # If this fails, Trio has changed: look there for what has become of the hook, and change
    # `deterministic`.
    assert isinstance(trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    assert isinstance(trio._core._run._r, random.Random)


async def test_trace_names_time_hosts_event_and_length(autojump_clock: MockClock) -> None:
    network = Network(latency=0.5)
    await trio.sleep(100)
    a, b = await network.connect("laptop", "server")
    await a.send_all(b"hello")
    await b.receive_some()
    network.partition("laptop", "server", one_way=True, duration=2.5)
    network.stall("server").heal()
    await b.aclose()
    client, server = "laptop:49152", "server:49152"
    assert [tuple(event) for event in network.trace] == [
        (0, client, server, "dial", 0),
        (1, server, client, "accept", 0),
        (1, client, server, "send", 5),
        (1.5, server, client, "receive", 5),
        (1.5, "laptop", "server", "partition one way for 2.5s", 0),
        (1.5, "server", "", "stall", 0),
        (1.5, "server", "", "heal stall", 0),
        (1.5, server, client, "close", 0),
    ]
    lines = str(network.trace).splitlines()
    assert lines[3].split() == ["1.500000", server, ">", client, "receive", "5"]
    assert lines[5].split() == ["1.500000", "server", "stall"]


async def test_trace_keeps_the_last_events_and_counts_all() -> None:
    trace = Trace(max_events=3)
    for i in range(5):
        trace.note("a", "b", f"event{i}")
    assert trace.count == 5
    assert [event.event for event in trace] == ["event2", "event3", "event4"]
    assert trace.tail(2).splitlines()[0] == "(3 events before)"
    assert "event4" in trace.tail(1) and "event3" not in trace.tail(1)
    assert trace.tail(0) == "(5 events before)"


def test_luck_of_one_line_does_not_depend_on_another() -> None:
    async def delays(seed: int, *, other: bool) -> list[float]:
        network = Network(seed, jitter=1)
        a, b = await network.connect("laptop", "server")
        if other:
            await network.connect("phone", "server")
        arrivals = []
        for _ in range(5):
            begun = trio.current_time()
            await a.send_all(b"x")
            await b.receive_some()
            arrivals.append(round(trio.current_time() - begun, 6))
        return arrivals

    def run(seed: int, *, other: bool) -> list[float]:
        clock = MockClock(autojump_threshold=0)
        return trio.run(lambda: delays(seed, other=other), clock=clock)

    assert run(1, other=False) == run(1, other=True) != run(2, other=False)


def test_seed_must_be_a_whole_number() -> None:
    with pytest.raises(TypeError, match="seed"):
        Network(seed=None)  # type: ignore[arg-type]
