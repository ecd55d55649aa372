"""The client as users hold it: arguments, states, ends, and what a cancellation leaves."""

from __future__ import annotations

import contextlib
import itertools
import math
import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
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
from tests.server.support import echo, start, wait
from tests.support import TRANSPORTS, Yields
from trioweb import (
    Client,
    ClosedLocally,
    GaveUp,
    Heartbeat,
    Limits,
    Outbox,
    Retry,
    State,
    Unsent,
)
from trioweb.testing import Network, RawPeer, no_leaks, stream_pair, wait_until

# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"url": "server/path"}, ValueError, r"url 'server/path'.*ws:// or wss://"),
        ({"url": "http://server/"}, ValueError, r"url 'http://server/'.*ws:// or wss://"),
        ({"url": "ws:///path"}, ValueError, r"url 'ws:///path'.*no host"),
        ({"url": "ws://server:99999/"}, ValueError, r"url 'ws://server:99999/'.*0-65535"),
        ({"url": "ws://server:x/"}, ValueError, r"url 'ws://server:x/'"),
        ({"url": b"ws://server/"}, TypeError, r"url.*str such as 'ws://host/path'.*a bytes"),
        ({"headers": {"X-A": "line\r\nbreak"}}, ValueError, r"X-A"),
        ({"headers": {"bad name": "x"}}, ValueError, r"bad name"),
        ({"headers": [("Upgrade", "x")]}, ValueError, r"'Upgrade' belongs to the handshake"),
        ({"subprotocols": "chat"}, TypeError, "subprotocols must be a collection of str"),
        ({"subprotocols": ["a b"]}, ValueError, r"'a b' is not a token"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, r"ssl_context.*wss://"),
    ],
)
async def test_bad_argument_is_an_error_at_once(
    autojump_clock: MockClock, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with no_leaks():
        with pytest.raises(error, match=text):
            async with trioweb.open_client(**{"url": URL, "dial": refuse, **options}):
                raise AssertionError("the block began")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Retry(initial=5, maximum=1), r"initial=5, maximum=1.*below initial"),
        (lambda: Retry(initial=0), r"initial=0.*greater than 0"),
        (lambda: Retry(max_attempts=0), r"max_attempts=0.*greater than 0"),
        (lambda: Retry(max_elapsed=-1), r"max_elapsed=-1.*greater than 0"),
        (lambda: Heartbeat(timeout=0), r"timeout=0.*greater than 0"),
        (lambda: Limits(connect_timeout=0), r"connect_timeout=0.*greater than 0"),
        (lambda: Outbox(max_messages=0), r"max_messages=0.*greater than 0"),
        (lambda: Outbox(full="block"), r"full='block'.*'wait', 'raise' or 'drop'"),  # type: ignore[arg-type]
        (lambda: Outbox(full="drop", confirm=True), r"full='drop', confirm=True"),
    ],
)
def test_configuration_that_cannot_work_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


# What it tells.


