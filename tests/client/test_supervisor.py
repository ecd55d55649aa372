"""Connecting, and connecting again: when, where to, and what is not worth another attempt."""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.client.support import (
    CLOSE,
    ONCE,
    PING,
    PONG,
    TEXT,
    URL,
    Door,
    Serve,
    answer,
    answer_pings,
    close,
    drop,
    hang,
    open_at,
    open_raw,
    open_refused,
    refuse,
    stay,
)
from tests.server.support import start, wait
from tests.support import HOST, tls_contexts
from trioweb import (
    ConnectFailed,
    ConnectionClosed,
    GaveUp,
    HandshakeRejected,
    Heartbeat,
    Limits,
    Opened,
    Reject,
    Retry,
    State,
    Unsent,
)
from trioweb.testing import Network, RawPeer, stream_pair, wait_until


async def ends_with(nursery: trio.Nursery, *turns: Any, **options: Any) -> GaveUp:
    """Serve *turns* until a client gives up; what that says."""
    door = options.pop("door", None) or Door()
    nursery.start_soon(door.serve, *turns)
    with pytest.raises(GaveUp) as caught:
        async with open_at(door, **options) as client:
            async for _ in client:
                pass
    return caught.value


CALLABLES = ("url", "headers", "subprotocols", "dial", "on_open")


class Sync:
    def __call__(self, *arguments: object) -> None: ...

    method = __call__


class Async:
    async def __call__(self, host: str, port: int) -> trio.abc.Stream:
        return await refuse(host, port)

    method = __call__


# Rates.


