"""Faults that users write: what each verdict does, to whom, and for how long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.testing.scenario import chat
from trioweb.testing import (
    Chunk,
    Cut,
    Delay,
    Drop,
    Fault,
    Network,
    Plan,
    RuleFailed,
    Verdict,
    deterministic,
)


def always(verdict: Verdict) -> Callable[[Chunk], Verdict]:
    return lambda chunk: verdict


async def test_rule_sees_each_chunk_of_its_lines_and_lets_it_pass(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1)
    client, server = await network.connect("laptop", "server")
    other, _ = await network.connect("phone", "server")
    seen: list[Chunk] = []
    with network.intercept(seen.append, "laptop", "server"):
        await client.send_all(b"up")
        await other.send_all(b"not concerned")
        await trio.sleep(1)
        await server.send_all(b"down")
    await client.send_all(b"after")
    assert await client.receive_some() == b"down"
    assert await server.receive_some() == b"upafter"
    there = "laptop:49152 > server:49152"
    back = "server:49152 > laptop:49152"
    assert seen == [
        Chunk(4, "laptop", "server", there, b"up"),
        Chunk(5, "server", "laptop", back, b"down"),
    ]


async def test_rule_of_one_way_does_not_see_the_other(autojump_clock: MockClock) -> None:
    network = Network()
    client, server = await network.connect("laptop", "server")
    seen: list[Chunk] = []
    network.intercept(seen.append, "laptop", "server", one_way=True)
    await client.send_all(b"up")
    await server.send_all(b"down")
    assert [chunk.data for chunk in seen] == [b"up"]


async def test_delay_holds_what_comes_after_it_and_its_end_lets_others_through(
    autojump_clock: MockClock,
) -> None:
    network = Network(latency=1)
    client, server = await network.connect("laptop", "server")
    begun = trio.current_time()

    def slow(chunk: Chunk) -> Verdict:
        return Delay(10) if chunk.data == b"slow" else None

    network.intercept(slow, "laptop", duration=5)
    await client.send_all(b"fast")
    await client.send_all(b"slow")
    await client.send_all(b"and behind it")
    assert await server.receive_some() == b"fast"
    assert trio.current_time() == begun + 1
    assert await server.receive_some() == b"slowand behind it"
    assert trio.current_time() == begun + 11
    await client.send_all(b"slow")
    assert await server.receive_some() == b"slow"
    assert trio.current_time() == begun + 12


async def test_drop_swallows_the_rest_of_its_direction_and_tells_nobody(
    autojump_clock: MockClock,
) -> None:
    network = Network(max_bytes=10)
    client, server = await network.connect("laptop", "server")
    with network.intercept(always(Drop()), "laptop", "server", one_way=True):
        await client.send_all(b"lost")
    await client.send_all(b"too")
    await server.send_all(b"still here")
    assert await client.receive_some() == b"still here"
    with trio.move_on_after(1000) as scope:
        await client.send_all(b"as if nobody read")  # as the buffer fills up
    assert scope.cancelled_caught
    await client.aclose()
    with trio.move_on_after(1000) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    # Another connection on the same line is another matter.
    client, server = await network.connect("laptop", "server")
    await client.send_all(b"x")
    assert await server.receive_some() == b"x"


@pytest.mark.parametrize("latency", [0, 1])
async def test_cut_resets_both_ends_after_so_many_bytes(
    latency: float, autojump_clock: MockClock
) -> None:
    network = Network(latency=latency)
    client, server = await network.connect("laptop", "server")

    async def expect_reset() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_reset)
        await wait_all_tasks_blocked()
        network.intercept(always(Cut(after=3)), "laptop")
        await client.send_all(b"before")
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    assert await server.receive_some() == b"bef"
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()


async def test_first_rule_that_does_not_let_it_pass_decides(autojump_clock: MockClock) -> None:
    network = Network()
    client, server = await network.connect("laptop", "server")
    asked: list[str] = []

    def rule(name: str, verdict: Verdict) -> Callable[[Chunk], Verdict]:
        def judge(chunk: Chunk) -> Verdict:
            asked.append(name)
            return verdict

        return judge

    for name, verdict in [("a", None), ("b", Delay(3)), ("c", Drop())]:
        network.intercept(rule(name, verdict), "laptop")
    await client.send_all(b"x")
    assert await server.receive_some() == b"x"
    assert trio.current_time() == 3
    assert asked == ["a", "b"]


async def test_rule_can_stand_in_a_plan(autojump_clock: MockClock) -> None:
    network = Network()
    client, server = await network.connect("laptop", "server")
    rule = always(Delay(7))
    plan = Plan((Fault("intercept", ("laptop",), at=2, duration=1, rule=rule),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run, plan)
        await trio.sleep(2.5)
        await client.send_all(b"x")
    assert trio.current_time() == 3
    assert await server.receive_some() == b"x"
    assert trio.current_time() == 9.5


def test_rule_that_goes_by_contents_repeats_its_run_with_the_seed() -> None:
    def run(seed: int) -> str:
        network = Network(seed)

        def unlucky(chunk: Chunk) -> Verdict:
            # The handshake's key is not the seed's.
            is_head = chunk.data.startswith((b"GET", b"HTTP"))
            return Cut() if not is_head and hashlib.md5(chunk.data).digest()[0] < 60 else None

        for name in ("ann", "bob", "cas"):
            network.intercept(unlucky, network.host(name))
        with deterministic(seed):
            clock = MockClock(autojump_threshold=0)
            trio.run(chat, network, [], clock=clock)
        return str(network.trace)

    first = run(1)
    assert " cut " in first
    assert run(1) == first


async def test_drop_lets_the_first_bytes_through_and_then_nothing(
    autojump_clock: MockClock,
) -> None:
    network = Network()
    client, server = await network.connect("laptop", "server")
    with network.intercept(always(Drop(3)), "laptop", one_way=True):
        await client.send_all(b"abcdef")
    await client.send_all(b"after")
    await client.aclose()
    assert await server.receive_some() == b"abc"
    with trio.move_on_after(60) as scope:
        await server.receive_some()
    assert scope.cancelled_caught


@pytest.mark.parametrize("after", [-1, 1.0, True])
@pytest.mark.parametrize("verdict", [Drop, Cut])
def test_verdict_after_what_is_no_number_of_bytes_is_refused(
    verdict: type[Drop] | type[Cut], after: int
) -> None:
    with pytest.raises(ValueError, match=f"{verdict.__name__}: after must be a whole number"):
        verdict(after)


@pytest.mark.parametrize("verdict", [True, 3, "drop", Drop])
async def test_rule_must_return_a_verdict(verdict: object, autojump_clock: MockClock) -> None:
    network = Network()
    client, _ = await network.connect("laptop", "server")

    def misjudge(chunk: Chunk) -> Verdict:
        return verdict  # type: ignore[return-value]

    network.intercept(misjudge, "laptop")
    with pytest.raises(RuleFailed, match=r"misjudge must return None, Delay\(seconds\), .*, not"):
        await client.send_all(b"x")


@pytest.mark.parametrize("sender", ["laptop", "server"])
@pytest.mark.parametrize("largest", [0, 1000], ids=["handshake", "message"])
async def test_rule_that_fails_fails_the_test_whoever_sends(
    sender: str, largest: int, autojump_clock: MockClock
) -> None:
    """Neither the client's attempts nor the server's handlers take it for their network's."""
    network = Network()

    def rule(chunk: Chunk) -> Verdict:
        assert chunk.source != sender or len(chunk.data) <= largest
        return None

    async def echo(connection: trioweb.Connection) -> None:
        async for message in connection:
            await connection.send(message)

    network.intercept(rule, network.host("laptop"))
    with pytest.raises(BaseExceptionGroup) as raised, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listener = network.host("server").listen(80)
            await nursery.start(trioweb.serve_listeners, echo, [listener])
            dial = network.host("laptop").dial
            async with trioweb.open_client("ws://server/", dial=dial) as client:
                await client.send("x" * 1000)
                await client.receive()
    failures, others = raised.value.split(RuleFailed)
    assert others is None
    assert failures is not None
    failure = leaf(failures)
    assert "rule raised AssertionError(" in str(failure)
    assert isinstance(failure.__cause__, AssertionError)


def leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delay(-1), "Delay: seconds .* not -1"),
        (lambda: Delay(float("inf")), r"Drop\(\) is for what never arrives"),
        (lambda: Cut(-1), "Cut: after .* not -1"),
        (lambda: Cut(1.5), "Cut: after .* not 1.5"),  # type: ignore[arg-type]
    ],
)
def test_verdict_refuses_what_makes_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rule_must_be_a_function() -> None:
    network = Network()
    network.host("laptop")
    with pytest.raises(TypeError, match="rule must be a function of a Chunk, not None"):
        network.intercept(None, "laptop")  # type: ignore[arg-type]
