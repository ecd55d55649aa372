"""A little world full of chance, for the tests of determinism: `python scenario.py SEED`."""

from __future__ import annotations

import random
import sys
from contextlib import suppress

import trio
import trio.testing

import trioweb
from trioweb.testing import Fault, Network, NetworkStream, Plan, deterministic


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


async def chat(network: Network, seen: list[str]) -> None:
    """Some clients, none of which was given a `random`, talk to a server that resets them."""
    server = network.host("server")

    async def handle(connection: trioweb.Connection) -> None:
        topic = hub.topic("news")
        seen.append(f"epoch {topic.epoch}")
        with topic.subscribe(connection):
            async for message in connection:
                topic.publish(message)

    async def talk(name: str) -> None:
        async def dial(host: str, port: int) -> NetworkStream:
            stream = await network.host(name).dial(host, port)
            send_all = stream.send_all

            async def send_seen(data: bytes) -> None:
                if not data.startswith(b"GET"):  # the handshake's key is trio-websocket's
                    seen.append(f"{name} {bytes(data).hex()}")
                await send_all(data)

            stream.send_all = send_seen  # type: ignore[assignment, method-assign]
            return stream

        # The server may be away for longer than a client takes for its end.
        with suppress(trioweb.Unsent):
            async with trioweb.open_client("ws://server/", dial=dial, receive=False) as client:
                for _ in range(3):
                    await client.wait_open()
                    await client.send(name)
                    await trio.sleep(random.uniform(1, 20))
                    network.reset(name)
                    network.refuse("server", duration=3)

    async with trio.open_nursery() as nursery, trioweb.open_hub() as hub:
        await nursery.start(trioweb.serve_listeners, handle, [server.listen(80)])
        async with trio.open_nursery() as clients:
            for name in ("ann", "bob", "cas"):
                clients.start_soon(talk, name)
        nursery.cancel_scope.cancel()


def trace(seed: int) -> str:
    """Everything that can be seen of two runs: of bytes, and of clients."""
    network = Network(seed, latency=0.01, jitter=0.01, segment=500)
    clients = Network(seed)
    seen: list[str] = []
    with deterministic(seed):
        trio.run(play, network, clock=trio.testing.MockClock(autojump_threshold=0))
        trio.run(chat, clients, seen, clock=trio.testing.MockClock(autojump_threshold=0))
    return "\n".join([str(network.trace), str(clients.trace), *seen])


if __name__ == "__main__":
    print(trace(int(sys.argv[1])))
