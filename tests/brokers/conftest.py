"""What tests of brokers are given: peers, and a way to make a broker of each kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Protocol

import pytest
import trio.testing

from tests.brokers.redis_broker import QUIET, FaultyRedisBroker, Timekeeper
from tests.brokers.redis_server import RedisServer, run_redis
from tests.brokers.worker_broker import FaultyWorkerBroker
from tests.topics.support import Peers, open_peers
from trioweb import Broker, BrokerPolicy
from trioweb._topics._commands import Pushed
from trioweb._workers import Switchboard
from trioweb.testing import MemoryBroker


class FaultyBroker(Broker, Protocol):
    """A broker for which faults can be made, as `MemoryBroker` has them."""

    def cut(self) -> None: ...
    def arrive_late(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def restart(self, *, lost: int | None = 0) -> None: ...
    def fail_over(self, *, lost: int = 0) -> None: ...
    def shut_down(self) -> None: ...
    def start(self) -> None: ...
    def refuse(self, reason: str | None) -> None: ...
    def evict_record(self, topic: str) -> None: ...
    def evict_log(self, topic: str) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def lose_pushes(self, count: int) -> None: ...
    def flush(self) -> None: ...

    async def pass_time(self, seconds: int) -> None:
        """Let time pass here and at the engine."""


class FaultyMemoryBroker(MemoryBroker):
    """Shares its engine, which has our clock, with those that were made before."""

    def __init__(self, brokers: list[FaultyMemoryBroker], policy: BrokerPolicy) -> None:
        super().__init__(policy=policy)
        self._brokers = brokers
        brokers.append(self)
        self._engine = brokers[0]._engine

    def _push(self, pushed: Pushed) -> None:
        for broker in self._brokers:
            MemoryBroker._push(broker, pushed)

    async def pass_time(self, seconds: int) -> None:
        await trio.sleep(seconds)


class MakeBroker(Protocol):
    """Makes a broker; all that a test makes have the same engine."""

    def __call__(self, policy: BrokerPolicy) -> FaultyBroker: ...


@pytest.fixture(params=["memory", "workers", pytest.param("redis", marks=pytest.mark.redis)])
def engine(request: pytest.FixtureRequest) -> str:
    """The kind of engine; every kind passes the same tests."""
    kind: str = request.param
    return kind


@pytest.fixture
def autojump_clock(engine: str) -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=QUIET if engine == "redis" else 0)


@pytest.fixture
def redis_server(tmp_path: Path) -> Generator[RedisServer]:
    with run_redis(tmp_path) as server:
        yield server


@pytest.fixture
def make_broker(
    engine: str, autojump_clock: trio.testing.MockClock, request: pytest.FixtureRequest
) -> Generator[MakeBroker]:
    if engine == "memory":
        brokers: list[FaultyMemoryBroker] = []

        yield lambda policy: FaultyMemoryBroker(brokers, policy)
    elif engine == "workers":
        switchboard = Switchboard(max_topics=10_000, max_bytes=64 * 2**20)
        yield lambda policy: FaultyWorkerBroker(policy, switchboard)
    else:
        server = request.getfixturevalue("redis_server")
        times = Timekeeper(autojump_clock)
        yield lambda policy: FaultyRedisBroker(server, policy, times)
        for broker in times.brokers:
            broker.close()


@pytest.fixture
def broker(make_broker: MakeBroker) -> FaultyBroker:
    return make_broker(BrokerPolicy())


@pytest.fixture
async def peers() -> AsyncGenerator[Peers]:
    async with open_peers() as peers:
        yield peers
