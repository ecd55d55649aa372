"""A storm of connections while a broadcast runs: a thundering herd after an outage, or an attack.

Real sockets, and every party a process of its own, so that each may open as many as it needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

import trioweb
from tests.abuse.support import KIB
from tests.processes import python, running
from trioweb.testing import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors and kibibytes of Linux"),
]

_STORM = 5000
_SUBSCRIBERS = 20

# Publishes a number 20 times a second, and says for plain HTTP what it costs.
_SERVER = """
import json, os, resource, sys
import trio, trioweb

async def main():
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news", slow="evict")

        async def handler(connection):
            with topic.subscribe(connection):
                await connection.wait_closed()

        async def http(request):
            statistics = server.statistics()
            return trioweb.Response(200, json.dumps({
                "head": topic.head,
                "opened": statistics.opened,
                "connections": statistics.connections,
                "opening": statistics.opening,
                "handler_errors": statistics.handler_errors,
                "evicted": hub.statistics().evicted,
                "descriptors": len(os.listdir("/proc/self/fd")),
                "tasks": trio.lowlevel.current_statistics().tasks_living,
                "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }))

        server = await nursery.start(lambda **options: trioweb.serve(
            handler, 0, host="127.0.0.1", http=http, hub=hub, **options))
        print(server.port, flush=True)
        while True:
            topic.publish(str(topic.head + 1))
            await trio.sleep(0.05)

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
trio.run(main)
"""

# A third of the storm opens a WebSocket and reads nothing, a third sends half a head, and a third
# goes away at once, with an RST. It says "over" when all have come, and stays until its input ends.
_ATTACKER = """
import resource, socket, sys
from tests.server.support import upgrade_head

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address = ("127.0.0.1", int(sys.argv[1]))
kept = []
for number in range(int(sys.argv[2])):
    peer = socket.create_connection(address)
    if number % 3 == 0:
        peer.sendall(upgrade_head())
    elif number % 3 == 1:
        peer.sendall(upgrade_head()[:40])
    else:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        peer.close()
        continue
    kept.append(peer)
print("over", flush=True)
sys.stdin.read()
for peer in kept:
    peer.close()
"""


async def _ask(port: int) -> dict[str, Any]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        answer = b"".join([data async for data in stream])
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def _ask_until(port: int, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    with trio.fail_after(60):
        while True:
            found = await _ask(port)
            if holds(found):
                return found
            await trio.sleep(0.1)


async def test_storm_of_connections_loses_no_subscriber_a_publication() -> None:
    """CWE-400: 5,000 at once cost memory in proportion, and nothing once they have gone."""
    import resource

    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < _STORM + 100:
        pytest.skip("no process here may open so many sockets")
    received: list[list[int]] = [[] for _ in range(_SUBSCRIBERS)]

    async def subscribe(
        port: int, into: list[int], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trioweb.open_connection(f"ws://127.0.0.1:{port}/") as connection:
            task_status.started()
            async for message in connection:
                into.append(int(message))

    async with running(python("-c", _SERVER)) as server, trio.open_nursery() as nursery:
        port = int(await server.output.next())
        for into in received:
            await nursery.start(subscribe, port, into)
        # A client may be open a moment before its handler subscribes.
        await wait_until(lambda: all(received))
        before = await _ask(port)
        async with running(python("-c", _ATTACKER, str(port), str(_STORM))) as attacker:
            assert await attacker.output.next() == "over"
            opened = _SUBSCRIBERS + (_STORM + 2) // 3
            during = await _ask_until(port, lambda found: found["opened"] == opened)
            await attacker.end_input()
            assert await attacker.wait() == 0
        # The place of a peer that has gone is free before its handler has ended.
        after = await _ask_until(
            port,
            lambda found: (
                found["connections"] == _SUBSCRIBERS
                and found["opening"] == 1
                and found["tasks"] <= before["tasks"] + 1
            ),
        )
        # What was published until now, and more, has come to all who were there before.
        await wait_until(lambda: all(numbers[-1] > after["head"] for numbers in received))
        assert after["evicted"] == after["handler_errors"] == 0
        assert after["descriptors"] <= before["descriptors"] + 1
        assert (during["kib"] - before["kib"]) * KIB < _STORM * 32 * KIB
        nursery.cancel_scope.cancel()
    for numbers in received:
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] <= before["head"] + 1
