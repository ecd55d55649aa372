"""A topic: its log, its feeds, and readers inside the process."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import ref

import trio

from .._chance import random_bytes
from .._connection import Connection
from .._errors import CloseCode, Lagged
from .._frames import SERVER_FORM, WireForm, encode_message
from .._policy import Message, Retain
from .._waitable import Waitable, check_thread, wrong_thread
from ._feed import COST_OF_CLOSE, Encode, Feed, Slow, Subscription, _logger, check_slow
from ._log import Log, Publication

if TYPE_CHECKING:
    from ._hub import Hub

# Reading publications lets others run after so many.
_READS_PER_CHECKPOINT = 64

Since = int | tuple[str, int]


class Topic:
    """A named, ordered log of publications.  `Hub.topic` makes them.

    Attributes:
        name: as given to `Hub.topic`.
        retain: what is kept of the past.
        slow: what happens to a subscriber that falls behind it: "evict", "skip" or "latest".
        forgotten: whether the hub forgot it, and nobody has used it since.
    """

    __slots__ = (
        "__weakref__",
        "_epoch",
        "_feeds",
        "_hub",
        "_log",
        "_news",
        "_readers",
        "forgotten",
        "name",
        "retain",
        "slow",
    )

    def __init__(self, hub: Hub, name: str, retain: Retain, slow: Slow) -> None:
        self.name = name
        self.bind(retain, slow)
        self._hub = hub
        self._feeds: dict[tuple[Encode | None, WireForm], Feed] = {}
        self._readers = 0
        self._news = Waitable()

    def bind(self, retain: Retain, slow: Slow) -> None:
        """Begin a life: an empty log, a new epoch, these settings."""
        self.retain = retain
        self.slow = slow
        self.forgotten = False
        self._log = Log(retain)
        self._epoch = random_bytes(8).hex()

    def forget(self) -> None:
        """End this life.  The settings stay, until somebody asks for others."""
        self.bind(self.retain, self.slow)
        self.forgotten = True

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}, head {self.head}, {self.subscribers} subscribers>"

    @property
    def head(self) -> int:
        """The offset of the newest publication; 0 before the first."""
        return self._log.head

    @property
    def epoch(self) -> str:
        """A random string for one life of the topic.  Offsets of another epoch mean nothing
        in this one: the hub forgets a topic that nobody uses."""
        return self._epoch

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._feeds.values()))

    @property
    def size(self) -> int:
        """Bytes retained."""
        return self._log.size

    @property
    def retained(self) -> int:
        """Publications retained."""
        return self._log.head + 1 - self._log.first

    @property
    def oldest_time(self) -> float:
        """When the oldest publication retained was published, in Trio's time."""
        return self._log[self._log.first].time

    @property
    def is_over(self) -> bool:
        """Whether the hub is closed."""
        return self._hub.closed

    @property
    def is_idle(self) -> bool:
        """Whether nobody subscribes to it or reads it."""
        return not self._readers and not self._feeds

    def publish(
        self, message: Message | bytearray | memoryview, skip: Connection | None = None
    ) -> int:
        """Append *message* to the topic; return its offset.

        It is encoded once, however many subscribers there are (and compressed once for all who
        have agreed to the same), and written by the hub's task; no peer can make this wait.

        Args:
            skip: a connection that does not get it: everyone but the sender.

        Raises:
            TypeError, ValueError: *message* cannot be sent; nothing was published.
            HubFull: the topic had been forgotten, and there is no room for it now.
            trio.ClosedResourceError: the hub is closed.
            RuntimeError: called from a thread that does not run Trio; nothing was published.

        Checkpoint: never.
        """
        try:
            now = trio.current_time()
        except RuntimeError:
            raise wrong_thread() from None
        if isinstance(message, (bytearray, memoryview)):
            message = bytes(message)
        frame = encode_message(message, SERVER_FORM)
        hub = self._hub
        hub.use(self)
        # A reference that keeps nobody alive for as long as the publication is retained.
        skipped = None if skip is None else ref(skip)
        offset = self._log.append(message, frame, skipped, now)
        hub.published(self, len(frame))
        self._news.changed()
        if self._log.is_far_over():
            # Rather than let the log grow, do what the pump would have done.
            for _ in self.deliver():
                pass
        return offset

    def subscribe(
        self,
        connection: Connection,
        *,
        since: Since | None = None,
        history: int = 0,
        encode: Encode | None = None,
        slow: Slow | None = None,
    ) -> Subscription:
        """Have publications written to *connection*, from the next one on.

        No order is promised between them and what `connection.send` sends.

        Args:
            since: the offset, or (epoch, offset), up to which the peer has the topic
                already: delivery starts behind it.  If that cannot be done in full, it
                starts at the oldest publication retained, and `recovered` is False.
            history: start with so many of the publications retained.
            encode: makes of a publication the message that the peer gets; by default, the
                message itself.  It is called once for each publication and encoding, so
                pass the same function for all subscribers that get the same.
            slow: this subscription's own policy instead of the topic's.

        Raises:
            ValueError: *since* together with *history*, or one that cannot be.
            ConnectionClosed: *connection* is over.
            HubFull, trio.ClosedResourceError, RuntimeError: as `publish`.
            What *encode* raises.

        Checkpoint: never.
        """
        check_thread()
        cursor, missing, recovered = self._place(since, history)
        slow = self.slow if slow is None else check_slow(slow)
        connection.link.check_writable()
        form = connection.link.form
        feed = self._feeds.get((encode, form))
        self._hub.use(self)
        if feed is None:
            feed = self._feeds[encode, form] = Feed(self._log, encode, form)
        subscription = Subscription(self, connection, feed, slow, cursor)
        subscription.skipped = missing
        subscription.recovered = recovered
        feed.add(subscription)
        self._hub.joined(subscription)
        try:
            while subscription.cursor < self.head and subscription.link.writable:
                feed.step(subscription)
        except BaseException:
            subscription.close()
            raise
        return subscription

    def publications(self, *, since: Since | None = None, history: int = 0) -> Publications:
        """The publications for a task of this process, from the next one on.

        Use it as a context manager and iterate over it.

        Args:
            since, history: as for `subscribe`.

        Raises:
            ValueError: as for `subscribe`.
        """
        self._place(since, history)  # what is wrong with them is said here
        return Publications(self, since, history)

    def _place(self, since: Since | None, history: int) -> tuple[int, int, bool]:
        """Where to start: the cursor, how many are known to be missing, whether none are."""
        log = self._log
        if not isinstance(history, int) or history < 0:
            raise ValueError(f"history={history!r}: must be 0 or more publications")
        if since is not None and history:
            raise ValueError(f"since={since!r}, history={history!r}: only one of them can be")
        first = log.floor(trio.current_time())
        if since is None:
            return max(first - 1, log.head - history), 0, True
        match since if isinstance(since, tuple) else (self._epoch, since):
            case (str(epoch), int(offset)) if offset >= 0:
                pass
            case _:
                raise ValueError(f"since={since!r}: must be an offset or (epoch, offset)")
        is_ours = epoch == self._epoch and offset <= log.head
        if not is_ours:
            offset = 0  # in another life; of this one the peer has nothing
        cursor = max(offset, first - 1)
        return cursor, cursor - offset, is_ours and cursor == offset

    def leave(self, subscription: Subscription, feed: Feed) -> None:
        """Take *subscription* off its feed."""
        feed.remove(subscription)
        if not feed:
            del self._feeds[feed.key]
        self._hub.left(subscription)

    def enter_reader(self, since: Since | None, history: int) -> tuple[int, int]:
        """Have a reader more; return its cursor and how many are known to be missing."""
        self._hub.use(self)
        self._readers += 1
        self._hub.settle(self)
        cursor, missing, _ = self._place(since, history)
        return cursor, missing

    def exit_reader(self) -> None:
        self._readers -= 1
        self._hub.settle(self)

    def read(self, cursor: int) -> Publication | None:
        """The publication behind *cursor*, None if there is none yet.

        Raises:
            Lagged: it has left the log.
        """
        if cursor + 1 < self._log.first:
            raise Lagged(self._log.first - 1 - cursor)
        return self._log[cursor + 1] if cursor < self._log.head else None

    async def wait_news(self) -> None:
        """Wait for the next publication, or for the end of the hub."""
        await self._news.wait_change()

    def end(self) -> None:
        """The hub is closed: readers read what is there, and end."""
        self._news.changed()

    def deliver(self) -> Iterator[int]:
        """One pass: write to every subscriber that can be written to, judge the others,
        drop what retention does not keep.  Yields costs, as `Feed.deliver`."""
        log = self._log
        head = log.head
        # NOTE: What comes in during the pass is for the next one, and so is what has to go
        # for it.  Who joins during the pass starts behind this floor, and needs no judging.
        floor = log.floor(trio.current_time())
        for feed in tuple(self._feeds.values()):
            try:
                yield from feed.deliver(head)
            except Exception as exc:
                yield from feed.fail(exc)
        if floor <= log.first:
            return
        for feed in tuple(self._feeds.values()):
            try:
                for subscription in feed.overdue(floor):
                    if subscription.feed is not None:
                        yield self._judge(subscription, feed, floor)
            except Exception as exc:
                yield from feed.fail(exc)
        if log is self._log:  # not forgotten in the meantime
            for feed in self._feeds.values():
                feed.forget(floor)
            before = log.size
            log.trim(floor)
            self._hub.trimmed(self, before - log.size)

    def _judge(self, subscription: Subscription, feed: Feed, floor: int) -> int:
        """*subscription* needs what lies before *floor*, which is about to go, and is set
        aside.  Returns the cost, as `Feed.step`."""
        feed.resume(subscription)
        cost = 1
        # Its link may have drained, and its turn has not come yet.
        while subscription.cursor < floor - 1 and subscription.link.writable:
            cost += feed.step(subscription)
        if subscription.cursor < floor - 1:
            if subscription.slow == "evict":
                self._hub.evicted += 1
                _logger.info("%r: evicted from %r, too slow", subscription.connection, self.name)
                subscription.link.close(CloseCode.TRY_AGAIN_LATER, "slow consumer")
                return cost + COST_OF_CLOSE
            subscription.skip_to(floor - 1)
        return cost

    def count_skipped(self, count: int) -> None:
        self._hub.skipped += count


