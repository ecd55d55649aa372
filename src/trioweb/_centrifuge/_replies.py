"""What a server sends: a reply with one result or an error, or a push with one event."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Final, Self, TypeAlias, cast

from msgspec import UNSET

from . import _schema as schema
from ._table import Int64, Message, Payload, Positioned, UInt32, UInt64, fields_of, first

Result: TypeAlias = (
    schema.ConnectResult
    | schema.SubscribeResult
    | schema.UnsubscribeResult
    | schema.PublishResult
    | schema.PresenceResult
    | schema.PresenceStatsResult
    | schema.HistoryResult
    | schema.PingResult
    | schema.RPCResult
    | schema.RefreshResult
    | schema.SubRefreshResult
)


class Join(Message, frozen=True):
    info: Annotated[schema.ClientInfo | None, 1] = None


class Leave(Message, frozen=True):
    info: Annotated[schema.ClientInfo | None, 1] = None


class Unsubscribe(Message, frozen=True):
    code: Annotated[UInt32, 2] = 0
    reason: Annotated[str, 3] = ""


class Subscribe(Positioned, frozen=True):
    recoverable: Annotated[bool, 1] = False
    epoch: Annotated[str, 4] = ""
    offset: Annotated[UInt64, 5] = 0
    positioned: Annotated[bool, 6] = False
    data: Annotated[Payload, 7] = UNSET


class ServerMessage(Message, frozen=True):
    data: Annotated[Payload, 1] = UNSET


class Connect(Message, frozen=True):
    """What one-way transports get instead of a `ConnectResult`, with numbers of its own."""

    client: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    data: Annotated[Payload, 3] = UNSET
    subs: Annotated[dict[str, schema.SubscribeResult], 4] = {}
    expires: Annotated[bool, 5] = False
    ttl: Annotated[UInt32, 6] = 0
    ping: Annotated[UInt32, 7] = 0
    pong: Annotated[bool, 8] = False
    session: Annotated[str, 9] = ""
    node: Annotated[str, 10] = ""
    time: Annotated[Int64, 11] = 0


class Disconnect(Message, frozen=True):
    code: Annotated[UInt32, 1] = 0
    reason: Annotated[str, 2] = ""
    reconnect: Annotated[bool, 3] = False


class Refresh(Message, frozen=True):
    expires: Annotated[bool, 1] = False
    ttl: Annotated[UInt32, 2] = 0


class Call(Message, frozen=True):
    """The server's own call, which is answered with an `AnswerRequest`."""

    id: Annotated[UInt32, 1] = 0
    method: Annotated[str, 2] = ""
    data: Annotated[Payload, 3] = UNSET


Event: TypeAlias = (
    schema.Publication
    | Join
    | Leave
    | Unsubscribe
    | ServerMessage
    | Subscribe
    | Connect
    | Disconnect
    | Refresh
    | Call
)


class Push(Message, frozen=True):
    """What a server says of its own accord."""

    id: Annotated[Int64, 1] = 0
    topic: Annotated[str, 2] = ""
    pub: Annotated[schema.Publication | None, 4] = None
    join: Annotated[Join | None, 5] = None
    leave: Annotated[Leave | None, 6] = None
    unsubscribe: Annotated[Unsubscribe | None, 7] = None
    message: Annotated[ServerMessage | None, 8] = None
    subscribe: Annotated[Subscribe | None, 9] = None
    connect: Annotated[Connect | None, 10] = None
    disconnect: Annotated[Disconnect | None, 11] = None
    refresh: Annotated[Refresh | None, 12] = None
    call: Annotated[Call | None, 1000] = None

    @classmethod
    def of(cls, event: Event, topic: str = "") -> Self:
        """The push that says that *event* has happened, to *topic* if it concerns one."""
        given: dict[str, Any] = {_EVENT_OF[type(event)]: event}
        return cls(topic=topic, **given)

    @property
    def event(self) -> Event | None:
        """What has happened; None is something that is not known here."""
        return cast("Event | None", first(_events_of(self)))


class Reply(Message, frozen=True):
    """What a server sends.  Without id and push it is a ping."""

    id: Annotated[UInt32, 1] = 0
    error: Annotated[schema.Error | None, 2] = None
    push: Annotated[Push | None, 4] = None
    connect: Annotated[schema.ConnectResult | None, 5] = None
    subscribe: Annotated[schema.SubscribeResult | None, 6] = None
    unsubscribe: Annotated[schema.UnsubscribeResult | None, 7] = None
    publish: Annotated[schema.PublishResult | None, 8] = None
    presence: Annotated[schema.PresenceResult | None, 9] = None
    presence_stats: Annotated[schema.PresenceStatsResult | None, 10] = None
    history: Annotated[schema.HistoryResult | None, 11] = None
    ping: Annotated[schema.PingResult | None, 12] = None
    rpc: Annotated[schema.RPCResult | None, 13] = None
    refresh: Annotated[schema.RefreshResult | None, 14] = None
    sub_refresh: Annotated[schema.SubRefreshResult | None, 15] = None

    @classmethod
    def of(cls, id: int, result: Result) -> Self:
        """The reply with *result*, which is there even if it is empty: some clients need it."""
        given: dict[str, Any] = {_FIELD_OF[type(result)]: result}
        return cls(id=id, **given)

    @property
    def result(self) -> Result | None:
        """What was asked for; None beside an error."""
        return cast("Result | None", first(_results_of(self)))

    @property
    def is_ping(self) -> bool:
        return self.id == 0 and self.push is None


_RESULTS: Final = [field for field in fields_of(Reply) if field.name not in ("id", "error", "push")]
_FIELD_OF: Final[dict[type[Message], str]] = {field.of: field.name for field in _RESULTS}
_results_of: Final = attrgetter(*_FIELD_OF.values())
_EVENTS: Final = [field for field in fields_of(Push) if field.name not in ("id", "topic")]
_EVENT_OF: Final[dict[type[Message], str]] = {field.of: field.name for field in _EVENTS}
_events_of: Final = attrgetter(*_EVENT_OF.values())
