"""A topic, as users hold it: its log, its subscribers, readers inside the process, and presence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_sync, is_count, wrong
from .._connection import Connection
from .._effort import EFFORT
from .._policy import Message, Retain
from .._protocol._frames import SERVER_FORM, encode_message
from .._waitable import Waitable, check_thread
from ._broker import Receipt
from ._delivery import Members
from ._details import NOTHING, Kind, Publisher, describe
from ._life import begin
from ._log import Log, Publication, size_of
from ._placing import await_place, find, members_of, place
from ._position import Position, Recovery, Since, check_place
from ._presence import PresenceCount, check_key, check_member
from ._presence_changes import PresenceChanges
from ._publishing import PublishDetails, key_of, prepare
from ._reader import Publications
from ._shape import COST_OF_WRITE, Encode
from ._sink import Form, Subscriber
from ._subscription import (
    SLOW_CONSUMER,
    Slow,
    Subscription,
    check_evict,
    check_peer,
    check_slow,
)

if TYPE_CHECKING:
    from ._hub import Hub

# Some tenths of a microsecond each.
_MEMBERS_PER_CHECKPOINT: Final = 4096


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

    # What a life of it has, see `_life`.
    _epoch: str
    _log: Log
    _forgotten: bool
    # What the last pass has delivered, and whether another has been asked for.
    _passed: int
    _look: bool
    # When and where retention began, while somebody needs what lies before that.
    _late: list[tuple[float, int]]
    # Whether that began anew, since the process had stood still.
    _is_spared: bool
    # What the hub files it under.
    _size_number: int | None

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
        begin(self)

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
    def restarts(self) -> int:
        """How many epochs have ended while this process had the topic from a broker; each may have
        had publications that nobody has any more."""
        return 0 if self._window is None else self._window.restarts

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._members.values()))

    @property
    def lag(self) -> int:
        """How many publications the subscriber lacks that is furthest behind; of those that are
        content with the newest (`slow="latest"`) none is."""
        cursors = (members.furthest_back()[0] for members in self._members.values())
        return max((self.head - cursor for cursor in cursors if cursor is not None), default=0)

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
        key = None if skip is None else key_of(skip)
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
        return self._hub._node.post(self, *prepare(message, skip, **details))

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
        frame, key, described = prepare(message, skip, **details)
        node = self._hub._node
        await node.wait_room(self, size_of(frame, key) + described.size)
        return await node.post(self, frame, key, described).confirmed()

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
        members = members_of(self, encode, sink.form)
        turns = hub._pump.turns_of(sink.queue)
        subscription = Subscription(
            self, connection, members, turns, slow=slow, cursor=0, peer=peer, evict=evict
        )
        turns.add(subscription)
        hub._subscribers += 1
        await_place(
            self, subscription, since, history, partial(place, self, subscription, since, history)
        )
        hub._retention.settle(self)
        return subscription

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
        with.  Without a broker or a store all of a topic is here, so it only lets others run.

        Who answers a peer first and delivers then calls this, and without an await after it:
        `recovery`, whatever sends the answer, `subscribe(since=recovery.position)`.

        Args:
            since, history: as for `subscribe`.

        Raises:
            ValueError: as for `subscribe`.
            trio.ClosedResourceError: the hub is closed.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        check_place(since, history)
        await trio.lowlevel.checkpoint()
        if self._window is not None:
            self._hub._use(self)
            self._window.use()
            await self._window.load(since, history)

    async def wait_live(self) -> None:
        """Wait until a broker has told where the topic stands, so that `epoch` and `head` are
        known; without one they always are.

        With a broker that cannot be reached this waits until it can.

        Raises:
            trio.ClosedResourceError: the hub is closed.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await self.load()

    def recovery(self, since: Since | None, history: int = 0) -> Recovery:
        """What `subscribe` with the same arguments would start with.

        Args:
            since, history: as for `subscribe`.

        Raises:
            ValueError: as for `subscribe`.

        Checkpoint: never.
        """
        check_place(since, history)
        if self._forgotten:
            begin(self)  # as whoever uses it next
        return find(self, since, history)

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

    # Presence.

    @enable_ki_protection
    async def enter(self, key: str, info: bytes = b"", *, user: str = "") -> None:
        """Have *key* be in the topic, and wait until everybody can know it.

        Presence says who is here, on all hubs that a broker joins.  It is not part of the log:
        nothing is published, and whoever enters need not subscribe.  Who has entered stays until
        `leave`, or until this hub is closed; if this process dies or loses the broker, for 15
        seconds.  To enter again changes the info.

        Args:
            key: of whom; up to 255 characters.  Have it name one connection, as a key that another
                hub enters, too, is that one's from then on, and gone when it leaves there.
            info: what others are told of it.
            user: whose it is, for `count_members`; several keys may be the same user's.

        Raises:
            TypeError, ValueError: an argument cannot be.
            HubFull: all members of all topics take half of the hub's memory.
            trio.ClosedResourceError: the hub is closed.

        Cancellation: it has entered all the same.  Checkpoint: always.
        """
        member = check_member(key, info, user)
        self._hub._check_open()
        presence = self._hub._presence
        presence.enter(self.name, key, member)
        await trio.lowlevel.checkpoint()
        await presence.wait_entered(self.name, key)

    @enable_ki_protection
    def leave(self, key: str) -> None:
        """Have *key* not be in the topic any more; nothing if this hub has not entered it.

        Raises:
            TypeError, ValueError: *key* cannot be one.
            RuntimeError: called from a thread that does not run Trio.

        Checkpoint: never.  With a broker, others hear of it in a moment.
        """
        check_key("leave", key)
        check_thread()
        EFFORT.spent += COST_OF_WRITE
        self._hub._presence.leave(self.name, key)

    async def members(self) -> dict[str, bytes]:
        """Who is in the topic now, on all hubs: their infos, by key.

        Raises:
            trio.ClosedResourceError: the hub is closed.

        Cancellation: nothing is lost.  Checkpoint: always.  With a broker, this waits for it.
        """
        await trio.lowlevel.checkpoint()
        self._hub._check_open()
        members = await self._hub._presence.members(self.name)
        infos: dict[str, bytes] = {}
        for number, (key, member) in enumerate(members.items(), 1):
            infos[key] = member.info
            if number % _MEMBERS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
        return infos

    async def count_members(self) -> PresenceCount:
        """How many are in the topic, on all hubs; with a broker, those of a process that has died
        are counted until another hub notices, which takes up to 20 seconds.

        Raises, Cancellation, Checkpoint: as `members`.
        """
        await trio.lowlevel.checkpoint()
        self._hub._check_open()
        return await self._hub._presence.count(self.name)

    def presence_changes(self) -> PresenceChanges:
        """Who comes and goes, on all hubs, for a task of this process, from now on.

        Use it as a context manager and iterate over it.
        """
        return PresenceChanges(self)

    @property
    def _is_idle(self) -> bool:
        """Whether nobody subscribes to it or reads it."""
        window = self._window
        return not self._readers and not self._members and (window is None or not window.waiting)

    # What readers and subscriptions tell.

    def _leave_waiting(self, who: object) -> None:
        """*who* does not wait for a place any more."""
        if self._window is not None:
            self._window.waiting.pop(who, None)
        self._news.changed()

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

    def _look_again(self) -> None:
        """Have a pass look at all members, whether there is news or not."""
        self._look = True
        self._hub._pump.touch(self)
