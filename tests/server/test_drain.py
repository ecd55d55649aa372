"""Drain: no new connections, tell the old ones to come back later, wait, then close."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
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


class Following:
    """Handlers that subscribe to one topic, and the hub that it is on."""

    def __init__(self, hub: trioweb.Hub) -> None:
        self.hub = hub
        self.topic = hub.topic("news")

    async def __call__(self, connection: trioweb.Connection) -> None:
        with self.topic.subscribe(connection):
            await connection.wait_closed()


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    async with trioweb.open_hub() as hub:
        yield Following(hub)


# Peers of whom nothing would end by itself.
PATIENT = trioweb.Limits(write_timeout=1000, close_timeout=1000, connect_timeout=1000)


async def test_drain_closes_each_connection_as_soon_as_it_has_caught_up(
    following: Following, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 3: one that does not read delays the Close of nobody else, however many it is."""
    serving = Serving(following, hub=following.hub, limits=PATIENT, heartbeat=None)
    site = await serving.start(nursery)
    stalled = [await site.opened() for _ in range(3)]
    slow, *reading = [await site.opened() for _ in range(4)]
    await trio.testing.wait_all_tasks_blocked()
    following.topic.publish(bytes(500_000))  # what the transport holds
    following.topic.publish("the end")
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=8))
    for peer in reading:
        code, _, at = await answer_close(peer)
        assert code == 1012
        assert at - begun < 0.5
    await trio.sleep_until(begun + 5)
    code, _, at = await answer_close(slow)
    assert code == 1012
    assert 5 <= at - begun < 5.5
    await serving.ended.wait()
    assert trio.current_time() - begun == pytest.approx(8)
    assert site.server.statistics().closed == {1012: 7}
    for peer in stalled:
        await peer.stream.aclose()


async def test_drain_waits_a_second_for_a_peer_that_keeps_tcp_open_behind_its_close(
    following: Following, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6.  Both Closes are said: nothing can come that would be missed."""
    serving = Serving(following, hub=following.hub, limits=PATIENT)
    site = await serving.start(nursery)
    peer = await site.opened()
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=500))
    code, _ = await peer.read_close()
    await peer.send(close_frame(code))
    await serving.ended.wait()
    assert trio.current_time() - begun == pytest.approx(1, abs=0.1)
    assert site.server.statistics().closed == {code: 1}
    await peer.stream.aclose()


async def test_drain_waits_for_what_was_published_before_it_and_not_for_what_comes_later(
    following: Following, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Or a subscriber of a busy topic would not be told before the grace is over."""
    network = Network(max_bytes=1000)
    serving = Serving(following, hub=following.hub, network=network, limits=PATIENT)
    site = await serving.start(nursery)
    peer = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    published = 0

    def publish() -> None:
        nonlocal published
        following.topic.publish(f"{published:0>1000}")
        published += 1

    @nursery.start_soon
    async def go_on_publishing() -> None:
        while site.server.connections:
            await trio.sleep(0.05)
            publish()

    for _ in range(300):
        publish()
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=1000))
    frames: list[int] = []
    while (frame := await peer.frame()) is not None and frame.opcode == TEXT:
        frames.append(int(frame.payload))
        await trio.sleep(0.1)  # it never gets to the end
    assert frame is not None and frame.opcode == CLOSE
    assert int.from_bytes(frame.payload[:2], "big") == 1012
    assert frames == list(range(len(frames)))
    assert 300 <= len(frames) < 450
    assert trio.current_time() - begun < 50
    await peer.send(close_frame(1012))
    await peer.read_end()
    await serving.ended.wait()


