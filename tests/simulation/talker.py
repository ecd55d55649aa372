"""The clients: each subscribes where it left off, and says something every now and then.

Rules kept here: as in `backend`.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import trio

import trioweb
from trioweb import Connection, Lost, Opened, Outbox, State, Undelivered

from .certificates import contexts
from .checks import Life, Visit
from .scenario import RETRY, SLACK, Person
from .tap import Tap

if TYPE_CHECKING:
    from .world import World


class Talker:
    """One person's program: a client at a time."""

    def __init__(self, world: World, person: Person) -> None:
        self.name = person.name
        self.client: trioweb.Client | None = None
        self.life = Life("", person, {})
        self.is_idle = True
        self.poison = False
        self._life_scope = trio.CancelScope()
        self.policy = Outbox(
            confirm=person.confirm,
            max_messages=person.outbox,
            max_resends=world.scenario.max_resends,
        )
        self._world = world
        self._person = person
        self._random = Random(f"{world.scenario.seed} {person.name}")
        self._host = world.network.host(person.name)
        self._stay = trio.CancelScope()
        self._lives = 0
        self._tap: Tap | None = None

    def is_caught_up(self) -> bool:
        """Whether it is connected, and has sent and received all that there is."""
        client = self.client
        if client is None or client.state is not State.OPEN:
            return False
        if client.buffered_amount or not self.is_idle:
            return False
        return self._world.checks.is_caught_up(self.life.opened[-1])

    async def run(self) -> None:
        """Live, and after each end before it is time, again."""
        checks = self._world.checks
        while True:
            self._lives += 1
            name = f"{self.name}.{self._lives}"
            self.life = checks.begin(name, self._person, self.life.cursors)
            with trio.CancelScope() as self._life_scope:
                await self._live()
            if not self.life.cancelled and self._life_scope.cancelled_caught:
                checks.fail(6, f"{name}: leaving took too long")
            if self._world.ending.is_set():
                return

    def cancel(self) -> None:
        self.life.cancelled = True
        self._world.checks.reached["cancelled clients"] += 1
        self._life_scope.cancel()

    def leave(self) -> None:
        """Leave the client's block as one does."""
        self._stay.cancel()

    async def _live(self) -> None:
        world, scenario, life = self._world, self._world.scenario, self.life
        try:
            async with trioweb.open_client(
                partial(self._url, life),
                retry=RETRY,
                heartbeat=scenario.heartbeat,
                outbox=self.policy,
                limits=scenario.limits,
                on_open=partial(self._on_open, life),
                ssl_context=contexts().client if scenario.secure else None,
                dial=partial(self._dial, life),
                random=self._random,
            ) as self.client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, self.client, life)
                    with trio.CancelScope() as self._stay:
                        await world.begun.wait()
                        await self._talk(self.client, life)
                        await world.ending.wait()
                    nursery.cancel_scope.cancel()
                # Once to flush, once to close.
                timeout = scenario.limits.close_timeout
                self._life_scope.deadline = trio.current_time() + 2 * timeout + 0.1
        except trioweb.Unsent as exc:
            life.unsent = exc.count
        finally:
            if self.client is not None:
                world.checks.reached["resends"] += self.client.statistics().resent > 0
            self.client = None

    async def _url(self, life: Life) -> str:
        visit = self._world.checks.tried(life)
        return self._world.url(self._random.choice(self._world.scenario.servers), visit)

    async def _dial(self, life: Life, host: str, port: int) -> Tap:
        stream = await self._host.dial(host, port)
        silent = partial(self._world.checks.silent, f"client {life.name}")
        self._tap = Tap(stream, silent)
        return self._tap

    async def _on_open(self, life: Life, connection: Connection) -> None:
        checks, tap, begun = self._world.checks, self._tap, trio.current_time()
        assert tap is not None
        checks.opened(life, self._world.visit_of(connection))
        tap.on_close = lambda: checks.ended(life, trio.current_time() - begun)

    async def _receive(self, client: trioweb.Client, life: Life) -> None:
        checks = self._world.checks
        visit: Visit | None = None
        with client.messages(events=True) as messages:
            async for item in messages:
                match item:
                    case Opened(session=session):
                        visit = life.opened[session - 1]
                    case Lost(error=error):
                        self._world.outages += 1
                        checks.lost(error)
                    case Undelivered():
                        checks.reached["messages given up"] += 1
                    case str() | bytes():
                        assert visit is not None
                        checks.delivered(life, visit, item)
                        if self._person.nap:
                            await trio.sleep(self._person.nap)

    async def _talk(self, client: trioweb.Client, life: Life) -> None:
        self.is_idle = False
        healed = self._world.healed
        while not healed.is_set():
            with trio.move_on_after(self._random.expovariate(1 / self._world.scenario.pause)):
                await healed.wait()
            for _ in range(self._random.choice((1, 1, 1, 10))):
                await self._say(client, life)
            await self._flush(client, life)
        self.is_idle = True

    async def _say(self, client: trioweb.Client, life: Life) -> None:
        number = len(life.accepted) + 1
        # No two are alike, so that one which was cancelled can be told from the next.
        text = f"{life.name} {number} {self._random.random():.6f}"
        text += "x" * self._random.randint(0, self._person.size)
        text += " poison" if self.poison else ""
        with trio.move_on_after(self._patience()) as scope:
            await client.send(text)
            self._world.checks.accepted(life, text)
            self.poison = False
        self._world.checks.reached["cancelled sends"] += scope.cancelled_caught

    async def _flush(self, client: trioweb.Client, life: Life) -> None:
        checks, tap = self._world.checks, self._tap
        number = len(life.accepted)
        begun, sessions = trio.current_time(), client.statistics().sessions
        is_open = client.state is State.OPEN
        buffered = client.buffered_amount
        limit = self._world.scenario.heartbeat.timeout + SLACK
        with trio.move_on_after(min(self._patience(), limit)) as scope:
            await client.flush()
            checks.flushed(life, number)
        checks.reached["cancelled flushes"] += scope.cancelled_caught
        if (
            trio.current_time() >= begun + limit
            and is_open
            and client.state is State.OPEN
            and client.statistics().sessions == sessions
            and client.buffered_amount == buffered
            and tap is not None
            and not tap.is_hindered_since(begun)
        ):
            checks.fail(6, f"{life.name}: nothing was confirmed for {limit:g} s in one session")

    def _patience(self) -> float:
        """Seconds after which what it waits for is cancelled."""
        if not self._person.fickle:
            return float("inf")
        return self._random.choice((0, 0.01, 1, 30))
