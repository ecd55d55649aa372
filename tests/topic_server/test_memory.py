"""What a member takes, beside what any subscriber does."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

import trioweb
from tests.topic_server.support import JSON
from trioweb import Connection, TopicRules
from trioweb._server import serve_listeners
from trioweb.testing import Network

_PEERS: Final = 200
_ASK: Final = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"chat:1"}}'


async def bytes_of_a_peer(*, is_member: bool) -> float:
    """What one takes, both ends and the network in memory counted."""
    network = Network()
    topics = {"chat": TopicRules(presence=True)}
    async with (
        trioweb.open_hub() as hub,
        trioweb.open_topic_server(hub, topics=topics, ping=3600) as server,
        trio.open_nursery() as nursery,
    ):

        async def plain(connection: Connection) -> None:
            with hub.topic("chat:1").subscribe(connection):
                async for _ in connection:
                    pass

        handler: Callable[[Connection], Awaitable[None]] = server.handle if is_member else plain
        listener = network.host("server").listen()
        serve = partial(serve_listeners, handler, [listener], subprotocols=[JSON], heartbeat=None)
        await nursery.start(serve)

        async def stay(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with trioweb.open_connection(
                f"ws://server:{listener.port}/",
                dial=network.host("client").dial,
                subprotocols=[JSON],
                heartbeat=None,
            ) as connection:
                await connection.send(_ASK)
                if is_member:
                    await connection.receive()
                task_status.started()
                await trio.sleep_forever()

        async def come(count: int) -> None:
            for _ in range(count):
                await nursery.start(stay)
            await trio.sleep(20)  # until what they had to say in time is forgotten
            gc.collect()

        await come(20)
        tracemalloc.start()
        await come(_PEERS)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        nursery.cancel_scope.cancel()
    return taken / _PEERS


async def test_a_member_takes_three_kib_more_than_a_plain_subscriber(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """2.9 were measured; a tenth more for another Python."""
    plain = await bytes_of_a_peer(is_member=False)
    member = await bytes_of_a_peer(is_member=True)
    print(f"{plain:.0f} {member:.0f} bytes")
    assert member - plain < 3.3 * 1024
