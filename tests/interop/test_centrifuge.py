"""Stock clients of the Centrifuge protocol against our topic server, over real sockets."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import trio

from tests.brokers.redis_server import run_redis
from tests.interop.javascript import CHROMIUM_ARGUMENTS, centrifuge_bundle, chromium_path
from tests.processes import free_port, python, running

pytestmark = pytest.mark.network

_HERE: Final = Path(__file__).parent
_SERVER: Final = python(str(_HERE / "servers/topic_server.py"))
_SCRIPTS: Final = _HERE / "centrifuge"
# Seconds for all checks with one client; most of them wait for one thing or another.
_PATIENCE: Final = 120
_CHECKS: Final = 31

_IN_CHROMIUM: Final = """
async ([url, format]) => {
  const env = { Centrifuge: globalThis.Centrifuge, url, limit: 2 ** 20 };
  if (format === 'protobuf') {
    env.pack = x => new TextEncoder().encode(JSON.stringify(x));
    env.unpack = x => JSON.parse(new TextDecoder().decode(x));
  }
  return await globalThis.checkCentrifuge(env);
}
"""

FORMATS = pytest.mark.parametrize("format", ["json", "protobuf"])


@asynccontextmanager
async def serving(*arguments: str) -> AsyncGenerator[str]:
    """Run the application that the checks ask for; yield its URL."""
    with trio.fail_after(_PATIENCE):
        async with running([*_SERVER, "--port", "0", "--ping", "1", *arguments]) as program:
            port = int(await program.output.next())
            yield f"ws://127.0.0.1:{port}/"
            program.process.terminate()
            code, _, errors = await program.ended()
            print(errors, end="")  # for whoever looks why a test failed
            assert code == 0


async def lines_of(*command: str) -> list[str]:
    """What *command* writes; it must end well."""
    lines: list[str] = []
    async with running(command) as program:
        try:
            while True:
                lines.append(await program.output.next())
        except EOFError:
            code, _, errors = await program.ended()
        assert code == 0, "\n".join([*lines, errors])
    return lines


@pytest.mark.centrifuge
@pytest.mark.parametrize("compression", [(), ("--compression",)], ids=["plain", "compressed"])
@FORMATS
async def test_javascript_in_node(format: str, compression: tuple[str, ...]) -> None:
    async with serving(*compression) as url:
        lines = await lines_of("node", str(_SCRIPTS / "node.cjs"), url, format)
        assert lines[-1] == f"{_CHECKS} passed, 0 failed", "\n".join(lines)


@pytest.mark.centrifuge
@pytest.mark.browser
@pytest.mark.slow
@FORMATS
async def test_javascript_in_chromium(format: str) -> None:
    """With the client's own bundles, as pages have them."""
    async with serving("--compression") as url:
        with trio.fail_after(_PATIENCE):
            results = await trio.to_thread.run_sync(_checked_in_chromium, url, format)
        assert len(results) == _CHECKS
        assert not [result for result in results if result[1] is not None]


def _checked_in_chromium(url: str, format: str) -> list[list[object]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS
        )
        page = browser.new_page()
        page.add_script_tag(path=centrifuge_bundle(format))
        page.add_script_tag(path=_SCRIPTS / "checks.js")
        results: list[list[object]] = page.evaluate(_IN_CHROMIUM, [url, format])
        browser.close()
    return results


@pytest.mark.centrifuge
@FORMATS
async def test_javascript_at_the_doors_of_the_command_line(format: str, tmp_path: Path) -> None:
    """`trioweb serve`: one policy for a stock client, a plain WebSocket and POST."""
    topics, secret = tmp_path / "topics.toml", "0123456789abcdef0123456789abcdef"
    topics.write_text(
        "[chat]\npublish = true\npresence = true\n[news]\n[hidden]\nsubscribe = false\n"
    )
    secrets = tmp_path / "secrets"
    secrets.write_text(f"{secret}\n")
    command = python("-m", "trioweb", "serve", "--port", "0", "--topics", str(topics))
    with trio.fail_after(_PATIENCE):
        async with running([*command, "--token-secret-file", str(secrets)]) as program:
            port = str(urlsplit(await program.output.next()).port)
            lines = await lines_of("node", str(_SCRIPTS / "doors.cjs"), port, secret, format)
            program.process.terminate()
            code, _, errors = await program.ended()
            assert code == 0, errors
    assert secret not in errors
    assert [json.loads(line) for line in lines] == [
        ["granted", "hidden:a"],
        ["chat", "subscribed", 0],
        ["POST", 200, {"by": "POST"}],
        ["POST", 401, None],
        ["plain", ['{"hello":"all"}']],
        ["presence", ["", "ann"]],  # and the plain peer, whose token names nobody
        ["news", "subscribed", 0, 103],
        ["nothing", "unsubscribed", 102],
        ["forged", 3500],
        ["expired", 3005],
        ["back", "subscribed"],
    ]


