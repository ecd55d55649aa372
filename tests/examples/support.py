"""Programs run for real, as a user starts them, and what talks to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    """A running example: where it listens, and its process."""

    url: str
    process: subprocess.Popen[str]

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
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.communicate()[1]
            yield Program(url, process)
            process.terminate()
            errors = process.communicate(timeout=PATIENCE)[1]
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


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
