"""Ctrl-C comes out as itself, whichever line of a topic server it strikes, and leaves nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import pytest
import trio

import trioweb
from tests.topic_server.support import ALL, JSON
from trioweb import Member, SubscribeRequest, open_topic_server
from trioweb._nursery import open_hidden_nursery
from trioweb.testing import Network, interrupt_everywhere


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    """A server that is interrupted may have reason to log, and does so hundreds of times here."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def a_members_life() -> None:
    """One connects, subscribes, publishes, calls, is called to leave, and another watches it."""

    async def on_subscribe(member: Member, request: SubscribeRequest) -> None:
        await trio.sleep(0.1)

    async def call(member: Member, data: object) -> object:
        await trio.sleep(0.1)
        member.unsubscribe("chat:1")
        return data

    network = Network()
    listener = network.host("server").listen(80)
    hub: trioweb.Hub | None = None
    server: trioweb.TopicServer | None = None
    try:
        async with (
            trioweb.open_hub() as hub,
            open_topic_server(
                hub, topics={"chat": ALL}, on_subscribe=on_subscribe, calls={"call": call}, ping=5
            ) as server,
            open_hidden_nursery() as nursery,
        ):
            serve = partial(trioweb.serve_listeners, server.handle, [listener], subprotocols=[JSON])
            await nursery.start(serve)
            connect = partial(
                trioweb.open_connection,
                "ws://server/",
                dial=network.host("client").dial,
                subprotocols=[JSON],
            )
            async with connect() as one, connect() as other:
                for connection in (one, other):
                    await connection.send(
                        '{"id":1,"connect":{}}\n'
                        '{"id":2,"subscribe":{"channel":"chat:1","join_leave":true}}'
                    )
                    assert '"recoverable"' in str(await connection.receive())
                await one.send('{"id":3,"publish":{"channel":"chat:1","data":1}}')
                await one.send('{"id":4,"rpc":{"method":"call","data":2}}')
                while '"id":4' not in str(await one.receive()):
                    pass
                while '"leave"' not in str(await other.receive()):
                    pass
                await trio.sleep(6)
    finally:
        assert not network.open_names()
        if server is not None and hub is not None:
            assert not server._rooms
            assert not server._members
            assert not server._announcer.listened
            assert not hub._presence._topics  # type: ignore[attr-defined]
            assert hub.statistics().subscribers == 0


@pytest.mark.slow
def test_an_interrupt_comes_out_and_leaves_nobody_in_a_topic() -> None:
    assert interrupt_everywhere(a_members_life, packages=("trioweb._topic_server",)) > 100
