"""Compression as users get it: connections, topics and clients, over networks in memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
import trio.testing

import trioweb
from tests.client.support import URL, answer_pings, open_at
from tests.client.support import Door as ClientDoor
from tests.server.support import Peer, Site, echo, start, wait
from tests.support import (
    BINARY,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    close_frame,
    compressed,
    inflated,
)
from trioweb import Connection, Deflate, Heartbeat, Limits, open_connection, open_hub
from trioweb._handshake import accept_token
from trioweb._protocol._deflate import Compressor
from trioweb.testing import Network, RawPeer

POLICY: Final = Deflate(min_bytes=20)
LONG: Final = "a long message with more of the same: a long message " * 5
SHORT: Final = "short"

_OFFER: Final = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
_AGREED: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncGenerator[Site]:
    options.setdefault("compression", POLICY)
    async with trio.open_nursery() as nursery:
        yield await start(nursery, handler, **options)
        nursery.cancel_scope.cancel()


async def opened(site: Site, offer: str = "permessage-deflate") -> Peer:
    """A raw client that the server compresses for."""
    peer = await site.peer()
    headers = await peer.open(Sec_WebSocket_Extensions=offer)
    assert headers["sec-websocket-extensions"].startswith("permessage-deflate; server_no_context")
    return peer


async def raw_accept(stream: trio.abc.Stream, answer: str) -> RawPeer:
    """Accept a client, with *answer* to what it offers."""
    peer = RawPeer(stream, masked=False)
    head = await peer.receive_head()
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    assert headers["Sec-WebSocket-Extensions"] == _OFFER
    token = accept_token(headers["Sec-WebSocket-Key"].encode())
    await peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Accept: {token}\r\n{answer}\r\n".encode()
    )
    return peer


# Who compresses.


@pytest.mark.parametrize("client", [None, Deflate(level=1)], ids=["plain client", "client"])
@pytest.mark.parametrize("server", [None, POLICY], ids=["plain server", "server"])
async def test_both_must_ask_for_compression(
    server: Deflate | None, client: Deflate | None, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[Connection] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection)
        await echo(connection)

    async with serving(handler, compression=server) as site:
        async with open_connection(
            "ws://server/", compression=client, dial=site.dial
        ) as connection:
            for message in (LONG, LONG.encode(), SHORT, "", b"", "ü" * 1000):
                await connection.send(message)
                assert await connection.receive() == message
            both = server is not None and client is not None
            for end in (connection, *seen):
                assert end.extensions == (_AGREED if both else "")
            sizes = [end.statistics().bytes_received for end in (connection, *seen)]
    plain = 2 * len(LONG) + 2000
    assert all(size < plain / 2 if both else size > plain for size in sizes)


@pytest.mark.parametrize("compression", [True, "deflate", {"level": 1}])
async def test_what_is_no_policy_is_refused_before_anything_begins(compression: Any) -> None:
    options: dict[str, Any] = {"compression": compression}
    with pytest.raises(TypeError, match=r"compression=.*: must be a Deflate"):
        await trioweb.serve(echo, 0, **options)
    with pytest.raises(TypeError, match=r"compression=.*: must be a Deflate"):
        async with open_connection(URL, **options):
            pass
    with pytest.raises(TypeError, match=r"compression=.*: must be a Deflate"):
        async with trioweb.open_client(URL, **options):
            pass


# What a server does on the wire.


async def test_server_compresses_long_messages_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(LONG)
        connection.send_nowait(LONG.encode())
        await connection.send(SHORT)
        await echo(connection)

    options = {"app_heartbeats": {"ask": LONG, "quiet": None}}
    async with serving(handler, heartbeat=Heartbeat(interval=5), **options) as site:
        peer = await opened(site)
        for opcode in (TEXT, BINARY):
            frame = await peer.frame()
            assert frame is not None and frame.opcode == opcode | RSV1
            assert inflated(frame) == LONG.encode()
        assert await peer.frame() == Frame(TEXT, SHORT.encode())
        # Answers of the link's own, too.
        await peer.send(Frame(TEXT, b"ask"), Frame(TEXT | RSV1, compressed(b"quiet")))
        frame = await peer.frame()
        assert frame is not None and inflated(frame) == LONG.encode()
        # Control frames never are.
        await peer.send(Frame(PING, b"x" * 125))
        assert await peer.frame() == Frame(PONG, b"x" * 125)
        await trio.sleep(6)
        frame = await peer.frame()
        assert frame is not None and frame.opcode == PING
        await peer.send(close_frame(1000, "x" * 100))
        assert await peer.frame() == close_frame(1000)


async def test_heartbeat_messages_are_compressed_as_others_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    heartbeat = Heartbeat(interval=5, timeout=5, message=LONG, reply=LONG + "!")
    async with serving(wait, heartbeat=heartbeat) as site:
        peer = await opened(site)
        for _ in range(3):
            frame = await peer.frame()
            assert frame is not None and inflated(frame) == LONG.encode()
            await peer.send(Frame(TEXT | RSV1, compressed(f"{LONG}!".encode())))
        [connection] = site.server.connections
        assert connection.statistics().discarded == 0


async def test_server_inflates_with_the_context_of_the_messages_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """RFC 7692 section 7.2.3.2: the second one refers to the first."""
    async with serving(echo) as site:
        peer = await opened(site)
        for payload in ("f248cdc9c90700", "f200110000"):
            await peer.send(Frame(TEXT | RSV1, bytes.fromhex(payload)))
            assert await peer.frame() == Frame(TEXT, b"Hello")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(TEXT | RSV1, b"\xff\xff\xff"), 1007),
        (Frame(TEXT | RSV1, compressed(b"\xff")), 1007),
        (Frame(TEXT | RSV1, compressed(bytes(10**6))), 1009),
        (Frame(PING | RSV1, b""), 1002),
        (Frame(RSV1, b""), 1002),
    ],
    ids=["corrupt", "not UTF-8", "a bomb", "a ping", "a continuation"],
)
async def test_a_bad_message_ends_its_own_connection_alone(
    frame: Frame, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(echo, limits=Limits(max_message_bytes=10_000)) as site:
        good, bad = await opened(site), await opened(site)
        await bad.send(frame)
        assert (await bad.read_close())[0] == code
        await good.send(Frame(TEXT | RSV1, compressed(b"still here")))
        assert await good.frame() == Frame(TEXT, b"still here")


async def test_messages_that_inflate_a_lot_wait_for_room_in_the_inbox(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 8: 60 MiB in one read are not in memory at once, and none of them is lost."""
    size, count = 2**20, 60
    sizes: list[int] = []

    async def handler(connection: Connection) -> None:
        await trio.sleep(1)
        async for message in connection:
            sizes.append(len(message))

    async with serving(handler) as site:
        peer = await opened(site)
        data = peer.encode(*[Frame(BINARY | RSV1, compressed(bytes(size)))] * count)
        assert len(data) < 2**16 + 2**13
        tracemalloc.start()
        try:
            await peer.stream.send_all(data)
            await peer.send(close_frame(1000))
            assert await peer.read_close() == (1000, "")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sizes == [size] * count
    # The inbox's bound, a message more, and what is under way.
    assert peak < 6 * size


