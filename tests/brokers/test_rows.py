"""Each row of the table of faults (docs/processes.md), made for real, with processes only.

Two nodes publish and follow one topic while something breaks.  What each of them has learnt is then
held against the invariants: one place is one publication, in one order, without holes that were not
told; and what was accepted was published once and in its publisher's order, or refused.

The short form of all rows belongs to the tests that always run; `nox -s brokers` breaks more often,
and publishes more.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.brokers.redis_server import RedisServer, run_redis
from tests.processes import Program, python, running

pytestmark = pytest.mark.redis

_SECONDS: Final = 60


class Node:
    """A node, and what it has written down."""

    def __init__(self, name: str, program: Program) -> None:
        self.name = name
        self.program = program
        self.lines: list[tuple[str, list[Any]]] = []
        self.is_killed = False
        self._changed = trio.Event()

    async def read(self) -> None:
        unread = b""
        while data := await self.program.output.stream.receive_some():
            *lines, unread = (unread + bytes(data)).split(b"\n")
            for line in lines:
                [(kind, values)] = json.loads(line).items()
                self.lines.append((kind, values))
            self._changed.set()
            self._changed = trio.Event()

    def all(self, kind: str) -> list[list[Any]]:
        return [values for found, values in self.lines if found == kind]

    async def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until *condition* is true of what it has written."""
        with trio.move_on_after(_SECONDS):
            while not condition():
                await self._changed.wait()
            return
        self.program.process.kill()
        errors = await self.program.errors.rest()
        raise AssertionError(f"{self.name}: no {what}; {self.lines[-5:]}\n{errors}")

    async def hear(self, count: int, *publishers: str) -> None:
        """Wait for *count* publications more of each of *publishers*."""
        for publisher in publishers:
            start = len(self._of(publisher))
            await self.wait(
                lambda p=publisher, n=start + count: len(self._of(p)) >= n,  # type: ignore[misc]
                f"{count} more of {publisher}",
            )

    def _of(self, publisher: str) -> list[list[Any]]:
        return [values for values in self.all("got") if values[2].startswith(publisher)]


@dataclass
class Scene:
    """What a row is made with."""

    server: RedisServer
    directory: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    replicas: int = 0
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def hear(self, count: int = 20) -> None:
        """Have all nodes hear of each other, so that all of them have got over what has broken."""
        alive = [node for node in self.nodes.values() if not node.is_killed]
        names = [node.name for node in alive]
        for node in alive:
            await node.hear(count, *names)

    def replica(self) -> RedisServer:
        """One that has all that the server has by now, and gets what comes."""
        self.replicas += 1
        where = self.directory / f"replica {self.replicas}"
        where.mkdir()
        replica = self.stack.enter_context(run_redis(where))
        replica.follow(self.server)
        return replica


Fault = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        fault: what happens.
        lives: how many epochs there are, once it has happened once.
        durable: as for `RedisBroker`.
        loses: whether publications that were confirmed may be gone for who had not got them.
        arguments: of the server.
    """

    fault: Fault
    lives: int = 1
    durable: bool = False
    loses: bool = False
    arguments: tuple[str, ...] = ()


async def cut(scene: Scene) -> None:
    for _ in range(5):
        assert scene.server.ask("CLIENT", "KILL", "SKIPME", "yes") >= 1
        await scene.hear(3)


async def stand_still(scene: Scene) -> None:
    scene.server.stop()
    # Longer than the nodes wait for a sign of life.
    await trio.sleep(3)
    scene.server.resume()


async def kill(scene: Scene) -> None:
    scene.server.kill()
    scene.server.start()


async def flush(scene: Scene) -> None:
    scene.server.ask("FLUSHALL")


async def evict_record(scene: Scene) -> None:
    scene.server.ask("DEL", "trioweb:{news}:m")


async def evict_log(scene: Scene) -> None:
    scene.server.ask("DEL", "trioweb:{news}:s")


async def flush_scripts(scene: Scene) -> None:
    scene.server.ask("SCRIPT", "FLUSH")


async def fill(scene: Scene) -> None:
    scene.server.ask("CONFIG", "SET", "maxmemory", 1)
    await trio.sleep(0.5)
    scene.server.ask("CONFIG", "SET", "maxmemory", 0)


async def fail_over(scene: Scene) -> None:
    """The replica has not got the last ones, since it was cut off; then it takes over."""
    replica = scene.replica()
    replica.lead()
    await scene.hear(50)
    port = scene.server.port
    scene.server.kill()
    replica.kill()
    replica.port = port
    replica.start()
    scene.server = replica


async def split(scene: Scene) -> None:
    """Both lead, each with nodes of its own; then the old one follows."""
    replica = scene.replica()
    replica.lead()
    await scene.hear(20)
    scene.server.follow(replica)
    # Its connections stay open; what it has is now what the other had.
    await trio.sleep(0.5)
    scene.server.lead()


async def kill_node(scene: Scene) -> None:
    node = scene.nodes["a"]
    node.program.process.kill()
    node.is_killed = True
    await node.program.process.wait()


async def freeze_node(scene: Scene) -> None:
    """It reads nothing while more is published than the server keeps for it."""
    scene.server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 8mb 0 0")
    frozen, other = scene.nodes["a"], scene.nodes["b"]
    frozen.program.process.send_signal(signal.SIGSTOP)
    # More than the buffers of both kernels and of the server, and than the log keeps.
    for _ in range(8):
        await other.program.type("flood 2000")
        await other.hear(2000, "b")
    frozen.program.process.send_signal(signal.SIGCONT)


ROWS: Final = {
    "connections cut": Row(cut),
    "server stands still": Row(stand_still),
    "server killed": Row(kill, lives=2),
    "server killed, durable": Row(kill, durable=True),
    "server killed, nothing on disk": Row(
        kill, lives=2, loses=True, arguments=("--appendonly", "no")
    ),
    "everything flushed": Row(flush, lives=2, durable=True, loses=True),
    "record evicted": Row(evict_record, lives=2, loses=True),
    "log evicted": Row(evict_log),
    "scripts flushed": Row(flush_scripts),
    "out of memory": Row(fill),
    "failover that loses some": Row(fail_over, lives=2, loses=True),
    "two servers lead": Row(split, lives=2, loses=True),
    "node killed": Row(kill_node),
    "node frozen": Row(freeze_node),
}


@asynccontextmanager
async def open_scene(directory: Path, row: Row, rate: float) -> AsyncGenerator[Scene]:
    """Two nodes that have heard of each other."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        server = stack.enter_context(run_redis(directory, *row.arguments))
        scene = Scene(server, directory, stack=stack)
        url = f"redis://127.0.0.1:{server.port}"
        durable = "durable" if row.durable else "no"
        for name in "ab":
            command = python("-m", "tests.brokers.node", url, name, f"{rate}", durable)
            node = Node(name, await stack.enter_async_context(running(command)))
            scene.nodes[name] = node
            nursery.start_soon(node.read)
        await scene.hear()
        yield scene
        nursery.cancel_scope.cancel()


