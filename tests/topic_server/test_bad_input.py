"""What peers should not send, and what becomes of it: an error for one request, or the end."""

from __future__ import annotations

import json
import random

import pytest
import trio

from tests.topic_server.support import JSON, PROTOBUF, serving, settle

CONNECT = '{"id":1,"connect":{}}'
SUBSCRIBE = '{"id":2,"subscribe":{"channel":"chat:1"}}'
END = "3501 bad request"

# What is sent, and what comes: the kinds of the replies, with the code of an error; the end.
CASES: dict[str, tuple[list[str | bytes], list[str]]] = {
    "not JSON": (["x"], [END]),
    "empty text": ([""], [END]),
    "newline only": (["\n"], [END]),
    "array": (["[]"], [END]),
    "number": (["5"], [END]),
    "string": (['"a"'], [END]),
    "subscribe before connect": (['{"id":1,"subscribe":{"channel":"chat:1"}}'], [END]),
    "pong before connect": (["{}"], [END]),
    "connect twice": ([CONNECT, '{"id":2,"connect":{}}'], ["connect", END]),
    "connect without id": (['{"connect":{}}'], [END]),
    "no id": ([CONNECT, '{"subscribe":{"channel":"chat:1"}}'], ["connect", END]),
    "unknown command": ([CONNECT, '{"id":2,"dance":{}}'], ["connect", END]),
    "only id": ([CONNECT, '{"id":2}'], ["connect", END]),
    "ping command": ([CONNECT, '{"id":2,"ping":{}}'], ["connect", END]),
    "negative id": ([CONNECT, '{"id":-2,"rpc":{"method":"echo"}}'], ["connect", END]),
    "huge id": ([CONNECT, '{"id":4294967296,"rpc":{"method":"echo"}}'], ["connect", END]),
    "id as text": ([CONNECT, '{"id":"2","rpc":{"method":"echo"}}'], ["connect", END]),
    "float id": ([CONNECT, '{"id":2.0,"rpc":{"method":"echo"}}'], ["connect", END]),
    "subscribe without channel": ([CONNECT, '{"id":2,"subscribe":{}}'], ["connect", END]),
    "null request": ([CONNECT, '{"id":2,"subscribe":null}'], ["connect", END]),
    "what stands before a bad command is done": (
        [CONNECT, SUBSCRIBE + "\n" + "x"],
        ["connect", "subscribe", END],
    ),
    "same id twice": (
        [CONNECT, '{"id":2,"rpc":{"method":"hang"}}\n{"id":2,"rpc":{"method":"echo"}}'],
        ["connect", "error 107"],
    ),
    "subscribe twice": (
        [CONNECT, SUBSCRIBE, '{"id":3,"subscribe":{"channel":"chat:1"}}'],
        ["connect", "subscribe", "error 105"],
    ),
    "two requests": (
        [CONNECT, '{"id":2,"unsubscribe":{"channel":"x"},"rpc":{"method":"echo"}}'],
        ["connect", "unsubscribe"],
    ),
    "unsubscribe from nothing": (
        [CONNECT, '{"id":2,"unsubscribe":{"channel":"chat:1"}}'],
        ["connect", "unsubscribe"],
    ),
    "publish without data": (
        [CONNECT, SUBSCRIBE, '{"id":3,"publish":{"channel":"chat:1"}}'],
        ["connect", "subscribe", "error 107"],
    ),
    "publish NaN": (
        [CONNECT, SUBSCRIBE, '{"id":3,"publish":{"channel":"chat:1","data":NaN}}'],
        ["connect", "subscribe", END],
    ),
    "publish 1e400": (
        [CONNECT, SUBSCRIBE, '{"id":3,"publish":{"channel":"chat:1","data":1e400}}'],
        ["connect", "subscribe", "publish", "push"],
    ),
    "call with 1e400": (
        [CONNECT, '{"id":3,"rpc":{"method":"echo","data":1e400}}'],
        ["connect", "error 107"],
    ),
    "publish lone surrogate": (
        [CONNECT, SUBSCRIBE, '{"id":3,"publish":{"channel":"chat:1","data":"\\ud800"}}'],
        ["connect", "subscribe", "publish", "push"],
    ),
    "deep nesting": (
        [CONNECT, '{"id":2,"rpc":{"method":"echo","data":' + "[" * 30000 + "]" * 30000 + "}}"],
        ["connect", END],
    ),
    "sub_refresh unsubscribed": (
        [CONNECT, '{"id":2,"sub_refresh":{"channel":"chat:1","token":"a"}}'],
        ["connect", "error 103"],
    ),
    "refresh without a way to": ([CONNECT, '{"id":2,"refresh":{}}'], ["connect", "error 108"]),
    "send without a way to": (
        [CONNECT, SUBSCRIBE + '\n{"send":{"data":1}}'],
        ["connect", "subscribe", "3508 not available"],
    ),
    "trailing newline": ([CONNECT + "\n"], ["connect"]),
    "CRLF": ([CONNECT + '\r\n{"id":2,"rpc":{"method":"echo"}}'], ["connect", "rpc"]),
    "blank line between": ([CONNECT + '\n\n{"id":2,"rpc":{"method":"echo"}}'], ["connect", END]),
    "binary frame on JSON": ([CONNECT.encode()], ["connect"]),
    "filter": (
        [CONNECT, '{"id":2,"subscribe":{"channel":"chat:1","tf":{"key":"a"}}}'],
        ["connect", "error 107"],
    ),
    "map type": (
        [CONNECT, '{"id":2,"subscribe":{"channel":"chat:1","type":1}}'],
        ["connect", "error 108"],
    ),
    "delta": (
        [CONNECT, '{"id":2,"subscribe":{"channel":"chat:1","delta":"fossil"}}'],
        ["connect", "subscribe"],
    ),
    "unknown fields": (['{"id":1,"connect":{"x":1},"y":{}}'], ["connect"]),
    "a pong too many": ([CONNECT, "{}", "{}"], ["connect"]),
    "an answer to nothing": ([CONNECT, '{"x_answer":{"id":7}}'], ["connect"]),
    "the end of nothing": ([CONNECT, '{"x_cancel":{"id":7}}'], ["connect"]),
}


