"""The protocol in JSON: one object a line, typed by the schema, payloads as they came.

msgspec reads and writes; what stands here are the lines, and what its decoder does not look at.
See `Codec` for what each function promises.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import msgspec

from .._errors import BadMessage
from ._commands import Command, check
from ._payload import check_limits, read
from ._replies import Push, Reply
from ._schema import Publication
from ._table import M, Message, mended, well_formed

PING: Final = "{}"

_commands: Final = msgspec.json.Decoder(Command)
_replies: Final = msgspec.json.Decoder(Reply)
_names: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder: Final = msgspec.json.Encoder()
# Between the tokens of JSON, which is where they stand, a space is as good; lines end here.
_NEWLINES: Final = bytes.maketrans(b"\r\n", b"  ")


# Stands where a publication will.
_HERE: Final = b"0"


def encode(message: Command | Reply) -> str:
    return _content(message).decode()


def _content(message: Message) -> bytes:
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        return _encoder.encode(mended(message))


def join(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def prepared(part: M) -> M:
    return cast(M, msgspec.Raw(_encoder.encode(part)))


def pushes(topic: str) -> Callable[[Publication], str]:
    stand_in = cast(Publication, msgspec.Raw(_HERE))
    whole = _content(Reply(push=Push(topic=topic, pub=stand_in)))
    head, _, tail = whole.rpartition(_HERE)

    def push(publication: Publication) -> str:
        return (head + _content(publication) + tail).decode()

    return push


def payload(message: str | bytes, *, is_json: bool) -> msgspec.Raw:
    if isinstance(message, bytes) and not is_json:
        return msgspec.Raw(b'"%b"' % b64encode(message))
    try:
        data = message if isinstance(message, bytes) else message.encode()
    except UnicodeEncodeError:
        return payload(well_formed(str(message)), is_json=is_json)
    return msgspec.Raw(data.translate(_NEWLINES) if is_json else _encoder.encode(message))


def message(payload: msgspec.Raw) -> tuple[bytes, bool]:
    return bytes(payload), True


def decode_commands(data: str | bytes) -> Iterator[Command]:
    for line in _lines(data):
        command = read(_commands, line)
        check_limits(line)
        if not check(command) and not read(_names, line).keys() <= {"id"}:
            raise BadMessage("a command that is not known")
        yield command


def decode_replies(data: str | bytes) -> Iterator[Reply]:
    # Our own clients have no limits that a server's payload could be beyond.
    for line in _lines(data):
        yield read(_replies, line)


def _lines(data: str | bytes) -> Iterator[str]:
    """One line after the other: a message may have far more of them than are worth a list."""
    if isinstance(data, bytes):
        try:
            data = data.decode()
        except UnicodeDecodeError as exc:
            raise BadMessage("not UTF-8") from exc
    start = 0
    while (stop := data.find("\n", start)) >= 0:
        yield data[start:stop]
        start = stop + 1
    if start == 0 or start < len(data):
        yield data[start:]
