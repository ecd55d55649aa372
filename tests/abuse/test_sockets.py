"""Plain HTTP abused over real sockets, with a neighbour that must notice nothing.

What is done to it in memory, with what it costs, is in the other modules here; the scene is that of
tests/server/test_bad_input.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer
from tests.server.test_bad_input import besieged, send_what_is_taken
from tests.server.test_bad_input import socket_clock as socket_clock

pytestmark = pytest.mark.network


async def _mirror(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, await request.body())


def _post(*lines: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: server", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("data", "status", "seconds"),
    [
        pytest.param(_post("Content-Length: 10") + b"slow", 408, 12, id="slow"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"5\r\nhe", 408, 12, id="slow chunk"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"2\r\nhello", 400, 1, id="long chunk"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"0\n\n", 400, 1, id="bare LF"),
        pytest.param(_post("Content-Length: 5", "Content-Length: 5"), 400, 1, id="two lengths"),
        pytest.param(
            _post("Content-Length: 5", "Transfer-Encoding: chunked"), 400, 1, id="both lengths"
        ),
        pytest.param(_post(f"Content-Length: {10**12}") + bytes(10**6), 413, 1, id="huge"),
    ],
)
async def test_body_that_is_none_is_refused_and_its_peer_gone(
    data: bytes, status: int, seconds: int, socket_clock: trio.testing.MockClock
) -> None:
    async with besieged(http=_mirror) as scene:
        peer = await scene.peer()
        async with trio.open_nursery() as sending, peer.stream:
            sending.start_soon(send_what_is_taken, peer, data)
            assert (await peer.read_head())[0] == status
            await scene.wait_alone(seconds)


async def test_peer_that_ends_in_its_body_is_told_and_gone(
    socket_clock: trio.testing.MockClock,
) -> None:
    async with besieged(http=_mirror) as scene:
        stream = await trio.open_tcp_stream("127.0.0.1", scene.server.port)
        async with stream:
            await stream.send_all(_post("Content-Length: 10") + b"hello")
            await stream.send_eof()
            assert (await Peer(stream).read_head())[0] == 400
            await scene.wait_alone(1)


async def test_idle_peers_are_gone_after_a_while(socket_clock: trio.testing.MockClock) -> None:
    async with besieged(http=_mirror) as scene:
        peers = [await scene.peer() for _ in range(20)]
        for peer in peers:
            await peer.write(_post("Content-Length: 2") + b"hi")
            assert (await peer.read_one()).body == b"hi"
        assert scene.server.statistics().opening == 20
        await scene.wait_alone(21)
        for peer in peers:
            await peer.stream.aclose()


@pytest.mark.parametrize("what", ["whole", "made meanwhile", "events"])
async def test_reader_that_stops_is_gone_after_the_write_timeout(
    what: str, socket_clock: trio.testing.MockClock
) -> None:
    async with trioweb.open_hub() as hub:
        topic = hub.topic("lobby")

        async def endless() -> Any:
            while True:
                yield bytes(60_000)

        async def http(request: trioweb.Request) -> trioweb.Response:
            match what:
                case "whole":
                    return trioweb.Response(200, bytes(50_000_000))
                case "events":
                    return trioweb.event_stream(request, topic)
                case _:
                    return trioweb.Response(200, endless())

        async with besieged(http=http, hub=hub) as scene:
            peer = await scene.peer()
            async with peer.stream:
                await peer.write(_post())
                await peer.read_head()
                for _ in range(200 if what == "events" else 0):
                    topic.publish(bytes(60_000))
                    await trio.sleep(0.01)
                # It begins anew if the kernel finds more room.
                await scene.wait_alone(45)
        assert topic.subscribers == 0