@FORMATS
async def test_python(format: str) -> None:
    async with serving() as url:
        module = "tests.interop.centrifuge.python_client"
        # Of what it does to its sockets at the end it warns itself.
        command = [sys.executable, "-W", "ignore", "-m", module, url, format]
        lines = await lines_of(*command)
        assert lines[-1] == "12 passed, 0 failed", "\n".join(lines)


@pytest.mark.centrifuge
async def test_javascript_understands_how_we_close() -> None:
    """Every code of the protocol's reaches the program with its reason, and decides alone."""
    async with serving() as url:
        lines = await lines_of("node", str(_SCRIPTS / "traps.cjs"), url)
    gone = "connecting 1 transport closed"
    assert [json.loads(line) for line in lines] == [
        [3503, "", ["disconnected 3503 force disconnect"]],
        [3503, "force disconnect", ["disconnected 3503 force disconnect"]],
        [
            4500,
            '{"reason":"x","reconnect":true}',
            ['disconnected 4500 reason: {"reason":"x","reconnect":true}'],
        ],
        [3503, "123", ["disconnected 3503 reason: 123"]],
        [3503, "null", ["disconnected 3503 reason: null"]],
        # Below 3000 a program never hears of code and reason.
        [1013, "slow consumer", [gone, "connected"]],
        [1008, "policy", [gone, "connected"]],
        [1012, "", [gone, "connected"]],
    ]


@pytest.mark.centrifuge
@pytest.mark.slow
@pytest.mark.parametrize("is_stored", [False, True], ids=["in memory", "stored"])
async def test_javascript_comes_back_to_a_server_that_was_ended(
    is_stored: bool, tmp_path: Path
) -> None:
    """Softly, at once, or by standing still; what was lost with the old process is told.

    With a store nothing is lost, and everybody is recovered.
    """
    port = str(free_port())
    command = [*_SERVER, "--port", port, "--ping", "1"]
    if is_stored:
        command += ["--store", str(tmp_path / "topics.db")]
    with trio.fail_after(_PATIENCE):
        lines = await lines_of("node", str(_SCRIPTS / "restart.cjs"), port, *command)
    assert [json.loads(line) for line in lines] == [
        ["SIGTERM", 3001, "shutdown", True, is_stored],
        ["SIGKILL", 1, "transport closed", True, is_stored],
        ["idle", []],
        ["SIGSTOP", 2, "no ping", True, True],
    ]


@pytest.mark.centrifuge
@pytest.mark.redis
@pytest.mark.slow
@FORMATS
async def test_javascript_at_two_servers_that_a_broker_joins(format: str, tmp_path: Path) -> None:
    """One of them dies without a word: its members have left once its lease is over."""
    with run_redis(tmp_path) as redis, trio.fail_after(_PATIENCE):
        command = [*_SERVER, "--port", "0", "--broker", f"redis://127.0.0.1:{redis.port}"]
        async with running(command) as stays, running(command) as dies:
            urls = [f"ws://127.0.0.1:{await each.output.next()}/" for each in (stays, dies)]
            script = str(_SCRIPTS / "nodes.cjs")
            async with running(["node", script, *urls, format]) as client:
                told = []
                while (line := await client.output.next()) != "ready":
                    told.append(json.loads(line))
                assert told == [
                    ["presence", ["ada", "bob"]],
                    ["stats", 2, 2],
                    ["presence", ["ada", "bob"]],
                    ["stats", 2, 2],
                    ["history", [["hello", "ada"]]],
                    ["events", [["ada", "join", "bob"]]],
                ]
                dies.process.kill()
                left = json.loads(await client.output.next())
                assert left == ["left", [["ada", "leave", "bob"]], ["ada"]]
                code, _, errors = await client.ended()
                assert code == 0, errors
            stays.process.terminate()
            await stays.ended()
