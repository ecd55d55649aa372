"""Who waits for whom: turns in sending, forgotten streams, and waits that are cut short."""

from __future__ import annotations

import gc
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.client.support import (
    CLOSE,
    PONG,
    TEXT,
    Door,
    answer,
    answer_pings,
    close,
    drop,
    leave_unsent,
    open_at,
    open_raw,
    open_refused,
    stay,
)
from trioweb import (
    ClosedByPeer,
    ClosedLocally,
    GaveUp,
    Heartbeat,
    Lagged,
    Limits,
    Lost,
    NotReceiving,
    Opened,
    Outbox,
    Retry,
    State,
    Unsent,
)
from trioweb._client._waiting import Jam
from trioweb.testing import Network, RawPeer, wait_until

# Turns.


async def test_senders_have_their_turns_in_the_order_in_which_they_came(
    autojump_clock: MockClock,
) -> None:
    """Whatever the sizes: a large message is not passed by small ones for ever."""
    door = Door()
    async with open_at(door, outbox=Outbox(max_bytes=10)) as client:
        client.send_nowait("x" * 10)
        async with trio.open_nursery() as nursery:
            messages = ["1", "L" * 9, "2", "3", "M" * 10, "4"]
            for message in messages:
                nursery.start_soon(client.send, message)
                await wait_all_tasks_blocked()
            peer = await door.accept()
            arrived = [(await peer.receive_frame()).payload.decode() for _ in range(7)]
        assert arrived == ["x" * 10, *messages]


async def test_large_message_gets_in_while_small_ones_go_on(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network(bandwidth=50_000, max_bytes=2000)

    async def handler(connection: trioweb.Connection) -> None:
        await connection.wait_closed()

    await nursery.start(trioweb.serve_listeners, handler, [network.host("server").listen(80)])
    async with trioweb.open_client(
        "ws://server/", dial=network.host("client").dial, outbox=Outbox(max_bytes=20_000)
    ) as client:

        async def chatter() -> None:
            while True:
                await client.send("x" * 1000)

        async with trio.open_nursery() as senders:
            for _ in range(5):
                senders.start_soon(chatter)
            await trio.sleep(1)
            with trio.fail_after(1):
                await client.send("L" * 9000)
            senders.cancel_scope.cancel()


async def test_send_nowait_does_not_overtake_those_who_wait(autojump_clock: MockClock) -> None:
    async with open_refused(outbox=Outbox(max_bytes=10)) as client:
        client.send_nowait("12345")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "too large")
            await wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                client.send_nowait("1")
            with trio.move_on_after(1) as scope:
                await client.send("1")
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()
        # Nobody waits any more.
        client.send_nowait("1")
        await leave_unsent(client)


async def test_sender_that_is_cancelled_lets_the_smaller_behind_it_in(
    autojump_clock: MockClock,
) -> None:
    async with open_refused(outbox=Outbox(max_bytes=10)) as client:
        client.send_nowait("12345")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send_large() -> None:
                with trio.move_on_after(1):
                    await client.send("too large")

            await wait_all_tasks_blocked()
            nursery.start_soon(client.send, "small")
            await wait_all_tasks_blocked()
            assert client.statistics().accepted == 1
        assert trio.current_time() == 1
        assert client.statistics().accepted == 2
        await leave_unsent(client)


