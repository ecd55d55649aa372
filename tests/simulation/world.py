"""The world of a run: servers with topics, clients that talk to them, and what happens to both.

A server publishes each message that it receives; a client connects to any of the servers,
subscribes where it left off, and sends.  `live` is a run from its beginning to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import trio
import trio.testing

from trioweb import Connection
from trioweb.testing import Network

from .backend import Backend
from .checks import Checks, Visit
from .orderly import OrderlyBackend
from .reader import Reader
from .scenario import GRACE, PORT, RESTART_PAUSE, SLACK, Scenario, Trouble
from .talker import Talker


class World:
    """All of it, and what has happened.

    Attributes:
        begun, healed, ending: everybody is connected; nothing goes wrong any more; it is time
            to leave.
        outages: sessions lost so far.
        poisoned: the connections whose handlers have raised.
    """

    def __init__(self, scenario: Scenario) -> None:
        conditions = scenario.conditions
        self.scenario = scenario
        self.network = Network(
            scenario.seed,
            latency=conditions.latency,
            jitter=conditions.jitter,
            bandwidth=conditions.bandwidth,
            segment=conditions.segment,
            max_bytes=scenario.max_bytes,
        )
        self.checks = Checks(scenario, self.network)
        self.begun, self.healed, self.ending = trio.Event(), trio.Event(), trio.Event()
        self.over = False
        self.outages = 0
        self.poisoned: list[Connection] = []
        backend = OrderlyBackend if scenario.orderly else Backend
        self.backends = {name: backend(self, name) for name in scenario.servers}
        self.talkers = {person.name: Talker(self, person) for person in scenario.people}
        count = 0 if scenario.archive is None else scenario.archive.readers
        self.readers = [Reader(self, number) for number in range(count)]

    def url(self, server: str, visit: Visit) -> str:
        """Where a client finds a server."""
        scheme = "wss" if self.scenario.secure else "ws"
        return f"{scheme}://{server}:{PORT}/?life={visit.life.name}&visit={visit.number}"

    def visit_of(self, connection: Connection) -> Visit:
        """Whose connection this is, on either side of it."""
        return self.visit_by(connection.request.query)

    def visit_by(self, query: Mapping[str, str]) -> Visit:
        """The same, by what it asked for."""
        return self.checks.lives[query["life"]].visits[int(query["visit"])]

    async def live(self) -> None:
        """A run, from its beginning to its end."""
        with self.checks.meter.watching():
            await self._live()

    async def _live(self) -> None:
        scenario, checks = self.scenario, self.checks
        async with trio.open_nursery() as nursery:
            for backend in self.backends.values():
                nursery.start_soon(backend.run)
            async with trio.open_nursery() as people:
                for talker in self.talkers.values():
                    people.start_soon(talker.run)
                with checks.within(scenario.recovery, 5, "the first connecting"):
                    await self._all_caught_up()
                before = self._census()
                self.begun.set()
                await self._busy()
                self.healed.set()
                with checks.within(scenario.recovery, 5, "recovering"):
                    await self._all_caught_up()
                # What a server still holds of those who have come back on other ways.
                await trio.sleep(scenario.recovery)
                await self._compare("after healing", before)
                tries = self._tries()
                await trio.sleep(scenario.quiet)
                if self._tries() != tries:
                    checks.fail(5, f"{self._tries() - tries} attempts to connect in all quiet")
                await self._compare("after a quiet time", before)
                self.ending.set()
            self.over = True
            for backend in self.backends.values():
                backend.stop()
        for connection in self.poisoned:
            checks.contained(connection)
        if left := self.network.open_names():
            checks.fail(4, f"left behind: {', '.join(left)}")
        checks.finish()

    async def _busy(self) -> None:
        """The time in which things go wrong, for as long as the scenario says."""
        with trio.CancelScope() as sampling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sample)
                async with trio.open_nursery() as troubles:
                    troubles.start_soon(trio.sleep, self.scenario.busy)
                    troubles.start_soon(self.network.run, self.scenario.plan)
                    for trouble in self.scenario.troubles:
                        troubles.start_soon(self._trouble, trouble)
                sampling.cancel()
        crashes = sum(fault.kind in ("crash", "power_cut") for fault in self.scenario.plan.faults)
        self.checks.reached["crashes"] += crashes

    async def _trouble(self, trouble: Trouble) -> None:
        await trio.sleep(trouble.at)
        match trouble.kind:
            case "restart":
                self.backends[trouble.target].stop()
                await trio.sleep(GRACE + RESTART_PAUSE + SLACK)
            case "sick":
                self.backends[trouble.target].sick = True
                await trio.sleep(trouble.duration)
                self.backends[trouble.target].sick = False
            case "poison":
                self.talkers[trouble.target].poison = True
            case "cancel":
                self.talkers[trouble.target].cancel()
            case "leave":
                self.talkers[trouble.target].leave()
            case "rush":
                async with trio.open_nursery() as nursery:
                    for reader in self.readers:
                        nursery.start_soon(reader.visit, trouble.target)

    def _is_whole(self) -> bool:
        return all(talker.is_caught_up() for talker in self.talkers.values())

    async def _all_caught_up(self) -> None:
        while True:
            if self._is_whole():
                return
            await trio.sleep(1)

    async def _sample(self) -> None:
        """Look every now and then whether what is held is bounded."""
        while True:
            await trio.sleep(self.scenario.busy / 20)
            for backend in self.backends.values():
                if backend.hub is not None:
                    self.checks.sample_hub(backend.hub)
                    for topic in backend.topics.values():
                        self.checks.sample_topic(topic)
                if backend.server is not None:
                    for connection in backend.server.connections:
                        self.checks.sample_connection(connection)
            for talker in self.talkers.values():
                if talker.client is not None:
                    buffered = talker.client.buffered_amount
                    self.checks.sample_outbox(talker.life, buffered, talker.policy)

    def _tries(self) -> int:
        return sum(len(life.visits) for life in self.checks.lives.values())

    def _census(self) -> Counter[str]:
        """How many there are of trioweb's tasks and of open streams."""
        found = Counter(
            streams=self.network.statistics().streams,
            listeners=self.network.statistics().listeners,
            connections=sum(
                len(backend.server.connections)
                for backend in self.backends.values()
                if backend.server is not None
            ),
        )
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks = [root]
        while tasks:
            task = tasks.pop()
            found[task.name] += not task.name.startswith("tests.simulation")
            tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        return +found

    async def _compare(self, when: str, before: Counter[str]) -> None:
        await trio.testing.wait_all_tasks_blocked()  # this may be a heartbeat's very moment
        if not self._is_whole():
            self.checks.fail(5, f"{when} somebody is not connected and caught up")
        now = self._census()
        if now != before:
            more, less = dict(now - before), dict(before - now)
            self.checks.fail(4, f"{when} there are more of {more}, less of {less}")
