"""Protobuf's encoding of a message: what the table says, put together once for each class.

NOTE: A publication is encoded here once for all who get it in Protobuf, and in a burst to few that
is a good part of what a delivery costs: a look more at each field is seen there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec

from ._table import MAX_UINT64, Field, Kind, Message, fields_of

VARINT: Final = 0
LENGTH: Final = 2

_SMALL: Final = [bytes([number]) for number in range(0x80)]
# A map's entries are messages of two fields.
KEY_TAG: Final = 1 << 3 | LENGTH
VALUE_TAG: Final = 2 << 3 | LENGTH
_KEY: Final = bytes([KEY_TAG])
_VALUE: Final = bytes([VALUE_TAG])

_Write: TypeAlias = Callable[[Any], bytes]
_WRITE: Final = "write_"


def body(message: Message | msgspec.Raw) -> bytes:
    if isinstance(message, msgspec.Raw):  # prepared
        return bytes(message)
    return _encoder(type(message))(message)


@cache
def _encoder(message: type[Message]) -> Callable[[Message], bytes]:
    """What encodes a *message*: a loop over its fields, written out, which takes half the time."""
    fields = fields_of(message)
    # Whatever is false is zero: messages and payloads never are, even if they are empty.
    lines = [
        "def encode(message):",
        "    parts = []",
        *(
            f"    if value := message.{field.name}: parts.append({_WRITE}{field.name}(value))"
            for field in fields
        ),
        "    return b''.join(parts)",
    ]
    names: dict[str, Any] = {f"{_WRITE}{field.name}": _writer(field) for field in fields}
    # NOTE: No name in there is a peer's: all are the table's.
    exec("\n".join(lines), names)
    encode: Callable[[Message], bytes] = names["encode"]
    return encode


def tag_of(message: type[Message], name: str) -> bytes:
    """What stands in front of the field *name* of a *message*."""
    [tag] = (_tag(field) for field in fields_of(message) if field.name == name)
    return tag


def _tag(field: Field) -> bytes:
    wire = VARINT if field.kind in (Kind.INTEGER, Kind.BOOL) else LENGTH
    return varint(field.number << 3 | wire)


def _writer(field: Field) -> _Write:
    tag = _tag(field)
    match field.kind:
        case Kind.INTEGER:
            return lambda value: tag + varint(value)
        case Kind.BOOL:
            return lambda value: tag + b"\1"
        case Kind.LIST:
            content = _content(field.of)
            return lambda value: b"".join([tag + delimited(content(entry)) for entry in value])
        case Kind.MAP:
            content = _content(field.of)

            def entry(key: str, value: Any) -> bytes:
                return _KEY + delimited(key.encode()) + _VALUE + delimited(content(value))

            return lambda value: b"".join([tag + delimited(entry(*item)) for item in value.items()])
        case _:
            content = _content(field.of if field.kind is Kind.MESSAGE else field.kind)
            return lambda value: tag + delimited(content(value))


def _content(of: Any) -> _Write:
    if of in (str, Kind.TEXT):
        return str.encode
    return bytes if of is Kind.RAW else body


def delimited(content: bytes) -> bytes:
    """*content* behind its length."""
    size = len(content)
    return (_SMALL[size] if size < 0x80 else varint(size)) + content


def varint(number: int) -> bytes:
    if 0 <= number < 0x80:
        return _SMALL[number]
    if 0 <= number < 0x4000:  # as most lengths and offsets
        return bytes((number & 0x7F | 0x80, number >> 7))
    number &= MAX_UINT64  # two's complement, if it is negative
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
