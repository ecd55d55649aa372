"""The topic server: topics of a hub for clients of the Centrifuge protocol."""

from ._member import Member
from ._rules import ConnectRequest, Granted, MemberLimits, SubscribeRequest, TopicRules, Welcome
from ._server import TopicServer, TopicServerStatistics, open_topic_server

__all__ = [
    "ConnectRequest",
    "Granted",
    "Member",
    "MemberLimits",
    "SubscribeRequest",
    "TopicRules",
    "TopicServer",
    "TopicServerStatistics",
    "Welcome",
    "open_topic_server",
]
