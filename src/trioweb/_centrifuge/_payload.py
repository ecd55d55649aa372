"""What a payload has to be so that every peer's decoder takes it.

Payloads are passed on as they came.  One line that a JSON client cannot read costs it the whole
message of the connection, with what others have sent in it, so this is stricter than JSON's
grammar where decoders have limits of their own: Python's raises for nesting beyond about a thousand
levels, and for integers of more than 4,300 digits.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from .._errors import BadMessage

# The whole of a line: a payload has a few levels around it, and JSON in use has fewer than twenty.
MAX_DEPTH: Final = 512
MAX_DIGITS: Final = 4300

_BLOCK: Final = MAX_DIGITS // 2
_TOO_MANY_DIGITS: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))

_ANY: Final = bytes(range(256))
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(_ANY) - set(b'[]{}"'))
_DIGITS: Final = bytes(byte if byte in b'0123456789"' else 0x20 for byte in _ANY)

# Two passes take away the innermost level each, before the runs of brackets that are left are
# walked through.  Of anything wide they leave few, and in anything deep the walk ends early: no
# 64 KiB take longer than about 1.5 ms, and those of usual JSON take 0.1.
_PEELED: Final = 2
_CHUNK: Final = 4096
_RUNS: Final = re.compile(rb"(\[+)(\]*)")

_ESCAPED_BACKSLASH: Final = "\\\\"
# No JSON has it unescaped.
_STAND_IN: Final = "\0"
_LONE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

_T = TypeVar("_T")
_anything: Final = msgspec.json.Decoder(msgspec.Raw)


def read(decoder: msgspec.json.Decoder[_T], text: str) -> _T:
    """What *decoder* makes of *text*.

    JavaScript writes surrogates without partners, which msgspec refuses, and other decoders too:
    they are read as U+FFFD, as a WebSocket's text has them.

    Raises:
        BadMessage: not JSON, not of the decoder's type, or nested too deeply for it.
    """
    try:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError:
            repaired = _without_lone_surrogates(text)
            if repaired == text:
                raise
            return decoder.decode(repaired)
    except RecursionError as exc:
        raise BadMessage("nested too deeply") from exc
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise BadMessage(str(exc)) from exc


def as_json(data: bytes) -> bytes | None:
    """*data* as JSON that every peer can read; None if it is not JSON, but any bytes."""
    try:
        text = data.decode()
        raw = read(_anything, text)
        check_limits(text)
    except (UnicodeDecodeError, BadMessage):
        return None
    return bytes(raw)


def check_limits(text: str) -> None:
    """Raise BadMessage if *text*, which is JSON, is beyond what some peers' decoders take."""
    if len(text) > 2 * MAX_DEPTH and _is_too_deep(text):
        raise BadMessage(f"nested deeper than {MAX_DEPTH} levels")
    if len(text) > MAX_DIGITS and _has_too_many_digits(text):
        raise BadMessage(f"a number of more than {MAX_DIGITS} digits")


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    brackets = _outside_strings(text, _BRACKETS, _NO_BRACKETS)
    for _ in range(_PEELED):
        brackets = brackets.replace(b"[]", b"")
    depth = _PEELED
    for run in _RUNS.finditer(brackets):
        depth += len(run[1])
        if depth > MAX_DEPTH:
            return True
        depth -= len(run[2])
    return False


def _has_too_many_digits(text: str) -> bool:
    # A run that is too long covers one of these blocks, wherever it begins.
    blocks = range(0, len(text) - _BLOCK + 1, _BLOCK)
    if not any(text[at].isdigit() and text[at : at + _BLOCK].isdigit() for at in blocks):
        return False
    return _TOO_MANY_DIGITS.search(_outside_strings(text, _DIGITS, b"")) is not None


def _outside_strings(text: str, table: bytes, drop: bytes) -> bytes:
    """What of *text* stands outside of strings, without *drop* and then through *table*.

    All of it is done by bytes' own methods: a loop in Python would take as long as all else.
    """
    bare = text.encode()
    if b"\\" in bare:
        bare = bare.replace(rb"\\", b"").replace(rb"\"", b"")
    # Where two quotes meet one string ends and the next begins, or it is empty.  Without them, what
    # stands inside of strings still does.
    bare = bare.translate(table, drop).replace(b'""', b"")
    outside = []
    inside = False
    for start in range(0, len(bare), _CHUNK):  # thousands of small objects at a time are enough
        pieces = bare[start : start + _CHUNK].split(b'"')
        outside.append(b"".join(pieces[inside::2]))
        inside ^= len(pieces) % 2 == 0
    return b"".join(outside)


def _without_lone_surrogates(text: str) -> str:
    # With escaped backslashes out of the way every backslash begins an escape.
    if "\\u" not in text or _STAND_IN in text:
        return text
    text = text.replace(_ESCAPED_BACKSLASH, _STAND_IN)
    return _LONE.sub(r"\\ufffd", text).replace(_STAND_IN, _ESCAPED_BACKSLASH)
