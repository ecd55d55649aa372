"""The protocol's messages: the one table that both encodings follow.

A field is an attribute with its type, its number in Protobuf and its default, which stands for a
field that was left out.  A field's name is its name in JSON, but for the two in `_table`.  What a
message has beyond this table is ignored when it is read, as the protocol asks for: compact channel
names, maps and shared polls are not spoken here.

Our own extensions have numbers from 1000 on and names with "x_" (but for `Push.call`); other
people's programs ignore them.

In JSON four messages are written whole, zeros and all, as the reference server does: their fields
are what the JavaScript client hands to its users without looking.

A payload is JSON text in JSON and any bytes in Protobuf; UNSET, which is false, is none at all.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET

from ._table import FEW, Int32, Int64, Message, Payload, Positioned, UInt32, UInt64


class Error(Message, frozen=True):
    code: Annotated[UInt32, 1] = 0
    message: Annotated[str, 2] = ""
    temporary: Annotated[bool, 3] = False


class ClientInfo(Message, frozen=True, omit_defaults=False):
    user: Annotated[str, 1] = ""
    client: Annotated[str, 2] = ""
    conn_info: Annotated[Payload, 3] = UNSET
    chan_info: Annotated[Payload, 4] = UNSET


class Publication(Positioned, frozen=True):
    data: Annotated[Payload, 4] = UNSET
    info: Annotated[ClientInfo | None, 5] = None
    offset: Annotated[UInt64, 6] = 0
    tags: Annotated[dict[str, str], 7] = {}
    delta: Annotated[bool, 8] = False
    time: Annotated[Int64, 9] = 0
    topic: Annotated[str, 10] = ""
    key: Annotated[str, 11] = ""
    # In JSON: the data is base64 of bytes, and not what somebody has written.
    x_bytes: Annotated[bool, 1000] = False


class StreamPosition(Positioned, frozen=True):
    offset: Annotated[UInt64, 1] = 0
    epoch: Annotated[str, 2] = ""


class FilterNode(Message, frozen=True):
    op: Annotated[str, 1] = ""
    key: Annotated[str, 2] = ""
    cmp: Annotated[str, 3] = ""
    val: Annotated[str, 4] = ""
    vals: Annotated[list[str], FEW, 5] = []
    nodes: Annotated[list[FilterNode], FEW, 6] = []


class SubscribeRequest(Positioned, frozen=True):
    topic: Annotated[str, 1] = ""
    token: Annotated[str, 2] = ""
    recover: Annotated[bool, 3] = False
    epoch: Annotated[str, 6] = ""
    offset: Annotated[UInt64, 7] = 0
    data: Annotated[Payload, 8] = UNSET
    positioned: Annotated[bool, 9] = False
    recoverable: Annotated[bool, 10] = False
    join_leave: Annotated[bool, 11] = False
    delta: Annotated[str, 12] = ""
    tf: Annotated[FilterNode | None, 13] = None
    flag: Annotated[Int64, 14] = 0
    type: Annotated[Int32, 15] = 0


class SubscribeResult(Positioned, frozen=True):
    expires: Annotated[bool, 1] = False
    ttl: Annotated[UInt32, 2] = 0
    recoverable: Annotated[bool, 3] = False
    epoch: Annotated[str, 6] = ""
    publications: Annotated[list[Publication], 7] = []
    recovered: Annotated[bool, 8] = False
    offset: Annotated[UInt64, 9] = 0
    positioned: Annotated[bool, 10] = False
    data: Annotated[Payload, 11] = UNSET
    was_recovering: Annotated[bool, 12] = False
    delta: Annotated[bool, 13] = False
    id: Annotated[Int64, 14] = 0
    type: Annotated[Int32, 15] = 0


class ConnectRequest(Message, frozen=True):
    token: Annotated[str, 1] = ""
    data: Annotated[Payload, 2] = UNSET
    subs: Annotated[dict[str, SubscribeRequest], FEW, 3] = {}
    name: Annotated[str, 4] = ""
    version: Annotated[str, 5] = ""
    headers: Annotated[dict[str, str], FEW, 6] = {}
    flag: Annotated[Int64, 7] = 0
    dictionary: Annotated[str, 8] = ""
    profile: Annotated[str, 9] = ""
    x_trioweb: Annotated[UInt32, 1000] = 0


class Dictionary(Message, frozen=True):
    id: Annotated[str, 1] = ""
    data: Annotated[Payload, 2] = UNSET
    data_b64: Annotated[str, 3] = ""


class ConnectResult(Message, frozen=True):
    client: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    expires: Annotated[bool, 3] = False
    ttl: Annotated[UInt32, 4] = 0
    data: Annotated[Payload, 5] = UNSET
    subs: Annotated[dict[str, SubscribeResult], 6] = {}
    ping: Annotated[UInt32, 7] = 0
    pong: Annotated[bool, 8] = False
    session: Annotated[str, 9] = ""
    node: Annotated[str, 10] = ""
    time: Annotated[Int64, 11] = 0
    flag: Annotated[Int64, 12] = 0
    dictionary: Annotated[Dictionary | None, 13] = None
    x_trioweb: Annotated[UInt32, 1000] = 0


class UnsubscribeRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""


class UnsubscribeResult(Message, frozen=True):
    pass


class PublishRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""
    data: Annotated[Payload, 2] = UNSET
    type: Annotated[Int32, 3] = 0
    key: Annotated[str, 4] = ""
    removed: Annotated[bool, 5] = False
    # The same key, sent again, is published once.
    x_key: Annotated[str, 1000] = ""


class PublishResult(Message, frozen=True):
    pass


class PresenceRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""


class PresenceResult(Message, frozen=True, omit_defaults=False):
    presence: Annotated[dict[str, ClientInfo], 1] = {}


class PresenceStatsRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""


class PresenceStatsResult(Message, frozen=True, omit_defaults=False):
    num_clients: Annotated[UInt32, 1] = 0
    num_users: Annotated[UInt32, 2] = 0


class HistoryRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""
    limit: Annotated[Int32, 7] = 0
    since: Annotated[StreamPosition | None, 8] = None
    reverse: Annotated[bool, 9] = False


class HistoryResult(Positioned, frozen=True, omit_defaults=False):
    publications: Annotated[list[Publication], 1] = []
    epoch: Annotated[str, 2] = ""
    offset: Annotated[UInt64, 3] = 0


class PingRequest(Message, frozen=True):
    pass


class PingResult(Message, frozen=True):
    pass


class SendRequest(Message, frozen=True):
    data: Annotated[Payload, 1] = UNSET


class RPCRequest(Message, frozen=True):
    data: Annotated[Payload, 1] = UNSET
    method: Annotated[str, 2] = ""
    # Milliseconds that the caller will wait; 0 says nothing.
    x_timeout: Annotated[UInt32, 1000] = 0


class RPCResult(Message, frozen=True):
    data: Annotated[Payload, 1] = UNSET


class RefreshRequest(Message, frozen=True):
    token: Annotated[str, 1] = ""


class RefreshResult(Message, frozen=True):
    client: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    expires: Annotated[bool, 3] = False
    ttl: Annotated[UInt32, 4] = 0


class SubRefreshRequest(Message, frozen=True):
    topic: Annotated[str, 1] = ""
    token: Annotated[str, 2] = ""
    type: Annotated[Int32, 3] = 0


class SubRefreshResult(Message, frozen=True):
    expires: Annotated[bool, 1] = False
    ttl: Annotated[UInt32, 2] = 0


class CancelRequest(Message, frozen=True):
    """The caller no longer waits for the call with this id."""

    id: Annotated[UInt32, 1] = 0


class AnswerRequest(Message, frozen=True):
    """The answer to the server's call with this id."""

    id: Annotated[UInt32, 1] = 0
    data: Annotated[Payload, 2] = UNSET
    error: Annotated[Error | None, 3] = None
