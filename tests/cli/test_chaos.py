"""`trioweb chaos` as a person runs it: on real sockets, before a server of the test's."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import trioweb
from tests.cli.support import Site, in_terminal, sending
from tests.processes import PATIENCE, ROOT, Program, python, running
from trioweb._cli import main
from trioweb._cli._chaos import plan_of
from trioweb._cli._chaos_options import add_options

FAULT = "Fault('reset', ('phone',))"
RULE = """
def rule(chunk):
    if b"secret" in chunk.data:
        return Cut(0)

plan = Plan((Fault("intercept", ("server",), rule=rule),))
"""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "LISTEN, TARGET"),
        (["9000"], "TARGET"),
        (["here", "80"], "'here' is not PORT or HOST:PORT"),
        (["90000", "80"], "'90000' is not a port"),
        (["9000", "0"], "nobody listens on port 0"),
        (["9000", "80", "--latency", "-1"], "'-1' is not a number of seconds"),
        (["9000", "80", "--bandwidth", "0"], "'0' is not a number of bytes a second"),
        (["9000", "80", "--segment", "0"], "'0' is not a whole number from 1"),
        (["9000", "80", "--half-open", "soon"], "'soon' is not AT or AT+SECONDS"),
        (["9000", "80", "--half-open", "1..2"], "'1..2' is not a number of seconds"),
        (["9000", "80", "--seed", "x"], "'x' is not a whole number"),
        (["9000", "80", "--plan", "missing.py"], "missing.py: cannot be read: No such file"),
        (["192.0.2.1:7", "80"], "cannot listen on 192.0.2.1:7"),
        (["nobody..invalid:7", "80"], "choose another LISTEN"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("trioweb")
    assert complaint in line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must set plan to a Plan"),
        ("plan = 3", "must set plan to a Plan"),
        ("x = 1\nplan = Plam()", "line 2: NameError"),
        ("plan = (", "line 1: SyntaxError"),
        ("plan = Plan((Fault('reste', ('server',)),))", "a fault's kind must be one of"),
        (f"plan = Plan(({FAULT},))", "no host 'phone' here; the hosts are client and server"),
    ],
    ids=str,
)
def test_plan_that_is_none_is_told_in_one_line(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.py"
    path.write_text(text)
    assert main(["chaos", "0", "80", "--plan", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert complaint in line


async def test_plan_of_the_documentation_is_one() -> None:
    text = (ROOT / "docs" / "chaos.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    plan = plan_of(code, "chaos.md")
    assert [fault.kind for fault in plan.faults] == ["intercept", "shape", "partition"]


def test_documentation_has_every_option() -> None:
    text = (ROOT / "docs" / "chaos.md").read_text()
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = [action.option_strings[0] for action in parser._actions if action.option_strings]
    assert len(options) > 15
    assert [option for option in options[1:] if f"`{option}" not in text] == []


def test_help_names_each_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--latency", "--drop-after", "--half-open AT[+SECONDS]", "--plan FILE"):
        assert option in text


async def echo(connection: trioweb.Connection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def chaos(site: Site, *options: str) -> AsyncGenerator[tuple[Program, str]]:
    """Run the proxy before *site*; the program, and the URL that leads through it."""
    command = python("-m", "trioweb", "chaos", "0", f"127.0.0.1:{site.port}", *options)
    async with running(command) as program:
        address = await program.output.next()
        yield program, f"ws://{address}/"


async def end(program: Program) -> str:
    """End it as a person does; what it has told since."""
    program.process.send_signal(signal.SIGINT)
    code, output, errors = await program.ended()
    assert (code, output) == (0, "")
    assert "Traceback" not in errors
    return errors


@pytest.mark.network
async def test_connection_passes_and_what_happened_is_told_with_the_seed(site: Site) -> None:
    await site.start(echo)
    options = ("--seed", "7", "--latency", "0.01", "--segment", "5")
    async with chaos(site, *options) as (program, url):
        assert await program.errors.next() == "seed: 7"
        async with trioweb.open_connection(url) as connection:
            with trio.fail_after(PATIENCE):
                await connection.send("x" * 1000)
                assert await connection.receive() == "x" * 1000
        told = await end(program)
    assert told.startswith("dial: client:49152 > server:80, at 0.000 s\nstands for 127.0.0.1:")
    assert "ended: 1 connections, " in told
    assert told.endswith("the same again: --seed 7\n")


@pytest.mark.network
async def test_cut_after_so_many_bytes_resets_for_both_ends(site: Site) -> None:
    lost = trio.Event()

    async def watch(connection: trioweb.Connection) -> None:
        await connection.wait_closed()
        assert connection.close_code == 1006
        lost.set()

    await site.start(watch)
    async with chaos(site, "--cut-after", "2000") as (program, url):
        async with trioweb.open_connection(url) as connection:
            with trio.fail_after(PATIENCE):
                await connection.send("x" * 3000)
                with pytest.raises(trioweb.ConnectionLost):
                    await connection.receive()
                await lost.wait()
        assert "cut: client:49152 > server:80" in await end(program)


@pytest.mark.network
async def test_drop_after_so_many_bytes_leaves_silence_that_a_heartbeat_finds(site: Site) -> None:
    await site.start(sending("x" * 3000, "y"))
    heartbeat = trioweb.Heartbeat(interval=0.2, timeout=0.2)
    async with chaos(site, "--drop-after", "2000") as (program, url):
        with trio.fail_after(PATIENCE), pytest.raises(trioweb.ConnectionLost):
            async with trioweb.open_connection(url, heartbeat=heartbeat) as connection:
                await connection.receive()
        assert "drop: server:80 > client:49152" in await end(program)


@pytest.mark.network
async def test_connections_are_refused_for_the_time_of_a_refusal(site: Site) -> None:
    await site.start(echo)
    async with chaos(site, "--refuse", "0+2") as (program, url):
        with trio.fail_after(PATIENCE):
            while "refuse for 2s" not in await program.errors.next():
                pass
            retry = trioweb.Retry(initial=0.2, maximum=0.2)
            async with trioweb.open_client(url, retry=retry) as client:
                await client.send("after all")
                assert await client.receive() == "after all"
                assert client.statistics().attempts > 1
        await end(program)


@pytest.mark.network
async def test_plan_of_a_file_with_a_function_of_the_users(site: Site, tmp_path: Path) -> None:
    await site.start(echo)
    path = tmp_path / "plan.py"
    path.write_text(RULE)  # what the client sends is masked
    async with chaos(site, "--plan", str(path)) as (program, url):
        async with trioweb.open_connection(url) as connection:
            with trio.fail_after(PATIENCE):
                await connection.send("nothing")
                assert await connection.receive() == "nothing"
                await connection.send("a secret")
                with pytest.raises(trioweb.ConnectionLost):
                    await connection.receive()
        assert "cut: server:80 > client:49152" in await end(program)


@pytest.mark.network
async def test_function_that_fails_ends_the_proxy_and_says_why(site: Site, tmp_path: Path) -> None:
    await site.start(echo)
    path = tmp_path / "plan.py"
    path.write_text(RULE.replace("Cut(0)", "Cut(-1)").replace("secret", "GET"))
    async with chaos(site, "--plan", str(path)) as (program, url):
        with trio.fail_after(PATIENCE):
            with pytest.raises(trioweb.OpenFailed):
                async with trioweb.open_connection(url):
                    pass
            code, _, errors = await program.ended()
    assert code == 1
    assert "failed: --plan: rule raised ValueError" in errors
    assert "Traceback" not in errors


@pytest.mark.network
async def test_target_that_is_not_there_is_told_and_the_proxy_goes_on(site: Site) -> None:
    await site.start(echo)
    async with chaos(site) as (program, url):
        site.stop()
        for _ in range(2):
            with trio.fail_after(PATIENCE), pytest.raises(trioweb.OpenFailed):
                async with trioweb.open_connection(url):
                    pass
        assert (await end(program)).count("Connection refused: server, at") == 2


@pytest.mark.network
async def test_in_a_terminal_it_is_coloured_and_ends_with_ctrl_c() -> None:
    command = python("-m", "trioweb", "chaos", "0", "1", "--seed", "5", "--crash", "0")
    async with in_terminal(command) as (terminal, process):
        await terminal.see("\x1b[")
        await terminal.see("crash")
        await terminal.type("\x03")
        await terminal.see("--seed 5")
        assert await process.wait() == 0
