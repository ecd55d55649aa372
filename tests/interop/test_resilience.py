"""Our client against other people's servers, each a process that may die, freeze or misbehave."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final
from urllib.request import urlopen

import pytest
import trio

import trioweb
from tests.interop.others import EXPRESS, SERVERS, OtherServer, serving_other
from tests.interop.servers.common import CLOSE_CODE, CLOSE_ME, CLOSE_REASON
from trioweb import (
    Event,
    Heartbeat,
    Limits,
    Lost,
    Messages,
    Opened,
    Outbox,
    Retry,
    Waiting,
    open_client,
)

pytestmark = pytest.mark.network

QUICKLY: Final = Retry(initial=0.05, maximum=0.2)
SLACK: Final = 1.0  # seconds by which a busy machine may be late


async def next_item(items: Messages[str | bytes | Event]) -> object:
    """The next message, Opened or Lost: how often it was tried in between is a matter of time."""
    while isinstance(item := await items.receive(), Waiting):
        pass
    return item


@pytest.mark.parametrize("name", SERVERS)
async def test_messages_go_both_ways_and_to_everybody(name: str) -> None:
    messages: list[str | bytes] = ["text ✓", b"\x00\x7f\xff", "", b"", "é" * 100_000]
    async with serving_other(name) as server, open_client(server.url()) as ada:
        # An echo, because a client is connected a moment before the server knows it.
        await ada.send("ada")
        assert await ada.receive() == "ada"
        async with open_client(server.url()) as bob:
            await bob.send("bob")
            for client in ada, bob:
                assert await client.receive() == "bob"
            for sender in ada, bob:
                for message in messages:
                    await sender.send(message)
                for receiver in ada, bob:
                    assert [await receiver.receive() for _ in messages] == messages


@pytest.mark.parametrize("name", SERVERS)
async def test_client_goes_on_after_the_server_was_killed_and_started_again(name: str) -> None:
    async with (
        serving_other(name) as server,
        open_client(server.url(), retry=QUICKLY) as client,
    ):
        with client.messages(events=True) as items:
            await client.send("before")
            assert [await next_item(items) for _ in range(2)] == [Opened(1, None), "before"]
            await server.kill()
            lost = await next_item(items)
            assert isinstance(lost, Lost)
            assert isinstance(lost.error, trioweb.ConnectionLost)
            await client.send("meanwhile")
            assert client.state is trioweb.State.CONNECTING
            await server.start()
            await client.send("after")
            assert [await next_item(items) for _ in range(3)] == [
                Opened(2, None),
                "meanwhile",
                "after",
            ]


@pytest.mark.parametrize("name", SERVERS)
async def test_close_code_and_reason_are_known_at_both_ends(name: str) -> None:
    # Each connection has an echo before its end: a server may leave its handler out where the
    # client closes before it starts, as `websockets` does.
    async def on_open(connection: trioweb.Connection) -> None:
        if not client.statistics().sessions:
            await connection.send("hello")
            assert await connection.receive() == "hello"
            await connection.aclose(4002, "goodbye ✓")

    async with serving_other(name) as server:
        lines = server.program.output
        with pytest.raises(ZeroDivisionError):
            async with open_client(server.url(), retry=QUICKLY, on_open=on_open) as client:
                assert await lines.next() == "closed 4002 goodbye ✓"
                with client.messages(events=True) as items:
                    await client.send(CLOSE_ME)
                    while not isinstance(item := await next_item(items), Lost) or item.session == 1:
                        pass
                    assert isinstance(item.error, trioweb.ClosedByPeer)
                    assert (item.error.code, item.error.reason) == (CLOSE_CODE, CLOSE_REASON)
                # What the server knows is the echo of its own code; that may have no reason.
                assert (await lines.next()).startswith(f"closed {CLOSE_CODE} ")
                await client.send("still there")
                assert await client.receive() == "still there"
                raise ZeroDivisionError
        assert await lines.next() == "closed 1011 "
        async with open_client(server.url()) as client:
            await client.send("hello")
            assert await client.receive() == "hello"
        assert await lines.next() == "closed 1000 "


@pytest.mark.parametrize("name", [EXPRESS])
async def test_express_answers_http_beside_the_websocket(name: str) -> None:
    def get() -> bytes:
        with urlopen(server.url("/hello", "http")) as response:
            body: bytes = response.read()
            return body

    async with serving_other(name) as server, open_client(server.url()) as client:
        await client.wait_open()
        assert await trio.to_thread.run_sync(get) == b"hello from Express"
        await client.send("still there")
        assert await client.receive() == "still there"


class Drawn(Random):
    """Remembers the waits that were drawn, each with its bound."""

    def __init__(self) -> None:
        super().__init__(7)
        self.waits: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        wait = super().uniform(a, b)
        self.waits.append((b, wait))
        return wait


async def request_time(server: OtherServer) -> float:
    """When the naughty server was asked next."""
    return float((await server.program.output.next()).split()[0])


@pytest.mark.parametrize(
    ("path", "last"), [("/close", trioweb.ClosedByPeer), ("/hang-up", trioweb.HandshakeFailed)]
)
async def test_rate_of_attempts_is_full_jitters_when_the_server_closes_at_once(
    path: str, last: type[Exception]
) -> None:
    random = Drawn()
    retry = Retry(initial=0.05, maximum=0.3, max_attempts=8)
    async with serving_other("naughty") as server:
        async with open_client(server.url(path), retry=retry, random=random) as client:
            with pytest.raises(trioweb.GaveUp) as caught:
                await client.receive()
        times = [await request_time(server) for _ in range(8)]
        assert client.statistics().attempts == caught.value.attempts == 8
        assert isinstance(caught.value.last, last)
    # That it was let in each time made none of the bounds smaller.
    assert [bound for bound, _ in random.waits] == [0.05, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3]
    for (before, after), (_, wait) in zip(pairwise(times), random.waits, strict=True):
        assert wait - 0.02 < after - before < wait + SLACK


@pytest.mark.parametrize("status", [401, 404])
async def test_status_that_blames_the_client_ends_it_at_once(status: int) -> None:
    async with serving_other("naughty") as server:
        async with open_client(server.url(f"/{status}")) as client:
            with pytest.raises(trioweb.GaveUp) as caught:
                await client.send("a message")
                await client.flush()
            assert caught.value.attempts == client.statistics().attempts == 1
            assert isinstance(caught.value.last, trioweb.HandshakeRejected)
            assert caught.value.last.status == status
            with pytest.raises(trioweb.Unsent):
                await client.aclose()


async def test_401_is_answered_with_a_new_token_once() -> None:
    tokens: list[str] = []

    async def headers() -> dict[str, str]:
        tokens.append(f"Bearer {len(tokens)}")
        return {"Authorization": tokens[-1]}

    async with serving_other("naughty") as server:
        url = server.url("/401?times=3")
        async with open_client(url, headers=headers, retry=QUICKLY) as client:
            with pytest.raises(trioweb.GaveUp):
                await client.wait_open()
        async with open_client(url, headers=headers, retry=QUICKLY) as client:
            await client.send("let in")
            assert await client.receive() == "let in"
        lines = [await server.program.output.next() for _ in range(4)]
    assert [line.partition(" ")[2] for line in lines] == tokens
    assert tokens == ["Bearer 0", "Bearer 1", "Bearer 2", "Bearer 3"]


@pytest.mark.parametrize(("status", "retry_after"), [(429, 1), (503, 0), (503, 1)])
async def test_client_comes_back_when_the_server_asks_it_to(status: int, retry_after: int) -> None:
    async with serving_other("naughty") as server:
        url = server.url(f"/{status}?times=1&retry-after={retry_after}")
        async with open_client(url, retry=QUICKLY) as client:
            await client.send("let in")
            assert await client.receive() == "let in"
        refused, let_in = await request_time(server), await request_time(server)
        assert retry_after < let_in - refused < retry_after + QUICKLY.maximum + SLACK


async def test_handshake_that_is_never_answered_is_given_up_within_the_timeout() -> None:
    retry = Retry(initial=0.05, maximum=0.05, max_attempts=2)
    async with serving_other("naughty") as server:
        began = trio.current_time()
        limits = Limits(connect_timeout=0.3)
        async with open_client(server.url("/silence"), retry=retry, limits=limits) as client:
            with pytest.raises(trioweb.GaveUp) as caught:
                await client.wait_open()
        assert 2 * 0.3 <= trio.current_time() - began < 2 * 0.3 + 0.05 + SLACK
        assert isinstance(caught.value.last, trioweb.OpenFailed)
        assert "0.3 s" in str(caught.value.last)


@pytest.mark.parametrize("confirm", [False, True])
async def test_server_that_stops_reading_is_left_for_one_that_reads(
    confirm: bool, tmp_path: Path
) -> None:
    """Invariant 8: meanwhile the outbox keeps to its bound."""
    record = tmp_path / "record"
    outbox = Outbox(max_bytes=4 * 2**20, confirm=confirm)
    async with serving_other("naughty", str(record)) as server:
        async with open_client(
            server.url("/deafness?times=1"),
            retry=QUICKLY,
            outbox=outbox,
            # With confirmation, no more goes out at first than the kernel takes.
            heartbeat=Heartbeat(timeout=2),
            limits=Limits(write_timeout=0.5),
        ) as client:
            events = client.messages(events=True)
            for number in range(40):
                await client.send(f"{number} ".ljust(2**19, "x"))
                assert client.buffered_amount <= outbox.max_bytes
            await client.flush()
            assert await next_item(events) == Opened(1, None)
            lost = await next_item(events)
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, trioweb.ConnectionLost)
        reason = "no confirmation for 2 s" if confirm else "took nothing for 0.5 s"
        assert reason in lost.error.reason
        arrived = await numbers(record, last=39)
    # Without confirmation, what the kernel had taken for the deaf one is lost, and only that.
    assert arrived == list(range(arrived[0], 40))
    assert (arrived[0] == 0) == confirm


async def test_frozen_server_is_found_dead_within_interval_and_timeout() -> None:
    """Invariant 5.  No FIN comes from it, and its kernel still takes connections and bytes."""
    heartbeat = Heartbeat(interval=0.2, timeout=0.4)
    async with (
        serving_other("aiohttp") as server,
        open_client(
            server.url(), heartbeat=heartbeat, retry=QUICKLY, limits=Limits(connect_timeout=0.3)
        ) as client,
    ):
        with client.messages(events=True) as items:
            assert await next_item(items) == Opened(1, None)
            await trio.sleep(0.8)
            assert client.state is trioweb.State.OPEN  # heartbeats alone keep it
            server.program.process.send_signal(signal.SIGSTOP)
            frozen = trio.current_time()
            await client.send("into the void")
            lost = await next_item(items)
            assert isinstance(lost, Lost)
            assert "silent peer" in str(lost.error)
            # What was last heard from it was up to an interval before it froze.
            assert 0.35 < trio.current_time() - frozen < 0.2 + 0.4 + SLACK
            await until(lambda: client.statistics().attempts >= 3)
            assert client.statistics().sessions == 1
            server.program.process.send_signal(signal.SIGCONT)
            await client.send("welcome back")
            assert await next_item(items) == Opened(2, None)
            assert await next_item(items) == "welcome back"


@pytest.mark.slow
async def test_confirmed_messages_all_arrive_though_the_server_is_killed_ten_times(
    tmp_path: Path,
) -> None:
    """aiohttp answers pings inside `receive`, so what it confirms its application has seen.

    Invariant 9: first arrivals are in the order sent.
    """
    record = tmp_path / "record"
    kills, apart = 10, 500
    total = (kills + 1) * apart
    outbox = Outbox(max_messages=200, confirm=True)
    async with serving_other("aiohttp", str(record)) as server:

        async def kill() -> None:
            async for _ in due:
                await server.kill()
                await server.start(str(record))

        async with (
            open_client(server.url(), outbox=outbox, retry=QUICKLY) as client,
            trio.open_nursery() as nursery,
        ):
            now, due = trio.open_memory_channel[None](0)
            nursery.start_soon(kill)
            with now:
                for number in range(total):
                    await client.send(str(number))
                    if number and number % apart == 0:
                        await now.send(None)  # once the last kill is over
            await client.flush()
        arrived = await numbers(record, last=total - 1)
    assert list(dict.fromkeys(arrived)) == list(range(total))
    duplicates = len(arrived) - total
    statistics = client.statistics()
    # So much was accepted between two kills that it took a session each time.
    assert statistics.sessions == kills + 1
    assert 0 <= duplicates <= statistics.resent
    assert 0 < statistics.resent <= kills * outbox.max_messages


MESSAGE_BYTES: Final = 1024
FRAME_BYTES: Final = MESSAGE_BYTES + 8  # length and mask


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("aiohttp", 0, 0),
        # One in its queue, and one that waits to get there.
        ("trio-websocket", 0, 2),
        # 16 in its queue and, because that is looked at once a read, as many as asyncio reads.
        # (A ping may stand for 32 messages, so there need not be one among so few.)
        ("websockets", 0, 17 + 256 * 2**10 // FRAME_BYTES),
        # The same, with the inbox's 256 and reads of 64 KiB.
        ("trioweb", 1, 256 + 64 * 2**10 // FRAME_BYTES + 1),
    ],
)
async def test_loss_stays_within_what_the_server_had_read_ahead(
    name: str, least: int, most: int, tmp_path: Path
) -> None:
    """Confirmed is what the endpoint has; what its application had not seen dies with it."""
    record = tmp_path / "record"
    total, seen = 1500, 100
    outbox = Outbox(max_bytes=total * MESSAGE_BYTES, confirm=True)
    async with serving_other(name, str(record), str(seen)) as server:
        async with (
            open_client(server.url(), retry=QUICKLY, outbox=outbox) as client,
            trio.open_nursery() as nursery,
        ):

            async def send_all() -> None:
                for number in range(total):
                    await client.send(f"{number} ".ljust(MESSAGE_BYTES, "x"))

            events = client.messages(events=True)
            assert isinstance(await next_item(events), Opened)
            nursery.start_soon(send_all)
            assert await numbers(record, last=seen - 1) == list(range(seen))
            # Its application hangs now, and its endpoint goes on until it has read its fill.
            await wait_stalled(client)
            await server.kill()
            assert isinstance(await next_item(events), Lost)
            sure = confirmed(client)
            await server.start(str(record))
        arrived = await numbers(record, last=total - 1)
    lost = set(range(total)) - set(arrived)
    assert lost == set(range(seen, sure))
    assert least <= len(lost) <= most
    assert list(dict.fromkeys(arrived)) == sorted(set(arrived))


def confirmed(client: trioweb.Client) -> int:
    statistics = client.statistics()
    return statistics.accepted - statistics.unsent


async def wait_stalled(client: trioweb.Client) -> None:
    """Wait until nothing is confirmed any more."""
    before = -1
    while before != (before := confirmed(client)):  # noqa: ASYNC110 - no event tells
        await trio.sleep(0.25)


async def numbers(record: Path, last: int) -> list[int]:
    """What a server has written down, once *last* is among it."""
    line = str(last)
    await until(lambda: record.exists() and line in record.read_text().split())
    return [int(line) for line in record.read_text().split()]


async def until(condition: Callable[[], bool]) -> None:
    """Ask again and again whether *condition* holds."""
    while not condition():  # noqa: ASYNC110 - no event tells
        await trio.sleep(0.02)
