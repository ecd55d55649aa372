"""Programs that stand in pages, taken out and run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.processes import free_port, reach

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PATIENCE = 30  # seconds; real processes on a busy machine


def blocks(page: Path, language: str = "python") -> list[str]:
    """The code blocks of a page."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def program(code: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a page's program, on other ports; for the length of the block at most."""
    assert "8000" in code
    code = code.replace("8000", str(port)).replace("8080", str(free_port()))
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def wait_listening(port: int) -> None:
    """Wait until a program that says nothing takes connections."""
    with trio.fail_after(PATIENCE):
        await reach(port)


async def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints; one that prints none in time is ended, and all that it
    said is shown."""
    assert process.stdout is not None
    with trio.move_on_after(PATIENCE):
        line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        if line:
            return line
    process.kill()
    raise AssertionError(f"it printed no line; {process.communicate(timeout=PATIENCE)}")
