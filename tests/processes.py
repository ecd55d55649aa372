"""Programs run as a person runs them: typed to, read line by line, and told to end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 60  # seconds; real processes on a busy machine, under coverage


class Lines:
    """What a program writes, line by line."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self.stream = stream
        self._unread = b""

    async def next(self) -> str:
        """The next line, without its end.

        Raises:
            EOFError: there is none.
        """
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._unread:
                await self._read()
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    async def until(self, last: str) -> list[str]:
        """The lines up to and including *last*."""
        lines: list[str] = []
        while last not in lines:
            try:
                lines.append(await self.next())
            except EOFError:
                raise AssertionError(f"no {last!r} in {lines!r}") from None
        return lines

    async def rest(self) -> str:
        """All that is left, up to the end."""
        try:
            with trio.fail_after(PATIENCE):
                while True:
                    await self._read()
        except EOFError:
            pass
        text, self._unread = self._unread, b""
        return text.decode()

    async def _read(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._unread += data


class Program:
    """A program that runs, in the hands of a test.

    Attributes:
        output, errors: its standard output and standard error.
    """

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin = process.stdin
        self.output = Lines(process.stdout)
        self.errors = Lines(process.stderr)

    async def type(self, *lines: str) -> None:
        with trio.fail_after(PATIENCE):
            await self.stdin.send_all("".join(f"{line}\n" for line in lines).encode())

    async def end_input(self) -> None:
        await self.stdin.aclose()

    async def wait(self) -> int:
        """Wait for its end, which is not the test's to force: its exit code."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    async def ended(self) -> tuple[int, str, str]:
        """Its exit code, and what was left to read of output and errors."""
        output, errors = await self.output.rest(), await self.errors.rest()
        return await self.wait(), output, errors


def python(*arguments: str) -> list[str]:
    """The command of this Python, which fails on what it would warn of."""
    return [sys.executable, "-W", "error", *arguments]


@asynccontextmanager
async def running(command: Sequence[str], **environment: str) -> AsyncGenerator[Program]:
    """Run a program; it is killed at the end of the block if it is still there."""
    pipe = subprocess.PIPE
    process = await trio.lowlevel.open_process(
        command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env={**os.environ, **environment}
    )
    program = Program(process)
    try:
        yield program
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in program.stdin, program.output.stream, program.errors.stream:
                await stream.aclose()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody had a moment ago, for programs that pick none themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def reach(port: int) -> None:
    """Wait until somebody listens at *port* of 127.0.0.1."""
    while True:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.sleep(0.02)
        else:
            await stream.aclose()
            return


def running_processes() -> list[tuple[int, int]]:
    """Each process of this machine that runs, with its parent.  Only on Linux."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found.append((int(entry.name), int(parent)))
    return found
