"""Topics: a log each, a cursor for each subscriber, and one task that writes."""

from ._feed import Encode, Slow, Subscription
from ._hub import Hub, HubStatistics, open_hub
from ._log import Publication
from ._topic import Publications, Topic

__all__ = [
    "Encode",
    "Hub",
    "HubStatistics",
    "Publication",
    "Publications",
    "Slow",
    "Subscription",
    "Topic",
    "open_hub",
]
