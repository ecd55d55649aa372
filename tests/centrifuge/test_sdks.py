"""What stock SDKs send, byte for byte, and what they need to receive.

Each constant was put together from what the file named beside it sets, in the way in which that
language's Protobuf or JSON library writes it: Dart's and JavaScript's write what was set even if it
is zero, the others leave zeros out.  Repositories are github.com/centrifugal/…
"""

from __future__ import annotations

import json

import pytest
from msgspec import UNSET, Raw

from tests.centrifuge.support import JSON, PROTOBUF, commands, replies
from trioweb._centrifuge._commands import Command, Request
from trioweb._centrifuge._replies import (
    Call,
    Disconnect,
    Join,
    Leave,
    Push,
    Reply,
    ServerMessage,
    Unsubscribe,
)
from trioweb._centrifuge._schema import (
    ClientInfo,
    ConnectRequest,
    ConnectResult,
    Error,
    FilterNode,
    HistoryRequest,
    HistoryResult,
    PresenceRequest,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishRequest,
    PublishResult,
    RefreshRequest,
    RPCRequest,
    RPCResult,
    SendRequest,
    StreamPosition,
    SubRefreshRequest,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeRequest,
    UnsubscribeResult,
)

# Protobuf: who sends what, the bytes, the id, the request.
_SENT: list[tuple[str, str, int, Request | None]] = [
    (
        "centrifuge-dart lib/src/client.dart: connect",
        "13 08 01 22 0f 22 04 64 61 72 74 2a 00 1a 05 0a 01 61 12 00",
        1,
        ConnectRequest(name="dart", subs={"a": SubscribeRequest()}),
    ),
    (
        "centrifuge-dart lib/src/subscription.dart: token, positioned and the like, set and zero",
        "1b 08 02 2a 17 0a 06 63 68 61 74 3a 31 12 00 18 01 32 01 65 38 00 48 00 50 00 58 00",
        2,
        SubscribeRequest(topic="chat:1", recover=True, epoch="e"),
    ),
    (
        "centrifuge-dart lib/src/client.dart: history, limit and reverse set and zero",
        "0c 08 03 52 08 0a 02 61 62 38 00 48 00",
        3,
        HistoryRequest(topic="ab"),
    ),
    ("centrifuge-dart lib/src/transport.dart: pong", "00", 0, None),
    (
        "centrifuge-swift Sources/SwiftCentrifuge/Client.swift: connect",
        "26 08 01 22 22 0a 01 74 12 02 7b 7d 1a 0f 0a 04 6e 65 77 73 12 07 18 01 32 01 65 38 05"
        "22 05 73 77 69 66 74 2a 01 31",
        1,
        ConnectRequest(
            token="t",
            data=Raw("{}"),
            name="swift",
            version="1",
            subs={"news": SubscribeRequest(recover=True, epoch="e", offset=5)},
        ),
    ),
    (
        "centrifuge-swift Sources/SwiftCentrifuge/Client.swift: subscribe",
        "1b 08 02 2a 17 0a 06 63 68 61 74 3a 31 18 01 32 01 65 38 03 48 01 50 01 58 01 70 01",
        2,
        SubscribeRequest(
            topic="chat:1",
            recover=True,
            epoch="e",
            offset=3,
            positioned=True,
            recoverable=True,
            join_leave=True,
            flag=1,
        ),
    ),
    (
        "centrifuge-java …/Client.java: connect, a server's subscription that is not recoverable",
        "11 08 01 22 0d 1a 05 0a 01 61 12 00 22 04 6a 61 76 61",
        1,
        ConnectRequest(name="java", subs={"a": SubscribeRequest()}),
    ),
    (
        "centrifuge-java …/Client.java: send, which alone has an id",
        "0d 08 09 62 09 0a 07 7b 22 61 22 3a 31 7d",
        9,
        SendRequest(data=Raw('{"a":1}')),
    ),
    (
        "centrifuge-java …/Client.java: history, a negative limit in ten bytes",
        "1c 08 04 52 18 0a 04 6e 65 77 73 38 ff ff ff ff ff ff ff ff ff 01 42 05 08 02 12 01 65",
        4,
        HistoryRequest(topic="news", limit=-1, since=StreamPosition(offset=2, epoch="e")),
    ),
    (
        "centrifuge-go client.go: subscribe, flag for a getter of state",
        "0e 08 02 2a 0a 0a 01 78 18 01 32 01 65 70 03",
        2,
        SubscribeRequest(topic="x", recover=True, epoch="e", flag=3),
    ),
    ("centrifuge-go client.go: pong", "00", 0, None),
    (
        "centrifuge-csharp src/Centrifugal.Centrifuge/Client.cs: connect, headers",
        "25 08 01 22 21 1a 0f 0a 01 73 12 0a 0a 01 73 18 01 32 01 65 38 01 22 06 63 73 68 61 72"
        "70 32 06 0a 01 6b 12 01 76",
        1,
        ConnectRequest(
            name="csharp",
            headers={"k": "v"},
            subs={"s": SubscribeRequest(topic="s", recover=True, epoch="e", offset=1)},
        ),
    ),
    (
        "centrifuge-csharp src/Centrifugal.Centrifuge/Client.cs: rpc, no text",
        "0e 08 05 6a 0a 0a 02 ff 00 12 04 65 63 68 6f",
        5,
        RPCRequest(data=Raw(b"\xff\x00"), method="echo"),
    ),
    (
        "centrifuge-csharp src/Centrifugal.Centrifuge/Subscription.cs: a filter of tags",
        "18 08 02 2a 14 0a 01 73 6a 0d 12 01 6b 1a 02 69 6e 2a 01 61 2a 01 62 70 01",
        2,
        SubscribeRequest(topic="s", tf=FilterNode(key="k", cmp="in", vals=["a", "b"]), flag=1),
    ),
    (
        "centrifuge-js src/protobuf.codec.ts, src/centrifuge.ts: history, an offset of zero",
        "0e 08 06 52 0a 0a 02 61 62 38 00 42 02 08 00",
        6,
        HistoryRequest(topic="ab", since=StreamPosition()),
    ),
    (
        "centrifuge-js src/subscription.ts: sub_refresh of a shared poll, which is not spoken here",
        "12 08 07 7a 0e 0a 02 61 62 18 01 22 06 0a 01 73 12 01 2a",
        7,
        SubRefreshRequest(topic="ab", type=1),
    ),
]


