"""What is received: independent streams, events in their place, bounds, and the end."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.client.support import (
    ONCE,
    TEXT,
    Door,
    Serve,
    answer,
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
    ConnectionLost,
    GaveUp,
    Lagged,
    Limits,
    Lost,
    Messages,
    Opened,
    Retry,
    State,
    Waiting,
)
from trioweb._client._streams import Stream
from trioweb.testing import RawPeer, wait_until


async def say(peer: RawPeer, *texts: object) -> None:
    for text in texts:
        await peer.send_frame(TEXT, str(text).encode())
    await wait_all_tasks_blocked()


async def take(messages: Messages[Any], count: int) -> list[Any]:
    with trio.fail_after(60):
        return [await messages.receive() for _ in range(count)]


def brief(items: list[Any]) -> list[Any]:
    """With events as their kind and session."""
    return [item if isinstance(item, str) else (type(item), item.session) for item in items]


async def take_brief(messages: Messages[Any], count: int) -> list[Any]:
    """The next *count* items, without what was waited for in between."""
    found: list[Any] = []
    while len(found) < count:
        [item] = await take(messages, 1)
        if not isinstance(item, Waiting):
            found.append(item)
    return brief(found)


async def rest(messages: Messages[Any]) -> list[Any]:
    return [item async for item in messages if not isinstance(item, Waiting)]


async def test_every_stream_gets_every_message(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        with client.messages() as one, client.messages() as two:
            await say(peer, "a", "b")
            assert await take(one, 2) == ["a", "b"]
            await say(peer, "c")
            assert await take(two, 3) == ["a", "b", "c"]
            assert await take(one, 1) == ["c"]
        assert client.statistics().received == 3
        assert client.statistics().discarded == 0
        await drop(peer)
        await client.aclose()


async def test_messages_keep_their_types(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        await say(peer, "text")
        await peer.send_frame(2, b"bytes")
        assert [await client.receive(), await client.receive()] == ["text", b"bytes"]
        await drop(peer)


async def test_receive_and_iterating_share_one_stream(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        await say(peer, *range(6))
        assert await client.receive() == "0"
        async for message in client:
            assert message == "1"
            break
        with client.messages() as other:
            assert await client.receive() == "2"
            await say(peer, "new")
            assert await other.receive() == "new"
        await drop(peer)


async def test_messages_wait_for_the_first_stream(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        await say(peer, "a", "b")
        with client.messages() as first, client.messages() as second:
            await say(peer, "c")
            assert await take(first, 3) == ["a", "b", "c"]
            assert await take(second, 1) == ["c"]
        await drop(peer)


async def test_messages_without_any_stream_left_are_discarded_and_counted(
    autojump_clock: MockClock,
) -> None:
    """Invariant 4."""
    async with open_raw() as (client, peer):
        with client.messages():
            pass
        await say(peer, "lost")
        with client.messages() as messages:
            await say(peer, "found")
            assert await messages.receive() == "found"
        assert client.statistics().discarded == 1
        assert client.statistics().received == 2
        await drop(peer)


async def test_client_that_only_sends_counts_and_discards(autojump_clock: MockClock) -> None:
    async with open_raw(receive=False, limits=Limits(inbox_messages=2)) as (client, peer):
        await say(peer, *range(1000))
        assert client.statistics().received == client.statistics().discarded == 1000
        for operation in (client.messages, client.receive, client.__aiter__):
            with pytest.raises(ValueError, match="receive=False"):
                operation()
        await drop(peer)


# Bounds.


async def test_stream_that_waits_holds_up_reading_and_the_others(
    autojump_clock: MockClock,
) -> None:
    """Invariant 8."""
    async with open_raw(limits=Limits(inbox_messages=4)) as (client, peer):
        with client.messages(max_messages=4) as slow, client.messages() as fast:
            await say(peer, *range(100))
            assert await take(fast, 4) == ["0", "1", "2", "3"]
            with trio.move_on_after(1) as scope:
                await fast.receive()
            assert scope.cancelled_caught
            assert client.statistics().received == 4
            assert await take(slow, 100) == [str(n) for n in range(100)]
            assert await take(fast, 96) == [str(n) for n in range(4, 100)]
            assert slow.dropped == fast.dropped == 0
        await drop(peer)


async def test_leaving_a_stream_frees_the_others(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        with client.messages() as fast:
            with client.messages(max_messages=1):
                await say(peer, "a", "b", "c")
                assert await take(fast, 1) == ["a"]
                await wait_all_tasks_blocked()
                assert client.statistics().received == 1
            assert await take(fast, 2) == ["b", "c"]
        await drop(peer)


async def test_stream_that_drops_loses_the_oldest_and_counts(autojump_clock: MockClock) -> None:
    """Invariant 4."""
    async with open_raw() as (client, peer):
        with client.messages(max_messages=3, full="drop") as messages, client.messages() as whole:
            await say(peer, *range(10))
            assert messages.dropped == 7
            assert await take(messages, 3) == ["7", "8", "9"]
            assert await take(whole, 10) == [str(n) for n in range(10)]
        await drop(peer)


async def test_stream_that_raises_says_how_many_it_lost_and_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with open_raw() as (client, peer):
        with client.messages(max_messages=3, full="raise") as messages:
            await say(peer, *range(5))
            with pytest.raises(Lagged) as caught:
                await messages.receive()
            assert caught.value.skipped == 2
            assert await take(messages, 3) == ["2", "3", "4"]
            await say(peer, *range(3))
            assert await take(messages, 3) == ["0", "1", "2"]
            assert messages.dropped == 2
        await drop(peer)


async def test_first_stream_holds_what_it_takes_over_to_its_own_bound(
    autojump_clock: MockClock,
) -> None:
    async with open_raw() as (client, peer):
        await say(peer, *range(10))
        with client.messages(max_messages=2, full="drop") as messages:
            assert messages.dropped == 8
            assert await take(messages, 2) == ["8", "9"]
        await drop(peer)


async def test_client_that_nobody_reads_holds_bounded_memory(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 8: not even over many sessions; and nothing is lost (invariant 11)."""
    sessions = 0

    async def flood(stream: trio.abc.Stream) -> None:
        nonlocal sessions
        first = 100 * sessions
        sessions += 1
        await close(1000, *map(str, range(first, first + 100)))(stream)

    door = Door()
    nursery.start_soon(door.serve, flood)
    async with open_at(door, retry=Retry(maximum=0.5)) as client:
        await trio.sleep(3600)
        held_up_after = sessions
        assert 4 <= held_up_after <= 20
        assert caplog.text.count("not connecting until what has arrived is received") == 1
        messages = await take(client.messages(), 100 * held_up_after)
        assert messages == [str(n) for n in range(100 * held_up_after)]
        await wait_until(lambda: sessions > held_up_after)
        with trio.move_on_after(0):
            await client.aclose()


