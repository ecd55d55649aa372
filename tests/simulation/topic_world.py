"""Topic clients, their server and a network that flaps: `python -m tests.simulation.topic_world`.

Each person runs one client after the other, reads two topics, publishes to one of them and calls;
any of that is cancelled now and then.  One topic retains everything, so nothing of it may be
missed but with the server's life; the other next to nothing.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

import trio
import trio.testing

import trioweb
from trioweb import (
    ConnectRequest,
    Heartbeat,
    Hub,
    Member,
    Retain,
    Retry,
    TopicClient,
    TopicRules,
    TopicServer,
    TopicSubscription,
    Welcome,
)
from trioweb._topic_client._following import State as FollowingState
from trioweb.testing import Network, deterministic

from .topic_checks import KINDS, Reader, TopicChecks
from .topic_wire import tapped

LONG: Final = "long:1"
SHORT: Final = "short:1"
_RETAINED: Final = {LONG: 10_000, SHORT: 3}
_TOPICS: Final = {
    "long": TopicRules(
        retain=Retain(max_messages=_RETAINED[LONG]),
        publish=True,
        presence=True,
        join_leave=True,
    ),
    "short": TopicRules(retain=Retain(max_messages=_RETAINED[SHORT]), join_leave=True),
}
_PORT: Final = 80
_PING: Final = 2
_RETRY: Final = Retry(initial=0.1, maximum=1)
_HEARTBEAT: Final = Heartbeat(interval=3, timeout=3)
# Seconds in which things go wrong; in which all is well again; and in which nothing happens.
_BUSY: Final = 15.0
_RECOVERY: Final = 60.0
_CALM: Final = 4.0 * _PING
_PAUSE: Final = 0.3
_LATENCIES: Final = (None, 0.01, 0.05)
_JITTER: Final = 0.02
_FORMATS: Final = ("centrifuge-json", "centrifuge-protobuf")


class TopicWorld:
    """One run, as *seed* says."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"topics {seed}")
        latency = self.random.choice(_LATENCIES)
        self.latency = latency or 0.0
        self.network = Network(
            seed,
            latency=latency,
            jitter=self.random.choice((None, _JITTER)),
            max_bytes=self.random.choice((4000, 65536)),
        )
        self.checks = TopicChecks(ping=_PING, retained=_RETAINED)
        self.healed, self.ending = trio.Event(), trio.Event()
        self.hub: Hub | None = None
        self.server: TopicServer | None = None
        self.calls = 0
        self._life = trio.CancelScope()
        self.people = [
            Person(self, f"p{number}", _FORMATS[number % 2])
            for number in range(self.random.randint(2, 4))
        ]

    async def live(self) -> None:
        """The run, from its beginning to its end."""
        with tapped(self.checks.tap):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                async with trio.open_nursery() as people:
                    for person in self.people:
                        people.start_soon(person.run)
                    await self._busy()
                    self.healed.set()
                    with trio.move_on_after(_RECOVERY) as scope:
                        await self._all_caught_up()
                    if scope.cancelled_caught:
                        self.checks.fail(10, "not everybody has caught up")
                    else:
                        await self._calm()
                    self.ending.set()
                await trio.sleep(1)
                self._check_left()
                nursery.cancel_scope.cancel()
        if left := self.network.open_names():
            self.checks.fail(10, f"left behind: {', '.join(left)}")
        self.checks.finish()

    # The server.

    async def _serve(self) -> None:
        while True:
            with trio.CancelScope() as self._life:
                await self._serve_once()
            await trio.sleep(_PAUSE)

    async def _serve_once(self) -> None:
        async with (
            trioweb.open_hub() as hub,
            trioweb.open_topic_server(
                hub, topics=_TOPICS, on_connect=_welcome, calls={"sleep": self._sleep}, ping=_PING
            ) as server,
            trio.open_nursery() as nursery,
        ):
            serve: Callable[..., Any] = partial(
                trioweb.serve_listeners,
                server.handle,
                [self.network.host("server").listen(_PORT)],
                subprotocols=server.subprotocols,
                heartbeat=_HEARTBEAT,
                hub=hub,
            )
            await nursery.start(serve)
            self.hub, self.server = hub, server
            try:
                await self._publish(server)
                await trio.sleep_forever()
            finally:
                self.hub = self.server = None
                self.checks.topic_ends(hub.topic(LONG))

    async def _publish(self, server: TopicServer) -> None:
        """Publish every now and then, in bursts, until all is well."""
        number = 0
        for name in (LONG, SHORT):
            server.publish(name, [f"{name} begins"])
        while not self.healed.is_set():
            await trio.sleep(self.random.uniform(0, 0.5))
            for _ in range(self.random.choice((1, 1, 1, 1, 20))):
                number += 1
                server.publish(SHORT, [f"short {number}"])
                server.publish(LONG, [f"long {number}" + "x" * self.random.choice((0, 0, 400))])

    async def _sleep(self, member: Member, seconds: float) -> float:
        self.calls += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.calls -= 1
        return seconds

    # What goes wrong.

    async def _busy(self) -> None:
        ends = trio.current_time() + _BUSY
        random, network = self.random, self.network
        restarts = random.choice((0, 0, 1, 2))
        while trio.current_time() < ends:
            await trio.sleep(random.uniform(0.05, 1.5))
            person = random.choice(self.people)
            hosts = random.choice((person.name, "server"))
            match random.randrange(10):
                case 0 | 1:
                    network.reset(hosts)
                case 2:
                    network.partition(hosts, duration=random.uniform(0, 3))
                case 3:
                    network.refuse("server", duration=random.uniform(0, 1))
                    network.reset(hosts)
                case 4:
                    network.half_open(hosts, duration=random.uniform(0, 3))
                case 5:
                    network.stall(hosts, duration=random.uniform(0, 3))
                case 6 | 7:
                    person.leave(random.choice((LONG, SHORT)))
                case 8:
                    person.end()
                case _ if restarts:
                    restarts -= 1
                    self.checks.reached["restarts"] += 1
                    self._life.cancel()
        # The last of the faults.
        await trio.sleep(3)

    # What must be so when all is well.

    async def _all_caught_up(self) -> None:
        while True:
            if all(person.has_caught_up(self.hub) for person in self.people):
                return
            await trio.sleep(0.5)

    async def _calm(self) -> None:
        # The server still has those whom it could not hear of.
        await trio.sleep(_HEARTBEAT.interval + _HEARTBEAT.timeout + trioweb.Limits().close_timeout)
        checks, server = self.checks, self.server
        since = trio.current_time()
        await trio.sleep(_CALM)
        checks.check_pings(since, _JITTER + 1e-6)
        here = {person.client.id for person in self.people if person.client is not None}
        for person in self.people:
            assert person.client is not None
            checks.check_presence(LONG, set(await person.client.presence(LONG)), here)
        assert server is not None
        for name in (LONG, SHORT):
            told = {member.client for member in server.presence(name)}
            checks.check_presence(name, told, here)
        if server.statistics().calls or self.calls:
            checks.fail(7, f"{self.calls} calls are at work, and nobody waits for them")

    def _check_left(self) -> None:
        """All clients are gone."""
        if self.server is None or self.server.members or self.server.presence(LONG):
            self.checks.fail(10, "members are left whose clients are gone")


