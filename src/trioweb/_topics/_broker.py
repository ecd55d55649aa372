"""Brokers: where what is published gets its place, and what a publisher learns of that.

A topic gives what is published to the broker of its hub, and takes it back by `accept` as
soon as it has an offset, in the order of offsets.  The local broker, of a hub that is alone, has
both happen within `publish`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from .._chance import random_bytes
from .._effort import EFFORT
from .._errors import Unpublished
from .._waitable import Waitable, wrong_thread
from ._details import NOTHING, Details
from ._log import size_of
from ._position import Position
from ._presence import DoLater, LocalPresence, Presence
from ._publishing import accept
from ._shape import COST_OF_WRITE

if TYPE_CHECKING:
    from ._engine_link import BrokerStatistics
    from ._retention import Retention
    from ._store._statistics import StoreStatistics
    from ._topic import Topic
    from ._window import Window


class Receipt:
    """What `Topic.post` returns: whether, and where, something was published."""

    __slots__ = ("_changed", "_outcome")

    def __init__(self, outcome: Position | None = None) -> None:
        self._outcome: Position | str | None = outcome
        self._changed: Waitable | None = None

    async def confirmed(self) -> Position:
        """Wait until this is published; return where.

        With a broker that had to publish it again after a connection was lost, the offset is 0 if
        it was published the first time, and has left the log since.

        Raises:
            Unpublished: it was refused, or the hub was closed before there was an answer.

        Cancellation: what was posted is published all the same, and this may be called again, also
        by several tasks at once.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        while self._outcome is None:
            if self._changed is None:
                self._changed = Waitable()
            await self._changed.wait_change()
        if isinstance(self._outcome, str):
            raise Unpublished(self._outcome)
        return self._outcome

    @property
    def _is_settled(self) -> bool:
        """Whether `confirmed` has an answer."""
        return self._outcome is not None

    def _settle(self, outcome: Position | str) -> None:
        """It was published there, or was not for this reason."""
        self._outcome = outcome
        if self._changed is not None:
            self._changed.changed()

    def __repr__(self) -> str:
        return f"<Receipt {'waiting' if self._outcome is None else self._outcome!r}>"


class Node(Protocol):
    """What a hub has of a broker.

    What is published has a frame as `encode_message` makes it in SERVER_FORM, the key of who does
    not get it, and details.  None of these waits for anybody.
    """

    def publish(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> int:
        """Publish to *topic*; return the offset, or 0 if that is not known yet.

        Raises: see `Topic.publish`.
        """
        ...

    def post(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> Receipt:
        """As `publish`, for whoever wants to know the offset."""
        ...

    async def wait_room(self, topic: Topic, size: int) -> None:
        """Wait until *topic* can take a publication of *size* bytes.  Checkpoint: not always."""
        ...

    def window(self, topic: Topic) -> Window | None:
        """What *topic* has of a log that is elsewhere; None where its own is the log."""
        ...

    def open_presence(self, retention: Retention, do_later: DoLater) -> Presence:
        """Who is in which topic, for its hub, whose *retention* counts what that takes, and whose
        pump does *later* what takes long."""
        ...

    def begin(self, topic: Topic) -> tuple[str, int]:
        """Epoch and head with which a life of *topic* begins, or goes on; "" if that is not
        known yet."""
        ...

    def statistics(self) -> BrokerStatistics | StoreStatistics | None:
        """What it has had to do; None where that is nothing."""
        ...


class LocalNode:
    """The broker of a hub that is alone: what is published is in the log at once."""

    def publish(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> int:
        try:
            now = trio.current_time()
        except RuntimeError:
            raise wrong_thread() from None
        hub = topic._hub
        retention = hub._retention
        if hub.closed or topic.name not in retention.topics:
            hub._use(topic)
        if details is not NOTHING:
            first = topic._log.published(details)
            if first is not None:
                EFFORT.spent += COST_OF_WRITE
                return first
        size = size_of(frame, skip) + details.size
        retention.reserve(topic, size)
        return accept(topic, frame, skip, details, size, now)

    def post(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> Receipt:
        offset = self.publish(topic, frame, skip, details)
        return Receipt(Position(topic.epoch, offset))

    async def wait_room(self, topic: Topic, size: int) -> None:
        pass

    def window(self, topic: Topic) -> None:
        return None

    def open_presence(self, retention: Retention, do_later: DoLater) -> LocalPresence:
        return LocalPresence(retention)

    def begin(self, topic: Topic) -> tuple[str, int]:
        position = topic._hub._retention.position(topic.name)
        return position or (random_bytes(8).hex(), 0)

    def statistics(self) -> None:
        return None
