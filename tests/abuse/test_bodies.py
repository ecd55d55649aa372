"""Bodies that are slow, lie about their length, or hide another request."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, MIB, assert_alone, assert_linear, tasks, traced, unreachable
from tests.server.support import start
from trioweb.testing import Network


async def _count(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, str(len(await request.body())))


def _post(*lines: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: server", *lines, "", ""]).encode()


@pytest.mark.parametrize("trickle", [b"", b"x"], ids=["silent", "a byte at a time"])
async def test_two_hundred_slow_bodies_end_at_the_deadline_and_delay_nobody(
    trickle: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CVE-2007-6750, by bodies (R-U-Dead-Yet)."""
    site = await start(nursery, unreachable, http=_count)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    ends: list[float] = []

    async def attack() -> None:
        peer = await site.peer()
        await peer.write(_post("Content-Length: 1000000"))
        async with trio.open_nursery() as trickling:

            @trickling.start_soon
            async def send() -> None:
                while trickle:
                    await peer.write(trickle)
                    await trio.sleep(1)

            assert (await peer.read_head())[0] == 408
            trickling.cancel_scope.cancel()
        ends.append(trio.current_time() - begun)
        await peer.read_end()

    async with trio.open_nursery() as attacking:
        for _ in range(200):
            attacking.start_soon(attack)
        await trio.sleep(5)
        asked = trio.current_time()
        assert (await site.ask(_post("Content-Length: 2") + b"hi")).body == b"2"
        assert trio.current_time() == asked
    # 10 s, and hardly more for a byte a second.
    assert ends == [pytest.approx(10, abs=0.1)] * 200
    await assert_alone(site, before)


async def test_body_at_the_slowest_speed_allowed_arrives(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, unreachable, http=_count, network=Network(bandwidth=9 * KIB))
    answer = await site.ask(_post(f"Content-Length: {MIB}") + bytes(MIB))
    assert answer.body == str(MIB).encode()
    assert trio.current_time() > 100


@pytest.mark.parametrize(
    "head",
    [_post(f"Content-Length: {10**15}"), _post("Transfer-Encoding: chunked") + b"fffffffff\r\n"],
    ids=["length", "chunk"],
)
async def test_declared_length_beyond_the_limit_costs_nothing(
    head: bytes, nursery: trio.Nursery
) -> None:
    """CWE-770: it is refused by what it says, and what follows is not kept."""
    site = await start(nursery, unreachable, http=_count, network=Network(max_bytes=4 * KIB))
    with traced() as memory:
        peer = await site.peer()
        await peer.write(head)
        async with trio.open_nursery() as sending:

            @sending.start_soon
            async def send() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while True:
                        await peer.write(bytes(4 * KIB))

            assert (await peer.read_head())[0] == 413
            await peer.read_end()
    assert memory.peak < 300 * KIB


async def test_declared_length_within_the_limit_costs_what_has_come_of_it(
    nursery: trio.Nursery,
) -> None:
    site = await start(nursery, unreachable, http=_count)
    peers = [await site.peer() for _ in range(50)]
    with traced() as memory:
        for peer in peers:
            await peer.write(_post(f"Content-Length: {MIB}") + bytes(KIB))
        await trio.testing.wait_all_tasks_blocked()
    assert memory.peak < 50 * 64 * KIB
    for peer in peers:
        await peer.stream.aclose()


async def test_body_that_ends_early_is_400(nursery: trio.Nursery) -> None:
    """A lying length: whoever sends less and says that this is all gets no other answer."""
    site = await start(nursery, unreachable, http=_count)
    for data in (
        _post("Content-Length: 10") + b"123456789",
        _post("Transfer-Encoding: chunked") + b"5\r\nhello\r\n",
        _post("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n",
    ):
        peer = await site.peer()
        await peer.write(data)
        await peer.stream.send_eof()  # type: ignore[attr-defined]
        assert (await peer.read_answer()).status == 400


_HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: server\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_post("Content-Length: 6", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
                     id="CL.TE"),
        pytest.param(_post("Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n",
                     id="TE.CL"),
        pytest.param(_post("Transfer-Encoding: xchunked"), id="no chunks"),
        pytest.param(_post("Transfer-Encoding: chunked", "Transfer-Encoding: x"), id="two codings"),
        pytest.param(_post("Transfer-Encoding : chunked"), id="a blank before the colon"),
        pytest.param(_post("Transfer-Encoding: \x0bchunked"), id="vertical tab"),
        pytest.param(_post("X: y\nTransfer-Encoding: chunked"), id="bare LF"),
        pytest.param(_post("Content-Length: 0", "Content-Length: 39"), id="two lengths"),
        pytest.param(_post("Content-Length: 0", "Content-Length: 0"), id="the same length twice"),
        pytest.param(_post("Content-Length: 0, 0"), id="a list of lengths"),
        pytest.param(_post("Content-Length: 0x0"), id="a hexadecimal length"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"0\n\n", id="a chunk with a bare LF"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"0\r\n\n", id="an end with a bare LF"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"0;\n0\r\n\r\n",
                     id="an extension with a bare LF"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"1\r\nxx\r\n0\r\n\r\n",
                     id="a chunk that is too long"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"-0\r\n\r\n", id="a signed chunk"),
        pytest.param(_post("Transfer-Encoding: chunked") + b"0\r\nGET / HTTP/1.1\r\n\r\n",
                     id="a request for a trailer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
async def test_hidden_request_is_refused_with_the_one_that_hides_it(
    data: bytes, reads: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Request smuggling (CWE-444): one answer, and the stream ends."""
    asked: list[str] = []

    async def http(request: trioweb.Request) -> trioweb.Response:
        asked.append(request.target)
        if reads:
            await request.body()
        return trioweb.Response()

    site = await start(nursery, unreachable, http=http)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    peer = await site.peer()
    await peer.write(data + _HIDDEN)
    answers = re.findall(rb"HTTP/1.1 (\d\d\d)", await peer.read_end())
    assert answers in ([b"400"], [b"501"]) or (not reads and answers == [b"200"])
    assert "/hidden" not in asked
    assert trio.current_time() - begun <= 1
    await assert_alone(site, before)


async def test_body_in_chunks_of_a_byte_costs_time_in_proportion(nursery: trio.Nursery) -> None:
    """CWE-407."""
    site = await start(nursery, unreachable, http=_count, network=Network(max_bytes=MIB))

    async def attack(size: int) -> None:
        data = _post("Transfer-Encoding: chunked") + b"1\r\nx\r\n" * size + b"0\r\n\r\n"
        assert (await site.ask(data)).body == str(size).encode()

    await assert_linear(attack, 4000)


async def test_body_in_chunks_of_a_byte_lets_others_run(nursery: trio.Nursery) -> None:
    """Invariant 13: counted in turns of others, and each takes 256 chunks at most."""
    site = await start(nursery, unreachable, http=_count, network=Network(max_bytes=MIB))
    peer = await site.peer()
    await peer.write(_post("Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    turns = 0
    longest = 0.0
    async with trio.open_nursery() as others:

        @others.start_soon
        async def look() -> None:
            nonlocal turns, longest
            while True:
                begun = time.thread_time()
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.thread_time() - begun)
                turns += 1

        assert (await peer.read_answer()).body == b"10000"
        others.cancel_scope.cancel()
    assert turns > 10_000 / 256
    assert longest < 0.05  # measured: 0.0003
