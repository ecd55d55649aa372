"""A subscription: a cursor into a topic, and where it stands between two passes.

    READY ──── lags, and its link is busy ────▶ ASIDE
      ◀──────────── has caught up ─────────────
      └────────────▶ GONE ◀────────────────────┘

With a broker it may have to wait until it is known where it starts: PENDING comes before READY,
and is one of its members, but stands in none of their tables.

NOTE: `_move` alone changes the place, and keeps the tables of the members and the line of the
link in step with it.  Between two turns of the scheduler
- a READY one whose link is writable has reached what its topic's last pass delivered;
- an ASIDE one lags, and stands in the line of its link, which is writable for nobody else.
`_check` says so, and tests call it.
"""

from __future__ import annotations

import logging
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from .._close_codes import CloseCode
from .._connection import Connection
from .._protocol._frames import check_close
from .._waitable import check_thread

if TYPE_CHECKING:
    from ._delivery import Members
    from ._sink import Subscriber
    from ._topic import Topic
    from ._turns import Turns

logger = logging.getLogger("trioweb.topics")

Slow: TypeAlias = Literal["evict", "skip", "latest"]
SLOW_POLICIES: Final = ("evict", "skip", "latest")


def check_slow(slow: Slow) -> Slow:
    """Raise unless *slow* is a policy."""
    if slow not in SLOW_POLICIES:
        raise ValueError(f"slow={slow!r}: must be one of {', '.join(map(repr, SLOW_POLICIES))}")
    return slow


def check_peer(name: str, peer: str | None) -> str | None:
    """Raise unless *peer*, the argument *name*, is a key of a peer, or None."""
    if peer is not None and not isinstance(peer, str):
        raise TypeError(f"{name}={peer!r}: the key of a peer must be a str; Connection.peer is one")
    return peer


# What a slow consumer is told; not what is wrong with it, since the network may be.
SLOW_CONSUMER: Final = (int(CloseCode.TRY_AGAIN_LATER), "slow consumer")


def check_evict(evict: tuple[int, str]) -> None:
    """Raise unless *evict* can be told to a peer."""
    if not isinstance(evict, tuple) or len(evict) != 2:
        raise TypeError(f"evict={evict!r}: must be the (code, reason) of a Close")
    check_close(*evict)


class Holder(Protocol):
    """Whoever has said to a peer where its subscriptions stand, and has a word for their end."""

    def _lose_track(self, subscription: Subscription, /) -> None:
        """The topic has begun anew, or elsewhere than was said, and *subscription* has ended with
        that.  Must not raise."""


class Place(Enum):
    """Where a subscription stands."""

    PENDING = "PENDING"
    READY = "READY"
    ASIDE = "ASIDE"
    GONE = "GONE"


# To look up a member takes longer than to compare with it.
PENDING: Final = Place.PENDING
READY: Final = Place.READY
ASIDE: Final = Place.ASIDE
GONE: Final = Place.GONE


