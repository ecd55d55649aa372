"""WebSockets for Trio programs: a broadcast server, and a client that outlives connections."""

from ._client import open_connection
from ._connection import Connection
from ._errors import (
    CloseCode,
    ClosedByPeer,
    ClosedLocally,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    HandshakeFailed,
    HandshakeRejected,
    HubFull,
    Lagged,
    OpenFailed,
    Reject,
    TriowebError,
)
from ._http import Headers, Request, Response
from ._link import LinkStatistics as ConnectionStatistics
from ._link import State
from ._policy import Heartbeat, Limits, Retain
from ._server import Accept, Server, ServerStatistics, serve, serve_listeners
from ._topics import (
    Hub,
    HubStatistics,
    Publication,
    Publications,
    Subscription,
    Topic,
    open_hub,
)

__all__ = [
    "Accept",
    "CloseCode",
    "ClosedByPeer",
    "ClosedLocally",
    "ConnectFailed",
    "Connection",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectionStatistics",
    "HandshakeFailed",
    "HandshakeRejected",
    "Headers",
    "Heartbeat",
    "Hub",
    "HubFull",
    "HubStatistics",
    "Lagged",
    "Limits",
    "OpenFailed",
    "Publication",
    "Publications",
    "Reject",
    "Request",
    "Response",
    "Retain",
    "Server",
    "ServerStatistics",
    "State",
    "Subscription",
    "Topic",
    "TriowebError",
    "open_connection",
    "open_hub",
    "serve",
    "serve_listeners",
]
