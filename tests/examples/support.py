"""Programs run for real, as a user starts them, and what talks to them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import trio

import trioweb

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 20  # seconds; real processes on a busy machine


@dataclass
class Program:
    """A running example: where it listens, its process, and whether the test has killed it."""

    url: str
    process: subprocess.Popen[str]
    is_killed: bool = False

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)


@contextmanager
def running(script: str, port: int = 0, *options: str) -> Iterator[Program]:
    """Run an example for the length of the block, then check that it ends cleanly.

    It is ended with SIGTERM, unless the block has already seen to its end.
    """
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), "--port", str(port)]
    command += options
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            deadline = threading.Timer(PATIENCE, process.kill)
            deadline.start()
            url = process.stdout.readline().strip()
            deadline.cancel()
            assert url.startswith("http://127.0.0.1:"), process.communicate()[1]
            program = Program(url, process)
            yield program
            process.terminate()
            errors = process.communicate(timeout=PATIENCE)[1]
        finally:
            process.kill()
    expected = -signal.SIGKILL if program.is_killed else 0
    assert (process.returncode, errors) == (expected, "")


class Line:
    """A TCP line to a program, which can be cut.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, listener: trio.SocketListener, target: int) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self._listener = listener
        self._target = target
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """End all connections that go over it; new ones come through."""
        for scope in self._scopes:
            scope.cancel()

    async def carry(self) -> None:
        await trio.serve_listeners(self._join, [self._listener])

    async def _join(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with near, await trio.open_tcp_stream("127.0.0.1", self._target) as far:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass_on, near, far)
                        nursery.start_soon(self._pass_on, far, near)
            except* (OSError, trio.BrokenResourceError):
                pass  # either end may go at any time
            finally:
                self._scopes.discard(scope)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()


@asynccontextmanager
async def line_to(url: str) -> AsyncGenerator[Line]:
    """A line to a program at *url*, for the length of the block."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    line = Line(listener, int(url.rstrip("/").rpartition(":")[2]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.carry)
        yield line
        nursery.cancel_scope.cancel()


async def read_until(connection: trioweb.Connection, last: str) -> list[str]:
    """Receive text messages up to and including *last*."""
    lines: list[str] = []
    while last not in lines:
        message = await connection.receive()
        assert isinstance(message, str)
        lines.append(message)
    return lines


async def fetch(url: str) -> tuple[int, str]:
    """The status and the body that an HTTP client gets from *url*."""

    def get() -> tuple[int, str]:
        try:
            with urlopen(url, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await trio.to_thread.run_sync(get)
