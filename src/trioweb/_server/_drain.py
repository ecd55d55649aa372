"""The soft stop: who is told good-bye, and when.

Every connection is closed as soon as it has got what had been published for it when its turn came,
and those who lag keep nobody else waiting.  How long all that may take is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import field
from typing import Final

import trio

from .._connection import Connection
from .._dataclass import dataclass
from .._topics import Hub, Subscription

# Those who lag are looked at so often: the hub, which may have thousands of them and a lot to write
# just then, is not burdened with telling, and a good-bye that comes so much later harms nobody.
_LOOK_SECONDS: Final = 0.05
# Others run in between; a look takes about a microsecond, a Close some twenty.
_LOOKS_PER_CHECKPOINT: Final = 32


@dataclass(slots=True)
class Stop:
    """How far the soft stop of a server has come.

    Attributes:
        is_refusing: new connections are refused.
        farewell: what every connection is to be told, once it has begun.
        watchers: set when it begins, for answers that go on.
    """

    is_refusing: bool = False
    farewell: tuple[int, str] | None = None
    watchers: set[trio.Event] = field(default_factory=set)

    def begin(self, farewell: tuple[int, str], *, is_refusing: bool) -> None:
        self.farewell = farewell
        self.is_refusing = is_refusing
        for event in self.watchers:
            event.set()

    @property
    def has_begun(self) -> bool:
        return self.farewell is not None


async def say_good_bye(
    connections: Collection[Connection], hub: Hub | None, spread: float, code: int, reason: str
) -> None:
    """Close *connections*, one after the other over *spread* seconds, and those that lag behind
    topics of *hub* when it is their turn as soon as they have caught up.

    Cancellation: the rest stays open.  Checkpoint: if there are any.
    """
    start = trio.current_time()
    lagging = _Lagging(code, reason)
    for number, connection in enumerate(connections):
        await lagging.wait_until(start + spread * number / len(connections))
        if hub is not None and (owed := hub._owed(connection.link.queue)):
            lagging.add(connection, hub, owed)
        else:
            connection.link.close(code, reason)
    await lagging.wait_until(math.inf)


class _Lagging:
    """Connections that are closed once they have caught up."""

    def __init__(self, code: int, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._owed: dict[Connection, tuple[Hub, list[tuple[Subscription, int]]]] = {}
        self._next_look = -math.inf

    def add(self, connection: Connection, hub: Hub, owed: list[tuple[Subscription, int]]) -> None:
        """Close *connection* when none of what *owed* tells is owed to it any more."""
        self._owed[connection] = hub, owed

    async def wait_until(self, due: float) -> None:
        """Look after them until *due*; if that is never, until there is none left."""
        while self._owed and self._next_look < due:
            await trio.sleep_until(self._next_look)
            await self._look()
            self._next_look = trio.current_time() + _LOOK_SECONDS
        if due < math.inf:
            await trio.sleep_until(due)

    async def _look(self) -> None:
        for number, (connection, (hub, owed)) in enumerate(tuple(self._owed.items())):
            if not any(hub._is_owed(*one) for one in owed):
                del self._owed[connection]
                connection.link.close(self._code, self._reason)
            if number % _LOOKS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
