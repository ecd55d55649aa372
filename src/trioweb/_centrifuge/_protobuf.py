"""The protocol in Protobuf: each message behind its length, written and read by the table.

Of Protobuf's encoding (protobuf.dev/programming-guides/encoding) this has what the table needs:
varints, and lengths for text, payloads, messages, lists and maps.  Fixed numbers and groups are
not among its kinds; a field that the table does not have may be any but a group.

Read strictly: a number out of its range and a known field of the wrong wire type are errors, where
other decoders cut the one and ignore the other.  A field that comes twice counts as its last, as
in JSON; the other encoders write each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import msgspec

from .._errors import BadMessage
from ._commands import Command, check
from ._payload import as_json
from ._protobuf_reader import Source, read, read_varint
from ._protobuf_writer import body, delimited, tag_of
from ._replies import Push, Reply
from ._schema import Publication
from ._table import M, Message, mended, well_formed

PING: Final = b"\0"

# An id, which a pong may have if it is 0.
_ID: Final = 0x08
# A subscription in `connect` takes six or seven, and there may be MAX_ENTRIES of them.
_MAX_FIELDS: Final = 4096

# In front of a push, and of a publication in one.
_PUSH: Final = tag_of(Reply, "push")
_PUB: Final = tag_of(Push, "pub")


def encode(message: Command | Reply) -> bytes:
    return delimited(_content(message))


def _content(message: Message) -> bytes:
    try:
        return body(message)
    except UnicodeEncodeError:
        return body(mended(message))


def join(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def prepared(part: M) -> M:
    return cast(M, msgspec.Raw(body(part)))


def pushes(topic: str) -> Callable[[Publication], bytes]:
    head = _content(Push(topic=topic)) + _PUB

    def push(publication: Publication) -> bytes:
        return delimited(_PUSH + delimited(head + delimited(_content(publication))))

    return push


def payload(message: str | bytes, *, is_json: bool) -> msgspec.Raw:
    if isinstance(message, bytes):
        return msgspec.Raw(message)
    try:
        return msgspec.Raw(message.encode())
    except UnicodeEncodeError:
        return msgspec.Raw(well_formed(message).encode())


def message(payload: msgspec.Raw) -> tuple[bytes, bool]:
    data = bytes(payload)
    text = as_json(data)
    return (data, False) if text is None else (text, True)


def decode_commands(data: str | bytes) -> Iterator[Command]:
    for wire, start, stop in _messages(data):
        command = read(Command, Source(wire, _MAX_FIELDS), start, stop)
        if not check(command) and any(tag != _ID for tag, *_ in Source(wire).fields(start, stop)):
            raise BadMessage("a command that is not known")
        yield command


def decode_replies(data: str | bytes) -> Iterator[Reply]:
    for wire, start, stop in _messages(data):
        yield read(Reply, Source(wire), start, stop)


def _messages(data: str | bytes) -> Iterator[tuple[bytes, int, int]]:
    if isinstance(data, str):
        raise BadMessage("text where Protobuf was agreed upon")
    if not data:
        raise BadMessage("nothing in a message")
    at = 0
    while at < len(data):
        length, start = read_varint(data, at, len(data))
        at = start + length
        if at > len(data):
            raise BadMessage("cut off")
        yield data, start, at
