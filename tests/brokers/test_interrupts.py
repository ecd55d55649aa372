"""A hub with a broker under Ctrl-C, at each of its lines."""

from __future__ import annotations

import trio

from trioweb import Retain, open_hub
from trioweb.testing import MemoryBroker, interrupt_everywhere


async def _scenario() -> None:
    broker = MemoryBroker()
    async with open_hub(broker=broker) as one, open_hub(broker=broker) as other:
        topics = [hub.topic("news", retain=Retain(max_messages=3)) for hub in (one, other)]
        with topics[1].publications(history=1) as publications:
            await topics[0].publish_confirmed("a")
            assert (await anext(publications)).message == "a"
            topics[0].publish("b")
            broker.cut()
            topics[0].post("c")
            assert [(await anext(publications)).message for _ in "bc"] == ["b", "c"]
        await topics[0].load(history=3)
        with topics[1].presence_changes() as changes:
            await topics[0].enter("ann")
            assert (await anext(changes)).key == "ann"
            broker.cut()
            topics[0].leave("ann")
            assert not (await anext(changes)).is_there
            assert await topics[1].members() == {}
        await trio.sleep(12)


def test_an_interrupt_comes_out_of_a_hub_with_a_broker() -> None:
    """Invariant 14."""
    names = ("node", "window", "broker", "hub", "node_presence", "mirror", "presence_changes")
    packages = [f"trioweb._topics._{name}" for name in names]
    assert interrupt_everywhere(_scenario, packages=packages, max_runs=300) == 300
