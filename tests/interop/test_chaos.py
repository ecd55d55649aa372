"""`trioweb chaos` between other people's clients and our server: what they see of each fault."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

import trioweb
from tests.interop.clients import CLIENTS, Peer
from tests.processes import PATIENCE, python, running

pytestmark = pytest.mark.network

# Two of Node's and a browser: programs that Python's tests of a network in memory cannot reach.
PEERS = [
    pytest.param(CLIENTS[name], id=name, marks=getattr(pytest.mark, str(CLIENTS[name].mark)))
    for name in ("ws", "Node", "Chromium")
]


@asynccontextmanager
async def through_chaos(*options: str) -> AsyncGenerator[str]:
    """Run an echo server with a proxy before it; where the proxy is."""

    async def echo(connection: trioweb.Connection) -> None:
        async for message in connection:
            await connection.send(message)

    async def say_ok(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, "ok\n")

    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", http=say_ok)
        server: trioweb.Server = await nursery.start(serve)
        command = python("-m", "trioweb", "chaos", "0", str(server.port), *options)
        async with running(command) as program:
            yield await program.output.next()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("peer", PEERS)
async def test_peer_talks_over_a_line_that_is_slow_and_in_pieces(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            for message in ("naïve ✓", b"\xff" * 5000, "x" * 70_000):
                await connection.send(message)
                assert await connection.receive() == message

    async with through_chaos("--latency", "0.02", "--segment", "2000", "--seed", "1") as address:
        url = f"ws://{address}/"
        with trio.fail_after(2 * PATIENCE):
            await peer.run(client)


@pytest.mark.parametrize("peer", PEERS)
async def test_peer_is_told_1006_when_the_connection_is_cut(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            await connection.send("x" * 200_000)
            assert await connection.receive_close() == (1006, "")

    async with through_chaos("--cut-after", "150000") as address:
        url = f"ws://{address}/"
        with trio.fail_after(2 * PATIENCE):
            await peer.run(client)


@pytest.mark.curl
async def test_curl_gets_its_page_whole_or_an_error() -> None:
    async def curl(address: str) -> subprocess.CompletedProcess[bytes]:
        command = ["curl", "-sS", "--max-time", str(PATIENCE), f"http://{address}/"]
        return await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )

    async with through_chaos("--segment", "1") as address:
        done = await curl(address)
        assert (done.returncode, done.stdout) == (0, b"ok\n"), done.stderr
    async with through_chaos("--cut-after", "90") as address:
        assert (await curl(address)).returncode == 56  # failure in receiving: a reset
    async with through_chaos("--hang-up", "0") as address:
        assert (await curl(address)).returncode in (52, 56)  # an empty reply
