"""The options of the admin page: where it is, and whose keys count."""

from __future__ import annotations

import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

import trioweb
from tests.cli.support import run
from tests.processes import PATIENCE, Program, python, running
from trioweb._cli import main

network = pytest.mark.network

KEY = "the-key-of-the-admin"
OTHER = "another-key-of-the-admin"


def once(url: str) -> list[str]:
    return python("-m", "trioweb", "top", url, "--once")


async def see(program: Program, text: str) -> None:
    """Wait until the program has logged *text*."""
    while text not in await program.errors.next():
        pass


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--admin", "127.0.0.1:0"], "--admin needs --admin-key-file or TRIOWEB_ADMIN_KEY"),
        (["--admin", "127.0.0.1"], "'127.0.0.1' is not HOST:PORT"),
        (["--admin-key-file", "/nowhere"], "--admin-key-file /nowhere: No such file"),
        (["--admin", "127.0.0.1:0", "--workers", "2"], "one address leads to one worker"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRIOWEB_ADMIN_KEY", raising=False)
    assert main(["serve", "--port", "0", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_keys_that_could_be_guessed_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text("short\n")
    assert main(["serve", "--port", "0", "--admin-key-file", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "line 1: a key has at least 16 characters" in line and "short" not in line


@network
async def test_sighup_reads_the_keys_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    command = python("-m", "trioweb", "serve", "--port", "0", "--admin-key-file", str(file))
    with trio.fail_after(3 * PATIENCE):
        async with running(command) as program:
            url = await program.output.next()
            code, output, _ = await run(once(url), TRIOWEB_ADMIN_KEY=KEY)
            assert code == 0 and "alone, up for" in output
            file.write_text(f"{OTHER}\n")
            program.process.send_signal(signal.SIGHUP)
            await see(program, "read again: admin keys")
            code, output, errors = await run(once(url), TRIOWEB_ADMIN_KEY=KEY)
            assert (code, output, errors) == (1, "", "failed: this is no admin key\n")
            code, _, _ = await run(once(url), TRIOWEB_ADMIN_KEY=OTHER)
            assert code == 0
            file.write_text("short\n")
            program.process.send_signal(signal.SIGHUP)
            await see(program, "what was read before stays")
            code, _, _ = await run(once(url), TRIOWEB_ADMIN_KEY=OTHER)
            assert code == 0


@network
async def test_workers_are_shown_together() -> None:
    command = python("-m", "trioweb", "serve", "--port", "0", "--workers", "2")
    with trio.fail_after(3 * PATIENCE):
        async with running(command, TRIOWEB_ADMIN_KEY=KEY) as program:
            url = await program.output.next()
            async with AsyncExitStack() as stack:
                for _ in range(20):
                    lobby = trioweb.open_connection(url.replace("http", "ws") + "lobby")
                    await stack.enter_async_context(lobby)
                code, output, errors = await run(once(url), TRIOWEB_ADMIN_KEY=KEY, COLUMNS="200")
            assert (code, errors) == (0, "")
            first, second, *lines = output.splitlines()
            assert re.match(r"workers 1, 2 together, told by worker [12] on .* up for ", first)
            assert "not shown" not in first
            assert "connections 21, subscriptions 20," in second
            [row] = [line.split() for line in lines if line.startswith("lobby ")]
            assert row[-2] == "20"
            # The kernel deals them out: that all are one worker's is no chance worth noting.
            assert {line.split()[-1] for line in lines if " lobby " in line} == {"1", "2"}
            program.process.terminate()
            await program.ended()
