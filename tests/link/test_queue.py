"""The send queue by itself, over a wire and without a WebSocket: any wire can have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio
import trio.testing

from trioweb._link._queue import SendQueue
from trioweb._link._state import BROKEN, DRAINING, IDLE, SHUT, QueueState
from trioweb._wire._choice import wire_to
from trioweb.testing import MemoryStream, stream_pair

SEND_BYTES = 1000


class Owner:
    """Notes what it is told."""

    id = "its owner"

    def __init__(self) -> None:
        self.told: list[str] = []

    def heard(self) -> None:
        self.told.append("heard")

    def on_broken(self) -> None:
        self.told.append("broken")

    def on_stalled(self) -> None:
        self.told.append("stalled")


class End:
    """A queue, and the far side of its wire."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.stream: MemoryStream
        self.far: MemoryStream
        self.stream, self.far = stream_pair(100)
        self.owner = Owner()
        self.calls: list[str] = []
        self.queue = SendQueue(
            wire_to(self.stream, None, 20),
            owner=self.owner,
            spawn=nursery.start_soon,
            send_bytes=SEND_BYTES,
        )
        self.queue.set_hooks(
            self,
            closed=lambda: self.calls.append("closed"),
            drained=lambda: self.calls.append("drained"),
        )

    async def read(self) -> bytes:
        """All that comes until nothing more does."""
        got = b""
        while True:
            with trio.move_on_after(1) as scope:
                got += await self.far.receive_some()
            if scope.cancelled_caught:
                return got


@pytest.fixture
def end(nursery: trio.Nursery) -> End:
    return End(nursery)


Step: TypeAlias = Callable[[SendQueue], object]

_STEPS: dict[str, Step] = {
    "put": lambda queue: queue.put(bytes(500)),
    "answer": lambda queue: queue.answer("?", bytes(500)),
    "write": lambda queue: queue.write(bytes(500)),
    "shut": lambda queue: queue.shut(),
    "break off": lambda queue: queue.break_off("gone"),
    "stand in line": lambda queue: queue.stand_in_line("somebody"),
}
_NEXT: dict[QueueState, dict[str, QueueState]] = {
    IDLE: {"put": DRAINING, "answer": DRAINING, "write": DRAINING, "shut": SHUT},
    DRAINING: {"shut": SHUT},
    SHUT: {},
    BROKEN: {},
}
_TO: dict[QueueState, list[str]] = {
    IDLE: [],
    DRAINING: ["put"],
    SHUT: ["put", "shut"],
    BROKEN: ["put", "break off"],
}


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("state", _TO, ids=lambda state: state.name)
async def test_each_step_leads_from_each_state_where_the_picture_says(
    state: QueueState, step: str, end: End
) -> None:
    queue = end.queue
    for before in _TO[state]:
        _STEPS[before](queue)
    assert queue.state is state
    had = queue.buffered_amount
    _STEPS[step](queue)
    assert queue.state is (BROKEN if step == "break off" else _NEXT[state].get(step, state))
    takes = queue.is_open and step in ("put", "answer", "write")
    assert queue.buffered_amount == (0 if queue.state is BROKEN else had + 500 * takes)
    assert queue.is_free is queue.is_open
    assert queue.writable is (queue.is_open and step != "stand in line")


async def test_queue_that_is_full_has_no_room_until_all_of_it_is_written(
    end: End, autojump_clock: trio.testing.MockClock
) -> None:
    queue = end.queue
    queue.put(bytes(SEND_BYTES))
    assert (queue.writable, queue.state) == (True, DRAINING)
    queue.put(b".")
    assert (queue.writable, queue.state) == (False, DRAINING)
    got = await end.far.receive_some()
    await trio.testing.wait_all_tasks_blocked()
    assert (queue.writable, queue.state, end.calls) == (False, DRAINING, [])
    got += await end.read()
    assert got == bytes(SEND_BYTES) + b"."
    assert (queue.writable, queue.state, end.calls) == (True, IDLE, ["drained"])
    assert queue.buffered_amount == 0


async def test_what_was_put_before_it_was_shut_is_written_and_nothing_else(
    end: End, autojump_clock: trio.testing.MockClock
) -> None:
    queue = end.queue
    queue.put(bytes(300))
    queue.shut()
    queue.shut()
    queue.put(b"late")
    queue.answer("?", b"late")
    assert await end.read() == bytes(300)
    await queue.wait_flushed()
    assert queue.state is SHUT
    assert end.calls == ["closed"]
    assert not queue.takes_message


async def test_breaking_off_loses_what_was_queued_and_tells_the_owner_once(
    end: End, autojump_clock: trio.testing.MockClock
) -> None:
    queue = end.queue
    queue.put(bytes(300))
    queue.break_off("first")
    queue.break_off("second")
    queue.shut()
    assert (queue.state, queue.broken, queue.buffered_amount) == (BROKEN, "first", 0)
    assert end.owner.told == ["broken"]
    assert len(await end.read()) <= 300
    await queue.wait_flushed()
    # What was under way when it broke off is not counted twice.
    assert queue.buffered_amount == 0
    assert end.calls == ["closed"]


async def test_peer_that_takes_nothing_stalls_it_and_is_no_sign_of_life(
    end: End, autojump_clock: trio.testing.MockClock
) -> None:
    end.queue.put(bytes(300))
    await end.queue.wait_flushed()
    assert end.queue.broken == "write timeout"
    assert end.owner.told == ["broken", "stalled"]


async def test_queue_without_an_owner_ends_in_silence(end: End) -> None:
    end.queue.put(bytes(300))
    end.queue.disown()
    await end.stream.aclose()
    await end.queue.wait_flushed()
    assert end.queue.state is BROKEN
    assert end.owner.told == []


async def test_senders_write_in_turn_and_are_told_of_the_end(
    end: End, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    written: list[tuple[int, bool]] = []

    async def send(number: int) -> None:
        written.append((number, await end.queue.wait_turn(bytes([number]) * 2000)))

    end.queue.put(bytes(2000))
    for number in range(3):
        nursery.start_soon(send, number)
        await trio.testing.wait_all_tasks_blocked()
    assert not end.queue.takes_message
    got = b""
    while len(got) < 5000:
        got += await end.far.receive_some()
    await trio.testing.wait_all_tasks_blocked()
    assert written == [(0, True), (1, True)]
    end.queue.shut()
    await trio.testing.wait_all_tasks_blocked()
    assert written == [(0, True), (1, True), (2, False)]
    assert end.queue.messages_sent == 2
    assert got + await end.read() == bytes(2000) + bytes(2000) + b"\x01" * 2000
