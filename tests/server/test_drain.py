"""Drain: no new connections, tell the old ones to come back later, wait, then close."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, echo, start, upgrade_head, wait
from tests.support import CLOSE, TEXT, Frame, close_frame
from trioweb.testing import Network

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: server\r\n\r\n"


class Serving:
    """A server whose end can be waited for."""

    def __init__(self, handler: Any, **options: Any) -> None:
        self._network = options.pop("network", None) or Network()
        self._handler = handler
        self._options = options
        self.ended = trio.Event()

    async def start(self, nursery: trio.Nursery) -> Site:
        listener = self._network.host("server").listen(80)

        async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
            await trioweb.serve_listeners(
                self._handler, [listener], **self._options, task_status=task_status
            )
            self.ended.set()

        return Site(self._network, await nursery.start(serve))


async def stubborn(connection: trioweb.Connection) -> None:
    await trio.sleep_forever()


async def answer_close(peer: Peer) -> tuple[int, str, float]:
    """Wait for the server's Close and answer it: its code, reason and time."""
    code, reason = await peer.read_close()
    at = trio.current_time()
    await peer.send(close_frame(code))
    await peer.read_end()
    return code, reason, at


async def test_drain_of_a_server_without_connections_ends_it_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(wait)
    site = await serving.start(nursery)
    begun = trio.current_time()
    await site.server.drain()
    await serving.ended.wait()
    assert trio.current_time() == begun
    with pytest.raises(ConnectionRefusedError):
        await site.peer()


