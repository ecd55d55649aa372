"""The hub: the set of topics, as users hold it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Final
from weakref import WeakValueDictionary

import trio

from .._arguments import check_kind, is_count
from .._connection import Connection
from .._dataclass import dataclass
from .._nursery import open_hidden_nursery, protected_block
from .._observer import Observer
from .._policy import Retain
from ._broker import LocalNode, Node
from ._delivery import Counts
from ._engine_link import Broker, BrokerStatistics
from ._presence import Presence
from ._pump import Pump
from ._retention import Retention
from ._sink import Outlet
from ._store._statistics import StoreStatistics
from ._subscription import Slow, Subscription, check_slow
from ._topic import Topic

# One object for all topics that are given none.
_RETAIN: Final = Retain()


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """What a hub holds and has done.

    Attributes:
        topics: now.
        subscribers: now.
        retained_messages, retained_bytes: publications in the logs of all topics, and the memory
            that they take, now.
        published: publications so far.
        deliveries: publications written to subscribers, so far.
        evicted: subscribers closed with 1013 for being too slow, so far.
        skipped: publications passed over for subscribers that may skip, so far.
        forgotten: topics that went to make room for others, so far.
        broker, store: the same of its part in a broker, and of its store; None without one.
    """

    topics: int
    subscribers: int
    retained_messages: int
    retained_bytes: int
    published: int
    deliveries: int
    evicted: int
    skipped: int
    forgotten: int
    broker: BrokerStatistics | None = None
    store: StoreStatistics | None = None


class Hub:
    """A set of topics.  `open_hub` makes one.

    Attributes:
        closed: whether its block was left.
    """

    def __init__(
        self,
        max_topics: int,
        max_bytes: int,
        linger: float,
        observer: Observer | None,
        node: Node | None = None,
    ) -> None:
        self.closed = False
        self._observer = observer
        self._retention = Retention(max_topics, max_bytes, linger)
        self._pump = Pump(observer)
        self._node: Node = node or LocalNode()
        self._presence: Presence = self._node.open_presence(self._retention, self._pump.do_later)
        # Every Topic that anybody still holds, so that one name is one object even if its log was
        # dropped in the meantime.
        self._known: WeakValueDictionary[str, Topic] = WeakValueDictionary()
        self._counts = Counts()
        self._subscribers = 0
        self._published = 0
        self._evicted = 0
        self._skipped = 0

    def topic(self, name: str, *, retain: Retain | None = None, slow: Slow | None = None) -> Topic:
        """The topic *name*, made now if there is none.

        Args:
            retain: what it keeps of its past; by default Retain(): 1,000 messages, 1 MiB.
            slow: what happens to a subscriber that falls further behind, and had time not to:
                "evict" (the default: Close 1013), "skip" (jump to the oldest retained and
                count) or "latest" (get only the newest whenever there is room).

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
        retain = retain or (topic.retain if topic is not None else _RETAIN)
        if slow is None:
            slow = topic.slow if topic is not None else "evict"
        check_slow(slow)
        if name not in self._retention.topics:
            self._retention.make_room()
            if topic is None:
                topic = self._known[name] = Topic(self, name, retain, slow)
            elif topic._forgotten:
                topic._bind(retain, slow)
        assert topic is not None, "the hub holds those that it has"
        if (retain, slow) != (topic.retain, topic.slow):
            raise ValueError(
                f"topic {name!r} was made with retain={topic.retain!r}, slow={topic.slow!r}; "
                f"retain={retain!r}, slow={slow!r} cannot be had while it lives"
            )
        return topic

    def _replace_retain(self, retain_of: Callable[[str], Retain | None]) -> None:
        """Have each topic keep as much as *retain_of* its name says, None for as much as before."""
        for topic in [*self._known.values()]:
            retain = retain_of(topic.name)
            if retain is not None and retain != topic.retain:
                topic.retain = topic._log.retain = retain
                if not topic._forgotten:
                    self._pump.touch(topic)

    @property
    def broker(self) -> BrokerStatistics | None:
        """Its part in a broker, as it is now; None without one."""
        told = self._node.statistics()
        return told if isinstance(told, BrokerStatistics) else None

    @property
    def store(self) -> StoreStatistics | None:
        """What its store holds now; None without one."""
        told = self._node.statistics()
        return told if isinstance(told, StoreStatistics) else None

    def statistics(self) -> HubStatistics:
        """What the topics hold, and what has happened to them, up to now."""
        retention = self._retention
        return HubStatistics(
            topics=len(retention.topics),
            subscribers=self._subscribers,
            retained_messages=retention.messages,
            retained_bytes=retention.size,
            published=self._published,
            deliveries=self._counts.deliveries,
            evicted=self._evicted,
            skipped=self._skipped,
            forgotten=retention.forgotten,
            broker=self.broker,
            store=self.store,
        )

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The topics that have a log or subscribers, by name: a view of those that there are, which
        makes none.  To go over it while others run, take a copy first."""
        return MappingProxyType(self._retention.topics)

    def subscriptions(self, connection: Connection) -> tuple[Subscription, ...]:
        """The subscriptions of *connection* to topics of this hub.

        Checkpoint: never.
        """
        check_kind("subscriptions", "connection", connection, Connection)
        return self._pump.subscriptions_of(connection._sink.queue)

    async def wait_caught_up(self) -> None:
        """Wait until everything published has been written to every subscriber, or until nothing
        is delivered any more: the hub was closed or cancelled.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        pump = self._pump
        while pump.is_running and not (
            pump.is_idle and all(turns.has_caught_up for turns in pump.links)
        ):
            await pump.wait_rest()

    def _owed(self, queue: Outlet) -> list[tuple[Subscription, int]]:
        """What *queue* is behind with: its subscriptions that lag, and the offset of the newest
        publication for each.  See `_is_owed`."""
        return [(one, one.topic.head) for one in self._pump.lagging(queue)]

    def _is_owed(self, subscription: Subscription, offset: int) -> bool:
        """Whether the publication *offset* will still be written to *subscription*'s queue."""
        is_there = self._pump.is_running and not subscription._is_gone
        return is_there and subscription.cursor < offset

    def _check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the hub is closed")

    def _use(self, topic: Topic) -> None:
        """*topic* is about to be published or subscribed to.

        Raises:
            HubFull: it was forgotten, and there is no room for it now.
            trio.ClosedResourceError: the hub is closed.
        """
        self._check_open()
        self._retention.add(topic)

    def _close(self) -> None:
        """End every subscription and reader."""
        self.closed = True
        for turns in tuple(self._pump.links):
            turns.close()
        for topic in tuple(self._known.values()):
            topic._news.changed()
        self._presence.close()
        self._pump.stop()


