"""The broadcast server as a user runs it: a `trioweb serve` process that tests can kill.

Knows nothing of the clients that are tried against it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

import httpx

KEY: Final = "a-key-for-the-tests-alone"
PATIENCE: Final = 30  # seconds; real processes on a busy machine

# What the wrappers of the wild send to keep their connections alive.
APP_HEARTBEATS: Final = ("--app-heartbeat", "ping=pong", "--app-heartbeat", '{"keepalive":"live"}=')


@dataclass
class Server:
    """A running `trioweb serve`: where it listens, and its process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def ws(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def statistics(self) -> Any:
        with urlopen(f"{self.url}stats", timeout=PATIENCE) as response:
            return json.load(response)

    def kill(self) -> None:
        """End it as a crash or a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """End it softly, and wait for that."""
        self.process.terminate()
        self.process.wait(PATIENCE)


@contextmanager
def serving(*options: str, port: int = 0) -> Iterator[Server]:
    """Run `trioweb serve` for the length of the block.

    It is ended with SIGTERM, unless the block has already seen to its end.  Unless that was a
    SIGKILL, it must have been a clean end.
    """
    command = [sys.executable, "-m", "trioweb", "serve", "--port", str(port), *options]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if url:
                yield Server(url, process)
                process.terminate()
                process.wait(PATIENCE)
        finally:
            process.kill()
        log.seek(0)
        errors = log.read()
        assert url.startswith("http://127.0.0.1:"), errors
        assert process.returncode in (0, -signal.SIGKILL), errors
        assert "Traceback" not in errors, errors


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Ask again and again whether *condition* holds; for what no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


def write_keys(directory: Path) -> str:
    """A file with the API key with which `publish` comes."""
    file = directory / "keys"
    file.write_text(f"{KEY}\n")
    return str(file)


def publish(server: Server, text: str, path: str = "lobby") -> int:
    answer = httpx.post(
        f"{server.url}{path}",
        content=text,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 200, answer
    return int(answer.json()["offset"])
