"""The proxy of `trioweb chaos` in virtual time: what is outside is a network, too, a sound one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from trioweb.testing import (
    ActiveFault,
    Conditions,
    Fault,
    Network,
    NetworkListener,
    NetworkStream,
    Plan,
)
from trioweb.testing._proxy import Proxy


class World:
    """A sound network: a phone, a server at port 80, and the proxy before it at port 90."""

    def __init__(self, chaos: Network) -> None:
        self.chaos = chaos
        self.sound = Network()
        self.server = self.sound.host("app").listen(80)
        host = self.sound.host("proxy")

        async def listen() -> Sequence[NetworkListener]:
            return [host.listen(90)]

        self._first = [host.listen(90)]
        self._proxy = Proxy(chaos, listen, partial(host.dial, "app", 80), lambda _: "a phone")

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        await self._proxy.serve(self._first, task_status=task_status)

    async def dial(self) -> NetworkStream:
        return await self.sound.host("phone").dial("proxy", 90)

    async def connect(self) -> tuple[NetworkStream, NetworkStream]:
        """A connection through the proxy: the phone's end and the server's."""
        phone = await self.dial()
        return phone, await self.server.accept()


@asynccontextmanager
async def world(**conditions: float) -> AsyncGenerator[World]:
    """The world with the proxy in it, which has left nothing open at the end."""
    it = World(Network(**conditions))  # type: ignore[arg-type]
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            await nursery.start(it.serve)
            yield it
            nursery.cancel_scope.cancel()
    await it.server.aclose()
    assert [name for name in it.sound.open_names() if "proxy:" in name.split(" > ")[0]] == []


async def read_all(stream: NetworkStream) -> bytes:
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


async def test_bytes_and_ends_pass_both_ways_as_late_as_the_line_is(
    autojump_clock: MockClock,
) -> None:
    async with world(latency=3) as it:
        phone, server = await it.connect()
        assert trio.current_time() == 6  # there and back; to the server it is a new connection
        await phone.send_all(b"question")
        await phone.send_eof()
        assert await read_all(server) == b"question"
        assert trio.current_time() == 9
        await server.send_all(b"answer")
        await server.aclose()
        assert await read_all(phone) == b"answer"
        assert trio.current_time() == 12
        assert "stands for a phone" in str(it.chaos.trace)


PLANS = [
    Plan(()),
    Plan((Fault("partition", ("client",), at=5, duration=7),)),
    Plan((Fault("partition", ("server",), ("client",), one_way=True, at=2, duration=30),)),
    Plan((Fault("half_open", ("server",), at=6, duration=2),)),
    Plan((Fault("shape", ("client",), at=3, conditions=Conditions(bandwidth=2)),)),
    Plan((Fault("shape", ("server",), at=3, conditions=Conditions(segment=1, latency=4)),)),
    Plan((Fault("stall", ("server",), at=2, duration=9),)),
    Plan((Fault("reset", ("server",), at=4.5),)),
    Plan((Fault("crash", ("server",), at=4.5, duration=3),)),
    Plan((Fault("power_cut", ("server",), at=4.5, duration=3),)),
]


async def _history(
    network: Network, client: NetworkStream, server: NetworkStream, plan: Plan
) -> list[tuple[float, str, bytes | str]]:
    """What both ends of a connection hear while *plan* happens, and when."""
    begun = trio.current_time()
    heard: list[tuple[float, str, bytes | str]] = []

    async def listen(name: str, stream: NetworkStream) -> None:
        try:
            while data := await stream.receive_some():
                # Single bytes: what comes at one time is one thing, however it was cut.
                heard.extend((trio.current_time() - begun, name, bytes([b])) for b in data)
            heard.append((trio.current_time() - begun, name, "end"))
        except trio.BrokenResourceError:
            heard.append((trio.current_time() - begun, name, "reset"))

    async def speak(stream: NetworkStream) -> None:
        try:
            for number in range(12):
                await stream.send_all(b"word" + bytes([number]))
                await trio.sleep(1)
        except trio.BrokenResourceError:
            pass

    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.run, plan)
            for name, stream in (("client", client), ("server", server)):
                nursery.start_soon(listen, name, stream)
                nursery.start_soon(speak, stream)
    return sorted(heard, key=lambda item: item[:2])


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: str(plan.faults and plan.faults[0].kind))
async def test_plan_has_the_effect_that_it_has_in_memory(
    plan: Plan, autojump_clock: MockClock
) -> None:
    network = Network(seed=3, latency=0.25)
    listener = network.host("server").listen(80)
    client = await network.host("client").dial("server", 80)
    in_memory = await _history(network, client, await listener.accept(), plan)
    async with world(seed=3, latency=0.25) as it:
        phone, server = await it.connect()
        # A program that dies is the proxy's here: what is behind it lives, and hears a reset.
        through = await _history(it.chaos, phone, server, plan)
    if plan.faults and plan.faults[0].kind in ("crash", "power_cut"):
        through = [item for item in through if item[1] == "client"]
        in_memory = [item for item in in_memory if item[1] == "client"]
    assert through == in_memory
    assert len(through) > 10


Refusal = Callable[[Network], ActiveFault]


@pytest.mark.parametrize(
    "refuse",
    [
        lambda network: network.refuse("server", duration=10),
        lambda network: network.host("server").crash(duration=10),
    ],
    ids=["refuse", "crash"],
)
async def test_refused_connections_are_refused_outside_until_it_ends(
    refuse: Refusal, autojump_clock: MockClock
) -> None:
    async with world() as it:
        await it.connect()
        refuse(it.chaos)
        await trio.sleep(1)
        with pytest.raises(ConnectionRefusedError):
            await it.dial()
        await trio.sleep(10)
        phone, server = await it.connect()
        await phone.send_all(b"back")
        assert await server.receive_some() == b"back"


async def test_server_that_is_down_at_the_start_can_be_reached_when_it_is_up(
    autojump_clock: MockClock,
) -> None:
    chaos = Network()
    chaos.host("server").crash(duration=10)
    it = World(chaos)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.serve)
        await trio.sleep(1)
        with pytest.raises(ConnectionRefusedError):
            await it.dial()
        await trio.sleep(10)
        await it.connect()
        nursery.cancel_scope.cancel()


async def test_refusing_leaves_the_connections_that_are_there(autojump_clock: MockClock) -> None:
    async with world() as it:
        phone, server = await it.connect()
        with it.chaos.refuse("server"):
            await trio.sleep(1)
            await phone.send_all(b"still here")
            assert await server.receive_some() == b"still here"
        await trio.sleep(1)
        await it.connect()


async def test_client_that_hangs_up_is_a_reset_to_a_server_that_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        phone, server = await it.connect()
        await phone.aclose()
        assert await server.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await server.send_all(b"are you there?")
                await trio.sleep(1)


async def test_server_that_cannot_be_reached_is_a_reset(autojump_clock: MockClock) -> None:
    async with world() as it:
        await it.server.aclose()
        phone = await it.dial()
        with pytest.raises(trio.BrokenResourceError):
            await phone.receive_some()
        assert "cannot reach the target: Connection refused" in str(it.chaos.trace)


async def test_stalled_server_makes_the_sender_wait(autojump_clock: MockClock) -> None:
    async with world() as it:
        phone, _ = await it.connect()
        it.chaos.stall("server")
        with trio.move_on_after(60) as scope:
            await phone.send_all(bytes(10**6))
        assert scope.cancelled_caught


async def test_frozen_server_is_silent_and_then_goes_on(autojump_clock: MockClock) -> None:
    async with world() as it:
        phone, server = await it.connect()
        begun = trio.current_time()
        it.chaos.freeze("server", duration=20)
        await phone.send_all(b"to it")
        await server.send_all(b"from it")
        assert await server.receive_some() == b"to it"
        assert await phone.receive_some() == b"from it"
        assert trio.current_time() == begun + 20


async def test_connections_that_are_ignored_wait_for_the_end_of_it(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        fault = it.chaos.ignore("server")
        phone = await it.dial()
        await phone.send_all(b"hello")
        with trio.move_on_after(60) as scope:
            await it.server.accept()
        assert scope.cancelled_caught
        fault.heal()
        server = await it.server.accept()
        assert await server.receive_some() == b"hello"


async def test_connections_of_a_proxy_that_ends_are_reset(autojump_clock: MockClock) -> None:
    it = World(Network())
    async with trio.open_nursery() as nursery:
        await nursery.start(it.serve)
        phone, server = await it.connect()
        nursery.cancel_scope.cancel()
    for stream in phone, server:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
