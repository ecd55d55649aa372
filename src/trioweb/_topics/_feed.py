"""A feed: one wire form of a topic, and the subscriptions that get it.

A subscription is a cursor.  Delivery to it is one write of the bytes between its cursor and
the head (a block at a time), and those bytes are one object for all who stand at the same
place.  Of what the kernel does not take, only the frame that was cut is queued at the link;
the rest stays in the log.

A subscription that lags because its link is busy is set aside until that has drained, so that a
pass costs nothing for those who do not read, however many they are.

NOTE: Whoever changes a cursor or a log does so between two awaits, and outside of that
every subscription whose link is writable has reached what its topic's last pass delivered.
The cursor of one that is set aside does not move.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from weakref import ref

from .._connection import Connection
from .._errors import CloseCode
from .._frames import SERVER_FORM, WireForm, encode_message
from .._policy import Message
from .._waitable import check_thread
from ._log import Log, Publication

if TYPE_CHECKING:
    from ._topic import Topic

_logger = logging.getLogger("trioweb.topics")

Encode: TypeAlias = Callable[[Publication], Message]
Slow: TypeAlias = Literal["evict", "skip", "latest"]
SLOW_POLICIES: Final = ("evict", "skip", "latest")

# Ending a connection, in units of about 4 µs.
COST_OF_CLOSE: Final = 8

# What is spent between two chances for others to run, in the same units: half a millisecond.
_COST_PER_YIELD: Final = 128

# Those who are set aside are kept together by places in the log, so many of them to a group: it
# is asked in each pass who of them stands before the log's new beginning.
_GROUP_BITS: Final = 6

# Chunks remembered for subscribers that stand elsewhere than the others.
_MAX_CHUNKS: Final = 16


def _cost(size: int) -> int:
    """What it costs to write *size* bytes, in the same units."""
    return 1 + size // 4096


def check_slow(slow: Slow) -> Slow:
    """Raise unless *slow* is a policy."""
    if slow not in SLOW_POLICIES:
        raise ValueError(f"slow={slow!r}: must be one of {', '.join(map(repr, SLOW_POLICIES))}")
    return slow


class Chunk:
    """What lies behind a cursor: the bytes, the offset they reach, who must not get them."""

    __slots__ = ("data", "end", "skips")

    def __init__(self, data: bytes, end: int, skips: frozenset[object]) -> None:
        self.data = data
        self.end = end
        self.skips = skips


class Subscription:
    """A connection's membership of a topic.  Use it as a context manager, or `close` it.

    Attributes:
        cursor: the offset of the last publication written to the peer, or passed over.
        skipped: how many were passed over because the peer was too slow or came too late.
        recovered: False if `since` could not be honoured in full.
    """

    __slots__ = (
        "connection",
        "cursor",
        "feed",
        "link",
        "me",
        "recovered",
        "skipped",
        "slow",
        "topic",
    )

    def __init__(
        self, topic: Topic, connection: Connection, feed: Feed, slow: Slow, cursor: int
    ) -> None:
        self.topic = topic
        self.connection = connection
        self.link = connection.link
        # What a publication that skips this connection holds of it.
        self.me = ref(connection)
        self.feed: Feed | None = feed
        self.slow = slow
        self.cursor = cursor
        self.skipped = 0
        self.recovered = True

    @property
    def lag(self) -> int:
        """How many publications the peer is behind."""
        return self.topic.head - self.cursor

    def close(self) -> None:
        """Leave the topic.  Idempotent; the end of the connection calls it, too.

        Raises:
            RuntimeError: called from a thread that does not run Trio; nothing was done.
        """
        if self.feed is not None:
            check_thread()
            feed, self.feed = self.feed, None
            self.topic.leave(self, feed)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def skip_to(self, cursor: int) -> None:
        """Pass over what lies before *cursor*, and count it."""
        count = cursor - self.cursor
        if count > 0:
            self.cursor = cursor
            self.skipped += count
            self.topic.count_skipped(count)


class Feed:
    """One wire form of a topic, with those who subscribe to it."""

    __slots__ = (
        "_any_latest",
        "_aside",
        "_chunks",
        "_encode",
        "_form",
        "_frames",
        "_log",
        "_ready",
    )

    def __init__(self, log: Log, encode: Encode | None, form: WireForm) -> None:
        # Each subscription is in one of these.
        self._ready: dict[Subscription, None] = {}
        self._aside: dict[int, dict[Subscription, None]] = {}
        self._log = log
        self._encode = encode
        self._form = form
        self._any_latest = False
        self._chunks: dict[int, Chunk] = {}
        # Frames in this form, unless it is the one in which the log itself keeps them.
        is_logs = encode is None and form == SERVER_FORM
        self._frames: dict[int, bytes] | None = None if is_logs else {}

    @property
    def key(self) -> tuple[Encode | None, WireForm]:
        """What its topic has it under."""
        return self._encode, self._form

    @property
    def subscriptions(self) -> list[Subscription]:
        return [*self._ready, *(each for group in self._aside.values() for each in group)]

    def __len__(self) -> int:
        return len(self._ready) + sum(map(len, self._aside.values()))

    def add(self, subscription: Subscription) -> None:
        self._ready[subscription] = None
        self._any_latest |= subscription.slow == "latest"

    def remove(self, subscription: Subscription) -> None:
        self.resume(subscription)
        del self._ready[subscription]

    def set_aside(self, subscription: Subscription) -> None:
        """Leave out *subscription*, which lags and whose link is busy, until `resume`."""
        if subscription in self._ready:
            del self._ready[subscription]
            group = self._aside.setdefault(subscription.cursor >> _GROUP_BITS, {})
            group[subscription] = None
            subscription.link.stand_in_line(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Deliver to *subscription* again."""
        number = subscription.cursor >> _GROUP_BITS
        group = self._aside.get(number)
        if group is not None and subscription in group:
            del group[subscription]
            if not group:
                del self._aside[number]
            self._ready[subscription] = None
            subscription.link.leave_line(subscription)

    def overdue(self, floor: int) -> list[Subscription]:
        """Who of those that are set aside needs what lies before *floor*."""
        last = floor - 1
        return [
            subscription
            for number, group in self._aside.items()
            if number <= last >> _GROUP_BITS
            for subscription in group
            if subscription.cursor < last
        ]

    def frame(self, publication: Publication) -> bytes:
        """The publication as this feed's subscribers get it, encoded once."""
        if self._frames is None:
            return publication.frame
        frame = self._frames.get(publication.offset)
        if frame is None:
            message = publication.message if self._encode is None else self._encode(publication)
            frame = encode_message(message, self._form)
            self._frames[publication.offset] = frame
        return frame

    def _frames_of(self, entries: Sequence[Publication]) -> list[bytes]:
        if self._frames is None:
            return [entry.frame for entry in entries]
        return [self.frame(entry) for entry in entries]

    def forget(self, first: int) -> None:
        """The log is about to drop what lies before *first*."""
        self._chunks.clear()
        if self._frames:
            for offset in range(self._log.first, first):
                self._frames.pop(offset, None)

    def chunk(self, cursor: int) -> Chunk:
        """What lies behind *cursor*, up to the end of its block."""
        known = self._chunks.get(cursor)
        block = self._log.block_after(cursor)
        end = block[-1].offset
        if known is not None and known.end == end:
            return known
        data = b"".join(self._frames_of(block))
        # A connection that is gone subscribes no more (and its reference cannot be hashed).
        skips = frozenset([entry.skip for entry in block if entry.skip and entry.skip()])
        chunk = Chunk(data, end, skips)
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks.clear()
        self._chunks[cursor] = chunk
        return chunk

    def deliver(self, head: int) -> Iterator[int]:
        """Write to every subscriber what it lacks up to *head*.

        Yields after every few writes what they cost, in units of about 4 µs, so that the
        caller can let others run.
        """
        cost = 0
        # What lies behind the place where the last one stood, and what writing that costs.
        at, data, size, end, price = -1, b"", 0, 0, 0
        for subscription in tuple(self._ready):
            if cost >= _COST_PER_YIELD:
                yield cost
                # Others have run: the log may have moved on.
                cost, at = 0, -1
            # NOTE: These lines are what a delivery costs beyond the write itself.
            if subscription.feed is None:
                continue  # it left while others ran
            link = subscription.link
            if subscription.cursor == at and link.writable:
                cost += price
                taken = link.offer(data)
                if taken == size:
                    subscription.cursor = end
                    if end >= head:
                        continue
                else:
                    self._cut(subscription, end, taken)
            elif subscription.cursor >= head:
                continue  # it joined, or was written to, while others ran
            elif link.writable:
                chunk = self.chunk(subscription.cursor)
                # Where all do not get the same, each is looked after alone.
                if not chunk.skips and not self._any_latest:
                    at, data, end = subscription.cursor, chunk.data, chunk.end
                    size = len(data)
                    price = _cost(size)
            while subscription.cursor < head and link.writable:
                cost += self.step(subscription)
            if subscription.cursor < head:
                self.set_aside(subscription)
        yield cost

    def step(self, subscription: Subscription) -> int:
        """Write one chunk to a subscriber whose link is writable; return the cost."""
        head = self._log.head
        if subscription.slow == "latest":
            subscription.skip_to(head - 1)
        chunk = self.chunk(subscription.cursor)
        cost = _cost(len(chunk.data))
        if subscription.me in chunk.skips:
            # Who does not get all of it has it put together entry by entry.
            cost += (chunk.end - subscription.cursor) // 32
            self._write_without_skipped(subscription, chunk.end)
        else:
            taken = subscription.link.offer(chunk.data)
            if taken == len(chunk.data):
                subscription.cursor = chunk.end
            else:
                self._cut(subscription, chunk.end, taken)
        return cost

    def _write_without_skipped(self, subscription: Subscription, end: int) -> None:
        entries = self._wanted(subscription, end)
        data = b"".join(self._frames_of(entries))
        taken = subscription.link.offer(data) if data else 0
        if taken == len(data):
            subscription.cursor = end
        else:
            self._cut(subscription, end, taken)

    def _wanted(self, subscription: Subscription, end: int) -> list[Publication]:
        entries = self._log.between(subscription.cursor, end)
        return [entry for entry in entries if entry.skip != subscription.me]

    def _cut(self, subscription: Subscription, end: int, taken: int) -> None:
        """The kernel took only *taken* bytes of what lies up to *end*: finish one frame."""
        for entry in self._wanted(subscription, end):
            frame = self.frame(entry)
            if taken < len(frame):
                subscription.cursor = entry.offset
                subscription.link.finish(frame[taken:] if taken else frame)
                return
            taken -= len(frame)

    def fail(self, error: Exception) -> Iterator[int]:
        """The feed's encoding raised: that ends its subscribers, and nobody else.

        Yields costs, as `deliver`.
        """
        _logger.error("error in an encoding of a topic", exc_info=error)
        for subscription in self.subscriptions:
            subscription.link.close(CloseCode.INTERNAL_ERROR, "encoding failed")
            yield COST_OF_CLOSE
