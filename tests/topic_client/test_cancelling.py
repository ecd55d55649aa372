"""Nothing outlives its block, whatever is cancelled or interrupted, and wherever."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import RETRY, client_of, cut
from tests.topic_server.support import ALL, serving, settle
from trioweb import Member
from trioweb._nursery import open_hidden_nursery
from trioweb.testing import Network, interrupt_everywhere, no_leaks


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def sleep(member: Member, data: Any) -> Any:
    await trio.sleep(data)
    return data


async def a_clients_life(network: Network, url: str) -> None:
    """One subscribes, publishes, calls, is cut off, comes back and leaves."""

    async def token() -> str:
        await trio.sleep(0.01)
        return ""

    async with trioweb.open_topic_client(
        url, dial=network.host("client").dial, retry=RETRY, token=token
    ) as client:
        messages = client.messages()
        async with client.subscription("chat:1", events=True, max_messages=2) as chat:
            for number in range(5):
                await client.publish("chat:1", number)
                if number == 2:
                    network.reset("client")
                while getattr(await anext(chat), "data", None) != number:
                    pass
            assert await client.call("sleep", 0.1) == 0.1
            await client.history("chat:1")
            await client.presence("chat:1")
            await client.send("hello")
            assert await anext(messages) == "hello"


async def said_back(member: Member, data: Any) -> None:
    await member.send(data)


async def test_a_client_that_is_cancelled_anywhere_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(calls={"sleep": sleep}, on_message=said_back) as web:
        await a_clients_life(web.network, web.url)
        steps = 0
        while True:
            steps += 3  # each would take long, and they are others in each turn
            async with no_leaks(web.network):
                with trio.CancelScope() as scope:
                    cancelling = _CancelAt(steps, scope)
                    trio.lowlevel.add_instrument(cancelling)
                    try:
                        await a_clients_life(web.network, web.url)
                    finally:
                        trio.lowlevel.remove_instrument(cancelling)
                await settle()
            assert not web.server.presence("chat:1")
            if not scope.cancelled_caught:
                break
        assert steps > 100


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope when so many steps of tasks have been taken."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._steps, self._scope = steps, scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps -= 1
        if self._steps == 0:
            self._scope.cancel()


async def test_a_subscription_that_is_cancelled_leaves_the_topic(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        with trio.move_on_after(1):
            async with client.subscription("chat:1"):
                await settle()
                assert len(web.server.presence("chat:1")) == 1
                await trio.sleep_forever()
        await settle()
        assert not web.server.presence("chat:1")
        async with client.subscription("chat:1") as chat:
            web.server.publish("chat:1", 1)
            assert (await anext(chat)).data == 1


async def test_what_is_cancelled_while_there_is_no_connection_is_not_done_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as web, client_of(web) as client:
        async with client.subscription("chat:1"):
            web.network.refuse("server", duration=5)
            await cut(web)
            with trio.move_on_after(1) as scope:
                await client.publish("chat:1", "never")
            assert scope.cancelled_caught
            await trio.sleep(10)
            await client.publish("chat:1", "now")
            told = await client.history("chat:1")
            assert [each.data for each in told.publications] == ["now"]


async def an_interrupted_life() -> None:
    network = Network()
    listener = network.host("server").listen(80)
    try:
        async with (
            trioweb.open_hub() as hub,
            trioweb.open_topic_server(
                hub, topics={"chat": ALL}, calls={"sleep": sleep}, on_message=said_back
            ) as server,
            open_hidden_nursery() as nursery,
        ):
            serve = partial(
                trioweb.serve_listeners,
                server.handle,
                [listener],
                subprotocols=server.subprotocols,
            )
            await nursery.start(serve)
            await a_clients_life(network, "ws://server/")
    finally:
        assert not network.open_names()


@pytest.mark.slow
def test_an_interrupt_comes_out_and_leaves_nothing() -> None:
    assert interrupt_everywhere(an_interrupted_life, packages=("trioweb._topic_client",)) > 100
