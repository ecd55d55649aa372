"""The reply, then the publications from its offset on, each once: over whatever carries them."""

from __future__ import annotations

import ssl
from functools import partial

import pytest
import trio
import trio.lowlevel

import trioweb
from tests.support import HOST, tls_contexts
from tests.topic_server.support import FORMATS
from trioweb import Connection, TopicServer
from trioweb._centrifuge import CODECS
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Command
from trioweb._nursery import open_hidden_nursery

pytestmark = pytest.mark.network

_PUBLICATIONS = 300


async def publish(server: TopicServer) -> None:
    while True:
        for _ in range(20):
            server.publish("chat:busy", "x" * 100)
        await trio.lowlevel.checkpoint()


async def subscribed(connection: Connection, format: str, *, is_slow: bool) -> None:
    """Connect and subscribe in one message, and look at all that comes."""
    codec = CODECS[format]
    commands = [
        Command.of(1, wire.ConnectRequest()),
        Command.of(2, wire.SubscribeRequest(topic="chat:busy")),
    ]
    await connection.send(codec.join([codec.encode(command) for command in commands]))
    told, expected = 0, 0
    async for message in connection:
        for reply in codec.decode_replies(message):
            if told < 2:
                assert reply.id == told + 1
                told += 1
                if isinstance(reply.result, wire.SubscribeResult):
                    expected = reply.result.offset + 1
                    last = expected + _PUBLICATIONS
            else:
                assert reply.push is not None and reply.push.pub is not None
                assert reply.push.pub.offset == expected
                expected += 1
                if expected == last:
                    return
        if is_slow:
            await trio.sleep(0.001)
    raise AssertionError(f"closed: {connection.close_code} {connection.close_reason}")


@FORMATS
@pytest.mark.parametrize("is_slow", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("transport", ["kernel", "tls"])
async def test_the_reply_and_then_every_publication(
    transport: str, is_slow: bool, format: str
) -> None:
    client_context, server_context = tls_contexts()
    given: ssl.SSLContext | None = server_context if transport == "tls" else None
    topics = {"chat": trioweb.TopicRules(retain=trioweb.Retain(max_messages=20_000))}
    with trio.fail_after(60):
        async with (
            trioweb.open_hub() as hub,
            trioweb.open_topic_server(hub, topics=topics) as server,
            open_hidden_nursery() as nursery,
        ):
            serve = partial(
                trioweb.serve,
                server.handle,
                0,
                host="127.0.0.1",
                ssl_context=given,
                subprotocols=server.subprotocols,
            )
            web: trioweb.Server = await nursery.start(serve)

            async def dial(host: str, port: int) -> trio.abc.Stream:
                return await trio.open_tcp_stream("127.0.0.1", web.port)

            scheme = "ws" if given is None else "wss"
            connect = partial(
                trioweb.open_connection,
                f"{scheme}://{HOST}:{web.port}/",
                subprotocols=[format],
                dial=dial,
                ssl_context=None if given is None else client_context,
            )
            nursery.start_soon(publish, server)
            for _ in range(5):
                async with connect() as connection:
                    await subscribed(connection, format, is_slow=is_slow)
