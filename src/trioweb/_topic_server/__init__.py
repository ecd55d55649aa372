"""The topic server: topics of a hub for clients of the Centrifuge protocol."""

from ._member import Member
from ._open import open_topic_server
from ._rules import ConnectRequest, Granted, MemberLimits, SubscribeRequest, TopicRules, Welcome
from ._server import TopicServer, TopicServerStatistics
from ._tokens import Tokens

__all__ = [
    "ConnectRequest",
    "Granted",
    "Member",
    "MemberLimits",
    "SubscribeRequest",
    "Tokens",
    "TopicRules",
    "TopicServer",
    "TopicServerStatistics",
    "Welcome",
    "open_topic_server",
]
