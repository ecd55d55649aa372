"""Streams that are kept alive: many idle ones, and pipelines without end."""

from __future__ import annotations

import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, assert_alone, tasks, traced, unreachable
from tests.server.support import Peer, Site, start, wait
from trioweb.testing import Network

_GET = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"


async def _hello(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, "hello")


async def _idle(site: Site) -> Peer:
    peer = await site.peer()
    await peer.write(_GET)
    assert (await peer.read_one()).body == b"hello"
    return peer


async def test_idle_streams_within_the_limits_cost_little_and_nobody_a_place(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770."""
    limits = trioweb.Limits(max_connections=300)
    site = await start(nursery, wait, http=_hello, limits=limits)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    with traced() as memory:
        peers = [await _idle(site) for _ in range(300)]
        await trio.testing.wait_all_tasks_blocked()
    assert memory.kept < 300 * 24 * KIB  # both ends and the network in memory included
    connections = [await site.opened() for _ in range(200)]
    assert site.server.statistics().opening == 100
    await trio.sleep(20.1)
    assert site.server.statistics().opening == 0
    for peer in [*peers, *connections]:
        await peer.stream.aclose()
    await assert_alone(site, before)


async def test_pipeline_that_is_not_read_holds_one_answer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 8: who asks without reading is asked for no more than he takes."""
    answered = 0

    async def http(request: trioweb.Request) -> trioweb.Response:
        nonlocal answered
        answered += 1
        return trioweb.Response(200, bytes(10 * KIB))

    network = Network(max_bytes=64 * KIB)
    site = await start(nursery, unreachable, http=http, network=network)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peer = await site.peer()
    async with trio.open_nursery() as sending:

        @sending.start_soon
        async def send() -> None:
            try:
                while True:
                    await peer.write(_GET * 100)
            except trio.BrokenResourceError:
                pass

        with traced() as memory:
            await trio.sleep(10)
            assert answered <= 8
        assert memory.peak < 600 * KIB
        # The write timeout is 20 s.
    assert trio.current_time() < 25
    await peer.stream.aclose()
    await assert_alone(site, before)
