"""Calls of one member's that are at work, each in a task of its own.

Everything else that a peer asks for is done in order, one thing after the other; of calls many may
be at work, so that a slow one delays no other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from .._callbacks import awaitable
from .._centrifuge._codes import ErrorCode
from .._centrifuge._replies import Reply
from .._centrifuge._schema import RPCRequest, RPCResult
from .._centrifuge._values import payload_of
from .._refusals import Refuse
from ._answers import error_reply, failure_of
from ._data import value_of

if TYPE_CHECKING:
    from ._member import Member
    from ._rules import Callback


class Calls:
    """The calls of one member."""

    __slots__ = ("_ended", "_member", "_scopes")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._scopes: dict[int, trio.CancelScope] = {}
        # Made when somebody waits for one to end.
        self._ended: trio.Event | None = None

    def __contains__(self, id: int) -> bool:
        return id in self._scopes

    @property
    def has_place(self) -> bool:
        return len(self._scopes) < self._member._server.limits.max_calls

    async def wait_place(self) -> None:
        """Wait until another call may be at work."""
        while not self.has_place:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()

    def start(self, id: int, request: RPCRequest) -> None:
        """Begin with a call.

        Raises:
            Refuse: its data cannot be read.
        """
        member = self._member
        function = member._server._calls.get(request.method)
        if function is None:
            raise Refuse(ErrorCode.METHOD_NOT_FOUND)
        data = value_of(member._codec, request.data)
        scope = trio.CancelScope()
        if request.x_timeout and member._is_extended:
            scope.deadline = trio.current_time() + request.x_timeout / 1000
        if member._is_over:
            scope.cancel()
        self._scopes[id] = scope
        member._server._calls_at_work += 1
        member._server._spawn(self._run, id, scope, function, data)

    def cancel(self, id: int) -> None:
        """Nobody waits for the call *id* any more; nothing if it has ended."""
        if id in self._scopes:
            self._scopes[id].deadline = math.inf
            self._scopes[id].cancel()

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.deadline = math.inf
            scope.cancel()

    async def _run(self, id: int, scope: trio.CancelScope, function: Callback, data: Any) -> None:
        member = self._member
        reply: Reply | None = None
        try:
            with scope:
                reply = await self._reply(id, function, data)
            if scope.cancelled_caught and scope.deadline < math.inf:
                reply = error_reply(id, Refuse(ErrorCode.DEADLINE_PASSED))
            if reply is not None:
                await member.connection.send(member._codec.encode(reply))
        except Exception as exc:
            # It is logged unless it is the connection's end; nobody is left who could be told.
            failure_of(exc, member)
        finally:
            del self._scopes[id]
            member._server._calls_at_work -= 1
            if self._ended is not None:
                self._ended.set()
                self._ended = None

    async def _reply(self, id: int, function: Callback, data: Any) -> Reply | None:
        member = self._member
        try:
            result = await awaitable("call(member, data)", function(member, data))
            return Reply.of(id, RPCResult(data=payload_of(member._codec, result)))
        except Exception as exc:
            failure = failure_of(exc, member)
            return None if failure is None else error_reply(id, failure)
