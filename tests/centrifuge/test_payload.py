"""What becomes of a publication's payload, so that every peer can decode what it is sent."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.centrifuge.support import JSON, PROTOBUF, payloads, replies
from trioweb._centrifuge._payload import MAX_DEPTH, MAX_DIGITS, as_json
from trioweb._centrifuge._replies import Push, Reply
from trioweb._centrifuge._schema import (
    ClientInfo,
    Error,
    HistoryResult,
    PresenceResult,
    Publication,
)


def _sent(message: str | bytes, is_json: bool) -> tuple[str, Any, bytes]:
    """*message* as a JSON peer's line, as what that peer reads, and as a Protobuf peer's bytes."""
    pub = Publication(data=JSON.payload(message, is_json=is_json), offset=1)
    line = JSON.encode(Reply(push=Push(topic="a", pub=pub)))
    assert isinstance(line, str)
    read = json.loads(line)["push"]["pub"]["data"]
    return line, read, bytes(PROTOBUF.payload(message, is_json=is_json))


def test_text_is_a_string_in_json_and_itself_in_protobuf() -> None:
    for text in "no json", "", '"', "grüße\n\u2028\0", '{"a":1}':
        line, read, data = _sent(text, False)
        assert "\n" not in line
        assert read == text
        assert data == text.encode()


def test_json_is_as_it_was_in_both() -> None:
    for text in '{"a": 1.0}', "null", '"ü"', "1e400", "18446744073709551616":
        for message in text, text.encode():
            line, _, data = _sent(message, True)
            assert f'"data":{text}' in line
            assert data == text.encode()


def test_json_stays_within_its_line() -> None:
    line, read, data = _sent('{\n  "a":\r\n  [1,\n2]\n}\n', True)
    assert len(line.splitlines()) == 1
    assert read == {"a": [1, 2]}
    assert json.loads(data) == {"a": [1, 2]}


def test_bytes_are_base64_in_json_and_themselves_in_protobuf() -> None:
    for message in b"\xff", b"", b"text", bytes(range(256)):
        _, read, data = _sent(message, False)
        assert base64.b64decode(read) == message
        assert data == message


def test_text_that_utf8_cannot_hold_is_sent_all_the_same() -> None:
    """What the server's own program says: an encoder that fails would close every connection."""
    for is_json in False, True:
        message = '"\ud800"' if is_json else "\ud800"
        _, read, data = _sent(message, is_json)
        assert read == "\ufffd"
        assert data.decode().strip('"') == "\ufffd"


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_no_message_fails_to_be_encoded(codec: Any) -> None:
    info = ClientInfo(user="a\udc00", conn_info=Raw("1"))
    bad = Publication(tags={"\ud800": "\ud800"}, info=info, topic="ä")
    good = Publication(
        tags={"\ufffd": "\ufffd"}, info=ClientInfo(user="a\ufffd", conn_info=Raw("1")), topic="ä"
    )
    [reply] = replies(codec, codec.encode(Reply(push=Push(topic="t", pub=bad))))
    assert reply == Reply(push=Push(topic="t", pub=good))
    [reply] = replies(codec, codec.encode(Reply(id=1, error=Error(1, "\ud83d"))))
    assert reply == Reply(id=1, error=Error(1, "\ufffd"))
    several = [Publication(topic="\ud800"), Publication(topic="b")]
    [reply] = replies(codec, codec.encode(Reply.of(1, HistoryResult(publications=several))))
    several[0] = Publication(topic="\ufffd")
    assert reply == Reply.of(1, HistoryResult(publications=several))
    # What is prepared already is left alone.
    ready = PresenceResult({"\ud800": codec.prepared(ClientInfo(client="1"))})
    [reply] = replies(codec, codec.encode(Reply.of(1, ready)))
    assert reply == Reply.of(1, PresenceResult({"\ufffd": ClientInfo(client="1")}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1}', (b'{"a":1}', True)),
        (b"0", (b"0", True)),
        (b'"\\ud800"', (b'"\\ufffd"', True)),
        (b"\xff", (b"\xff", False)),
        (b"NaN", (b"NaN", False)),
        (b"01", (b"01", False)),
        (b"{} {}", (b"{} {}", False)),
        (b"hello", (b"hello", False)),
        (b'"\xed\xa0\x80"', (b'"\xed\xa0\x80"', False)),
        (b"\xef\xbb\xbf1", (b"\xef\xbb\xbf1", False)),
        (b"[" * 600 + b"]" * 600, (b"[" * 600 + b"]" * 600, False)),
        (b"[" * 30_000, (b"[" * 30_000, False)),
        (b"9" * 5000, (b"9" * 5000, False)),
    ],
)
def test_from_protobuf_it_is_json_if_every_peer_can_read_it(
    data: bytes, message: tuple[bytes, bool]
) -> None:
    assert PROTOBUF.message(Raw(data)) == message
    # Whatever it is, the others get something that they can read.
    _sent(message[0], message[1])


def test_from_json_it_is_json() -> None:
    assert JSON.message(Raw('{"a":1}')) == (b'{"a":1}', True)


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | payloads.map(bytes))
def test_what_counts_as_json_can_be_read_by_others(data: bytes) -> None:
    text = as_json(data)
    try:
        expected = json.loads(data.decode(), parse_constant=_refuse)
    except ValueError:
        assert text is None
    else:
        assert text is not None
        if b"\\ud" not in data.lower():
            assert json.loads(text) == expected


def _refuse(name: str) -> None:
    raise ValueError(name)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.sampled_from(["[", '{"a":', '"[[["', '"\\\\"', '"\\"["', "1", '"\\u005b"', '""']),
        min_size=1,
        max_size=40,
    ),
    st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3),
)
def test_depth_is_counted_as_a_parser_would(pieces: list[str], depth: int) -> None:
    """Arrays and objects around values, some of which look like brackets."""
    inner = ",".join(piece if piece[0] not in "[{" else "[{}]" for piece in pieces)
    deepest = 2 if any(piece[0] in "[{" for piece in pieces) else 0
    opened = ["[" if n % 3 else '{"]":' for n in range(depth - deepest - 1)]
    closed = ["]" if n % 3 else "}" for n in reversed(range(depth - deepest - 1))]
    text = "".join(opened) + "[" + inner + "]" + "".join(closed)
    assert (as_json(text.encode()) is not None) == (depth <= MAX_DEPTH)


@pytest.mark.parametrize("before", [0, 1, 2149, 2150, 4299, 5000])
@pytest.mark.parametrize("digits", [MAX_DIGITS, MAX_DIGITS + 1])
def test_digits_are_counted_wherever_they_stand(before: int, digits: int) -> None:
    filler = '"' + "7" * before + '"'
    text = f'[{filler},-{"9" * digits},"{"8" * 5000}"]'
    assert (as_json(text.encode()) is not None) == (digits <= MAX_DIGITS)
    if digits <= MAX_DIGITS:
        json.loads(text)
