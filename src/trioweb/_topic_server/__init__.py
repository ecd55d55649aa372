"""The topic server: topics of a hub for clients of the Centrifuge protocol."""

from typing import TYPE_CHECKING

from ._rules import (
    Callback,
    ConnectRequest,
    Granted,
    MemberLimits,
    Recover,
    SubscribeRequest,
    TopicRules,
    Topics,
    Welcome,
)
from ._tokens import Tokens

if TYPE_CHECKING:
    from ._member import Member
    from ._open import open_topic_server
    from ._server import TopicServer, TopicServerStatistics

__all__ = [
    "Callback",
    "ConnectRequest",
    "Granted",
    "Member",
    "MemberLimits",
    "Recover",
    "SubscribeRequest",
    "Tokens",
    "TopicRules",
    "TopicServer",
    "TopicServerStatistics",
    "Topics",
    "Welcome",
    "open_topic_server",
]


# The rules and tokens can be had without msgspec, which is an extra.
def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _open, _server

    return getattr(_open if name == "open_topic_server" else _server, name)