class Steps(trio.abc.Instrument):
    """Counts how often a task was woken."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.mark.parametrize("confirm", [False, True])
async def test_message_costs_the_same_however_many_wait_to_send(
    confirm: bool, autojump_clock: MockClock
) -> None:
    """Each change used to wake all of them."""

    async def steps(tasks: int) -> float:
        door = Door()
        async with open_at(door, outbox=Outbox(max_messages=10, confirm=confirm)) as client:
            counter = Steps()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, door)

                async def send() -> None:
                    for _ in range(1000 // tasks):
                        await client.send("x")

                await client.wait_open()
                trio.lowlevel.add_instrument(counter)
                async with trio.open_nursery() as senders:
                    for _ in range(tasks):
                        senders.start_soon(send)
                await client.flush()
                trio.lowlevel.remove_instrument(counter)
                await client.aclose()
                nursery.cancel_scope.cancel()
        return counter.count

    assert await steps(500) < 2 * await steps(10)


async def _collect(door: Door) -> None:
    await answer_pings(await door.accept())


# Streams that were forgotten.


async def say(peer: RawPeer, count: int) -> None:
    for n in range(count):
        await peer.send_frame(TEXT, str(n).encode())


@pytest.mark.parametrize("how", ["receive", "iterate", "messages", "held", "between"])
async def test_stream_that_was_forgotten_stalls_nobody_for_ever(
    how: str, nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One `receive`, say, for the answer to a login; or `messages()` outside of `with`."""
    async with open_raw(heartbeat=Heartbeat(timeout=5)) as (client, peer):
        nursery.start_soon(say, peer, 2000)
        held = None
        match how:
            case "receive":
                await client.receive()
            case "iterate":
                async for _ in client:
                    break
            case "messages":
                async for _ in client.messages():
                    break
            case "held":
                held = client.messages()
                await held.receive()
            case "between":
                await client.messages().receive()
        gc.collect()
        with client.messages() as messages, trio.fail_after(60):
            begun = trio.current_time()
            while await messages.receive() != "1999":
                pass
        if how in ("messages", "between"):
            # Nobody held it any more.
            assert trio.current_time() == begun
            assert "holding up" not in caplog.text
        else:
            assert trio.current_time() == begun + 5
            name = "messages() of test_waiting.py:" if how == "held" else "client.receive()"
            assert name in caplog.text
            assert caplog.text.count("instead of holding up the other streams") == 1
            # What it lost is told to whoever comes back to it, and the rest is there.
            stream: Any = client if held is None else held
            with pytest.raises(Lagged) as caught:
                await stream.receive()
            rest = await stream.receive_many()
            assert len(rest) == 256 and rest[-1] == "1999"
            assert 1 + caught.value.skipped + 256 == 2000
        await leave_unsent(client)
        await drop(peer)


