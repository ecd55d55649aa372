"""What a client sends: a command, which has one request.

`check` keeps the rules that need no more than the command itself.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Final, Self, TypeAlias, cast

from .._errors import BadMessage
from . import _schema as schema
from ._table import Message, UInt32, fields_of, first

Request: TypeAlias = (
    schema.ConnectRequest
    | schema.SubscribeRequest
    | schema.UnsubscribeRequest
    | schema.PublishRequest
    | schema.PresenceRequest
    | schema.PresenceStatsRequest
    | schema.HistoryRequest
    | schema.PingRequest
    | schema.SendRequest
    | schema.RPCRequest
    | schema.RefreshRequest
    | schema.SubRefreshRequest
    | schema.CancelRequest
    | schema.AnswerRequest
)


class Command(Message, frozen=True):
    """What a client sends.  Without any field it is a pong."""

    id: Annotated[UInt32, 1] = 0
    connect: Annotated[schema.ConnectRequest | None, 4] = None
    subscribe: Annotated[schema.SubscribeRequest | None, 5] = None
    unsubscribe: Annotated[schema.UnsubscribeRequest | None, 6] = None
    publish: Annotated[schema.PublishRequest | None, 7] = None
    presence: Annotated[schema.PresenceRequest | None, 8] = None
    presence_stats: Annotated[schema.PresenceStatsRequest | None, 9] = None
    history: Annotated[schema.HistoryRequest | None, 10] = None
    ping: Annotated[schema.PingRequest | None, 11] = None
    send: Annotated[schema.SendRequest | None, 12] = None
    rpc: Annotated[schema.RPCRequest | None, 13] = None
    refresh: Annotated[schema.RefreshRequest | None, 14] = None
    sub_refresh: Annotated[schema.SubRefreshRequest | None, 15] = None
    x_cancel: Annotated[schema.CancelRequest | None, 1000] = None
    x_answer: Annotated[schema.AnswerRequest | None, 1001] = None

    @classmethod
    def of(cls, id: int, request: Request) -> Self:
        """The command that asks for *request*."""
        given: dict[str, Any] = {_FIELD_OF[type(request)]: request}
        return cls(id=id, **given)

    @property
    def request(self) -> Request | None:
        """What is asked for; of several the first, as the reference server has it."""
        return cast("Request | None", first(_requests_of(self)))


_REQUESTS: Final = [field for field in fields_of(Command) if field.name != "id"]
_FIELD_OF: Final[dict[type[Message], str]] = {field.of: field.name for field in _REQUESTS}
_requests_of: Final = attrgetter(*_FIELD_OF.values())
_UNANSWERED: Final = (schema.SendRequest, schema.CancelRequest, schema.AnswerRequest)
_WITH_TOPIC: Final = (
    schema.SubscribeRequest,
    schema.UnsubscribeRequest,
    schema.PublishRequest,
    schema.PresenceRequest,
    schema.PresenceStatsRequest,
    schema.HistoryRequest,
    schema.SubRefreshRequest,
)


def check(command: Command) -> bool:
    """Raise BadMessage unless *command* asks for something, with what that needs.

    What has no id is not answered, so only what gets no answer may be without.

    Returns:
        False: it has neither id nor request that is known.  It is a pong if it has nothing else.
    """
    request = command.request
    if request is None:
        if command.id:
            raise BadMessage("a command that is not known")
        return False
    if not command.id and not isinstance(request, _UNANSWERED):
        raise BadMessage("a command without an id")
    if isinstance(request, _WITH_TOPIC) and not request.topic:
        raise BadMessage("a command without a channel")
    return True
