"""Peers that do not close, close by halves, or go on after they closed.

Each costs at most the close timeout, of 10 s, or a second once both Closes are said; bytes behind a
Close are tested at the link, in tests/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, assert_alone, tasks, traced
from tests.server.support import Peer, echo, start, upgrade_head, wait
from tests.support import BINARY, PING, TEXT, Frame, close_frame
from trioweb.testing import Network

_CLOSE_TIMEOUT = 10
_AGREED_SECONDS = 1
_CROWD = 30


async def _leave_tcp_open(peer: Peer) -> None:
    """It closes, and is answered, but keeps its end of TCP."""
    await peer.send(close_frame(1000))
    assert await peer.frames() == [close_frame(1000)]
    await trio.sleep(60)


async def _leave_tcp_open_and_unread(peer: Peer) -> None:
    await peer.send(close_frame(1000))
    await trio.sleep(60)


async def _go_on_sending(peer: Peer) -> None:
    """Data after Close: nobody hears it, and it keeps nothing open."""
    await peer.send(close_frame(1000))
    try:
        while True:
            await peer.send(Frame(BINARY, bytes(KIB)))
            await trio.sleep(0.5)
    except trio.BrokenResourceError:
        pass


async def _answer_no_close(peer: Peer) -> None:
    """The server closes (1009) and waits for an answer in vain."""
    await peer.write(b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask")
    assert (await peer.read_close())[0] == 1009
    await trio.sleep(60)


async def _answer_no_close_but_pings(peer: Peer) -> None:
    """The same, and it looks alive for ever."""
    await peer.write(b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask")
    try:
        while True:
            await peer.send(Frame(PING, b"alive"))
            await trio.sleep(0.5)
    except trio.BrokenResourceError:
        pass


async def _end_by_half(peer: Peer) -> None:
    """FIN without Close, while it goes on reading."""
    assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
    await peer.stream.send_eof()
    assert await peer.frames() == []


async def _end_by_half_in_mid_frame(peer: Peer) -> None:
    assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
    await peer.write(b"\x82\xfe\x10\x00abcd")
    await peer.stream.send_eof()
    assert await peer.frames() == []


@pytest.mark.parametrize(
    ("attack", "code", "seconds"),
    [
        (_leave_tcp_open, 1000, _AGREED_SECONDS),
        (_leave_tcp_open_and_unread, 1000, _AGREED_SECONDS),
        (_go_on_sending, 1000, _AGREED_SECONDS),
        (_answer_no_close, 1009, _CLOSE_TIMEOUT),
        (_answer_no_close_but_pings, 1009, _CLOSE_TIMEOUT),
        (_end_by_half, 1006, 0),
        (_end_by_half_in_mid_frame, 1006, 0),
    ],
)
async def test_end_without_an_end_is_made_one(
    attack: Callable[[Peer], Awaitable[None]],
    code: int,
    seconds: float,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """CWE-404, CWE-772: thirty such peers; sockets, tasks and memory come back."""
    heard: list[object] = []

    async def handler(connection: trioweb.Connection) -> None:
        async for message in connection:
            heard.append(message)

    site = await start(nursery, handler)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peers = [await site.opened() for _ in range(_CROWD)]
    begun = trio.current_time()
    with traced() as memory:
        async with trio.open_nursery() as attackers:
            for peer in peers:
                attackers.start_soon(attack, peer)
            await trio.sleep(seconds + 0.01)
            await trio.testing.wait_all_tasks_blocked()
            # The peers' ends are all that is left.
            assert site.server.statistics().connections == 0
            assert site.streams <= _CROWD
            assert tasks() <= before + 2 * _CROWD + 1
            attackers.cancel_scope.cancel()
    assert memory.peak < _CROWD * 64 * KIB
    assert trio.current_time() - begun < seconds + 1
    for peer in peers:
        await peer.stream.aclose()
    await assert_alone(site, before)
    assert site.server.statistics().closed == {code: _CROWD}
    assert heard == []


@pytest.mark.parametrize("sent", [upgrade_head(), upgrade_head()[:40], b""], ids=len)
async def test_end_by_half_in_the_handshake_is_noticed_at_once(
    sent: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-772: no deadline need pass for a peer that has said that nothing more comes."""
    site = await start(nursery, wait)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    for _ in range(_CROWD):
        peer = await site.peer()
        assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
        await peer.write(sent)
        await peer.stream.send_eof()
        await peer.read_end()
    assert trio.current_time() == begun
    await assert_alone(site, before)


async def test_subscribers_that_never_read_are_evicted_and_delay_nobody(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: thirty of them; what they cost is what the kernel takes, and it comes back."""
    async with trioweb.open_hub() as hub:
        topic = hub.topic("news", retain=trioweb.Retain(max_messages=100))

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection):
                await connection.wait_closed()

        network = Network(max_bytes=8 * KIB)
        site = await start(nursery, handler, hub=hub, network=network)
        await trio.testing.wait_all_tasks_blocked()
        before, begun = tasks(), trio.current_time()
        stalled = [await site.opened() for _ in range(_CROWD)]
        healthy = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        with traced() as memory:
            for number in range(500):
                topic.publish(f"{number:1000}")
                assert await healthy.frame() == Frame(TEXT, f"{number:1000}".encode())
            assert trio.current_time() == begun
            await trio.sleep(topic.retain.patience + 0.01)
            assert hub.statistics().evicted == _CROWD
            await trio.sleep(_CLOSE_TIMEOUT + 0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert site.server.statistics().connections == 1
        # What is under way to each; the log, twice; and what the network remembers of itself.
        assert memory.peak < _CROWD * 24 * KIB + 1000 * KIB
        for peer in [*stalled, healthy]:
            await peer.stream.aclose()
        await assert_alone(site, before)


async def test_peer_that_sends_and_never_reads_is_given_up(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-400: thirty peers let an echo write until nothing goes any more; with real sockets it
    is in tests/server/test_bad_input.py."""
    limits = trioweb.Limits(inbox_bytes=64 * KIB, send_bytes=32 * KIB)
    site = await start(nursery, echo, network=Network(max_bytes=8 * KIB), limits=limits)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peers = [await site.opened() for _ in range(_CROWD)]
    begun = trio.current_time()
    with traced() as memory:
        async with trio.open_nursery() as attackers:
            for peer in peers:

                @attackers.start_soon
                async def send(peer: Peer = peer) -> None:
                    with pytest.raises(trio.BrokenResourceError):
                        while True:
                            await peer.send(Frame(BINARY, bytes(16 * KIB)))

            await trio.testing.wait_all_tasks_blocked()
            for connection in site.server.connections:
                # `send` waits while more than the limit is queued, and one message is beyond it.
                assert connection.buffered_amount <= 32 * KIB + 16 * KIB + 16
    assert trio.current_time() - begun == pytest.approx(20, abs=1)  # the write timeout
    # Inbox, queue, one read of 64 KiB, and half as much on the way.
    assert memory.peak < _CROWD * 320 * KIB
    for peer in peers:
        await peer.stream.aclose()
    await assert_alone(site, before)