async def test_sessions_without_messages_leave_nothing_for_a_stream_that_nobody_claims(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    turns: list[Serve] = [*[close(1000)] * 5, close(1000, "a"), stay]
    nursery.start_soon(door.serve, *turns)
    async with open_at(door, retry=Retry(maximum=0.5)) as client:
        await wait_until(lambda: client.statistics().sessions == 7)
        with client.messages(events=True) as messages:
            items = await take_brief(messages, 4)
        assert items == [(Opened, 6), "a", (Lost, 6), (Opened, 7)]


# Events.


async def test_events_stand_in_their_place(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    nursery.start_soon(
        door.serve, answer(503), close(1012, "a", "b"), answer(503), close(4500, "c")
    )
    with pytest.raises(GaveUp):
        async with open_at(door) as client:
            with client.messages(events=True) as events, client.messages() as plain:
                found: list[Any] = []
                with pytest.raises(GaveUp):
                    async for item in events:
                        found.append(item)
                assert [await plain.receive() for _ in range(3)] == ["a", "b", "c"]
                raise await _error(plain)
    kinds = [item if isinstance(item, str) else type(item) for item in found]
    first = [Waiting, Opened, "a", "b", Lost]
    assert kinds == [*first, Waiting, Waiting, Opened, "c", Lost]
    assert [item.session for item in found if isinstance(item, Opened | Lost)] == [1, 1, 2, 2]
    errors = [item.error for item in found if isinstance(item, Lost)]
    assert [error.code for error in errors if isinstance(error, ClosedByPeer)] == [1012, 4500]


async def _error(messages: Messages[Any]) -> Exception:
    try:
        await messages.receive()
    except Exception as exc:
        return exc
    raise AssertionError("received something")


async def test_waiting_stands_between_two_attempts_and_says_why_and_how_long(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """So that nobody needs `Retry.worth` to see what goes on."""
    door = Door()
    nursery.start_soon(door.serve, answer(503), answer(502), close(1012), stay)
    async with open_at(door, retry=Retry(initial=2)) as client:
        with client.messages(events=True) as messages:
            found: list[Any] = []
            for attempt in (1, 2, 3):
                item = await messages.receive()
                if attempt == 3:
                    assert isinstance(item, Opened)
                    assert isinstance(await messages.receive(), Lost)
                    item = await messages.receive()
                assert isinstance(item, Waiting)
                assert item.attempt == attempt
                assert item.error is client.last_error
                found.append(item.error)
                assert client.statistics().attempts == attempt
                # Each attempt is over at once here.
                await trio.sleep_until(door.times[attempt - 1] + item.seconds + 0.001)
                assert door.times[attempt] == pytest.approx(trio.current_time() - 0.001)
    assert [getattr(error, "status", getattr(error, "code", 0)) for error in found] == [
        *(503, 502, 1012)
    ]


async def test_waiting_that_nobody_receives_does_not_add_up(autojump_clock: MockClock) -> None:
    """Invariant 8: attempts may fail for days."""
    async with open_refused() as client:
        with client.messages(events=True, max_messages=4) as messages:
            await trio.sleep(86_400)
            [item] = await take(messages, 1)
            assert item.attempt == client.statistics().attempts > 1000
            assert messages._stream.room == 4


async def test_stream_opened_in_a_session_begins_with_it(autojump_clock: MockClock) -> None:
    async with open_raw(subprotocols=["chat"]) as (client, peer):
        with client.messages() as first:
            await say(peer, "a")
            with client.messages(events=True) as second:
                await say(peer, "b")
                assert await take(second, 2) == [Opened(1, None), "b"]
                await drop(peer)
                lost = await second.receive()
                assert isinstance(lost, Lost) and isinstance(lost.error, ConnectionLost)
                assert isinstance(await second.receive(), Waiting)
                with client.messages(events=True) as between:
                    with trio.move_on_after(5) as scope:
                        await between.receive()
                    assert scope.cancelled_caught
            assert await take(first, 2) == ["a", "b"]
        with trio.move_on_after(0):
            await client.aclose()


async def test_events_do_not_add_up_for_a_stream_that_nobody_reads(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    nursery.start_soon(door.serve, close(1000))
    async with open_at(door, retry=Retry(maximum=0.5)) as client:
        with client.messages(events=True, max_messages=4) as messages:
            await trio.sleep(600)
            assert -messages._stream.room <= 20
            # Read, and it goes on.
            before = client.statistics().sessions
            await take(messages, 20)
            await wait_until(lambda: client.statistics().sessions > before)
        with trio.move_on_after(0):
            await client.aclose()


@pytest.mark.parametrize("full", ["drop", "raise"])
async def test_dropped_messages_take_no_events_with_them(
    nursery: trio.Nursery, autojump_clock: MockClock, full: Literal["drop", "raise"]
) -> None:
    """Invariant 4: and events are not counted as messages."""
    door = Door()
    turns: list[Serve] = [
        close(1000, *(f"{session}{n}" for n in range(4))) for session in (1, 2, 3)
    ]
    turns.append(stay)
    nursery.start_soon(door.serve, *turns)
    async with open_at(door) as client:
        with client.messages(events=True, max_messages=6, full=full) as messages:
            assert await take_brief(messages, 2) == [(Opened, 1), "10"]
            await wait_until(lambda: client.statistics().sessions == 4)
            assert messages.dropped == 5
            if full == "raise":
                with pytest.raises(Lagged) as caught:
                    await messages.receive()
                assert caught.value.skipped == 5
            assert (await take_brief(messages, 11)) == [
                *((Lost, 1), (Opened, 2), "22", "23", (Lost, 2)),
                *((Opened, 3), "30", "31", "32", "33", (Lost, 3)),
            ]
            assert (await take_brief(messages, 1)) == [(Opened, 4)]


async def test_session_that_was_dropped_as_a_whole_leaves_no_events(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    turns: list[Serve] = [close(1000, f"{session}0", f"{session}1") for session in range(1, 6)]
    turns.append(stay)
    nursery.start_soon(door.serve, *turns)
    async with open_at(door) as client:
        with (
            client.messages(events=True, max_messages=2, full="drop") as fresh,
            client.messages(events=True, max_messages=2, full="drop") as begun,
        ):
            assert (await take_brief(begun, 2)) == [(Opened, 1), "10"]
            await wait_until(lambda: client.statistics().sessions == 6)
            whole = [(Opened, 5), "50", "51", (Lost, 5), (Opened, 6)]
            assert (await take_brief(begun, 6)) == [(Lost, 1), *whole]
            assert (await take_brief(fresh, 5)) == whole
            assert (fresh.dropped, begun.dropped) == (8, 7)


async def test_messages_up_to_the_bound_have_room_beside_events(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        await say(peer, *range(3))
        with client.messages(events=True, max_messages=3, full="raise") as messages:
            assert (await take_brief(messages, 4)) == [(Opened, 1), "0", "1", "2"]
            await say(peer, *range(3))
            assert await take(messages, 3) == ["0", "1", "2"]
            await say(peer, *range(4))
            assert messages.dropped == 1
        await drop(peer)


@pytest.mark.parametrize("messages_before", [(), ("a", "b", "c")])
async def test_events_do_not_add_up_for_a_stream_that_drops(
    nursery: trio.Nursery, autojump_clock: MockClock, messages_before: tuple[str, ...]
) -> None:
    """Invariant 8."""
    door = Door()
    turns: list[Serve] = [close(1000, *messages_before), *[close(1000)] * 50, close(1000, "z")]
    turns.append(stay)
    nursery.start_soon(door.serve, *turns)
    async with open_at(door, retry=Retry(maximum=0.5)) as client:
        with client.messages(events=True, max_messages=4, full="drop") as messages:
            await wait_until(lambda: client.statistics().sessions == 53, within=600)
            assert -messages._stream.room <= 12
            found = await take(messages, 4 - messages._stream.room)
            items = brief([item for item in found if not isinstance(item, Waiting)])
            assert items[: len(messages_before) + 1] == [(Opened, 1), *messages_before]
            assert items[-4:] == [(Opened, 52), "z", (Lost, 52), (Opened, 53)]


# The end.


async def test_iterating_ends_when_the_client_is_closed(autojump_clock: MockClock) -> None:
    """Invariant 11: and only after what had arrived."""
    async with open_raw(limits=Limits(inbox_messages=100)) as (client, peer):
        with client.messages(max_messages=2) as messages, client.messages(events=True) as events:
            await say(peer, *range(50))
            assert client.statistics().received == 2
            await drop(peer)
            await client.aclose()
            assert await rest(messages) == [str(n) for n in range(50)]
            found = await rest(events)
            assert found[0] == Opened(1, None) and isinstance(found[-1], Lost)
            assert found[1:-1] == [str(n) for n in range(50)]
            for _ in range(2):
                with pytest.raises(ClosedLocally, match="the client was closed"):
                    await messages.receive()
                assert await rest(messages) == []


async def test_leaving_by_aclose_tells_streams_that_this_side_closed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    door = Door()
    nursery.start_soon(door.serve, stay)
    async with open_at(door) as client:
        with client.messages(events=True) as events:
            await client.wait_open()
            await client.aclose()
            opened, lost = await rest(events)
    assert opened == Opened(1, None)
    assert isinstance(lost.error, ClosedLocally) and lost.error.code == 1000


async def test_gave_up_comes_only_after_what_arrived(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 11."""
    door = Door()
    nursery.start_soon(door.serve, close(4500, *map(str, range(300))))
    async with open_at(door) as client:
        await wait_until(lambda: client.state is State.CLOSED)
        with client.messages() as messages:
            assert await take(messages, 300) == [str(n) for n in range(300)]
            for _ in range(2):
                with pytest.raises(GaveUp):
                    await messages.receive()
            with pytest.raises(GaveUp):
                await messages.__anext__()
        # A stream of a client that is over has nothing more to give.
        with client.messages() as messages, pytest.raises(GaveUp):
            await messages.receive()


async def test_waiting_receivers_are_woken_by_the_end(autojump_clock: MockClock) -> None:
    async with open_refused(retry=ONCE) as client:
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(GaveUp):
                    await client.receive()

            for _ in range(3):
                nursery.start_soon(receive)


async def test_each_message_goes_to_one_of_several_receivers(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        found: list[Any] = []

        async def receive() -> None:
            found.append(await client.receive())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await say(peer, "a")
            await say(peer, "b", "c")
        assert sorted(found) == ["a", "b", "c"]
        await drop(peer)


async def test_stream_that_was_left_has_ended(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        with client.messages() as messages:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def iterate() -> None:
                    assert await rest(messages) == []

                await wait_all_tasks_blocked()
                messages.__exit__(None, None, None)
            with pytest.raises(trio.ClosedResourceError, match="this stream was left"):
                await messages.receive()
        await drop(peer)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_messages": 0}, ValueError, r"max_messages=0\).*greater than 0"),
        ({"max_messages": 1.5}, TypeError, r"max_messages=1\.5\).*whole"),
        ({"full": "block"}, ValueError, r"full='block'\): must be 'wait', 'raise' or 'drop'"),
    ],
)
async def test_bad_arguments_of_a_stream_are_named(
    autojump_clock: MockClock, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with open_refused() as client:
        with pytest.raises(error, match=text):
            client.messages(**options)


async def test_receive_many_leaves_the_bound_as_it_was(autojump_clock: MockClock) -> None:
    """Events that were taken have no part in it."""
    async with open_raw() as (client, peer):
        with client.messages(events=True, max_messages=2, full="drop") as messages:
            assert await messages.receive_many() == [Opened(1, None)]
            for text in "abcd":
                await peer.send_frame(TEXT, text.encode())
            await wait_all_tasks_blocked()
            assert await messages.receive_many() == ["c", "d"]
        await leave_unsent(client)


async def test_receive_that_was_cancelled_has_told_of_no_loss(autojump_clock: MockClock) -> None:
    async with open_raw() as (client, peer):
        with client.messages(max_messages=2, full="raise") as messages:
            for text in "abcd":
                await peer.send_frame(TEXT, text.encode())
            await wait_all_tasks_blocked()
            for receive in (messages.receive, messages.receive_many):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await receive()
                assert scope.cancelled_caught
            with pytest.raises(Lagged) as caught:
                await messages.receive()
            assert caught.value.skipped == 2
        await leave_unsent(client)


def test_stream_that_stops_waiting_is_within_its_bound_at_once() -> None:
    stream = Stream(events=False, max_messages=2, full="wait", name="one")
    stream.put("abcde")
    stream.stop_waiting()
    assert (list(stream.items), stream.dropped, stream.lagged) == (["d", "e"], 3, 3)
