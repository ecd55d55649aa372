"""The units of `docs/deploying.md`, as systemd's own tools take them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio

from tests.docs.support import DOCS, blocks, wait_listening
from tests.processes import PATIENCE, free_port, running

pytestmark = pytest.mark.systemd

PAGE = DOCS / "deploying.md"


def write_units(directory: Path, program: Path) -> list[str]:
    """Write both units for a *program* that exists; their paths."""
    paths = []
    for kind, text in zip(("socket", "service"), blocks(PAGE, "ini"), strict=True):
        path = directory / f"trioweb.{kind}"
        path.write_text(text.replace("/opt/trioweb/bin/trioweb", str(program)))
        paths.append(str(path))
    return paths


def verify(paths: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "verify", "--man=no", *paths]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_units_are_what_systemd_takes(tmp_path: Path) -> None:
    program = tmp_path / "trioweb"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = verify(write_units(tmp_path, program))
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []
    assert done.returncode == 0, done.stderr


def test_systemd_would_tell_of_what_it_does_not_know(tmp_path: Path) -> None:
    paths = write_units(tmp_path, tmp_path / "nothing")
    assert "nothing is not executable" in verify(paths).stderr


@pytest.mark.network
async def test_service_takes_the_socket_that_systemd_opened() -> None:
    port = free_port()
    command = [sys.executable, "-m", "trioweb", "serve"]
    activate = shutil.which("systemd-socket-activate")
    assert activate is not None
    async with running([activate, "-l", f"127.0.0.1:{port}", *command]) as program:
        await wait_listening(port)

        def ask() -> bytes:
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
                body: bytes = answer.read()
                return body

        assert await trio.to_thread.run_sync(ask) == b"ok\n"
        program.process.terminate()
        assert await program.wait() == 0
