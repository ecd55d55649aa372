"""Our connection against other people's servers, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

import pytest
import trio

import trioweb
from tests.interop.others import FRAGMENTING, SERVERS, serving_other
from tests.interop.peer import PATIENCE
from tests.interop.servers.common import (
    CLOSE_CODE,
    CLOSE_ME,
    CLOSE_REASON,
    FRAGMENT_ME,
    FRAGMENTS,
    HEADER,
    PING_ME,
    PONGED,
    SHOW_HEADER,
    SUBPROTOCOL,
    Certificates,
)

pytestmark = pytest.mark.network


connect = partial(trioweb.open_connection, subprotocols=["other", SUBPROTOCOL])


@pytest.fixture(params=SERVERS)
async def url(request: pytest.FixtureRequest) -> AsyncGenerator[str]:
    name: str = request.param
    async with serving_other(name) as server:
        yield server.url()


async def test_connection_gets_back_what_it_sends(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            assert connection.subprotocol == SUBPROTOCOL
            for size in (0, 1, 125, 126, 65535, 65536, 2**20):
                for message in ("x" * size, b"\xff" * size):
                    await connection.send(message)
                    assert await connection.receive() == message


@pytest.mark.parametrize("name", SERVERS)
async def test_connection_and_server_compress_for_each_other(name: str) -> None:
    async with serving_other(name) as server:
        async with connect(server.url(), compression=trioweb.Deflate(min_bytes=1)) as connection:
            # trio-websocket has none.
            agreed = connection.extensions.startswith("permessage-deflate")
            assert agreed is (name not in ("picows", "trio-websocket"))
            for size in (0, 1, 125, 126, 65535, 65536, 2**20):
                # Twice each: the second refers to the first, if the server has takeover.
                for message in ("x✓" * (size // 4), bytes(range(256)) * (size // 256)) * 2:
                    await connection.send(message)
                    assert await connection.receive() == message
            received = connection.statistics().bytes_received
    assert (received < 2**18) is agreed  # of 7 MiB


async def test_connection_pings_the_server(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            assert 0 < await connection.ping() < PATIENCE


async def test_connection_answers_the_servers_ping(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            await connection.send(PING_ME)
            assert await connection.receive() == PONGED


@pytest.mark.parametrize("name", FRAGMENTING)
async def test_connection_puts_fragments_together(name: str) -> None:
    async with serving_other(name) as server, connect(server.url()) as connection:
        await connection.send(FRAGMENT_ME)
        assert await connection.receive() == "".join(FRAGMENTS)


async def test_server_sees_the_headers_of_the_connection(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url, headers={HEADER: "green, or blue"}) as connection:
            await connection.send(SHOW_HEADER)
            assert await connection.receive() == "green, or blue"


@pytest.mark.parametrize("name", SERVERS)
async def test_connection_and_client_talk_over_tls(name: str, certificates: Certificates) -> None:
    messages: list[str | bytes] = ["hello", b"\xff" * 2**20]
    context = certificates.client_context()
    async with serving_other(name, "--certificate", str(certificates.server)) as server:
        url = server.url(scheme="wss")
        async with trioweb.open_connection(url, ssl_context=context) as connection:
            for message in messages:
                await connection.send(message)
                assert await connection.receive() == message
        assert await server.program.output.next() == "closed 1000 "
        async with trioweb.open_client(url, ssl_context=context) as client:
            for message in messages:
                await client.send(message)
                assert await client.receive() == message


async def test_connection_lives_on_heartbeats_alone(url: str) -> None:
    with trio.fail_after(PATIENCE):
        heartbeat = trioweb.Heartbeat(interval=0.1, timeout=0.3)
        async with connect(url, heartbeat=heartbeat) as connection:
            with trio.move_on_after(1):
                await connection.receive()
            assert connection.state is trioweb.State.OPEN
            await connection.send("still there")
            assert await connection.receive() == "still there"


async def test_connection_sees_the_servers_close_with_code_and_reason(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            await connection.send(CLOSE_ME)
            with pytest.raises(trioweb.ClosedByPeer) as caught:
                await connection.receive()
            assert (caught.value.code, caught.value.reason) == (CLOSE_CODE, CLOSE_REASON)


async def test_connection_closes_with_its_own_code(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with connect(url) as connection:
            await connection.aclose(4001, "enough")
            assert (connection.close_code, connection.close_reason) == (4001, "enough")
            assert connection.state is trioweb.State.CLOSED