@pytest.mark.parametrize("case", CASES)
async def test_json(case: str) -> None:
    sent, wanted = CASES[case]
    assert await outcome(JSON, sent) == wanted


async def outcome(format: str, sent: list[str | bytes]) -> list[str]:
    async def echo(member: object, data: object) -> object:
        return data

    async def hang(member: object, data: object) -> None:
        await trio.sleep_forever()

    async with serving(calls={"echo": echo, "hang": hang}) as web:
        watcher = await web.connect(format)
        peer = await web.open(format)
        for message in sent:
            if peer.connection.close_code is None:
                await peer.connection.send(message)
                await settle()
        found = []
        for reply in peer.log:
            if reply.error is not None:
                found.append(f"error {reply.error.code}")
                assert reply.error.message
            elif reply.push is not None:
                found.append("push")
            else:
                text = type(reply.result).__name__.removesuffix("Result").lower()
                found.append(text)
        if peer.connection.close_code is not None:
            found.append(f"{peer.connection.close_code} {peer.connection.close_reason}")
        assert watcher.closed() == (None, "")
        return found


PROTOBUF_CASES: dict[str, tuple[list[str | bytes], list[str]]] = {
    "connect": ([b"\x04\x08\x01\x22\x00"], ["connect"]),
    "truncated length": ([b"\x05\x08\x01\x22\x00"], [END]),
    "a varint of 11 bytes": ([b"\xff" * 10 + b"\x01"], [END]),
    "wrong wire type": ([b"\x04\x0a\x00\x22\x00"], [END]),
    "subscribe before connect": ([b"\x0c\x08\x01\x2a\x08\x0a\x06chat:1"], [END]),
    "pong before connect": ([b"\x00"], [END]),
    "connect twice": ([b"\x04\x08\x01\x22\x00", b"\x04\x08\x02\x22\x00"], ["connect", END]),
    "connect without id": ([b"\x02\x22\x00"], [END]),
    "no id": ([b"\x04\x08\x01\x22\x00\x0a\x2a\x08\x0a\x06chat:1"], ["connect", END]),
    "only id": ([b"\x04\x08\x01\x22\x00\x02\x08\x02"], ["connect", END]),
    "unknown command": (
        [b"\x04\x08\x01\x22\x00", b"\x05\x08\x02\x82\x7d\x00"],
        ["connect", END],
    ),
    "subscribe without channel": (
        [b"\x04\x08\x01\x22\x00", b"\x04\x08\x02\x2a\x00"],
        ["connect", END],
    ),
    "unknown fields": ([b"\x07\x08\x01\x22\x00\xf8\x3f\x05"], ["connect"]),
    "bad UTF-8": ([b"\x07\x08\x01\x22\x03\x0a\x01\xff"], [END]),
    "text": (["{}"], [END]),
    "nothing": ([b""], [END]),
    "a pong too many": ([b"\x04\x08\x01\x22\x00", b"\0\0\0"], ["connect"]),
}


@pytest.mark.parametrize("case", PROTOBUF_CASES)
async def test_protobuf(case: str) -> None:
    sent, wanted = PROTOBUF_CASES[case]
    assert await outcome(PROTOBUF, sent) == wanted


@pytest.mark.parametrize("format", [JSON, PROTOBUF])
async def test_no_bytes_end_more_than_their_own_connection(
    format: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands that were cut, joined and changed at random: each is answered or ends its sender."""
    chance = random.Random(7)
    good = {
        JSON: [
            CONNECT.encode(),
            SUBSCRIBE.encode(),
            b"\n",
            json.dumps({"id": 9, "rpc": {}}).encode(),
        ],
        PROTOBUF: [b"\x04\x08\x01\x22\x00", b"\x0c\x08\x02\x2a\x08\x0a\x06chat:1", b"\0"],
    }[format]
    async with serving() as web:
        watcher = await web.connect(format)
        await watcher.subscribe("chat:1")
        for _ in range(100):
            peer = await web.open(format)
            message = bytearray(b"".join(chance.choices(good, k=3)))
            for _ in range(chance.randrange(3)):
                message[chance.randrange(len(message))] = chance.randrange(256)
            await peer.connection.send(bytes(message[: chance.randrange(len(message)) + 1]))
            await settle()
            assert peer.closed() in [(None, ""), (3501, "bad request")]
            await peer.connection.aclose()
        web.server.publish("chat:1", "still there")
        await settle()
        assert watcher.offsets("chat:1") == [1]
        assert web.server.statistics().members == 1
    assert not caplog.records