# Topics.


async def test_a_topic_compresses_no_more_often_for_windows_that_peers_choose(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed and plain subscribers share a topic, and each form's bytes are made once: those
    of peers with a window of 4 KiB or more, and those of all others."""
    calls: list[int] = []
    compress = Compressor.compress

    def counting(compressor: Compressor, payload: bytes) -> bytes | None:
        calls.append(compressor.window_bits)
        return compress(compressor, payload)

    async with open_hub() as hub:
        topic = hub.topic("news")
        unread = hub.topic("unread")

        async def handler(connection: Connection) -> None:
            with topic.subscribe(connection, history=1):
                await connection.wait_closed()

        async with serving(handler) as site:
            topic.publish(SHORT)
            unread.publish(SHORT)
            peers = [await opened(site) for _ in range(5)]
            # How the client compresses makes no difference.
            peers += [await opened(site, _OFFER) for _ in range(5)]
            for bits in range(9, 16):
                offer = f"permessage-deflate; server_max_window_bits={bits}"
                peers += [await opened(site, offer) for _ in range(2)]
            plain = [await site.opened() for _ in range(5)]
            for peer in (*peers, *plain):
                assert await peer.frame() == Frame(TEXT, SHORT.encode())
            monkeypatch.setattr(Compressor, "compress", counting)
            for number in range(3):
                message = f"{number}: {LONG}".encode()
                topic.publish(message.decode())
                unread.publish(message.decode())
                for peer in peers:
                    frame = await peer.frame()
                    assert frame is not None and inflated(frame) == message
                for peer in plain:
                    assert await peer.frame() == Frame(TEXT, message)
            assert sorted(calls) == [9] * 3 + [12] * 3
            # Retention counts what was published.
            assert topic.size == unread.size


async def test_a_subscriber_that_stalls_gets_every_compressed_publication_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariants 1 and 9."""
    async with open_hub() as hub:
        topic = hub.topic("news")

        async def handler(connection: Connection) -> None:
            with topic.subscribe(connection):
                await connection.wait_closed()

        async with serving(handler) as site:
            peer = await opened(site)
            await trio.testing.wait_all_tasks_blocked()
            # More than the network holds, however well it is compressed.
            messages = [
                f"{number}:{random.Random(number).randbytes(200).hex()}" for number in range(900)
            ]
            for message in messages:
                topic.publish(message)
            await trio.testing.wait_all_tasks_blocked()
            [connection] = site.server.connections
            assert connection.buffered_amount
            for message in messages:
                frame = await peer.frame()
                assert frame is not None
                assert inflated(frame) == message.encode()


# Clients.


@pytest.mark.parametrize(
    ("answer", "compresses"),
    [
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", True),
        ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9\r\n", True),
        # Too small for zlib: the server compresses, the client need not.
        ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8\r\n", False),
        ("", False),
    ],
)
async def test_client_compresses_what_leaves_its_outbox_where_the_server_agrees(
    answer: str, compresses: bool, autojump_clock: trio.testing.MockClock
) -> None:
    door = ClientDoor()
    async with open_at(door, compression=POLICY) as client:
        for _ in range(3):
            client.send_nowait(LONG)
        assert client.buffered_amount == 3 * len(LONG)
        peer = await raw_accept(await door.stream(), answer)
        for _ in range(3):
            frame = await peer.receive_frame()
            assert (frame.masked, frame.rsv) == (True, 4 if compresses else 0)
            payload = frame.payload
            if compresses:
                payload = inflated(Frame(TEXT | RSV1, payload))
            assert payload == LONG.encode()
        if answer:
            await peer.send_frame(TEXT, compressed(b"agreed"), rsv=4)
            assert await client.receive() == "agreed"
        client.send_nowait(SHORT)
        assert (await peer.receive_frame()).rsv == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


async def test_client_agrees_anew_on_each_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    door = ClientDoor()
    answers = ["Sec-WebSocket-Extensions: permessage-deflate\r\n", ""]
    async with open_at(door, compression=POLICY) as client:
        for answer in (*answers, *answers):
            peer = await raw_accept(await door.stream(), answer)
            await client.wait_open()
            client.send_nowait(LONG)
            frame = await peer.receive_frame()
            assert frame.rsv == (4 if answer else 0)
            await trio.aclose_forcefully(peer.stream)
        peer = await raw_accept(await door.stream(), "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, peer)
            await client.aclose()


async def test_client_gives_up_a_server_that_answers_what_was_not_offered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    door = ClientDoor()

    async def serve() -> None:
        answer = "Sec-WebSocket-Extensions: permessage-deflate; x=1\r\n"
        await raw_accept(await door.stream(), answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(trioweb.HandshakeFailed, match="unknown parameter 'x'"):
            async with open_connection(URL, compression=POLICY, dial=door.dial):
                pass


async def test_confirmed_messages_survive_a_break_compressed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(seed=1)
    got: list[str | bytes] = []

    async def handler(connection: Connection) -> None:
        async for message in connection:
            got.append(message)

    async with trio.open_nursery() as nursery:
        site = await start(nursery, handler, network=network, compression=POLICY)
        outbox = trioweb.Outbox(confirm=True)
        async with trioweb.open_client(
            URL, compression=POLICY, outbox=outbox, dial=site.dial
        ) as client:
            await client.wait_open()
            for number in range(200):
                await client.send(f"{number}: {LONG}")
                if number % 50 == 20:
                    network.reset("client", "server")
            await client.flush()
        nursery.cancel_scope.cancel()
    first = dict.fromkeys(got)
    assert list(first) == [f"{number}: {LONG}" for number in range(200)]
