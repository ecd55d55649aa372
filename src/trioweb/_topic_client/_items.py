"""What a topic client gives its program: publications, and what stands among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from .._centrifuge import Codec
from .._centrifuge import _schema as wire
from .._centrifuge._table import Payload
from .._dataclass import dataclass
from .._errors import Gap, Unsubscribed
from .._topics import Position

_decoder: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """What a server tells of a client to others.

    Attributes:
        user: who it is; "" for nobody that the server knows.
        client: which of that user's connections.
        info, topic_info: what is known of it, and of it in this topic; None for nothing.
    """

    user: str
    client: str
    info: Any = None
    topic_info: Any = None


@dataclass(frozen=True, slots=True)
class TopicPublication:
    """A publication, as a topic client received it.

    Attributes:
        offset: its place in its topic, from 1 on; 0 in a topic without positions.
        data: what JSON said, or bytes for what is no JSON.
        tags: as its publisher gave them.
        publisher: the client that published it; None for the server itself.
    """

    offset: int
    data: Any
    tags: Mapping[str, str]
    publisher: MemberInfo | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription began, or began again; what follows was received in it.

    Attributes:
        recovered: whether nothing can be missing in front of this.
        position: behind which it begins; None in a topic without positions.
        data: what the server says along with it.
    """

    recovered: bool
    position: Position | None
    data: Any


@dataclass(frozen=True, slots=True)
class Joined:
    """A client has subscribed to the topic.  Told at most once."""

    member: MemberInfo


@dataclass(frozen=True, slots=True)
class Left:
    """A client is no longer subscribed to the topic.  Told at most once."""

    member: MemberInfo


Item: TypeAlias = TopicPublication | Gap | Subscribed | Joined | Left
# Of a topic that the server subscribes to: its end is one event among those of others.
ServerItem: TypeAlias = Item | Unsubscribed


@dataclass(frozen=True, slots=True)
class TopicHistory:
    """A part of what a topic retains.

    Attributes:
        publications: in the order asked for.
        position: of the newest publication of the topic.
    """

    publications: list[TopicPublication]
    position: Position


@dataclass(frozen=True, slots=True)
class PresenceStatistics:
    """How many clients, of how many users, are subscribed to a topic."""

    clients: int
    users: int


def value_of(codec: Codec, payload: Payload) -> Any:
    """What the server has sent as *payload*: None for nothing, bytes for what is no JSON.

    So are numbers and depths of JSON that Python does not read: one payload must not end what
    it came in.
    """
    if not isinstance(payload, msgspec.Raw):
        return None
    data, is_json = codec.message(payload)
    if not is_json:
        return data
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return data


def publication_of(codec: Codec, publication: wire.Publication) -> TopicPublication:
    return TopicPublication(
        publication.offset,
        value_of(codec, publication.data),
        publication.tags,
        None if publication.info is None else member_of(codec, publication.info),
    )


def member_of(codec: Codec, info: wire.ClientInfo) -> MemberInfo:
    return MemberInfo(
        info.user, info.client, value_of(codec, info.conn_info), value_of(codec, info.chan_info)
    )
