"""Programs that stand in pages, taken out and run as a reader would run them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATIENCE = 30  # seconds; real processes on a busy machine


def blocks(page: Path, language: str = "python") -> list[str]:
    """The code blocks of a page."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
        return number


@contextmanager
def program(code: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a page's program, on another port; for the length of the block at most."""
    assert "8000" in code
    command = [sys.executable, "-c", code.replace("8000", str(port)), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def wait_listening(port: int) -> None:
    """Wait until a program that says nothing takes connections."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return
