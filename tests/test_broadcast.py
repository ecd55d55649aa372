"""What `trioweb serve` runs: every path is a topic, and its page."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Answer, Peer, Site, start, upgrade_head
from tests.support import BINARY, TEXT, Frame, close_frame
from trioweb._access import Access, open_rules
from trioweb._broadcast import Broadcast
from trioweb.testing import MemoryBroker


@asynccontextmanager
async def broadcasting(
    *,
    history: int = 0,
    echo: bool = True,
    max_topics: int = 100,
    broker: trioweb.Broker | None = None,
    **options: Any,
) -> AsyncGenerator[Site]:
    bounds: dict[str, Any] = {"max_topics": max_topics, "broker": broker}
    async with trioweb.open_hub(**bounds) as hub, trio.open_nursery() as nursery:
        broadcast = Broadcast(
            hub,
            Access(open_rules(trioweb.Retain(max_messages=1000 + history))),
            history=history,
            echo=echo,
        )
        options = {"admit": broadcast.admit, "http": broadcast.http, "hub": hub, **options}
        site = await start(nursery, broadcast.handle, **options)
        broadcast.server = site.server
        yield site
        nursery.cancel_scope.cancel()


async def get(site: Site, path: str, method: str = "GET") -> Answer:
    return await site.ask(f"{method} {path} HTTP/1.1\r\nHost: server\r\n\r\n".encode())


async def say_nothing(*peers: Peer) -> None:
    """See that no frame arrives."""
    async with trio.open_nursery() as nursery:

        async def read(peer: Peer) -> None:
            raise AssertionError(await peer.frame())

        for peer in peers:
            nursery.start_soon(read, peer)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_message_reaches_everyone_on_its_path_and_nobody_else() -> None:
    async with broadcasting() as site:
        ann, bob = await site.opened("/lobby"), await site.opened("/lobby")
        other, root = await site.opened("/Lobby"), await site.opened("/")
        await trio.testing.wait_all_tasks_blocked()
        await ann.send(Frame(TEXT, b"hello"))
        for peer in (ann, bob):
            assert await peer.frame() == Frame(TEXT, b"hello")
        await say_nothing(ann, bob, other, root)


async def test_sender_is_left_out_without_echo() -> None:
    async with broadcasting(echo=False) as site:
        ann, bob = await site.opened("/lobby"), await site.opened("/lobby")
        await trio.testing.wait_all_tasks_blocked()
        await ann.send(Frame(TEXT, b"hello"))
        assert await bob.frame() == Frame(TEXT, b"hello")
        await say_nothing(ann)


async def test_text_stays_text_and_binary_stays_binary() -> None:
    """Invariant 9: and everything stays in its order."""
    async with broadcasting() as site:
        ann, bob = await site.opened(), await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        frames = [
            Frame(TEXT, "grüße".encode()),
            Frame(BINARY, b"\x00\xff"),
            Frame(TEXT),
            Frame(BINARY),
            Frame(BINARY, b"ascii"),
        ]
        await ann.send(*frames)
        assert [await bob.frame() for _ in frames] == frames


async def test_newcomer_gets_the_history_and_no_more() -> None:
    async with broadcasting(history=3) as site:
        ann = await site.opened("/lobby")
        for number in b"12345":
            await ann.send(Frame(TEXT, bytes([number])))
            await ann.frame()
        bob = await site.opened("/lobby")
        assert [await bob.frame() for _ in range(3)] == [Frame(TEXT, b) for b in (b"3", b"4", b"5")]
        await say_nothing(bob, await site.opened("/elsewhere"))


async def test_history_outlives_those_who_made_it() -> None:
    async with broadcasting(history=2000) as site:
        ann = await site.opened("/lobby")
        messages = [Frame(TEXT, str(number).encode()) for number in range(1500)]
        await ann.send(*messages)
        assert [await ann.frame() for _ in messages] == messages
        await ann.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        bob = await site.opened("/lobby")
        assert [await bob.frame() for _ in messages] == messages


async def test_path_is_percent_decoded() -> None:
    async with broadcasting() as site:
        ann = await site.opened("/caf%C3%A9%20au%20lait?uid=1")
        bob = await site.opened("/caf%c3%a9%20au%20l%61it")
        await trio.testing.wait_all_tasks_blocked()
        await ann.send(Frame(TEXT, b"hello"))
        assert await bob.frame() == Frame(TEXT, b"hello")
        statistics = site.server.statistics().hub
        assert statistics is not None and statistics.topics == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/" + "a" * 255, 101),
        ("/" + "a" * 256, 414),
        ("/" + "%C3%A9" * 127, 101),  # 254 bytes, decoded
        ("/" + "%C3%A9" * 128, 414),
        ("/healthz", 404),
        ("/stats?x", 404),
        ("/metrics", 404),
        ("/%68ealthz", 404),
        ("/healthz/more", 101),
        ("/%FF", 101),
    ],
)
async def test_path_that_is_no_topic_is_refused(path: str, status: int) -> None:
    async with broadcasting() as site:
        peer = await site.peer()
        await peer.write(upgrade_head(path))
        assert (await peer.read_head())[0] == status


async def test_peer_that_sends_faster_than_the_broker_takes_it_is_read_more_slowly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outbox = trioweb.Outbox(max_messages=5, full="raise")
    broker = MemoryBroker(latency=1, policy=trioweb.BrokerPolicy(outbox=outbox))
    async with broadcasting(broker=broker) as site:
        ann = await site.opened("/lobby")
        for number in range(20):
            await ann.send(Frame(TEXT, b"%d" % number))
        for number in range(20):
            assert await ann.frame() == Frame(TEXT, b"%d" % number)
        # What the broker refuses ends nobody.
        broker.refuse("out of memory")
        for number in range(8):
            await ann.send(Frame(TEXT, b"%d" % number))
        await trio.sleep(15)
        broker.refuse(None)
        await ann.send(Frame(TEXT, b"still here"))
        assert await ann.frame() == Frame(TEXT, b"still here")


async def test_topic_too_many_is_refused_until_one_is_left() -> None:
    """Invariant 8."""
    async with broadcasting(max_topics=2) as site:
        ann, _ = await site.opened("/1"), await site.opened("/2")
        await trio.testing.wait_all_tasks_blocked()
        answer = await site.ask(upgrade_head("/3"))
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        await site.opened("/2")
        await ann.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        await site.opened("/3")


async def test_topic_that_was_the_last_for_two_is_had_by_one() -> None:
    async with broadcasting(max_topics=1) as site:
        peers = [await site.peer() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for number, peer in enumerate(peers):
                nursery.start_soon(peer.write, upgrade_head(f"/{number}"))
        ends: list[tuple[int, str]] = []
        async with trio.open_nursery() as nursery:

            async def read(peer: Peer) -> None:
                assert (await peer.read_head())[0] == 101
                ends.append(await peer.read_close())
                nursery.cancel_scope.cancel()

            for peer in peers:
                nursery.start_soon(read, peer)
        assert ends == [(1013, "too many topics")]
        assert site.server.statistics().handler_errors == 0


async def test_last_words_to_a_topic_that_went_are_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The peer has closed, its topic is forgotten and the place taken, when they are read."""
    async with trioweb.open_hub(max_topics=1) as hub, trio.open_nursery() as nursery:
        broadcast = Broadcast(hub, Access(open_rules(trioweb.Retain())), history=0, echo=True)
        site = await start(nursery, broadcast.handle, admit=broadcast.admit)
        ann = await site.opened("/1")
        await trio.testing.wait_all_tasks_blocked()
        [connection] = site.server.connections

        with ExitStack() as held:

            def take_the_place() -> None:
                held.enter_context(hub.topic("2").publications())

            # Behind the hub's own hook, which ends the subscription.
            connection.link.queue.set_hooks(held, closed=take_the_place, drained=lambda: None)
            await ann.send(Frame(TEXT, b"last words"), close_frame(1000))
            assert (await ann.read_close())[0] == 1000
            await ann.read_end()
            await trio.testing.wait_all_tasks_blocked()
        assert site.server.statistics().handler_errors == 0
        assert not caplog.records
        nursery.cancel_scope.cancel()


