"""A topic as its members see it: how its publications look to them, and who they are.

There is a room for a topic while it has members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from .._centrifuge import Codec
from .._centrifuge._codes import DisconnectCode
from .._centrifuge._replies import Join, Leave, Push, Reply
from .._centrifuge._schema import Publication as WirePublication
from .._policy import Message
from .._topics import Encode, Position, Publication, Slow, Subscription, Topic
from ._data import info_of, publication_info, publication_payload
from ._presence import JOINED

if TYPE_CHECKING:
    from ._member import Member

# What a member is told that does not keep up; it comes back, and recovers.
SLOW: Final = (int(DisconnectCode.SLOW), DisconnectCode.SLOW.reason)


def wire_publication(codec: Codec, publication: Publication) -> WirePublication:
    """*publication* as a member with this encoding gets it."""
    tags = publication.tags
    return WirePublication(
        data=publication_payload(codec, publication),
        info=publication_info(codec, publication.publisher),
        offset=publication.offset,
        tags=dict(tags) if tags else {},
        x_bytes=publication.kind == "bytes" and isinstance(codec.PING, str),
    )


class Room:
    """The members of one topic.

    Attributes:
        topic: theirs.
        size: how many they are.
    """

    __slots__ = ("_change_encoders", "_encoders", "size", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.size = 0
        # One function for each encoding, since a topic encodes once for all who share one.
        self._encoders: dict[Codec, Encode] = {}
        self._change_encoders: dict[Codec, Encode] = {}

    def subscribe(self, member: Member, position: Position, slow: Slow | None) -> Subscription:
        """Have *member* written to what comes behind *position*, from the next checkpoint on.

        Args:
            slow: as for `Topic.subscribe`.

        Raises:
            HubFull, ConnectionClosed: as `Topic.subscribe`.
        """
        codec = member._codec
        encode = self._encoders.get(codec)
        if encode is None:
            encode = self._encoders[codec] = _publication_encoder(codec, self.topic.name)
        subscription = self.topic.subscribe(
            member.connection, since=position, encode=encode, slow=slow, evict=SLOW
        )
        subscription._holder = member
        return subscription

    def listen(self, member: Member, changes: Topic) -> Subscription:
        """Have *member* told who comes and goes.  Raises: as `subscribe`."""
        codec = member._codec
        encode = self._change_encoders.get(codec)
        if encode is None:
            encode = self._change_encoders[codec] = _change_encoder(codec, self.topic.name)
        # What one has done oneself need not be told.
        return changes.subscribe(member.connection, encode=encode, peer=member.client)


def _publication_encoder(codec: Codec, name: str) -> Callable[[Publication], Message]:
    push = codec.pushes(name)

    def encode(publication: Publication) -> Message:
        return push(wire_publication(codec, publication))

    return encode


def _change_encoder(codec: Codec, name: str) -> Callable[[Publication], Message]:
    def encode(change: Publication) -> Message:
        data = change.message
        assert isinstance(data, bytes)
        kind = Join if data.startswith(JOINED) else Leave
        return codec.encode(Reply(push=Push.of(kind(info=info_of(codec, data[1:])), name)))

    return encode


def encoded_size(publication: WirePublication) -> int:
    """Bytes of the payload of *publication*, which are nearly all of it."""
    data = publication.data
    return len(data) if isinstance(data, msgspec.Raw) else 0