async def test_drain_waits_for_no_subscriber_that_has_left(
    following: Following, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Nor for one of a hub that delivers no more."""

    async def handler(connection: trioweb.Connection) -> None:
        with following.topic.subscribe(connection):
            await leave.wait()
        await connection.wait_closed()

    leave = trio.Event()
    serving = Serving(handler, hub=following.hub, limits=PATIENT, heartbeat=None)
    site = await serving.start(nursery)
    stalled = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        following.topic.publish(bytes(500_000))
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, grace=8))
    await trio.sleep(1)
    assert [connection.state for connection in site.server.connections] == [trioweb.State.OPEN]
    leave.set()
    await trio.sleep(1)
    assert [connection.state for connection in site.server.connections] == [trioweb.State.CLOSING]
    await serving.ended.wait()
    assert trio.current_time() - begun == pytest.approx(8)
    await stalled.stream.aclose()


async def test_drain_spreads_its_closes_over_laggards_too(
    following: Following, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(following, hub=following.hub, limits=PATIENT, heartbeat=None)
    site = await serving.start(nursery)
    peers = [await site.opened() for _ in range(4)]
    await trio.testing.wait_all_tasks_blocked()
    following.topic.publish(bytes(500_000))
    following.topic.publish("the end")
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, spread=8))
    times: list[float] = []
    # The second lags when it is its turn, at 2, and has caught up while the others wait for theirs.
    for peer, at in (peers[0], 0), (peers[1], 3), (peers[2], 3), (peers[3], 3):
        await trio.sleep_until(begun + at)
        _, _, told_at = await answer_close(peer)
        times.append(told_at - begun)
    assert times == pytest.approx([0, 3, 4, 6], abs=0.2)
    await serving.ended.wait()


# Ways not to end.


async def _stall(peer: Peer, following: Following) -> None:
    await peer.open("/stall")
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        following.topic.publish(bytes(500_000))


async def _hang(peer: Peer, following: Following) -> None:
    await peer.open("/hang")


async def _ignore_close(peer: Peer, following: Following) -> None:
    await peer.open("/")


async def _ask(path: str, peer: Peer, following: Following) -> None:
    await peer.write(f"GET {path} HTTP/1.1\r\nHost: server\r\n\r\n".encode())


async def _be_considered(peer: Peer, following: Following) -> None:
    await peer.write(upgrade_head("/hang"))


async def _send_half_a_head(peer: Peer, following: Following) -> None:
    await peer.write(upgrade_head()[:-2])


async def _be_silent(peer: Peer, following: Following) -> None:
    pass


@pytest.mark.parametrize("handover", [False, True])
@pytest.mark.parametrize(
    ("way", "waits"),
    [
        (_stall, True),
        (_hang, True),
        (_ignore_close, True),
        (partial(_ask, "/hang"), True),
        (partial(_ask, "/large"), True),
        (_be_considered, True),
        (_send_half_a_head, False),
        (_be_silent, False),
    ],
    ids=["stall", "hang", "ignore Close", "http", "read no answer", "admit", "head", "silence"],
)
async def test_drain_has_one_deadline_for_whatever_does_not_end(
    way: Callable[[Peer, Following], Awaitable[None]],
    waits: bool,
    handover: bool,
    following: Following,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 6.  Without a handover a peer that has not asked yet is not waited for."""

    async def admit(request: trioweb.Request) -> None:
        if way is _be_considered:
            await trio.sleep_forever()

    async def http(request: trioweb.Request) -> trioweb.Response:
        if request.path == "/hang":
            await trio.sleep_forever()
        return trioweb.Response(200, bytes(500_000))

    async def handler(connection: trioweb.Connection) -> None:
        if connection.request.path == "/hang":
            await trio.sleep_forever()
        await following(connection)

    serving = Serving(
        handler, hub=following.hub, admit=admit, http=http, limits=PATIENT, heartbeat=None
    )
    site = await serving.start(nursery)
    peer = await site.peer()
    await way(peer, following)
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    await site.server.drain(grace=8, handover=handover)
    await serving.ended.wait()
    assert trio.current_time() - begun == pytest.approx(8 if waits or handover else 0)
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert site.streams == 0


# Handing over.


async def test_handover_closes_the_listeners_first(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    serving = Serving(wait)
    site = await serving.start(nursery)
    peer = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    nursery.start_soon(partial(site.server.drain, handover=True))
    assert (await peer.read_close())[0] == 1012
    with pytest.raises(ConnectionRefusedError):
        await site.peer()
    assert not site.server.draining
    assert not serving.ended.is_set()
    await peer.send(close_frame(1012))
    await peer.read_end()
    await serving.ended.wait()
    assert trio.current_time() == begun


async def test_handover_refuses_nobody_who_was_accepted(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def admit(request: trioweb.Request) -> None:
        await trio.sleep(1)

    async def http(request: trioweb.Request) -> trioweb.Response:
        await trio.sleep(1)
        return trioweb.Response(503 if site.server.draining else 200)

    serving = Serving(echo, admit=admit, http=http)
    site = await serving.start(nursery)
    asked, begun_to_ask, silent = [await site.peer() for _ in range(3)]
    plain, silent_plain = [await site.peer() for _ in range(2)]
    await asked.write(upgrade_head())
    await begun_to_ask.write(upgrade_head()[:50])
    await plain.write(HEALTH)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(partial(site.server.drain, handover=True))
    await trio.sleep(2)
    await begun_to_ask.write(upgrade_head()[50:])
    await silent.write(upgrade_head())
    await silent_plain.write(HEALTH)
    for peer in asked, begun_to_ask, silent:
        assert (await peer.read_head())[0] == 101
        assert (await answer_close(peer))[:2] == (1012, "")
    for peer in plain, silent_plain:
        answer = await peer.read_answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    await serving.ended.wait()
    statistics = site.server.statistics()
    assert (statistics.refused, statistics.closed) == ({}, {1012: 3})


@pytest.mark.network
async def test_handover_takes_those_who_wait_to_be_accepted(nursery: trio.Nursery) -> None:
    """The kernel has told them that they are connected, and would reset them."""
    server: trioweb.Server = await nursery.start(partial(trioweb.serve, wait, 0, host="127.0.0.1"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    with ExitStack() as stack:
        # Without a checkpoint, so that the server can have accepted none of them.
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(20)
        ]
        nursery.start_soon(partial(server.drain, handover=True))
        for sock in sockets:
            sock.setblocking(False)
            peer = Peer(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
            await peer.open()
            assert (await peer.read_close())[0] == 1012
            await peer.send(close_frame(1012))
            await peer.read_end()


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
    assert [end for end, _ in ends] == ["done", "cancelled"]
    assert [at for _, at in ends] == pytest.approx([4, 7])
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
        await site.server.drain(grace=60, spread=60)
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
        {"grace": 5, "spread": 6},
        {"handover": 1},
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
