"""WebSockets for Trio programs: a broadcast server, and a client that outlives connections."""

# With these `typing.get_type_hints` understands what the public classes say of their attributes.
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping  # noqa: F401
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any, Literal  # noqa: F401

from ._client import (
    Client,
    ClientStatistics,
    Connections,
    Dial,
    Event,
    Full,
    HeaderArgument,
    HeadersArgument,
    Lost,
    Messages,
    OnOpen,
    Opened,
    SubprotocolsArgument,
    Undelivered,
    UrlArgument,
    Waiting,
    is_worth_retry,
    open_client,
    open_connection,
    open_connections,
)
from ._close_codes import CloseCode
from ._connection import Connection
from ._errors import (
    BrokerFull,
    ClosedByPeer,
    ClosedLocally,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    Gap,
    GaveUp,
    HandshakeFailed,
    HandshakeRejected,
    HubFull,
    Lagged,
    NotReceiving,
    OpenFailed,
    OutboxFull,
    ProxyRefused,
    Refused,
    StoreError,
    TriowebError,
    Unpublished,
    Unsent,
    Unsubscribed,
)
from ._link import ConnectionStatistics, State
from ._metrics import metrics
from ._observer import Observer
from ._policy import Deflate, Heartbeat, Limits, Message, Outbox, Retain, Retry
from ._protocol._http import (
    Address,
    Headers,
    Request,
    Response,
    Streamed,  # noqa: F401 - as those above
)
from ._public import show_in as _show_in
from ._refusals import Dismiss, Refuse, Reject, TryAgain
from ._server import (
    Accept,
    Admit,
    Handler,
    Http,
    Server,
    ServerStatistics,
    event_stream,
    serve,
    serve_listeners,
)
from ._topics import (
    Broker,
    BrokerPolicy,
    BrokerStatistics,
    Encode,
    Hub,
    HubStatistics,
    Kind,
    Position,
    PresenceChange,
    PresenceChanges,
    PresenceCount,
    Publication,
    Publications,
    PublishDetails,
    Publisher,
    Receipt,
    Recovery,
    Since,
    Slow,
    StoreStatistics,
    Subscriber,
    Subscription,
    Topic,
    open_hub,
)

if _TYPE_CHECKING:
    from ._topic_client import ClientCall as ClientCall
    from ._topic_client import Joined as Joined
    from ._topic_client import Left as Left
    from ._topic_client import MemberInfo as MemberInfo
    from ._topic_client import PresenceStatistics as PresenceStatistics
    from ._topic_client import ServerMessages as ServerMessages
    from ._topic_client import ServerSubscriptions as ServerSubscriptions
    from ._topic_client import Subscribed as Subscribed
    from ._topic_client import TokenArgument as TokenArgument
    from ._topic_client import TopicClient as TopicClient
    from ._topic_client import TopicHistory as TopicHistory
    from ._topic_client import TopicPublication as TopicPublication
    from ._topic_client import TopicSubscription as TopicSubscription
    from ._topic_client import open_topic_client as open_topic_client
    from ._topic_server import Callback as Callback
    from ._topic_server import ConnectRequest as ConnectRequest
    from ._topic_server import Granted as Granted
    from ._topic_server import Member as Member
    from ._topic_server import MemberLimits as MemberLimits
    from ._topic_server import Recover as Recover
    from ._topic_server import SubscribeRequest as SubscribeRequest
    from ._topic_server import Tokens as Tokens
    from ._topic_server import TopicRules as TopicRules
    from ._topic_server import Topics as Topics
    from ._topic_server import TopicServer as TopicServer
    from ._topic_server import TopicServerStatistics as TopicServerStatistics
    from ._topic_server import Welcome as Welcome
    from ._topic_server import open_topic_server as open_topic_server

__all__ = [
    "Accept",
    "Address",
    "Admit",
    "Broker",
    "BrokerFull",
    "BrokerPolicy",
    "BrokerStatistics",
    "Client",
    "ClientStatistics",
    "CloseCode",
    "ClosedByPeer",
    "ClosedLocally",
    "ConnectFailed",
    "Connection",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectionStatistics",
    "Connections",
    "Deflate",
    "Dial",
    "Dismiss",
    "Encode",
    "Event",
    "Full",
    "Gap",
    "GaveUp",
    "Handler",
    "HandshakeFailed",
    "HandshakeRejected",
    "HeaderArgument",
    "Headers",
    "HeadersArgument",
    "Heartbeat",
    "Http",
    "Hub",
    "HubFull",
    "HubStatistics",
    "Kind",
    "Lagged",
    "Limits",
    "Lost",
    "Message",
    "Messages",
    "NotReceiving",
    "Observer",
    "OnOpen",
    "OpenFailed",
    "Opened",
    "Outbox",
    "OutboxFull",
    "Position",
    "PresenceChange",
    "PresenceChanges",
    "PresenceCount",
    "ProxyRefused",
    "Publication",
    "Publications",
    "PublishDetails",
    "Publisher",
    "Receipt",
    "Recovery",
    "Refuse",
    "Refused",
    "Reject",
    "Request",
    "Response",
    "Retain",
    "Retry",
    "Server",
    "ServerStatistics",
    "Since",
    "Slow",
    "State",
    "StoreError",
    "StoreStatistics",
    "SubprotocolsArgument",
    "Subscriber",
    "Subscription",
    "Topic",
    "TriowebError",
    "TryAgain",
    "Undelivered",
    "Unpublished",
    "Unsent",
    "Unsubscribed",
    "UrlArgument",
    "Waiting",
    "event_stream",
    "is_worth_retry",
    "metrics",
    "open_client",
    "open_connection",
    "open_connections",
    "open_hub",
    "serve",
    "serve_listeners",
]

# They need msgspec, which is an extra; so they are not in `__all__`, and are imported when they are
# first asked for.
_OF_TOPIC_CLIENT = frozenset(
    {
        "ClientCall",
        "Joined",
        "Left",
        "MemberInfo",
        "PresenceStatistics",
        "ServerMessages",
        "ServerSubscriptions",
        "Subscribed",
        "TokenArgument",
        "TopicClient",
        "TopicHistory",
        "TopicPublication",
        "TopicSubscription",
        "open_topic_client",
    }
)
_OF_TOPIC_SERVER = frozenset(
    {
        "Callback",
        "ConnectRequest",
        "Granted",
        "Member",
        "MemberLimits",
        "Recover",
        "SubscribeRequest",
        "TopicRules",
        "TopicServer",
        "TopicServerStatistics",
        "Topics",
        "Tokens",
        "Welcome",
        "open_topic_server",
    }
)


# Tracebacks and `help` name what is public by where users find it.
_show_in(__name__, map(globals().get, __all__))


def __getattr__(name: str) -> object:
    if name in _OF_TOPIC_SERVER:
        from . import _topic_server as module
    elif name in _OF_TOPIC_CLIENT:
        from . import _topic_client as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    late = {name: getattr(module, name)}
    # With others, as what one says of its attributes may be another.
    for each in (_OF_TOPIC_SERVER | _OF_TOPIC_CLIENT) & vars(module).keys():
        late[each] = vars(module)[each]
    _show_in(__name__, late.values())
    globals().update(late)
    return late[name]


def __dir__() -> list[str]:
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *__all__, *_OF_TOPIC_SERVER, *_OF_TOPIC_CLIENT})
