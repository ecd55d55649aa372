"""Delivery: the members of a topic that share a shape, and how what they lack is written.

Delivery to a subscriber is one write of the bytes between its cursor and the head (a block at a
time), and those bytes are one object for all who stand at the same place.  Of what the kernel
does not take, only the frame that was cut is queued at the link; the rest stays in the log.

A subscription that lags because its link is busy is set aside until its turn has come, so that a
pass costs nothing for those who do not read, however many they are.

A subscription may find that what it needs has left the log; whoever finds that judges it, as its
policy says.  So nothing has to be asked before a log is trimmed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from .._close_codes import CloseCode
from .._connection import Connection
from .._logs import log
from .._observer import tell
from .._protocol._http import format_address
from ._log import Log
from ._shape import COST_OF_WRITE, Shape, cost_of_write
from ._subscription import ASIDE, GONE, READY, Subscription, logger

# Costs are those of `_shape`: quarters of a microsecond.
COST_OF_CLOSE: Final = 128
_COST_OF_MOVE: Final = 6
# What is spent between two chances for others to run: half a millisecond.
_COST_PER_YIELD: Final = 2048

# Those who are set aside are kept together by places in the log, so many of them to a group: it
# is asked in each pass who of them stands furthest back.
_GROUP_BITS: Final = 6


class Counts:
    """What the members of all topics of a hub have been through.

    Attributes:
        deliveries, delivered_bytes: publications that were written to subscribers, and the bytes
            of their frames.
        recovered, gaps: subscriptions with a position to go on from, by whether nothing is known
            to be missing.
    """

    __slots__ = ("delivered_bytes", "deliveries", "gaps", "recovered")

    def __init__(self) -> None:
        self.deliveries = self.delivered_bytes = 0
        self.recovered = self.gaps = 0

    def delivered(self, times: int, frames: Sequence[bytes], size: int) -> None:
        """Count *frames*, of *size* bytes together, written so many *times*."""
        self.deliveries += times * len(frames)
        self.delivered_bytes += times * size


class Members:
    """The subscriptions to a topic that share a shape.

    Attributes:
        shape: theirs.
        ready: those that a pass writes to.
        pending: how many wait to learn where they start; nothing is written to them.
        passed: the offset up to which the last pass has delivered.
    """

    __slots__ = (
        "_any_latest",
        "_aside",
        "_counts",
        "_failure",
        "_log",
        "_waiting",
        "passed",
        "pending",
        "ready",
        "shape",
    )

    def __init__(self, log: Log, shape: Shape, counts: Counts) -> None:
        self.ready: dict[Subscription, None] = {}
        self.shape = shape
        self.passed = log.head
        self.pending = 0
        self._log = log
        self._counts = counts
        self._any_latest = False
        # What the shape's encoding has raised.
        self._failure: Exception | None = None
        # Those set aside: by group, and those that want no more than the newest, apart.
        self._aside: dict[int, dict[Subscription, None]] = {}
        self._waiting: dict[Subscription, None] = {}

    def __len__(self) -> int:
        aside = len(self._waiting) + sum(map(len, self._aside.values()))
        return self.pending + len(self.ready) + aside

    @property
    def subscriptions(self) -> list[Subscription]:
        aside = (each for group in self._aside.values() for each in group)
        return [*self.ready, *self._waiting, *aside]

    def add(self, subscription: Subscription) -> None:
        """Have *subscription*, which is READY, among those that a pass writes to."""
        self.ready[subscription] = None
        self._any_latest |= subscription._slow == "latest"

    def rebase(self, log: Log) -> None:
        """The topic goes on with another *log*: see `_life`."""
        self._log = log
        self.passed = log.head
        self.shape.rebase(log)

    # The tables of those set aside; `Subscription._move` keeps them.

    def add_aside(self, subscription: Subscription) -> None:
        if subscription._slow == "latest":
            self._waiting[subscription] = None
        else:
            group = self._aside.setdefault(subscription.cursor >> _GROUP_BITS, {})
            group[subscription] = None

    def remove_aside(self, subscription: Subscription) -> None:
        if subscription._slow == "latest":
            del self._waiting[subscription]
            return
        number = subscription.cursor >> _GROUP_BITS
        group = self._aside[number]
        del group[subscription]
        if not group:
            del self._aside[number]

    def is_aside(self, subscription: Subscription) -> bool:
        group = self._aside.get(subscription.cursor >> _GROUP_BITS, ())
        return subscription in self._waiting or subscription in group

    def furthest_back(self) -> tuple[int | None, int]:
        """The least cursor of those set aside that need all that they lack, None without any; and
        what it costs to ask."""
        if not self._aside:
            return None, 1
        group = self._aside[min(self._aside)]
        cost = len(self._aside) + len(group) >> 2
        return min(subscription.cursor for subscription in group), cost + 1

    def behind(self, first: int) -> list[Subscription]:
        """Those set aside that need what lies before *first*."""
        last = first - 1
        return [
            subscription
            for number, group in self._aside.items()
            if number <= last >> _GROUP_BITS
            for subscription in group
            if subscription.cursor < last
        ]

    # Writing.

    def deliver(self, head: int) -> Iterator[int]:
        """Write to every subscriber what it lacks up to *head*.

        Yields from time to time what that has cost, so that the caller can let others run.
        """
        try:
            if self._failure is None:
                yield from self._deliver(head)
        except Exception as exc:
            self._failure = exc
        if self._failure is not None:
            yield from self._fail(self._failure)
        self.passed = head

    def _deliver(self, head: int) -> Iterator[int]:
        # Where all do not get the same, each is looked after alone.
        self._any_latest = self._any_latest and any(
            subscription._slow == "latest" for subscription in self.ready
        )
        log = self._log
        # Of what was spent, all but `other` went into writing `data`, at its price each time: so
        # how often that was need not be counted.
        cost = other = 0
        # What lies behind the place where the last one stood, and what writing that costs.
        at, data, size, end, price, skips = -1, b"", 0, 0, 1, frozenset[str]()
        frames: list[bytes] = []
        for subscription in tuple(self.ready):
            if cost >= _COST_PER_YIELD:
                self._counts.delivered((cost - other) // price, frames, size)
                yield cost
                # Others have run, and what was the newest need not be that any more.
                cost, other, at = 0, 0, -1 if self._any_latest else at
            # NOTE: These lines are what a delivery costs beyond the write itself.
            if subscription._place is not READY:
                continue  # it left, or was set aside, while others ran
            queue = subscription._queue
            cursor = subscription.cursor
            if cursor != at:
                if cursor >= head:
                    cost, other = cost + 1, other + 1
                    continue  # it joined, or was written to, while others ran
                if queue.writable and cursor >= log.first - 1:
                    chunk = self.shape.chunk(cursor)
                    spent, self.shape.spent = self.shape.spent, 0
                    cost, other = cost + spent, other + spent
                    if subscription._is_gone:
                        continue  # what encodes may have done anything
                    # Of a single publication, that is the newest.
                    if not self._any_latest or (len(chunk.frames) == 1 and chunk.end == log.head):
                        if cost > other:
                            self._counts.delivered((cost - other) // price, frames, size)
                            other = cost
                        at, data, end, skips = cursor, chunk.data, chunk.end, chunk.skips
                        frames, size, price = chunk.frames, len(data), cost_of_write(len(data))
            if cursor == at and queue.writable and not (skips and subscription._key in skips):
                cost += price
                taken = queue.offer(data)
                if taken == size:
                    subscription.cursor = end
                    if end >= head:
                        continue
                else:
                    other += price
                    self._cut(subscription, frames, range(at + 1, end + 1), taken)
            while subscription.cursor < head and queue.writable and subscription._place is READY:
                spent = self.step(subscription)
                cost, other = cost + spent, other + spent
                if cost >= _COST_PER_YIELD:
                    self._counts.delivered((cost - other) // price, frames, size)
                    yield cost
                    cost, other, at = 0, 0, -1 if self._any_latest else at
            if subscription.cursor < head and subscription._place is READY:
                subscription._move(ASIDE)
                cost, other = cost + _COST_OF_MOVE, other + _COST_OF_MOVE
        if cost > other:
            self._counts.delivered((cost - other) // price, frames, size)
        yield cost

    def serve(self, subscription: Subscription) -> int:
        """Write a chunk to one that is set aside, whose turn it is; return the cost."""
        cost = COST_OF_WRITE
        if self._failure is None:
            subscription._move(READY)
            try:
                cost = self.step(subscription)
            except Exception as exc:
                # There may be very many to be told, which is for a pass to do.
                self._failure = exc
                subscription.topic._look_again()
            if subscription._place is READY and subscription.lag:
                subscription._move(ASIDE)
            elif not self._aside:
                subscription.topic._caught_up()
        return cost

    def step(self, subscription: Subscription) -> int:
        """Write one chunk to a READY subscriber whose link has room; return the cost."""
        if subscription._slow == "latest":
            return self._write_latest(subscription)
        cursor = subscription.cursor
        if cursor < self._log.first - 1:
            return self.judge(subscription)
        chunk = self.shape.chunk(cursor)
        cost, self.shape.spent = cost_of_write(len(chunk.data)) + self.shape.spent, 0
        # What encodes may have done anything.
        if subscription._place is READY and subscription.cursor == cursor:
            frames, data, end = chunk.frames, chunk.data, chunk.end
            offsets: Sequence[int] = range(cursor + 1, end + 1)
            if chunk.skips and subscription._key in chunk.skips:
                # Who does not get all of it has it put together frame by frame.
                meant = [i for i, mark in enumerate(chunk.marks) if mark != subscription._key]
                frames = [frames[i] for i in meant]
                offsets = [offsets[i] for i in meant]
                data = b"".join(frames)
                cost += len(chunk.frames)
            taken = subscription._queue.offer(data) if data else 0
            if taken == len(data):
                subscription.cursor = end
                self._counts.delivered(1, frames, len(data))
            else:
                self._cut(subscription, frames, offsets, taken)
        return cost

    def _write_latest(self, subscription: Subscription) -> int:
        """Write the newest publication that is for this peer, and pass over those before it."""
        log, cursor, head = self._log, subscription.cursor, self._log.head
        begin = max(cursor, log.first - 1)
        cost = COST_OF_WRITE
        newest, missed = head, head - 1 - cursor
        if log.skips or begin == head:
            # Who is meant stands in the log alone, and even the newest may have come of age.
            offsets = range(begin + 1, head + 1)
            key, marks = subscription._key, log.marks(begin, head)
            meant: Sequence[int] = offsets
            if marks:
                meant = [
                    begin + i for i, mark in enumerate(marks, 1) if mark is None or mark != key
                ]
            newest = meant[-1] if meant else 0
            missed = begin - cursor + max(0, len(meant) - 1)
            cost += len(offsets)
        frame = b""
        if newest:
            block, _ = log.block_after(newest - 1)
            [frame] = self.shape.frames(newest - 1, newest, block)
            cost += self.shape.spent + (len(frame) >> 8)
            self.shape.spent = 0
            # What encodes may have done anything.
            if subscription._place is not READY or subscription.cursor != cursor:
                return cost
        if missed:
            subscription._pass_over(head - 1, missed)
        subscription.cursor = head
        taken = subscription._queue.offer(frame) if frame else 0
        if taken < len(frame):
            subscription._queue.finish(frame[taken:] if taken else frame)
        if newest:
            self._counts.delivered(1, [frame], len(frame))
        return cost

    def _cut(
        self,
        subscription: Subscription,
        frames: Sequence[bytes],
        offsets: Sequence[int],
        taken: int,
    ) -> None:
        """The kernel took only *taken* bytes of *frames*: finish the one that this cuts."""
        for number, frame in enumerate(frames):
            if taken < len(frame):
                subscription.cursor = offsets[number]
                subscription._queue.finish(frame[taken:] if taken else frame)
                written = frames[: number + 1]
                self._counts.delivered(1, written, sum(map(len, written)))
                return
            taken -= len(frame)

    # Those who are too slow.

    def judge(self, subscription: Subscription) -> int:
        """What *subscription* needs has left the log: do as its policy says; return the cost."""
        if subscription._turns.is_over:
            return _COST_OF_MOVE  # it ends, too, when it has its turn
        if subscription._slow == "evict":
            subscription._sink.close(*subscription._evict)
            _tell_of_eviction(subscription)
            return COST_OF_CLOSE
        oldest = self._log.first - 1
        subscription._pass_over(oldest, oldest - subscription.cursor)
        subscription._sink.missed(subscription.cursor, subscription.skipped)
        if subscription._place is ASIDE and not subscription.lag:
            subscription._move(READY)
        return COST_OF_WRITE

    def _fail(self, error: Exception) -> Iterator[int]:
        """The shape's encoding has raised: that ends its subscribers, and nobody else."""
        names = [subscription.topic.name for subscription in self.subscriptions[:1]]
        text = "error in an encoding of a topic"
        log(logger, logging.ERROR, None, text, error=error, topic=names[0] if names else None)
        # Others may join while others run, and nobody would write to them.
        while subscriptions := self.subscriptions:
            for subscription in subscriptions:
                if subscription._place is not GONE:
                    subscription._sink.close(CloseCode.INTERNAL_ERROR, "encoding failed")
                yield COST_OF_CLOSE


def _tell_of_eviction(subscription: Subscription) -> None:
    """Count that *subscription* ends as it was too slow, and tell the log and the observer."""
    who, name = subscription._subscriber, subscription.topic.name
    hub = subscription.topic._hub
    hub._evicted += 1
    text, address = "%r: evicted from %r, too slow", format_address(who.remote)
    log(logger, logging.INFO, who, text, who, name, address=address, topic=name)
    if isinstance(who, Connection) and (observer := hub._observer) is not None:
        tell(observer.on_eviction, who, name)