async def test_day_of_flapping_connections(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Connections that last for a second, or for some minutes, over 24 hours."""
    random = Random(1)
    lives = []

    async def flap(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        life = random.choice([1, 1, 600]) * random.random() * 2
        lives.append(life)
        with trio.move_on_after(life):
            await answer_pings(peer)
        await drop(peer)

    door = Door()
    nursery.start_soon(door.serve, flap)
    logging.getLogger("trioweb.client").setLevel(logging.ERROR)
    try:
        async with open_at(door) as client:
            await trio.sleep(86_400)
            statistics = client.statistics()
            with trio.move_on_after(0):
                await client.aclose()
    finally:
        logging.getLogger("trioweb.client").setLevel(logging.NOTSET)
    assert statistics.sessions == statistics.attempts == len(lives) == len(door.times)
    assert len(lives) > 300
    # No wait was longer than the policy allows for as many short-lived connections in a row.
    short = 0
    for life, this, following in zip(lives, door.times, door.times[1:], strict=False):
        short = 0 if life >= 5 else short + 1
        wait = following - this - life
        assert -1e-6 <= wait <= min(20, 0.5 * 2 ** max(short - 1, 0)) + 1e-6


@pytest.mark.parametrize("turn", [close(1000), close(1012)], ids=["1000", "1012"])
async def test_server_that_accepts_and_closes_sees_the_rate_of_full_jitter(
    nursery: trio.Nursery, autojump_clock: MockClock, turn: Any
) -> None:
    door = Door()
    nursery.start_soon(door.serve, turn)
    async with open_at(door) as client:
        await trio.sleep(3600)
        assert client.statistics().sessions == len(door.times)
        with trio.move_on_after(0):
            await client.aclose()
    # Ten seconds between two of them, on average.
    assert 300 < len(door.times) < 440
    assert max(b - a for a, b in zip(door.times, door.times[1:], strict=False)) <= 20


async def test_server_that_closes_and_keeps_its_transport_open_counts_no_longer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What counts is how long a connection was open, not how long it took to be gone."""

    async def linger(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        await trio.sleep_forever()

    gave_up = await ends_with(
        nursery, linger, retry=Retry(max_attempts=4, stable_after=0.5, initial=0.1)
    )
    assert gave_up.attempts == 4


async def test_next_connection_does_not_wait_for_a_server_that_keeps_its_transport_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def linger(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        await trio.sleep_forever()

    door = Door()
    nursery.start_soon(door.serve, linger, stay)
    async with open_at(door, retry=Retry(initial=0.1)) as client:
        await wait_until(lambda: client.statistics().sessions == 2)
        # A second for the server to end its side, and the first wait of the policy.
        assert trio.current_time() <= 1.2


async def test_giving_up_at_the_end_of_a_stable_session_counts_its_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse_later(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await trio.sleep(10)
        await peer.send_frame(CLOSE, (1002).to_bytes(2, "big"))
        await answer_pings(peer)

    gave_up = await ends_with(nursery, refuse_later)
    assert gave_up.attempts == 1
    assert str(gave_up).startswith("gave up after 1 attempt")


async def test_what_was_unsent_is_told_once_by_closing_and_by_the_block_no_more(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(trioweb.Unsent) as caught:
        async with open_refused() as client:
            await client.send("a")
            await client.aclose()
    assert caught.value.count == 1
    assert "not handed over" not in caplog.text
    async with open_refused() as client:
        await client.send("a")
        with pytest.raises(trioweb.Unsent):
            await client.aclose()
        await client.aclose()
    assert "not handed over" not in caplog.text


async def test_last_message_comes_before_the_loss_and_the_loss_before_what_was_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """In the order in which a program must hear of it."""

    async def speak_and_die(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        while (frame := await peer.receive_frame()).opcode != TEXT:
            if frame.opcode == PING:
                await peer.send_frame(PONG, frame.payload)
        await peer.send_frame(TEXT, b"last words")
        await drop(peer)

    door = Door()
    nursery.start_soon(door.serve, speak_and_die)
    outbox = trioweb.Outbox(confirm=True, max_resends=1)
    seen: list[str] = []
    with pytest.raises(trioweb.Unsent):
        async with open_at(door, outbox=outbox) as client:
            with client.messages(events=True) as messages:
                await client.send("a")
                async for item in messages:
                    seen.append(item if isinstance(item, str) else type(item).__name__)
                    if isinstance(item, trioweb.Undelivered):
                        break
    session = ["Opened", "last words", "Lost"]
    assert [name for name in seen if name != "Waiting"][-4:] == [*session, "Undelivered"]


async def test_on_open_that_is_never_through_counts_as_no_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def on_open(connection: trioweb.Connection) -> None:
        await connection.receive()

    door = Door()
    begun = trio.current_time()
    gave_up = await ends_with(
        nursery, stay, door=door, on_open=on_open, retry=Retry(max_attempts=3)
    )
    assert gave_up.attempts == 3
    assert "on_open was not through" in str(gave_up)
    assert 30 <= trio.current_time() - begun <= 31.5


@pytest.mark.slow
async def test_five_thousand_clients_come_back_to_a_server_that_was_down(
    autojump_clock: MockClock,
) -> None:
    """The same as for the policy alone, through whole clients: 300 s down."""
    clients, down = 5000, 300.0
    attempts: Counter[int] = Counter()
    back: list[float] = []
    random = Random(3)

    async def dial(host: str, port: int) -> trio.abc.Stream:
        now = trio.current_time() - begun
        attempts[int(now)] += 1
        if now >= down:
            back.append(now)
            await trio.sleep_forever()
        raise ConnectionRefusedError

    async def run() -> None:
        limits = Limits(connect_timeout=1000)
        async with trioweb.open_client(URL, dial=dial, random=random, limits=limits):
            await trio.sleep_forever()

    logging.getLogger("trioweb.client").setLevel(logging.ERROR)
    try:
        with trio.move_on_after(down + 20) as scope:
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(clients):
                    nursery.start_soon(run)
    finally:
        logging.getLogger("trioweb.client").setLevel(logging.NOTSET)
    assert scope.cancelled_caught
    assert max(count for second, count in attempts.items() if second > 40) <= 1.5 * clients / 10
    assert len(back) == clients


async def test_clients_of_a_drained_server_come_back_as_spread_as_they_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    clients, spread = 150, 30
    network = Network()
    site = await start(nursery, wait, network=network)
    times: list[float] = []
    random = Random(5)

    async def dial(host: str, port: int) -> trio.abc.Stream:
        times.append(trio.current_time())
        return await network.host("client").dial("server", port)

    opened: list[trioweb.Client] = []

    async def run() -> None:
        async with trioweb.open_client(
            URL, dial=dial, random=random, retry=Retry(max_attempts=1)
        ) as client:
            await client.wait_open()
            opened.append(client)
            with pytest.raises(GaveUp):
                await client.receive()

    for _ in range(clients):
        nursery.start_soon(run)
    await wait_until(lambda: len(opened) == clients)
    await trio.sleep(10)
    assert len(times) == clients
    begun = trio.current_time()
    await site.server.drain(grace=spread, spread=spread)
    await trio.sleep(1)
    # Nobody listens any more, so that every client's first attempt was its last.
    again = Counter(int(at - begun) for at in times[clients:])
    assert sum(again.values()) == clients
    assert max(again.values()) <= 1.5 * clients / spread


# Worth another attempt?


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        *((answer(status), HandshakeRejected) for status in (400, 401, 403, 404, 410)),
        *(
            (close(code), ConnectionClosed)
            for code in (1002, 1003, 1007, 1008, 1009, 1010, 3000, 3500, 3999, 4500, 4999)
        ),
    ],
)
async def test_final_answer_ends_the_client_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, turn: Any, kind: type[Exception]
) -> None:
    gave_up = await ends_with(nursery, turn)
    assert gave_up.attempts == 1
    assert isinstance(gave_up.last, kind)


@pytest.mark.parametrize(
    "turn",
    [
        *(answer(status) for status in (200, 301, 408, 425, 429, 500, 502, 503, 504)),
        *(close(code) for code in (1000, 1001, 1011, 1012, 1013, 3001, 3008, 3499, 4000, 4499)),
        hang,
        drop_stream := trio.aclose_forcefully,
    ],
)
async def test_anything_else_is_tried_again(
    nursery: trio.Nursery, autojump_clock: MockClock, turn: Any
) -> None:
    door = Door()
    nursery.start_soon(door.serve, turn, stay)
    async with open_at(door) as client:
        await wait_until(lambda: len(door.times) == 2, within=12)
        await client.wait_open()


@pytest.mark.network
async def test_untrusted_certificate_ends_the_client(
    nursery: trio.Nursery, patient_clock: MockClock
) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, tls_contexts()[1], server_side=True).do_handshake()

    gave_up = await ends_with(
        nursery, serve, url=f"wss://{HOST}/", ssl_context=ssl.create_default_context()
    )
    assert isinstance(gave_up.last, ConnectFailed) and gave_up.last.untrusted


async def test_worth_of_the_user_decides_instead(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    asked = []

    def worth(error: Exception) -> bool:
        asked.append(error)
        return isinstance(error, HandshakeRejected) and error.status in (401, 404)

    gave_up = await ends_with(
        nursery, answer(404), answer(401), answer(401), answer(503), retry=Retry(worth=worth)
    )
    assert [error.status for error in asked if isinstance(error, HandshakeRejected)] == [
        404,
        401,
        401,
        503,
    ]
    assert gave_up.last is asked[-1]


async def test_error_of_worth_comes_out_as_itself(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    def worth(error: Exception) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with open_refused(retry=Retry(worth=worth)):
            await trio.sleep_forever()


@pytest.mark.parametrize("which", ["url", "headers", "subprotocols"])
@pytest.mark.parametrize("refuse", [answer(401), answer(403), close(1008), close(3000)])
async def test_refusal_is_tried_once_more_if_what_makes_tokens_can_be_asked(
    nursery: trio.Nursery, autojump_clock: MockClock, which: str, refuse: Serve
) -> None:
    tokens = iter(range(100))

    async def make() -> Any:
        token = next(tokens)
        return {
            "url": f"ws://server/{token}",
            "headers": {"X-Token": str(token)},
            "subprotocols": [f"token.{token}"],
        }[which]

    heads = []

    async def accept_and_drop(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        heads.append(peer.head)
        await drop(peer)

    # A connection in between, and it may be tried once more again.
    turns = (refuse, accept_and_drop, refuse, refuse, stay)
    gave_up = await ends_with(nursery, *turns, **{which: make})
    assert isinstance(gave_up.last, (HandshakeRejected, trioweb.ClosedByPeer))
    assert next(tokens) == 4
    told = {"url": b"GET /1 ", "headers": b"X-Token: 1\r\n", "subprotocols": b": token.1\r\n"}
    assert told[which] in heads[0]


async def test_close_with_1008_of_a_connection_that_lasted_is_tried_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def expire(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await trio.sleep(61)
        await peer.send_frame(CLOSE, (1008).to_bytes(2, "big") + b"Pong timeout")
        await answer_pings(peer)

    gave_up = await ends_with(nursery, expire, expire, close(1008), heartbeat=None)
    assert isinstance(gave_up.last, trioweb.ClosedByPeer) and not gave_up.last.reason
    assert gave_up.attempts == 1


async def test_close_with_1008_within_a_minute_is_a_refusal(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Of a server that waits for a token in a message, say; stable or not."""

    async def refuse(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await trio.sleep(10)
        await peer.send_frame(CLOSE, (1008).to_bytes(2, "big"))
        await answer_pings(peer)

    gave_up = await ends_with(nursery, refuse)
    assert isinstance(gave_up.last, trioweb.ClosedByPeer)


async def test_connections_that_last_reset_the_count(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def last(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await trio.sleep(5.01)
        await drop(peer)

    turns = (answer(503), last, answer(503), last, answer(503), answer(502))
    gave_up = await ends_with(nursery, *turns, retry=Retry(max_attempts=2))
    assert gave_up.attempts == 2
    assert isinstance(gave_up.last, HandshakeRejected) and gave_up.last.status == 502


async def test_give_up_after_max_elapsed(autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    async with open_refused(retry=Retry(max_elapsed=60)) as client:
        with pytest.raises(GaveUp) as caught:
            await client.receive()
    assert trio.current_time() - begun <= 60
    assert caught.value.attempts > 4
    assert caught.value.__cause__ is caught.value.last


async def test_each_failed_attempt_is_one_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GaveUp):
        async with open_refused(retry=Retry(max_attempts=4)) as client:
            await client.wait_open()
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 4
    assert all("could not connect to server:80" in line for line in lines)
    assert "giving up" in lines[-1]


async def test_server_cannot_forge_a_line_of_the_log(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await peer.send_frame(CLOSE, b"\x0f\xa0line\nforged\x1b[31m")
        await trio.sleep_forever()

    await ends_with(nursery, serve, retry=ONCE)
    assert "\n" not in caplog.text.strip("\n") and "\x1b" not in caplog.text
    assert r"line\\nforged" in caplog.text


# Retry-After.


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_with_jitter_on_top(
    nursery: trio.Nursery, autojump_clock: MockClock, status: int
) -> None:
    door = Door()
    nursery.start_soon(door.serve, answer(status, retry_after="120"), stay)
    async with open_at(door) as client:
        await client.wait_open()
    wait = door.times[1] - door.times[0]
    assert 120 < wait < 120.5


async def test_reject_with_retry_after_of_our_server_is_honoured(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    asked: list[float] = []

    async def admit(request: trioweb.Request) -> None:
        asked.append(trio.current_time())
        if len(asked) == 1:
            raise Reject(503, headers=[("Retry-After", "7")])

    site = await start(nursery, wait, admit=admit)
    async with trioweb.open_client(URL, dial=site.dial) as client:
        await client.wait_open()
    assert 7 <= asked[1] - asked[0] <= 7.5


# What the user's callables do.


@pytest.mark.parametrize("which", [name for name in CALLABLES if name != "dial"])
@pytest.mark.parametrize(
    "function", [lambda *arguments: None, partial(lambda *arguments: None), Sync(), Sync().method]
)
async def test_callable_that_is_not_async_is_an_error_at_once(which: str, function: Any) -> None:
    with pytest.raises(TypeError, match=rf"open_client: {which} must be an async function: "):
        async with trioweb.open_client(**{"url": URL, "dial": refuse, which: function}):
            raise AssertionError("the block was entered")


@pytest.mark.parametrize("function", [partial(refuse), Async(), Async().method])
async def test_callable_of_any_async_kind_is_taken(
    autojump_clock: MockClock, function: Any
) -> None:
    with pytest.raises(GaveUp, match="refused"):
        async with trioweb.open_client(URL, dial=function, retry=ONCE) as client:
            await client.wait_open()


async def test_dial_that_returns_no_stream_is_told(autojump_clock: MockClock) -> None:
    async def dial(host: str, port: int) -> Any:
        return 5

    for opening in (trioweb.open_connection, trioweb.open_client):
        with pytest.raises(TypeError, match="dial: what it returns must be of type Stream, not 5"):
            async with opening(URL, dial=dial):
                await trio.sleep_forever()


async def test_url_and_headers_are_asked_anew_for_each_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    counter = iter(range(100))

    async def url() -> str:
        return f"ws://server/{next(counter)}"

    async def headers() -> dict[str, str]:
        await trio.sleep(1)
        return {"X-Number": str(next(counter))}

    heads: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        peer = RawPeer(stream, masked=False)
        heads.append(await peer.receive_head())
        await stream.aclose()

    await ends_with(nursery, serve, url=url, headers=headers, retry=Retry(max_attempts=3))
    for n, head in enumerate(heads):
        assert head.startswith(b"GET /%d " % (2 * n))
        assert b"X-Number: %d\r\n" % (2 * n + 1) in head
    assert len(heads) == 3


async def fail() -> None:
    raise ConnectionResetError("token server is down")


async def too_slow() -> None:
    with trio.fail_after(0.1):
        await trio.sleep_forever()


async def broken() -> None:
    raise trio.BrokenResourceError("token server is down")


async def not_yet() -> None:
    raise trioweb.TryAgain("token server is down")


async def fail_to_connect() -> None:
    async with trioweb.open_connection(URL, dial=refuse):
        pass


async def lose_another_connection() -> None:
    raise trioweb.ConnectionLost(1006, "another one")


async def fail_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def fail_to_clean_up() -> None:
    """At the connect timeout, in a group with what that cancels."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            await fail()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (fail, "token server is down"),
        (fail_in_a_nursery, "token server is down"),
        (fail_to_clean_up, "token server is down"),
        (too_slow, "TooSlowError"),
        (broken, "token server is down"),
        (not_yet, "token server is down"),
        (fail_to_connect, "could not connect to server:80"),
        (lose_another_connection, "another one"),
    ],
)
@pytest.mark.parametrize("which", CALLABLES)
async def test_passing_failure_of_a_callable_is_one_more_reason_to_try_again(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    which: str,
    failure: Callable[[], Awaitable[None]],
    told: str,
) -> None:
    calls = 0
    door = Door()

    async def fail_once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await failure()
        if which == "dial":
            return await door.dial(*arguments)
        return {"url": URL, "headers": {}, "subprotocols": ()}.get(which)

    nursery.start_soon(door.serve, stay)
    options: dict[str, Any] = {"url": URL, "dial": door.dial, which: fail_once}
    async with trioweb.open_client(**options) as client:
        await client.wait_open()
        assert calls == 2
        assert client.statistics().attempts == 2
    assert told in caplog.text


@pytest.mark.parametrize("which", CALLABLES)
async def test_worth_is_asked_about_any_error_of_a_callable(
    nursery: trio.Nursery, autojump_clock: MockClock, which: str
) -> None:
    """An HTTP client that nobody has heard of: the program knows what its errors mean."""
    asked: list[Exception] = []
    error = RuntimeError("mine")

    async def fail(*arguments: Any) -> Any:
        raise error

    def worth(error: Exception) -> bool:
        asked.append(error)
        return len(asked) < 3

    door = Door()
    nursery.start_soon(door.serve, stay)
    options: dict[str, Any] = {"url": URL, "dial": door.dial, which: fail}
    with pytest.raises(RuntimeError) as caught:
        async with trioweb.open_client(**options, retry=Retry(worth=worth)):
            await trio.sleep_forever()
    assert caught.value is error
    assert asked == [error] * 3


async def test_passing_failure_that_is_not_worth_another_try_is_where_the_client_gave_up(
    autojump_clock: MockClock,
) -> None:
    async def headers() -> dict[str, str]:
        raise trioweb.TryAgain("mine")

    with pytest.raises(GaveUp, match="mine") as caught:
        async with open_refused(headers=headers, retry=Retry(worth=lambda error: False)) as client:
            await client.wait_open()
    assert isinstance(caught.value.last, trioweb.TryAgain)


async def test_network_that_fails_all_that_on_open_does_is_one_reason_to_try_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def on_open(connection: trioweb.Connection) -> None:
        if client.statistics().attempts > 1:
            return
        async with trio.open_nursery() as tasks:
            tasks.start_soon(connection.receive)
            try:
                await trio.sleep_forever()
            finally:
                await fail()

    door = Door()
    nursery.start_soon(door.serve, close(1012), stay)
    async with open_at(door, on_open=on_open) as client:
        await client.wait_open()
        assert client.statistics().attempts == 2


@pytest.mark.parametrize("which", CALLABLES)
async def test_other_error_of_a_callable_comes_out_as_itself(
    nursery: trio.Nursery, autojump_clock: MockClock, which: str
) -> None:
    """Invariant 7: no group for a single cause."""
    error = KeyError("mine")

    async def fail(*arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise error

    door = Door()
    nursery.start_soon(door.serve, stay)
    options: dict[str, Any] = {"url": URL, "dial": door.dial, which: fail}
    with pytest.raises(KeyError) as caught:
        async with trioweb.open_client(**options) as client:
            client.send_nowait("a")
            # The program is in the middle of something with a nursery of its own.
            async with trio.open_nursery() as busy:
                for operation in (client.wait_open, client.flush, client.receive):
                    busy.start_soon(operation)
    assert caught.value is error


async def test_block_does_not_see_the_client_end_by_an_error_of_a_callable(
    autojump_clock: MockClock,
) -> None:
    """It is cancelled where it waits: iterating that just ended would look like a feed's end."""
    release = trio.Event()
    went_on = False

    async def url() -> str:
        await release.wait()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with trioweb.open_client(url) as client:
            release.set()
            async for _ in client:
                pass
            went_on = True
    assert not went_on


async def test_own_error_of_the_block_wins_over_that_of_a_callable(
    autojump_clock: MockClock,
) -> None:
    async def url() -> str:
        raise KeyError("callable")

    with pytest.raises(ValueError, match="block"):
        async with trioweb.open_client(url):
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("block")


async def test_error_of_a_callable_comes_out_as_itself_from_a_block_that_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    with trio.CancelScope() as scope:

        async def url() -> str:
            scope.cancel()
            raise KeyError("callable")

        with pytest.raises(KeyError, match="callable"):
            async with trioweb.open_client(url):
                await trio.sleep_forever()


async def test_errors_of_a_cancelled_block_leave_no_cancellation_behind(
    autojump_clock: MockClock,
) -> None:
    async def url() -> str:
        raise KeyError("callable")

    async def clean_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("block")

    with pytest.RaisesGroup(ValueError):
        async with trioweb.open_client(url):
            async with trio.open_nursery() as busy:
                busy.start_soon(clean_up)
                busy.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("bad", ["http://server/", "server", 5, None])
async def test_bad_url_of_a_callable_says_what_would_be_right(
    autojump_clock: MockClock, bad: Any
) -> None:
    async def url() -> Any:
        return bad

    with pytest.raises((TypeError, ValueError), match=r"ws://"):
        async with trioweb.open_client(url):
            await trio.sleep_forever()


async def test_url_of_a_callable_is_held_to_tls_where_an_ssl_context_was_given(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """At each attempt; what was meant for TLS must not go out in plain text."""
    urls = iter([f"wss://{HOST}/", URL])

    async def url() -> str:
        return next(urls)

    door = Door()
    nursery.start_soon(door.serve, trio.aclose_forcefully, stay)
    with pytest.raises(ValueError, match=r"url 'ws://server/': ssl_context was given.*wss://"):
        async with open_at(
            door, url, ssl_context=tls_contexts()[0], headers={"Authorization": "Bearer t"}
        ) as client:
            await client.wait_open()
    assert door.asked == [(HOST, 443)]


async def test_bad_header_of_a_callable_is_named(autojump_clock: MockClock) -> None:
    async def headers() -> dict[str, str]:
        return {"X-Bad": "line\nbreak"}

    with pytest.raises(ValueError, match="X-Bad"):
        async with trioweb.open_client(URL, headers=headers):
            await trio.sleep_forever()


async def test_callables_are_asked_within_the_connect_timeout(autojump_clock: MockClock) -> None:
    async def url() -> str:
        await trio.sleep(6)
        return URL

    async def headers() -> dict[str, str]:
        await trio.sleep(6)
        return {}

    begun = trio.current_time()
    with pytest.raises(GaveUp, match="headers was not through within 10 s"):
        async with trioweb.open_client(url, headers=headers, retry=ONCE) as client:
            await client.wait_open()
    assert trio.current_time() - begun == 10


async def test_server_that_does_not_answer_is_given_up_after_the_connect_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 6."""
    begun = trio.current_time()
    gave_up = await ends_with(nursery, hang, retry=ONCE, limits=Limits(connect_timeout=3))
    assert trio.current_time() - begun >= 3
    assert isinstance(gave_up.last, trioweb.OpenFailed)


async def test_connect_timeout_covers_all_redirects(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def slow(stream: trio.abc.Stream) -> None:
        await trio.sleep(4)
        await answer(302, location=f"/{next(numbers)}")(stream)

    numbers = iter(range(10))
    begun = trio.current_time()
    await ends_with(nursery, slow, retry=ONCE)
    assert trio.current_time() - begun == 10


# on_open.


async def test_on_open_runs_before_all_else_and_may_send_and_receive(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sessions: list[list[str]] = []

    async def serve(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        texts: list[str] = []
        sessions.append(texts)
        await peer.send_frame(TEXT, b"hello")
        for _ in range(3):
            texts.append((await peer.receive_frame()).payload.decode())
            await peer.send_frame(TEXT, b"re: " + texts[-1].encode())
        await drop(peer)

    async def on_open(connection: trioweb.Connection) -> None:
        assert client.state is State.CONNECTING
        assert await connection.receive() == "hello"
        await connection.send("login")
        assert await connection.receive() == "re: login"

    door = Door()
    nursery.start_soon(door.serve, serve, serve, stay)
    async with open_at(door, on_open=on_open) as client:
        for texts in ("ab", "cd"):
            for text in texts:
                client.send_nowait(text)
            assert [await client.receive() for _ in texts] == [f"re: {text}" for text in texts]
            await wait_until(lambda: client.state is State.CONNECTING)
    assert sessions[:2] == [["login", "a", "b"], ["login", "c", "d"]]


async def test_messages_that_on_open_left_reach_the_streams(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def on_open(connection: trioweb.Connection) -> None:
        assert await connection.receive() == "1"
        await trio.sleep(1)

    door = Door()
    nursery.start_soon(door.serve, close(1000, "1", "2", "3"), stay)
    async with open_at(door, on_open=on_open) as client:
        with client.messages(events=True) as messages:
            first = await messages.receive()
            assert isinstance(first, Opened)
            # Although the server had closed before on_open was through (invariant 11).
            assert [await messages.receive() for _ in range(2)] == ["2", "3"]
            lost = await messages.receive()
            assert isinstance(lost, trioweb.Lost) and lost.session == 1
            assert isinstance(lost.error, trioweb.ClosedByPeer) and lost.error.code == 1000


@pytest.mark.parametrize("nested", [False, True])
async def test_connection_that_ends_during_on_open_is_one_failed_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock, nested: bool
) -> None:
    async def on_open(connection: trioweb.Connection) -> None:
        if nested:
            async with trio.open_nursery() as children:
                children.start_soon(connection.receive)
                children.start_soon(connection.receive)
        else:
            await connection.receive()

    door = Door()
    nursery.start_soon(door.serve, close(1013), close(4500), stay)
    with pytest.raises(GaveUp) as caught:
        async with open_at(door, on_open=on_open) as client:
            await client.receive()
    assert caught.value.attempts == 2
    assert isinstance(caught.value.last, trioweb.ClosedByPeer)
    assert caught.value.last.code == 4500
    assert client.statistics().sessions == 0


class _Cut(trio.abc.SendStream):
    """A stream that can be written to until it is cut."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.is_cut = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_cut:
            raise trio.BrokenResourceError("cut")
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_close_that_follows_a_failed_write_of_on_open_decides(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A server that does not like what it reads may reset the connection behind its Close."""
    door = Door()
    cuts: list[_Cut] = []

    async def dial(host: str, port: int) -> trio.abc.Stream:
        stream = await door.dial(host, port)
        cuts.append(_Cut(stream))
        return trio.StapledStream(cuts[-1], stream)

    async def on_open(connection: trioweb.Connection) -> None:
        assert await connection.receive() == "hello"
        cuts[-1].is_cut = True
        while True:
            await connection.send("subscribe")

    async def refuse(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await peer.send_frame(TEXT, b"hello")
        await trio.sleep(0.1)
        await peer.send_frame(CLOSE, (4500).to_bytes(2, "big"))
        await trio.sleep_forever()

    nursery.start_soon(door.serve, refuse)
    with pytest.raises(GaveUp) as caught:
        async with trioweb.open_client(
            URL, dial=dial, on_open=on_open, retry=Retry(max_attempts=2)
        ) as client:
            await client.receive()
    assert isinstance(caught.value.last, trioweb.ClosedByPeer)
    assert caught.value.last.code == 4500
    assert (len(cuts), client.statistics().sessions) == (1, 0)


async def test_token_that_was_good_for_a_connection_may_be_made_anew_though_on_open_failed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def headers() -> dict[str, str]:
        return {"X-Token": "fresh"}

    async def on_open(connection: trioweb.Connection) -> None:
        if client.statistics().attempts == 2:
            raise trioweb.TryAgain("not yet")

    door = Door()
    nursery.start_soon(door.serve, answer(401), stay, answer(401), stay)
    async with open_at(door, headers=headers, on_open=on_open) as client:
        await client.wait_open()
        assert client.statistics().attempts == 4


async def test_on_open_that_closes_the_connection_is_tried_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    connections = []

    async def on_open(connection: trioweb.Connection) -> None:
        connections.append(connection)
        if len(connections) == 1:
            await connection.aclose()

    door = Door()
    nursery.start_soon(door.serve, stay)
    async with open_at(door, on_open=on_open) as client:
        await client.wait_open()
        assert len(connections) == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_connection_of_on_open_is_the_clients_afterwards(
    when: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whoever holds it on takes none of the client's messages, nor discards them."""
    door = Door()
    nursery.start_soon(door.serve, close(1000, *map(str, range(100))))
    ended: list[str] = []

    async def receive(connection: trioweb.Connection) -> None:
        for operation in (connection.receive, connection.receive_many, connection.__anext__):
            with pytest.raises(RuntimeError, match="receive from the client"):
                await operation()
        ended.append("receive")

    async def watch(connection: trioweb.Connection) -> None:
        await connection.wait_closed()
        ended.append("wait_closed")

    async def on_open(connection: trioweb.Connection) -> None:
        nursery.start_soon(receive, connection)
        nursery.start_soon(watch, connection)
        if when == "before":
            # They wait already, and nothing has arrived yet.
            await trio.lowlevel.checkpoint()

    with pytest.raises(GaveUp):
        async with open_at(door, on_open=on_open, retry=ONCE) as client:
            assert [await client.receive() for _ in range(100)] == [str(n) for n in range(100)]
            assert client.statistics().received == 100
            await client.receive()
    await wait_all_tasks_blocked()
    assert sorted(ended) == ["receive", "wait_closed"]


async def test_failed_write_ends_the_session_and_the_message_goes_to_the_next(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Though the server goes on sending, which is delivered first."""
    network = Network()
    arrived: list[object] = []

    async def feed(connection: trioweb.Connection) -> None:
        async def tell() -> None:
            while True:
                await connection.send("tick")
                await trio.sleep(0.1)

        async with trio.open_nursery() as feeding:
            feeding.start_soon(tell)
            async for message in connection:
                arrived.append(message)
            feeding.cancel_scope.cancel()

    class Once(trio.abc.HalfCloseableStream):
        """A stream, of which a write fails once."""

        failures = 0

        def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
            self._stream = stream

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if b"lost" in _unmask(bytes(data)) and not Once.failures:
                Once.failures += 1
                raise trio.BrokenResourceError from OSError(105, "No buffer space available")
            await self._stream.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self._stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self._stream.receive_some(max_bytes)

        async def send_eof(self) -> None:
            await self._stream.send_eof()

        async def aclose(self) -> None:
            await self._stream.aclose()

    host = network.host("client")

    async def dial(name: str, port: int) -> trio.abc.Stream:
        return Once(await host.dial(name, port))

    await start(nursery, feed, network=network)
    async with trioweb.open_client(URL, dial=dial) as client:
        with client.messages(events=True) as messages:
            await client.wait_open()
            await client.send("lost?")
            with trio.fail_after(15):
                while not isinstance(item := await messages.receive(), trioweb.Lost):
                    pass
                assert "No buffer space available" in str(item.error)
                await wait_until(lambda: arrived == ["lost?"])
        assert client.statistics().sessions == 2


def _unmask(wire: bytes) -> bytes:
    """The payload of a short frame of a client's."""
    return bytes(byte ^ wire[2 + n % 4] for n, byte in enumerate(wire[6:]))


async def test_client_sends_something_each_interval_on_a_busy_feed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network(latency=0.01)

    async def feed(connection: trioweb.Connection) -> None:
        while True:
            await connection.send("tick")
            await trio.sleep(0.1)

    await start(nursery, feed, network=network)
    async with trioweb.open_client(
        URL, dial=network.host("client").dial, heartbeat=Heartbeat(interval=1)
    ) as client:
        with trio.move_on_after(5):
            async for _ in client:
                pass
        assert client.latency == pytest.approx(0.02)


# Liveness.


async def test_half_open_server_is_found_dead_within_interval_and_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network(latency=0.01)
    await start(nursery, wait, network=network)
    async with trioweb.open_client(
        URL, dial=network.host("client").dial, heartbeat=Heartbeat(interval=7, timeout=3)
    ) as client:
        await client.wait_open()
        await trio.sleep(100)
        assert client.statistics().sessions == 1
        assert client.latency == pytest.approx(0.02)
        network.half_open("client", "server", duration=10.2)
        begun = trio.current_time()
        with client.messages(events=True) as messages:
            event: object = None
            while not isinstance(event, trioweb.Lost):
                event = await messages.receive()
            assert 3 <= trio.current_time() - begun <= 10
            assert "silent peer" in str(event.error)
            while isinstance(event, trioweb.Lost | trioweb.Waiting):
                event = await messages.receive()
            assert isinstance(event, Opened)


async def test_server_that_freezes_is_found_dead_and_found_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network()
    await start(nursery, wait, network=network)
    async with trioweb.open_client(URL, dial=network.host("client").dial) as client:
        await client.wait_open()
        network.freeze("server", duration=300)
        await wait_until(lambda: client.state is State.CONNECTING, within=40)
        await wait_until(lambda: client.state is State.OPEN, within=300)


async def test_client_that_does_not_read_does_not_blame_the_server(
    autojump_clock: MockClock,
) -> None:
    """Invariant 5."""
    limits = Limits(inbox_messages=4)
    async with open_raw(limits=limits, heartbeat=Heartbeat(interval=5, timeout=5)) as (
        client,
        peer,
    ):
        with client.messages(max_messages=4) as messages:
            for n in range(50):
                await peer.send_frame(TEXT, str(n).encode())
            await trio.sleep(1000)
            assert client.state is State.OPEN
            for n in range(50):
                assert await messages.receive() == str(n)
            # From here on the server can be heard again, and has to be.
            await wait_until(lambda: client.state is State.CONNECTING, within=10.1)
        await drop(peer)
        with trio.move_on_after(0):
            await client.aclose()


async def test_heartbeat_may_be_a_message_and_its_answer_reaches_nobody(
    autojump_clock: MockClock,
) -> None:
    heartbeat = Heartbeat(interval=5, timeout=5, message='{"type":6}', reply='{"type":3}')
    async with open_raw(heartbeat=heartbeat) as (client, peer):
        for _ in range(3):
            frame = await peer.receive_frame()
            assert (frame.opcode, frame.payload) == (TEXT, b'{"type":6}')
            await peer.send_frame(TEXT, b'{"type":3}')
        await peer.send_frame(TEXT, b"news")
        assert await client.receive() == "news"
        assert client.state is State.OPEN


async def test_client_without_heartbeat_waits_for_ever(autojump_clock: MockClock) -> None:
    async with open_raw(heartbeat=None) as (client, peer):
        await trio.sleep(80_000)
        assert client.state is State.OPEN
        await peer.send_frame(PING, b"x")
        assert (await peer.receive_frame()).opcode == PONG


# TLS.


async def test_client_over_tls(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What is written goes out one message at a time, and is flushed when it is out."""
    texts: list[str] = []

    async def serve(stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(stream, tls_contexts()[1], server_side=True)
        texts.extend(await answer_pings(await RawPeer.accept(tls)))

    door = Door(lambda: stream_pair(1000))
    nursery.start_soon(door.serve, serve)
    async with open_at(door, f"wss://{HOST}/", ssl_context=tls_contexts()[0]) as client:
        for n in range(200):
            await client.send(f"{n}" * 20)
        await client.flush()
    await wait_all_tasks_blocked()
    assert texts == [f"{n}" * 20 for n in range(200)]
    assert door.asked == [(HOST, 443)]


async def test_unsent_is_raised_when_a_server_stops_reading(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 6: and it does not take longer than the close timeout, twice."""
    door = Door(lambda: stream_pair(100))
    begun = trio.current_time()
    with pytest.raises(Unsent) as caught:
        async with open_at(door) as client:
            await door.accept()
            await client.wait_open()
            for _ in range(50):
                await client.send("x" * 90)
    assert caught.value.count == 49
    assert trio.current_time() - begun <= 20