@pytest.mark.parametrize(("source", "data", "id", "request_"), _SENT, ids=[it[0] for it in _SENT])
def test_server_reads_protobuf_of(
    source: str, data: str, id: int, request_: Request | None
) -> None:
    expected = Command() if request_ is None else Command.of(id, request_)
    assert commands(PROTOBUF, bytes.fromhex(data)) == [expected]


def test_server_reads_a_frame_of_several_in_protobuf() -> None:
    data = b"".join(bytes.fromhex(data) for _, data, _, _ in _SENT)
    assert [command.request for command in commands(PROTOBUF, data)] == [it[3] for it in _SENT]


_SENT_JSON: list[tuple[str, str, list[Command]]] = [
    (
        "centrifuge-js src/centrifuge.ts: connect with its subscriptions in one frame",
        '{"connect":{"token":"t","data":{"user":"ada"},"name":"js","headers":{"X-A":"1"},'
        '"subs":{"news":{"recover":true,"offset":3,"epoch":"e"}}},"id":1}\n'
        '{"subscribe":{"channel":"chat:1","flag":1},"id":2}\n'
        '{"subscribe":{"channel":"chat:2","token":"s","positioned":true,"recoverable":true,'
        '"join_leave":true,"flag":3,"recover":true,"offset":9,"epoch":"e","delta":"fossil",'
        '"tf":{"op":"or","nodes":[{"key":"a","cmp":"ex"},{"key":"b","cmp":"eq","val":"1"}]}},"id":3}',
        [
            Command.of(
                1,
                ConnectRequest(
                    token="t",
                    data=Raw('{"user":"ada"}'),
                    name="js",
                    headers={"X-A": "1"},
                    subs={"news": SubscribeRequest(recover=True, offset=3, epoch="e")},
                ),
            ),
            Command.of(2, SubscribeRequest(topic="chat:1", flag=1)),
            Command.of(
                3,
                SubscribeRequest(
                    topic="chat:2",
                    token="s",
                    positioned=True,
                    recoverable=True,
                    join_leave=True,
                    flag=3,
                    recover=True,
                    offset=9,
                    epoch="e",
                    delta="fossil",
                    tf=FilterNode(
                        op="or",
                        nodes=[
                            FilterNode(key="a", cmp="ex"),
                            FilterNode(key="b", cmp="eq", val="1"),
                        ],
                    ),
                ),
            ),
        ],
    ),
    ("centrifuge-js src/centrifuge.ts: pong", "{}", [Command()]),
    (
        "centrifuge-js src/centrifuge.ts: send, null as data, data that is undefined",
        '{"send":{"data":null}}\n{"rpc":{"method":"m"},"id":4}\n'
        '{"publish":{"channel":"c","data":"\\ud83d\\ude00"},"id":5}',
        [
            Command.of(0, SendRequest(data=Raw("null"))),
            Command.of(4, RPCRequest(method="m")),
            Command.of(5, PublishRequest(topic="c", data=Raw('"\\ud83d\\ude00"'))),
        ],
    ),
    (
        "centrifuge-js src/subscription.ts: what only maps and shared polls have is passed over",
        '{"subscribe":{"channel":"m","type":1,"phase":2,"limit":100,"asc":true},"id":2}\n'
        '{"sub_refresh":{"channel":"p","type":2,"untrack":["a"]},"id":3}',
        [
            Command.of(2, SubscribeRequest(topic="m", type=1)),
            Command.of(3, SubRefreshRequest(topic="p", type=2)),
        ],
    ),
    (
        "centrifuge-python centrifuge/codecs.py, client.py: json.dumps with its spaces",
        '{"id": 1, "connect": {"data": {"user": "ad\\u00e4"}}}\n'
        '{"id": 2, "history": {"channel": "c", "limit": -1, "reverse": false, '
        '"since": {"offset": 1, "epoch": "e"}}}\n{"id": 3, "presence": {"channel": "c"}}\n{}',
        [
            Command.of(1, ConnectRequest(data=Raw('{"user": "ad\\u00e4"}'))),
            Command.of(
                2,
                HistoryRequest(topic="c", limit=-1, since=StreamPosition(offset=1, epoch="e")),
            ),
            Command.of(3, PresenceRequest(topic="c")),
            Command(),
        ],
    ),
    (
        "centrifuge-go client.go, protocol encode.go: easyjson, a newline at the end",
        '{"id":7,"refresh":{"token":"t"}}\n{"id":8,"sub_refresh":{"channel":"c","token":"t"}}\n'
        '{"id":9,"unsubscribe":{"channel":"c"}}\n',
        [
            Command.of(7, RefreshRequest(token="t")),
            Command.of(8, SubRefreshRequest(topic="c", token="t")),
            Command.of(9, UnsubscribeRequest(topic="c")),
        ],
    ),
]


