"""Other people's clients against our server, over real sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import trioweb
import trioweb.testing
from tests.interop.clients import CLIENTS, Peer, clients, run_in_thread
from tests.interop.peer import PATIENCE
from tests.interop.servers.common import Certificates
from trioweb._server._settings import Handler

pytestmark = pytest.mark.network


@pytest.fixture(params=clients())
def peer(request: pytest.FixtureRequest) -> Peer:
    peer: Peer = request.param
    return peer


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncGenerator[str]:
    """Run a server for the length of the block; yield its URL."""
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            server: trioweb.Server = await nursery.start(
                partial(trioweb.serve, handler, 0, host="127.0.0.1", **options)
            )
            scheme = "wss" if "ssl_context" in options else "ws"
            yield f"{scheme}://127.0.0.1:{server.port}/"
            nursery.cancel_scope.cancel()


async def echo(connection: trioweb.Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_client_gets_back_what_it_sends(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            for size in (0, 1, 125, 126, 65535, 65536, 2**20):
                for message in ("x" * size, b"\xff" * size):
                    await connection.send(message)
                    assert await connection.receive() == message
            await connection.send("naïve ✓ 🎉")
            assert await connection.receive() == "naïve ✓ 🎉"

    async with serving(echo) as url:
        await peer.run(client)


@pytest.mark.parametrize("peer", clients("fragments"))
async def test_server_puts_fragments_together(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            await connection.send_fragments(["one ", "", "mess", "age"])
            assert await connection.receive() == "one message"

    async with serving(echo) as url:
        await peer.run(client)


@pytest.mark.parametrize("peer", clients("ping"))
async def test_server_answers_the_clients_pings(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            for payload in (b"", b"anybody there?", b"x" * 125):
                await connection.ping(payload)
            await connection.send("still here")
            assert await connection.receive() == "still here"

    async with serving(echo) as url:
        await peer.run(client)


async def test_client_answers_the_servers_pings(peer: Peer) -> None:
    latencies: list[float | None] = []

    async def handler(connection: trioweb.Connection) -> None:
        for _ in range(3):
            await connection.ping()
            latencies.append(connection.latency)
        await connection.send("done")

    async def client() -> None:
        async with peer.connect(url) as connection:
            assert await connection.receive() == "done"

    async with serving(handler) as url:
        await peer.run(client)
    assert len(latencies) == 3
    assert all(latency is not None and 0 < latency < PATIENCE for latency in latencies)


async def test_client_lives_on_through_the_servers_heartbeat(peer: Peer) -> None:
    """Nothing but heartbeats happens for longer than the server has patience with silence."""
    latencies: list[float | None] = []

    async def handler(connection: trioweb.Connection) -> None:
        await trio.sleep(1)
        latencies.append(connection.latency)
        await connection.send("still there")

    async def client() -> None:
        async with peer.connect(url) as connection:
            assert await connection.receive() == "still there"

    async with serving(handler, heartbeat=trioweb.Heartbeat(interval=0.1, timeout=0.3)) as url:
        await peer.run(client)
    assert latencies[0] is not None


async def test_client_sees_the_servers_close_with_code_and_reason(peer: Peer) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await connection.aclose(4321, "see you ✓")

    async def client() -> None:
        async with peer.connect(url) as connection:
            assert await connection.receive_close() == (4321, "see you ✓")

    async with serving(handler) as url:
        await peer.run(client)


async def test_server_sees_the_clients_close_with_code_and_reason(peer: Peer) -> None:
    ended, end = trio.open_memory_channel[tuple[int | None, str]](1)

    async def handler(connection: trioweb.Connection) -> None:
        await connection.wait_closed()
        ended.send_nowait((connection.close_code, connection.close_reason))

    async def client() -> None:
        async with peer.connect(url) as connection:
            await connection.close(4002, "goodbye ✓")

    async with serving(handler) as url:
        await peer.run(client)
        assert await end.receive() == (4002, "goodbye ✓")


async def test_client_is_told_when_its_message_is_too_large(peer: Peer) -> None:
    async def client() -> None:
        async with peer.connect(url) as connection:
            await connection.send("x" * 101)
            assert await connection.receive_close() == (1009, "message over 100 bytes")

    async with serving(echo, limits=trioweb.Limits(max_message_bytes=100)) as url:
        await peer.run(client)


async def test_server_chooses_its_first_subprotocol_that_the_client_offers(
    peer: Peer,
) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await connection.send(str(connection.subprotocol))

    async def client() -> None:
        async with peer.connect(url, subprotocols=["other", "chat.v1", "chat.v2"]) as connection:
            assert connection.subprotocol == "chat.v2"
            assert await connection.receive() == "chat.v2"
        async with peer.connect(url) as connection:
            assert connection.subprotocol is None
            assert await connection.receive() == "None"

    async with serving(handler, subprotocols=["chat.v3", "chat.v2", "chat.v1"]) as url:
        await peer.run(client)


@pytest.mark.parametrize("peer", clients("deflate"))
async def test_server_declines_the_compression_that_a_client_offers(peer: Peer) -> None:
    offers: list[str] = []

    async def handler(connection: trioweb.Connection) -> None:
        offers.append(connection.request.headers["sec-websocket-extensions"])
        await echo(connection)

    async def client() -> None:
        async with peer.connect(url) as connection:
            assert not connection.extensions
            await connection.send("plain " * 1000)
            assert await connection.receive() == "plain " * 1000

    async with serving(handler) as url:
        await peer.run(client)
    assert "permessage-deflate" in offers[0]


@pytest.mark.parametrize("peer", clients("inflate"))
async def test_server_and_client_compress_for_each_other(peer: Peer) -> None:
    received: list[int] = []

    async def handler(connection: trioweb.Connection) -> None:
        assert connection.extensions.startswith("permessage-deflate; server_no_context_takeover")
        await echo(connection)
        received.append(connection.statistics().bytes_received)

    async def client() -> None:
        async with peer.connect(url) as connection:
            assert connection.extensions
            # Twice each: the second refers to the first, if the client has context takeover.
            for size in (0, 1, 125, 126, 65535, 65536, 2**20):
                for message in ("x✓" * (size // 4), bytes(range(256)) * (size // 256)) * 2:
                    await connection.send(message)
                    assert await connection.receive() == message
            await connection.close(1000, "")

    async with serving(handler, compression=trioweb.Deflate(min_bytes=1)) as url:
        await peer.run(client)
        await trioweb.testing.wait_until(lambda: received)
    # Of 7 MiB; Node compresses nothing that it sends.
    assert received[0] < 2**18 or peer is CLIENTS["Node"]


async def test_different_clients_on_one_topic_get_the_same_messages_in_the_same_order() -> None:
    # Those that run side by side in one loop.
    peers = [peer for peer in CLIENTS.values() if peer.run is run_in_thread and not peer.mark]
    sent: list[str | bytes] = []
    for number in range(len(peers)):
        sent += [f"text {number}", f"bytes {number}".encode()]

    async with trioweb.open_hub() as hub:

        async def chat(connection: trioweb.Connection) -> None:
            lobby = hub.topic("lobby")
            # The history, because a client is connected a moment before it is subscribed.
            with lobby.subscribe(connection, history=100):
                async for message in connection:
                    lobby.publish(message)

        async def program() -> None:
            async with AsyncExitStack() as stack:
                members = [await stack.enter_async_context(peer.connect(url)) for peer in peers]
                for number, member in enumerate(members):
                    await member.send(f"text {number}")
                    await member.send(f"bytes {number}".encode())
                heard = [[await member.receive() for _ in sent] for member in members]
            assert all(messages == heard[0] for messages in heard)
            assert Counter(heard[0]) == Counter(sent)

        async with serving(chat, hub=hub) as url:
            await run_in_thread(program)


@pytest.mark.parametrize("peer", clients("headers"))
async def test_server_sees_the_headers_of_the_client(peer: Peer) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await connection.send(connection.request.headers["x-colour"])

    async def client() -> None:
        async with peer.connect(url, headers={"X-Colour": "green, or blue"}) as connection:
            assert await connection.receive() == "green, or blue"

    async with serving(handler) as url:
        await peer.run(client)


async def test_client_talks_over_tls(peer: Peer, certificates: Certificates) -> None:
    async def client() -> None:
        async with peer.connect(url, authority=certificates.authority) as connection:
            for message in ("hello", b"\xff" * 2**20):
                await connection.send(message)
                assert await connection.receive() == message
            await connection.close(4002, "goodbye")

    async with serving(echo, ssl_context=certificates.server_context()) as url:
        await peer.run(client)
