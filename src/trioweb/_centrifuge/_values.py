"""A program's values, and the payloads that peers get for them.

A value is anything that JSON has, or bytes.  A payload is how one peer's encoding has that: JSON
text, or in Protobuf also bytes that are none.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ._codec import Codec
from ._payload import as_json
from ._table import Payload

_encoder: Final = msgspec.json.Encoder()


def to_json(value: Any) -> bytes:
    """*value* as JSON that every peer can read.

    Raises:
        TypeError, ValueError: it cannot be said in JSON, or not to every peer.
    """
    data = _encoder.encode(value)
    if as_json(data) is None:
        raise ValueError("nested too deeply, or a number too long, for the decoders of some peers")
    return data


def payload_of(codec: Codec, value: Any) -> msgspec.Raw:
    """*value* as a peer with this encoding gets it.

    Raises:
        TypeError, ValueError: as `to_json`.
    """
    if isinstance(value, bytes):
        return codec.payload(value, is_json=False)
    return codec.payload(to_json(value), is_json=True)


def optional_payload_of(codec: Codec, value: Any) -> Payload:
    """As `payload_of`, but None is nothing at all."""
    return msgspec.UNSET if value is None else payload_of(codec, value)
