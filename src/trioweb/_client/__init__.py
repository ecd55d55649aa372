"""The client side: one connection, and the client that outlives connections."""

from ._client import Client, ClientStatistics, open_client
from ._open import Dial, open_connection
from ._outbox import Undelivered
from ._streams import Lost, Messages, Opened
from ._worth import is_worth_retry

__all__ = [
    "Client",
    "ClientStatistics",
    "Dial",
    "Lost",
    "Messages",
    "Opened",
    "Undelivered",
    "is_worth_retry",
    "open_client",
    "open_connection",
]
