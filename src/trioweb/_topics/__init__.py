"""Topics: a log each, a cursor for each subscriber, and one task that writes."""

from ._broker import Receipt
from ._details import Kind, Publisher
from ._engine_link import Broker, BrokerPolicy, BrokerStatistics
from ._hub import Hub, HubStatistics, open_hub
from ._log import Publication
from ._position import Position, Recovery, Since
from ._presence import PresenceChange, PresenceCount
from ._presence_changes import PresenceChanges
from ._publishing import PublishDetails
from ._reader import Publications
from ._shape import Encode
from ._sink import Subscriber
from ._store._statistics import StoreStatistics
from ._subscription import Slow, Subscription
from ._topic import Topic

__all__ = [
    "Broker",
    "BrokerPolicy",
    "BrokerStatistics",
    "Encode",
    "Hub",
    "HubStatistics",
    "Kind",
    "Position",
    "PresenceChange",
    "PresenceChanges",
    "PresenceCount",
    "Publication",
    "Publications",
    "PublishDetails",
    "Publisher",
    "Receipt",
    "Recovery",
    "Since",
    "Slow",
    "StoreStatistics",
    "Subscriber",
    "Subscription",
    "Topic",
    "open_hub",
]
