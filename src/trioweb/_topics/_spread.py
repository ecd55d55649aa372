"""A node for each of several engines, which share the topics: one that fails takes only its part
along."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Protocol, runtime_checkable

import trio

from ._broker import Receipt
from ._details import Details
from ._engine_link import Broker, BrokerStatistics
from ._node import EngineNode
from ._node_presence import NodePresence
from ._presence import DoLater, Follower, Member, PresenceCount
from ._retention import Retention
from ._topic import Topic
from ._window import Window


@runtime_checkable
class Spread(Protocol):
    """A broker with several engines."""

    @property
    def engines(self) -> Sequence[Broker]:
        """A broker for each engine, which joins hubs for a part of the topics."""
        ...

    def engine_of(self, topic: str) -> Broker:
        """The one of them that has *topic*."""
        ...


class SpreadNode:
    """See `EngineNode`, of which this has one for each engine."""

    def __init__(self, broker: Spread) -> None:
        self._broker = broker
        self._nodes = {engine: EngineNode(engine) for engine in broker.engines}

    def statistics(self) -> BrokerStatistics:
        found = [node.statistics() for node in self._nodes.values()]
        numbers = [each.name for each in fields(BrokerStatistics) if each.name != "connected"]
        return BrokerStatistics(
            connected=all(one.connected for one in found),
            **{name: sum(getattr(one, name) for one in found) for name in numbers},
        )

    def publish(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> int:
        return self._of(topic).publish(topic, frame, skip, details)

    def post(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> Receipt:
        return self._of(topic).post(topic, frame, skip, details)

    async def wait_room(self, topic: Topic, size: int) -> None:
        await self._of(topic).wait_room(topic, size)

    def window(self, topic: Topic) -> Window:
        return self._nodes[self._broker.engine_of(topic.name)].window(topic)

    def begin(self, topic: Topic) -> tuple[str, int]:
        return self._of(topic).begin(topic)

    def _of(self, topic: Topic) -> EngineNode:
        assert topic._window is not None
        node = topic._window.node
        assert isinstance(node, EngineNode)
        return node

    def open_presence(self, retention: Retention, do_later: DoLater) -> SpreadPresence:
        parts = {
            engine: node.open_presence(retention, do_later) for engine, node in self._nodes.items()
        }
        return SpreadPresence(lambda topic: parts[self._broker.engine_of(topic)], parts.values())

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self._nodes.values():
                nursery.start_soon(node.run)

    async def flush(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self._nodes.values():
                nursery.start_soon(node.flush)

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()


class SpreadPresence:
    """See `Presence`: each topic is with one of *parts*, as *find* says."""

    def __init__(
        self, find: Callable[[str], NodePresence], parts: Collection[NodePresence]
    ) -> None:
        self._find = find
        self._parts = parts

    def enter(self, topic: str, key: str, member: Member) -> None:
        self._find(topic).enter(topic, key, member)

    async def wait_entered(self, topic: str, key: str) -> None:
        await self._find(topic).wait_entered(topic, key)

    def leave(self, topic: str, key: str) -> None:
        self._find(topic).leave(topic, key)

    async def members(self, topic: str) -> dict[str, Member]:
        return await self._find(topic).members(topic)

    async def count(self, topic: str) -> PresenceCount:
        return await self._find(topic).count(topic)

    def follow(self, topic: str, follower: Follower) -> None:
        self._find(topic).follow(topic, follower)

    def unfollow(self, topic: str, follower: Follower) -> None:
        self._find(topic).unfollow(topic, follower)

    def size(self, topic: str) -> int:
        return self._find(topic).size(topic)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def open_node(broker: Broker) -> EngineNode | SpreadNode:
    """The part of a hub in *broker*."""
    if isinstance(broker, Spread) and len(broker.engines) > 1:
        return SpreadNode(broker)
    return EngineNode(broker)
