"""What a client asks a server for: what is sent once, and what again after a lost connection."""

from __future__ import annotations

import math
from typing import Any, Final

import trio

from .._arguments import is_count
from .._centrifuge import _schema as wire
from .._centrifuge._values import payload_of, to_json
from .._errors import ConnectionClosed
from .._topics import Position
from ._items import (
    MemberInfo,
    PresenceStatistics,
    TopicHistory,
    member_of,
    publication_of,
    value_of,
)
from ._session import Session

_MOST_MILLISECONDS: Final = 2**32 - 1


# What programs give.


def check_position(owner: str, since: object) -> Position | None:
    match since:
        case None:
            return None
        case (str() as epoch, int() as offset) if is_count(offset):
            return Position(epoch, offset)
        case _:
            raise ValueError(f"{owner}(since={since!r}): must be (epoch, offset)")


def check_value(data: object) -> None:
    """Raise TypeError or ValueError unless *data* can be said."""
    if not isinstance(data, bytes):
        to_json(data)


# What is done once.


async def publish(session: Session, topic: str, data: Any, *, key: str) -> None:
    """See `TopicClient.publish`; by *key* the server knows a second attempt for one."""
    lost: ConnectionClosed | None = None
    line = None
    while True:
        line = await session.line_for(topic, line)
        if lost is not None and not line.is_extended:
            raise lost
        payload = payload_of(line.codec, data)
        request = wire.PublishRequest(
            topic=topic, data=payload, x_key=key if line.is_extended else ""
        )
        try:
            await line.ask(request)
        except ConnectionClosed as exc:
            if not line.is_extended:
                raise
            lost = exc
        else:
            return


async def call(session: Session, method: str, data: Any) -> Any:
    """See `TopicClient.call`."""
    line = await session.line_for()
    seconds = trio.current_effective_deadline() - trio.current_time()
    left = 0
    if line.is_extended and seconds < math.inf:
        # In a scope that is cancelled already it is minus infinity.
        left = math.ceil(min(max(seconds * 1000, 1), _MOST_MILLISECONDS))
    payload = payload_of(line.codec, data)
    request = wire.RPCRequest(method=method, data=payload, x_timeout=left)
    result = await line.ask(request, is_call=True)
    return value_of(line.codec, result.data)


# What changes nothing is asked again after a connection that was lost.


async def history(
    session: Session, topic: str, limit: int, since: Position | None, *, reverse: bool
) -> TopicHistory:
    """See `TopicClient.history`."""
    where = None if since is None else wire.StreamPosition(offset=since.offset, epoch=since.epoch)
    request = wire.HistoryRequest(topic=topic, limit=limit, since=where, reverse=reverse)
    codec, result = await _ask(session, topic, request)
    publications = [publication_of(codec, each) for each in result.publications]
    return TopicHistory(publications, Position(result.epoch, result.offset))


async def presence(session: Session, topic: str) -> dict[str, MemberInfo]:
    """See `TopicClient.presence`."""
    codec, result = await _ask(session, topic, wire.PresenceRequest(topic=topic))
    return {client: member_of(codec, info) for client, info in result.presence.items()}


async def presence_stats(session: Session, topic: str) -> PresenceStatistics:
    """See `TopicClient.presence_stats`."""
    _, result = await _ask(session, topic, wire.PresenceStatsRequest(topic=topic))
    return PresenceStatistics(result.num_clients, result.num_users)


async def _ask(session: Session, topic: str, request: Any) -> tuple[Any, Any]:
    line = None
    while True:
        line = await session.line_for(topic, line)
        try:
            return line.codec, await line.ask(request)
        except ConnectionClosed:
            pass
