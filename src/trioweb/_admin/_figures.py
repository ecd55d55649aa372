"""Figures of a server and its hub, taken again and again: what there is, and how fast it grows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from ._lists import Row, Turns

if TYPE_CHECKING:
    from .._server import Server
    from .._topics import Hub

# Figures that are no older are taken for those of now: who asks more often would have rates of
# very short times.
_FRESH_SECONDS: Final = 0.5
# After so long without anybody who looks there is nothing to compare with.
_STALE_SECONDS: Final = 5
# In the units of A_TURN.
_COST_OF_TOPIC: Final = 5
_COST_OF_CONNECTION: Final = 2


class Figures:
    """Those of one server and hub.

    Args:
        node: the name of this process.

    Attributes:
        server: whose they are; set it before they are taken.
        is_alone: no other process has a part in its topics; None: none has without a broker.
        rates: publications a second of the topics that have had any, between the last two times.
    """

    server: Server
    is_alone: bool | None = None

    def __init__(self, hub: Hub, node: str) -> None:
        self.rates: dict[str, float] = {}
        self._hub = hub
        self._node = node
        self._begun = self._taken = trio.current_time()
        # What there was when they were taken last; None before that.
        self._heads: dict[str, tuple[str, int]] | None = None
        self._counted = (0, 0)
        self._latest: Row = {}

    def forget(self) -> None:
        """Nobody has looked for a while: there is nothing to compare with."""
        self._heads = None
        self.rates = {}

    async def glance(self) -> Row:
        """Figures for somebody who looks by another worker.

        Checkpoint: after each millisecond of work.
        """
        age = trio.current_time() - self._taken
        if age > _STALE_SECONDS:
            self.forget()
        if not self._latest or age > _FRESH_SECONDS:
            await self.take(0.0)
        return self._latest

    async def take(self, late: float) -> Row:
        """The figures of now.

        Args:
            late: seconds for which the loop was held before this.

        Checkpoint: after each millisecond of work.
        """
        turns = Turns()
        now = trio.current_time()
        seconds = max(now - self._taken, 0.001)
        heads: dict[str, tuple[str, int]] = {}
        rates: dict[str, float] = {}
        lag = queued = 0
        for name, topic in tuple(self._hub.topics.items()):
            heads[name] = topic.epoch, topic.head
            lag = max(lag, topic.lag)
            if self._heads is not None:
                epoch, head = self._heads.get(name, (topic.epoch, 0))
                more = topic.head - head if epoch == topic.epoch else topic.head
                if more > 0:
                    rates[name] = more / seconds
            await turns.spend(_COST_OF_TOPIC)
        for connection in self.server.connections:
            queued += connection.buffered_amount
            await turns.spend(_COST_OF_CONNECTION)
        told, hub = self.server.statistics(), self._hub.statistics()
        counted = hub.published, hub.deliveries
        is_first = self._heads is None
        published, delivered = (
            None if is_first else round((new - old) / seconds, 1)
            for new, old in zip(counted, self._counted, strict=True)
        )
        self._heads, self.rates, self._counted, self._taken = heads, rates, counted, now
        self._latest = {
            "time": round(time.time(), 1),
            "node": self._node,
            "alone": hub.broker is None if self.is_alone is None else self.is_alone,
            "uptime": round(now - self._begun),
            "draining": self.server.draining,
            "connections": told.connections,
            "opening": told.opening,
            "opened": told.opened,
            "refused": sum(told.refused.values()),
            "errors": told.handler_errors,
            "topics": hub.topics,
            "subscribers": hub.subscribers,
            "publications": hub.published,
            "publication_rate": published,
            "deliveries": hub.deliveries,
            "delivery_rate": delivered,
            "lag": lag,
            "evicted": hub.evicted,
            "skipped": hub.skipped,
            "queued": queued,
            "retained": hub.retained_bytes,
            "late": round(late, 4),
        }
        return self._latest
