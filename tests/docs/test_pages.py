"""What the pages show is what there is: each program runs, and each name exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import trioweb
import trioweb.testing
from tests.docs.support import DOCS, PATIENCE, ROOT, blocks, free_port, program, wait_listening
from trioweb import CloseCode

PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "SECURITY.md"])
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page), 1)
]
IS_TEST = re.compile(r"^\s*(?:async )?def test_", re.MULTILINE)
PROGRAMS = [
    each
    for each in BLOCKS
    if "\ntrio.run(" in str(each.values[0]) and not IS_TEST.search(str(each.values[0]))
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


@pytest.mark.network
@pytest.mark.parametrize("code", PROGRAMS)
async def test_program_of_a_page_runs(code: str) -> None:
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
            assert "KeyboardInterrupt" in errors
            assert "Error:" not in errors
    else:
        chat = blocks(ROOT / "README.md")[0]
        with program(chat, port):
            await wait_listening(port)
            with program(code, port) as client:
                assert client.stdout is not None
                assert client.stdout.readline(), client.communicate(timeout=PATIENCE)


def documented(module: str) -> set[str]:
    directive = re.compile(rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$", re.MULTILINE)
    pages = (DOCS / "reference").glob("*.md")
    return {name for page in pages for name in directive.findall(page.read_text())}


def public(module: Any) -> set[str]:
    """Its names, with those that are imported when they are first asked for."""
    return {*module.__all__, *getattr(module, "_OF_TOPIC_SERVER", ())}


@pytest.mark.parametrize("module", [trioweb, trioweb.testing], ids=lambda module: module.__name__)
def test_reference_has_every_public_name_and_no_other(module: Any) -> None:
    assert documented(module.__name__) == public(module)


@pytest.mark.parametrize("module", [trioweb, trioweb.testing], ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: Any) -> None:
    names = [name for name in public(module) if callable(getattr(module, name))]
    aliases = {"Dial", "Event", "Rule", "Verdict"}
    missing = [name for name in names if not inspect.getdoc(getattr(module, name))]
    assert set(missing) - aliases == set()


def test_tree_of_errors_is_that_of_the_code() -> None:
    assert trioweb.TriowebError.__module__ == "trioweb._errors"
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
