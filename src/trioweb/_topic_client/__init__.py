"""A client of the Centrifuge protocol that outlives its connections, as its subscriptions do."""

from ._client import TopicClient
from ._items import (
    Joined,
    Left,
    MemberInfo,
    PresenceStatistics,
    Subscribed,
    TopicHistory,
    TopicPublication,
)
from ._messages import ServerMessages
from ._open import open_topic_client
from ._subscription import TopicSubscription

__all__ = [
    "Joined",
    "Left",
    "MemberInfo",
    "PresenceStatistics",
    "ServerMessages",
    "Subscribed",
    "TopicClient",
    "TopicHistory",
    "TopicPublication",
    "TopicSubscription",
    "open_topic_client",
]
