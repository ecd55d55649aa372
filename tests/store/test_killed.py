"""A process that publishes is killed wherever it is; the next one has all that it was told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

PATIENCE = 500  # seconds; 200 seeds take 40 on two idle cores


def run(directory: Path, kind: str, seeds: range) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.killed", str(directory), kind, *map(str, seeds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.network
@pytest.mark.skipif(sys.platform == "win32", reason="a kill there is no SIGKILL")
@pytest.mark.parametrize("kind", ["hub", "engine"])
def test_what_publishers_were_told_survives_a_kill_at_a_dozen_places(
    tmp_path: Path, kind: str
) -> None:
    """Invariant 15."""
    run(tmp_path, kind, range(12))


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a kill there is no SIGKILL")
@pytest.mark.parametrize("kind", ["hub", "engine"])
def test_what_publishers_were_told_survives_a_kill_at_200_places(tmp_path: Path, kind: str) -> None:
    run(tmp_path, kind, range(100, 300))
