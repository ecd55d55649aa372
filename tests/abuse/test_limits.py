"""Too many connections, of one address or altogether, too many topics, and too many messages.

Who counts as one address behind proxies is tested in tests/server/test_proxies.py, and that
topics without end (CWE-770) cost no more than the hub may hold in tests/server/test_bad_input.py:
`test_thousand_topics_a_second_cost_no_more_than_the_hub_may_hold`.
"""

from __future__ import annotations

import logging
from unittest.mock import ANY

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, assert_alone, tasks, traced
from tests.server.support import Peer, Site, echo, start, upgrade_head
from tests.support import PING, PONG, TEXT, Frame

_LIMIT = 20
_CROWD = 200


async def _opened(site: Site, forwarded: str | None = None) -> Peer:
    return await site.opened(extra=[("X-Forwarded-For", forwarded)] if forwarded else [])


@pytest.mark.parametrize(
    ("limits", "trusted", "friend", "crowd"),
    [
        pytest.param(trioweb.Limits(max_connections=_LIMIT), (), None, None, id="in total"),
        pytest.param(
            trioweb.Limits(max_connections_per_host=_LIMIT), (), None, None, id="of one address"
        ),
        pytest.param(
            trioweb.Limits(max_connections_per_host=_LIMIT),
            ("10.0.0.0/8",),
            "198.51.100.1",
            "203.0.113.9",
            id="of one address behind a proxy",
        ),
        pytest.param(
            # It may write before the proxy's word whatever it likes.
            trioweb.Limits(max_connections_per_host=_LIMIT),
            ("10.0.0.0/8",),
            "198.51.100.1",
            "forged",
            id="of one address behind a proxy, forging others",
        ),
    ],
)
async def test_crowd_beyond_a_limit_is_told_so_at_once(
    limits: trioweb.Limits,
    trusted: tuple[str, ...],
    friend: str | None,
    crowd: str | None,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """CWE-770, CWE-348: two hundred get a 503 within a second; who was there, notices nothing."""
    site = await start(nursery, echo, limits=limits, trusted_proxies=trusted)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    friends = [await _opened(site, friend) for _ in range(_LIMIT if friend is None else 1)]
    # Behind a proxy the crowd has room of its own, and uses it up first.
    seated = [
        await _opened(site, f"1.2.3.4, {crowd}" if crowd != "forged" else "1.2.3.4, 203.0.113.9")
        for _ in range(_LIMIT if crowd else 0)
    ]
    begun = trio.current_time()
    statuses: list[int] = []

    async def knock(number: int) -> None:
        peer = await site.peer()
        if crowd is not None:
            claim = f"192.0.2.{number % 256}, 203.0.113.9" if crowd == "forged" else crowd
            await peer.write(upgrade_head(extra=[("X-Forwarded-For", claim)]))
        answer = await peer.read_answer()
        assert int(answer.headers["retry-after"]) > 0
        statuses.append(answer.status)

    with traced() as memory:
        async with trio.open_nursery() as knocking:
            for number in range(_CROWD):
                knocking.start_soon(knock, number)
    assert statuses == [503] * _CROWD
    assert trio.current_time() - begun <= 1
    assert memory.peak < _CROWD * 48 * KIB
    for peer in friends:
        await peer.send(Frame(TEXT, b"hello"))
        assert await peer.frame() == Frame(TEXT, b"hello")
    for peer in [*friends, *seated]:
        await peer.stream.aclose()
    await assert_alone(site, before)
    # And there is room again.
    await (await _opened(site, friend)).stream.aclose()


async def test_crowd_that_does_not_even_read_its_refusal_is_gone_in_a_second(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: a refused peer holds a socket and a task for as long as it may take its answer."""
    site = await start(nursery, echo, limits=trioweb.Limits(max_connections=1))
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peers = [await site.peer() for _ in range(_CROWD)]
    await trio.sleep(1.01)
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 1  # the first one may still ask
    assert site.streams == _CROWD + 1
    for peer in peers:
        await peer.stream.aclose()
    await assert_alone(site, before)


async def _hello(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, "hello")


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: server\r\n\r\n".encode()


async def test_full_server_tells_its_health_and_nothing_else(nursery: trio.Nursery) -> None:
    """A probe that is refused takes a full server for a dead one."""
    site = await start(nursery, echo, http=_hello, limits=trioweb.Limits(max_connections=2))
    for _ in range(2):
        await site.opened()
    for head, status in [
        (_get("/healthz"), 200),
        (_get("/stats?x"), 200),
        (_get("/healthz/more"), 503),
        (_get("/"), 503),
        (upgrade_head("/healthz"), 503),
        (upgrade_head(), 503),
        (b"nonsense\r\n\r\n", 400),
    ]:
        answer = await site.ask(head)
        assert answer.status == status
        assert ("retry-after" in answer.headers) is (status == 503)
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().connections == 2
    assert site.server.statistics().opening == 0


async def test_sockets_beyond_the_limit_are_few_and_the_oldest_goes_first(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: whoever says nothing there keeps no probe out."""
    site = await start(nursery, echo, http=_hello, limits=trioweb.Limits(max_connections=1))
    friend = await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    silent: list[Peer] = []
    for _ in range(16):
        silent.append(await site.peer())
        await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 16
    begun = trio.current_time()
    for _ in range(3):
        assert (await site.ask(_get("/healthz"))).status == 200
        await trio.testing.wait_all_tasks_blocked()
    # One had to go for all of them.
    assert await silent[0].read_end() == b""
    assert site.server.statistics().opening == 15
    assert site.server.statistics().refused == {0: 1}
    assert trio.current_time() == begun
    for peer in silent[1:]:
        assert (await peer.read_answer()).status == 408
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 0
    await friend.send(Frame(TEXT, b"hello"))
    assert await friend.frame() == Frame(TEXT, b"hello")


async def test_socket_beyond_the_limit_is_one_like_any_other_once_there_is_room(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, echo, http=_hello, limits=trioweb.Limits(max_connections=1))
    first = await site.opened()
    second = await site.peer()
    await trio.testing.wait_all_tasks_blocked()
    await first.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await second.open()
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(20):  # which do not push it out
        await site.peer()
        await trio.testing.wait_all_tasks_blocked()
    await second.send(Frame(TEXT, b"hello"))
    assert await second.frame() == Frame(TEXT, b"hello")
    assert (await site.ask(upgrade_head())).status == 503
    assert (await site.ask(_get("/healthz"))).status == 200


async def test_subscriptions_that_no_topic_has_room_for_are_refused(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: where every topic has subscribers, another one is refused, not made."""
    async with trioweb.open_hub(max_topics=_LIMIT) as hub:

        async def handler(connection: trioweb.Connection) -> None:
            with hub.topic(connection.request.path).subscribe(connection):
                await connection.wait_closed()

        async def admit(request: trioweb.Request) -> None:
            try:
                hub.topic(request.path)
            except trioweb.HubFull:
                raise trioweb.Reject(503) from None

        site = await start(nursery, handler, admit=admit, hub=hub)
        await trio.testing.wait_all_tasks_blocked()
        before = tasks()
        peers = [await site.opened(f"/{number}") for number in range(_LIMIT)]
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            assert (await site.ask(upgrade_head(f"/more/{number}"))).status == 503
        assert hub.statistics().topics == _LIMIT
        for peer in peers:
            await peer.stream.aclose()
        await assert_alone(site, before)
        assert hub.statistics().topics == 0


# Messages.


async def test_peer_that_sends_too_fast_is_read_more_slowly_and_loses_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: what it sends costs no more than it may, at most for two seconds at once."""
    rate, count, message = 20, 1000, "x" * 8 * KIB
    taken_at: list[float] = []

    async def handler(connection: trioweb.Connection) -> None:
        async for text in connection:  # in order, and all of them
            assert text == f"{len(taken_at):04}{message}"
            taken_at.append(trio.current_time())

    async def handle(connection: trioweb.Connection) -> None:
        await (handler if connection.request.path == "/fast" else echo)(connection)

    async def flood(connection: trioweb.Connection) -> None:
        for number in range(count):
            await connection.send(f"{number:04}{message}")
        await connection.aclose()

    site = await start(
        nursery,
        handle,
        limits=trioweb.Limits(max_messages_per_second=rate),
    )
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    friend = await site.opened()
    limits = trioweb.Limits(close_timeout=count)
    async with trioweb.open_connection("ws://server/fast", dial=site.dial, limits=limits) as fast:
        with traced() as memory:
            async with trio.open_nursery() as flooding:
                flooding.start_soon(flood, fast)
                for _ in range(40):
                    await trio.sleep(1)
                    asked_at = trio.current_time()
                    await friend.send(Frame(TEXT, b"hello"))
                    assert await friend.frame() == Frame(TEXT, b"hello")
                    assert trio.current_time() == asked_at
    begun_at = taken_at[0]
    assert len(taken_at) == count
    for number, at in enumerate(taken_at):
        assert number < (at - begun_at + 2) * rate + 1e-6
    # And not more slowly than that: of a burst that a read cuts, some is taken later.
    assert taken_at[-1] - begun_at < count / rate - 1
    assert fast.close_code == 1000
    # The network's buffers, the chunk that was read, and what `send` may queue.
    assert memory.peak < count * len(message) / 8
    await friend.stream.aclose()
    await assert_alone(site, before)


async def test_peer_within_the_limit_is_never_waited_for(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A burst of what a second allows passes at once, and again a second later."""
    site = await start(nursery, echo, limits=trioweb.Limits(max_messages_per_second=10))
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peer = await site.opened()
    for _ in range(5):
        sent_at = trio.current_time()
        # Pings do not count.
        await peer.send(*[Frame(PING)] * 100, *[Frame(TEXT, b"x")] * 10)
        answers = [await peer.frame() for _ in range(110)]
        assert answers == [Frame(PONG)] * 100 + [Frame(TEXT, b"x")] * 10
        assert trio.current_time() == sent_at
        await trio.sleep(1)
    await peer.stream.aclose()
    await assert_alone(site, before)


async def test_peer_that_is_read_more_slowly_is_not_blamed_for_what_is_not_read(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 5; and nobody is warned of a full inbox, as it is none."""
    taken_at = []

    async def handler(connection: trioweb.Connection) -> None:
        async for _ in connection:
            taken_at.append(trio.current_time())

    site = await start(
        nursery,
        handler,
        limits=trioweb.Limits(max_messages_per_second=0.1),
        heartbeat=trioweb.Heartbeat(interval=2, timeout=1),
    )
    peer = await site.opened()
    begun_at = trio.current_time()
    await peer.send(*[Frame(TEXT, b"x")] * 4)
    assert await peer.frame() == Frame(PING, ANY)
    assert [at - begun_at for at in taken_at] == pytest.approx([0, 9, 19, 29])
    assert trio.current_time() - begun_at == pytest.approx(39 + 2)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    # Once it is read again, it is as alive as it shows.
    await peer.read_end()
    assert trio.current_time() - begun_at == pytest.approx(39 + 3)


async def test_server_that_is_cancelled_does_not_wait_for_a_peer_that_is_read_more_slowly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariants 6 and 10; what it does at a close is tested in tests/test_conformance.py."""
    async with trio.open_nursery() as serving:
        site = await start(serving, echo, limits=trioweb.Limits(max_messages_per_second=0.001))
        peer = await site.opened()
        await peer.send(*[Frame(TEXT, b"x")] * 2)
        assert await peer.frame() == Frame(TEXT, b"x")
        begun_at = trio.current_time()
        serving.cancel_scope.cancel()
    assert trio.current_time() == begun_at
    await peer.read_end()