# Plain HTTP.


async def test_healthz_says_ok_and_503_while_draining(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with broadcasting() as site:
        answer = await get(site, "/healthz")
        assert (answer.status, answer.body) == (200, b"ok\n")
        peer = await site.opened()
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.server.drain)
            assert (await peer.read_close())[0] == 1012
            assert (await get(site, "/healthz")).status == 503
            await peer.stream.aclose()


async def test_stats_are_the_statistics_as_json(autojump_clock: trio.testing.MockClock) -> None:
    async with broadcasting() as site:
        ann = await site.opened("/lobby")
        await ann.send(Frame(TEXT, b"hello"))
        await ann.frame()
        answer = await get(site, "/stats")
        assert answer.headers["content-type"] == "application/json"
        statistics = json.loads(answer.body)
        assert statistics["connections"] == statistics["opened"] == 1
        assert statistics["hub"]["topics"] == statistics["hub"]["published"] == 1


@pytest.mark.parametrize("path", ["/", "/lobby", "/caf%C3%A9", "/healthz/more"])
async def test_any_other_path_is_the_page(path: str) -> None:
    async with broadcasting() as site:
        answer = await get(site, path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.body.lower().startswith(b"<!doctype html>")
        # The page is one file: it loads nothing from anywhere.
        assert not re.search(rb"""(src|href)\s*=\s*["']?(https?:)?//""", answer.body)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await get(site, path, "HEAD")).body == b""


async def test_slow_peer_on_a_topic_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariants 3, 4 and 8: it is evicted, told so if it can be told, and counted."""
    async with broadcasting(heartbeat=None) as site:
        stalled, ann = await site.opened("/lobby"), await site.opened("/lobby")
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        message = Frame(BINARY, bytes(10_000))
        for _ in range(300):
            await ann.send(message)
            assert await ann.frame() == message
        assert trio.current_time() == begun
        await trio.sleep(1.1)  # until then it has time
        statistics = site.server.statistics()
        assert statistics.hub is not None
        assert (statistics.hub.evicted, statistics.connections) == (1, 2)
        await trio.sleep(11)
        assert site.server.statistics().connections == 1
        await stalled.stream.aclose()


@pytest.mark.parametrize("path", ["/lobby", "/healthz", "/stats"])
async def test_other_methods_than_get_and_head_are_answered_with_405(path: str) -> None:
    async with broadcasting() as site:
        answer = await get(site, path, "POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
