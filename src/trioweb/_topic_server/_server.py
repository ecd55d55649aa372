"""The topic server: what all members share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

from .._arguments import check_kind
from .._centrifuge import CODECS, SUBPROTOCOLS, Codec
from .._centrifuge._codes import DisconnectCode
from .._connection import Connection
from .._dataclass import dataclass
from .._topics import Hub, Topic
from ._data import message_of_program
from ._member import Member
from ._presence import Announcer
from ._room import Room
from ._rules import Callback, MemberLimits, TopicRules
from ._seat import Seat
from ._session import Session
from ._timetable import Timetable
from ._tokens import Tokens

# What clients show their users; a number of the protocol's, and none of ours.
_VERSION: Final = "trioweb"
_PROTOBUF: Final = SUBPROTOCOLS[0]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a program decides itself; see `open_topic_server`."""

    on_connect: Callback | None
    on_subscribe: Callback | None
    on_publish: Callback | None
    on_refresh: Callback | None
    on_renew: Callback | None
    on_message: Callback | None


@dataclass(frozen=True, slots=True)
class TopicServerStatistics:
    """What a topic server holds and has done.

    Attributes:
        members, subscriptions, calls: now; calls are those at work.
        unannounced: members who have come or gone without those being told who wanted to be, since
            there were more than `MemberLimits.max_announced`, so far.
    """

    members: int
    subscriptions: int
    calls: int
    unannounced: int


class TopicServer:
    """Serves topics of a hub to clients of the Centrifuge protocol.  `open_topic_server` makes one.

    Attributes:
        subprotocols: for `serve(subprotocols=…)`.
        callbacks, tokens, limits, ping: as given.
        takes_anonymous: whether who has no token may connect where others have one.
    """

    subprotocols: Final = SUBPROTOCOLS
    version: Final = _VERSION

    def __init__(
        self,
        hub: Hub,
        changes: Hub,
        nursery: trio.Nursery,
        *,
        rules: Callable[[str], TopicRules | None],
        callbacks: Callbacks,
        calls: Mapping[str, Callback],
        tokens: Tokens | None,
        takes_anonymous: bool,
        limits: MemberLimits,
        ping: int,
    ) -> None:
        self.callbacks = callbacks
        self.tokens = tokens
        self.takes_anonymous = takes_anonymous
        self.limits = limits
        self.ping = ping
        self._is_closed = False
        self._hub = hub
        self._spawn = nursery.start_soon
        self._find_rules = rules
        self._calls = calls
        # Of all members.
        self._subscriptions = 0
        self._calls_at_work = 0
        self._members: dict[str, Member] = {}
        self._rooms: dict[str, Room] = {}
        self._presence = hub._presence
        self._announcer = Announcer(hub._presence, changes, limits.max_announced)
        self._timetable = Timetable()

    @property
    def is_closed(self) -> bool:
        """Whether its block was left, or the hub's."""
        return self._is_closed or self._hub.closed

    @property
    def members(self) -> Collection[Member]:
        """All who are connected and were welcome."""
        return self._members.values()

    async def handle(self, connection: Connection) -> None:
        """Serve one connection: the handler for `serve`, or part of one.

        Returns when the connection is over.

        Raises:
            ConnectionClosed: likewise.

        Cancellation: whatever the program does for this peer is cancelled.  Checkpoint: always,
        unless the connection is over before.
        """
        link = connection.link
        if self.is_closed:
            link.close(DisconnectCode.SHUTDOWN, DisconnectCode.SHUTDOWN.reason)
        link.check_writable()
        asked = parse_qs(urlsplit(connection.request.target).query)
        member = Member(self, connection, _codec_for(connection, asked))
        member._is_pinged = asked.get("cf_ws_frame_ping_pong") != ["true"]
        session = Session(member)
        link.queue.set_hooks(member, closed=member._on_closed, drained=_nothing)
        try:
            async for message in connection:
                await session.take(message)
        finally:
            link.queue.remove_hooks(member)
            member._on_closed()

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> int:
        """Publish *data* to *topic*; return its offset.

        Args:
            data: anything that is JSON; bytes, for peers that speak Protobuf.  Plain subscribers
                get it as text or as bytes.
            tags, key: as for `Topic.publish`.

        Raises:
            ValueError: there are no rules for a topic of that name.
            TypeError, ValueError: *data* cannot be said in JSON.
            HubFull, trio.ClosedResourceError, RuntimeError: as `Topic.publish`.

        Checkpoint: never.
        """
        message, kind = message_of_program(data)
        found = self._topic(topic, self._rules_for_program(topic))
        return found.publish(message, kind=kind, tags=tags, key=key)

    def presence(self, topic: str) -> tuple[Member, ...]:
        """The members of this server that are subscribed to *topic*.

        Who is in the topic wherever a broker joins this hub with others is `Topic.members`' to say,
        if its rules let clients see who is there; their keys are `Member.client`.
        """
        return tuple(
            member
            for member in self._members.values()
            if (seat := member._seats.get(topic)) is not None and seat.subscription is not None
        )

    def statistics(self) -> TopicServerStatistics:
        """What there is now, and what has happened so far."""
        return TopicServerStatistics(
            members=len(self._members),
            subscriptions=self._subscriptions,
            calls=self._calls_at_work,
            unannounced=self._announcer.unannounced,
        )

    # What members use.

    def _rules_of(self, name: str) -> TopicRules | None:
        rules = self._find_rules(name)
        if not isinstance(rules, TopicRules):
            check_kind("topics(name)", "what it returns", rules, TopicRules, optional=True)
        return rules

    def _rules_for_program(self, name: str) -> TopicRules:
        check_kind("topic", "its name", name, str)
        rules = self._rules_of(name)
        if rules is None:
            raise ValueError(f"topic {name!r}: open_topic_server(topics=…) has no rules for it")
        return rules

    def _new_seat(self, name: str) -> Seat:
        """A seat in a topic for somebody whom the program subscribes."""
        return Seat(name, self._rules_for_program(name), is_programs=True)

    def _topic(self, name: str, rules: TopicRules) -> Topic:
        return self._hub.topic(name, retain=rules.retain)

    def _room(self, name: str, rules: TopicRules) -> Room:
        return self._rooms.get(name) or Room(self._topic(name, rules))

    def _enter(self, room: Room) -> None:
        """A member has subscribed to the topic of *room*."""
        self._rooms[room.topic.name] = room
        room.size += 1
        self._subscriptions += 1

    def _leave(self, name: str) -> None:
        """A member has left the topic."""
        room = self._rooms[name]
        room.size -= 1
        self._subscriptions -= 1
        if not room.size:
            del self._rooms[name]

    def _close(self) -> None:
        self._is_closed = True
        for member in tuple(self._members.values()):
            member._end(DisconnectCode.SHUTDOWN)


def _nothing() -> None:
    """Nobody waits for the link to be drained."""


def _codec_for(connection: Connection, asked: Mapping[str, list[str]]) -> Codec:
    """The encoding that the peer has asked for: by the subprotocol, or in the query."""
    if connection.subprotocol is not None:
        # Of others than the protocol's own nobody here knows what they mean.
        return CODECS.get(connection.subprotocol, CODECS[""])
    formats = [*asked.get("cf_protocol", ()), *asked.get("format", ())]
    return CODECS[_PROTOBUF if "protobuf" in formats else ""]
