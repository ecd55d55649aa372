"""Protobuf's encoding of a message: what the table says, put together once for each class."""

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


def body(message: Message | msgspec.Raw) -> bytes:
    if isinstance(message, msgspec.Raw):  # prepared
        return bytes(message)
    # Whatever is false is zero: messages and payloads never are, even if they are empty.
    return b"".join(
        [
            write(value)
            for name, write in _writers(type(message))
            if (value := getattr(message, name))
        ]
    )


@cache
def _writers(message: type[Message]) -> list[tuple[str, _Write]]:
    return [(field.name, _writer(field)) for field in fields_of(message)]


def _writer(field: Field) -> _Write:
    wire = VARINT if field.kind in (Kind.INTEGER, Kind.BOOL) else LENGTH
    tag = varint(field.number << 3 | wire)
    match field.kind:
        case Kind.INTEGER:
            return lambda value: tag + varint(value)
        case Kind.BOOL:
            return lambda value: tag + b"\1"
        case Kind.LIST:
            content = _content(field.of)
            return lambda value: b"".join([tag + _delimited(content(entry)) for entry in value])
        case Kind.MAP:
            content = _content(field.of)

            def entry(key: str, value: Any) -> bytes:
                return _KEY + _delimited(key.encode()) + _VALUE + _delimited(content(value))

            return lambda value: b"".join(
                [tag + _delimited(entry(*item)) for item in value.items()]
            )
        case _:
            content = _content(field.of if field.kind is Kind.MESSAGE else field.kind)
            return lambda value: tag + _delimited(content(value))


def _content(of: Any) -> _Write:
    if of in (str, Kind.TEXT):
        return str.encode
    return bytes if of is Kind.RAW else body


def _delimited(content: bytes) -> bytes:
    return varint(len(content)) + content


def varint(number: int) -> bytes:
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= MAX_UINT64  # two's complement, if it is negative
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