class Subscription:
    """A connection's membership of a topic.  Use it as a context manager, or `close` it.

    Attributes:
        topic: what it gets.
        cursor: the offset of the last publication written to the peer, or passed over.
        skipped: how many were passed over because the peer was too slow or came too late.
        recovered: False if `since` could not be honoured in full, and while that is not known.
    """

    __slots__ = (
        "_evict",
        "_holder",
        "_members",
        "_peer",
        "_place",
        "_queue",
        "_sink",
        "_slow",
        "_subscriber",
        "_turns",
        "cursor",
        "recovered",
        "skipped",
        "topic",
    )

    def __init__(
        self,
        topic: Topic,
        subscriber: Subscriber,
        members: Members,
        turns: Turns,
        *,
        slow: Slow,
        cursor: int,
        peer: str | None,
        evict: tuple[int, str],
    ) -> None:
        self.topic = topic
        self._subscriber = subscriber
        self.cursor = cursor
        self.skipped = 0
        self.recovered = False
        self._sink = subscriber._sink
        self._queue = self._sink.queue
        self._members = members
        self._turns = turns
        self._slow = slow
        self._peer = peer
        self._evict = evict
        # Is told in place of a Close when the topic begins anew.
        self._holder: Holder | None = None
        self._place = PENDING
        members.pending += 1

    @property
    def connection(self) -> Connection:
        """Whose it is."""
        assert isinstance(self._subscriber, Connection), "no user sees one of anything else"
        return self._subscriber

    @property
    def lag(self) -> int:
        """How many publications the peer is behind."""
        return 0 if self._place is PENDING else self.topic.head - self.cursor

    @property
    def placed(self) -> bool:
        """Whether it is known where delivery starts, so that `cursor`, `recovered` and `skipped`
        say something.  At once, but for a hub with a broker."""
        return self._place is not PENDING

    async def wait_placed(self) -> None:
        """Wait until `placed`.

        Raises:
            trio.ClosedResourceError: the subscription has ended before, or with its topic's hub.

        Cancellation: nothing changes.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        while self._place is PENDING:
            await self.topic._news.wait_change()
        if self._place is GONE:
            raise trio.ClosedResourceError("the subscription has ended")

    @enable_ki_protection
    def close(self) -> None:
        """Leave the topic.  Idempotent; the end of the connection calls it, too.

        Raises:
            RuntimeError: called from a thread that does not run Trio; nothing was done.
        """
        if self._place is not GONE:
            check_thread()
            self._move(GONE)
            self.topic._left(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subscription of {self._subscriber!r} to {self.topic.name!r}, {self._place.name}>"

    @property
    def _is_gone(self) -> bool:
        return self._place is GONE

    @property
    def _key(self) -> str:
        """What a publication names that is not for this peer."""
        return self._subscriber.peer if self._peer is None else self._peer

    # An interrupt between two of these lines would leave tables that do not agree.
    @enable_ki_protection
    def _move(self, place: Place) -> None:
        """Stand at *place* from now on."""
        members, turns = self._members, self._turns
        match self._place:
            case Place.PENDING:
                members.pending -= 1
                if place is GONE:
                    self.topic._leave_waiting(self)
            case Place.READY:
                del members.ready[self]
            case Place.ASIDE:
                members.remove_aside(self)
                turns.leave_line(self)
        self._place = place
        match place:
            case Place.READY:
                members.add(self)
            case Place.ASIDE:
                members.add_aside(self)
                turns.stand_in_line(self)
            case Place.GONE:
                turns.remove(self)

    def _tell_of_restart(self) -> None:
        """The topic has begun anew, and this has ended with that: tell the peer."""
        if self._holder is None:
            self._sink.close(CloseCode.SERVICE_RESTART, "topic restarted")
        else:
            self._holder._lose_track(self)

    @enable_ki_protection
    def _go_to(self, cursor: int, missing: int) -> None:
        """Start again behind *cursor*; *missing* publications are known to be missing."""
        self._pass_over(cursor, missing)
        self.recovered = False
        if self._place is ASIDE and not self.lag:
            self._move(READY)

    @enable_ki_protection
    def _pass_over(self, cursor: int, count: int) -> None:
        """Go on behind *cursor*; *count* publications up to there were for this peer."""
        is_aside = self._place is ASIDE
        # It keeps its place in the line of its link.
        if is_aside:
            self._members.remove_aside(self)
        self.cursor = cursor
        if is_aside:
            self._members.add_aside(self)
        self.skipped += count
        self.topic._hub._skipped += count

    def _check(self) -> None:
        """Raise AssertionError unless what the tables say agrees with the place."""
        members, queue = self._members, self._queue
        assert (self in members.ready) == (self._place is READY), self
        assert members.is_aside(self) == (self._place is ASIDE), self
        assert (self in self._turns.line) == (self._place is ASIDE), self
        if self._place is READY and queue.writable:
            assert self.cursor >= min(members.passed, self.topic.head), self
        if self._place is ASIDE:
            assert self.lag > 0, self
            assert not queue.writable, self