@protected_block
async def open_hub(
    *,
    max_topics: int = 10_000,
    max_bytes: int = 64 * 2**20,
    linger: float = 300,
    observer: Observer | None = None,
    broker: Broker | None = None,
    store: str | os.PathLike[str] | None = None,
) -> AsyncGenerator[Hub]:
    """Open a hub for the length of the block.

    Args:
        max_topics: topics with a log or subscribers at one time, each of which takes some 1.3 KiB
            beside its publications.  Beyond that the topic goes that was without subscribers
            longest.
        max_bytes: bytes of memory that the publications of all topics may take together, with
            what is kept of their encodings.  Beyond that topics without subscribers go first,
            the longest idle ahead; then the largest logs lose their oldest publications, which
            for a subscriber that still needs them is being too slow.  Members of topics, see
            `Topic.enter`, take up to half of it.
        linger: seconds for which the epoch and the head of a topic are remembered that nobody
            uses and that has no publication any more, so that whoever comes back and has missed
            nothing is told so.  300, as many as a train is in a tunnel.  Of very many such topics
            the last ones are: twice *max_topics*, in no more than an eighth of *max_bytes*.
        observer: hears of passes and evictions; see `Observer`.
        broker: what joins this hub with others, so that a topic is one log for all of them; None
            for none.  Then a publication is delivered as soon as the broker has given it its place,
            here as elsewhere, and `publish` returns 0.
        store: the path of a file that keeps the topics when this process ends, made now if there is
            none; None for none.  What `publish` has returned for survives a SIGKILL, with its
            epoch, offset, details and key.  After a loss of power, on another machine, or where
            something is damaged, every topic begins a new epoch with what is left, which the log
            and `HubStatistics.store` say.  *max_topics*, *max_bytes* and *linger* hold for what is
            stored as for what is in memory.  One hub at a time can have it.  Not together with
            *broker*, which keeps topics itself.

    Yields:
        The Hub.

    Leaving the block ends every subscription (the connections stay open).  With a broker, it waits
    for the answers to what was published, but not for long; leaving it by an exception does not.
    With a store, it waits until everything is committed, for 10 seconds at most, also when it is
    cancelled; what is not committed then is kept, too.

    Raises:
        TypeError, ValueError: an argument cannot work.
        StoreError: the store cannot be opened.
    """
    for name, value in (("max_topics", max_topics), ("max_bytes", max_bytes)):
        if not is_count(value, least=1):
            raise ValueError(f"open_hub({name}={value!r}): must be a whole number from 1 on")
    if not isinstance(linger, (int, float)) or isinstance(linger, bool) or not linger >= 0:
        raise ValueError(f"open_hub(linger={linger!r}): must be a number of seconds from 0 on")
    check_kind("open_hub", "observer", observer, Observer, optional=True)
    check_kind("open_hub", "store", store, str, os.PathLike, optional=True)
    if broker is not None and store is not None:
        raise ValueError("open_hub(broker=…, store=…): a broker keeps the topics itself")
    engine = stored = None
    # Each of the two needs much that a hub by itself never does.
    if broker is not None:
        from ._spread import open_node

        engine = open_node(broker)
    if store is not None:
        from ._store._node import open_stored_node

        stored = await open_stored_node(os.fsdecode(store), max_topics, max_bytes, linger)
    try:
        node = engine or stored
        hub = Hub(max_topics, max_bytes, linger, observer, node)
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(hub._pump.run)
            if node is not None:
                nursery.start_soon(node.run)
            try:
                yield hub
                if engine is not None:
                    await engine.flush()
            finally:
                hub._close()
                if engine is not None:
                    engine.close()
    finally:
        if stored is not None:
            await stored.aclose()
