"""What README and the pages beside it show is what there is: programs run, tables hold."""

from __future__ import annotations

import inspect
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio

import trioweb
from tests.docs.support import blocks, program, read_line, wait_listening
from tests.examples.support import PATIENCE, ROOT

README = (ROOT / "README.md").read_text()
LIMITS = (ROOT / "docs" / "limits.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
EXAMPLES_PAGE = (ROOT / "docs" / "examples.md").read_text()
SERVER, CLIENT, RESILIENT = blocks(ROOT / "README.md")
FEED = blocks(ROOT / "docs" / "topics.md")[0]
STOP, LOG = blocks(ROOT / "docs" / "server.md")


@pytest.fixture
def port() -> int:
    """One that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
        return number


@pytest.mark.network
async def test_readme_server_and_client_talk_to_each_other(port: int) -> None:
    with program(SERVER, port) as server:
        await wait_listening(port)
        with program(CLIENT, port) as client:
            assert await read_line(client) == "Hello from Python\n"
            with program(CLIENT, port) as second:
                # The first one's line is history to the second.
                assert await read_line(second) == "Hello from Python\n"
            assert await read_line(client) == "Hello from Python\n"
            server.send_signal(signal.SIGINT)
            assert client.communicate(timeout=PATIENCE) == ("closed: 1001 \n", "")
            assert client.returncode == 0


@pytest.mark.network
async def test_readme_client_outlives_its_server(port: int) -> None:
    hello = "Hello, as soon as you are there\n"
    with program(RESILIENT, port) as client:
        with program(SERVER, port):
            assert await after_waiting(client) == "session 1\n"
            assert await read_line(client) == hello
        assert (await read_line(client)).startswith("lost: connection lost (1006")
        with program(SERVER, port):
            assert await after_waiting(client) == "session 2\n"


async def after_waiting(client: subprocess.Popen[str]) -> str:
    """The first line that is about something else than the next attempt to connect."""
    while (line := await read_line(client)).startswith("trying again in "):
        pass
    return line


@pytest.mark.network
async def test_feed_of_the_page_goes_on_where_a_peer_left(port: int) -> None:
    with program(FEED, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        url = f"ws://127.0.0.1:{port}/"
        async with trioweb.open_connection(url) as connection:
            epoch, offset, _ = json.loads(await connection.receive())
        async with trioweb.open_connection(f"{url}?epoch={epoch}&offset={offset - 1}") as again:
            assert json.loads(await again.receive())[:2] == [epoch, offset]
        async with trioweb.open_connection(f"{url}?epoch=other&offset={offset}") as stranger:
            assert json.loads(await stranger.receive())[:2] == [epoch, 1]


@pytest.mark.network
async def test_server_of_the_page_stops_softly_when_it_is_told_to(port: int) -> None:
    with program(STOP, port) as server, trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with trioweb.open_connection(f"ws://127.0.0.1:{port}/") as connection:
            await connection.send("hello")
            assert await connection.receive() == "hello"
            server.send_signal(signal.SIGTERM)
            await connection.wait_closed()
        assert connection.close_code == 1012
        assert server.wait(PATIENCE) == 0


def test_log_of_the_page_tells_connections_apart() -> None:
    code = LOG + (
        "logging.info('one', extra={'connection': '0123456789abcdef'})\nlogging.info('none')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    one, none = done.stderr.splitlines()
    assert one.endswith(" INFO [0123456789abcdef] one")
    assert none.endswith(" INFO [-] none")


def defaults(made: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(made).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def in_words(name: str, value: object) -> str:
    """A default as the tables write it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return f'"{value}"'
        case int() if name.endswith("_bytes") and value < 1024:
            return f"{value} bytes"
        case int() if name.endswith("_bytes"):
            big = value % 2**20 == 0
            return f"{value >> 20} MiB" if big else f"{value >> 10} KiB"
        case int() if name.startswith("max_") or name.endswith("_messages") or name == "level":
            return f"{value:,}"
        case _:
            return f"{value} s"


@pytest.mark.parametrize(
    ("heading", "made", "left_out"),
    [
        ("`Limits`", trioweb.Limits, set()),
        ("`Deflate`", trioweb.Deflate, set()),
        ("`Heartbeat`", trioweb.Heartbeat, {"message", "reply"}),
        ("`Retry`", trioweb.Retry, {"worth"}),
        ("`Outbox`", trioweb.Outbox, set()),
        ("`Retain`, for each topic", trioweb.Retain, set()),
        ("`open_hub`", trioweb.open_hub, {"broker", "observer", "store"}),
    ],
)
def test_page_table_tells_every_default(
    heading: str, made: Callable[..., object], left_out: set[str]
) -> None:
    table = LIMITS.partition(f"\n| {heading} | default |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    expected = {name: in_words(name, value) for name, value in defaults(made).items()}
    assert told == {name: text for name, text in expected.items() if name not in left_out}


@pytest.mark.parametrize("name", ["serve", "connect"])
def test_page_tells_every_option_of_a_command(name: str) -> None:
    command = [sys.executable, "-m", "trioweb", name, "--help"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = re.split(r"\n##", COMMANDS.partition(f"\n## `trioweb {name}`\n")[2])[0]
    option = re.compile(r"--[a-z][a-z-]+")
    assert set(option.findall(section)) == set(option.findall(usage)) - {"--help"}


def test_page_tells_every_example() -> None:
    told = set(re.findall(r"`[^`]*\bexamples/(\w+\.py)\b", EXAMPLES_PAGE))
    assert told == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_readme_links_lead_somewhere() -> None:
    links = re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', README)
    local = [link or source for link, source in links if not link.startswith(("http", "#"))]
    assert len(local) >= 9
    for target in local:
        assert (ROOT / target).is_file(), target
