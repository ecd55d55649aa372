"""Sinks: what delivery needs of whoever subscribes, and no more.

A WebSocket's link is one.  So is anything else with a queue that bytes leave by (`SendQueue` over
any wire, or what does the same), such as a response of HTTP that goes on as a stream of events: it
says itself what a publication looks like there, and how it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .._policy import Message
from .._protocol._frames import WireForm
from .._protocol._http import Address

if TYPE_CHECKING:
    from ._log import Publication


class Outlet(Protocol):
    """Where what is delivered leaves.  `SendQueue` is one, and says what each of these does."""

    @property
    def writable(self) -> bool: ...

    @property
    def is_free(self) -> bool: ...

    @property
    def buffered_amount(self) -> int: ...

    def offer(self, data: bytes, /) -> int: ...

    def finish(self, rest: bytes, /) -> None: ...

    def stand_in_line(self, key: object, /) -> None: ...

    def leave_line(self, key: object, /) -> None: ...

    def turn_over(self) -> None: ...

    def set_hooks(
        self, key: object, /, *, closed: Callable[[], None], drained: Callable[[], None]
    ) -> None: ...

    def remove_hooks(self, key: object, /) -> None: ...


class PublicationForm(Hashable, Protocol):
    """How publications look where they are no messages of a WebSocket.

    Subscribers with equal forms share what is encoded.
    """

    def encode(self, publication: Publication, message: Message, /) -> bytes:
        """The bytes of *publication*, of which the subscriber is to get *message*.

        They are written whole or not at all; `b""` where this has nothing to say.
        """


Form: TypeAlias = WireForm | PublicationForm


class Sink(Protocol):
    """Where the publications of a topic go to."""

    @property
    def queue(self) -> Outlet:
        """Where they leave.  Subscribers that share one have their turns there."""

    @property
    def form(self) -> Form:
        """What they look like."""

    def check_writable(self) -> None:
        """Raise unless something can still be written."""

    def missed(self, cursor: int, skipped: int, /) -> None:
        """It was too slow, and goes on behind *cursor*; *skipped* publications were passed over so
        far."""

    def close(self, code: int, reason: str, /) -> None:
        """End it, with a *code* of RFC 6455 section 7.4; its `queue` calls its closed hooks.

        It was too slow, or cannot be encoded for.
        """


class Subscriber(Protocol):
    """Whoever may subscribe to a topic: a Connection, or anything else with a sink."""

    @property
    def id(self) -> str:
        """What records of the log go by."""

    @property
    def peer(self) -> str:
        """The key of the peer, which `skip=` names."""

    @property
    def remote(self) -> Address:
        """The peer's address, for the log."""

    @property
    def _sink(self) -> Sink: ...
