"""What tests of brokers are given: peers, and a way to make a broker of each kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

import pytest

from tests.topics.support import Peers, open_peers
from trioweb import BrokerPolicy
from trioweb.testing import MemoryBroker

# A broker for which faults can be made: as `MemoryBroker` has them.
MakeBroker: TypeAlias = Callable[[BrokerPolicy], MemoryBroker]


def _in_memory(policy: BrokerPolicy) -> MemoryBroker:
    return MemoryBroker(policy=policy)


@pytest.fixture(params=[pytest.param(_in_memory, id="memory")])
def make_broker(request: pytest.FixtureRequest) -> MakeBroker:
    """Makes a broker; every kind passes the same tests."""
    make: MakeBroker = request.param
    return make


@pytest.fixture
def broker(make_broker: MakeBroker) -> MemoryBroker:
    return make_broker(BrokerPolicy())


@pytest.fixture
async def peers() -> AsyncGenerator[Peers]:
    async with open_peers() as peers:
        yield peers
