"""Those who come to catch up with an archive, and leave when they have.

They come together, so that a server has very much to write at once.  The first of them reads
slowly; the second vanishes when it has read half of it, and its connection says nothing of that.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

import trioweb
from trioweb import Connection

from .certificates import contexts
from .checks import Cursors, Life, Visit
from .scenario import ARCHIVE, TICKS, Person, Slow

if TYPE_CHECKING:
    from .world import World

_POLICIES: Final[tuple[Slow, ...]] = ("skip", "evict", "skip", "evict", "latest")
_STAY: Final = 60.0  # seconds after which a reader leaves in any case
_NAP: Final = 0.5  # seconds that the slow one takes for each message


class Reader:
    """One of them, by number.  It resumes where its last visit ended."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._person = Person(
            f"reader{number}",
            topics=(ARCHIVE, TICKS) if number % 4 == 3 else (ARCHIVE,),
            slow=_POLICIES[number % len(_POLICIES)],
            by_offset=number % 4 == 2,
            nap=_NAP if number == 0 else 0,
        )
        self._vanishes = number == 1
        self._visits = 0
        self._cursors: Cursors = {}

    async def visit(self, server: str) -> None:
        """Connect, catch up and leave."""
        world, name = self._world, self._person.name
        self._visits += 1
        life = world.checks.begin(f"{name}.{self._visits}", self._person, self._cursors)
        visit = world.checks.tried(life)
        # It is refused, the server ends, or it is evicted: it is for the checks whether it may be.
        with suppress(trioweb.TriowebError, OSError), trio.move_on_after(_STAY):
            async with trioweb.open_connection(
                world.url(server, visit),
                ssl_context=contexts().client if world.scenario.secure else None,
                heartbeat=world.scenario.heartbeat,
                limits=world.scenario.limits,
                dial=world.network.host(name).dial,
            ) as connection:
                await self._read(connection, life, visit, server)
        self._cursors = life.cursors

    async def _read(self, connection: Connection, life: Life, visit: Visit, server: str) -> None:
        world, checks = self._world, self._world.checks
        assert world.scenario.archive is not None
        half, received = world.scenario.archive.publications // 2, 0
        while not checks.is_caught_up(visit):
            # Whether it has caught up may change without a message, when it is told of a hole.
            with trio.move_on_after(1):
                checks.delivered(life, visit, await connection.receive())
                received += 1
                await trio.sleep(self._person.nap)
            if self._vanishes and received == half:
                world.network.half_open(self._person.name, server).heal()
                checks.reached["readers vanished"] += 1
                received += 1
        checks.reached["readers caught up"] += 1
