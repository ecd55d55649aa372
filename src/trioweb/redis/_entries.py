"""A publication as it stands in a stream and is pushed: names of one letter, and bytes.

    i  who has published it, as a node and its number
    t, j, q, b  the message, which is text, JSON, text that was published as a JSON string, bytes
    k  key      g  tags, as a JSON object      p, n  publisher: id, info      s  skip

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from .._protocol._frames import BINARY, SERVER_FORM, TEXT, encode_data, is_text
from .._topics._commands import Entry, Push, Stored, entry_of
from .._topics._details import NOTHING, Details, Publisher, details_of
from ._names import Names

_KINDS: Final = (b"t", b"b", b"j", b"q")


def message_of(frame: bytes) -> tuple[bytes, bytes]:
    """The kind and the value of a message that is text or bytes."""
    size = frame[1]
    value = frame[2 if size < 126 else 4 if size == 126 else 10 :]
    return b"t" if is_text(frame) else b"b", value


def write_entry(entry: Entry) -> list[bytes | str]:
    """Names and values, by turns; the id comes first."""
    id, frame, skip, details, _ = entry
    kind, payload = message_of(frame)
    if details.is_json or details.is_string:
        kind = b"j" if details.is_json else b"q"
    fields: list[bytes | str] = [b"i", id, kind, payload]
    if skip is not None:
        fields += "s", skip.encode("utf-8", "surrogatepass")
    if details.key is not None:
        fields += "k", details.key
    if details.tags:
        fields += "g", json.dumps(dict(details.tags), ensure_ascii=False)
    if details.publisher is not None:
        fields += "p", details.publisher.id, "n", details.publisher.info
    return fields


def name_once(details: Details) -> bytes:
    """Under which an entry with a key stands among what is published once; b"" without one."""
    if details.key is None:
        return b""
    if details.publisher is None:
        return b":" + details.key.encode()
    publisher = details.publisher.id.encode()
    return b"%d:" % len(publisher) + publisher + details.key.encode()


def _read_entry(fields: dict[bytes, bytes]) -> Entry:
    kind = next(kind for kind in _KINDS if kind in fields)
    opcode = BINARY if kind == b"b" else TEXT
    frame = encode_data(opcode, fields[kind], SERVER_FORM)
    id = fields[b"i"].decode()
    if len(fields) == 2 and kind in (b"t", b"b"):
        return entry_of(id, frame, None, NOTHING)
    skip, key, tags = fields.get(b"s"), fields.get(b"k"), fields.get(b"g")
    publisher = None
    if b"p" in fields:
        publisher = Publisher(fields[b"p"].decode(), fields[b"n"])
    details = details_of(
        kind == b"j",
        kind == b"q",
        None if key is None else key.decode(),
        None if tags is None else json.loads(tags),
        publisher,
    )
    return entry_of(
        id, frame, None if skip is None else skip.decode("utf-8", "surrogatepass"), details
    )


def read_stored(now: int, item: Sequence[object]) -> Stored:
    """An entry of a stream, at the engine's time *now* in milliseconds.

    Raises:
        ValueError, LookupError, TypeError, StopIteration: it is none.
    """
    place, flat = item
    assert isinstance(place, bytes) and isinstance(flat, list)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    del fields[b"z"]
    age = (now - int(fields.pop(b"a"))) / 1000
    return Stored(int(place.partition(b"-")[0]), _read_entry(fields), max(age, 0))


def read_push(names: Names, channel: bytes, data: bytes) -> Push:
    """What the script has published: offset, epoch, then each field as name, size, colon, value.

    Raises: as `read_stored`.
    """
    offset, epoch, rest = data.split(b" ", 2)
    fields = {}
    at, end = 0, len(rest)
    while at < end:
        colon = rest.index(b":", at)
        start = colon + 1
        stop = start + int(rest[at + 1 : colon])
        fields[rest[at : at + 1]] = rest[start:stop]
        at = stop
    stored = Stored(int(offset), _read_entry(fields), 0)
    return Push(names.topic(channel), epoch.decode(), stored)
