"""Who a member is, and where it may be: connecting and subscribing.

A token says so, or the program's callables, or the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import enable_ki_protection

from .._centrifuge import _schema as wire
from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._centrifuge._values import optional_payload_of
from .._refusals import Dismiss, Refuse
from .._topics import Position
from ._data import info_bytes, value_of
from ._rules import (
    GRANTED,
    ConnectRequest,
    Granted,
    SubscribeRequest,
    TopicRules,
    Welcome,
    check_answer,
)
from ._seat import Seat, told_ttl

if TYPE_CHECKING:
    from ._member import Member


# Connecting.


async def admit(member: Member, request: wire.ConnectRequest) -> Welcome:
    """Who the member is: note it, and where it is subscribed from the start."""
    server = member._server
    if server.is_closed:
        raise Dismiss(DisconnectCode.SHUTDOWN)
    asked = ConnectRequest(
        token=request.token,
        data=value_of(member._codec, request.data),
        name=request.name,
        version=request.version,
        headers=request.headers,
    )
    known = _known(member, request.token)
    member.user, member.info = known.user, known.info
    welcome = await _welcome(member, asked) or known
    if welcome.ttl is not None and welcome.ttl <= 0:
        raise Refuse(ErrorCode.TOKEN_EXPIRED)
    member.user, member.info = welcome.user, welcome.info
    # What cannot be said to others is found here, and not in front of them.
    info_bytes(member.user, member.client, member.info, None)
    member._is_extended = bool(request.x_trioweb)
    member._seats.clear()
    for name in dict.fromkeys(welcome.topics):
        seat = member._seats[name] = server._new_seat(name)
        since = _since(request.subs.get(name))
        await member._load(server._topic(name, seat.rules), since=since)
    return welcome


def _known(member: Member, token: str) -> Welcome:
    """Who the member is by its token, or else by what its connection was opened with."""
    server = member._server
    user = member.connection.user
    if server.tokens is not None:
        if token:
            known = server.tokens.of_connection(token)
            if any(server._rules_of(topic) is None for topic in known.topics):
                raise Refuse(ErrorCode.UNKNOWN_TOPIC)
            return known
        if user is None and not server.takes_anonymous:
            raise Dismiss(DisconnectCode.INVALID_TOKEN)
        member._is_anonymous = user is None
    return Welcome(user="" if user is None else str(user))


async def _welcome(member: Member, asked: ConnectRequest) -> Welcome | None:
    """Who the member is by the program's callable."""
    on_connect = member._server.callbacks.on_connect
    if on_connect is None:
        return None
    call = "on_connect(member, request)"
    answer = await member._ask(call, on_connect, member, asked)
    if answer is None:
        return None
    check_answer(call, answer, Welcome)
    assert isinstance(answer, Welcome)
    return answer


# As `Seat.take`, of all seats and the member itself.
@enable_ki_protection
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
    member._begin(welcome.ttl)
    return wire.ConnectResult(
        client=member.client,
        version=server.version,
        expires=welcome.ttl is not None,
        ttl=told_ttl(welcome.ttl),
        data=data,
        subs=subs,
        ping=server.ping if member._is_pinged else 0,
        pong=member._is_pinged,
        x_trioweb=1 if member._is_extended else 0,
    )


def _since(request: wire.SubscribeRequest | None) -> Position | None:
    if request is None or not request.recover or not request.epoch:
        return None
    return Position(request.epoch, request.offset)


# Subscribing.


async def prepare_subscription(member: Member, request: wire.SubscribeRequest) -> Seat:
    """A seat that was granted, and can be taken."""
    server = member._server
    name = request.topic
    rules = rules_of(member, name)
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
        await member._load(server._topic(name, rules), since=_since(request))
    except BaseException:
        member._drop(seat)
        raise
    return seat


async def _granted(member: Member, request: wire.SubscribeRequest, rules: TopicRules) -> Granted:
    tokens = member._server.tokens
    known: Granted | None = None
    if tokens is not None and request.token:
        known = tokens.of_subscription(
            request.token, user=member.user, client=member.client, topic=request.topic
        )
    elif member._is_anonymous and not rules.anonymous:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
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
    if known is None and not rules.subscribe:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    return known or GRANTED


def rules_of(member: Member, name: str) -> TopicRules:
    if len(name.encode("utf-8", "replace")) > member._server.limits.max_name_bytes:
        raise Refuse(ErrorCode.BAD_REQUEST, "too long a name")
    rules = member._server._rules_of(name)
    if rules is None:
        raise Refuse(ErrorCode.UNKNOWN_TOPIC)
    return rules
