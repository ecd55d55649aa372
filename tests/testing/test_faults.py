"""Each fault, on connections that exist and on those to come, for a time and until healed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trioweb.testing import (
    ActiveFault,
    Conditions,
    Delay,
    Fault,
    Network,
    NetworkStream,
    Plan,
    deterministic,
    wait_until,
)


async def make(**conditions: float) -> tuple[Network, NetworkStream, NetworkStream]:
    network = Network(**conditions)  # type: ignore[arg-type]
    client, server = await network.connect("laptop", "server")
    return network, client, server


async def expect_silence(stream: NetworkStream, seconds: float = 10**6) -> None:
    with trio.move_on_after(seconds) as scope:
        pytest.fail(f"received {await stream.receive_some()!r}")
    assert scope.cancelled_caught


async def expect_at(moment: float, stream: NetworkStream, expected: bytes) -> None:
    assert await stream.receive_some() == expected
    assert trio.current_time() == pytest.approx(moment)


async def expect_reset(stream: NetworkStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


# Partitions


async def test_partition_holds_what_is_sent_both_ways_until_it_ends(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make(latency=0.1)
    network.partition("laptop", "server", duration=45)
    await client.send_all(b"up")
    await server.send_all(b"down")
    await expect_at(45.3, client, b"down")
    await expect_at(45.3, server, b"up")


async def test_partition_does_not_hold_what_had_arrived(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    await client.send_all(b"before")
    with network.partition("laptop", "server"):
        await client.send_all(b"meanwhile")
        assert await server.receive_some() == b"before"
        await expect_silence(server)
    assert await server.receive_some() == b"meanwhile"


async def test_partition_wakes_a_waiting_reader_when_it_is_healed(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    fault = network.partition("laptop", "server")
    await client.send_all(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_at, 7, server, b"x")
        await trio.sleep(7)
        fault.heal()
        fault.heal()


async def test_partition_one_way_lets_the_other_way_through_but_no_acknowledgements(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    with network.partition("laptop", "server", one_way=True):
        await client.send_all(b"held")
        await expect_silence(server)
        # The kernel takes one buffer from the server; that it was read, it does not hear.
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.send_all, bytes(100_000))
                while True:
                    assert await client.receive_some()
        assert scope.cancelled_caught
        assert server._unacked == network.max_bytes
    await server.wait_send_all_might_not_block()
    assert await server.receive_some() == b"held"


async def test_partition_isolates_a_host_from_everybody_but_itself(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    self_client, self_server = await network.connect("server", "server")
    other, other_peer = await network.connect("phone", "laptop")
    network.partition("server")
    await self_client.send_all(b"inside")
    assert await self_server.receive_some() == b"inside"
    await client.send_all(b"outside")
    await expect_silence(server)
    await other.send_all(b"elsewhere")
    assert await other_peer.receive_some() == b"elsewhere"


async def test_partition_makes_dialling_wait(autojump_clock: MockClock) -> None:
    network = Network(latency=0.1)
    listener = network.host("server").listen(80)
    laptop = network.host("laptop")
    network.partition("laptop", "server", duration=30)
    await laptop.dial("server", 80)
    assert trio.current_time() == pytest.approx(30.2)
    await listener.accept()


async def test_dialling_goes_on_when_a_partition_is_healed(autojump_clock: MockClock) -> None:
    network = Network(latency=0.1)
    network.host("server").listen(80)
    network.host("laptop")
    fault = network.partition("laptop")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.host("laptop").dial, "server", 80)
        await trio.sleep(5)
        fault.heal()
    assert trio.current_time() == pytest.approx(5.2)


@pytest.mark.parametrize("seed", range(8))
def test_partition_does_not_hold_a_request_that_had_arrived(seed: int) -> None:
    async def main() -> None:
        network = Network(latency=1)
        network.host("server").listen(80)
        network.host("laptop")

        async def cut() -> None:
            await trio.sleep(1)
            network.partition("laptop", "server", one_way=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            await network.host("laptop").dial("server", 80)
        assert trio.current_time() == 2

    with deterministic(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_partitions_that_overlap_end_with_the_last(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    network.partition("laptop", "server", duration=10)
    network.partition("laptop", duration=20)
    network.partition("server", "laptop", duration=5, one_way=True)
    await client.send_all(b"x")
    await expect_at(20, server, b"x")


async def test_partition_is_not_noticed_by_who_waits_only_longer_than_it_lasts(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make(latency=1)
    await client.send_all(b"under way")
    await trio.sleep(0.5)
    network.partition("laptop", "server", duration=0.25)
    await expect_at(3, server, b"under way")


# Half-open connections


async def test_half_open_connections_stay_silent_after_the_fault_has_healed(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    listener = network.host("server").listen(80)
    with network.half_open("laptop", "server"):
        during = await network.host("laptop").dial("server", 80)
        accepted = await listener.accept()
        await during.send_all(b"x")
        await expect_silence(accepted)
    await client.send_all(b"x")
    await server.send_all(b"x")
    await expect_silence(client)
    await expect_silence(server)
    await expect_silence(accepted)
    later = await network.host("laptop").dial("server", 80)
    await later.send_all(b"x")
    assert await (await listener.accept()).receive_some() == b"x"


async def test_half_open_tells_nobody_of_a_close(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    network.half_open("laptop", "server", duration=1)
    await server.aclose()
    await expect_silence(client)
    await client.send_all(b"x")
    await trio.sleep(1000)
    await client.send_all(b"still not known")


# Resets


async def test_reset_breaks_existing_connections_and_wakes_who_waits(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    other, other_server = await network.connect("phone", "server")
    await client.send_all(b"arrived")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_reset, client)
        await trio.testing.wait_all_tasks_blocked()
        network.reset("laptop", "server")
    assert await server.receive_some() == b"arrived"
    await expect_reset(server)
    await other.send_all(b"x")
    assert await other_server.receive_some() == b"x"


async def test_reset_loses_what_is_under_way(autojump_clock: MockClock) -> None:
    network, client, server = await make(latency=1)
    await client.send_all(b"lost")
    network.reset("laptop", "server")
    await expect_reset(server)
    await trio.sleep(5)
    assert await server.receive_some() == b""


async def test_reset_breaks_connections_to_come_while_it_lasts(autojump_clock: MockClock) -> None:
    network, _, _ = await make()
    listener = network.host("server").listen(80)
    network.reset("server", duration=10)
    await expect_reset(await network.host("laptop").dial("server", 80))
    await expect_reset(await listener.accept())
    await trio.sleep(10)
    stream = await network.host("laptop").dial("server", 80)
    await stream.send_all(b"x")
    assert await (await listener.accept()).receive_some() == b"x"


# What has ended


async def test_faults_that_ended_before_all_that_is_under_way_are_forgotten(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make(latency=1)
    seen = weakref.WeakSet[ActiveFault]()
    network.partition(network.host("phone"), "laptop", duration=100)
    for number in range(300):
        with network.partition("laptop", "server") as fault:
            seen.add(fault)
            await client.send_all(bytes([number % 256]))
        seen.add(network.stall("server", duration=0.5))
        seen.add(network.half_open("phone", "server", duration=0.5))
        seen.add(network.shape("laptop", bandwidth=1e9, duration=0.5))
        del fault
        await trio.sleep(1)
        assert await server.receive_some() == bytes([number % 256])
    # Those of the last round, and one that still acts.
    assert len(seen) <= 10


async def test_fault_is_kept_while_it_matters_to_something_under_way(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make(latency=1)
    begun = trio.current_time()
    network.partition("laptop", "server", duration=10)
    await client.send_all(b"x")
    await trio.sleep(10.5)
    for _ in range(5):
        network.partition(network.host("phone"), "laptop", duration=0.01)
    await expect_at(begun + 11, server, b"x")


async def test_half_open_fault_is_kept_for_those_that_it_has_silenced(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    network.half_open("laptop", duration=10)
    await trio.sleep(20)
    for _ in range(5):
        network.stall("server", duration=0.01)
    await client.send_all(b"x")
    await expect_silence(server)


# Shapes


async def test_shape_changes_one_line_from_the_moment_it_begins(autojump_clock: MockClock) -> None:
    network, client, server = await make(latency=1)
    network.shape("laptop", "server", latency=5, one_way=True, duration=10)
    await client.send_all(b"slow")
    await server.send_all(b"as ever")
    await expect_at(3, client, b"as ever")
    await expect_at(7, server, b"slow")
    await trio.sleep(10)
    await client.send_all(b"fast")
    await expect_at(18, server, b"fast")


def test_shape_may_be_set_before_the_run_begins() -> None:
    network = Network()
    network.host("server")
    network.shape("server", latency=2)
    with pytest.raises(RuntimeError, match="inside a Trio run"):
        network.partition("server", duration=3)

    async def main() -> None:
        await network.connect("laptop", "server")
        assert trio.current_time() == pytest.approx(4)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_trickle_gives_byte_after_byte_and_ends_with_the_fault(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    network.trickle("laptop", "server", bandwidth=2, duration=5)
    await client.send_all(bytes(1000))
    for i in range(9):
        await expect_at((i + 1) / 2, server, b"\0")
    assert await server.receive_some(1) == b"\0"
    assert await server.receive_some() == bytes(990)
    assert trio.current_time() == pytest.approx(5)


async def test_trickle_that_is_healed_lets_the_rest_through_at_once(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    with network.trickle("laptop", "server"):
        await client.send_all(bytes(1000))
        await trio.sleep(1.05)
        for _ in range(10):
            await server.receive_some()
        await expect_silence(server, 0.04)
    assert await server.receive_some() == bytes(990)


async def test_trickle_does_not_move_during_a_partition(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    network.trickle("laptop", "server", bandwidth=1)
    await client.send_all(b"ab")
    await trio.sleep(0.5)
    network.partition("laptop", "server", duration=10)
    await expect_at(10.5 + 0.5, server, b"a")
    await expect_at(10.5 + 1.5, server, b"b")


# Hosts that stand still


async def test_stalled_host_reads_nothing_and_its_peers_fill_up(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    with network.stall("server"):
        with trio.move_on_after(5) as scope:
            await client.send_all(bytes(10**6))
        assert scope.cancelled_caught
        assert client._unacked == network.max_bytes
        await expect_silence(server)
        await server.send_all(b"writes")
        assert await client.receive_some() == b"writes"
        late, late_server = await network.connect("laptop", "server")
        await late.send_all(b"x")
        await expect_silence(late_server)
    assert await server.receive_some(5) == bytes(5)
    assert await late_server.receive_some() == b"x"


async def test_frozen_host_does_nothing_and_goes_on_where_it_stopped(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make(latency=1)
    server_host = network.host("server")
    listener = server_host.listen(80)
    network.freeze("server", duration=100)
    begun = trio.current_time()
    done: dict[str, float] = {}

    async def note(name: str, operation: Callable[[], object]) -> None:
        await operation()  # type: ignore[misc]
        done[name] = trio.current_time() - begun

    async with trio.open_nursery() as nursery:
        await client.send_all(b"from outside")
        nursery.start_soon(note, "send", lambda: server.send_all(b"from inside"))
        nursery.start_soon(note, "receive", server.receive_some)
        nursery.start_soon(note, "arrived", client.receive_some)
        nursery.start_soon(note, "dialled", lambda: network.host("laptop").dial("server", 80))
        nursery.start_soon(note, "accepted", listener.accept)
        nursery.start_soon(note, "refused", lambda: refused(server_host.dial("laptop", 80)))
    assert done == pytest.approx(
        {
            "accepted": 102,
            "arrived": 101,
            "dialled": 102,
            "receive": 101,
            "refused": 102,
            "send": 100,
        }
    )


async def refused(dialling: object) -> None:
    with pytest.raises(ConnectionRefusedError):
        await dialling  # type: ignore[misc]


async def test_accept_goes_on_when_its_host_thaws(autojump_clock: MockClock) -> None:
    network = Network()
    listener = network.host("server").listen(80)
    await network.host("laptop").dial("server", 80)
    fault = network.freeze("server")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept)
        await trio.sleep(7)
        assert listener._waiting
        fault.heal()
    assert trio.current_time() == 7


async def test_frozen_hosts_close_is_heard_when_it_thaws(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    network.freeze("server", duration=10)
    await server.aclose()
    await expect_at(10, client, b"")


# Hosts that do not let anybody in


async def test_refuse_refuses_those_to_come_only(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    listener = network.host("server").listen(80)
    with network.refuse("server"):
        await refused(network.host("laptop").dial("server", 80))
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
    await network.host("laptop").dial("server", 80)
    await listener.accept()


async def test_ignore_answers_nobody_who_wants_to_connect(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    network.host("server").listen(80)
    network.ignore("server", duration=60)
    await client.send_all(b"x")
    assert await server.receive_some() == b"x"
    await network.host("laptop").dial("server", 80)
    assert trio.current_time() == pytest.approx(60)


async def test_hang_up_accepts_and_closes_at_once(autojump_clock: MockClock) -> None:
    network, _, _ = await make()
    listener = network.host("server").listen(80)
    with network.hang_up("server"):
        stream = await network.host("laptop").dial("server", 80)
        assert await stream.receive_some() == b""
        await stream.send_all(b"lost")
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
    with trio.move_on_after(1) as scope:
        await listener.accept()
    assert scope.cancelled_caught


# Hosts that die


async def test_crash_resets_peers_and_refuses_until_somebody_listens_again(
    autojump_clock: MockClock,
) -> None:
    network, client, _ = await make()
    host = network.host("server")
    host.listen(80)
    host.crash()
    await expect_reset(client)
    await refused(network.host("laptop").dial("server", 80))
    with pytest.raises(OSError, match="down"):
        host.listen(80)
    network.stall("server")
    host.restart()
    assert network.host("server").stands_until("receive") == math.inf
    await refused(network.host("laptop").dial("server", 80))
    listener = host.listen(80)
    await network.host("laptop").dial("server", 80)
    await listener.accept()


async def test_crash_refuses_who_waited_for_room_in_a_backlog(autojump_clock: MockClock) -> None:
    network = Network()
    network.host("server").listen(80, backlog=1)
    laptop = network.host("laptop")
    await laptop.dial("server", 80)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: refused(laptop.dial("server", 80)))
        await trio.testing.wait_all_tasks_blocked()
        network.host("server").crash()


async def test_crash_leaves_the_dead_program_waiting_and_reaching_nobody(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    listener = network.host("server").listen(80)

    async def wait_for_ever(operation: Callable[..., object], *args: object) -> None:
        with trio.move_on_after(1000) as scope:
            await operation(*args)  # type: ignore[misc]
        assert scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_ever, listener.accept)
        nursery.start_soon(wait_for_ever, server.receive_some)
        nursery.start_soon(wait_for_ever, server.send_all, bytes(10**6))
        await trio.testing.wait_all_tasks_blocked()
        network.host("server").crash()
        nursery.start_soon(wait_for_ever, network.host("server").dial, "laptop", 80)
    network.host("server").restart()
    await wait_for_ever(server.send_eof)
    await server.aclose()
    await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await server.receive_some()
    assert await client.receive_some() == bytes(65536)
    await expect_reset(client)
    await client.aclose()
    assert network.statistics().streams == network.statistics().listeners == 0


async def test_power_cut_is_silent_until_the_host_is_back_and_then_resets_who_sends(
    autojump_clock: MockClock,
) -> None:
    network, client, _ = await make(latency=1)
    listening, _ = await network.connect("laptop", "server")
    host = network.host("server")
    begun = trio.current_time()
    host.crash(silently=True, duration=50)
    await client.send_all(b"x")
    await refused(network.host("laptop").dial("server", 80))
    assert trio.current_time() - begun == pytest.approx(52)
    await expect_reset(client)
    assert trio.current_time() - begun == pytest.approx(52)
    await expect_silence(listening)


async def test_run_cancels_a_program_when_its_host_crashes_and_starts_it_anew(
    autojump_clock: MockClock,
) -> None:
    network = Network()
    host = network.host("server")
    lives: list[float] = []

    async def program(port: int) -> None:
        lives.append(trio.current_time())
        async with host.listen(port) as listener:
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, program, 80)
        await trio.sleep(1)
        host.crash(duration=10)
        await trio.sleep(20)
        host.crash(silently=True)
        await trio.sleep(10)
        host.restart()
        await trio.sleep(1)
        await network.host("laptop").dial("server", 80)
    assert lives == pytest.approx([0, 11, 31])


# Plans


async def test_plan_lets_faults_happen_at_their_times_and_ends_with_the_last(
    autojump_clock: MockClock,
) -> None:
    network, client, server = await make()
    plan = Plan(
        (
            Fault("partition", ("laptop",), ("server",), at=5, duration=10),
            Fault("reset", ("laptop",), at=2, duration=0),
            Fault("stall", ("server",), at=1, duration=1),
        )
    )
    assert plan.duration == 15
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run, plan)
        await trio.sleep(1.5)
        await client.send_all(b"x")
        await expect_at(2, server, b"x")
        await expect_reset(client)
    assert trio.current_time() == 15
    events = [(event.time, event.event) for event in network.trace if event.event[0] in "prs"]
    assert [each for each in events if each[1] not in ("reset", "receive", "send")] == [
        (1.0, "stall for 1s"),
        (2.0, "reset for 0s"),
        (5.0, "partition for 10s"),
    ]


async def test_plan_heals_what_acts_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    with trio.move_on_after(10):
        await network.run(Plan((Fault("partition", ("laptop",)),)))
    await client.send_all(b"x")
    await expect_at(10, server, b"x")


def test_plan_can_be_made_again_from_its_repr() -> None:
    plan = Plan(
        (
            Fault("shape", ("a",), ("b",), at=1.5, conditions=Conditions(bandwidth=3)),
            Fault("crash", ("b",), duration=2),
        )
    )
    assert eval(repr(plan)) == plan
    assert plan.duration == math.inf
    assert Plan().duration == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "flood"}, "flood"),
        ({"hosts": ()}, "at least one host"),
        ({"kind": "stall", "others": ("b",)}, "leave out"),
        ({"kind": "crash", "one_way": True}, "leave out"),
        ({"at": -1}, "at must be"),
        ({"duration": -1}, "duration"),
        ({"duration": math.nan}, "duration"),
    ],
    ids=str,
)
def test_fault_refuses_what_makes_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fault(**({"kind": "partition", "hosts": ("a",)} | arguments))  # type: ignore[arg-type]


async def test_fault_on_an_unknown_host_is_an_error_and_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    network = Network()
    network.host("server")
    with pytest.raises(ValueError, match=r"no host 'sever' .* but server; .* makes it"):
        network.partition("sever")
    assert not list(network.trace)


def test_fault_on_a_network_without_hosts_says_how_to_make_one() -> None:
    with pytest.raises(ValueError, match=r"which has none yet; network.host\('laptop'\) makes it"):
        Network().partition("laptop")


async def test_fault_can_be_a_host_or_several_hosts(autojump_clock: MockClock) -> None:
    network, client, server = await make()
    faults: list[ActiveFault] = [
        network.stall(network.host("server")),
        network.stall(["server", network.host("laptop")]),
    ]
    await client.send_all(b"x")
    faults[0].heal()
    await expect_silence(server)
    faults[1].heal()
    assert await server.receive_some() == b"x"


def _laptop() -> Network:
    network = Network()
    network.host("laptop")
    return network


# What no type checker lets through.
_THREE: Any = 3
_TEXT: Any = "1"
_NOTHING: Any = None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Network(latency=_TEXT), "Conditions: latency must be of type"),
        (lambda: Network(jitter=_TEXT), "Conditions: jitter must be of type"),
        (lambda: _laptop().trickle("laptop", bandwidth=_TEXT), "Conditions: bandwidth must"),
        (lambda: _laptop().stall("laptop", duration=_TEXT), "stall: duration must"),
        (lambda: _laptop().stall("laptop", duration=_NOTHING), "stall: duration must"),
        (lambda: _laptop().freeze(_THREE), "freeze: hosts must be a host, its name, or several"),
        (lambda: _laptop().freeze(_NOTHING), "freeze: hosts must be a host, its name, or several"),
        (lambda: _laptop().partition("laptop", [_THREE]), "partition: each of hosts must"),
        (lambda: _laptop().apply(_TEXT), "Network.apply: fault must be of type Fault"),
        (lambda: _laptop().host(_THREE), "Network.host: name must be of type str"),
        (lambda: Fault("stall", ("a",), at=_TEXT), "stall: at must be of type"),
        (lambda: Fault("shape", ("a",), conditions=_THREE), "shape: conditions must"),
        (lambda: Plan(_THREE), "Plan: faults must be a tuple of Fault"),
        (lambda: Plan((_THREE,)), "Plan: each of faults must"),
        (lambda: Delay(_TEXT), "Delay: seconds must"),
    ],
)
def test_wrong_kind_of_argument_is_told_by_its_name(call: Callable[[], object], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        call()


async def test_waiting_calls_tell_a_wrong_kind_of_argument_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"Network\.run: plan must be of type Plan"):
        await _laptop().run(_THREE)
    with pytest.raises(TypeError, match=r"wait_until: condition must be a function"):
        await wait_until(_THREE)

    async def later() -> bool:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"wait_until: condition must not be async"):
        await wait_until(later)
    with pytest.raises(TypeError, match=r"wait_until: within must be of type"):
        await wait_until(bool, within=_TEXT)
