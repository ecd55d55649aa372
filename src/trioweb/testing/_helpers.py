"""What tests of networked programs ask for all the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
import trio.testing

from .._arguments import check_kind, check_sync
from .._client import open_connection
from .._connection import Connection
from .._nursery import open_hidden_nursery
from .._server import serve_listeners
from ._network import Network

# How often a condition is looked at, in seconds that are virtual where it matters.
_LOOK_EVERY: Final = 0.01


async def wait_until(condition: Callable[[], object], *, within: float = 60) -> None:
    """Wait until *condition* holds, looking at it every hundredth of a second.

    Args:
        condition: called without arguments; anything true ends the wait.
        within: seconds, of Trio's clock, after which the test has failed.

    Raises:
        AssertionError: it did not hold in time.

    Cancellation: nothing is lost.  Checkpoint: always.
    """
    check_sync("wait_until", "condition()", condition)
    check_kind("wait_until", "within", within, int, float)
    await trio.lowlevel.checkpoint()
    end = trio.current_time() + within
    while not condition():
        if trio.current_time() >= end:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{name} did not hold within {within:g} s")
        await trio.sleep(_LOOK_EVERY)


@asynccontextmanager
async def no_leaks(network: Network | None = None) -> AsyncIterator[None]:
    """Assert that a block leaves no task, and on *network* no stream or listener, behind.

    Raises:
        AssertionError: it did; the message names them.
    """
    before = _open_now(network)
    yield
    # A task that has just been cancelled is allowed to end.
    await trio.testing.wait_all_tasks_blocked()
    left = _open_now(network) - before
    assert not left, f"left behind: {', '.join(left.elements())}"


@asynccontextmanager
async def open_pair(
    network: Network | None = None, *, client: str = "client", server: str = "server"
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Open one WebSocket connection and yield both ends of it, the client's first.

    Args:
        network: where; a new one without it.
        client, server: the names of the hosts.

    Yields:
        The Connections.  Leaving the block closes the client's with 1000, or as leaving that of
        `open_connection` does, and ends the server.
    """
    network = network or Network()
    ends: dict[str, Connection] = {}
    accepted = trio.Event()

    async def handler(connection: Connection) -> None:
        ends["server"] = connection
        accepted.set()
        await trio.sleep_forever()

    listener = network.host(server).listen()
    async with open_hidden_nursery() as nursery:
        await nursery.start(serve_listeners, handler, [listener])
        url = f"ws://{server}:{listener.port}/"
        async with open_connection(url, dial=network.host(client).dial) as connection:
            await accepted.wait()
            yield connection, ends["server"]


def _open_now(network: Network | None) -> Counter[str]:
    found = Counter(network.open_names()) if network else Counter()
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [root]
    while tasks:
        task = tasks.pop()
        found[f"task {task.name}"] += 1
        tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found
