"""WebSockets for Trio programs: a broadcast server, and a client that outlives connections."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._client import (
    Client,
    ClientStatistics,
    Connections,
    Dial,
    Event,
    Lost,
    Messages,
    Opened,
    Undelivered,
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
from ._link import LinkStatistics as ConnectionStatistics
from ._link import State
from ._metrics import metrics
from ._observer import Observer
from ._policy import Deflate, Heartbeat, Limits, Outbox, Retain, Retry
from ._protocol._http import Headers, Request, Response
from ._refusals import Dismiss, Refuse, Reject, TryAgain
from ._server import Accept, Server, ServerStatistics, event_stream, serve, serve_listeners
from ._topics import (
    Broker,
    BrokerPolicy,
    BrokerStatistics,
    Hub,
    HubStatistics,
    Position,
    PresenceChange,
    PresenceChanges,
    PresenceCount,
    Publication,
    Publications,
    Publisher,
    Receipt,
    Recovery,
    StoreStatistics,
    Subscription,
    Topic,
    open_hub,
)

if _TYPE_CHECKING:
    from ._topic_client import Joined as Joined
    from ._topic_client import Left as Left
    from ._topic_client import MemberInfo as MemberInfo
    from ._topic_client import PresenceStatistics as PresenceStatistics
    from ._topic_client import ServerMessages as ServerMessages
    from ._topic_client import ServerSubscriptions as ServerSubscriptions
    from ._topic_client import Subscribed as Subscribed
    from ._topic_client import TopicClient as TopicClient
    from ._topic_client import TopicHistory as TopicHistory
    from ._topic_client import TopicPublication as TopicPublication
    from ._topic_client import TopicSubscription as TopicSubscription
    from ._topic_client import open_topic_client as open_topic_client
    from ._topic_server import ConnectRequest as ConnectRequest
    from ._topic_server import Granted as Granted
    from ._topic_server import Member as Member
    from ._topic_server import MemberLimits as MemberLimits
    from ._topic_server import SubscribeRequest as SubscribeRequest
    from ._topic_server import Tokens as Tokens
    from ._topic_server import TopicRules as TopicRules
    from ._topic_server import TopicServer as TopicServer
    from ._topic_server import TopicServerStatistics as TopicServerStatistics
    from ._topic_server import Welcome as Welcome
    from ._topic_server import open_topic_server as open_topic_server

__all__ = [
    "Accept",
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
    "Event",
    "Gap",
    "GaveUp",
    "HandshakeFailed",
    "HandshakeRejected",
    "Headers",
    "Heartbeat",
    "Hub",
    "HubFull",
    "HubStatistics",
    "Lagged",
    "Limits",
    "Lost",
    "Messages",
    "NotReceiving",
    "Observer",
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
    "State",
    "StoreError",
    "StoreStatistics",
    "Subscription",
    "Topic",
    "TriowebError",
    "TryAgain",
    "Undelivered",
    "Unpublished",
    "Unsent",
    "Unsubscribed",
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
        "Joined",
        "Left",
        "MemberInfo",
        "PresenceStatistics",
        "ServerMessages",
        "ServerSubscriptions",
        "Subscribed",
        "TopicClient",
        "TopicHistory",
        "TopicPublication",
        "TopicSubscription",
        "open_topic_client",
    }
)
_OF_TOPIC_SERVER = frozenset(
    {
        "ConnectRequest",
        "Granted",
        "Member",
        "MemberLimits",
        "SubscribeRequest",
        "TopicRules",
        "TopicServer",
        "TopicServerStatistics",
        "Tokens",
        "Welcome",
        "open_topic_server",
    }
)


def __getattr__(name: str) -> object:
    if name in _OF_TOPIC_SERVER:
        from . import _topic_server

        return getattr(_topic_server, name)
    if name in _OF_TOPIC_CLIENT:
        from . import _topic_client

        return getattr(_topic_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_TOPIC_SERVER, *_OF_TOPIC_CLIENT})
