"""What the pages show is what there is: each program runs, and each name exists."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import importlib
import inspect
import pickle
import re
import signal
import subprocess
import sys
import typing
from collections.abc import Awaitable, Callable
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import aiohttp.web
import hypercorn.config
import picows
import pytest
import trio
import trio_websocket

import trioweb
import trioweb.redis
import trioweb.testing
from tests.docs import settings
from tests.docs.support import DOCS, PATIENCE, ROOT, blocks, program, read_line, wait_listening
from tests.processes import free_port
from trioweb import CloseCode

PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "SECURITY.md"])
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page), 1)
]
MODULES = [trioweb, trioweb.testing, trioweb.redis]
# One on asyncio that serves, with Trio in a thread, has a test in test_howto.
IS_PROGRAM = re.compile(r"^trio\.run\(|\A(?!.*8000).*^asyncio\.run\(", re.MULTILINE | re.DOTALL)
IS_TEST = re.compile(r"^\s*(?:async )?def test_", re.MULTILINE)
PROGRAMS = [
    each
    for each in BLOCKS
    if IS_PROGRAM.search(str(each.values[0])) and not IS_TEST.search(str(each.values[0]))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_block_is_python_and_uses_what_exists(code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "trioweb":
                assert hasattr(trioweb, node.attr), node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trioweb"):
            module = importlib.import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_there_are_programs() -> None:
    assert len(PROGRAMS) > 12


def server_for(code: str) -> str:
    """What the client *code* talks to: the server that its page begins with, or else the chat."""
    [page] = (page for page in PAGES if code in blocks(page))
    first = blocks(page)[0]
    return first if re.search(r"trioweb\.serve\b", first) else blocks(ROOT / "README.md")[0]


@pytest.mark.network
@pytest.mark.parametrize("code", PROGRAMS)
async def test_program_of_a_page_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as some keep a file
    if "8000" not in code:
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        return
    port = free_port()
    if re.search(r"trioweb\.serve\b", code):
        with program(code, port) as server:
            await wait_listening(port)
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=PATIENCE)
            # Or something in it takes the signal, and ends it as well.
            assert "KeyboardInterrupt" in errors or server.returncode == 0
            assert "Error:" not in errors
    else:
        with program(server_for(code), port):
            await wait_listening(port)
            with program(code, port) as client:
                await read_line(client)


async def test_close_codes_are_those_of_the_page(network: Any, autojump_clock: Any) -> None:
    async def stay(connection: trioweb.Connection) -> None:
        await connection.wait_closed()

    host = network.host("server")
    async with trio.open_nursery() as nursery:
        limits = trioweb.Limits(close_timeout=3)
        await nursery.start(partial(trioweb.serve_listeners, stay, [host.listen(80)]))
        dial = network.host("laptop").dial

        async def open_and(end: Callable[[trioweb.Connection], Awaitable[object]]) -> Any:
            opened = trioweb.open_connection("ws://server/", dial=dial, limits=limits)
            async with opened as connection:
                await end(connection)
                await connection.wait_closed()
            return connection.close_code

        async def fall_silent(connection: trioweb.Connection) -> None:
            network.half_open("laptop", duration=1)

        async def close_into_silence(connection: trioweb.Connection) -> None:
            network.half_open("laptop", duration=1)
            await connection.aclose(4000)

        async def reset(connection: trioweb.Connection) -> None:
            network.reset("laptop")

        assert await open_and(fall_silent) == 1006
        assert await open_and(close_into_silence) == 4000
        assert await open_and(reset) == 1006
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("names", "module"),
    [
        ("open_websocket_url serve_websocket ConnectionRejected HandshakeError", "trio_websocket"),
        ("WebSocketRequest.accept WebSocketRequest.reject", "trio_websocket"),
        ("WebSocketConnection.get_message WebSocketConnection.send_message", "trio_websocket"),
        ("WebSocketConnection.ping WebSocketConnection.aclose", "trio_websocket"),
        ("connect ClientConnection.recv ClientConnection.send", "websockets.asyncio.client"),
        ("ClientConnection.close_code ClientConnection.close_reason", "websockets.asyncio.client"),
        ("serve broadcast", "websockets.asyncio.server"),
        ("ConnectionClosedOK ConnectionClosedError", "websockets.exceptions"),
    ],
)
def test_names_of_other_libraries_are_theirs(names: str, module: str) -> None:
    page = (DOCS / "moving.md").read_text()
    for name in names.split():
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert name.split(".")[-1] in page


def test_libraries_beside_each_other_are_as_the_page_has_them() -> None:
    parameters = inspect.signature(trio_websocket.open_websocket_url).parameters
    assert not {"heartbeat", "ping_interval", "compression", "retry"} & parameters.keys()
    assert inspect.iscoroutinefunction(importlib.import_module("websockets.trio.server").broadcast)
    assert hasattr(importlib.import_module("websockets.trio.client").connect, "__aiter__")
    socket = inspect.signature(aiohttp.web.WebSocketResponse).parameters
    assert (socket["heartbeat"].default, socket["compress"].default) == (None, True)
    client = inspect.signature(aiohttp.ClientSession._ws_connect).parameters
    assert (client["heartbeat"].default, client["compress"].default) == (None, 0)
    assert inspect.signature(picows.ws_connect).parameters["enable_auto_ping"].default is False
    likeness = importlib.import_module("picows.websockets")
    assert hasattr(likeness.connect("ws://127.0.0.1:1/"), "__aiter__") and likeness.broadcast
    assert hypercorn.config.Config().websocket_ping_interval is None


@pytest.mark.parametrize(
    ("made", "options"),
    [
        ("trio_websocket.serve_websocket", "handler host port ssl_context"),
        ("trio_websocket.open_websocket_url", "message_queue_size max_message_size"),
        ("websockets.asyncio.client.connect", "ping_interval ping_timeout open_timeout max_size"),
        ("websockets.asyncio.client.connect", "close_timeout compression"),
        ("websockets.asyncio.server.serve", "process_request"),
        ("websockets.asyncio.server.serve", "origins"),
    ],
)
def test_options_of_other_libraries_are_theirs(made: str, options: str) -> None:
    module, _, name = made.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    if name == "serve":  # a signature of its own hides them
        assert f" {options}:" in inspect.getsource(thing)
        return
    assert set(options.split()) <= set(inspect.signature(thing).parameters)


def documented(module: str) -> list[str]:
    directive = re.compile(rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$", re.MULTILINE)
    pages = (DOCS / "reference").glob("*.md")
    return sorted(name for page in pages for name in directive.findall(page.read_text()))


def public(module: Any) -> set[str]:
    """Its names, with those that are imported when they are first asked for."""
    late = [getattr(module, name, ()) for name in ("_OF_TOPIC_SERVER", "_OF_TOPIC_CLIENT")]
    return {*module.__all__}.union(*late)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_reference_has_every_public_name_once_and_no_other(module: Any) -> None:
    assert documented(module.__name__) == sorted(public(module))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: Any) -> None:
    things = [(name, getattr(module, name)) for name in public(module)]
    named = [(name, each) for name, each in things if isinstance(each, (type, FunctionType))]
    assert [name for name, each in named if not inspect.getdoc(each)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_are_seen_where_users_find_them(module: Any) -> None:
    for name in public(module):
        thing = getattr(module, name)
        if isinstance(thing, (type, FunctionType)):
            assert (thing.__module__, thing.__name__) == (module.__name__, name)
        if isinstance(thing, type):
            assert pickle.loads(pickle.dumps(thing)) is thing
            if is_dataclass(thing):
                assert typing.get_type_hints(thing)


# Methods between parts of trioweb, which users have no reason to call, and type variables.
OWN_TYPES = {"EngineLink", "Pushed", "_MemoryLink", "Args", "_Item", "Streamed"}
OWN_TYPES |= {"Flight", "Line", "Path", "Signal"}  # of networks
# Of the standard library and Hypothesis.
OTHERS_TYPES = {"AbstractAsyncContextManager", "Random", "SearchStrategy"}
OTHERS_TYPES |= {"trio", "ssl", "os", "socket", "logging"}


def test_types_of_public_signatures_can_be_imported() -> None:
    modules = (*MODULES, builtins, typing, collections.abc)
    known = {name for module in modules for name in dir(module)} | OTHERS_TYPES
    missing: set[str] = set()
    for module in MODULES:
        for name in public(module):
            for annotation in annotations_of(getattr(module, name)):
                code = re.sub(r"'[^']*'", "", annotation)  # what literals say
                missing |= {*re.findall(r"(?<![\w.])[A-Za-z_]\w*", code)} - known
    assert missing == OWN_TYPES


def annotations_of(thing: Any) -> list[str]:
    """What a public function or class says of types, as it stands in the source."""
    if isinstance(thing, FunctionType):
        return [*map(str, thing.__annotations__.values())]
    if not isinstance(thing, type):
        return []
    found: list[str] = []
    if is_dataclass(thing):
        found += map(str, vars(thing)["__annotations__"].values())
    for name, each in vars(thing).items():
        function = each.fget if isinstance(each, property) else getattr(each, "__func__", each)
        if isinstance(function, FunctionType) and name[0] != "_":
            found += annotations_of(function)
    return found


def test_tree_of_errors_is_that_of_the_code() -> None:
    source = inspect.getdoc(importlib.import_module("trioweb._errors"))
    lines = re.findall(r"^ *((?:[│├└─ ]*)[A-Z]\w+ {2,}.*)$", str(source), re.MULTILINE)
    told = [line.strip() for line in lines if "never leaves" not in line]
    page = (DOCS / "reference" / "errors.md").read_text().replace("└── Lagged", "├── Lagged")
    assert len(told) > 15
    assert [line for line in told if line not in page] == []


def test_page_of_close_codes_has_each() -> None:
    page = (DOCS / "close-codes.md").read_text()
    told = re.findall(r"^\| (\d{4}) \| `(\w+)` \|", page, re.MULTILINE)
    assert [(int(code), name) for code, name in told] == [(c.value, c.name) for c in CloseCode]
    # The site's search leaves out numbers that are not in its index.
    indexed = re.findall(r"^   single: (\d+)$", page, re.MULTILINE)
    assert [int(code) for code in indexed] == [c.value for c in CloseCode]


@pytest.mark.parametrize(
    ("heading", "made"),
    [
        ("server", trioweb.ServerStatistics),
        ("hub", trioweb.HubStatistics),
        ("topic_server", trioweb.TopicServerStatistics),
        ("connection", trioweb.ConnectionStatistics),
        ("client", trioweb.ClientStatistics),
        ("network", trioweb.testing.NetworkStatistics),
    ],
)
def test_page_of_statistics_has_every_field(heading: str, made: Any) -> None:
    assert is_dataclass(made)
    page = (DOCS / "statistics.md").read_text()
    section = page.partition(f"\n## `{heading}.statistics()`")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert told == [field.name for field in fields(made)]


def test_page_of_configuration_has_the_table_of_settings() -> None:
    assert settings.told() == settings.table(), "python -m tests.docs.settings writes it anew"


def test_site_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
    listed = {line for tree in trees for line in tree.splitlines() if line and line[0] != ":"}
    names = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}
    assert listed == names - {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith(("http", "mailto")):
            continue
        where = page if not path else (page.parent / path)
        assert where.is_file(), target
        if anchor and where.suffix == ".md":
            text = where.read_text()
            include = re.search(r"\{include\} (\S+)", text)
            text = (where.parent / include[1]).read_text() if include else text
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, target
