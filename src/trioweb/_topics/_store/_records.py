"""A record: a publication as it stands in the journal, and in the database.

    flags (1)  offset (8)  time (8)  size (4)  lengths of name (4) and epoch (2)  name  epoch  data

The data are, as the flags say which of them there are: a hash of the key (8), then the texts of
key, skip, tags, publisher and its info, each behind its length (4); and the frame to the end.  A
record with `BEGIN` has no data: it says that a topic is known, and where it stands.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from .._commands import Entry, entry_of
from .._details import NOTHING, Details, Publisher, details_of

_HEAD: Final = Struct("=BQdI")
_LENGTHS: Final = Struct("=IH")
_LENGTH: Final = Struct("=I")
_ONCE: Final = Struct("=q")

JSON: Final = 1
_STRING: Final = 2
KEY: Final = 4
_SKIP: Final = 8
_TAGS: Final = 16
_PUBLISHER: Final = 32
BEGIN: Final = 64

_write_head: Final = _HEAD.pack


class Record(NamedTuple):
    """What one record says.

    Attributes:
        time: when, in seconds since 1970.
        size: bytes of memory that the publication takes, as the bounds of topics count it.
    """

    name: str
    epoch: str
    offset: int
    time: float
    size: int
    flags: int
    data: bytes

    @property
    def once(self) -> int | None:
        """The hash of its key, None without one."""
        if not self.flags & KEY:
            return None
        hashed: int = _ONCE.unpack_from(self.data)[0]
        return hashed


def encode_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def decode_name(encoded: object) -> str:
    """The name of which `encode_name` has made this; of what is damaged, another one."""
    try:
        return bytes.decode(encoded, "utf-8", "surrogatepass")  # type: ignore[arg-type]
    except (TypeError, UnicodeDecodeError):
        return repr(encoded)


def write_place(name: str, epoch: str) -> bytes:
    """What the records of a topic's life have in common."""
    encoded, life = encode_name(name), epoch.encode()
    return _LENGTHS.pack(len(encoded), len(life)) + encoded + life


def write_record(
    place: bytes,
    offset: int,
    time: float,
    size: int,
    frame: bytes,
    skip: str | None,
    details: Details,
    once: int | None,
) -> bytes:
    """Put a record together.  Nearly all have no details, which takes the first way out."""
    if details is NOTHING and skip is None:
        return _write_head(0, offset, time, size) + place + frame
    flags = 0
    texts: list[bytes] = []
    parts: list[bytes] = []
    if details.is_json or details.is_string:
        flags |= JSON if details.is_json else _STRING
    if details.key is not None:
        flags |= KEY
        parts.append(_ONCE.pack(once or 0))
        texts.append(details.key.encode())
    if skip is not None:
        flags |= _SKIP
        texts.append(skip.encode("utf-8", "surrogatepass"))
    if details.tags:
        flags |= _TAGS
        texts.append(json.dumps(dict(details.tags), ensure_ascii=False).encode())
    if details.publisher is not None:
        flags |= _PUBLISHER
        texts += details.publisher.id.encode(), details.publisher.info
    for text in texts:
        parts += _LENGTH.pack(len(text)), text
    return b"".join((_write_head(flags, offset, time, size), place, *parts, frame))


def write_begin(place: bytes, head: int) -> bytes:
    return _write_head(BEGIN, head, 0.0, 0) + place


def read_record(body: bytes) -> Record:
    """Take a record apart.  Its checksum was right, so it is one."""
    flags, offset, time, size = _HEAD.unpack_from(body)
    at = _HEAD.size
    of_name, of_epoch = _LENGTHS.unpack_from(body, at)
    start = at + _LENGTHS.size
    middle = start + of_name
    end = middle + of_epoch
    name = decode_name(body[start:middle])
    epoch = body[middle:end].decode()
    return Record(name, epoch, offset, time, size, flags, body[end:])


def read_entry(flags: int, data: bytes) -> Entry:
    """The publication that *data* are."""
    at = _ONCE.size if flags & KEY else 0

    def take() -> bytes:
        nonlocal at
        start = at + _LENGTH.size
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        return data[start:at]

    key = take().decode() if flags & KEY else None
    skip = take().decode("utf-8", "surrogatepass") if flags & _SKIP else None
    tags = json.loads(take()) if flags & _TAGS else None
    publisher = Publisher(take().decode(), take()) if flags & _PUBLISHER else None
    frame = data[at:] if at else data
    if not flags & ~_SKIP:
        return entry_of("", frame, skip, NOTHING)
    is_json, is_string = bool(flags & JSON), bool(flags & _STRING)
    return entry_of("", frame, skip, details_of(is_json, is_string, key, tags, publisher))


def hasher(secret: bytes) -> Callable[[Details], int | None]:
    """A function that hashes whose key a publication has, and the key.

    Nobody who does not know *secret* can make two that are the same, so the hash stands for them
    where all of the stored keys have to be at hand.
    """

    def once(details: Details) -> int | None:
        if details.key is None:
            return None
        publisher = b"" if details.publisher is None else b"p" + details.publisher.id.encode()
        text = _LENGTH.pack(len(publisher)) + publisher + details.key.encode()
        return int.from_bytes(blake2b(text, digest_size=8, key=secret).digest(), signed=True)

    return once
