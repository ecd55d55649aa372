"""The example of live scores, run as a process and followed by topic clients."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trioweb
from tests.examples.support import EXAMPLES, PATIENCE, Program, fetch, line_to, running

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, with a bundle that is no page: npm is not needed for these."""
    where = tmp_path_factory.mktemp("scores")
    shutil.copy(EXAMPLES / "scores.py", where)
    (where / "scores" / "build").mkdir(parents=True)
    for name in ("index.html", "page.js", "package.json", "build/page.js"):
        (where / "scores" / name).write_text(f"this is {name}")
    with running(str(where / "scores.py"), 0, "--pace", "0.02") as program:
        yield program


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/connection/websocket"


def port_of(scores: Program) -> int:
    return int(scores.url.rstrip("/").rpartition(":")[2])


async def test_page_and_bundle_are_served(scores: Program) -> None:
    assert await fetch(scores.url) == (200, "this is index.html")
    assert await fetch(f"{scores.url}page.js") == (200, "this is build/page.js")
    assert (await fetch(f"{scores.url}scores.py"))[0] == 404


async def test_nothing_is_missed_over_a_line_that_is_cut(scores: Program) -> None:
    async with line_to(scores.url) as line, trioweb.open_topic_client(url(line.port)) as client:
        offsets: list[int] = []
        with trio.fail_after(PATIENCE):
            async with client.subscription("match:1") as match:
                async for publication in match:
                    offsets.append(publication.offset)
                    if len(offsets) in (5, 15):
                        line.cut()
                    if len(offsets) == 30:
                        break
    assert offsets == list(range(offsets[0], offsets[0] + 30))


async def test_who_watches_and_what_is_called(scores: Program) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trioweb.open_topic_client(url(port_of(scores)), data={"name": "Ada"}) as client,
            client.subscription("match:2") as match,
        ):
            assert [member.user for member in (await client.presence("match:2")).values()] == [
                "Ada"
            ]
            assert [score["topic"] for score in await client.call("matches")] == [
                "match:1",
                "match:2",
            ]
            assert await client.call("cheer", "Curie Rovers") == 1
            async for publication in match:
                if publication.data["what"] == "Ada cheers for Curie Rovers.":
                    break
            with pytest.raises(trioweb.Refused, match="no such team"):
                await client.call("cheer", ["nobody"])
            with pytest.raises(trioweb.Refused):
                async with client.subscription("match:3"):
                    pass


def test_missing_npm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(EXAMPLES / "scores.py", tmp_path)
    (tmp_path / "scores").mkdir()
    for name in ("page.js", "package.json"):
        (tmp_path / "scores" / name).touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install nodejs npm"):
        runpy.run_path(str(tmp_path / "scores.py"))["bundle"]()
