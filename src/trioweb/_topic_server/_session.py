"""What a peer asks for, one command after the other, and the replies.

Replies to what came in one message leave in one, or in a few if they are many.  A subscription is
decided when its reply is written, and not before, so that the two agree; whatever else is asked for
lets it begin first.

NOTE: Before anything is written there is room for it, so a peer that does not read is not read
from either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._centrifuge._commands import Command
from .._centrifuge._replies import Reply, Result
from .._centrifuge._schema import (
    AnswerRequest,
    CancelRequest,
    ConnectRequest,
    RPCRequest,
    SendRequest,
    SubscribeRequest,
)
from .._effort import A_TURN, EFFORT
from .._error_groups import single_cause
from .._errors import BadMessage, ClosedLocally
from .._policy import Message
from .._refusals import Dismiss, Refuse
from ._admission import admit, begin, prepare_subscription
from ._answers import error_reply, failure_of
from ._calls import Calls
from ._data import value_of
from ._requests import ANSWERS

if TYPE_CHECKING:
    from ._member import Member

# What a command costs is between 10 and 50 µs: after so many, others get their turn.
_COMMANDS_PER_CHECKPOINT: Final = 16
# Replies are written when they have come to so much, and at the end of the message.
_FLUSH_BYTES: Final = 16 * 2**10
# Or so many: to begin a subscription takes some 25 µs, and a message may ask for 128.
_FLUSH_REPLIES: Final = 32


class Session:
    """What a member's peer asks for."""

    __slots__ = (
        "_codec",
        "_commands",
        "_is_deciding",
        "_is_refused",
        "_member",
        "_pending",
        "_size",
    )

    def __init__(self, member: Member) -> None:
        self._member = member
        self._codec = member._codec
        # Replies, and what makes one when it is written.
        self._pending: list[Message | Callable[[], Reply]] = []
        self._size = 0
        # Whether some of these decide where a subscription begins.
        self._is_deciding = False
        # Whether the peer was refused with what it has sent just now.
        self._is_refused = False
        self._commands = 0

    async def take(self, message: Message) -> None:
        """Do what is asked for in *message*."""
        member = self._member
        if member._is_over and isinstance(member.connection.link.error(), ClosedLocally):
            return
        self._is_refused = False
        try:
            for command in self._codec.decode_commands(message):
                await self._do(command)
                if self._is_refused:
                    break  # what came behind it is void
                if len(self._pending) >= _FLUSH_REPLIES:
                    await self._flush()
                self._commands += 1
                if self._commands % _COMMANDS_PER_CHECKPOINT == 0 or EFFORT.spent >= A_TURN:
                    await trio.lowlevel.checkpoint()
                    EFFORT.spent = 0
            await self._flush()
        except BadMessage:
            await self._end(DisconnectCode.BAD_REQUEST)

    async def _do(self, command: Command) -> None:
        """Do what one *command* asks for.

        Raises:
            BadMessage: it asks for something that cannot be, now or ever.
        """
        member, request = self._member, command.request
        is_connecting = isinstance(request, ConnectRequest)
        if self._is_deciding and not isinstance(request, SubscribeRequest):
            await self._flush()
            if self._is_refused:
                return
        if not (member._is_welcome or self._is_deciding or is_connecting):
            raise BadMessage("the first command must be connect")
        if request is None:
            return  # a pong
        try:
            if member._calls is not None and command.id in member._calls:
                raise Refuse(ErrorCode.BAD_REQUEST, "a call with this id is at work")
            result = await self._result(command.id, request)
        except BadMessage:
            raise
        except Exception as exc:
            self._is_refused = is_connecting
            await self._fail(command.id, exc)
        else:
            if result is not None:
                await self._reply(Reply.of(command.id, result))

    async def _result(self, id: int, request: Any) -> Result | None:
        """What *request* is answered with at once; None: nothing, or not yet."""
        member = self._member
        match request:
            case ConnectRequest():
                if member._is_welcome:
                    raise BadMessage("connected already")
                welcome = await admit(member, request)
                self._decide(id, lambda: begin(member, request, welcome))
            case SubscribeRequest():
                seat = await prepare_subscription(member, request)
                self._decide(id, lambda: seat.take_if_wanted(member, request))
            case RPCRequest():
                calls = member._calls
                if calls is None:
                    calls = member._calls = Calls(member)
                if not calls.has_place:
                    await self._flush()
                    await calls.wait_place()
                calls.start(id, request)
            case SendRequest():
                await self._receive(request)
            case CancelRequest():
                if member._calls is not None:
                    member._calls.cancel(request.id)
            case AnswerRequest():
                if member._outcalls is not None:
                    member._outcalls.answered(request)
            case _:
                answer = ANSWERS.get(type(request))
                if answer is None:
                    raise BadMessage("a command that is not known")
                return await answer(member, request)
        return None

    async def _receive(self, request: SendRequest) -> None:
        member = self._member
        on_message = member._server.callbacks.on_message
        if on_message is None:
            await self._end(DisconnectCode.NOT_AVAILABLE)
        data = value_of(self._codec, request.data)
        await member._ask("on_message(member, data)", on_message, member, data)

    async def _fail(self, id: int, error: Exception) -> None:
        """Tell the peer that what it asked for has failed."""
        if isinstance(single_cause(error), Dismiss):
            await self._flush()
        failure = failure_of(error, self._member)
        if failure is None:
            raise self._member.connection.link.error() from None
        if id:
            await self._reply(error_reply(id, failure))

    # Writing.

    def _decide(self, id: int, make: Callable[[], Result]) -> None:
        """Have *make* called when the reply to the command *id* is written."""

        def decide() -> Reply:
            try:
                return Reply.of(id, make())
            except Exception as exc:
                self._is_refused = not self._member._is_welcome
                failure = failure_of(exc, self._member)
                if failure is None:
                    raise self._member.connection.link.error() from None
                return error_reply(id, failure)

        self._pending.append(decide)
        self._is_deciding = True

    async def _reply(self, reply: Reply) -> None:
        part = self._codec.encode(reply)
        self._pending.append(part)
        self._size += len(part)
        if self._size >= _FLUSH_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        """Write the replies, and let what they say come true."""
        member = self._member
        link = member.connection.link
        if self._pending:
            await link.queue.wait_room()
        # NOTE: no await from here on.
        pending, self._pending = self._pending, []
        self._size, self._is_deciding = 0, False
        if not pending or member._is_over:
            return
        link.check_writable()
        parts = [
            part if isinstance(part, str | bytes) else self._codec.encode(part())
            for part in pending
        ]
        member._write(self._codec.join(parts))

    async def _end(self, code: DisconnectCode) -> NoReturn:
        """Close the connection behind the replies."""
        await self._flush()
        self._member._end(code)
        raise self._member.connection.link.error()
