"""One suite for every wire: what a link needs of it, whatever it is made of."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from tests.support import TRANSPORTS, Streams, open_streams, transport_of
from trioweb._tls import TlsStream
from trioweb._wire import _kernel
from trioweb._wire._choice import wire_to
from trioweb._wire._kernel import KernelWire
from trioweb._wire._records import RecordWire
from trioweb._wire._stream import StreamWire
from trioweb._wire._wire import Wire

KINDS: dict[str, type] = {
    "tcp": KernelWire,
    "unix": KernelWire,
    "filtered": RecordWire,
    "memory": StreamWire,
    "tls-tcp": StreamWire,
}
DATA = bytes(range(256)) * 4000


class Counting:
    """An account that only counts."""

    def __init__(self) -> None:
        self.waiting = 0
        self.by_peer = 0
        self.wrote_at = trio.current_time()

    def grew(self, size: int) -> None:
        self.waiting += size

    def wrote(self, size: int, *, by_peer: bool) -> None:
        self.waiting -= size
        self.by_peer += by_peer
        self.wrote_at = trio.current_time()


@pytest.fixture(params=KINDS)
async def streams(request: pytest.FixtureRequest) -> AsyncGenerator[Streams]:
    assert request.param in TRANSPORTS
    async with open_streams(request.param) as streams:
        yield streams


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Virtual time that does not outrun what the kernel has under way."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def wire(streams: Streams, request: pytest.FixtureRequest) -> Wire:
    ours = streams[0]
    wire = wire_to(ours, None, 20)
    if isinstance(ours, TlsStream):
        wire = wire_to(ours.transport_stream, ours.tls, 20)
    assert type(wire) is KINDS[request.node.callspec.params["streams"]]
    return wire


async def taken(stream: trio.abc.Stream, size: int) -> bytes:
    """So many bytes as the peer reads them."""
    got = b""
    while len(got) < size:
        data = await stream.receive_some(65536)
        assert data
        got += bytes(data)
    return got


async def test_what_is_offered_and_then_written_arrives_whole_and_in_order(
    wire: Wire, streams: Streams
) -> None:
    account = Counting()
    got = b""

    async def read() -> None:
        nonlocal got
        got = await taken(streams[1], 2 * len(DATA))

    offered = wire.offer(DATA)
    account.waiting = wire.backlog + 2 * len(DATA) - offered
    assert 0 <= offered < len(DATA)
    assert wire.is_queued is (offered == 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wire.write(DATA[offered:], account)
        await wire.write(DATA, account)
    assert got == 2 * DATA
    assert account.waiting == 0
    assert wire.backlog == 0
    assert not wire.has_more


async def test_little_is_taken_at_once_where_the_wire_can_tell(
    wire: Wire, streams: Streams
) -> None:
    taken_at_once = wire.offer(b"little")
    assert taken_at_once == (0 if wire.is_queued else 6)
    if taken_at_once:
        assert await taken(streams[1], 6) == b"little"
    assert wire.backlog == 0


async def test_peer_that_takes_nothing_is_given_up_after_the_write_timeout(
    wire: Wire, patient_clock: trio.testing.MockClock
) -> None:
    account = Counting()
    with pytest.raises(trio.TooSlowError):
        while True:
            await wire.write(DATA, account)
    # A kernel may find some room by itself, long after it had none.
    assert trio.current_time() - account.wrote_at == pytest.approx(20, abs=0.5)


async def test_writing_to_what_was_closed_fails(wire: Wire, streams: Streams) -> None:
    await trio.aclose_forcefully(transport_of(streams[0]))
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await wire.write(b"too late", Counting())
    if not wire.is_queued:
        with pytest.raises(OSError, match="descriptor"):
            wire.offer(b"too late")


async def test_room_that_a_peer_makes_is_a_sign_of_life(
    wire: Wire, streams: Streams, patient_clock: trio.testing.MockClock
) -> None:
    account = Counting()

    async def read_later() -> None:
        await trio.sleep(1)
        await taken(streams[1], len(DATA))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_later)
        await wire.write(DATA, account)
    assert account.by_peer


async def test_program_that_would_be_killed_by_a_write_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_kernel, "_has_told_of_sigpipe", False)
    async with open_streams("tcp") as (ours, _):
        for action, told in (signal.SIG_IGN, 0), (signal.SIG_DFL, 1), (signal.SIG_DFL, 1):
            before = signal.signal(signal.SIGPIPE, action)
            try:
                wire_to(ours, None, 1)
            finally:
                signal.signal(signal.SIGPIPE, before)
            assert [record.levelname for record in caplog.records] == ["WARNING"] * told
    assert "SIGPIPE" in caplog.text


async def test_what_the_peer_writes_is_received_as_it_came_up_to_its_end(
    wire: Wire, streams: Streams
) -> None:
    got = b""
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            await streams[1].send_all(DATA)
            await streams[1].aclose()

        nursery.start_soon(write)
        while data := await wire.receive(1000):
            assert len(data) <= 1000
            got += data
    if isinstance(streams[0], TlsStream):
        assert len(got) > len(DATA)  # records, which are for others to open
    else:
        assert got == DATA


async def test_receiving_is_interrupted_or_cancelled(
    wire: Wire, streams: Streams, nursery: trio.Nursery
) -> None:
    interrupted = trio.Event()

    async def receive() -> None:
        assert await wire.receive(1000) is None
        interrupted.set()

    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.receive(1000)
    assert scope.cancelled_caught
    wire.interrupt()  # of what is not under way: nothing happens
    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked(0.01)
    wire.interrupt()
    await interrupted.wait()
