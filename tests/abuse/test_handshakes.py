"""Handshakes that never end: slowloris (CVE-2007-6750), and crowds of it.

Peers that are silent in mid-head or in mid-TLS are in tests/server/test_admission.py and
test_front.py, each with the deadline as its bound.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, assert_alone, tasks, traced
from tests.server.support import Peer, echo, start, upgrade_head
from tests.support import TEXT, Frame

_SLOW = 200
# For each of them it is 26.5 KiB on Python 3.11 to 3.13: 12.5 for the network in memory, both ends
# and what it records, 7 for the test's own two tasks, and 7 for the server's task, its deadline
# and what it has read; where coverage is measured, 32, since traced frames are objects.  A server
# that made room for the largest head that a peer may send (16 KiB) would be past this.
_HELD_BYTES = 40 * KIB


async def test_slow_handshakes_delay_nobody_and_end_at_the_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CVE-2007-6750: 200 peers send a byte a second, and others come all the time."""
    site = await start(nursery, echo)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    refused_at: list[float] = []

    async def dribble(peer: Peer) -> None:
        async with trio.open_nursery() as sending:

            @sending.start_soon
            async def send() -> None:
                for byte in upgrade_head():
                    await peer.write(bytes([byte]))
                    await trio.sleep(1)

            assert (await peer.read_head())[0] == 408
            refused_at.append(trio.current_time() - begun)
            sending.cancel_scope.cancel()
        await peer.read_end()

    async def talk() -> None:
        asked_at = trio.current_time()
        peer = await site.opened()
        await peer.send(Frame(TEXT, b"hello"))
        assert await peer.frame() == Frame(TEXT, b"hello")
        assert trio.current_time() == asked_at
        await peer.stream.aclose()

    async with trio.open_nursery() as crowd:
        # Up to the deadline: what 200 refusals at one instant take depends on when Python
        # collects its garbage.
        with traced() as memory:
            for _ in range(_SLOW):
                crowd.start_soon(dribble, await site.peer())
            for _ in range(9):
                await trio.sleep(1)
                await talk()
        assert site.server.statistics().opening == _SLOW
    assert refused_at == [pytest.approx(10)] * _SLOW
    assert trio.current_time() - begun <= 11
    assert memory.kept < _SLOW * _HELD_BYTES
    assert site.server.statistics().refused == {408: _SLOW}
    await assert_alone(site, before)


async def test_slow_reader_of_a_refusal_is_cut_off(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Slow read: who is refused need not be waited for, however busy it looks."""
    site = await start(nursery, echo, limits=trioweb.Limits(connect_timeout=5))
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    async with trio.open_nursery() as crowd:
        for _ in range(_SLOW):

            @crowd.start_soon
            async def pester() -> None:
                peer = await site.peer()
                with pytest.raises(trio.BrokenResourceError):
                    while True:  # and it never reads
                        await peer.write(b"\0")
                        await trio.sleep(0.1)
                await peer.stream.aclose()

    assert trio.current_time() - begun < 1.5
    assert site.server.statistics().refused == {400: _SLOW}
    await assert_alone(site, before)
