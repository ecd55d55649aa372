"""The people of `topic_world`: programs with a topic client each, of which all is cancelled now and
then.

Each reads two topics that it asks for and whatever the server subscribes it to, publishes, and
calls.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

import trioweb
from trioweb import Heartbeat, Hub, Retry, ServerSubscriptions, TopicClient, TopicSubscription
from trioweb._topic_client._following import State as FollowingState
from trioweb._topic_client._items import ServerItem

from .topic_checks import GrantedReader, Reader

if TYPE_CHECKING:
    from .topic_world import TopicWorld

# What they ask for: a topic that retains all, and one that retains next to nothing.
LONG: Final = "long:1"
SHORT: Final = "short:1"
# What the server subscribes them to: each to a topic of its own from the start, and some, now and
# then, to one for all.
OWN: Final = "own"
GIVEN: Final = "given:1"

PORT: Final = 80
HEARTBEAT: Final = Heartbeat(interval=3, timeout=3)
_RETRY: Final = Retry(initial=0.1, maximum=1)


class Person:
    """A program with a topic client, or rather with one after the other.

    Attributes:
        own: the topic that the server has for it alone.
        client: the present one.
    """

    def __init__(self, world: TopicWorld, name: str, format: str) -> None:
        self.name = name
        self.own = f"{OWN}:{name}"
        self.client: TopicClient | None = None
        # What the present client has of the topics of the server's choice.
        self._granted: GrantedReader | None = None
        self._world = world
        self._checks = world.checks
        self._format = format
        self._random = Random(f"{name} {world.random.random()}")
        self._readers = {topic: Reader(world.checks, name, topic) for topic in (LONG, SHORT)}
        self._blocks: dict[str, trio.CancelScope] = {}
        self._life = trio.CancelScope()
        self._number = 0

    def leave(self, topic: str) -> None:
        """Have it leave the topic, wherever it is with that, and come back."""
        if topic in self._blocks:
            self._blocks[topic].cancel()

    def end(self) -> None:
        """Have its client end, whatever that is doing, and begin another."""
        self._life.cancel()

    def has_caught_up(self, hub: Hub | None) -> bool:
        """Whether it has all that there is."""
        if hub is None or self._granted is None or len(self._blocks) < len(self._readers):
            return False
        granted = self._granted.positions
        here = {name: reader.position for name, reader in self._readers.items()}
        here |= {name: granted.get(name) for name in (self.own, GIVEN)}
        heads = {name: (hub.topic(name).epoch, hub.topic(name).head) for name in here}
        return here == heads

    async def run(self) -> None:
        while not self._world.ending.is_set():
            with trio.CancelScope() as self._life:
                await self._run_client()
            self._checks.reached["cancelled clients"] += self._life.cancelled_caught
            self.client = None

    async def _run_client(self) -> None:
        async with trioweb.open_topic_client(
            f"ws://server:{PORT}/",
            data=self.name,
            subprotocols=[self._format],
            retry=_RETRY,
            heartbeat=HEARTBEAT,
            dial=self._world.network.host(self.name).dial,
        ) as self.client:
            # Before anything is awaited, so that these have all from the beginning on.
            streams = {
                has_room: self.client.server_subscriptions(
                    events=True, max_messages=100_000 if has_room else 4
                )
                for has_room in (True, False)
            }
            async with trio.open_nursery() as nursery:
                for has_room, stream in streams.items():
                    reader = GrantedReader(self._checks, self.name, self.own, has_room=has_room)
                    if has_room:
                        self._granted = reader
                    nursery.start_soon(self._hear, stream, reader)
                for topic in (LONG, SHORT):
                    nursery.start_soon(self._follow, self.client, topic)
                nursery.start_soon(self._talk, self.client)
                await self._world.ending.wait()
                nursery.cancel_scope.cancel()

    # Reading.

    async def _follow(self, client: TopicClient, topic: str) -> None:
        reader = self._readers[topic]
        while True:
            with trio.CancelScope() as scope:
                self._blocks[topic] = scope
                try:
                    async with client.subscription(
                        topic,
                        since=reader.position,
                        events=True,
                        max_messages=self._random.choice((16, 64, 1000)),
                    ) as subscription:
                        reader.begin(subscription.position)
                        await self._read(subscription, reader)
                finally:
                    del self._blocks[topic]
            self._checks.reached["cancelled subscriptions"] += 1

    async def _read(self, subscription: TopicSubscription[Any], reader: Reader) -> None:
        """Read, with calls that are cancelled, now quickly and now slowly."""
        random, healed = self._random, self._world.healed
        while True:
            patience = 1e9 if random.random() < 0.8 else random.uniform(0, 0.1)
            with trio.move_on_after(patience) as scope:
                item = await anext(subscription)
                reader.read(item, subscription.position)
            self._checks.reached["cancelled reads"] += scope.cancelled_caught
            state = subscription._following.state
            self._checks.reached["full subscriptions"] += state is FollowingState.FULL
            if random.random() < 0.05 and not healed.is_set():
                await trio.sleep(random.uniform(0, 0.5))

    async def _hear(self, stream: ServerSubscriptions[ServerItem], reader: GrantedReader) -> None:
        """Read what the server has subscribed it to, with calls that are cancelled; where there is
        little room, slowly."""
        random, healed = self._random, self._world.healed
        while True:
            patience = 1e9 if random.random() < 0.8 else random.uniform(0, 0.1)
            with trio.move_on_after(patience) as scope:
                reader.read(*await anext(stream))
            self._checks.reached["cancelled reads"] += scope.cancelled_caught
            if not reader.has_room and random.random() < 0.3 and not healed.is_set():
                await trio.sleep(random.uniform(0, 2))

    # Publishing and calling.

    async def _talk(self, client: TopicClient) -> None:
        random, checks = self._random, self._checks
        while not self._world.healed.is_set():
            await trio.sleep(random.uniform(0, 0.2))
            patience = random.choice((1e9, 1e9, random.uniform(0, 0.2)))
            if random.random() < 0.1:
                await self._call(client)
                continue
            self._number += 1
            text = f"{self.name} {self._number}"
            # It may have left the topic, or be full: then it is refused.
            with trio.move_on_after(patience) as scope, suppress(trioweb.Refused):
                await client.publish(LONG, [text])
                checks.confirmed(text)
            checks.reached["cancelled publishing"] += scope.cancelled_caught

    async def _call(self, client: TopicClient) -> None:
        """Call, without a deadline that the server could be told of, and not for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_later, nursery.cancel_scope)
            with suppress(trioweb.TriowebError):
                await client.call("sleep", self._random.choice((0, 1, 1000)))
            nursery.cancel_scope.cancel()

    async def _cancel_later(self, scope: trio.CancelScope) -> None:
        await trio.sleep(self._random.uniform(0, 5))
        self._checks.reached["cancelled calls"] += 1
        scope.cancel()
