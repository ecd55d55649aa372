"""`trioweb top`: the admin's figures in a terminal, against the real server."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

import trioweb
from tests.cli.support import in_terminal, run
from tests.processes import PATIENCE, python, running
from trioweb._cli import main
from trioweb._cli._top import _socket_url

network = pytest.mark.network

KEY = "the-key-of-the-admin"
HOSTILE = "a\x1b[31mred"


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[str]:
    """A server with an admin key; its URL."""
    monkeypatch.setenv("TRIOWEB_ADMIN_KEY", KEY)
    with trio.fail_after(2 * PATIENCE):
        async with running(python("-m", "trioweb", "serve", "--port", "0")) as program:
            yield await program.output.next()


def top(url: str, *options: str) -> list[str]:
    return python("-m", "trioweb", "top", url, *options)


@asynccontextmanager
async def visitor(url: str, topic: str) -> AsyncGenerator[trioweb.Connection]:
    socket_url = url.replace("http", "ws") + topic
    async with trioweb.open_connection(socket_url) as connection:
        yield connection


@network
async def test_without_a_terminal_it_prints_all_of_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as url, visitor(url, "lobby") as lobby, visitor(url, "news"):
        for _ in range(3):
            await lobby.send("hello")
            await lobby.receive()
        code, output, errors = await run(top(url), COLUMNS="200")
        assert (code, errors) == (0, "")
        assert "\x1b" not in output
        lines = output.splitlines()
        assert "alone, up for" in lines[0]
        assert lines[1].startswith("publications 0/s, deliveries 0/s, connections 3,")
        assert "Topics: 2, by rate" in lines and "Connections: 3, by age" in lines
        [row] = [line.split() for line in lines if line.startswith("lobby ")]
        assert row[1:4] == ["0", "3", "3"] and row[-2:] == ["1", "0"]
        assert any("127.0.0.1:" in line and "news" in line for line in lines)
        sort = ["--sort", "name", "--sort-connections", "lag"]
        _, output, _ = await run(top(url, "--once", *sort), COLUMNS="200")
        assert "Topics: 2, by name" in output and "Connections: 3, by lag" in output
        assert output.index("\nlobby ") < output.index("\nnews ")


@network
async def test_in_a_terminal_it_goes_on_until_q(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as url, visitor(url, "lobby"):
        async with in_terminal(top(url), LINES="40") as (terminal, process):
            await terminal.see("Topics: 1, by rate")
            async with visitor(url, "later"):
                await terminal.see("later")
            await terminal.type("s")
            await terminal.see("by name")
            await terminal.type("c")
            await terminal.see("by queued")
            await terminal.type("r")
            await terminal.type("q")
            await terminal.see("\x1b[?1049l")  # what was there before
            assert await process.wait() == 0


@network
async def test_ctrl_c_ends_it_and_what_peers_chose_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as url, visitor(url, "a%1b[31mred"):
        async with in_terminal(top(url), LINES="40") as (terminal, process):
            await terminal.see("a\\x1b[31mred")
            assert HOSTILE not in terminal.screen
            await terminal.type("\x03")
            await terminal.see("\x1b[?1049l")
            assert await process.wait() == 0


@network
async def test_in_a_terminal_it_outlives_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOWEB_ADMIN_KEY", KEY)
    serve = python("-m", "trioweb", "serve", "--port")
    with trio.fail_after(2 * PATIENCE):
        async with running([*serve, "0"]) as program:
            url = await program.output.next()
            port = url.rstrip("/").rpartition(":")[2]
            async with in_terminal(top(url), LINES="40") as (terminal, process):
                await terminal.see("connections 1")
                program.process.kill()
                await terminal.see("waiting for the server")
                terminal.screen = ""
                async with running([*serve, port]) as again:
                    await again.output.next()
                    await terminal.see("connections 1")
                process.send_signal(signal.SIGTERM)
                await terminal.see("\x1b[?1049l")
                assert await process.wait() == 0


@network
async def test_wrong_key_and_no_server_are_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as url:
        command = top(url)
        code, output, errors = await run(command, TRIOWEB_ADMIN_KEY="another-key-of-the-admin")
        assert (code, output, errors) == (1, "", "failed: this is no admin key\n")
    code, output, errors = await run(top(url))
    assert (code, output) == (1, "")
    [line] = errors.splitlines()
    assert line.startswith("failed: ")


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("http://host:80", "ws://host:80/admin/socket"),
        ("https://host/admin", "wss://host/admin/socket"),
        ("ws://host/", "ws://host/admin/socket"),
        ("wss://host/x/admin/socket", "wss://host/x/admin/socket"),
    ],
)
def test_url_of_a_server_or_its_page_leads_to_the_feed(url: str, socket: str) -> None:
    assert _socket_url(url) == socket


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["http://127.0.0.1:1/"], "needs --admin-key-file or TRIOWEB_ADMIN_KEY"),
        (["http://127.0.0.1:1/", "--admin-key-file", "/nowhere"], "/nowhere: No such file"),
        (["http://127.0.0.1:1/", "--sort", "colour"], "invalid choice: 'colour'"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRIOWEB_ADMIN_KEY", raising=False)
    assert main(["top", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_without_rich_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOWEB_ADMIN_KEY", KEY)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "trioweb._cli._top_view", raising=False)
    assert main(["top", "http://127.0.0.1:1/"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "needs rich" in line and "pip install 'trioweb[cli,centrifuge]'" in line


def test_url_that_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOWEB_ADMIN_KEY", KEY)
    assert main(["top", "ftp://127.0.0.1:1/x"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "must start with ws:// or wss://" in line
    assert KEY not in line and json.dumps(KEY) not in line
