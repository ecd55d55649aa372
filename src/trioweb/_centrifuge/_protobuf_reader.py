"""Protobuf's encoding, read: never beyond what is there, whatever a length claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from functools import cache
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from .._errors import BadMessage
from ._protobuf_writer import KEY_TAG, LENGTH, VALUE_TAG, VARINT
from ._table import MAX_UINT64, Field, Kind, Message, Payload, fields_of

# Only filters nest, and nobody writes one so deep; Google's decoders stop at 100, too.
_MAX_DEPTH: Final = 100
_USUAL: Final = (VARINT, LENGTH)
_FIXED: Final = {1: 8, 5: 4}  # by wire type, the bytes
_MAX_VARINT_BYTES: Final = 10

_T = TypeVar("_T", bound=Message)

# How a field is read: what puts its value among the values.  It gets, from a varint, the number;
# from a length, where that starts and stops.

_Content: TypeAlias = Callable[["Source", int, int, int], Any]
_Read: TypeAlias = Callable[[dict[str, Any], "Source", int, int, int], None]


class _Plan(NamedTuple):
    readers: dict[int, _Read]  # by tag
    numbers: frozenset[int]


class Source:
    """Bytes to read messages from, and how many fields that may take.

    A field of two bytes takes as long to read as one of a hundred: half a microsecond.
    """

    def __init__(self, data: bytes, max_fields: float = inf) -> None:
        self.data = data
        self.fields_left = max_fields

    def fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Each field's tag, and its number and 0, or where it starts and stops."""
        data = self.data
        while at < stop:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise BadMessage("too many fields")
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = read_varint(data, at - 1, stop)
            wire = tag & 7
            if wire in _USUAL:
                if at < stop and data[at] < 0x80:
                    number = data[at]
                    at += 1
                else:
                    number, at = read_varint(data, at, stop)
                if wire == VARINT:
                    yield tag, number, 0
                    continue
            elif wire in _FIXED:
                number = _FIXED[wire]
            else:
                raise BadMessage(f"wire type {wire}")
            start = at
            at += number
            if at > stop:
                raise BadMessage("cut off")
            yield tag, start, at


def read(message: type[_T], source: Source, start: int, stop: int, depth: int = 0) -> _T:
    """The *message* that stands from *start* to *stop*."""
    if depth > _MAX_DEPTH:
        raise BadMessage("nested too deeply")
    readers, numbers = _plan(message)
    values: dict[str, Any] = {}
    for tag, first, second in source.fields(start, stop):
        reader = readers.get(tag)
        if reader is not None:
            reader(values, source, first, second, depth)
        elif tag >> 3 in numbers or not 8 <= tag < 2**32:
            raise BadMessage(f"field {tag >> 3} has the wire type {tag & 7}")
    return message(**values)


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """The number at *at*, and where it ends."""
    if at < stop and data[at] < 0x80:
        return data[at], at + 1
    number = 0
    for place, byte in enumerate(data[at : min(at + _MAX_VARINT_BYTES, stop)]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if number > MAX_UINT64:
                break
            return number, at + place + 1
    raise BadMessage("a varint that is cut off or too large")


@cache
def _plan(message: type[Message]) -> _Plan:
    readers = {}
    for field in fields_of(message):
        wire = VARINT if field.kind in (Kind.INTEGER, Kind.BOOL) else LENGTH
        readers[field.number << 3 | wire] = _reader(field)
    return _Plan(readers, frozenset(field.number for field in fields_of(message)))


def _reader(field: Field) -> _Read:
    match field.kind:
        case Kind.INTEGER:
            return _reader_of_integer(field)
        case Kind.LIST:
            return _reader_of_list(field)
        case Kind.MAP:
            return _reader_of_map(field)
        case Kind.BOOL:
            content: _Content = _truth
        case Kind.MESSAGE:
            content = _content(field.of)
        case kind:
            content = _content(kind)

    def read_field(
        values: dict[str, Any], source: Source, first: int, second: int, depth: int
    ) -> None:
        values[field.name] = content(source, first, second, depth)

    return read_field


def _reader_of_integer(field: Field) -> _Read:
    name, least, most = field.name, field.least, field.most or 0

    def read_integer(values: dict[str, Any], _: Source, number: int, __: int, ___: int) -> None:
        if least < 0 and number >= 2**63:  # two's complement
            number -= 2**64
        if not least <= number <= most:
            raise BadMessage(f"field {field.number} is out of its range")
        values[name] = number

    return read_integer


def _reader_of_list(field: Field) -> _Read:
    item = _content(field.of)

    def read_entry(
        values: dict[str, Any], source: Source, start: int, stop: int, depth: int
    ) -> None:
        entries = values.setdefault(field.name, [])
        entries.append(item(source, start, stop, depth))
        _check_count(field, entries)

    return read_entry


def _reader_of_map(field: Field) -> _Read:
    item = _content(field.of)

    def read_entry(
        values: dict[str, Any], source: Source, start: int, stop: int, depth: int
    ) -> None:
        key, value = "", None
        for tag, first, second in source.fields(start, stop):
            if tag == KEY_TAG:
                key = _text(source, first, second, depth)
            elif tag == VALUE_TAG:
                value = item(source, first, second, depth)
        entries = values.setdefault(field.name, {})
        entries[key] = item(_EMPTY, 0, 0, depth) if value is None else value
        _check_count(field, entries)

    return read_entry


def _check_count(field: Field, entries: Sized) -> None:
    if field.most is not None and len(entries) > field.most:
        raise BadMessage(f"field {field.number} has more than {field.most} entries")


def _content(of: Any) -> _Content:
    if of in (str, Kind.TEXT):
        return _text
    elif of is Kind.RAW:
        return _raw
    else:
        return lambda source, start, stop, depth: read(of, source, start, stop, depth + 1)


def _truth(_: Source, number: int, __: int, ___: int) -> bool:
    return number != 0


def _text(source: Source, start: int, stop: int, _: int) -> str:
    try:
        return source.data[start:stop].decode()
    except UnicodeDecodeError as exc:
        raise BadMessage("text that is not UTF-8") from exc


def _raw(source: Source, start: int, stop: int, _: int) -> Payload:
    # Protobuf cannot tell one without bytes from one that is not there.
    return msgspec.Raw(source.data[start:stop]) if start < stop else msgspec.UNSET


# What a map's value is that was left out.
_EMPTY: Final = Source(b"")
