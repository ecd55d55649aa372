"""A call from a thread that does not run Trio is refused before anything is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

import trioweb
from trioweb.testing import Network, open_pair


async def refused(call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"call it by trio\.from_thread\.run_sync"):
        await trio.to_thread.run_sync(call)


async def test_connection_sends_nothing_for_another_thread() -> None:
    async with open_pair() as (client, server), trio.open_nursery() as nursery:
        await refused(lambda: client.send_nowait("from a thread"))

        @nursery.start_soon
        async def receive() -> None:
            assert await server.receive() == "from Trio"

        await trio.testing.wait_all_tasks_blocked()
        await refused(lambda: client.send_nowait("from a thread"))
        client.send_nowait("from Trio")


async def test_client_accepts_nothing_from_another_thread_and_lives_on() -> None:
    received: list[object] = []
    network = Network()

    async def handler(connection: trioweb.Connection) -> None:
        async for message in connection:
            received.append(message)

    listener = network.host("server").listen()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trioweb.serve_listeners, handler, [listener])
        url = f"ws://server:{listener.port}/"
        retry = trioweb.Retry(initial=0.01)
        async with trioweb.open_client(
            url, dial=network.host("client").dial, retry=retry
        ) as client:
            await client.wait_open()
            async with trio.open_nursery() as receiving:
                receiving.start_soon(client.receive)
                await trio.testing.wait_all_tasks_blocked()
                await refused(lambda: client.send_nowait("from a thread"))
                with client.messages() as messages:
                    await refused(client.messages)
                    await refused(lambda: messages.__exit__(None, None, None))
                receiving.cancel_scope.cancel()
            assert client.statistics().accepted == 0
            # What waits for the client hears of the end of its connection all the same.
            for connection in server.connections:
                await connection.aclose(1012)
            await client.send("from Trio")
            await client.flush()
        assert received == ["from Trio"]
        assert client.statistics().sessions == 2
        nursery.cancel_scope.cancel()


async def test_topic_takes_nothing_from_another_thread() -> None:
    async with open_pair() as (client, server), trioweb.open_hub() as hub:
        topic = hub.topic("lobby")
        await refused(lambda: topic.publish("from a thread"))
        await refused(lambda: topic.subscribe(server))
        assert (topic.head, topic.subscribers) == (0, 0)
        with topic.subscribe(server) as subscription:
            await refused(subscription.close)
            topic.publish("from Trio")
            assert await client.receive() == "from Trio"
        assert topic.subscribers == 0
        subscription.close()
        await trio.to_thread.run_sync(subscription.close)  # it is closed already
