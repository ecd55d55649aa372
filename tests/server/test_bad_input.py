"""What peers do wrong, over real sockets, and that nobody else notices.

Each peer here misbehaves and then does nothing more: it reads no further than the answer,
answers no Close and closes nothing.  So what is freed is freed by the server.  Time is
virtual: it jumps to the next deadline when nothing has happened on any socket for a while.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, echo, upgrade_head
from tests.support import BINARY, CLOSE, PING, TEXT, Frame, close_frame, encode
from trioweb._access import Access, open_rules
from trioweb._broadcast import Broadcast
from trioweb._policy import bound
from trioweb._server._settings import Handler

pytestmark = pytest.mark.network


@pytest.fixture
def socket_clock() -> trio.testing.MockClock:
    """Jumps only after real time enough for the kernel to deliver what was sent."""
    return trio.testing.MockClock(autojump_threshold=0.003)


class Scene:
    """A server, a neighbour that goes on talking to it, and whom else it has met."""

    def __init__(self, server: trioweb.Server) -> None:
        self.server = server
        self.met: list[weakref.ref[trioweb.Connection]] = []
        self.echoes = 0

    async def peer(self) -> Peer:
        return Peer(await trio.open_tcp_stream("127.0.0.1", self.server.port))

    async def neighbour(self, task_status: trio.TaskStatus[None]) -> None:
        peer = await self.peer()
        await peer.open("/neighbour")
        task_status.started()
        async with peer.stream:
            while True:
                begun = trio.current_time()
                await peer.send(Frame(TEXT, str(self.echoes).encode()))
                while (frame := await peer.frame()) is not None and frame.opcode == PING:
                    await peer.send(Frame(0xA, frame.payload))
                assert frame == Frame(TEXT, str(self.echoes).encode())
                assert trio.current_time() - begun < 0.1
                self.echoes += 1
                await trio.sleep(2)

    async def wait_alone(self, seconds: float) -> None:
        """See that within *seconds* nothing is left of anybody but the neighbour."""
        with trio.fail_after(seconds + 1.5):
            while True:
                statistics = self.server.statistics()
                if (statistics.connections, statistics.opening) == (1, 0):
                    break
                await trio.sleep(1)
        echoes = self.echoes
        await trio.sleep(3)
        assert self.echoes > echoes
        gc.collect()
        assert [ref() for ref in self.met if ref() is not None] == list(self.server.connections)


@asynccontextmanager
async def besieged(handler: Handler = echo, **options: Any) -> AsyncGenerator[Scene]:
    scene: Scene

    async def meet(connection: trioweb.Connection) -> None:
        scene.met.append(weakref.ref(connection))
        await handler(connection)

    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, meet, 0, host="127.0.0.1", **options)
        scene = Scene(await nursery.start(serve))
        await nursery.start(scene.neighbour)
        yield scene
        nursery.cancel_scope.cancel()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "trioweb")
    return caplog


def check_one_line(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> None:
    [record] = log.records
    assert record.levelno == level
    assert record.exc_info is None
    assert record.getMessage().isprintable()
    assert "127.0.0.1" in record.getMessage()


# Instead of a handshake.


@pytest.mark.parametrize(
    ("rubbish", "status"),
    [
        pytest.param(bytes(range(256)), 400, id="any bytes"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400, id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400, id="SSH"),
        pytest.param(b"A" * 1_000_000, 431, id="a line without end"),
        pytest.param(upgrade_head(Cookie="x" * 1_000_000), 431, id="a head without end"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, id="POST"),
        pytest.param(upgrade_head(Sec_WebSocket_Key="a2V5"), 400, id="wrong key"),
        pytest.param(upgrade_head(Sec_WebSocket_Version="7"), 426, id="wrong version"),
        pytest.param(upgrade_head(Origin="https://evil.org"), 403, id="wrong Origin"),
        pytest.param(upgrade_head("/\x1b]0;owned\x07"), 400, id="control characters"),
    ],
)
async def test_rubbish_instead_of_a_handshake_is_refused(
    rubbish: bytes,
    status: int,
    socket_clock: trio.testing.MockClock,
    log: pytest.LogCaptureFixture,
) -> None:
    async with besieged() as scene:
        peer = await scene.peer()
        async with trio.open_nursery() as sending, peer.stream:
            sending.start_soon(send_what_is_taken, peer, rubbish)
            assert (await peer.read_head())[0] == status
            await scene.wait_alone(1)  # that it is left to read its answer
        assert scene.server.statistics().refused == {status: 1}
        # An Origin is told louder, the first time: see tests/server/test_admission.py.
        check_one_line(log, logging.WARNING if status == 403 else logging.INFO)


async def send_what_is_taken(peer: Peer, data: bytes) -> None:
    try:
        await peer.write(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@pytest.mark.parametrize("sent", [b"", b"G", upgrade_head()[:-1]], ids=len)
async def test_half_a_request_is_refused_at_the_deadline(
    sent: bytes, socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with besieged() as scene:
        peer = await scene.peer()
        async with peer.stream:
            begun = trio.current_time()
            await peer.write(sent)
            assert (await peer.read_head())[0] == 408
            assert trio.current_time() - begun == pytest.approx(10, abs=0.1)
            await scene.wait_alone(1)
        assert scene.server.statistics().refused == {408: 1}
        check_one_line(log)


async def test_half_a_request_and_an_end_is_counted(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with besieged() as scene:
        peer = await scene.peer()
        await peer.write(upgrade_head()[:20])
        await peer.stream.aclose()
        await scene.wait_alone(0)
        assert scene.server.statistics().refused == {0: 1}
        check_one_line(log)


# Instead of a frame.

MIB = 2**20


def client(*frames: Frame) -> bytes:
    return b"".join(encode(frame, masked=True) for frame in frames)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(encode(Frame(TEXT, b"hello"), masked=False), 1002, id="unmasked"),
        pytest.param(b"\xc1\x80\0\0\0\0", 1002, id="reserved bit"),
        pytest.param(b"\x83\x80\0\0\0\0", 1002, id="reserved opcode"),
        pytest.param(b"\x8b\x80\0\0\0\0", 1002, id="reserved control opcode"),
        pytest.param(b"\x81\xfe\x00\x05\0\0\0\0hello", 1002, id="length not minimal"),
        pytest.param(b"\x82\xff\xff" + bytes(11), 1002, id="length with the highest bit"),
        pytest.param(client(Frame(PING, b"x", fin=False)), 1002, id="fragmented ping"),
        pytest.param(client(Frame(PING, bytes(126))), 1002, id="ping too long"),
        pytest.param(client(Frame(0x0, b"x")), 1002, id="continuation of nothing"),
        pytest.param(
            client(Frame(TEXT, b"a", fin=False), Frame(TEXT, b"b")), 1002, id="message in message"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002, id="HTTP again"),
        pytest.param(client(Frame(TEXT, b"\xff")), 1007, id="invalid UTF-8"),
        pytest.param(client(Frame(TEXT, b"\xed\xa0\x80")), 1007, id="a surrogate"),
        pytest.param(client(Frame(TEXT, b"caf\xc3")), 1007, id="UTF-8 cut off"),
        pytest.param(
            # Told at once, section 8.1, though the message never ends.
            client(Frame(TEXT, b"\xc3", fin=False), Frame(0x0, b"x", fin=False)),
            1007,
            id="UTF-8 broken between fragments",
        ),
        pytest.param(client(Frame(BINARY, bytes(MIB + 1))), 1009, id="too large"),
        pytest.param(
            client(Frame(BINARY, bytes(MIB), fin=False), Frame(0x0, b"x", fin=False)),
            1009,
            id="too large in fragments",
        ),
        pytest.param(b"\x82\xff" + (2**62).to_bytes(8, "big") + b"abcd", 1009, id="2**62 bytes"),
        pytest.param(
            client(Frame(TEXT, b"", fin=False)) + client(Frame(0x0, b"", fin=False)) * 1_000_000,
            1009,
            id="a million empty fragments",
        ),
        pytest.param(client(Frame(CLOSE, b"\x03")), 1002, id="Close of one byte"),
        pytest.param(client(close_frame(999)), 1002, id="Close with 999"),
        pytest.param(client(close_frame(1005)), 1002, id="Close with 1005"),
        pytest.param(client(close_frame(1016)), 1002, id="Close with 1016"),
        pytest.param(client(close_frame(65535)), 1002, id="Close with 65535"),
        pytest.param(client(Frame(CLOSE, b"\x03\xe8\xff")), 1007, id="Close with bad UTF-8"),
    ],
)
async def test_malformed_frame_fails_the_connection(
    data: bytes,
    code: int,
    socket_clock: trio.testing.MockClock,
    log: pytest.LogCaptureFixture,
) -> None:
    """RFC 6455 section 7.1.7."""
    async with besieged() as scene:
        peer = await scene.peer()
        async with trio.open_nursery() as sending, peer.stream:
            await peer.open()
            # What arrived whole before the fault is still delivered, and answered.
            await peer.send(Frame(TEXT, b"before"))
            assert await peer.frame() == Frame(TEXT, b"before")
            sending.start_soon(send_what_is_taken, peer, data)
            assert (await peer.read_close())[0] == code
            await scene.wait_alone(10)  # the close timeout
        assert scene.server.statistics().closed == {code: 1}
        assert scene.server.statistics().handler_errors == 0
        check_one_line(log)


async def test_malformed_frame_right_behind_the_handshake_fails_the_connection(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with besieged() as scene:
        peer = await scene.peer()
        async with peer.stream:
            await peer.write(upgrade_head() + b"\xff\xff\xff\xff")
            assert (await peer.read_head())[0] == 101
            assert (await peer.read_close())[0] == 1002
            await scene.wait_alone(10)
        check_one_line(log)


# Instead of anything.


async def test_peer_that_says_nothing_is_given_up(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    """Invariants 5 and 6."""
    async with besieged() as scene:
        peer = await scene.peer()
        async with peer.stream:
            await peer.open()
            begun = trio.current_time()
            await scene.wait_alone(40)  # the heartbeat's interval and timeout
            assert trio.current_time() - begun > 40
        assert scene.server.statistics().closed == {1006: 1}
        check_one_line(log)


async def test_peer_that_goes_without_a_word_is_noticed_at_once(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    async with besieged() as scene:
        peer = await scene.peer()
        await peer.open()
        await peer.stream.aclose()
        await scene.wait_alone(0)
        assert scene.server.statistics().closed == {1006: 1}
        check_one_line(log)


async def test_peer_that_does_not_read_is_given_up(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    """Invariants 3, 6 and 8: it asks for more than it takes."""
    async with besieged() as scene:
        peer = await scene.peer()
        async with peer.stream:
            await peer.open()
            with trio.move_on_after(5):
                while True:
                    await peer.send(Frame(BINARY, bytes(60_000)))
            [greedy] = [
                connection
                for connection in scene.server.connections
                if connection.request.path == "/"
            ]
            limits = trioweb.Limits()
            assert greedy.buffered_amount <= limits.send_bytes + 60_100
            inbox = greedy.statistics().inbox_messages
            # What one read brings is taken whole, with the message that it completes.
            assert inbox * 60_000 <= bound(limits.inbox_bytes) + 120 * 2**10 + 60_000
            del greedy
            # The write timeout, of 20, begins anew when the kernel has found more room.  It looks
            # every 0.2 s of real time, in which 20 s go by here, and finds 8 KiB of 120.
            await scene.wait_alone(20 * 16)
        assert scene.server.statistics().closed == {1006: 1}
        assert [record for record in log.records if "took nothing" in record.getMessage()]


async def test_thousand_topics_a_second_cost_no_more_than_the_hub_may_hold(
    socket_clock: trio.testing.MockClock, log: pytest.LogCaptureFixture
) -> None:
    """Invariants 4 and 8."""
    async with trioweb.open_hub(max_topics=50) as hub:
        broadcast = Broadcast(hub, Access(open_rules(trioweb.Retain())), history=20, echo=True)
        async with besieged(handler=broadcast.handle, admit=broadcast.admit, hub=hub) as scene:

            async def make_topics(start: int) -> None:
                for number in range(start, start + 50):
                    peer = await scene.peer()
                    await peer.open(f"/{number}")
                    await peer.send(Frame(TEXT, b"x" * 100))
                    assert await peer.frame() == Frame(TEXT, b"x" * 100)
                    await peer.send(close_frame(1000))
                    await peer.read_end()

            async with trio.open_nursery() as attackers:
                for start in range(0, 1000, 50):
                    attackers.start_soon(make_topics, start)
            await scene.wait_alone(0)
            statistics = hub.statistics()
            assert statistics.topics <= 50
            assert statistics.retained_messages <= 50 + scene.echoes + 1
            assert statistics.forgotten >= 950
            assert scene.server.statistics().closed == {1000: 1000}
            assert log.records == []