async def test_state_follows_the_connections(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    states: list[State] = []
    async with open_at(door) as client:

        def note() -> None:
            states.append(client.state)

        note()
        assert client.latency is None
        peer = await door.accept()
        await client.wait_open()
        note()
        await drop(peer)
        await wait_all_tasks_blocked()
        note()
        peer = await door.accept()
        await client.wait_open()
        nursery.start_soon(client.aclose)
        await wait_all_tasks_blocked()
        note()
        await answer_pings(peer)
        await wait_all_tasks_blocked()
        note()
    assert states == [
        State.CONNECTING,
        State.OPEN,
        State.CONNECTING,
        State.CLOSING,
        State.CLOSED,
    ]


async def test_statistics_say_what_it_has_been_through(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door, outbox=Outbox(confirm=True)) as client:
        await drop(await door.accept())
        await wait_all_tasks_blocked()
        await client.send("a")
        peer = await door.accept()
        assert (await peer.receive_frame()).payload == b"a"
        await drop(peer)
        peer = await door.accept()
        await peer.send_frame(TEXT, b"x")
        assert await client.receive() == "x"
        await wait_all_tasks_blocked()
        statistics = client.statistics()
        assert (statistics.attempts, statistics.sessions) == (3, 3)
        assert (statistics.accepted, statistics.unsent, statistics.resent) == (1, 1, 1)
        assert (statistics.received, statistics.discarded, statistics.dropped) == (1, 0, 0)
        await answer_pings_until(peer, lambda: not client.statistics().unsent)


async def answer_pings_until(peer: RawPeer, condition: Callable[[], bool]) -> None:
    while not condition():
        frame = await peer.receive_frame()
        if frame.opcode == PING:
            await peer.send_frame(PONG, frame.payload)
            await wait_all_tasks_blocked()


async def test_latency_is_that_of_the_session(autojump_clock: MockClock) -> None:
    network = Network(latency=0.25)
    async with trio.open_nursery() as nursery:
        await start(nursery, wait, network=network)
        async with trioweb.open_client(
            URL, dial=network.host("client").dial, heartbeat=Heartbeat(interval=5)
        ) as client:
            await client.wait_open()
            assert client.latency is None
            await trio.sleep(6)
            assert client.latency == pytest.approx(0.5)
        nursery.cancel_scope.cancel()


async def test_wait_open_waits_for_the_next_connection(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door) as client:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.wait_open)
                await wait_all_tasks_blocked()
                assert nursery.child_tasks
                peer = await door.accept()
            await drop(peer)
            await wait_until(lambda: client.state is State.CONNECTING)


async def test_last_error_says_why_there_is_no_connection(autojump_clock: MockClock) -> None:
    """Also to whoever was waiting: `fail_after` has no text of its own, but a traceback."""
    with pytest.raises(trio.TooSlowError) as caught:
        with trio.fail_after(5):
            async with open_refused() as client:
                assert client.last_error is None
                await client.wait_open()
    assert isinstance(client.last_error, trioweb.ConnectFailed)
    text = "".join(traceback.format_exception(caught.value))
    assert "there was no connection yet: could not connect to server:80" in text


