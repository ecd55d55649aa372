"""What programs and peers say to each other: a program's values, a peer's payloads.

A value is anything that JSON has, or bytes.  A payload is how one peer's encoding has that: JSON
text, or in Protobuf also bytes that are none.  What one peer sent reaches others as it came.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .._centrifuge import Codec
from .._centrifuge._codes import ErrorCode
from .._centrifuge._schema import ClientInfo
from .._centrifuge._table import Payload
from .._centrifuge._values import to_json
from .._policy import Message
from .._refusals import Refuse
from .._topics import Kind, Publication, Publisher

_decoder: Final = msgspec.json.Decoder()
_encoder: Final = msgspec.json.Encoder()
_info_decoder: Final = msgspec.json.Decoder(ClientInfo)


def value_of(codec: Codec, payload: Payload) -> Any:
    """What a peer has sent as *payload*: None for nothing, bytes for what is no JSON.

    Raises:
        Refuse: Python has no such number.
    """
    if not isinstance(payload, msgspec.Raw):
        return None
    data, is_json = codec.message(payload)
    if not is_json:
        return data
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise Refuse(ErrorCode.BAD_REQUEST, "a number out of range") from exc


def message_of_peer(codec: Codec, payload: msgspec.Raw) -> tuple[Message, Kind]:
    """What a peer has sent as *payload* for a topic, and its kind."""
    data, is_json = codec.message(payload)
    return (data.decode(), "json") if is_json else (data, "bytes")


def message_of_program(value: Any) -> tuple[Message, Kind]:
    """What the program has to say to a topic, and its kind.

    Raises:
        TypeError, ValueError: as `to_json`.
    """
    if isinstance(value, bytes):
        return value, "bytes"
    return to_json(value).decode(), "json"


def info_bytes(user: str, client: str, conn_info: Any, chan_info: Any) -> bytes:
    """What others are told of a member, as it is kept and passed on: JSON."""
    return _encoder.encode(
        ClientInfo(user, client, _raw_or_unset(conn_info), _raw_or_unset(chan_info))
    )


def plain_info(user: str, client: str) -> bytes:
    """As `info_bytes`, of somebody of whom nothing else is known."""
    return _encoder.encode(ClientInfo(user, client))


def _raw_or_unset(value: Any) -> Payload:
    return msgspec.UNSET if value is None else msgspec.Raw(to_json(value))


def info_of(codec: Codec, info: bytes) -> ClientInfo:
    """What `info_bytes` gave, to stand in a message of *codec*."""
    return codec.prepared(_info_decoder.decode(info))


def publication_info(codec: Codec, publisher: Publisher | None) -> ClientInfo | None:
    """What subscribers are told of a *publisher*, who may be of the program's own making."""
    if publisher is None:
        return None
    try:
        return info_of(codec, publisher.info)
    except msgspec.DecodeError:
        return codec.prepared(ClientInfo(user=publisher.id))


def publication_payload(codec: Codec, publication: Publication) -> msgspec.Raw:
    """The message of *publication*, whatever its kind: no peer's decoder fails for it."""
    message = publication.message
    if publication._is_string:
        # It was JSON, which peers that speak Protobuf get as it was.
        return codec.payload(_encoder.encode(message), is_json=True)
    return codec.payload(message, is_json=publication.kind == "json")