@pytest.mark.parametrize(
    ("source", "data", "expected"), _SENT_JSON, ids=[it[0] for it in _SENT_JSON]
)
def test_server_reads_json_of(source: str, data: str, expected: list[Command]) -> None:
    assert commands(JSON, data) == expected
    # Text or not is the same to a server.
    assert commands(JSON, data.encode()) == expected


# What is sent to them: in Protobuf as the schema has it, in JSON as the SDKs look at it.
_ADA = ClientInfo(user="u", client="c")
_REPLIES: list[tuple[str, Reply, str, str]] = [
    (
        "ping: centrifuge-dart lib/src/transport.dart, centrifuge-js src/centrifuge.ts",
        Reply(),
        "00",
        "{}",
    ),
    (
        "client, ping and pong: centrifuge-python centrifuge/client.py",
        Reply.of(1, ConnectResult(client="c", version="1", ping=25, pong=True)),
        "0e 08 01 2a 0a 0a 01 63 12 01 31 38 19 40 01",
        '{"id":1,"connect":{"client":"c","version":"1","ping":25,"pong":true}}',
    ),
    (
        "an empty result is there: centrifuge-dart lib/src/transport.dart",
        Reply.of(3, UnsubscribeResult()),
        "04 08 03 3a 00",
        '{"id":3,"unsubscribe":{}}',
    ),
    (
        "likewise: centrifuge-python centrifuge/client.py",
        Reply.of(3, PublishResult()),
        "04 08 03 42 00",
        '{"id":3,"publish":{}}',
    ),
    (
        "a recovery, the request's offset: centrifuge-java …/Subscription.java",
        Reply.of(
            2,
            SubscribeResult(
                recoverable=True,
                epoch="e",
                publications=[Publication(data=Raw("1"), offset=4)],
                recovered=True,
                offset=3,
                positioned=True,
                was_recovering=True,
            ),
        ),
        "18 08 02 32 14 18 01 32 01 65 3a 05 22 01 31 30 04 40 01 48 03 50 01 60 01",
        '{"id":2,"subscribe":{"recoverable":true,"epoch":"e",'
        '"publications":[{"data":1,"offset":4}],"recovered":true,"offset":3,"positioned":true,'
        '"was_recovering":true}}',
    ),
    (
        "an error has its message: centrifuge-python centrifuge/client.py",
        Reply(id=2, error=Error(code=100, message="internal server error", temporary=True)),
        "1f 08 02 12 1b 08 64 12 15 69 6e 74 65 72 6e 61 6c 20 73 65 72 76 65 72 20 65 72 72 6f 72"
        "18 01",
        '{"id":2,"error":{"code":100,"message":"internal server error","temporary":true}}',
    ),
    (
        "a publication: centrifuge-swift Sources/SwiftCentrifuge/Client.swift",
        Reply(
            push=Push(
                topic="chat:1",
                pub=Publication(
                    data=Raw('{"a":1}'),
                    offset=7,
                    info=ClientInfo(user="u", client="c", conn_info=Raw("{}")),
                    tags={"k": "v"},
                ),
            )
        ),
        "2b 22 29 12 06 63 68 61 74 3a 31 22 1f 22 07 7b 22 61 22 3a 31 7d 2a 0a 0a 01 75 12 01 63"
        "1a 02 7b 7d 30 07 3a 06 0a 01 6b 12 01 76",
        '{"push":{"channel":"chat:1","pub":{"data":{"a":1},"info":{"user":"u","client":"c",'
        '"conn_info":{}},"offset":7,"tags":{"k":"v"}}}}',
    ),
    (
        "join: centrifuge-csharp src/Centrifugal.Centrifuge/Client.cs",
        Reply(push=Push(topic="a", join=Join(info=_ADA))),
        "0f 22 0d 12 01 61 2a 08 0a 06 0a 01 75 12 01 63",
        '{"push":{"channel":"a","join":{"info":{"user":"u","client":"c"}}}}',
    ),
    (
        "leave, without a user: centrifuge-js src/centrifuge.ts",
        Reply(push=Push(topic="a", leave=Leave(info=ClientInfo(client="c")))),
        "0c 22 0a 12 01 61 32 05 0a 03 12 01 63",
        '{"push":{"channel":"a","leave":{"info":{"user":"","client":"c"}}}}',
    ),
    (
        "unsubscribe has its reason: centrifuge-python centrifuge/client.py",
        Reply(push=Push(topic="a", unsubscribe=Unsubscribe(2500, "insufficient state"))),
        "1e 22 1c 12 01 61 3a 17 10 c4 13 1a 12 69 6e 73 75 66 66 69 63 69 65 6e 74 20 73 74 61 74"
        "65",
        '{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}',
    ),
    (
        "presence: centrifuge-js src/centrifuge.ts",
        Reply.of(3, PresenceResult({"c": _ADA})),
        "11 08 03 4a 0d 0a 0b 0a 01 63 12 06 0a 01 75 12 01 63",
        '{"id":3,"presence":{"presence":{"c":{"user":"u","client":"c"}}}}',
    ),
    (
        "numbers that are zero: centrifuge-js src/centrifuge.ts, presenceStats",
        Reply.of(3, PresenceStatsResult()),
        "04 08 03 52 00",
        '{"id":3,"presence_stats":{"num_clients":0,"num_users":0}}',
    ),
    (
        "history of nothing: centrifuge-js src/centrifuge.ts",
        Reply.of(3, HistoryResult(epoch="e")),
        "07 08 03 5a 03 12 01 65",
        '{"id":3,"history":{"publications":[],"epoch":"e","offset":0}}',
    ),
    (
        "a message of the server: centrifuge-go client.go",
        Reply(push=Push(message=ServerMessage(data=Raw("[]")))),
        "08 22 06 42 04 0a 02 5b 5d",
        '{"push":{"message":{"data":[]}}}',
    ),
    (
        "disconnect: centrifuge-js src/centrifuge.ts",
        Reply(push=Push(disconnect=Disconnect(3001, "bye", True))),
        "0e 22 0c 5a 0a 08 b9 17 12 03 62 79 65 18 01",
        '{"push":{"disconnect":{"code":3001,"reason":"bye","reconnect":true}}}',
    ),
    (
        "a result without data: centrifuge-python centrifuge/client.py",
        Reply.of(4, RPCResult()),
        "04 08 04 6a 00",
        '{"id":4,"rpc":{}}',
    ),
    (
        "our own call, inside of a push, where SDKs pass over it",
        Reply(push=Push(call=Call(1, "m", Raw("1")))),
        "0d 22 0b c2 3e 08 08 01 12 01 6d 1a 01 31",
        '{"push":{"call":{"id":1,"method":"m","data":1}}}',
    ),
]


