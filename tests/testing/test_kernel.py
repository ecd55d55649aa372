"""The network beside the kernel: random operations on both, and everything that can be seen.

What a connection in memory does is an opinion until it is compared with a real one.  Each example
is a list of operations on the two ends of a connection; it runs over loopback sockets, on the
network's own streams, and on Trio's streams over the network's sockets, and all three must show
the same.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, Literal, NamedTuple, TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trioweb.testing import Network

# More than the kernel and the network keep for somebody who does not read.
_MUCH: Final = 16 * 2**20
# Of seconds: what has not come by then does not come.  The loopback takes microseconds.
_PATIENCE: Final = 0.05
_PATTERN: Final = bytes(range(251)) * (_MUCH // 251 + 2)

What: TypeAlias = Literal[
    "send", "receive", "receive 3", "send_eof", "aclose", "begin to receive", "begin to send much"
]
Pair: TypeAlias = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]


class Step(NamedTuple):
    """What one end does, 0 or 1."""

    end: int
    what: What


class Player:
    """Carries out steps on a pair, and keeps a record of what can be seen of them."""

    def __init__(self, pair: Pair, nursery: trio.Nursery) -> None:
        # What was seen in each step: in which order tasks run is not about TCP either.
        self.record: list[set[str]] = []
        self._pair = pair
        self._nursery = nursery
        self._sent = [0, 0]
        self._received = [0, 0]
        self._much = [False, False]
        self._under_way: set[tuple[int, str]] = set()

    async def play(self, step: Step) -> None:
        end, what = step
        direction = "receive" if "receive" in what else "send"
        self.record.append(set())
        # A second task that does the same is not about TCP.
        if (end, direction) in self._under_way and what != "aclose":
            return
        match what:
            case "begin to receive":
                self._nursery.start_soon(self._begin, end, direction, self._receive_to_the_end)
            case "begin to send much":
                self._much[end] = True
                self._nursery.start_soon(self._begin, end, direction, self._send_much)
            case "receive":
                self._note(end, what, await self._receive_to_the_end(end, _PATIENCE))
            case _:
                self._note(end, what, await self._outcome(end, what))
        await trio.testing.wait_all_tasks_blocked(_PATIENCE / 10)
        for each in (0, 1):
            # Two tasks hear of a reset, and which of them is told of it first is Trio's luck.
            if f"{each} send in a task: BrokenResourceError" in self.record[-1]:
                self.record[-1] = {
                    re.sub(rf"^({each} receive in a task: .*), .*", r"\1, over", note)
                    for note in self.record[-1]
                }

    async def _begin(self, end: int, direction: str, do: Callable[[int], object]) -> None:
        self._under_way.add((end, direction))
        outcome = await do(end)  # type: ignore[misc]
        self._under_way.discard((end, direction))
        self._note(end, f"{direction} in a task", str(outcome))

    def _note(self, end: int, what: str, outcome: str) -> None:
        self.record[-1].add(f"{end} {what}: {outcome}")

    async def _outcome(self, end: int, what: What) -> str:
        stream = self._pair[end]
        with trio.move_on_after(_PATIENCE):
            try:
                match what:
                    case "send":
                        await self._send(end, 10)
                    case "receive 3":
                        self._took(end, await stream.receive_some(3))
                        return self._how_far(end)
                    case "send_eof":
                        await stream.send_eof()
                    case "aclose":
                        await stream.aclose()
                return "done"
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                return type(exc).__name__
        return "waits"

    async def _send(self, end: int, size: int) -> None:
        begin = self._sent[end] % 251
        await self._pair[end].send_all(_PATTERN[begin : begin + size])
        self._sent[end] += size

    async def _send_much(self, end: int) -> str:
        try:
            await self._send(end, _MUCH)
            return "done"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            return type(exc).__name__

    async def _receive_to_the_end(self, end: int, patience: float = float("inf")) -> str:
        how = "waits"
        while True:
            data = None
            with trio.move_on_after(patience):
                try:
                    data = await self._pair[end].receive_some(2**16)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    how = type(exc).__name__
                    break
            if data is None and (1 - end, "send") in self._under_way:
                # The kernel may take a fifth of a second to send on once there is room.
                continue
            if not data:
                how = how if data is None else "end"
                break
            self._took(end, data)
        return f"{self._how_far(end)}, {how}"

    def _took(self, end: int, data: bytes | bytearray) -> None:
        begin = self._received[end] % 251
        assert data == _PATTERN[begin : begin + len(data)], "not what was sent, or not in order"
        self._received[end] += len(data)

    def _how_far(self, end: int) -> str:
        # How much of much there is when something ends depends on the size of buffers.
        return "many" if self._much[1 - end] else str(self._received[end])


Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Pair]]


@asynccontextmanager
async def open_on_the_kernel() -> AsyncGenerator[Pair]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname())
        theirs = await listener.accept()
    async with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def open_on_the_network() -> AsyncGenerator[Pair]:
    ours, theirs = await Network().connect("laptop", "server")
    async with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def open_on_simulated_sockets() -> AsyncGenerator[Pair]:
    network = Network()
    async with AsyncExitStack() as stack:
        with network.host("server").installed():
            [listener] = await trio.open_tcp_listeners(80)
        await stack.enter_async_context(listener)
        with network.host("laptop").installed():
            ours = await stack.enter_async_context(await trio.open_tcp_stream("server", 80))
        yield ours, await stack.enter_async_context(await listener.accept())


def record_of(open_pair: Open, steps: list[Step], clock: trio.abc.Clock | None) -> list[set[str]]:
    async def main() -> list[set[str]]:
        async with open_pair() as pair, trio.open_nursery() as nursery:
            player = Player(pair, nursery)
            for step in steps:
                await player.play(step)
            nursery.cancel_scope.cancel()
        return player.record

    return trio.run(main, clock=clock)


def virtual() -> trio.abc.Clock:
    return trio.testing.MockClock(autojump_threshold=0)


_STEPS: Final = st.lists(
    st.builds(
        Step,
        st.integers(0, 1),
        st.sampled_from(
            ["send", "receive", "receive 3", "send_eof", "aclose"] * 2
            + ["begin to receive", "begin to send much"]
        ),
    ),
    max_size=9,
)


@pytest.mark.network
@settings(max_examples=30, deadline=None)
@given(_STEPS)
# The first send after the peer's close is taken and lost; only the second one fails.
@example([Step(1, "aclose"), Step(0, "send"), Step(0, "send"), Step(0, "receive")])
# A close with bytes unread resets; what had arrived before is read, and then the error, once.
@example(
    [
        Step(0, "send"),
        Step(1, "send"),
        Step(1, "aclose"),
        *[Step(0, "receive")] * 2,
        Step(0, "send"),
    ]
)
# Who has the error from sending has only the end from receiving.
@example([Step(0, "send"), Step(1, "aclose"), Step(0, "send"), Step(0, "receive")])
@example([Step(0, "begin to send much"), Step(1, "receive 3"), Step(1, "aclose")])
@example([Step(0, "begin to send much"), Step(0, "aclose"), Step(1, "receive")])
def test_network_shows_what_the_kernel_shows(steps: list[Step]) -> None:
    expected = record_of(open_on_the_kernel, steps, None)
    assert record_of(open_on_the_network, steps, virtual()) == expected
    assert record_of(open_on_simulated_sockets, steps, virtual()) == expected


async def what_the_unaccepted_see(client: trio.abc.Stream, listener: trio.abc.AsyncResource) -> str:
    """What a client sees whose listener closes before it has accepted."""
    seen = []
    await client.send_all(b"hello")
    await listener.aclose()
    for _ in range(2):
        try:
            seen.append(str(await client.receive_some()))
        except trio.BrokenResourceError:
            seen.append("broken")
    await client.aclose()
    return ", ".join(seen)


@pytest.mark.network
async def test_network_lets_a_listener_that_closes_reset_as_the_kernel_does() -> None:
    [kernel] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream(*kernel.socket.getsockname())
    expected = await what_the_unaccepted_see(client, kernel)
    network = Network()
    listener = network.host("server").listen(80)
    simulated = await network.host("laptop").dial("server", 80)
    assert await what_the_unaccepted_see(simulated, listener) == expected == "broken, b''"
