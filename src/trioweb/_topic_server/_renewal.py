"""New tokens for what has a time: the connection's (`refresh`), and a subscription's (`renew`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._centrifuge import _schema as wire
from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._centrifuge._replies import Result
from .._refusals import Dismiss, Refuse
from ._rules import Granted, Welcome, check_answer
from ._seat import told_ttl

if TYPE_CHECKING:
    from ._member import Member


async def refresh(member: Member, request: wire.RefreshRequest) -> Result:
    server = member._server
    on_refresh = server.callbacks.on_refresh
    if on_refresh is None and server.tokens is None:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if not request.token:
        raise Refuse(ErrorCode.BAD_REQUEST, "no token")
    if on_refresh is not None:
        call = "on_refresh(member, token)"
        answer = await member._ask(call, on_refresh, member, request.token)
        check_answer(call, answer, Welcome)
    else:
        assert server.tokens is not None
        answer = server.tokens.of_connection(request.token)
        if answer.user != member.user:
            raise Dismiss(DisconnectCode.INVALID_TOKEN)
    ttl: float | None = answer.ttl
    if ttl is not None and ttl <= 0:
        raise Refuse(ErrorCode.EXPIRED)
    member._due.refresh(ttl)
    return wire.RefreshResult(
        client=member.client, version=server.version, expires=ttl is not None, ttl=told_ttl(ttl)
    )


async def renew(member: Member, request: wire.SubRefreshRequest) -> Result:
    seat = member._seats.get(request.topic)
    if seat is None or seat.subscription is None:
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    server = member._server
    on_renew = server.callbacks.on_renew
    if (on_renew is None and server.tokens is None) or request.type:
        raise Refuse(ErrorCode.NOT_AVAILABLE)
    if not request.token:
        raise Refuse(ErrorCode.BAD_REQUEST, "no token")
    if on_renew is not None:
        call = "on_renew(member, topic, token)"
        answer = await member._ask(call, on_renew, member, request.topic, request.token)
        check_answer(call, answer, Granted)
    else:
        assert server.tokens is not None
        answer = server.tokens.of_subscription(
            request.token, user=member.user, client=member.client, topic=request.topic
        )
    ttl: float | None = answer.ttl
    if ttl is not None and ttl <= 0:
        raise Refuse(ErrorCode.EXPIRED)
    if seat.subscription is None:  # it was unsubscribed meanwhile
        raise Refuse(ErrorCode.PERMISSION_DENIED)
    member._due.renew(seat, ttl)
    return wire.SubRefreshResult(expires=ttl is not None, ttl=told_ttl(ttl))
