"""What each command is answered with, and what it needs.

Each answer raises Refuse where there is none, and may do so whenever it likes: nothing was done
then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from .._centrifuge import _schema as wire
from .._centrifuge._codes import ErrorCode
from .._centrifuge._replies import Result
from .._errors import Refuse
from .._topics import Position, Publisher
from ._data import (
    info_bytes,
    info_of,
    message_of_peer,
    message_of_program,
    optional_payload_of,
    value_of,
)
from ._room import wire_publication
from ._rules import ConnectRequest, Granted, SubscribeRequest, TopicRules, Welcome, check_answer
from ._seat import Seat

if TYPE_CHECKING:
    from ._member import Member

# What is encoded without a chance for others to run: some 300 µs in Protobuf.
_ENCODED_AT_ONCE: Final = 16
# As `Topic.publish` has it.
_MAX_KEY: Final = 255


# Connecting.


async def admit(member: Member, request: wire.ConnectRequest) -> Welcome:
    """Who the member is: note it, and where it is subscribed from the start."""
    server = member._server
    asked = ConnectRequest(
        token=request.token,
        data=value_of(member._codec, request.data),
        name=request.name,
        version=request.version,
        headers=request.headers,
    )
    welcome = await _welcome(member, asked)
    if welcome.ttl is not None and welcome.ttl <= 0:
        raise Refuse(ErrorCode.TOKEN_EXPIRED)
    member.user, member.info = welcome.user, welcome.info
    # What cannot be said to others is found here, and not in front of them.
    info_bytes(member.user, member.client, member.info, None)
    member._is_extended = bool(request.x_trioweb)
    member._seats.clear()
    for name in dict.fromkeys(welcome.topics):
        seat = member._seats[name] = server._new_seat(name)
        await server._topic(name, seat.rules).load(since=_since(request.subs.get(name)))
    return welcome


async def _welcome(member: Member, asked: ConnectRequest) -> Welcome:
    on_connect = member._server.callbacks.on_connect
    if on_connect is not None:
        call = "on_connect(member, request)"
        answer = await member._ask(call, on_connect, member, asked)
        if answer is not None:
            check_answer(call, answer, Welcome)
            assert isinstance(answer, Welcome)
            return answer
    user = member.connection.user
    return Welcome(user="" if user is None else str(user))


def begin(member: Member, request: wire.ConnectRequest, welcome: Welcome) -> wire.ConnectResult:
    """Make *member* one, and say so."""
    server = member._server
    data = optional_payload_of(member._codec, welcome.data)
    subs: dict[str, wire.SubscribeResult] = {}
    try:
        for seat in tuple(member._seats.values()):
            if seat.is_programs:
                known = request.subs.get(seat.name, wire.SubscribeRequest())
                subs[seat.name] = seat.take(member, known)
    except BaseException:
        for seat in tuple(member._seats.values()):
            member._drop(seat)
        raise
    member._begin()
    member._refresh(welcome.ttl)
    return wire.ConnectResult(
        client=member.client,
        version=server.version,
        expires=welcome.ttl is not None,
        ttl=_whole(welcome.ttl),
        data=data,
        subs=subs,
        ping=server.ping,
        pong=True,
        x_trioweb=1 if member._is_extended else 0,
    )


def _whole(ttl: float | None) -> int:
    return 0 if ttl is None else max(1, int(ttl))


def _since(request: wire.SubscribeRequest | None) -> Position | None:
    if request is None or not request.recover or not request.epoch:
        return None
    return Position(request.epoch, request.offset)


# Subscribing.


async def prepare_subscription(member: Member, request: wire.SubscribeRequest) -> Seat:
    """A seat that was granted, and can be taken."""
    server = member._server
    name = request.topic
    rules = _rules_of(member, name)
    if name in member._seats:
        raise Refuse(ErrorCode.ALREADY_SUBSCRIBED)
    if len(member._seats) >= server.limits.max_topics:
        raise Refuse(ErrorCode.LIMIT_EXCEEDED)
    if request.tf is not None:
        raise Refuse(ErrorCode.BAD_REQUEST, "tags are not filtered here")
    if request.type:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    # Others of the program's may subscribe it meanwhile.
    seat = member._seats[name] = Seat(name, rules, is_programs=False)
    try:
        seat.grant(await _granted(member, request, rules))
        if seat.ttl is not None and seat.ttl <= 0:
            raise Refuse(ErrorCode.TOKEN_EXPIRED)
        await server._topic(name, rules).load(since=_since(request))
    except BaseException:
        member._drop(seat)
        raise
    return seat


async def _granted(member: Member, request: wire.SubscribeRequest, rules: TopicRules) -> Granted:
    on_subscribe = member._server.callbacks.on_subscribe
    if on_subscribe is not None:
        asked = SubscribeRequest(
            topic=request.topic,
            token=request.token,
            data=value_of(member._codec, request.data),
            since=Position(request.epoch, request.offset) if request.recover else None,
        )
        call = "on_subscribe(member, request)"
        answer = await member._ask(call, on_subscribe, member, asked)
        if answer is not None:
            check_answer(call, answer, Granted)
            assert isinstance(answer, Granted)
            return answer
    if not rules.subscribe:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    return Granted()


async def unsubscribe(member: Member, request: wire.UnsubscribeRequest) -> Result:
    seat = member._seats.get(request.topic)
    if seat is not None:
        member._drop(seat)
    return wire.UnsubscribeResult()


def _rules_of(member: Member, name: str) -> TopicRules:
    if len(name.encode("utf-8", "replace")) > member._server.limits.max_name_bytes:
        raise Refuse(ErrorCode.BAD_REQUEST, "too long a name")
    rules = member._server._rules_of(name)
    if rules is None:
        raise Refuse(ErrorCode.UNKNOWN_TOPIC)
    return rules


def _seat_for(member: Member, name: str, right: str) -> Seat:
    """The seat of *member* in the topic *name*, which has to have a *right* there."""
    rules = _rules_of(member, name)
    seat = member._seats.get(name)
    is_there = seat is not None and (seat.subscription is not None or member._is_over)
    has_right: bool = getattr(seat.rules if seat is not None else rules, right)
    if not has_right and right != "publish":
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if not has_right or not is_there:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    assert seat is not None
    return seat


# Publications.


async def publish(member: Member, request: wire.PublishRequest) -> Result:
    server = member._server
    codec = member._codec
    seat = _seat_for(member, request.topic, "publish")
    if request.type:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if len(request.x_key) > _MAX_KEY:
        raise Refuse(ErrorCode.BAD_REQUEST, "too long a key")
    if not isinstance(request.data, msgspec.Raw):
        raise Refuse(ErrorCode.BAD_REQUEST, "nothing to publish")
    message, kind = message_of_peer(codec, request.data)
    on_publish = server.callbacks.on_publish
    if on_publish is not None:
        call = "on_publish(member, topic, data)"
        data = value_of(codec, request.data)
        answer = await member._ask(call, on_publish, member, request.topic, data)
        if answer is not None:
            message, kind = message_of_program(answer)
    info = info_bytes(member.user, member.client, member.info, seat.info)
    server._topic(request.topic, seat.rules).publish(
        message,
        kind=kind,
        key=request.x_key or None,
        publisher=Publisher(member.user, info),
    )
    return wire.PublishResult()


async def history(member: Member, request: wire.HistoryRequest) -> Result:
    seat = _seat_for(member, request.topic, "history")
    since = request.since
    if request.reverse and since is not None and since.offset == 0:
        raise Refuse(ErrorCode.BAD_REQUEST, "nothing is before the first publication")
    topic = member._server._topic(request.topic, seat.rules)
    most = member._server.limits.max_history
    count = most if request.limit < 0 else min(request.limit, most)
    if since is not None and since.epoch:
        await topic.load(since=(since.epoch, since.offset))
    else:
        await topic.load(history=count)
    if since is not None and since.epoch not in ("", topic.epoch):
        raise Refuse(ErrorCode.UNRECOVERABLE_POSITION)
    after = None if since is None else since.offset
    epoch, head = topic.epoch, topic.head
    publications = topic.history(after, count, reverse=request.reverse)
    told = []
    for number, publication in enumerate(publications, 1):
        told.append(member._codec.prepared(wire_publication(member._codec, publication)))
        if number % _ENCODED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return wire.HistoryResult(publications=told, epoch=epoch, offset=head)


# Presence.


async def presence(member: Member, request: wire.PresenceRequest) -> Result:
    _seat_for(member, request.topic, "presence")
    members = await member._server._presence.members(request.topic)
    if len(members) > member._server.limits.max_presence:
        raise Refuse(ErrorCode.LIMIT_EXCEEDED, "too many to be told; their number can be")
    told = {}
    for number, (client, info) in enumerate(members.items(), 1):
        told[client] = info_of(member._codec, info)
        if number % _ENCODED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return wire.PresenceResult(presence=told)


async def presence_stats(member: Member, request: wire.PresenceStatsRequest) -> Result:
    _seat_for(member, request.topic, "presence")
    clients, users = await member._server._presence.count(request.topic)
    return wire.PresenceStatsResult(num_clients=clients, num_users=users)


# Tokens.


async def refresh(member: Member, request: wire.RefreshRequest) -> Result:
    on_refresh = member._server.callbacks.on_refresh
    if on_refresh is None:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if not request.token:
        raise Refuse(ErrorCode.BAD_REQUEST, "no token")
    call = "on_refresh(member, token)"
    answer = await member._ask(call, on_refresh, member, request.token)
    check_answer(call, answer, Welcome)
    ttl: float | None = answer.ttl
    if ttl is not None and ttl <= 0:
        raise Refuse(ErrorCode.EXPIRED)
    member._refresh(ttl)
    version = member._server.version
    return wire.RefreshResult(
        client=member.client, version=version, expires=ttl is not None, ttl=_whole(ttl)
    )


async def renew(member: Member, request: wire.SubRefreshRequest) -> Result:
    seat = member._seats.get(request.topic)
    if seat is None or seat.subscription is None:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    on_renew = member._server.callbacks.on_renew
    if on_renew is None or request.type:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if not request.token:
        raise Refuse(ErrorCode.BAD_REQUEST, "no token")
    call = "on_renew(member, topic, token)"
    answer = await member._ask(call, on_renew, member, request.topic, request.token)
    check_answer(call, answer, Granted)
    ttl: float | None = answer.ttl
    if ttl is not None and ttl <= 0:
        raise Refuse(ErrorCode.EXPIRED)
    if seat.subscription is None:  # it was unsubscribed meanwhile
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    member._expire(seat, ttl)
    return wire.SubRefreshResult(expires=ttl is not None, ttl=_whole(ttl))


ANSWERS: Final[dict[type, Callable[[Member, Any], Awaitable[Result]]]] = {
    wire.UnsubscribeRequest: unsubscribe,
    wire.PublishRequest: publish,
    wire.HistoryRequest: history,
    wire.PresenceRequest: presence,
    wire.PresenceStatsRequest: presence_stats,
    wire.RefreshRequest: refresh,
    wire.SubRefreshRequest: renew,
}
