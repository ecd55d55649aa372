"""A topic, as users hold it: its log, its members, and readers inside the process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_sync, is_count, wrong
from .._chance import random_bytes
from .._connection import Connection
from .._effort import EFFORT
from .._errors import CloseCode, Lagged
from .._logs import log
from .._observer import tell
from .._policy import Message, Retain
from .._protocol._frames import SERVER_FORM, encode_message
from .._protocol._http import format_address
from .._waitable import Waitable, check_thread
from ._broker import Receipt
from ._delivery import COST_OF_CLOSE, Members
from ._details import NOTHING, Details, Kind, Publisher, describe
from ._log import Log, Publication, size_of
from ._pass import expect_next
from ._position import Position, Recovery, Since, check_place, find_start
from ._reader import Publications
from ._shape import COST_OF_WRITE, Encode, Shape
from ._sink import Form, Sink, Subscriber
from ._subscription import (
    ASIDE,
    READY,
    SLOW_CONSUMER,
    Slow,
    Subscription,
    check_evict,
    check_peer,
    check_slow,
    logger,
)

if TYPE_CHECKING:
    from ._hub import Hub


class PublishDetails(TypedDict, total=False):
    """What `Topic.publish` takes by name."""

    key: str | None
    tags: Mapping[str, str] | None
    publisher: Publisher | None
    kind: Kind | None


def _prepare(
    message: Message | bytearray | memoryview,
    skip: Connection | str | None,
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
    publisher: Publisher | None = None,
    kind: Kind | None = None,
) -> tuple[bytes, str | None, Details]:
    """What a broker gets of what is published."""
    message, details = describe(message, key, tags, publisher, kind)
    return encode_message(message, SERVER_FORM), _key_of(skip), details


def _key_of(skip: Connection | str | None) -> str | None:
    """The key of who does not get a publication."""
    return skip.peer if isinstance(skip, Connection) else check_peer("skip", skip)


def _tell_of_restart(sinks: list[Sink]) -> Iterator[int]:
    """Close *sinks*, of which there may be very many, as their topic has begun anew."""
    for sink in sinks:
        sink.close(CloseCode.SERVICE_RESTART, "topic restarted")
        yield COST_OF_CLOSE


class Topic:
    """A named, ordered log of publications.  `Hub.topic` makes them.

    Attributes:
        name: as given to `Hub.topic`.
        retain: what is kept of the past.
        slow: what happens to a subscriber that falls behind it: "evict", "skip" or "latest".
    """

    __slots__ = (
        "__weakref__",
        "_epoch",
        "_forgotten",
        "_hub",
        "_is_spared",
        "_late",
        "_log",
        "_look",
        "_members",
        "_news",
        "_passed",
        "_readers",
        "_size_number",
        "_window",
        "name",
        "retain",
        "slow",
    )

    def __init__(self, hub: Hub, name: str, retain: Retain, slow: Slow) -> None:
        self.name = name
        self._hub = hub
        self._members: dict[tuple[Encode | None, Form], Members] = {}
        self._readers: dict[Publications, None] = {}
        self._news = Waitable()
        self._window = hub._node.window(self)
        self._bind(retain, slow)

    def _bind(self, retain: Retain, slow: Slow) -> None:
        """Begin a life with these settings."""
        self.retain = retain
        self.slow = slow
        self._begin()

    def _begin(self) -> None:
        """Begin a life, unless the hub remembers one that goes on."""
        if self._window is None:
            position = self._hub._retention.position(self.name)
            self._epoch, head = position or (random_bytes(8).hex(), 0)
        else:
            self._epoch, head = "", 0
        self._log = Log(self.retain, head)
        self._forgotten = False
        # What the last pass has delivered, and whether another has been asked for.
        self._passed = head
        self._look = False
        # When and where retention began, while somebody needs what lies before that.
        self._late: list[tuple[float, int]] = []
        # Whether that began anew, since the process had stood still.
        self._is_spared = False
        # What the hub files it under.
        self._size_number: int | None = None

    def _forget(self) -> None:
        """Drop the log.  The settings stay, until somebody asks for others."""
        self._hub._retention.bury(self)
        if self._window is not None:
            self._window.detach()
            self._epoch = ""
        self._log = Log(self.retain, self._log.head)
        self._forgotten = True
        self._size_number = None
        self._hub._pump.forget(self)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}, head {self.head}, {self.subscribers} subscribers>"

    @property
    def head(self) -> int:
        """The offset of the newest publication; 0 before the first."""
        return self._log.head

    @property
    def epoch(self) -> str:
        """A random string for one life of the topic.  Offsets of another epoch mean nothing
        in this one.  A topic that nobody uses goes on with its epoch for `open_hub(linger=…)`
        seconds, even if its publications had to go.  With a broker, "" until it is known."""
        return self._epoch

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._members.values()))

    @property
    def size(self) -> int:
        """Bytes of memory that the publications retained take."""
        return self._log.size

    @property
    def retained(self) -> int:
        """Publications retained."""
        return self._log.head + 1 - self._log.first

    # An interrupt in the middle of these would leave what only in part has happened.
    @enable_ki_protection
    def publish(
        self,
        message: Message | bytearray | memoryview,
        skip: Connection | str | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        publisher: Publisher | None = None,
        kind: Kind | None = None,
    ) -> int:
        """Append *message* to the topic; return its offset.

        It is encoded once, however many subscribers there are (and compressed once for all who
        have agreed to the same), and written by the hub's task; no peer can make this wait.

        Args:
            skip: who does not get it, not even when it comes back and catches up: a connection,
                which stands for its `peer`, or such a key.
            key: publish this once only: if the log still has what the same publisher has published
                with the same key, nothing happens, whatever *message* is, and the offset of that
                is returned.  So whoever does not know whether it was published publishes it again.
                At most 255 characters.
            tags, publisher: kept with the publication, for `encode` and readers.  None is a
                publisher, too: the program itself.
            kind: what the message is, for encodings that tell text from JSON: by default "text"
                for str and "bytes" for bytes.  "json" is a str that is JSON, which is not checked
                here: what comes from others was parsed before.  A JSON string is published as the
                text that it says, since that is what peers without JSON are to read, and those
                with JSON get text as a string.  An argument, as the message is a str either way:
                a type of its own would have to be told apart by all who read one.

        Raises:
            TypeError, ValueError: *message* cannot be sent, or another argument is wrong; nothing
                was published.
            HubFull: the hub is at a bound, and nothing can go for this; nothing was published.
            BrokerFull: too much waits for the broker of the hub; nothing was published.
            trio.ClosedResourceError: the hub is closed.
            RuntimeError: called from a thread that does not run Trio; nothing was published.

        Checkpoint: never.
        """
        details = NOTHING
        if key is not None or tags is not None or publisher is not None or kind is not None:
            message, details = describe(message, key, tags, publisher, kind)
        frame = encode_message(message, SERVER_FORM)
        key = None if skip is None else _key_of(skip)
        return self._hub._node.publish(self, frame, key, details)

    @enable_ki_protection
    def post(
        self,
        message: Message | bytearray | memoryview,
        skip: Connection | str | None = None,
        **details: Unpack[PublishDetails],
    ) -> Receipt:
        """Publish *message* as `publish` does; return what tells whether and where it was.

        A handler that posts keeps the order of its messages, and need not wait for one before it
        posts the next.

        Args, Raises, Checkpoint: as `publish`.
        """
        return self._hub._node.post(self, *_prepare(message, skip, **details))

    async def publish_confirmed(
        self,
        message: Message | bytearray | memoryview,
        skip: Connection | str | None = None,
        **details: Unpack[PublishDetails],
    ) -> Position:
        """Publish *message* as `publish` does, once a broker has room for it; return where it is.

        Args: as `publish`.

        Raises:
            As `publish`, but never BrokerFull.
            Unpublished: as `Receipt.confirmed`.

        Cancellation: while it waits for room, nothing was published; while it waits for the
        answer, it may have been, and will be if the broker can.  Checkpoint: always.
        """
        frame, key, described = _prepare(message, skip, **details)
        node = self._hub._node
        await node.wait_room(size_of(frame, key) + described.size)
        return await node.post(self, frame, key, described).confirmed()

    def _accept(
        self, frame: bytes, skip: str | None, details: Details, size: int, now: float
    ) -> int:
        """Append what was published to the log, which has room for its *size*, and have it
        delivered; return its offset."""
        log = self._log
        if details is NOTHING:
            offset = log.append(frame, skip, now)
        else:
            offset = log.append_detailed(frame, skip, now, details)
        hub = self._hub
        hub._published += 1
        # As much as to write it once.
        EFFORT.spent += COST_OF_WRITE + (size >> 8)
        retention = hub._retention
        retention.resized(self, size, 1)
        if self._members or self._readers:
            hub._pump.touch(self)
            if self._readers:
                self._news.changed()
        else:
            retention.used(self)
            # Nobody needs what goes.
            self._trim(log.floor(now))
            expect_next(self, now)
        return offset

    @enable_ki_protection
    def subscribe(
        self,
        connection: Connection | Subscriber,
        *,
        since: Since | None = None,
        history: int = 0,
        encode: Encode | None = None,
        slow: Slow | None = None,
        peer: str | None = None,
        evict: tuple[int, str] = SLOW_CONSUMER,
    ) -> Subscription:
        """Have publications written to *connection*, from the next one on.

        Nothing is written before the next checkpoint, so a reply that is sent at once with
        `send_nowait` arrives first.  After that no order is promised between publications and
        what `connection.send` sends.

        Args:
            since: (epoch, offset), up to which the peer has the topic already: delivery starts
                behind it.  If that cannot be done in full, it starts at the oldest publication
                retained, and `recovered` is False.  An offset alone may be of another epoch,
                which nobody can tell, so `recovered` is True for it only if the peer has
                nothing yet (0) and nothing has left the log.
            history: start with so many of the publications retained.
            encode: makes of a publication the message that the peer gets; by default, the
                message itself.  It is called once for each publication and encoding, and again
                for subscribers that lag, so pass the same function for all subscribers that get
                the same.
            slow: this subscription's own policy instead of the topic's.
            peer: the key of who gets this; by default `connection.peer`.  What was published
                with `skip=` the same key is not for it.
            evict: the code and the reason of the Close that a slow consumer gets where the policy
                is "evict", for protocols that have their own.

        Raises:
            TypeError, ValueError: *since* together with *history*, or an argument that cannot be.
            ConnectionClosed: *connection* is over.
            HubFull, trio.ClosedResourceError, RuntimeError: as `publish`.
            What *encode* raises ends those who get it with Close 1011, and is logged.

        Checkpoint: never.
        """
        check_thread()
        if not isinstance(connection, Connection) and not hasattr(connection, "_sink"):
            raise wrong("subscribe", "connection", "a trioweb.Connection", connection)
        hub = self._hub
        slow = self.slow if slow is None else check_slow(slow)
        check_peer("peer", peer)
        check_evict(evict)
        check_place(since, history)
        sink = connection._sink
        # What others subscribe with has been checked.
        if encode is not None and (
            not callable(encode) or (encode, sink.form) not in self._members
        ):
            check_sync("subscribe", "encode(publication)", encode)
        sink.check_writable()
        hub._use(self)
        members = self._members_of(encode, sink.form)
        turns = hub._pump.turns_of(sink.queue)
        subscription = Subscription(
            self, connection, members, turns, slow=slow, cursor=0, peer=peer, evict=evict
        )
        turns.add(subscription)
        hub._subscribers += 1
        self._await_place(
            subscription, since, history, partial(self._place, subscription, since, history)
        )
        hub._retention.settle(self)
        return subscription

    def _await_place(
        self, who: object, since: Since | None, history: int, placed: Callable[[], None]
    ) -> None:
        """Call *placed* as soon as what it needs is here, mostly at once."""
        window = self._window
        if window is None:
            placed()
        else:
            window.use()
            window.wait(who, since, history, placed)

    def _place(self, subscription: Subscription, since: Since | None, history: int) -> None:
        """Start to deliver to *subscription*."""
        start = self._find(since, history)
        subscription.cursor = start.position.offset
        subscription.skipped = start.missing
        subscription.recovered = start.recovered
        if since is not None:
            counts = self._hub._counts
            if start.recovered:
                counts.recovered += 1
            else:
                counts.gaps += 1
        subscription._move(READY)
        # NOTE: Nothing is written here.  So what is sent to *connection* before the next await
        # stands in front of all that the topic has for it.
        if subscription.lag:
            subscription._move(ASIDE)
        if self._window is not None:
            self._news.changed()

    def _leave_waiting(self, who: object) -> None:
        """*who* does not wait for a place any more."""
        if self._window is not None:
            self._window.waiting.pop(who, None)
        self._news.changed()

    def publications(self, *, since: Since | None = None, history: int = 0) -> Publications:
        """The publications for a task of this process, from the next one on.

        Use it as a context manager and iterate over it.

        Args:
            since, history: as for `subscribe`.

        Raises:
            ValueError: as for `subscribe`.
        """
        check_place(since, history)
        return Publications(self, since, history)

    # Places.

    async def load(self, *, since: Since | None = None, history: int = 0) -> None:
        """Bring to this process what `recovery` and `history` then tell, and `subscribe` starts
        with.  Without a broker all of a topic is here, so it only lets others run.

        Who answers a peer first and delivers then calls this, and without an await after it:
        `recovery`, whatever sends the answer, `subscribe(since=recovery.position)`.

        Args:
            since, history: as for `subscribe`.

        Raises:
            ValueError: as for `subscribe`.

        Checkpoint: always.
        """
        check_place(since, history)
        await trio.lowlevel.checkpoint()
        if self._window is not None:
            self._hub._use(self)
            self._window.use()
            await self._window.load(since, history)

    def recovery(self, since: Since | None, history: int = 0) -> Recovery:
        """What `subscribe` with the same arguments would start with.

        Raises:
            ValueError: as for `subscribe`.

        Checkpoint: never.
        """
        check_place(since, history)
        if self._forgotten:
            self._begin()  # as whoever uses it next
        return self._find(since, history)

    def history(
        self, after: int | None = None, count: int | None = None, *, reverse: bool = False
    ) -> list[Publication]:
        """Publications that are retained.

        Args:
            after: the offset behind which to begin; in reverse, before which.  By default at the
                oldest, in reverse at the newest.
            count: how many at most; None for all.
            reverse: the newest first.

        Raises:
            ValueError: *after* or *count* is negative.

        Checkpoint: never.
        """
        for name, value in (("after", after), ("count", count)):
            if value is not None and not is_count(value):
                raise ValueError(f"history({name}={value!r}): must be 0 or more")
        return self._log.page(trio.current_time(), after, count, reverse=reverse)

    def _find(self, since: Since | None, history: int) -> Recovery:
        """Where to start."""
        log = self._log
        first = log.floor(trio.current_time())
        begin = 0 if self._window is None else self._window.begin
        return find_start(self._epoch, first, log.head, since, history, begin)

    def _members_of(self, encode: Encode | None, form: Form) -> Members:
        members = self._members.get((encode, form))
        if members is None:
            shape = Shape(self._log, encode, form, self._hub._retention.shapes)
            members = self._members[encode, form] = Members(self._log, shape, self._hub._counts)
        return members

    @property
    def _is_idle(self) -> bool:
        """Whether nobody subscribes to it or reads it."""
        window = self._window
        return not self._readers and not self._members and (window is None or not window.waiting)

    @property
    def _is_attached(self) -> bool:
        """Whether it is received from a broker."""
        return self._window is not None and self._window.is_attached

    # What readers and subscriptions tell.

    def _enter(self, reader: Publications, since: Since | None, history: int) -> None:
        """Have a reader more."""
        self._hub._use(self)

        def placed() -> None:
            start = self._find(since, history)
            reader._place(start.position.offset, start.missing)
            self._readers[reader] = None
            self._news.changed()

        self._await_place(reader, since, history, placed)
        self._hub._retention.settle(self)

    def _exit(self, reader: Publications) -> None:
        self._readers.pop(reader, None)
        self._leave_waiting(reader)
        self._settle()

    def _read(self, cursor: int) -> Publication | None:
        """The publication behind *cursor*, None if there is none yet.

        Raises:
            Lagged: it has left the log.
        """
        if cursor + 1 < self._log.first:
            raise Lagged(self._log.first - 1 - cursor)
        return self._log[cursor + 1] if cursor < self._log.head else None

    def _left(self, subscription: Subscription) -> None:
        self._hub._subscribers -= 1
        members = subscription._members
        if not members:
            members.shape.end()
            del self._members[members.shape.key]
        self._settle()

    def _settle(self) -> None:
        """Somebody has left."""
        self._caught_up()
        if self._window is not None and self._is_idle:
            self._window.unused()
        self._hub._retention.settle(self)

    def _caught_up(self) -> None:
        """Somebody lags no more, for whom something may have been kept."""
        if self._late:
            self._look_again()

    def _evicted(self, subscription: Subscription) -> None:
        self._hub._evicted += 1
        who = subscription._subscriber
        text = "%r: evicted from %r, too slow"
        address, name = format_address(who.remote), self.name
        log(logger, logging.INFO, who, text, who, name, address=address, topic=name)
        if isinstance(who, Connection) and (observer := self._hub._observer) is not None:
            tell(observer.on_eviction, who, name)

    def _skipped(self, count: int) -> None:
        self._hub._skipped += count

    def _look_again(self) -> None:
        """Have a pass look at all members, whether there is news or not."""
        self._look = True
        self._hub._pump.touch(self)

    # The window's.

    def _prepend(self, older: Sequence[tuple[bytes, str | None, Details, float]]) -> None:
        """Have what is older in the log, too, the newest first."""
        log = self._log
        size = log.size
        log.prepend(older)
        self._hub._retention.resized(self, log.size - size, len(older))

    def _start_anew(self, epoch: str, head: int, missing: int | None) -> None:
        """Go on in *epoch* with a log that begins behind *head*.

        Args:
            missing: how many publications are known to be missing to those who had all; None if
                this is the same epoch, in which all up to *head* are.
        """
        gone, count = self._log.size, self.retained
        self._epoch = epoch
        self._hub._retention.bury(self)
        self._log = Log(self.retain, head)
        self._hub._retention.resized(self, -gone, -count)
        self._passed = head
        self._late.clear()
        self._hub._pump.forget(self)  # what is under way is about another log
        groups = tuple(self._members.values())
        for members in groups:
            members.rebase(self._log)
        ended: list[Sink] = []
        for subscription in [one for members in groups for one in members.subscriptions]:
            if subscription._slow == "evict":
                subscription.close()
                ended.append(subscription._sink)
            else:
                known = head - subscription.cursor if missing is None else missing
                subscription._go_to(head, known)
        for reader in self._readers:
            reader._go_to(head, head - reader.cursor if missing is None else missing)
        self._news.changed()
        if ended:
            self._hub._pump.do_later(_tell_of_restart(ended))

    # The pump's.

    def _wants_pass(self) -> bool:
        """Whether there is something that the last pass did not look at."""
        return self._look or self._log.head > self._passed

    def _trim(self, first: int) -> None:
        log = self._log
        size, count = log.size, first - log.first
        if count > 0:
            log.trim(first)
            self._hub._retention.resized(self, log.size - size, -count)

    def _trim_bytes(self, size: int, *, keep: int) -> int:
        """Drop so much of the log that *size* bytes are free, but not the newest *keep*
        publications; return how much was."""
        before = self._log.size
        self._trim(self._log.first_without(size, keep))
        # Who needs what is gone is to be told.
        if self._members:
            self._look_again()
        return before - self._log.size
