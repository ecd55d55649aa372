"""The server's calls: each in a task of its own, for as long as its connection lasts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import trio

from .._callbacks import awaitable
from .._centrifuge._codes import ErrorCode
from .._centrifuge._commands import Command
from .._centrifuge._replies import Call
from .._centrifuge._schema import AnswerRequest, Error
from .._centrifuge._values import payload_of
from .._error_groups import single_cause
from .._logs import log
from .._refusals import Refuse
from ._items import value_of
from ._line import Line

_logger: Final = logging.getLogger("trioweb.topics")

ClientCall: TypeAlias = Callable[[Any], Awaitable[object]]

# At work at one time: as a server by default has it.
_MAX_CALLS: Final = 64


def begin(nursery: trio.Nursery, line: Line, call: Call, calls: Mapping[str, ClientCall]) -> None:
    """Begin with what the server asks for."""
    if len(line.work) >= _MAX_CALLS:
        line.write(Command.of(0, _refusal(call, Refuse(ErrorCode.TOO_MANY_REQUESTS, "", True))))
        return
    scope = trio.CancelScope()
    line.work.add(scope)
    nursery.start_soon(_run, scope, line, call, calls)


async def _run(
    scope: trio.CancelScope, line: Line, call: Call, calls: Mapping[str, ClientCall]
) -> None:
    """Do it, and say what came of it."""
    try:
        with scope:
            answered = await _answer(line, call, calls)
            await line.connection.send(line.codec.encode(Command.of(0, answered)))
    except Exception as exc:
        if not line.connection.link.is_own_end(exc):
            raise
    finally:
        line.work.discard(scope)


async def _answer(line: Line, call: Call, calls: Mapping[str, ClientCall]) -> AnswerRequest:
    function = calls.get(call.method)
    try:
        if function is None:
            raise Refuse(ErrorCode.METHOD_NOT_FOUND)
        data = value_of(line.codec, call.data)
        result = await awaitable("call(data)", function(data))
        return AnswerRequest(id=call.id, data=payload_of(line.codec, result))
    except Exception as exc:
        refused = single_cause(exc)
        if not isinstance(refused, Refuse):
            text = "error in the call %r of the server's"
            log(_logger, logging.ERROR, line.connection, text, call.method, error=exc)
            refused = Refuse(ErrorCode.INTERNAL, temporary=True)
        return _refusal(call, refused)


def _refusal(call: Call, refused: Refuse) -> AnswerRequest:
    known = next((code.message for code in ErrorCode if code == refused.code), "refused")
    error = Error(refused.code, refused.message or known, refused.temporary)
    return AnswerRequest(id=call.id, error=error)
