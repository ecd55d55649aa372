"""What a send queue needs of whoever has it, and what it calls others for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class Spawn(Protocol):
    """`Nursery.start_soon` of the nursery that holds the tasks of whoever has a queue."""

    def __call__(self, task: Callable[[], Awaitable[None]], /) -> object: ...


class Owner(Protocol):
    """Whoever has a queue."""

    @property
    def id(self) -> str:
        """What the records of the log go by."""

    def heard(self) -> None:
        """The peer has made room, which is a sign of life."""

    def on_broken(self) -> None:
        """Nothing can be written any more: the queue is BROKEN.

        NOTE: Called in the middle of what somebody writes, who does not expect to be called.
        """

    def on_stalled(self) -> None:
        """The peer took nothing for the write timeout; the queue is BROKEN for that."""


class Hooks:
    """What somebody wants to be called for."""

    __slots__ = ("closed", "drained")

    def __init__(self, closed: Callable[[], None], drained: Callable[[], None]) -> None:
        self.closed = closed
        self.drained = drained
