"""What is written is read as it was, in both encodings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, structs

from tests.centrifuge.support import (
    JSON,
    MODERATE,
    PROTOBUF,
    commands,
    commands_of_clients,
    messages,
    replies,
    replies_of_servers,
)
from trioweb._centrifuge import _schema
from trioweb._centrifuge._codec import Codec
from trioweb._centrifuge._commands import Command
from trioweb._centrifuge._replies import Push, Reply
from trioweb._errors import BadMessage

_BOTH = pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])


@_BOTH
@MODERATE
@given(st.lists(commands_of_clients | st.just(Command()), min_size=1, max_size=4))
def test_commands_come_out_as_they_went_in(codec: Codec, given_: list[Command]) -> None:
    assert commands(codec, codec.join(map(codec.encode, given_))) == given_


@_BOTH
@MODERATE
@given(st.lists(replies_of_servers, min_size=1, max_size=3))
def test_replies_come_out_as_they_went_in(codec: Codec, given_: list[Reply]) -> None:
    assert replies(codec, codec.join(map(codec.encode, given_))) == given_


@MODERATE
@given(replies_of_servers)
def test_both_encodings_say_the_same(reply: Reply) -> None:
    [from_json] = replies(JSON, JSON.encode(reply))
    [from_protobuf] = replies(PROTOBUF, PROTOBUF.encode(reply))
    assert from_json == from_protobuf


@_BOTH
def test_of_what_is_cut_off_the_whole_messages_come_out(codec: Codec) -> None:
    first = Command.of(1, _schema.PublishRequest(topic="ä", data=Raw('{"a":[1,"ü"]}')))
    second = Command.of(2, _schema.RPCRequest(method="m"))
    parts = [codec.encode(first), codec.encode(second)]
    ends = [len(codec.join(parts[:count])) for count in (1, 2)]
    frame = codec.join([*parts, codec.PING])
    for cut in range(len(frame)):
        read = []
        try:
            for command in codec.decode_commands(frame[:cut]):
                read.append(command)
        except BadMessage:
            pass
        assert read == [first, second][: len(read)]
        assert len(read) == sum(cut >= end for end in ends)


@_BOTH
def test_a_prepared_part_stands_in_its_place(codec: Codec) -> None:
    info = _schema.ClientInfo(user="ada", client="1", conn_info=Raw(b'{"name":"Ada"}'))
    whole = _schema.PresenceResult(presence={"1": info, "2": info})
    ready = codec.prepared(info)
    made_up = structs.replace(whole, presence={"1": ready, "2": ready})
    assert codec.encode(Reply.of(3, made_up)) == codec.encode(Reply.of(3, whole))
    assert replies(codec, codec.encode(Reply.of(3, made_up))) == [Reply.of(3, whole)]


@_BOTH
@MODERATE
@given(
    messages(_schema.Publication),
    st.text(max_size=8) | st.sampled_from(["chat:0", '0"0', "\ud800", "x" * 200]),
)
def test_a_publication_is_pushed_as_any_other_event_is(
    codec: Codec, publication: _schema.Publication, topic: str
) -> None:
    push = codec.pushes(topic)
    for tags in (publication.tags, {"\udfff": "0"}):  # which UTF-8 cannot hold
        given_ = structs.replace(publication, tags=tags)
        assert push(given_) == codec.encode(Reply(push=Push.of(given_, topic)))


@pytest.mark.parametrize("number", [0, 127, 128, 2**14 - 1, 2**14, 2**21, 2**64 - 1])
def test_numbers_and_lengths_of_any_size_come_out_in_protobuf(number: int) -> None:
    data = Raw(b'"' + b"x" * min(number, 2**15) + b'"')
    push = Push.of(_schema.Publication(data=data, offset=number), "a")
    assert replies(PROTOBUF, PROTOBUF.encode(Reply(push=push))) == [Reply(push=push)]