async def _welcome(member: Member, request: ConnectRequest) -> Welcome:
    return Welcome(user=str(request.data))


class Person:
    """A program with a topic client, or rather with one after the other.

    Attributes:
        client: the present one.
    """

    def __init__(self, world: TopicWorld, name: str, format: str) -> None:
        self.name = name
        self.client: TopicClient | None = None
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
        for name, reader in self._readers.items():
            if hub is None or name not in self._blocks:
                return False
            topic = hub.topic(name)
            if reader.position != (topic.epoch, topic.head):
                return False
        return True

    async def run(self) -> None:
        while not self._world.ending.is_set():
            with trio.CancelScope() as self._life:
                await self._run_client()
            self._checks.reached["cancelled clients"] += self._life.cancelled_caught
            self.client = None

    async def _run_client(self) -> None:
        async with trioweb.open_topic_client(
            f"ws://server:{_PORT}/",
            data=self.name,
            subprotocols=[self._format],
            retry=_RETRY,
            heartbeat=_HEARTBEAT,
            dial=self._world.network.host(self.name).dial,
        ) as self.client:
            async with trio.open_nursery() as nursery:
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


@dataclass
class Result:
    """What came of some runs.

    Attributes:
        violations: by seed.
    """

    seeds: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    violations: dict[int, list[str]] = field(default_factory=dict)

    @property
    def unreached(self) -> list[str]:
        return [kind for kind in KINDS if not self.reached[kind]]

    def __str__(self) -> str:
        lines = [f"{self.seeds} seeds", *(f"{self.reached[kind]:8} {kind}" for kind in KINDS)]
        for seed, violations in self.violations.items():
            lines.append(f"python -m tests.simulation.topic_world --first {seed} --seeds 1:")
            lines += [f"    {violation}" for violation in violations[:5]]
        return "\n".join(lines)


def run(seed: int) -> TopicWorld:
    """Run *seed*; what came of it is in the world's checks."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with deterministic(seed):
            world = TopicWorld(seed)
            try:
                trio.run(world.live, clock=trio.testing.MockClock(autojump_threshold=0))
            except Exception as exc:
                world.checks.violations.append("".join(traceback.format_exception(exc)))
    finally:
        logging.disable(before)
    return world


def run_all(first: int, seeds: int) -> Result:
    result = Result()
    for seed in range(first, first + seeds):
        checks = run(seed).checks
        result.seeds += 1
        result.reached += checks.reached
        if checks.violations:
            result.violations[seed] = checks.violations
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the simulation of topic clients.")
    parser.add_argument("--seeds", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (%(default)s)")
    options = parser.parse_args()
    result = run_all(options.first, options.seeds)
    print(result)
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
