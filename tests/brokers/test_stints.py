"""Answers to what was asked before a topic was left, or asked for again, are for nobody."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.topics.support import Peers
from trioweb import BrokerPolicy, HubFull, Position, open_hub
from trioweb.testing import MemoryBroker


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_an_answer_to_a_topic_that_was_left_is_not_for_whoever_comes_back(
    peers: Peers, autojump_clock: trio.testing.MockClock
) -> None:
    """What is published between the two is in neither the answer nor what is pushed."""
    broker = MemoryBroker(latency=1, policy=BrokerPolicy(linger=0))
    async with open_hub(broker=broker) as one, open_hub(broker=broker) as other:
        epoch, _ = await one.topic("news").publish_confirmed("a")
        topic = other.topic("news")
        topic.subscribe(peers.open().connection).close()
        await trio.sleep(0.2)
        assert other.statistics().topics == 0
        receipt = one.topic("news").post("b")
        await trio.sleep(0.3)
        peer = peers.open()
        with topic.subscribe(peer.connection, since=Position(epoch, 1)) as subscription:
            await trio.sleep(1.6)
            assert not subscription.placed  # the first answer has come
            await trio.sleep(10)
            assert await receipt.confirmed() == (epoch, 2)
            assert subscription.recovered
            assert peer.messages == ["b"]


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_a_topic_that_is_waited_for_is_not_forgotten_for_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker(latency=1)
    async with open_hub(broker=broker, max_topics=1) as hub, trio.open_nursery() as nursery:
        await trio.sleep(5)
        nursery.start_soon(hub.topic("news").load)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(HubFull):
            hub.topic("other")
        await trio.sleep(5)
        assert not nursery.child_tasks
        assert hub.topic("other").name == "other"
