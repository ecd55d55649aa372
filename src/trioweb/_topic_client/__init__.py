"""A client of the Centrifuge protocol that outlives its connections, as its subscriptions do."""

from .._centrifuge import Codec as _needed  # noqa: F401 - it says what to install, if it cannot be
from ._calls import ClientCall
from ._client import TopicClient
from ._granted_stream import ServerSubscriptions
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
from ._token import TokenArgument

__all__ = [
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
]