async def settle(scene: Scene) -> None:
    """Have all that was published answered, and heard by all."""
    alive = [node for node in scene.nodes.values() if not node.is_killed]
    for node in alive:
        await node.program.type("stop")
    for node in alive:
        await node.wait(lambda n=node: n.all("settled"), "end")  # type: ignore[misc]
    await alive[-1].program.type("last")
    for node in alive:
        await node.wait(lambda n=node: n._of("last"), "last one")  # type: ignore[misc]


def check(scene: Scene, row: Row, times: int) -> None:
    """Hold what the nodes have learnt against the invariants."""
    alive = [node for node in scene.nodes.values() if not node.is_killed]
    places: dict[tuple[str, int], str] = {}
    confirmed: list[tuple[str, int, str]] = []
    for node in scene.nodes.values():
        own = [(epoch, offset, text) for epoch, offset, text in node.all("confirmed") if offset]
        confirmed += own
        for epoch, offset, text in [*own, *map(tuple, node.all("got"))]:
            assert places.setdefault((epoch, offset), text) == text, (1, epoch, offset)
        for epoch in {epoch for epoch, _, _ in own}:
            offsets = [at for its, at, _ in own if its == epoch]
            assert offsets == sorted(set(offsets)), (4, node.name)
        if not node.is_killed:
            texts = [each[-1] for each in node.all("confirmed")]
            texts += [each[0] for each in node.all("refused")]
            assert len(set(texts)) == len(texts), (4, node.name)
    for epoch in {epoch for epoch, _ in places}:
        texts = [text for (its, _), text in places.items() if its == epoch]
        assert len(set(texts)) == len(texts), (4, epoch)
    for node in alive:
        check_order(node)
        got = {(epoch, offset) for epoch, offset, _ in node.all("got")}
        first = min(offset for _, offset in got)
        if not node.all("lagged"):
            missed = {(epoch, at) for epoch, at, _ in confirmed if at >= first} - got
            assert not missed, (3, node.name, sorted(missed)[:5])
        lives = {epoch for epoch, _ in got}
        assert len(lives) <= 1 + times * (row.lives - 1)
        assert (len(lives) > 1) is (row.lives > 1)


def check_order(node: Node) -> None:
    """Offsets go on by one, but for what is told."""
    last: list[Any] | None = None
    skipped: int | None = None
    for kind, values in node.lines:
        if kind == "lagged":
            skipped = (skipped or 0) + values[0]
        elif kind == "got":
            if last is not None and values[0] == last[0]:
                assert values[1] - last[1] - 1 == (skipped or 0), (2, node.name, last, values)
            elif last is not None:
                assert skipped is not None, (2, node.name, last, values)
            last, skipped = values, None


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
async def test_what_happens_is_stood_or_told(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with open_scene(tmp_path, row, rate=100) as scene:
        await row.fault(scene)
        await scene.hear()
        await settle(scene)
        check(scene, row, 1)
        if name == "out of memory":
            refused = [each for node in scene.nodes.values() for each in node.all("refused")]
            assert refused and all("OOM" in reason or "memory" in reason for _, reason in refused)
        if name == "node frozen":
            assert scene.nodes["a"].all("lagged") and not scene.nodes["b"].all("lagged")


@pytest.mark.brokers
@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("node")])
async def test_what_happens_again_and_again_is_stood_or_told(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with open_scene(tmp_path, row, rate=400) as scene:
        for _ in range(5):
            await row.fault(scene)
            await scene.hear(400)
        await settle(scene)
        check(scene, row, 5)
