"""What a server does while it is measured: the same for every peer but for the loop that waits.

A server prints its port, then one line of JSON with its figures. Its standard input is the load's
standard output, which says when to look (see `load`). A peer's own function knows nothing of this:
it serves, says where, and hands over a way to publish.
"""

import asyncio
import gc
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .load import memory_steps
from .readers import STAMP_DIGITS
from .task import Task

_TEXTS = 64  # different ones, where they are to be compressed

Publish = Callable[[str], Awaitable[None]]


def private_bytes(pid: int | None = None) -> int:
    """Return the memory that a process, by default this one, shares with nobody."""
    if pid is None:
        gc.collect()
    with open(f"/proc/{pid or 'self'}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def json_text(size: int, rng: random.Random) -> str:
    """Return as many bytes of JSON as a server of market data or positions would send."""
    entries: list[dict[str, Any]] = []
    while len(json.dumps(entries)) <= size:
        entries.append(
            {
                "symbol": rng.choice(["ABCD", "EFGH", "IJKL", "MNOP"]),
                "price": round(rng.uniform(10, 1000), 2),
                "quantity": rng.randrange(1000),
                "time": 1_700_000_000_000 + rng.randrange(10**9),
            }
        )
    entries.pop()
    return json.dumps(entries).ljust(size)


def _texts(task: Task) -> Iterator[str]:
    if task.deflate:
        rng = random.Random(0)
        return itertools.cycle([json_text(task.size, rng) for _ in range(_TEXTS)])
    return itertools.repeat("x" * task.size)


class Job:
    """One measurement, seen from the server."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.echoes = task.kind == "echo"
        self.publishes = task.kind in ("publish", "latency")
        self.certificate = str(Path(task.scratch, "certificate.pem")) if task.tls else ""
        self._connected = 0
        self._texts = _texts(task)

    # What depends on the loop, or on whose process it is.

    def run(self, serve: Callable[["Job"], Awaitable[None]]) -> None:
        raise NotImplementedError

    async def arrived(self) -> None:
        """Wait for the load's byte."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a function beside what waits, until the end of the process."""
        raise NotImplementedError

    def cpu(self) -> float:
        """Return the seconds of CPU time that the server has used."""
        return time.process_time()

    def core_wait(self) -> float:
        """Return for how long the server could have run, but others had its core."""
        with open("/proc/self/schedstat") as fields:
            return int(fields.read().split()[1]) / 1e9

    def private_bytes(self) -> int:
        return private_bytes()

    def finish(self, figures: dict[str, float]) -> NoReturn:
        """Print the figures and end the process, without a closing handshake."""
        print(json.dumps(figures), flush=True)
        os._exit(0)

    # What a peer's function calls.

    def listening(self, port: int) -> None:
        print(port, flush=True)

    def connected(self) -> None:
        """Note a connection; its handler calls this as soon as it can be published to."""
        self._connected += 1

    async def measure(self, publish: Publish) -> NoReturn:
        """Measure, print the figures and end the process."""
        match self.task.kind:
            case "memory":
                figures = await self._look_at_memory()
            case "publish":
                await self._all_connected()
                figures = await self._publish_in_ticks(publish)
            case "latency":
                await self._all_connected()
                count = round(self.task.seconds * self.task.rate)
                await self.publish_on_schedule(publish, count)
                await self.arrived()
                figures = self.load_figures()
            case "storm":
                await self._all_connected()
                self.spawn(self.publish_on_schedule, publish, sys.maxsize)
                figures = await self._observe_from_here("spent")
            case "connections":
                figures = await self._observe("open", "close")
            case _:
                figures = await self._observe("spent")
        self.finish(figures)

    async def _all_connected(self) -> None:
        await self.arrived()
        while self._connected < self.task.connections:
            await self.sleep(0.01)

    async def _publish_in_ticks(self, publish: Publish) -> dict[str, float]:
        """Publish a burst, wait until it has arrived everywhere, and again."""

        async def tick() -> None:
            for _ in range(self.task.burst):
                await publish(next(self._texts))
            await self.arrived()

        await tick()  # warms up
        ticks = 0
        spent = 0.0
        waited = self.core_wait()
        started = self.cpu()
        while spent < self.task.seconds:
            await tick()
            ticks += 1
            spent = self.cpu() - started
        deliveries = ticks * self.task.burst * self.task.connections
        waited = self.core_wait() - waited
        return {"cpu": spent / deliveries, "busy": spent / (spent + waited)}

    async def publish_on_schedule(self, publish: Publish, count: int) -> None:
        """Publish bursts at a rate, each message beginning with the time at which it was due.

        Whatever keeps a publication from being on time, a slow server included, is in the figure.
        """
        filler = "x" * (self.task.size - STAMP_DIGITS)
        started = time.monotonic()
        for number in range(count):
            due = started + number / self.task.rate
            while (early := due - time.monotonic()) > 0:
                await self.sleep(early)
            message = f"{int(due * 1e9):0{STAMP_DIGITS}}{filler}"
            for _ in range(self.task.burst):
                await publish(message)

    async def _observe(self, *parts: str) -> dict[str, float]:
        """Note what it costs to serve from one of the load's bytes to the next, for each part."""
        await self.arrived()  # all are open
        return await self._observe_from_here(*parts)

    async def _observe_from_here(self, *parts: str) -> dict[str, float]:
        await self.arrived()
        waited, elapsed = self.core_wait(), time.perf_counter()
        figures = {}
        for part in parts:
            started = self.cpu()
            await self.arrived()
            figures[part] = self.cpu() - started
        spent = sum(figures.values())
        waited = self.core_wait() - waited
        figures["elapsed"] = time.perf_counter() - elapsed
        figures["busy"] = spent / (spent + waited)
        return figures | self.load_figures()

    async def _look_at_memory(self) -> dict[str, float]:
        """Return how many bytes have been added since the first connections, for each step."""
        steps = memory_steps(self.task.connections)
        found: list[int] = []
        for _ in steps:
            await self.arrived()
            found.append(self.private_bytes() - (found[0] if found else 0))
        return {
            str(step - steps[0]): grown for step, grown in zip(steps[1:], found[1:], strict=True)
        }

    def load_figures(self) -> dict[str, float]:
        """Return the line that the load has written behind its last byte."""
        os.set_blocking(sys.stdin.fileno(), True)  # uvloop has it otherwise
        line = b""
        while not line.endswith(b"\n"):
            if not (data := os.read(sys.stdin.fileno(), 65536)):
                raise EOFError("the load has left")
            line += data
        figures: dict[str, float] = json.loads(line)
        return figures


def _read_told() -> None:
    if not os.read(sys.stdin.fileno(), 1):
        raise EOFError("the load has left")


class TrioJob(Job):
    def run(self, serve: Callable[[Job], Awaitable[None]]) -> None:
        import trio

        trio.run(serve, self)

    async def arrived(self) -> None:
        import trio

        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        _read_told()

    async def sleep(self, seconds: float) -> None:
        import trio

        await trio.sleep(seconds)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        import trio

        trio.lowlevel.spawn_system_task(function, *args)


class AsyncioJob(Job):
    def run(self, serve: Callable[[Job], Any]) -> None:
        asyncio.run(serve(self))

    async def arrived(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(sys.stdin, readable.set_result, None)
        await readable
        loop.remove_reader(sys.stdin)
        _read_told()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._spawned = asyncio.get_running_loop().create_task(function(*args))


class UvloopJob(AsyncioJob):
    def run(self, serve: Callable[[Job], Any]) -> None:
        import uvloop

        uvloop.run(serve(self))


class BareJob(AsyncioJob):
    """No loop at all: whatever waits, blocks."""

    async def arrived(self) -> None:
        _read_told()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251
