"""Whoever receives a flood and publishes it lets others run after about a millisecond of work."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any, Final

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.support import TEXT, Frame, RawPeer
from trioweb import Limits, Request, Topic, open_hub
from trioweb._client._streams import Messages, Stream
from trioweb._connection import Connection
from trioweb._effort import A_TURN
from trioweb._link import Link
from trioweb.testing import stream_pair

_FLOOD: Final = 3000


class Watch(trio.abc.Instrument):
    """Counts what is published in one turn of a task."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._before = topic.head
        self.turns = 0
        self.most = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._topic.head

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.turns += 1
        self.most = max(self.most, self._topic.head - self._before)


async def _publish_all(source: AsyncIterable[Any], topic: Topic, size: int) -> None:
    async for _ in source:
        topic.publish("x" * size)
        if topic.head == _FLOOD:
            break


def _flooded_connection(nursery: trio.Nursery) -> Connection:
    ours, theirs = stream_pair()
    # All of it is decoded before anything is received.
    flood = RawPeer(theirs, is_client=True).encode(Frame(TEXT, b"x")) * _FLOOD
    limits = Limits(inbox_messages=None)
    link = Link(ours, flood, is_client=False, limits=limits, spawn=nursery.start_soon)
    link.carrier.start()
    return Connection(link, Request("GET", "/", []))


def _flooded_stream() -> Messages[Any]:
    stream = Stream(events=False, max_messages=_FLOOD, full="wait", name="test")
    stream.put(["x"] * _FLOOD)
    return Messages(stream, leave=lambda _: None, taken=lambda: None)


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("side", ["connection", "client"])
async def test_flood_that_is_published_lets_others_run_after_a_millisecond_of_work(
    side: str, size: int, nursery: trio.Nursery
) -> None:
    async with open_hub() as hub:
        topic = hub.topic("news")
        source: Any = _flooded_stream()
        if side == "connection":
            source = connection = _flooded_connection(nursery)
            with trio.fail_after(5):
                while len(connection.link.inbox.messages) < _FLOOD:
                    await trio.lowlevel.checkpoint()
        watch = Watch(topic)
        trio.lowlevel.add_instrument(watch)
        await _publish_all(source, topic, size)
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(watch)
        # 4 µs for each, and 1 more for each KiB.
        assert watch.most <= A_TURN / (16 + size / 256) + 1
        assert watch.most > A_TURN / (16 + size / 256) / 2
        nursery.cancel_scope.cancel()


async def test_flood_that_is_only_received_costs_no_turns_of_the_scheduler() -> None:
    messages = _flooded_stream()
    async with open_hub() as hub:
        watch = Watch(hub.topic("news"))
        trio.lowlevel.add_instrument(watch)
        for _ in range(_FLOOD):
            await messages.receive()
        trio.lowlevel.remove_instrument(watch)
    assert watch.turns == 0
