"""A peer that goes while nothing is read from it is noticed: its transport is given back.

And what had arrived is received all the same (invariant 11), however long that takes.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import AsyncGenerator, Callable

import pytest
import trio
import trio.testing

from tests.support import (
    BINARY,
    TEXT,
    TRANSPORTS,
    Ends,
    Frame,
    RawPeer,
    close_frame,
    open_streams,
    reset,
    transport_of,
)
from trioweb import Connection, ConnectionClosed, ConnectionLost, Heartbeat, Limits, State
from trioweb._heartbeat import Monitor
from trioweb._link import _carrying
from trioweb._link._gone import seconds_unconfirmed
from trioweb._reader import open_reader

_TRANSPORTS = [name for name in TRANSPORTS if name != "trio-memory"]
_HALVES = [name for name in _TRANSPORTS if not name.startswith("tls-")]
_RESETS = ["tcp", "gathered", "filtered", "filtered-gathered", "tls-tcp"]

Watched = Callable[[Limits], Connection]


@pytest.fixture
async def ends(transport: str) -> AsyncGenerator[Ends]:
    async with open_streams(transport) as streams:
        with open_reader() as reader:
            async with trio.open_nursery() as nursery:
                if reader is not None:
                    nursery.start_soon(reader.run)
                gathers = "gathered" in transport
                yield Ends(nursery, streams, is_client=False, reader=reader if gathers else None)
                nursery.cancel_scope.cancel()


@pytest.fixture
def watched(ends: Ends, mock_clock: trio.testing.MockClock) -> Watched:
    def start(limits: Limits) -> Connection:
        ours = ends.ours(limits)
        monitor = Monitor(Heartbeat(interval=10, timeout=10))
        monitor.add(ours)
        ends.nursery.start_soon(monitor.run)
        return ours

    return start


async def received(connection: Connection) -> list[str | bytes]:
    messages = []
    with pytest.raises(ConnectionClosed):
        while True:
            messages.append(await connection.receive())
    return messages


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


def is_given_back(connection: Connection, ends: Ends) -> bool:
    transport = transport_of(ends.our_stream)
    if isinstance(transport, trio.SocketStream):
        return transport.socket.fileno() == -1
    return connection.link.carrier._has_let_go


async def wait_given_back(connection: Connection, ends: Ends) -> None:
    with trio.fail_after(8):
        while not is_given_back(connection, ends):
            await connection.link.wait_change()


# How many messages come: the inbox is just full, or more are left undecoded, or unread.
SIZES = pytest.mark.parametrize("count", [4, 40, 400])
LIMITS = Limits(inbox_messages=4)
_PADDING = "." * 30


def messages(count: int) -> list[str]:
    return [f"{number}{_PADDING}" for number in range(count)]


async def send(peer: RawPeer, count: int) -> None:
    """Send so many, of which the last ones are left to the transport."""
    frames = [Frame(TEXT, text.encode()) for text in messages(count)]
    await peer.send(*frames[:4])
    await settle()
    if frames[4:]:
        await peer.send(*frames[4:])
        await settle()


@SIZES
@pytest.mark.parametrize(
    ("transport", "way"),
    [
        *(pytest.param(name, "close", id=f"{name}-close") for name in _TRANSPORTS),
        *(pytest.param(name, "reset", id=f"{name}-reset") for name in _RESETS),
    ],
)
async def test_peer_that_goes_is_noticed_through_a_full_inbox(
    way: str, count: int, ends: Ends
) -> None:
    """Without a heartbeat, and at once; nobody receives until long after."""
    ours, peer = ends.ours(LIMITS), ends.raw()
    await send(peer, count)
    assert ours.link.inbox.pause is not None
    if way == "reset":
        reset(peer.stream)
    else:
        await trio.aclose_forcefully(peer.stream)
    await wait_given_back(ours, ends)
    assert await received(ours) == messages(count)
    assert ours.close_code == 1006
    await ours.wait_closed()


@SIZES
@pytest.mark.parametrize("transport", _TRANSPORTS)
async def test_close_is_found_behind_what_a_gone_peer_has_sent(count: int, ends: Ends) -> None:
    """It said why it went; that comes out behind what came before."""
    ours, peer = ends.ours(LIMITS), ends.raw()
    await send(peer, count)
    await peer.send(close_frame(1001, "bye"))
    await trio.aclose_forcefully(peer.stream)
    await wait_given_back(ours, ends)
    assert await received(ours) == messages(count)
    assert (ours.close_code, ours.close_reason) == (1001, "bye")


@SIZES
@pytest.mark.parametrize("transport", _HALVES)
async def test_peer_that_ends_by_half_may_be_answered_for_the_heartbeats_timeout(
    count: int, ends: Ends, watched: Watched, mock_clock: trio.testing.MockClock
) -> None:
    """It may still read; but nothing keeps its place for longer than a silent one's."""
    ours, peer = watched(LIMITS), ends.raw()
    await send(peer, count)
    transport = transport_of(ends.their_stream)
    assert isinstance(transport, trio.abc.HalfCloseableStream)
    await transport.send_eof()
    await settle()
    await ours.send("an answer")
    while (frame := await peer.frame()) != Frame(TEXT, b"an answer"):
        assert frame is not None and frame.opcode == 0x9
    for _ in range(3):
        assert not is_given_back(ours, ends)
        assert ours.state is State.OPEN
        mock_clock.jump(9.9)
        await settle()
        if is_given_back(ours, ends):
            break
    assert 10 <= trio.current_time() <= 20 and is_given_back(ours, ends)
    with pytest.raises(ConnectionLost, match="without a Close"):
        await ours.send("too late")
    assert await received(ours) == messages(count)


