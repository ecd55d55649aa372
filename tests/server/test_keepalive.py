"""Several plain requests over one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, echo, start, upgrade_head, wait
from tests.server.test_bodies import chunked, post
from tests.support import TEXT, Frame, tls_contexts
from trioweb.testing import Network


def get(path: str = "/", *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: server", *lines, "", ""]).encode()


async def where(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, request.target)


async def assert_open(site: Site, peer: Peer) -> None:
    await peer.write(get("/still-there"))
    assert (await peer.read_one()).body == b"/still-there"


async def test_requests_follow_each_other_over_one_stream(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=where)
    peer = await site.peer()
    for number in range(3):
        await peer.write(get(f"/{number}"))
        answer = await peer.read_one()
        assert answer.body == b"/%d" % number
        assert "connection" not in answer.headers
        await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().answered == {200: 3}
    assert site.server.statistics().opening == 1


@pytest.mark.network
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_requests_follow_each_other_over_a_socket(tls: bool, nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    options: dict[str, Any] = {"ssl_context": server_context} if tls else {}

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, request.target.encode() + await request.body())

    serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", http=http, **options)
    server: trioweb.Server = await nursery.start(serve)
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if tls:
        stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
    peer = Peer(stream)
    for number in range(3):
        await peer.write(get(f"/{number}"))
        assert (await peer.read_one()).body == b"/%d" % number
        await peer.write(post(b"hello"))
        assert (await peer.read_one()).body == b"/hello"
    await peer.open()
    await peer.send(Frame(TEXT, b"hello"))
    assert await peer.frame() == Frame(TEXT, b"hello")
    await trio.aclose_forcefully(stream)


async def test_pipelined_requests_wait_their_turn(nursery: trio.Nursery) -> None:
    running = 0

    async def http(request: trioweb.Request) -> trioweb.Response:
        nonlocal running
        running += 1
        assert running == 1
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return trioweb.Response(200, request.target.encode() + await request.body())

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    await peer.write(get("/1") + post(b"+2") + chunked(b"+", b"3") + get("/4"))
    for expected in b"/1", b"/+2", b"/+3", b"/4":
        assert (await peer.read_one()).body == expected


async def test_a_pipeline_of_thousands_lets_others_run(nursery: trio.Nursery) -> None:
    """Invariant 12: a request is a turn."""
    site = await start(nursery, wait, http=where, network=Network(max_bytes=2**20))
    peer = await site.peer()
    await peer.write(get() * 2000)
    turns = 0
    async with trio.open_nursery() as others:

        @others.start_soon
        async def look() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        for _ in range(2000):
            await peer.read_one()
        others.cancel_scope.cancel()
    assert turns >= 2000


async def test_upgrade_may_come_over_a_stream_that_was_kept_alive(nursery: trio.Nursery) -> None:
    site = await start(nursery, echo, http=where)
    peer = await site.peer()
    for first in get("/1"), get("/1") + get("/2"):
        await peer.write(first)
        await peer.read_one()
    await peer.read_one()
    await peer.write(upgrade_head() + peer.encode(Frame(TEXT, b"hello")))
    assert (await peer.read_head())[0] == 101
    assert await peer.frame() == Frame(TEXT, b"hello")
    assert site.server.statistics().opened == 1


@pytest.mark.parametrize(
    "head",
    [
        get("/", "Connection: close"),
        get("/", "Connection: x, Close"),
        get(version="1.0"),
        get("/", "Connection: keep-alive", version="1.0"),
    ],
)
async def test_stream_ends_where_the_peer_wants_no_more(head: bytes, nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=where)
    answer = await site.ask(head)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("status", [200, 204, 304, 404])
async def test_answer_without_a_body_keeps_the_stream(status: int, nursery: trio.Nursery) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(status) if request.path == "/" else await where(request)

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    await peer.write(get())
    assert (await peer.read_one()).status == status
    await peer.write(b"HEAD / HTTP/1.1\r\nHost: server\r\n\r\n")
    assert (await peer.read_one(with_body=False)).status == status
    await assert_open(site, peer)


async def test_body_made_meanwhile_keeps_the_stream(nursery: trio.Nursery) -> None:
    async def body() -> AsyncGenerator[str]:
        yield "one"
        yield "two"

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, body()) if request.path == "/" else await where(request)

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    await peer.write(get())
    assert (await peer.read_one()).body == b"onetwo"
    await assert_open(site, peer)


@pytest.mark.parametrize("error", [trioweb.Reject(403, "no"), RuntimeError("no")])
async def test_refusal_by_http_keeps_the_stream(error: Exception, nursery: trio.Nursery) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        if request.path == "/":
            raise error
        return await where(request)

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    await peer.write(get())
    assert (await peer.read_one()).status in (403, 500)
    await assert_open(site, peer)


@pytest.mark.parametrize(
    ("data", "keeps"),
    [
        (post(b"x" * 60_000), True),
        (chunked(*[b"x" * 1000] * 60), True),
        (post(b"x" * 70_000), False),
        (chunked(*[b"x" * 1000] * 200), False),
        (post(b"hello", Expect="100-continue")[:-5], False),
        (post(b"hello", Expect="100-continue"), True),
        (post(Content_Length="60000"), False),
        (post(b"zzz", Content_Length=None, Transfer_Encoding="chunked"), False),
    ],
    ids=["60 KB", "60 KB in chunks", "70 KB", "200 KB in chunks", "waits for 100", "did not wait",
         "never comes", "no chunks"],
)  # fmt: skip
async def test_body_that_nobody_read_is_passed_over_or_ends_the_stream(
    data: bytes, keeps: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, wait, http=where)
    peer = await site.peer()
    begun = trio.current_time()
    await peer.write(data)
    assert (await peer.read_one()).status == 200
    if keeps:
        await assert_open(site, peer)
        assert trio.current_time() == begun
    else:
        # What comes now could be anything, and is not taken for a request.
        await peer.write(get("/smuggled"))
        assert b"HTTP/1.1" not in await peer.read_end()
        assert site.server.statistics().answered == {200: 1}
        assert trio.current_time() - begun < 2.1


async def test_idle_stream_ends_after_20_s_without_a_word(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, wait, http=where)
    peer = await site.peer()
    for seconds in 19.9, 19.9:
        await assert_open(site, peer)
        await trio.sleep(seconds)
    await assert_open(site, peer)
    begun = trio.current_time()
    assert await peer.read_end() == b""
    assert trio.current_time() - begun == pytest.approx(20)
    assert site.server.statistics().refused == {}


async def test_next_head_has_the_time_of_an_opening(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, wait, http=where)
    peer = await site.peer()
    await assert_open(site, peer)
    await trio.sleep(15)
    begun = trio.current_time()
    await peer.write(b"GET / HT")
    assert (await peer.read_answer()).status == 408
    assert trio.current_time() - begun == pytest.approx(10)


async def test_peer_that_goes_between_requests_leaves_no_trace(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=where)
    peer = await site.peer()
    await assert_open(site, peer)
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert site.streams == 0
    assert site.server.statistics().refused == {}


# Who is there, and for whom there is room.


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_host"])
async def test_idle_streams_go_first_at_capacity_the_longest_idle_first(
    limit: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    limits = trioweb.Limits(**{limit: 3})
    site = await start(nursery, wait, http=where, limits=limits)
    idle = []
    for _ in range(3):
        peer = await site.peer()
        await assert_open(site, peer)
        idle.append(peer)
        await trio.sleep(1)
    for number in range(2):
        await site.opened()
        assert await idle[number].read_end() == b""
    await assert_open(site, idle[2])
    await trio.testing.wait_all_tasks_blocked()  # it is idle again
    await site.opened()
    assert await idle[2].read_end() == b""
    # Those that remain are busy.
    assert (await site.ask(get())).status == 503
    await trio.testing.wait_all_tasks_blocked()
    statistics = site.server.statistics()
    assert (statistics.connections, statistics.opening) == (3, 0)


async def test_proxy_asks_for_one_client_after_the_other(nursery: trio.Nursery) -> None:
    """CWE-348: a stream that is kept alive belongs to nobody between two requests."""

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, str(request.remote))

    site = await start(
        nursery,
        wait,
        http=http,
        trusted_proxies=["10.0.0.0/8"],
        limits=trioweb.Limits(max_connections_per_host=1),
    )
    network_peer = await site.peer()
    for client in "192.0.2.1", "192.0.2.2", "192.0.2.1":
        await network_peer.write(get("/", f"X-Forwarded-For: {client}"))
        assert client in (await network_peer.read_one()).body.decode()
    # Idle, it takes no place of the one for whom it asked last.
    await trio.testing.wait_all_tasks_blocked()
    other = await site.peer()
    await other.write(get("/", "X-Forwarded-For: 192.0.2.1"))
    assert (await other.read_one()).status == 200
    # Without a word of whom it asks for, it is itself.
    await trio.testing.wait_all_tasks_blocked()
    await network_peer.write(get())
    answer = await network_peer.read_one()
    assert answer.status == 200
    assert b"192.0.2" not in answer.body
    # And the limit holds as ever.
    await site.opened(extra=[("X-Forwarded-For", "192.0.2.1")])
    head = upgrade_head(extra=[("X-Forwarded-For", "192.0.2.1")])
    assert (await site.ask(head)).status == 503


# The soft stop.


async def test_drain_ends_idle_streams_at_once_and_answers_with_close(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    go_on = trio.Event()

    async def http(request: trioweb.Request) -> trioweb.Response:
        if request.path == "/slow":
            await go_on.wait()
        return await where(request)

    site = await start(nursery, wait, http=http)
    idle, slow = await site.peer(), await site.peer()
    for peer in idle, slow:
        await assert_open(site, peer)
    await slow.write(get("/slow") + get("/another"))
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    async with trio.open_nursery() as draining:
        draining.start_soon(site.server.drain)
        assert await idle.read_end() == b""
        assert trio.current_time() == begun
        await trio.sleep(1)
        go_on.set()
        answer = await slow.read_answer()
        assert (answer.body, answer.headers["connection"]) == (b"/slow", "close")
    assert trio.current_time() - begun < 3


async def test_cancelled_server_leaves_no_idle_stream(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        site = await start(serving, wait, http=where)
        peer = await site.peer()
        await assert_open(site, peer)
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    assert await peer.read_end() == b""
    assert site.streams == 0
