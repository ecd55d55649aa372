"""The client side: one connection, and the client that outlives connections."""

from ._client import Client, ClientStatistics
from ._events import Event, Lost, Opened, Undelivered, Waiting
from ._many import Connections, open_connections
from ._open import HeaderArgument, open_connection
from ._open_client import open_client
from ._opener import Dial
from ._streams import Full, Messages
from ._supervisor import HeadersArgument, OnOpen, SubprotocolsArgument, UrlArgument
from ._worth import is_worth_retry

__all__ = [
    "Client",
    "ClientStatistics",
    "Connections",
    "Dial",
    "Event",
    "Full",
    "HeaderArgument",
    "HeadersArgument",
    "Lost",
    "Messages",
    "OnOpen",
    "Opened",
    "SubprotocolsArgument",
    "Undelivered",
    "UrlArgument",
    "Waiting",
    "is_worth_retry",
    "open_client",
    "open_connection",
    "open_connections",
]
