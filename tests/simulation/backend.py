"""Servers with topics: what clients say, what the server says itself, and what it has said before.

Rules kept here: a server uses trioweb as its users do; what it sees goes to `checks`, and nothing
is decided here about right and wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import trio

import trioweb
from trioweb import Connection, Publication, State, Topic

from .certificates import contexts
from .checks import Member, Visit
from .scenario import (
    ARCHIVE,
    GRACE,
    NEWS,
    PORT,
    RESTART_PAUSE,
    SPREAD,
    TICKS,
    Archive,
)
from .tap import TappedListener

if TYPE_CHECKING:
    from .world import World

# For each who comes to catch up, so many turns of the scheduler have a tick of their own.
_TICKS_IN_A_HURRY: Final = 30


class Poison(Exception):
    """What a handler raises at a message that it cannot bear."""


class Backend:
    """The program of one server."""

    def __init__(self, world: World, name: str) -> None:
        self.server: trioweb.Server | None = None
        self.hub: trioweb.Hub | None = None
        self.topics: dict[str, Topic] = {}
        self.sick = False
        self._world = world
        self._host = world.network.host(name)
        self._stop = trio.Event()
        self._random = Random(f"{world.scenario.seed} {name}")
        self._members: list[Member] = []
        self._encodes: dict[str, Callable[[Publication], str | bytes]] = {}
        # So many ticks are due at once, because somebody has come.
        self._hurry = 0
        self._arrival = trio.Event()

    async def run(self) -> None:
        """Run the program, and after each crash and each restart again."""
        while not self._world.over:
            await self._host.run(self._program)
            await trio.sleep(RESTART_PAUSE)

    def stop(self) -> None:
        """Have the server drained, after which its program ends."""
        self._stop.set()

    async def _program(self) -> None:
        scenario, checks = self._world.scenario, self._world.checks
        self._stop = trio.Event()
        self._members.clear()
        async with trioweb.open_hub(
            max_bytes=scenario.max_hub_bytes, linger=scenario.linger
        ) as self.hub:
            self._make_topics(self.hub)
            listener = TappedListener(
                self._host.listen(PORT), partial(checks.silent, f"server {self._host.name}")
            )
            ended = trio.Event()

            async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
                await trioweb.serve_listeners(
                    self._handle,
                    [listener],
                    heartbeat=scenario.heartbeat,
                    limits=scenario.limits,
                    ssl_context=contexts().server if scenario.secure else None,
                    hub=self.hub,
                    task_status=task_status,
                )
                ended.set()

            try:
                async with trio.open_nursery() as nursery:
                    self.server = await nursery.start(serve)
                    nursery.start_soon(self._tick)
                    await self._stop.wait()
                    deadline = GRACE + 0.1
                    with checks.within(deadline, 6, "a drain"):
                        await self.server.drain(grace=GRACE, spread=SPREAD)
                        checks.reached["drains"] += not self._world.over
                    with checks.within(0.1, 6, "the end of a drained server"):
                        await ended.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self.server = None
                checks.hub_ends(self.hub, self._members)
                self.hub = None

    def _make_topics(self, hub: trioweb.Hub) -> None:
        scenario = self._world.scenario
        self.topics = {
            name: hub.topic(name, retain=scenario.retain, slow=scenario.slow)
            for name in (NEWS, TICKS)
        }
        if scenario.archive is not None:
            retain = replace(
                scenario.retain, max_messages=1000, max_bytes=scenario.archive.max_bytes
            )
            self.topics[ARCHIVE] = hub.topic(ARCHIVE, retain=retain, slow=scenario.slow)
            for _ in range(scenario.archive.publications):
                self._archive(scenario.archive)
        # One for each, so that all subscribers share it.
        self._encodes = {name: partial(self._encode, topic) for name, topic in self.topics.items()}

    def _publish(self, name: str, text: str, *, binary: bool = False) -> None:
        topic = self.topics[name]
        offset = topic.publish(text.encode() if binary else text)
        self._world.checks.published(topic, offset, text, None)

    def _archive(self, archive: Archive) -> None:
        number = self.topics[ARCHIVE].head
        self._publish(ARCHIVE, f"{number} " + "x" * archive.size, binary=bool(number % 2))

    async def _tick(self) -> None:
        """Publish every now and then, in bursts; and when somebody comes who has much to catch up
        with, at each turn of the scheduler."""
        scenario = self._world.scenario
        if scenario.ticks is None:
            return
        while True:
            if self._hurry:
                self._hurry -= 1
                await trio.lowlevel.checkpoint()
                count = 1
            else:
                self._arrival = trio.Event()
                with trio.move_on_after(self._random.expovariate(1 / scenario.ticks)):
                    await self._arrival.wait()
                if self._world.healed.is_set():
                    return
                count = self._random.choice((1, 5, 20))
                if scenario.archive is not None:
                    self._archive(scenario.archive)
            for _ in range(count):
                self._publish(TICKS, f"tick {self._random.random()}" + "x" * 200, binary=True)

    async def _handle(self, connection: Connection) -> None:
        world = self._world
        visit = world.visit_of(connection)
        visit.connection = connection
        if self.sick:
            return
        with ExitStack() as subscriptions:
            for name in visit.life.topics:
                topic = self.topics[name]
                subscription = topic.subscribe(
                    connection,
                    since=visit.since.get(name),
                    encode=self._encodes[name],
                    slow=visit.life.slow,
                )
                subscriptions.enter_context(subscription)
                self._members.append(world.checks.subscribed(visit, topic, subscription))
            if ARCHIVE in visit.life.topics:
                self._hurry = _TICKS_IN_A_HURRY
                self._arrival.set()
            await self._listen(connection, visit)

    async def _listen(self, connection: Connection, visit: Visit) -> None:
        checks, scenario, topic = self._world.checks, self._world.scenario, self.topics[NEWS]
        try:
            async for message in connection:
                text = str(message)
                is_new = checks.received(visit, text)
                if is_new and text.endswith("poison"):
                    if connection.state is State.OPEN:
                        self._world.poisoned.append(connection)
                    raise Poison
                offset = topic.publish(text, skip=None if scenario.echo else connection)
                checks.published(topic, offset, text, None if scenario.echo else visit)
                if scenario.nap:
                    await trio.sleep(scenario.nap)
        finally:
            # What the endpoint had read ahead has been received, and may have been confirmed;
            # that its program ends here is nothing that a WebSocket could mend.
            for message in connection.link.inbox.messages:
                checks.received(visit, str(message))
            connection.link.inbox.messages.clear()

    def _encode(self, topic: Topic, publication: Publication) -> str | bytes:
        message = publication.message
        place = f"{topic.name}|{topic.epoch}|{publication.offset}|"
        self._world.checks.meter.encoded(topic, len(publication._frame))
        return place + message if isinstance(message, str) else place.encode() + message
