"""Calls of the program's that one member has not answered yet."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import trio

from .._arguments import check_kind
from .._centrifuge._codes import ErrorCode
from .._centrifuge._replies import Call, Push, Reply
from .._centrifuge._schema import AnswerRequest
from .._centrifuge._values import payload_of
from .._errors import Refused
from .._refusals import Refuse
from ._data import value_of

if TYPE_CHECKING:
    from ._member import Member


class _Waiting:
    """Somebody who waits for an answer."""

    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: AnswerRequest | None = None


class Outcalls:
    """The calls to one member."""

    __slots__ = ("_member", "_numbers", "_waiting")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    async def call(self, method: str, data: Any) -> Any:
        """See `Member.call`."""
        member = self._member
        check_kind("call", "method", method, str)
        if not member._is_extended:
            raise Refused(ErrorCode.NOT_AVAILABLE, "this client cannot be called")
        id = next(self._numbers)
        event = Call(id=id, method=method, data=payload_of(member._codec, data))
        message = member._codec.encode(Reply(push=Push.of(event)))
        waiting = self._waiting[id] = _Waiting()
        try:
            await member.connection.send(message)
            await waiting.event.wait()
        finally:
            del self._waiting[id]
        answer = waiting.answer
        if answer is None:
            raise member.connection.link.error()
        if answer.error is not None:
            raise Refused(answer.error.code, answer.error.message, answer.error.temporary)
        try:
            return value_of(member._codec, answer.data)
        except Refuse as exc:
            raise Refused(exc.code, exc.message) from exc

    def answered(self, answer: AnswerRequest) -> None:
        """The member has answered; nothing if nobody waits for that."""
        waiting = self._waiting.get(answer.id)
        if waiting is not None and waiting.answer is None:
            waiting.answer = answer
            waiting.event.set()

    def end(self) -> None:
        """No answer comes any more."""
        for waiting in self._waiting.values():
            waiting.event.set()