async def test_whole_client_with_a_real_server(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 10: and nothing is left of either."""
    network = Network()
    site = await start(nursery, echo, network=network)
    await wait_all_tasks_blocked()
    async with no_leaks(network):
        async with trioweb.open_client(URL, dial=site.dial) as client:
            for n in range(500):
                await client.send(str(n))
                assert await client.receive() == str(n)


# Leaving normally.


async def test_leaving_flushes_and_closes_with_1000(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    async with trio.open_nursery() as readers:
        async with open_at(door) as client:
            for n in range(100):
                await client.send(str(n))

            @readers.start_soon
            async def serve() -> None:
                peer = await door.accept()
                for n in range(100):
                    assert (await peer.receive_frame()).payload == str(n).encode()
                frame = await peer.receive_frame()
                assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe8")
                # It takes its time, which it has.
                await trio.sleep(5)
                await peer.send_frame(CLOSE, frame.payload)
                await peer.receive_eof()
                await drop(peer)

        assert client.state is State.CLOSED
        assert client.statistics().unsent == 0


async def test_leaving_waits_for_a_connection_to_flush_on(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    texts: list[str] = []

    async def serve(stream: trio.abc.Stream) -> None:
        texts.extend(await answer_pings(await RawPeer.accept(stream)))

    nursery.start_soon(door.serve, trio.aclose_forcefully, trio.aclose_forcefully, serve)
    async with open_at(door) as client:
        await client.send("a")
    await wait_all_tasks_blocked()
    assert texts == ["a"]


async def test_leaving_raises_unsent_after_the_close_timeout(autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    with pytest.raises(Unsent) as caught:
        async with open_refused(limits=Limits(close_timeout=3)) as client:
            await client.send("a")
            await client.send("b")
    assert caught.value.count == 2
    assert trio.current_time() - begun == 3
    assert client.statistics().unsent == 2


async def test_leaving_raises_unsent_for_what_was_not_confirmed(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(Unsent) as caught:
        async with open_raw(outbox=Outbox(confirm=True)) as (client, _):
            await client.send("a")
    assert caught.value.count == 1


async def test_unsent_names_giving_up_as_its_cause(autojump_clock: MockClock) -> None:
    with pytest.raises(Unsent) as caught:
        async with open_refused(retry=Retry(max_attempts=3)) as client:
            await client.send("a")
    assert isinstance(caught.value.__cause__, GaveUp)


async def test_leaving_tells_that_it_gave_up_if_nothing_else_did(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(GaveUp) as caught:
        async with open_refused(retry=ONCE):
            await trio.sleep(10)
    assert caught.value.attempts == 1
    assert isinstance(caught.value.last, trioweb.ConnectFailed)


async def test_leaving_tells_nothing_twice(autojump_clock: MockClock) -> None:
    async with open_refused(retry=ONCE) as client:
        with pytest.raises(GaveUp):
            await client.wait_open()
        # Closing what is over is no operation that could fail.
        await client.aclose()


@pytest.mark.parametrize("call", ["receive", "flush", "wait_open", "iterate"])
async def test_leaving_tells_what_was_unsent_after_gave_up_was_told(
    autojump_clock: MockClock, call: str
) -> None:
    """Invariant 4: and both errors give the messages back."""
    with pytest.raises(Unsent) as caught:
        async with open_refused(retry=ONCE) as client:
            await client.send("a")
            await client.send(b"b")
            with pytest.raises(GaveUp) as told:
                if call == "iterate":
                    assert [message async for message in client] == []
                else:
                    await getattr(client, call)()
            assert told.value.unsent == ("a", b"b")
    assert caught.value.messages == ("a", b"b")
    assert isinstance(caught.value.__cause__, GaveUp)


async def test_leaving_tells_that_it_gave_up_and_what_was_unsent_in_one_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GaveUp) as caught:
        async with open_refused(retry=ONCE) as client:
            await client.send("a")
            await trio.sleep(10)
    assert caught.value.unsent == ("a",)
    assert "not handed over" not in caplog.text


async def test_aclose_tells_what_was_unsent_when_the_client_gave_up_before(
    autojump_clock: MockClock,
) -> None:
    async with open_refused(retry=ONCE) as client:
        await client.send("a")
        with pytest.raises(GaveUp):
            await client.receive()
        with pytest.raises(Unsent):
            await client.aclose()


async def test_leaving_tells_what_a_cancelled_aclose_had_no_time_to_send(
    autojump_clock: MockClock,
) -> None:
    """Invariant 4: whichever way it was closed."""
    with pytest.raises(Unsent):
        async with open_refused() as client:
            await client.send("a")
            with trio.move_on_after(1):
                await client.aclose()


async def test_client_has_no_public_names_but_those_that_are_documented(
    autojump_clock: MockClock,
) -> None:
    async with open_refused() as client:
        assert {name for name in dir(client) if not name.startswith("_")} == {
            "aclose",
            "buffered_amount",
            "flush",
            "last_error",
            "latency",
            "messages",
            "receive",
            "receive_many",
            "reconnect",
            "send",
            "send_nowait",
            "state",
            "statistics",
            "wait_open",
        }


async def test_gave_up_that_was_raised_in_the_block_comes_out_once(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(GaveUp) as caught:
        async with open_refused(retry=ONCE) as client:
            await client.receive()
    assert caught.value.__cause__ is caught.value.last
    assert caught.value.__context__ is None


# Leaving by an exception.


@pytest.mark.parametrize("error", [ValueError("mine"), ExceptionGroup("mine", [KeyError()])])
async def test_own_exception_comes_out_as_itself_and_nothing_is_flushed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    begun = trio.current_time()
    with pytest.raises(type(error)) as caught:
        async with open_refused() as client:
            await client.send("a")
            raise error
    assert caught.value is error
    assert trio.current_time() == begun
    assert "1 accepted message was not handed over" in caplog.text
    assert client.statistics().unsent == 1
    assert client.state is State.CLOSED


@pytest.mark.network
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError(), 1011),
        (ExceptionGroup("two", [KeyError(), ValueError()]), 1011),
        (None, 1001),
        (KeyboardInterrupt(), 1001),
        (SystemExit(0), 1001),
        (BaseExceptionGroup("both", [KeyError(), KeyboardInterrupt()]), 1001),
    ],
    ids=repr,
)
async def test_kernel_takes_the_close_of_a_block_that_did_not_end_well(
    patient_clock: MockClock, error: BaseException | None, code: int
) -> None:
    pair = await TRANSPORTS["tcp"]()
    door = Door(lambda: pair)
    begun = trio.current_time()
    expected: Any = contextlib.nullcontext()
    if error is not None:
        expected = pytest.raises(type(error))
    with trio.CancelScope() as scope, expected:
        async with open_at(door) as client:
            peer = await door.accept()
            await client.wait_open()
            if error is not None:
                raise error
            scope.cancel()
            await trio.sleep_forever()
    frame = await peer.receive_frame()
    assert (frame.opcode, int.from_bytes(frame.payload, "big")) == (CLOSE, code)
    await peer.receive_eof()
    assert trio.current_time() - begun < 1
    await drop(peer)


@pytest.mark.parametrize("how", ["gave up", "closed", "lost", "connecting"])
async def test_own_exception_wins_when_the_connection_dies_in_the_same_instant(
    autojump_clock: MockClock, how: str
) -> None:
    error = ValueError("mine")
    door = Door()
    with pytest.raises(ValueError, match="mine") as caught:
        async with open_at(door, retry=ONCE, outbox=Outbox(confirm=True)) as client:
            if how != "connecting":
                peer = await door.accept()
                await client.wait_open()
                await client.send("a")
            if how == "closed":
                await peer.send_frame(CLOSE, b"\x03\xea")
            elif how == "lost":
                await drop(peer)
            elif how == "gave up":
                await drop(peer)
                await wait_until(lambda: client.state is State.CLOSED)
            raise error
    assert caught.value is error


async def test_cancelled_block_ends_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    nursery.start_soon(door.serve, stay)
    async with no_leaks():
        with trio.move_on_after(5) as scope:
            async with open_at(door, outbox=Outbox(confirm=True)) as client:
                await client.wait_open()
                await trio.sleep(4.9)
                begun = trio.current_time()
                # A nursery of the program's own makes a group of the cancellation.
                async with trio.open_nursery() as busy:
                    busy.start_soon(trio.sleep_forever)
        assert scope.cancelled_caught
        assert trio.current_time() - begun == pytest.approx(0.1)
        assert client.state is State.CLOSED


@pytest.mark.parametrize("turn", [hang, stay, close(1000)], ids=["hang", "stay", "close"])
async def test_cancelled_block_leaves_nothing_behind(
    nursery: trio.Nursery, autojump_clock: MockClock, turn: Any
) -> None:
    """Invariant 10, whatever the client is doing."""
    door = Door()

    async def on_open(connection: trioweb.Connection) -> None:
        await trio.sleep(0.5)

    nursery.start_soon(door.serve, turn)
    await wait_all_tasks_blocked()
    for after in (0, 0.2, 0.6, 1.1, 3):
        before = len(nursery.child_tasks)
        with trio.move_on_after(after) as scope:
            async with open_at(door, on_open=on_open) as client:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert client.state is State.CLOSED
        assert len(nursery.child_tasks) == before


@pytest.mark.parametrize("how", ["cancelled", "callable"])
@pytest.mark.parametrize("raises", [False, True])
async def test_clean_up_behind_a_shield_is_told_that_the_client_is_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, how: str, raises: bool
) -> None:
    """A block that is cancelled, or a callable of the user's that failed, ends the client."""

    async def url() -> str:
        await trio.sleep(10 if how == "callable" else 1000)
        raise KeyError("callable")

    async def wait(operation: Callable[[], Awaitable[object]], delay: float) -> None:
        await trio.sleep(delay)
        with pytest.raises(ClosedLocally, match="the client was closed") as caught:
            await operation()
        assert isinstance(caught.value.__cause__, KeyError) is (how == "callable")

    expected: Any = contextlib.nullcontext()
    if raises:
        expected = pytest.raises(ValueError, match="clean-up")
    elif how == "callable":
        expected = pytest.raises(KeyError, match="callable")
    limits = Limits(connect_timeout=10_000)
    with trio.move_on_after(10 if how == "cancelled" else math.inf) as scope, expected:
        async with trioweb.open_client(
            url, dial=refuse, outbox=Outbox(max_messages=1), limits=limits
        ) as client:
            await client.send("a")
            with trio.fail_after(60, shield=True):
                async with trio.open_nursery() as waiting:
                    for operation in (client.flush, client.receive, client.wait_open):
                        # One waits since before the end, one begins after it.
                        for delay in (0, 30):
                            waiting.start_soon(wait, operation, delay)
                    waiting.start_soon(wait, lambda: client.send("b"), 0)
            assert trio.current_time() >= 30
            assert client.state is State.CLOSED
            assert not caplog.text
            if raises:
                raise ValueError("clean-up")
    assert scope.cancelled_caught is (how == "cancelled" and not raises)
    assert caplog.text.count("1 accepted message was not handed over") == 1


# aclose by hand.


async def test_aclose_ends_the_retrying(autojump_clock: MockClock) -> None:
    dials = 0

    async def dial(host: str, port: int) -> trio.abc.Stream:
        nonlocal dials
        dials += 1
        raise OSError("down")

    async with trioweb.open_client(URL, dial=dial) as client:
        await trio.sleep(30)
        begun = trio.current_time()
        await client.aclose()
        assert trio.current_time() == begun
        assert client.state is State.CLOSED
        before = dials
        await trio.sleep(1000)
        assert dials == before
        with pytest.raises(ClosedLocally, match="the client was closed"):
            await client.wait_open()


async def test_aclose_tells_the_server_a_code_and_a_reason(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        for bad in (1005, 99):
            with pytest.raises(ValueError, match=str(bad)):
                await client.aclose(bad)
        assert client.state is State.OPEN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose, 4001, "moving house")
            frame = await peer.receive_frame()
            assert frame.payload == (4001).to_bytes(2, "big") + b"moving house"
            await peer.send_frame(CLOSE, frame.payload)
            await drop(peer)


async def test_aclose_is_idempotent_and_may_be_called_twice_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 6."""
    door = Door()
    nursery.start_soon(door.serve, stay)
    async with open_at(door) as client:
        await client.wait_open()
        await client.send("a")
        async with trio.open_nursery() as closers:
            for _ in range(3):
                closers.start_soon(client.aclose)
        await client.aclose()
        assert client.statistics().unsent == 0


async def test_aclose_raises_unsent_and_leaving_says_no_more(autojump_clock: MockClock) -> None:
    async with open_refused() as client:
        await client.send("a")
        with pytest.raises(Unsent):
            await client.aclose()
        await client.aclose()


async def test_aclose_says_nothing_of_a_session_that_it_ended_itself(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    nursery.start_soon(door.serve, stay)
    async with open_at(door, retry=ONCE) as client:
        await client.wait_open()
        await client.aclose()
    assert caplog.text == ""


async def test_client_that_gives_up_while_it_is_being_closed_ends_quietly(
    autojump_clock: MockClock,
) -> None:
    async with open_refused(retry=Retry(max_attempts=2)) as client:
        await client.send("a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def iterate() -> None:
                assert [message async for message in client] == []

            with pytest.raises(Unsent):
                await client.aclose()


# Every cancellation point.

# Awaits a coroutine, cancels it at some point, and says whether it came through.
Run = Callable[[Coroutine[Any, Any, object]], Awaitable[bool]]


async def cancel_everywhere(check: Callable[[Run], Awaitable[None]]) -> None:
    """Run *check* again and again, each time cancelling what it runs at another point."""
    for when in ("parking", "resuming"):
        for at in itertools.count():
            acted = False

            async def run(
                coroutine: Coroutine[Any, Any, object], at: int = at, when: str = when
            ) -> bool:
                nonlocal acted
                with trio.CancelScope() as scope:
                    yields = Yields(at, when, scope.cancel)
                    await yields.run(coroutine)
                acted = yields.acted
                return not scope.cancelled_caught

            await check(run)
            if not acted:
                assert at > 1, "there was nothing to cancel"
                break


class Served:
    """A client and its raw server, which sends five messages and keeps what it is sent."""

    def __init__(self, **options: Any) -> None:
        self.texts: list[str] = []
        self._options = options
        self._door = Door(lambda: stream_pair(200))

    async def _serve(self, stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        for n in range(5):
            await peer.send_frame(TEXT, str(n).encode())
        self.texts = await answer_pings(peer, self.texts)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """Its client; the server has all that it will get when this is left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._door.serve, self._serve)
            async with open_at(self._door, **self._options) as client:
                yield client
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("confirm", [False, True])
async def test_cancelled_send_has_accepted_nothing(
    autojump_clock: MockClock, confirm: bool
) -> None:
    async def check(run: Run) -> None:
        served = Served(outbox=Outbox(max_messages=1, confirm=confirm))
        accepted: list[str] = []

        async def send_all() -> None:
            for n in range(4):
                message = f"{n}" * 90
                await client.send(message)
                accepted.append(message)

        async with served.client() as client:
            await run(send_all())
            assert client.statistics().accepted == len(accepted)
        assert served.texts == accepted

    await cancel_everywhere(check)


