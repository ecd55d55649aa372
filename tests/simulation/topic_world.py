"""Topic clients, their server and a network that flaps: `python -m tests.simulation.topic_world`.

The people (`topic_person`) each run one client after the other.  Some topics retain everything, so
nothing of them may be missed but with the server's life; the others next to nothing.  To some they
subscribe, to others the server subscribes them: to one of their own from the start, and to one for
all whenever the program likes, which takes that back, too.
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
from trioweb import ConnectRequest, Hub, Limits, Member, Retain, TopicRules, TopicServer, Welcome
from trioweb.testing import Network, deterministic

from .topic_checks import KINDS, TopicChecks
from .topic_person import GIVEN, HEARTBEAT, LONG, OWN, PORT, SHORT, Person
from .topic_wire import tapped

_ALL: Final = Retain(max_messages=10_000)
_FEW: Final = Retain(max_messages=3)
_TOPICS: Final = {
    "long": TopicRules(retain=_ALL, publish=True, presence=True, join_leave=True),
    "short": TopicRules(retain=_FEW, join_leave=True),
    OWN: TopicRules(retain=_ALL, subscribe=False),
    "given": TopicRules(retain=_FEW, subscribe=False, join_leave=True),
}
_PING: Final = 2
# Seconds in which things go wrong; in which all is well again; and in which nothing happens.
_BUSY: Final = 15.0
_RECOVERY: Final = 60.0
_CALM: Final = 4.0 * _PING
_PAUSE: Final = 0.3
# Between two looks at what is held.
_LOOKS: Final = 0.5
_LATENCIES: Final = (None, 0.01, 0.05)
_JITTER: Final = 0.02
_FORMATS: Final = ("centrifuge-json", "centrifuge-protobuf")


def _retained(topic: str) -> int:
    """How many publications *topic* retains."""
    return _TOPICS[topic.partition(":")[0]].retain.max_messages


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
        self.checks = TopicChecks(ping=_PING, retained=_retained, formats=len(_FORMATS))
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
                hub,
                topics=_TOPICS,
                on_connect=self._welcome,
                calls={"sleep": self._sleep},
                ping=_PING,
            ) as server,
            trio.open_nursery() as nursery,
        ):
            serve: Callable[..., Any] = partial(
                trioweb.serve_listeners,
                server.handle,
                [self.network.host("server").listen(PORT)],
                subprotocols=server.subprotocols,
                heartbeat=HEARTBEAT,
                hub=hub,
            )
            await nursery.start(serve)
            self.hub, self.server = hub, server
            nursery.start_soon(self._give, server)
            nursery.start_soon(self._look, server, hub)
            try:
                await self._publish(server)
                await trio.sleep_forever()
            finally:
                self.hub = self.server = None
                for name in (LONG, *(person.own for person in self.people)):
                    self.checks.topic_ends(hub.topic(name))

    async def _welcome(self, member: Member, request: ConnectRequest) -> Welcome:
        topics = [f"{OWN}:{request.data}", *self.random.choice(([], [GIVEN]))]
        return Welcome(user=str(request.data), topics=topics)

    async def _give(self, server: TopicServer) -> None:
        """Subscribe members to what they have not asked for, and take it back; when all is well,
        everybody has it."""
        while True:
            await trio.sleep(self.random.uniform(0, 0.5))
            members = list(server.members)
            if self.healed.is_set():
                for member in members:
                    await self._subscribe(member, patience=_PAUSE)
            elif members:
                member = self.random.choice(members)
                if GIVEN in member.topics:
                    member.unsubscribe(GIVEN)
                else:
                    await self._subscribe(member, patience=self.random.choice((0, _PAUSE)))

    async def _subscribe(self, member: Member, patience: float) -> None:
        with trio.move_on_after(patience) as scope, suppress(trioweb.ConnectionClosed):
            await member.subscribe(GIVEN)
        self.checks.reached["cancelled giving"] += scope.cancelled_caught

    async def _look(self, server: TopicServer, hub: Hub) -> None:
        """Look at what the server holds, again and again."""
        while True:
            await trio.sleep(_LOOKS)
            self.checks.check_held(server, hub)

    async def _publish(self, server: TopicServer) -> None:
        """Publish every now and then, in bursts, until all is well."""
        number = 0
        names = (LONG, SHORT, GIVEN, *(person.own for person in self.people))
        for name in names:
            server.publish(name, [f"{name} begins"])
        while not self.healed.is_set():
            await trio.sleep(self.random.uniform(0, 0.5))
            for _ in range(self.random.choice((1, 1, 1, 1, 20))):
                number += 1
                server.publish(SHORT, [f"short {number}"])
                server.publish(LONG, [f"long {number}" + "x" * self.random.choice((0, 0, 1500))])
                server.publish(self.random.choice(names[2:]), [f"given {number}"])

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
        await trio.sleep(HEARTBEAT.interval + HEARTBEAT.timeout + Limits().close_timeout)
        checks, server = self.checks, self.server
        since = trio.current_time()
        await trio.sleep(_CALM)
        checks.check_pings(since, _JITTER + 1e-6)
        here = {person.client.id for person in self.people if person.client is not None}
        for person in self.people:
            assert person.client is not None
            checks.check_presence(LONG, set(await person.client.presence(LONG)), here)
        assert server is not None
        for name in (LONG, SHORT, GIVEN):
            told = {member.client for member in server.presence(name)}
            checks.check_presence(name, told, here)
        if server.statistics().calls or self.calls:
            checks.fail(7, f"{self.calls} calls are at work, and nobody waits for them")

    def _check_left(self) -> None:
        """All clients are gone."""
        if self.server is None or self.server.members or self.server.presence(LONG):
            self.checks.fail(10, "members are left whose clients are gone")


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
