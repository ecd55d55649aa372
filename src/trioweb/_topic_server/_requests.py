"""What each command is answered with, and what it needs.

Each answer raises Refuse where there is none, and may do so whenever it likes: nothing was done
then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from .._centrifuge import _schema as wire
from .._centrifuge._codes import ErrorCode
from .._centrifuge._replies import Result
from .._errors import BrokerFull
from .._refusals import Refuse
from .._topics import Publisher
from .._topics._publishing import PublishDetails
from ._admission import rules_of
from ._data import (
    info_bytes,
    message_of_peer,
    message_of_program,
    value_of,
)
from ._presence import client_info
from ._renewal import refresh, renew
from ._room import wire_publication
from ._seat import Seat

if TYPE_CHECKING:
    from ._member import Member

# What is encoded without a chance for others to run: some 300 µs in Protobuf.
_ENCODED_AT_ONCE: Final = 16
# As `Topic.publish` has it.
_MAX_KEY: Final = 255


async def unsubscribe(member: Member, request: wire.UnsubscribeRequest) -> Result:
    seat = member._seats.get(request.topic)
    if seat is not None:
        member._drop(seat)
    return wire.UnsubscribeResult()


def _seat_for(member: Member, name: str, right: str) -> Seat:
    """The seat of *member* in the topic *name*, which has to have a *right* there."""
    rules = rules_of(member, name)
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
    topic = server._topic(request.topic, seat.rules)
    details: PublishDetails = {
        "kind": kind,
        "key": request.x_key or None,
        "publisher": Publisher(member.user, info),
    }
    try:
        receipt = topic.post(message, **details)
    except BrokerFull:
        confirmed = partial(topic.publish_confirmed, message, **details)
        await member._ask("publish_confirmed()", confirmed)
    else:
        if not receipt._is_settled:
            await member._ask("confirmed()", receipt.confirmed)
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
        await member._load(topic, since=(since.epoch, since.offset))
    else:
        await member._load(topic, history=count)
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
    server = member._server
    await trio.lowlevel.checkpoint()
    count = await member._ask("count()", server._presence.count, request.topic)
    if count.members > server.limits.max_presence:
        raise Refuse(ErrorCode.LIMIT_EXCEEDED, "too many to be told; their number can be")
    members = await member._ask("members()", server._presence.members, request.topic)
    told = {}
    for number, (client, there) in enumerate(members.items(), 1):
        told[client] = client_info(member._codec, client, there)
        if number % _ENCODED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return wire.PresenceResult(presence=told)


async def presence_stats(member: Member, request: wire.PresenceStatsRequest) -> Result:
    _seat_for(member, request.topic, "presence")
    presence = member._server._presence
    await trio.lowlevel.checkpoint()
    count = await member._ask("count()", presence.count, request.topic)
    return wire.PresenceStatsResult(num_clients=count.members, num_users=count.users)


ANSWERS: Final[dict[type, Callable[[Member, Any], Awaitable[Result]]]] = {
    wire.UnsubscribeRequest: unsubscribe,
    wire.PublishRequest: publish,
    wire.HistoryRequest: history,
    wire.PresenceRequest: presence,
    wire.PresenceStatsRequest: presence_stats,
    wire.RefreshRequest: refresh,
    wire.SubRefreshRequest: renew,
}