@pytest.mark.parametrize("confirm", [False, True])
async def test_cancelled_flush_loses_nothing(autojump_clock: MockClock, confirm: bool) -> None:
    async def check(run: Run) -> None:
        served = Served(outbox=Outbox(confirm=confirm))
        messages = [f"{n}" * 150 for n in range(4)]
        async with served.client() as client:
            for message in messages:
                client.send_nowait(message)
            if await run(client.flush()):
                assert client.statistics().unsent == 0
                assert not confirm or served.texts == messages
        assert served.texts == messages

    await cancel_everywhere(check)


async def test_cancelled_receive_has_taken_nothing(autojump_clock: MockClock) -> None:
    async def check(run: Run) -> None:
        received: list[Any] = []

        async def receive_all() -> None:
            while len(received) < 5:
                received.append(await messages.receive())

        async with Served(limits=Limits(inbox_messages=1)).client() as client:
            with client.messages(max_messages=1) as messages:
                await run(receive_all())
                await receive_all()
        assert received == [str(n) for n in range(5)]

    await cancel_everywhere(check)


@pytest.mark.parametrize("confirm", [False, True])
async def test_cancelled_aclose_has_closed_all_the_same(
    autojump_clock: MockClock, confirm: bool
) -> None:
    """Invariant 6; and what the server did not get is counted."""

    async def check(run: Run) -> None:
        served = Served(outbox=Outbox(confirm=confirm))
        messages = [f"{n}" * 150 for n in range(4)]
        async with served.client() as client:
            await client.wait_open()
            for message in messages:
                client.send_nowait(message)
            finished = await run(client.aclose())
            assert client.state is State.CLOSED
            # A pong may still have been on its way through.
            await wait_all_tasks_blocked()
            # Cancelled, it has told nobody; and nothing is told twice.
            unsent = client.statistics().unsent
            with pytest.raises(Unsent) if unsent else contextlib.nullcontext():
                await client.aclose()
            await client.aclose()
            assert not finished or not client.statistics().unsent
            with pytest.raises(ClosedLocally):
                await client.send("x")
        assert served.texts == messages[: len(served.texts)]
        assert len(served.texts) + client.statistics().unsent >= 4

    await cancel_everywhere(check)
