"""How often Trio runs a task for one connection: each time costs as much as a small message."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import upgrade_head
from tests.support import RawPeer, close_frame

pytestmark = pytest.mark.network

_CONNECTIONS = 20


class Steps(trio.abc.Instrument):
    """Counts the steps of the server's tasks, which are all but the test's own."""

    def __init__(self) -> None:
        self.count = 0
        self._own = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is not self._own


async def test_closing_takes_few_steps() -> None:
    """4 were counted for each; 7.5 where a task of the link's own closed the stream."""

    async def handler(connection: trioweb.Connection) -> None:
        async for _ in connection:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trioweb.serve, handler, 0)
        peers = []
        for _ in range(_CONNECTIONS):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(upgrade_head())
            assert (await stream.receive_some()).endswith(b"\r\n\r\n")
            peers.append(RawPeer(stream, is_client=True))
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for peer in peers:
            await peer.send(close_frame(1000))
            assert await peer.frame() == close_frame(1000)
            await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.statistics().connections == 0
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    assert steps.count <= 5 * _CONNECTIONS, steps.count / _CONNECTIONS
