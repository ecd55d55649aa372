"""Google's Protobuf reads what we write, and the other way round.

The schema is the one that centrifuge-python was generated from, so it also checks our table.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from msgspec import UNSET

from tests.centrifuge.support import (
    JSON,
    MODERATE,
    PROTOBUF,
    commands,
    commands_of_clients,
    replies_of_servers,
)
from trioweb._centrifuge import _commands, _replies, _schema
from trioweb._centrifuge._commands import Command
from trioweb._centrifuge._replies import Reply
from trioweb._centrifuge._table import Kind, Message, fields_of

codecs: Any = pytest.importorskip("centrifuge.codecs")
client_pb2: Any = pytest.importorskip("centrifuge.protocol.client_pb2")


def _peers_name(message: type[Message]) -> str:
    return "Message" if message is _replies.ServerMessage else message.__name__


def _all_messages() -> list[type[Message]]:
    return [
        value
        for module in (_schema, _commands, _replies)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Message)
        and value.__module__ == module.__name__
    ]


# Newer than centrifuge-python 0.7's schema: map topics, shared polls, dictionaries.
_NEWER = {
    ("ConnectRequest", "dict"), ("ConnectRequest", "profile"), ("ConnectResult", "dict"),
    ("ConnectResult", "flag"), ("Publication", "key"), ("PublishRequest", "key"),
    ("PublishRequest", "removed"), ("PublishRequest", "type"), ("SubRefreshRequest", "type"),
    ("SubscribeRequest", "type"), ("SubscribeResult", "type"),
}  # fmt: skip
_OURS = {_schema.CancelRequest, _schema.AnswerRequest, _replies.Call, _schema.Dictionary}
# As google/protobuf/descriptor.proto numbers them.
_TYPES = {
    13: (Kind.INTEGER, 0, 2**32 - 1), 4: (Kind.INTEGER, 0, 2**64 - 1),
    5: (Kind.INTEGER, -(2**31), 2**31 - 1), 3: (Kind.INTEGER, -(2**63), 2**63 - 1),
    8: (Kind.BOOL,), 9: (Kind.TEXT,), 12: (Kind.RAW,),
}  # fmt: skip


@pytest.mark.parametrize("message", _all_messages(), ids=lambda message: message.__name__)
def test_the_table_is_the_protocols(message: type[Message]) -> None:
    if message in _OURS:
        assert _peers_name(message) not in client_pb2.DESCRIPTOR.message_types_by_name
        return
    theirs = client_pb2.DESCRIPTOR.message_types_by_name[_peers_name(message)].fields_by_name
    ours = {field.wire: field for field in fields_of(message)}
    for name in theirs.keys() - ours.keys():
        raise AssertionError(f"{message.__name__} has no {name}")
    for name, field in ours.items():
        if (message.__name__, name) in _NEWER:
            continue
        if field.number >= 1000:
            assert name.startswith("x_") or name == "call"
            continue
        their = theirs[name]
        assert field.number == their.number
        if their.type in _TYPES and not their.is_repeated:
            kind, *limits = _TYPES[their.type]
            assert field.kind is kind
            assert not limits or [field.least, field.most] == limits
        elif field.of is str:
            assert field.kind in (Kind.LIST, Kind.MAP)
        else:
            item = their.message_type
            if field.kind is Kind.MAP:
                item = item.fields_by_name["value"].message_type
            assert their.is_repeated == (field.kind is not Kind.MESSAGE)
            assert item.name == _peers_name(field.of)


def _same(ours: Message, theirs: Any) -> None:
    """Each field of *ours* stands in *theirs*, as Google's code has read it."""
    known = theirs.DESCRIPTOR.fields_by_name
    for field in fields_of(type(ours)):
        value = getattr(ours, field.name)
        if field.wire not in known:
            continue
        their = getattr(theirs, field.wire)
        match field.kind:
            case Kind.MESSAGE:
                assert theirs.HasField(field.wire) == (value is not None)
                if value is not None:
                    _same(value, their)
            case Kind.RAW:
                assert their == (bytes(value) if value is not UNSET else b"")
            case Kind.LIST | Kind.MAP if field.of is str:
                assert type(value)(their) == value
            case Kind.LIST:
                assert len(their) == len(value)
                for one, other in zip(value, their, strict=True):
                    _same(one, other)
            case Kind.MAP:
                assert their.keys() == value.keys()
                for key in value:
                    _same(value[key], their[key])
            case _:
                assert their == value


def _behind_length(data: bytes) -> bytes:
    length = shift = 0
    for place, byte in enumerate(data):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            assert len(data) - place - 1 == length
            return data[place + 1 :]
    raise AssertionError(data)


@MODERATE
@given(replies_of_servers)
def test_google_reads_our_replies(reply: Reply) -> None:
    data = PROTOBUF.encode(reply)
    assert isinstance(data, bytes)
    _same(reply, client_pb2.Reply.FromString(_behind_length(data)))


@MODERATE
@given(commands_of_clients)
def test_google_reads_our_commands_and_we_read_googles(command: Command) -> None:
    data = PROTOBUF.encode(command)
    assert isinstance(data, bytes)
    theirs = client_pb2.Command.FromString(_behind_length(data))
    _same(command, theirs)
    # What it does not know it keeps, so that everything comes back.
    again = theirs.SerializeToString(deterministic=True)
    length = len(again)
    prefix = bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
    assert length < 2**14
    assert commands(PROTOBUF, prefix + again) == [command]


# The same with the SDK's own code.

_SENT = [
    {"id": 1, "connect": {"token": "t", "name": "python", "subs": {"a": {"recover": True}}}},
    {"id": 2, "subscribe": {"channel": "ä", "recover": True, "offset": 5, "epoch": "e", "flag": 1}},
    {"id": 3, "history": {"channel": "c", "limit": -1, "since": {"offset": 2**60, "epoch": "e"}}},
    {"id": 4, "unsubscribe": {"channel": "c"}},
    {},
]


def test_centrifuge_python_is_read_in_both_encodings() -> None:
    from_json = commands(JSON, codecs._JsonCodec.encode_commands(_SENT))
    assert from_json == commands(PROTOBUF, codecs._ProtobufCodec.encode_commands(_SENT))
    assert [command.id for command in from_json] == [1, 2, 3, 4, 0]
    assert from_json[1].subscribe == _schema.SubscribeRequest(
        topic="ä", recover=True, offset=5, epoch="e", flag=1
    )


@MODERATE
@given(replies_of_servers)
def test_centrifuge_python_reads_us_in_both_encodings(reply: Reply) -> None:
    [from_json] = codecs._JsonCodec.decode_replies(JSON.encode(reply))
    [from_protobuf] = codecs._ProtobufCodec.decode_replies(PROTOBUF.encode(reply))
    assert from_json.keys() == from_protobuf.keys()
    assert from_json.get("id") == from_protobuf.get("id")
    assert from_json.get("error") == from_protobuf.get("error")
    ping = codecs._ProtobufCodec.decode_replies(PROTOBUF.PING)
    assert ping == codecs._JsonCodec.decode_replies(JSON.PING) == [{}]