@pytest.mark.parametrize("transport", _HALVES)
async def test_peer_that_ends_by_half_is_read_to_its_end_by_who_receives(ends: Ends) -> None:
    ours, peer = ends.ours(LIMITS), ends.raw()
    await send(peer, 400)
    await peer.send(close_frame(1000))
    transport = transport_of(ends.their_stream)
    assert isinstance(transport, trio.abc.HalfCloseableStream)
    await transport.send_eof()
    await settle()
    async for text in ours:
        if ours.state is State.OPEN:
            await ours.send(text)
    assert ours.close_code == 1000
    frames = [frame for frame in await peer.frames() if frame.opcode != 0x9]
    assert frames[-1] == close_frame(1000)
    # All but those behind which the peer's Close had been decoded.
    assert [frame.payload.decode() for frame in frames[:-1]] == messages(len(frames) - 1)
    assert len(frames) > 4


@pytest.mark.parametrize("transport", _TRANSPORTS)
async def test_peer_that_goes_is_noticed_while_it_is_read_slowly(ends: Ends) -> None:
    """What it may send in a second is through at once; the rest would take half an hour."""
    ours, peer = ends.ours(Limits(max_messages_per_second=0.01)), ends.raw()
    await send(peer, 20)
    assert ours.link.inbox.pause is not None
    await trio.aclose_forcefully(peer.stream)
    await wait_given_back(ours, ends)


@pytest.mark.parametrize("transport", _TRANSPORTS)
@pytest.mark.parametrize("count", [0, 2, 40])
async def test_link_that_cannot_be_written_to_ends_behind_what_has_arrived(
    count: int, ends: Ends, autojump_clock: trio.testing.MockClock
) -> None:
    """One failed write is enough: a peer that gets nothing any more is not kept, silent or not."""
    ours, peer = ends.ours(LIMITS), ends.raw()
    closed = trio.Event()
    ours.link.queue.set_hooks("me", closed=closed.set, drained=lambda: None)
    await peer.send(*(Frame(TEXT, text.encode()) for text in messages(count)))
    await settle()
    ours.link.break_off("No buffer space available")
    with pytest.raises(ConnectionLost, match="No buffer space"):
        await ours.send("no")
    # Told before anybody receives, so that no subscription outlives it.
    await closed.wait()
    await wait_given_back(ours, ends)
    assert await received(ours) == messages(count)
    assert ours.close_reason == "No buffer space available"
    await ours.link.wait_closed()


