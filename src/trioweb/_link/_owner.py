"""What the parts of a link need of whoever has them, and what they call others for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from .._errors import FrameError
from .._protocol._frames import WireForm


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


class Hearer(Protocol):
    """Whoever hears of what comes from a peer.

    NOTE: Each of its methods is called in the middle of a chunk, and may end the link.
    """

    @property
    def id(self) -> str:
        """What the records of the log go by."""

    @property
    def form(self) -> WireForm:
        """How messages are written to the peer."""

    def changed(self) -> None:
        """Messages have come."""

    def closed_by_peer(self, code: int, reason: str, /) -> None:
        """The peer's Close has come (section 5.5.1); nothing that comes after it counts."""

    def fail(self, fault: FrameError | str, /) -> None:
        """What has come breaks the protocol; or nothing more can come, for the reason given."""

    def abort(self, reason: str, /) -> None:
        """The peer asks for too much."""


class Hooks:
    """What somebody wants to be called for."""

    __slots__ = ("closed", "drained")

    def __init__(self, closed: Callable[[], None], drained: Callable[[], None]) -> None:
        self.closed = closed
        self.drained = drained
