"""What a test has of the plugin's fixture; also under the oldest pytest: `nox -s oldest_pytest`."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from trioweb.testing import Network

_drawn: list[float] = []


@pytest.mark.network_conditions(latency=2)
async def test_network_has_the_conditions_of_the_marker(
    network: Network, autojump_clock: MockClock
) -> None:
    await network.connect("laptop", "server")
    assert trio.current_time() == 4


@pytest.mark.network_conditions(seed=5)
@pytest.mark.parametrize("time", ["first", "second"])
async def test_run_of_a_seed_repeats_what_chance_decides(
    time: str, network: Network, autojump_clock: MockClock
) -> None:
    await network.connect("laptop", "server")
    _drawn.append(random.random())
    assert len(set(_drawn)) == 1