async def test_stream_in_a_with_block_may_hold_up_the_others_and_is_named(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_raw(heartbeat=Heartbeat(timeout=5), outbox=Outbox(confirm=True)) as (
        client,
        peer,
    ):
        with client.messages(max_messages=7), client.messages() as fast:
            nursery.start_soon(say, peer, 2000)
            await client.send("a")
            name = r"messages\(\) of test_waiting\.py:\d+: 7 wait, max_messages=7"
            with pytest.raises(NotReceiving, match=name):
                await client.flush()
            assert "messages() of test_waiting.py" in caplog.text
            assert len(await fast.receive_many()) == 7
            with trio.move_on_after(1000) as scope:
                await fast.receive()
            assert scope.cancelled_caught
        await leave_unsent(client)
        await drop(peer)


async def test_only_stream_keeps_what_nobody_receives_yet(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It holds up nobody, so nothing is lost."""
    async with open_raw(heartbeat=Heartbeat(timeout=5)) as (client, peer):
        nursery.start_soon(say, peer, 2000)
        assert await client.receive() == "0"
        await trio.sleep(1000)
        for n in range(1, 2000):
            assert await client.receive() == str(n)
        await drop(peer)


async def test_sending_program_that_never_receives_is_told_so(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with open_raw(
        heartbeat=Heartbeat(timeout=5), outbox=Outbox(confirm=True), limits=Limits(inbox_messages=8)
    ) as (client, peer):
        nursery.start_soon(say, peer, 2000)
        await client.send("a")
        with pytest.raises(NotReceiving, match="messages that came before there was a stream"):
            await client.flush()
        await leave_unsent(client)
        await drop(peer)


async def test_lagged_of_a_stream_speaks_of_its_messages(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with open_raw() as (client, peer):
        with client.messages(max_messages=5, full="raise") as messages:
            await say(peer, 50)
            await wait_all_tasks_blocked()
            with pytest.raises(Lagged, match=r"45 messages .* max_messages=5"):
                await messages.receive()
        await drop(peer)


def test_jam_counts_from_when_nothing_moved_any_more() -> None:
    jam = Jam(5)
    assert jam.look(0, None) == float("inf")
    assert not jam.is_due(100)
    assert jam.look(1, "a") == 6
    assert jam.look(3, "a") == 6
    assert jam.look(4, "b") == 9
    assert jam.is_on and not jam.is_due(8.9) and jam.is_due(9)
    jam.tell()
    assert jam.look(10, "b") == float("inf")
    assert jam.is_due(10)
    assert jam.look(11, None) == float("inf")
    assert not jam.is_due(100)
    assert jam.look(12, "b") == 17


# Many at once.


async def test_receive_many_takes_all_that_has_arrived(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        with client.messages(events=True) as events, client.messages() as messages:
            assert await events.receive_many() == [Opened(1, None)]
            async with trio.open_nursery() as nursery:
                found: list[Any] = []

                @nursery.start_soon
                async def receive() -> None:
                    # It waits for the first.
                    found.extend(await messages.receive_many())

                await wait_all_tasks_blocked()
                await say(peer, 1)
            await say(peer, 600)
            await wait_all_tasks_blocked()
            while len(found) < 601:
                batch = await messages.receive_many()
                assert batch
                found.extend(batch)
                await events.receive_many()
            assert found == ["0", *map(str, range(600))]
        await drop(peer)


async def test_receive_many_of_the_client_and_its_end(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        await say(peer, 3)
        await wait_all_tasks_blocked()
        assert await client.receive_many() == ["0", "1", "2"]
        await say(peer, 2)
        await drop(peer)
        await client.aclose()
        assert await client.receive_many() == ["0", "1"]
        with pytest.raises(ClosedLocally):
            await client.receive_many()


# Waits that are cut short.


class Longest(Random):
    """Draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_who_is_cancelled_by_the_end_of_the_client_is_told_nothing_more(
    autojump_clock: MockClock,
) -> None:
    """The one error that says why is not joined by those of all who waited."""
    with pytest.raises(ExceptionGroup) as caught:
        async with open_refused() as client, trio.open_nursery() as nursery:
            await client.send("a")
            nursery.start_soon(client.flush)
            await wait_all_tasks_blocked()
            await client.aclose()
    [error] = caught.value.exceptions
    assert isinstance(error, Unsent)


async def test_what_leaves_the_outbox_is_not_waited_for_where_nobody_receives(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The end of a session may have to wait for the program; what was sent in it does not."""

    async def die(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        await say(peer, 10)
        while (frame := await peer.receive_frame()).opcode != TEXT:
            await peer.send_frame(PONG, frame.payload)
        await drop(peer)

    door = Door()
    nursery.start_soon(door.serve, die)
    with pytest.raises(Unsent):
        async with open_at(door, outbox=Outbox(confirm=True, max_resends=1)) as client:
            with client.messages(max_messages=1):
                await client.send("a")
                with trio.fail_after(10):
                    await client.flush()
                assert client.statistics().sessions == 2
                assert client.statistics().undelivered == 1


async def test_leaving_in_a_back_off_tries_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network = Network()
    network.host("server")
    arrived: list[object] = []

    async def handler(connection: trioweb.Connection) -> None:
        async for message in connection:
            arrived.append(message)

    async with trioweb.open_client(
        "ws://server/", dial=network.host("client").dial, random=Longest()
    ) as client:
        await client.send("hello")
        await trio.sleep(73)  # by now, 20 s are waited for each time
        await nursery.start(trioweb.serve_listeners, handler, [network.host("server").listen(80)])
        await trio.sleep(2)
        begun, attempts = trio.current_time(), client.statistics().attempts
    assert arrived == ["hello"]
    assert client.statistics().attempts == attempts + 1
    assert trio.current_time() - begun < 1


async def test_leaving_leaves_a_server_alone_that_asked_for_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    nursery.start_soon(door.serve, answer(503, Retry_After="3600"))
    with pytest.raises(Unsent):
        async with open_at(door) as client:
            await client.send("hello")
            await trio.sleep(60)
    assert len(door.times) == 1


async def test_reconnect_ends_the_session_and_begins_the_next_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Though the policy would wait for long, or end here."""
    door = Door()
    async with open_at(
        door, random=Longest(), retry=Retry(initial=100, maximum=100, worth=lambda error: False)
    ) as client:
        with client.messages(events=True) as events:
            peer = await door.accept()
            await client.wait_open()
            assert await events.receive() == Opened(1, None)
            begun = trio.current_time()
            async with trio.open_nursery() as closing:
                closing.start_soon(client.reconnect, 4000, "a gap")
                frame = await peer.receive_frame()
                assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa0a gap")
                await peer.send_frame(CLOSE, frame.payload)
                await drop(peer)
            assert client.state is State.CONNECTING
            await client.send("hello again")
            peer = await door.accept()
            await client.wait_open()
            assert trio.current_time() == begun
            lost = await events.receive()
            assert isinstance(lost, Lost) and isinstance(lost.error, ClosedLocally)
            assert (lost.error.code, lost.error.reason) == (4000, "a gap")
            assert await events.receive() == Opened(2, None)
            assert (await peer.receive_frame()).payload == b"hello again"
            # It was asked for once: the next end is the policy's again.
            await drop(peer)
            assert isinstance(await events.receive(), Lost)
            with pytest.raises(GaveUp), trio.fail_after(60):
                await events.receive()
        await leave_unsent(client)


async def test_reconnect_waits_for_a_mute_server_for_a_second(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_at(door) as client:
        await door.accept()
        await client.wait_open()
        begun = trio.current_time()
        await client.reconnect()
        await drop(await door.accept())
        assert trio.current_time() == begun + 1
        await leave_unsent(client)


async def test_reconnect_ends_a_back_off(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Even one that the server asked for: the user knows better."""
    door = Door()
    nursery.start_soon(door.serve, answer(503, Retry_After="3600"), close(1012), stay)
    async with open_at(door, retry=Retry(initial=100, maximum=100)) as client:
        await trio.sleep(60)
        assert len(door.times) == 1
        await client.reconnect()
        await wait_until(lambda: isinstance(client.last_error, ClosedByPeer))
        assert len(door.times) == 2
        await client.reconnect()
        await client.wait_open()
        assert trio.current_time() < 62
        # Once, and not for the sessions that follow.
        assert len(door.times) == 3


async def test_reconnect_of_a_client_that_is_over_says_so(autojump_clock: MockClock) -> None:
    async with open_refused() as client:
        with pytest.raises(ValueError, match="1005"):
            await client.reconnect(1005)
        await client.aclose()
        with pytest.raises(ClosedLocally):
            await client.reconnect()


async def test_pong_comes_through_however_late_somebody_waits_for_it(
    autojump_clock: MockClock,
) -> None:
    """A stream that was full when the wait began makes room a little at a time."""
    async with open_raw(
        outbox=Outbox(confirm=True),
        limits=Limits(inbox_messages=2),
        heartbeat=Heartbeat(interval=1000, timeout=1000),
    ) as (client, peer):
        with client.messages(max_messages=4) as messages:
            await client.send("a")
            while (frame := await peer.receive_frame()).opcode == TEXT:
                pass
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def serve() -> None:
                    await say(peer, 30)
                    await peer.send_frame(PONG, frame.payload)

                await trio.sleep(10)
                nursery.start_soon(client.flush)
                for n in range(20):
                    assert await messages.receive() == str(n)
                    await trio.sleep(1)
            assert client.buffered_amount == 0
            await drop(peer)
        await leave_unsent(client)