@pytest.mark.parametrize("transport", ["gathered", "tcp", "filtered-gathered"])
async def test_what_is_kept_of_a_peer_that_is_gone_is_decoded_as_there_is_room(ends: Ends) -> None:
    """Invariant 8: what was small on the wire is not made large before anybody wants it."""
    ours, peer = ends.ours(Limits(inbox_messages=4)), ends.raw()
    await peer.send(*[Frame(BINARY, bytes(1000))] * 4)
    await settle()
    await peer.send(*[Frame(TEXT, b"%d" % number) for number in range(5000)])
    await trio.aclose_forcefully(peer.stream)
    await wait_given_back(ours, ends)
    assert ours.statistics().inbox_messages < 3000
    assert ours.state is State.OPEN
    assert len(await received(ours)) == 5004


@pytest.mark.parametrize("transport", ["tcp", "gathered", "filtered", "tls-tcp"])
async def test_peer_whose_machine_confirms_nothing_is_noticed_through_a_full_inbox(
    ends: Ends,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: trio.testing.MockClock,
) -> None:
    """It vanished without a word: no FIN, no RST."""
    ours, peer = watched(LIMITS), ends.raw()
    await send(peer, 40)
    mock_clock.jump(10)
    await settle()
    assert ours.link.pulse.asked_at == 10
    mock_clock.jump(10)
    await settle()
    # It is there.
    assert not is_given_back(ours, ends)
    monkeypatch.setattr(_carrying, "seconds_unconfirmed", lambda _: 10.0)
    for seconds in (10, 1):
        mock_clock.jump(seconds)
        await settle()
    assert is_given_back(ours, ends)
    assert await received(ours) == messages(40)
    assert ours.close_reason == "silent peer: nothing was confirmed for 10 s"


async def test_what_a_machine_has_not_confirmed_is_known_of_tcp() -> None:
    async with open_streams("tcp") as streams:
        ours, theirs = streams
        assert isinstance(ours, trio.SocketStream) and isinstance(theirs, trio.SocketStream)
        assert seconds_unconfirmed(ours) == 0
        await ours.send_all(b"confirmed")
        await theirs.receive_some()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert seconds_unconfirmed(ours) == 0
        info = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        assert isinstance(info, bytes)
        unconfirmed, milliseconds = struct.unpack_from("@24xI28xI", info)
        # The last one came with what was confirmed, at most this long ago.
        assert unconfirmed == 0 and 0 < milliseconds < 10_000
    async with open_streams("unix") as (stream, _):
        assert isinstance(stream, trio.SocketStream)
        assert seconds_unconfirmed(stream) == 0


@pytest.mark.parametrize("transport", ["tcp", "filtered", "tls-tcp"])
async def test_link_outlives_a_shortage_of_descriptors_in_its_pause(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To notice that a peer has gone takes one, and to lack it is no fault of the peer's."""
    ours, peer = ends.ours(LIMITS), ends.raw()
    for name in ("epoll", "kqueue"):
        monkeypatch.setattr(select, name, fail, raising=False)
    await send(peer, 40)
    await settle()
    assert ours.link.is_whole and ours.link.inbox.pause is not None
    monkeypatch.undo()
    await peer.send(close_frame(1000))
    assert await received(ours) == messages(40)


def fail(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("transport", ["memory", "filtered-memory", "tls-memory"])
async def test_peer_that_goes_behind_what_is_read_ahead_is_noticed_by_the_heartbeat(
    ends: Ends, watched: Watched, mock_clock: trio.testing.MockClock
) -> None:
    """What is not the kernel's has no hang-up, so it is written to."""
    ours, peer = watched(LIMITS), ends.raw()
    await send(peer, 4)
    await peer.send(*[Frame(BINARY, bytes(1000))] * 20)
    await settle()
    await trio.aclose_forcefully(peer.stream)
    for _ in range(4):
        mock_clock.jump(9.9)
        await settle()
    assert is_given_back(ours, ends)
