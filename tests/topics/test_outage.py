"""A broker that is away is told, once, now and then, and when it is back."""

from __future__ import annotations

import logging
import re
from itertools import pairwise

import pytest
import trio
import trio.testing

from trioweb import BrokerPolicy, Retry, open_hub
from trioweb._topics._outage import Outage
from trioweb.testing import MemoryBroker

_STABLE = 5


@pytest.fixture
def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.INFO, "trioweb.topics")
    return Outage(_STABLE)


async def test_what_goes_on_is_told_at_intervals_that_grow_to_an_hour(
    outage: Outage, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    start, told = trio.current_time(), []
    for _ in range(24 * 3600 // 5):
        before = len(caplog.records)
        outage.fail("refused")
        if len(caplog.records) > before:
            told.append(round(trio.current_time() - start))
        await trio.sleep(5)
    assert told[:5] == [0, 10, 30, 70, 150]
    assert max(later - earlier for earlier, later in pairwise(told)) == 3600
    assert caplog.messages[:2] == [
        "no connection to the broker: refused",
        "no connection to the broker for 10.0 s, 3 attempts: refused",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_each_new_reason_is_told_at_once_but_not_without_end(
    outage: Outage, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(3):
        for number in range(100):
            outage.fail(f"reason {number}")
    assert len(caplog.messages) == 8


async def test_end_is_told_once_with_how_long_it_took(
    outage: Outage, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    outage.end()
    assert caplog.messages == [], "that there is a first connection is no news"
    await trio.sleep(60)
    for _ in range(2):
        outage.fail("lost")
        await trio.sleep(2)
    outage.end()
    assert caplog.messages == [
        "no connection to the broker: lost",
        "connected to the broker again, after 4.0 s and 2 attempts",
    ]
    await trio.sleep(_STABLE)
    outage.fail("lost")
    assert caplog.messages[2:] == ["no connection to the broker: lost"], "this is another one"


async def test_connection_that_is_lost_at_once_ends_no_outage(
    outage: Outage, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(1000):
        outage.fail("it is a replica")
        await trio.sleep(0.05)
        outage.end()
        await trio.sleep(0.05)
    beginnings = [line for line in caplog.messages if line.startswith("no connection")]
    assert len(beginnings) == 4  # at 0, 10, 30 and 70 s
    assert len(caplog.messages) == 2 * len(beginnings)


async def test_hub_tells_that_its_broker_is_away_and_back(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "trioweb.topics")
    policy = BrokerPolicy(retry=Retry(initial=0.1, maximum=1))
    broker = MemoryBroker(policy=policy)
    async with open_hub(broker=broker) as hub:
        await hub.topic("news").wait_live()
        broker.shut_down()
        await trio.sleep(25)
        broker.start()
        await hub.topic("news").publish_confirmed("a")
    first, *others, last = [line for line in caplog.messages if "to the broker" in line]
    assert first.startswith("no connection to the broker: ")
    assert 1 <= len(others) <= 3  # a second reason, and that it goes on
    found = re.fullmatch(r"connected to the broker again, after 2\d\.\d s and (\d+) attempts", last)
    assert found is not None
    attempts = int(found[1])
    told = hub.broker
    assert attempts > 20
    assert told is not None and told.attempts == attempts + 1 and told.connects == 2
