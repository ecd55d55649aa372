"""The deployment of `examples/nodes`, with its files: a Redis, two nodes, nginx before them.

One node after the other is killed while clients of the protocol and of events watch, and while
somebody publishes by POST: nobody misses anything, and nothing arrives twice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio

import trioweb
from tests.interop.fronts import _find
from tests.processes import ROOT, Program, free_port, python, reach, running

pytestmark = [pytest.mark.network, pytest.mark.redis, pytest.mark.front]

FILES: Final = ROOT / "examples" / "nodes"
KEY: Final = "0123456789abcdef"
_SECONDS: Final = 60
_COUNT: Final = 60


@dataclass
class Deployment:
    directory: Path
    ports: dict[str, int]
    nodes: dict[str, Program] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """One of the files, with ports and paths that are this test's."""
        text = (FILES / name).read_text()
        for old, new in self.ports.items():
            text = text.replace(old, f"{new}")
        if name == "nginx.conf":
            # Its log and what it writes meanwhile belong to the test, too.
            where = " ".join(
                f"{kind}_temp_path {self.directory};"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = text.replace("http {", f"http {{ access_log off; {where}", 1)
            text = text.replace("listen ", "listen 127.0.0.1:")
            where = f"pid {self.directory}/pid; error_log {self.directory}/errors;"
            text = f"daemon off; master_process off; {where}\n{text}"
        path = self.directory / name
        path.write_text(text)
        return path

    @asynccontextmanager
    async def node(self, port: str) -> AsyncGenerator[Program]:
        options = ["--config", str(self.file("trioweb.toml")), "--port", f"{self.ports[port]}"]
        command = python("-m", "trioweb", "serve", *options)
        async with running(command, TRIOWEB_API_KEY=KEY) as program:
            with trio.fail_after(_SECONDS):
                await program.output.next()
            yield program


@asynccontextmanager
async def deployed(directory: Path) -> AsyncGenerator[Deployment]:
    ports = {port: free_port() for port in ("6379", "8000", "8001", "8002")}
    all = Deployment(directory, ports)
    nginx = _find("nginx")
    assert nginx is not None
    async with AsyncExitStack() as stack:
        redis = ["redis-server", str(all.file("redis.conf")), "--dir", str(directory)]
        await stack.enter_async_context(running(redis))
        await reach(ports["6379"])
        command = [nginx, "-e", "stderr", "-p", str(directory), "-c", str(all.file("nginx.conf"))]
        await stack.enter_async_context(running(command))
        await reach(ports["8000"])
        yield all


async def publish(port: int, number: int) -> None:
    """Until there is an answer: with the same key, it is published once."""
    head = (
        f"POST /news HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(str(number))}\r\n"
        f"Idempotency-Key: {number}\r\n\r\n{number}"
    )
    while True:
        answer = b""
        try:
            with trio.move_on_after(5):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    await stream.send_all(head.encode())
                    async for chunk in stream:
                        answer += bytes(chunk)
        except (OSError, trio.BrokenResourceError):
            pass
        if b" 200 " in answer.partition(b"\r\n")[0]:
            return
        await trio.sleep(0.1)


@dataclass
class Watcher:
    """What somebody was given."""

    numbers: list[int] = field(default_factory=list)
    restarts: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def hear(self, number: int) -> None:
        self.numbers.append(number)
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, number: int) -> None:
        """Wait until it has *number*; -1 is told once it watches."""
        while number not in self.numbers[-1:]:
            await self.changed.wait()


async def watch_protocol(port: int, watcher: Watcher) -> None:
    async with (
        trioweb.open_topic_client(f"ws://127.0.0.1:{port}/connection/websocket") as client,
        client.subscription("news") as news,
    ):
        watcher.hear(-1)
        async for publication in news:
            watcher.hear(publication.data)


async def watch_events(port: int, watcher: Watcher) -> None:
    """As EventSource does: come back with the id of the last event."""
    last = ""
    while True:
        resume = f"Last-Event-ID: {last}\r\n" if last else ""
        head = f"GET /news HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n{resume}\r\n"
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(head.encode())
                unread = b""
                async for chunk in stream:
                    *events, unread = (unread + bytes(chunk)).split(b"\n\n")
                    for event in events:
                        fields = dict(
                            line.split(": ", 1)
                            for line in event.decode().splitlines()
                            if ": " in line
                        )
                        last = fields.get("id", last)
                        if "data" in fields:
                            watcher.hear(json.loads(fields["data"]))
                        elif "id" in fields:
                            watcher.hear(-1)
        except (OSError, trio.BrokenResourceError):
            pass
        watcher.restarts += 1
        await trio.sleep(0.1)


async def test_nodes_are_killed_and_nobody_misses_anything(tmp_path: Path) -> None:
    async with deployed(tmp_path) as all, trio.open_nursery() as nursery:
        front = all.ports["8000"]
        watchers = [Watcher() for _ in range(24)]
        with trio.fail_after(3 * _SECONDS):
            async with all.node("8001") as first:
                async with all.node("8002") as second:
                    for watch, watcher in zip(
                        [watch_protocol, watch_events] * 12, watchers, strict=True
                    ):
                        nursery.start_soon(watch, front, watcher)
                        await watcher.wait(-1)
                    for number in range(_COUNT):
                        await publish(front, number)
                    second.process.kill()
                    await second.process.wait()
                    for number in range(_COUNT, 2 * _COUNT):
                        await publish(front, number)
                async with all.node("8002"):
                    first.process.kill()
                    await first.process.wait()
                    for number in range(2 * _COUNT, 3 * _COUNT):
                        await publish(front, number)
                    for watcher in watchers:
                        await watcher.wait(3 * _COUNT - 1)
        for watcher in watchers:
            got = [number for number in watcher.numbers if number >= 0]
            assert got == list(range(3 * _COUNT))
        # Whoever came back has found a node at once, those that had been killed before, too.
        assert "no live upstreams" not in (tmp_path / "errors").read_text()
        nursery.cancel_scope.cancel()
