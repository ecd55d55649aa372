"""A little world full of chance, for the tests of determinism: `python scenario.py SEED`."""

from __future__ import annotations

import sys

import trio
import trio.testing

from trioweb.testing import Fault, Network, Plan, deterministic


async def play(network: Network) -> None:
    """Some hosts talk, in no order that anybody gave, while faults happen."""
    server = network.host("server")

    async def echo(stream: trio.abc.Stream) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async def talk(name: str) -> None:
        stream = await network.host(name).dial("server", 80)
        async with stream:
            try:
                for size in (10, 3000, 1):
                    await stream.send_all(bytes(size))
                    while size:
                        size -= len(await stream.receive_some())
            except trio.BrokenResourceError:
                pass

    names = {"ann", "bob", "cas", "dan", "eve"}  # a set: its order depends on the hash seed
    for name in sorted(names):
        network.host(name)
    plan = Plan(
        (
            Fault("partition", ("ann", "bob"), at=0.02, duration=3),
            Fault("reset", ("cas",), at=0.03, duration=0),
            Fault("stall", ("dan",), at=0.01, duration=1),
        )
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [server.listen(80)])
        async with trio.open_nursery() as clients:
            clients.start_soon(network.run, plan)
            for name in sorted(names):
                clients.start_soon(talk, name)
        nursery.cancel_scope.cancel()


def trace(seed: int) -> str:
    network = Network(seed, latency=0.01, jitter=0.01, segment=500)
    with deterministic(seed):
        trio.run(play, network, clock=trio.testing.MockClock(autojump_threshold=0))
    return str(network.trace)


if __name__ == "__main__":
    print(trace(int(sys.argv[1])))
