"""The auction, and the tests of it that a user would write, run as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trioweb
from tests.examples.support import EXAMPLES
from tests.processes import PATIENCE, python, running


def run_tests(folder: Path) -> str:
    """What pytest says of the tests of the auction, as they stand in *folder*."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "auction.py", "test_auction.py":
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    return tmp_path


def test_tests_of_the_auction_pass(folder: Path) -> None:
    output = run_tests(folder)
    assert "2 passed" in output, output


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("auction.py", "since=since", "since=None"),  # who comes back gets nothing
        ("auction.py", "since=since", "since=0"),  # or everything again
        ("test_auction.py", "confirm=True", "confirm=False"),
    ],
    ids=str,
)
def test_tests_of_the_auction_find_what_is_wrong(
    folder: Path, file: str, right: str, wrong: str
) -> None:
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong))
    output = run_tests(folder)
    assert "1 failed" in output and "--network-seed=" in output, output


@pytest.mark.network
async def test_auction_runs() -> None:
    async with running(python("examples/auction.py", "--port", "0")) as program:
        url = await program.output.next()
        with trio.fail_after(PATIENCE):
            async with trioweb.open_connection(url) as connection:
                for bid in "5", "4", "6":
                    await connection.send(bid)
                bids = [json.loads(await connection.receive()) for _ in range(2)]
                assert [(offset, amount) for _, offset, amount in bids] == [(1, 5), (2, 6)]
