"""`trioweb connect` in the hands of a test: what it talks to, and where it runs."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

import trioweb
from tests.processes import PATIENCE, python
from trioweb.testing import RawPeer


class Site:
    """A server in this process, which writes down what it hears."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.requests: list[trioweb.Request] = []
        self._nursery = nursery
        self._heard, self._hearing = trio.open_memory_channel[trioweb.Connection | str | bytes](100)
        self._scope = trio.CancelScope()
        self.port = 0

    async def start(self, handler: Callable[..., Awaitable[object]], **options: Any) -> None:
        """Serve, on the same port each time."""

        async def handle(connection: trioweb.Connection) -> None:
            self.requests.append(connection.request)
            await handler(connection)

        async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
            with self._scope:
                await trioweb.serve(
                    handle, self.port, host="127.0.0.1", task_status=task_status, **options
                )

        self._scope = trio.CancelScope()
        server: trioweb.Server = await self._nursery.start(serve)
        self.port = server.port

    def stop(self) -> None:
        self._scope.cancel()

    async def listen(self, connection: trioweb.Connection) -> None:
        """A handler: what arrives can be `heard`, and is sent back."""
        async for message in connection:
            await self._heard.send(message)
            with suppress(trioweb.ConnectionClosed):  # but what had arrived is heard all the same
                await connection.send(message)

    async def heard(self, count: int) -> list[object]:
        """The next messages that the server has received."""
        with trio.fail_after(PATIENCE):
            return [await self._hearing.receive() for _ in range(count)]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


def connect(url: str, *options: str) -> list[str]:
    return python("-m", "trioweb", "connect", url, *options)


async def run(command: list[str], data: bytes = b"", **environment: str) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, its output, and its errors."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            stdin=data,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **environment},
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def sending(*messages: str | bytes) -> Callable[[trioweb.Connection], Awaitable[None]]:
    """A handler that sends *messages* and is through."""

    async def handle(connection: trioweb.Connection) -> None:
        for message in messages:
            await connection.send(message)

    return handle


@asynccontextmanager
async def raw_server(*turns: Callable[[RawPeer], Awaitable[object]]) -> AsyncGenerator[str]:
    """A server whose connections each get their turn; its URL."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")

        @nursery.start_soon
        async def serve() -> None:
            for turn in turns:
                stream = await listener.accept()
                try:
                    await turn(await RawPeer.accept(stream))
                finally:
                    await trio.aclose_forcefully(stream)

        with trio.fail_after(PATIENCE):
            yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()
    await listener.aclose()


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, master: int) -> None:
        self._stream = trio.lowlevel.FdStream(master)
        self.screen = ""

    async def type(self, keys: str) -> None:
        await self._stream.send_all(keys.encode())

    async def see(self, text: str) -> None:
        """Wait until *text* is on the screen."""
        with trio.move_on_after(PATIENCE):
            while text not in self.screen:
                self.screen += (await self._stream.receive_some()).decode()
        assert text in self.screen

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def in_terminal(
    command: list[str], **environment: str
) -> AsyncGenerator[tuple[Terminal, trio.Process]]:
    """Run a command in a terminal of its own."""
    master, slave = os.openpty()
    terminal = Terminal(master)
    try:
        process = await trio.lowlevel.open_process(
            command,
            preexec_fn=partial(os.login_tty, slave),
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
        )
    finally:
        os.close(slave)
    try:
        yield terminal, process
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await terminal.aclose()
