"""Who is where: what members are told of that, and of who comes and goes.

Members are in the presence of their hub, as whoever calls `Topic.enter`, so that a broker has all
of them.  What comes and goes is published in topics of a private hub, one for each topic that some
member listens to, so that it is encoded once and written by a pump.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from .._centrifuge import Codec
from .._centrifuge._schema import ClientInfo
from .._policy import Retain
from .._topics import Hub, Topic
from .._topics._presence import Member, Presence
from ._data import info_of, plain_info

_logger = logging.getLogger("trioweb")

# What somebody who is written to slowly may miss; nobody is promised to be told all.
_RETAINED: Final = Retain(max_messages=256)
JOINED: Final = b"+"
LEFT: Final = b"-"


def client_info(codec: Codec, key: str, member: Member) -> ClientInfo:
    """What a peer is told of *member*, whom a program may have entered."""
    try:
        return info_of(codec, member.info)
    except msgspec.DecodeError:
        return info_of(codec, plain_info(member.user, key))


class _Listened:
    """A topic to whose changes members listen; follows them, see `Follower`."""

    __slots__ = ("_announcer", "name", "topic")

    def __init__(self, announcer: Announcer, name: str, topic: Topic) -> None:
        self.name = name
        self.topic = topic
        self._announcer = announcer

    def changed(self, key: str, old: Member | None, new: Member | None) -> None:
        member = new or old
        if member is None or (old is not None and new is not None):
            return  # what is known of somebody is different, which the protocol cannot tell
        if self._announcer.is_told(self.name, has_left=new is None):
            try:
                msgspec.json.decode(member.info, type=ClientInfo)
                info = member.info
            except msgspec.DecodeError:
                info = plain_info(member.user, key)
            self.topic.publish((LEFT if new is None else JOINED) + info, skip=key)

    def ended(self, error: Exception | None) -> None:
        if error is not None:
            _logger.warning("nobody is told who comes to %r and who leaves: %s", self.name, error)


class Announcer:
    """Tells members of one server who comes to a topic, and who leaves it.

    Args:
        presence: of the server's hub.
        hub: for the changes; nothing else is in it.
        max_announced: members of a topic up to which it is told.

    Attributes:
        unannounced: how many have come or gone without those who listened being told.
    """

    def __init__(self, presence: Presence, hub: Hub, max_announced: int) -> None:
        self.unannounced = 0
        self.listened: dict[str, _Listened] = {}
        self._presence = presence
        self._hub = hub
        self._max_announced = max_announced

    def changes(self, name: str) -> Topic:
        """Who comes to the topic *name* and who leaves it: JOINED or LEFT and the info, from now
        on, at most once each.  Until `rest` it is one topic."""
        listened = self.listened.get(name)
        if listened is None:
            topic = self._hub.topic(name, retain=_RETAINED, slow="skip")
            listened = self.listened[name] = _Listened(self, name, topic)
            self._presence.follow(name, listened)
        return listened.topic

    def rest(self, name: str) -> None:
        """Somebody listens no more to the changes of *name*."""
        listened = self.listened.get(name)
        if listened is not None and not listened.topic.subscribers:
            del self.listened[name]
            self._presence.unfollow(name, listened)

    def is_told(self, name: str, *, has_left: bool) -> bool:
        """Whether those who listen are told of somebody who has come or has left."""
        if self._presence.size(name) + has_left <= self._max_announced:
            return True
        self.unannounced += 1
        return False
