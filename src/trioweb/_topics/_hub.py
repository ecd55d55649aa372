"""The hub: the set of topics, its bounds, and the pump.

The pump is one task.  It wakes when a topic has news or a link has drained, writes, and lets
others run after about a millisecond of work.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final, NoReturn
from weakref import WeakValueDictionary

import trio

from .._errors import HubFull
from .._link import Link
from .._nursery import open_hidden_nursery, protected_block
from .._policy import Retain
from ._feed import Slow, Subscription, check_slow
from ._topic import Topic

# What the pump does between two checkpoints, in units of one small write, about 4 µs.
_COST_PER_CHECKPOINT: Final = 256


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """What a hub holds and has done.

    Attributes:
        topics, subscribers: now.
        retained_messages, retained_bytes: in the logs of all topics, now.
        published: publications so far.
        evicted: subscribers closed with 1013 for being too slow, so far.
        skipped: publications passed over for subscribers that may skip, so far.
        forgotten: topics that went to make room for others, so far.
    """

    topics: int
    subscribers: int
    retained_messages: int
    retained_bytes: int
    published: int
    evicted: int
    skipped: int
    forgotten: int


class Hub:
    """A set of topics.  `open_hub` makes one.

    Attributes:
        max_topics, max_bytes: beyond these, topics without subscribers are forgotten, those
            first that were idle longest.
        evicted, skipped: see `HubStatistics`.
    """

    def __init__(self, max_topics: int, max_bytes: int) -> None:
        self.max_topics = max_topics
        self.max_bytes = max_bytes
        self.evicted = 0
        self.skipped = 0
        self._size = 0
        self._published = 0
        self._forgotten = 0
        self.closed = False
        self._delivers = True
        # Topics with a log or subscribers; and every Topic that anybody still holds, so
        # that one name is one object even if the hub forgot it in the meantime.
        self._topics: dict[str, Topic] = {}
        self._known: WeakValueDictionary[str, Topic] = WeakValueDictionary()
        self._idle: dict[Topic, None] = {}  # longest idle first
        # A link's subscriptions, in the order of their turns.
        self._turns: dict[Link, deque[Subscription]] = {}
        # The pump's work, and when logs with an age limit want to be looked at.
        self._dirty: dict[Topic, None] = {}
        self._drained: dict[Link, None] = {}
        self._expiries: list[tuple[float, str]] = []
        self._expected: dict[str, float] = {}  # the earliest of each topic's
        self._work = trio.Event()
        self._rest = trio.Event()

    def topic(self, name: str, *, retain: Retain | None = None, slow: Slow | None = None) -> Topic:
        """The topic *name*, made now if there is none.

        Args:
            retain: what it keeps of its past; by default Retain(): 1,000 messages, 1 MiB.
            slow: what happens to a subscriber that falls further behind: "evict" (the
                default: Close 1013), "skip" (jump to the oldest retained and count) or
                "latest" (get only the newest whenever there is room).

        Raises:
            TypeError, ValueError: a bad argument, or other settings than the topic has.
            HubFull: there is no room, and no topic that could be forgotten.
            trio.ClosedResourceError: the hub is closed.
        """
        if not isinstance(name, str):
            raise TypeError(f"topic name {name!r}: must be a str")
        if retain is not None and not isinstance(retain, Retain):
            raise TypeError(f"topic {name!r}: retain={retain!r} must be a Retain")
        self._check_open()
        topic = self._known.get(name)
        # Who gives no settings takes those that there are.
        retain = retain or (topic.retain if topic is not None else Retain())
        slow = check_slow(slow or (topic.slow if topic is not None else "evict"))
        if topic is None or topic.forgotten:
            self._make_room()
            if topic is None:
                topic = self._known[name] = Topic(self, name, retain, slow)
            else:
                topic.bind(retain, slow)
        elif (retain, slow) != (topic.retain, topic.slow):
            raise ValueError(
                f"topic {name!r} was made with retain={topic.retain!r}, slow={topic.slow!r}; "
                f"retain={retain!r}, slow={slow!r} cannot be had while it lives"
            )
        return topic

    def statistics(self) -> HubStatistics:
        topics = self._topics.values()
        return HubStatistics(
            topics=len(topics),
            subscribers=sum(topic.subscribers for topic in topics),
            retained_messages=sum(topic.retained for topic in topics),
            retained_bytes=self._size,
            published=self._published,
            evicted=self.evicted,
            skipped=self.skipped,
            forgotten=self._forgotten,
        )

    async def wait_caught_up(self) -> None:
        """Wait until everything published has been written to every subscriber, or until nothing
        is delivered any more: the hub was closed or cancelled.

        Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        while self._delivers and (
            self._dirty
            or any(
                subscription.lag or subscription.link.buffered_amount
                for turns in self._turns.values()
                for subscription in turns
            )
        ):
            await self._rest.wait()

    def owed(self, link: Link) -> list[tuple[Subscription, int]]:
        """What *link* is behind with: its subscriptions that lag, and the offset of the newest
        publication for each.  See `is_owed`."""
        if not self._delivers:
            return []
        turns = self._turns.get(link, ())
        return [
            (subscription, subscription.topic.head) for subscription in turns if subscription.lag
        ]

    def is_owed(self, subscription: Subscription, offset: int) -> bool:
        """Whether the publication *offset* will still be written to *subscription*'s link."""
        return self._delivers and subscription.feed is not None and subscription.cursor < offset

    # What topics tell.

    def use(self, topic: Topic) -> None:
        """*topic* is about to be published or subscribed to."""
        self._check_open()
        if topic.name not in self._topics:
            self._make_room()
            self._topics[topic.name] = topic
            self._idle[topic] = None
            topic.forgotten = False

    def _check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the hub is closed")

    def published(self, topic: Topic, size: int) -> None:
        self._published += 1
        self._size += size
        if topic in self._idle:
            # Published to is not idle: to the end of the line.
            del self._idle[topic]
            self._idle[topic] = None
        if self._size > self.max_bytes:
            self._shed(topic)
        self._dirty[topic] = None
        self._work.set()

    def trimmed(self, topic: Topic, size: int) -> None:
        self._size -= size
        self.settle(topic)

    def joined(self, subscription: Subscription) -> None:
        link = subscription.link
        turns = self._turns.get(link)
        if turns is None:
            turns = self._turns[link] = deque()
            link.set_hooks(
                self, closed=lambda: self._on_closed(link), drained=lambda: self._on_drained(link)
            )
        turns.append(subscription)
        self.settle(subscription.topic)

    def left(self, subscription: Subscription) -> None:
        link = subscription.link
        turns = self._turns[link]
        turns.remove(subscription)
        if not turns:
            del self._turns[link]
            self._drained.pop(link, None)
            link.remove_hooks(self)
        # Somebody may wait for those who lag, of whom there may be one less.
        self._work.set()
        self.settle(subscription.topic)

    def settle(self, topic: Topic) -> None:
        """Put *topic* where it belongs after its log, subscribers or readers changed."""
        if not topic.is_idle:
            self._idle.pop(topic, None)
        elif not topic.retained:
            self._forget(topic)
        else:
            self._idle.setdefault(topic)

    # Bounds.

    def _forget(self, topic: Topic) -> None:
        """End this life of *topic*: its log and its epoch go."""
        self._idle.pop(topic, None)
        self._dirty.pop(topic, None)
        del self._topics[topic.name]
        self._size -= topic.size
        topic.forget()

    def _make_room(self) -> None:
        """See that there is room for one more topic."""
        while len(self._topics) >= self.max_topics:
            self._forget_longest_idle(f"{self.max_topics} topics")
        while self._size > self.max_bytes:
            self._forget_longest_idle(f"{self.max_bytes} bytes")

    def _forget_longest_idle(self, limit: str) -> None:
        if not self._idle:
            raise HubFull(limit)
        self._forget(next(iter(self._idle)))
        self._forgotten += 1

    def _shed(self, newest: Topic) -> None:
        """Forget idle topics, but not *newest*, while there are too many bytes."""
        for topic in tuple(self._idle):
            if self._size <= self.max_bytes:
                return
            if topic is not newest:
                self._forget(topic)
                self._forgotten += 1

    # The pump.

    def _on_drained(self, link: Link) -> None:
        self._drained[link] = None
        self._work.set()

    def _on_closed(self, link: Link) -> None:
        for subscription in tuple(self._turns.get(link, ())):
            subscription.close()

    def _expect(self, topic: Topic) -> None:
        """See that *topic* is looked at when its oldest publication comes of age."""
        max_age = topic.retain.max_age
        if max_age is None or not topic.retained:
            return
        due = topic.oldest_time + max_age
        # What an earlier life left here may be due later than this one's.
        if self._expected.get(topic.name, math.inf) <= due:
            return
        if len(self._expiries) > 2 * len(self._topics):
            # Most are of topics that have been forgotten, or of earlier lives.
            expected = self._expected.items()
            self._expected = {name: due for name, due in expected if name in self._topics}
            self._expiries = [(due, name) for name, due in self._expected.items()]
            heapify(self._expiries)
        self._expected[topic.name] = due
        heappush(self._expiries, (due, topic.name))

    def _expire(self) -> None:
        """Mark the topics whose oldest publication has come of age."""
        now = trio.current_time()
        while self._expiries and self._expiries[0][0] <= now:
            due, name = heappop(self._expiries)
            if self._expected.get(name) == due:
                del self._expected[name]
            if name in self._topics:
                self._dirty[self._topics[name]] = None

    async def pump(self) -> NoReturn:
        """Deliver until cancelled.

        From then on nothing is delivered any more, but what is published is taken all the same:
        who says good-bye while everything is cancelled must not get an error for it.
        """
        try:
            await self._pump()
        finally:
            self._delivers = False
            self._rest.set()
            for link, turns in self._turns.items():
                for subscription in turns:
                    link.leave_line(subscription)

    async def _pump(self) -> NoReturn:
        cost = 0
        while True:
            deadline = self._expiries[0][0] if self._expiries else math.inf
            with trio.CancelScope(deadline=deadline):
                await self._work.wait()
            self._work = trio.Event()
            self._expire()
            while self._dirty or self._drained:
                for spent in self._work_once():
                    cost += spent
                    if cost >= _COST_PER_CHECKPOINT:
                        cost = 0
                        await trio.lowlevel.checkpoint()
                        self._expire()
            self._rest.set()
            self._rest = trio.Event()

    def _work_once(self) -> Iterator[int]:
        """Serve the links that have drained, and one topic with news.

        NOTE: A link that has drained is served before any topic's pass sees that it is
        writable again.  Otherwise a topic that always has news would take it each time.
        """
        yield from self._serve_drained()
        if self._dirty:
            topic = next(iter(self._dirty))
            del self._dirty[topic]
            for spent in topic.deliver():
                yield spent
                yield from self._serve_drained()
            self._expect(topic)

    def _serve_drained(self) -> Iterator[int]:
        while self._drained:
            link = next(iter(self._drained))
            del self._drained[link]
            yield from self._serve_link(link)

    def _serve_link(self, link: Link) -> Iterator[int]:
        """Let the subscriptions of a link take turns, until it is full or none lags."""
        turns = self._turns.get(link)
        idle = 0
        while turns and link.writable and idle < len(turns):
            subscription = turns[0]
            turns.rotate(-1)
            if not subscription.lag or subscription.feed is None:
                idle += 1
                continue
            idle = 0
            feed = subscription.feed
            feed.resume(subscription)
            try:
                yield feed.step(subscription)
            except Exception as exc:
                yield from feed.fail(exc)
        # NOTE: A pass that is under way judges those who are set aside, and has seen the others.
        if not link.writable:
            for subscription in turns or ():
                if subscription.feed is not None and subscription.lag:
                    subscription.feed.set_aside(subscription)
        link.turn_over()

    def close(self) -> None:
        """End every subscription and reader.  `open_hub` calls it."""
        self.closed = True
        for turns in tuple(self._turns.values()):
            for subscription in tuple(turns):
                subscription.close()
        for topic in tuple(self._known.values()):
            topic.end()
        # There is nothing left to wait for.
        self._dirty.clear()
        self._rest.set()


@protected_block
async def open_hub(*, max_topics: int = 10_000, max_bytes: int = 64 * 2**20) -> AsyncGenerator[Hub]:
    """Open a hub for the length of the block.

    Args:
        max_topics: topics with a log or subscribers at one time.
        max_bytes: bytes that their logs retain together.  Beyond either bound the topic
            that was without subscribers longest is forgotten.

    Leaving the block ends every subscription (the connections stay open).

    Raises:
        TypeError, ValueError: an argument cannot work.
    """
    for name, value in (("max_topics", max_topics), ("max_bytes", max_bytes)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"open_hub({name}={value!r}): must be a whole number from 1 on")
    hub = Hub(max_topics, max_bytes)
    async with open_hidden_nursery() as nursery:
        nursery.start_soon(hub.pump)
        try:
            yield hub
        finally:
            hub.close()