async def test_drain_sends_1012_and_serve_returns_when_handlers_have_ended(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(wait)
    site = await serving.start(nursery)
    peers = [await site.opened() for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    async with trio.open_nursery() as draining:
        draining.start_soon(site.server.drain)
        for peer in peers:
            assert await answer_close(peer) == (1012, "", begun)
    await serving.ended.wait()
    assert trio.current_time() == begun
    statistics = site.server.statistics()
    assert (statistics.closed, statistics.connections) == ({1012: 3}, 0)


async def test_drain_refuses_upgrades_and_answers_plain_requests(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site: Site

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(503 if site.server.draining else 200)

    site = await start(nursery, stubborn, http=http)
    await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    assert (await site.ask(HEALTH)).status == 200
    nursery.start_soon(site.server.drain)
    await trio.testing.wait_all_tasks_blocked()
    assert (await site.ask(HEALTH)).status == 503
    answer = await site.ask(upgrade_head())
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_drain_spreads_its_closes_evenly(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(wait)
    site = await serving.start(nursery)
    peers = [await site.opened() for _ in range(5)]
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    times: list[float] = []

    async def note(peer: Peer) -> None:
        code, reason, at = await answer_close(peer)
        assert (code, reason) == (4321, "moving")
        times.append(at - begun)

    async with trio.open_nursery() as draining:
        draining.start_soon(partial(site.server.drain, spread=10, code=4321, reason="moving"))
        for peer in peers:
            draining.start_soon(note, peer)
    assert times == pytest.approx([0, 2, 4, 6, 8])
    await serving.ended.wait()


async def test_drain_lets_subscribers_catch_up_first(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 4: what was published before the drain is not dropped."""
    async with trioweb.open_hub() as hub:
        topic = hub.topic("news")

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection):
                await connection.wait_closed()

        serving = Serving(handler, hub=hub, network=Network(max_bytes=1000))
        site = await serving.start(nursery)
        peer = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        # More than is written at a time, so that it takes the pump to deliver it.
        for number in range(200):
            topic.publish(f"{number:0>1000}")
        nursery.start_soon(site.server.drain)
        await trio.sleep(5)
        frames: list[int] = []
        while (frame := await peer.frame()) is not None and frame.opcode == TEXT:
            frames.append(int(frame.payload))
        assert frames == list(range(200))
        assert frame is not None and frame.opcode == CLOSE
        await peer.send(close_frame(1012))
        await peer.read_end()
        await serving.ended.wait()


async def test_drain_waits_for_subscribers_no_longer_than_the_grace(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6."""
    async with trioweb.open_hub() as hub:
        topic = hub.topic("news")

        async def handler(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection):
                await connection.wait_closed()

        limits = trioweb.Limits(write_timeout=1000, close_timeout=1000)
        serving = Serving(handler, hub=hub, limits=limits, heartbeat=None)
        site = await serving.start(nursery)
        stalled, reading = await site.opened(), await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        topic.publish(bytes(500_000))
        begun = trio.current_time()
        nursery.start_soon(partial(site.server.drain, grace=3))
        code, _, at = await answer_close(reading)
        assert code == 1012
        assert at - begun == pytest.approx(3)
        await serving.ended.wait()
        assert trio.current_time() - begun == pytest.approx(6)
        await stalled.stream.aclose()


async def test_drain_gives_handlers_the_grace_then_cancels_them(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ends: list[tuple[str, float]] = []

    async def handler(connection: trioweb.Connection) -> None:
        await connection.wait_closed()
        try:
            await trio.sleep(4 if connection.request.path == "/quick" else 40)
            ends.append(("done", trio.current_time() - begun))
        except trio.Cancelled:
            ends.append(("cancelled", trio.current_time() - begun))
            raise

    serving = Serving(handler)
    site = await serving.start(nursery)
    peers = [await site.opened("/quick"), await site.opened("/slow")]
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=7, spread=2))
    for peer in peers:
        await answer_close(peer)
    await serving.ended.wait()
    # The grace begins after the last Close.
    assert [end for end, _ in ends] == ["done", "cancelled"]
    assert [at for _, at in ends] == pytest.approx([4, 8])
    assert site.server.statistics().connections == 0


async def test_drain_waits_for_no_peer_that_has_not_asked_for_anything(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Browsers open connections in advance; they must not hold up the end."""
    serving = Serving(wait)
    site = await serving.start(nursery)
    spare = await site.peer()
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    await site.server.drain()
    await serving.ended.wait()
    assert trio.current_time() == begun
    await spare.read_end()


async def test_drain_lets_a_plain_request_be_answered(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        await trio.sleep(3)
        return trioweb.Response(200, "slow but sure")

    serving = Serving(wait, http=http)
    site = await serving.start(nursery)
    peer = await site.peer()
    await peer.write(HEALTH)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(site.server.drain)
    assert (await peer.read_answer()).body == b"slow but sure"
    await serving.ended.wait()


async def test_drain_refuses_whom_admit_is_still_considering(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def admit(request: trioweb.Request) -> None:
        await trio.sleep(3)

    serving = Serving(echo, admit=admit)
    site = await serving.start(nursery)
    peer = await site.peer()
    await peer.write(upgrade_head())
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(site.server.drain)
    assert (await peer.read_answer()).status == 503
    await serving.ended.wait()


async def test_drain_tells_a_connection_whose_handshake_ends_only_now(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    # The peer has room for half of the 101, so that its writing takes until it reads.
    serving = Serving(echo, network=Network(max_bytes=60))
    site = await serving.start(nursery)
    peer = await site.peer()
    await peer.write(upgrade_head())
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 1
    begun = trio.current_time()
    nursery.start_soon(site.server.drain)
    await trio.testing.wait_all_tasks_blocked()
    assert (await peer.read_head())[0] == 101
    assert await answer_close(peer) == (1012, "", begun)
    await serving.ended.wait()


async def test_second_drain_waits_for_the_first(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(stubborn)
    site = await serving.start(nursery)
    peer = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=5))
    await trio.testing.wait_all_tasks_blocked()
    await site.server.drain(grace=1, code=1001)
    assert trio.current_time() - begun == pytest.approx(5)
    assert await peer.read_close() == (1012, "")
    await peer.stream.aclose()


async def test_cancelled_drain_stops_the_server_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 10."""
    serving = Serving(stubborn)
    site = await serving.start(nursery)
    peers = [await site.opened() for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    with trio.move_on_after(1):
        await site.server.drain(spread=60)
    await serving.ended.wait()
    assert trio.current_time() - begun == pytest.approx(1)
    assert await peers[0].read_close() == (1012, "")
    for peer in peers:
        await peer.read_end()


@pytest.mark.parametrize(
    "arguments",
    [
        {"grace": -1},
        {"grace": float("nan")},
        {"grace": None},
        {"spread": "2"},
        {"spread": True},
        {"spread": -1},
        {"code": 1005},
        {"code": 2000},
        {"reason": "x" * 124},
    ],
    ids=str,
)
async def test_drain_with_bad_arguments_has_begun_nothing(
    arguments: dict[str, Any], nursery: trio.Nursery
) -> None:
    site = await start(nursery, echo)
    with pytest.raises((TypeError, ValueError), match=r"code|reason|drain"):
        await site.server.drain(**arguments)
    assert not site.server.draining
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"hello"))
    assert await peer.frame() == Frame(TEXT, b"hello")


async def test_drain_is_quiet(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    serving = Serving(wait)
    site = await serving.start(nursery)
    peer = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(site.server.drain)
    await answer_close(peer)
    await serving.ended.wait()
    assert not caplog.records