class Publications:
    """A reader of a topic inside the process.  Use it as a context manager.

    Attributes:
        cursor: the offset of the last publication read or passed over.
        skipped: how many left the log unread.
    """

    __slots__ = ("_history", "_open", "_reads", "_since", "_topic", "cursor", "skipped")

    def __init__(self, topic: Topic, since: Since | None, history: int) -> None:
        self._topic = topic
        self._since = since
        self._history = history
        self._open = False
        self._reads = 0
        self.cursor = 0
        self.skipped = 0

    def __enter__(self) -> Publications:
        if not self._open:
            # Only from here on does the topic stay what it is.
            self.cursor, self.skipped = self._topic.enter_reader(self._since, self._history)
            self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            self._topic.exit_reader()

    def __aiter__(self) -> Publications:
        return self

    async def __anext__(self) -> Publication:
        """The next publication.

        Raises:
            Lagged: some left the log unread; the next call goes on behind them.
            trio.ClosedResourceError: outside of its `with` block.

        Cancellation: nothing is lost.  Checkpoint: a cancellation point always; lets others
        run whenever it waits and every 64 publications.
        """
        self._reads += 1
        if self._reads % _READS_PER_CHECKPOINT:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while True:
            if not self._open:
                raise trio.ClosedResourceError("publications are read inside their with block")
            try:
                publication = self._topic.read(self.cursor)
            except Lagged as exc:
                self.cursor += exc.skipped
                self.skipped += exc.skipped
                raise
            if publication is not None:
                self.cursor = publication.offset
                return publication
            if self._topic.is_over:
                raise StopAsyncIteration
            await self._topic.wait_news()
