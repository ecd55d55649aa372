"""The topic server: what all members share, and how it is opened."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

from .._arguments import check_async, check_kind, wrong
from .._centrifuge import CODECS, Codec
from .._centrifuge._codes import DisconnectCode
from .._connection import Connection
from .._nursery import open_hidden_nursery, protected_block
from .._topics import Hub, Topic, open_hub
from ._data import message_of_program
from ._member import Member
from ._presence import LocalPresence, Presence
from ._room import Room
from ._rules import Callback, MemberLimits, TopicRules, Topics, rules_by_name
from ._seat import Seat
from ._session import Session
from ._timetable import Timetable

# What clients show their users; a number of the protocol's, and none of ours.
_VERSION: Final = "trioweb"
_PROTOBUF: Final = "centrifuge-protobuf"


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
        unannounced: members who have come or gone without anybody being told, since there were
            more than `MemberLimits.max_announced`, so far.
    """

    members: int
    subscriptions: int
    calls: int
    unannounced: int


class TopicServer:
    """Serves topics of a hub to clients of the Centrifuge protocol.  `open_topic_server` makes one.

    Attributes:
        subprotocols: for `serve(subprotocols=…)`.
        limits, ping: as given.
    """

    subprotocols: Final = (_PROTOBUF, "centrifuge-json")
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
        limits: MemberLimits,
        ping: int,
    ) -> None:
        self.callbacks = callbacks
        self.limits = limits
        self.ping = ping
        self._is_closed = False
        self._hub = hub
        self._spawn = nursery.start_soon
        self._find_rules = rules
        self._calls = calls
        self._members: dict[str, Member] = {}
        self._rooms: dict[str, Room] = {}
        self._presence: Presence = LocalPresence(changes)
        self._timetable = Timetable()
        self._unannounced = 0

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

        Cancellation: whatever the program does for this peer is cancelled.
        """
        session = Session(Member(self, connection, _codec_for(connection)))
        await session.run()

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
        """The members of this server that are subscribed to *topic*."""
        return tuple(
            member
            for member in self._members.values()
            if (seat := member._seats.get(topic)) is not None and seat.subscription is not None
        )

    def statistics(self) -> TopicServerStatistics:
        """What there is now, and what has happened so far."""
        return TopicServerStatistics(
            members=len(self._members),
            subscriptions=sum(room.size for room in self._rooms.values()),
            calls=sum(len(member._calls) for member in self._members.values()),
            unannounced=self._unannounced,
        )

    # What members use.

    def _rules_of(self, name: str) -> TopicRules | None:
        rules = self._find_rules(name)
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

    def _enter(self, room: Room, member: Member, info: bytes) -> None:
        """*member* has subscribed to the topic of *room*."""
        name = room.topic.name
        self._rooms[name] = room
        room.size += 1
        tell = self._tells(room)
        self._presence.enter(name, member.client, member.user, info, tell=tell)

    def _leave(self, name: str, member: Member) -> None:
        """*member* has left the topic."""
        room = self._rooms[name]
        self._presence.leave(name, member.client, tell=self._tells(room))
        room.size -= 1
        if not room.size:
            del self._rooms[name]

    def _tells(self, room: Room) -> bool:
        """Whether others are told of who comes or goes."""
        if room.size <= self.limits.max_announced:
            return True
        self._unannounced += 1
        return False

    def _close(self) -> None:
        self._is_closed = True
        for member in tuple(self._members.values()):
            member._end(DisconnectCode.SHUTDOWN)


def _codec_for(connection: Connection) -> Codec:
    """The encoding that the peer has asked for: by the subprotocol, or in the query."""
    if connection.subprotocol is not None:
        # Of others than the protocol's own nobody here knows what they mean.
        return CODECS.get(connection.subprotocol, CODECS[""])
    query = parse_qs(urlsplit(connection.request.target).query)
    asked = [*query.get("cf_protocol", ()), *query.get("format", ())]
    return CODECS[_PROTOBUF if "protobuf" in asked else ""]


@protected_block
async def open_topic_server(
    hub: Hub,
    *,
    topics: Topics,
    on_connect: Callback | None = None,
    on_subscribe: Callback | None = None,
    on_publish: Callback | None = None,
    on_refresh: Callback | None = None,
    on_renew: Callback | None = None,
    on_message: Callback | None = None,
    calls: Mapping[str, Callback] | None = None,
    limits: MemberLimits = MemberLimits(),
    ping: int = 25,
) -> AsyncGenerator[TopicServer]:
    """Serve topics of *hub* to clients of the Centrifuge protocol for the length of the block.

    Stock clients for browsers, phones and programs reconnect, subscribe again and recover what
    they missed by themselves.  Give `handle` and `subprotocols` of the server to `serve`.

    Args:
        topics: what members may do, by what stands before the first colon of a topic's name; ""
            is for names without one, "*" for all others.  Or a function of the whole name, which
            returns None for a topic that there is not.
        on_connect: `async (member, ConnectRequest) -> Welcome | None`: who somebody is.  By
            default, and for None, anybody may come, with `connection.user` as their user.
        on_subscribe: `async (member, SubscribeRequest) -> Granted | None`: what somebody may do
            with a topic.  By default, and for None, what the rules say.
        on_publish: `async (member, topic, data) -> data | None`: checks what a member publishes,
            or returns what is published instead.
        on_refresh: `async (member, token) -> Welcome`: looks at a new token for a connection with
            a `Welcome.ttl`; of what it returns, only the `ttl` counts.
        on_renew: `async (member, topic, token) -> Granted`: likewise for a subscription.
        on_message: `async (member, data)`: takes what a member sends outside of all topics.
            Without it, whoever does so is sent away for good (3508).
        calls: what members can call, by its name: `async (member, data) -> data`.
        limits: what a member may cost.
        ping: whole seconds between two pings.  25, as the reference server has it.

    `data` is anything that JSON has, or bytes where a client that speaks Protobuf has sent
    something else; None where it has sent nothing.

    A callback raises Refuse to say no, and Dismiss to end the connection.  Any other error is
    logged, and the client told to try again later (100).  What it does ends with the connection.

    Leaving the block closes the connections of all members with 3001, and they come back to
    another server.

    Raises:
        TypeError, ValueError: an argument cannot work.
    """
    owner = "open_topic_server"
    check_kind(owner, "hub", hub, Hub)
    check_kind(owner, "limits", limits, MemberLimits)
    check_kind(owner, "ping", ping, int)
    if ping < 1:
        raise ValueError(f"{owner}(ping={ping!r}): must be at least 1 second")
    check_async(owner, "on_connect(member, request)", on_connect, optional=True)
    check_async(owner, "on_subscribe(member, request)", on_subscribe, optional=True)
    check_async(owner, "on_publish(member, topic, data)", on_publish, optional=True)
    check_async(owner, "on_refresh(member, token)", on_refresh, optional=True)
    check_async(owner, "on_renew(member, topic, token)", on_renew, optional=True)
    check_async(owner, "on_message(member, data)", on_message, optional=True)
    if calls is not None and not isinstance(calls, Mapping):
        raise wrong(owner, "calls", "a mapping of names to async functions", calls)
    for name, function in (calls or {}).items():
        check_kind(owner, "each key of calls", name, str)
        check_async(owner, f"calls[{name!r}](member, data)", function)
    callbacks = Callbacks(on_connect, on_subscribe, on_publish, on_refresh, on_renew, on_message)
    # Who comes and goes: a topic each, for which no topic of the program's has to go.
    async with open_hub(max_topics=2**20, linger=0) as changes, open_hidden_nursery() as nursery:
        server = TopicServer(
            hub,
            changes,
            nursery,
            rules=rules_by_name(topics),
            callbacks=callbacks,
            calls=dict(calls or {}),
            limits=limits,
            ping=ping,
        )
        nursery.start_soon(server._timetable.run)
        try:
            yield server
        finally:
            server._close()