@pytest.mark.parametrize(
    ("what", "reply", "protobuf", "text"), _REPLIES, ids=[it[0] for it in _REPLIES]
)
def test_client_gets(what: str, reply: Reply, protobuf: str, text: str) -> None:
    assert PROTOBUF.encode(reply) == bytes.fromhex(protobuf)
    assert JSON.encode(reply) == text
    assert replies(PROTOBUF, bytes.fromhex(protobuf)) == replies(JSON, text) == [reply]


def test_javascript_reads_every_line_of_a_frame() -> None:
    """src/json.ts of centrifuge-js: trim, split, parse each line; one that fails ends all."""
    frame = JSON.join(JSON.encode(reply) for _, reply, _, _ in _REPLIES)
    assert isinstance(frame, str)
    read = [json.loads(line) for line in frame.strip().split("\n")]
    assert read == [json.loads(text) for _, _, _, text in _REPLIES]


def test_a_reply_says_what_it_is() -> None:
    for _, reply, _, _ in _REPLIES:
        parts = [reply.error, reply.result, reply.push]
        assert len([part for part in parts if part is not None]) == (not reply.is_ping)
        assert (reply.push is None) or reply.push.event is not None


def test_extensions_have_numbers_that_others_pass_over() -> None:
    connect = ConnectRequest(x_trioweb=1)
    assert PROTOBUF.encode(Command.of(1, connect)) == bytes.fromhex("07 08 01 22 03 c0 3e 01")
    assert JSON.encode(Command.of(1, connect)) == '{"id":1,"connect":{"x_trioweb":1}}'
    assert RPCRequest().data is UNSET
