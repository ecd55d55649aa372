"""The example of a model's answer, run as a process, read by peers whose connections are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
import trio

import trioweb
from tests.examples.support import PATIENCE, Program, fetch, running
from tests.processes import free_port

pytestmark = pytest.mark.network

QUESTION = "Is “this” {whole}?"
CUT_AFTER = 7  # pieces; the answer has some eighty

Piece = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def runs() -> Iterator[Program]:
    with running("model_stream.py", 0, "--pace", "0.01") as program:
        yield program


async def ask(runs: Program, question: str = QUESTION) -> str:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        response = await client.post(f"{runs.url}runs", content=question.encode())
    assert response.status_code == 201
    return response.text.strip().removeprefix("/")


def over(pieces: list[Piece], most: int | None) -> bool:
    return "end" in pieces[-1][1] or len(pieces) == most


async def events(runs: Program, path: str, position: str, most: int | None) -> list[Piece]:
    headers = {"Last-Event-ID": position} if position else {}

    def receive() -> list[Piece]:
        pieces: list[Piece] = []
        with (
            httpx.Client(timeout=PATIENCE) as client,
            httpx_sse.connect_sse(client, "GET", runs.url + path, headers=headers) as source,
        ):
            for event in source.iter_sse():
                if event.event == "gap":
                    pieces.append(("", {"gap": event.json()["skipped"]}))
                elif event.data:  # what stands in front has a position alone
                    pieces.append((event.id, event.json()))
                if pieces and over(pieces, most):
                    break
        return pieces

    return await trio.to_thread.run_sync(receive)


async def messages(runs: Program, path: str, position: str, most: int | None) -> list[Piece]:
    query = f"?since={position}" if position else ""
    pieces: list[Piece] = []
    async with trioweb.open_connection(f"{runs.ws_url}{path}{query}") as connection:
        async for message in connection:
            where, publication = json.loads(message)
            pieces.append((where or "", publication))
            if over(pieces, most):
                break
    return pieces


WAYS = {"events": events, "socket": messages}


async def read(
    way: str, runs: Program, path: str, position: str = "", most: int | None = None
) -> list[Piece]:
    """Read an answer to its end, or so many pieces of it; then cut the connection."""
    with trio.fail_after(PATIENCE):
        return await WAYS[way](runs, path, position, most)


def text(pieces: list[Piece]) -> str:
    return "".join(message.get("text", "") for _, message in pieces)


def offsets(pieces: list[Piece]) -> list[int]:
    return [int(position.rpartition(":")[2]) for position, _ in pieces]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("then", WAYS)
async def test_answer_goes_on_where_it_was_cut(runs: Program, first: str, then: str) -> None:
    path = await ask(runs)
    seen = await read(first, runs, path, most=CUT_AFTER)
    # Nobody reads between these, and the answer is written all the same.
    seen += await read(then, runs, path, seen[-1][0], most=CUT_AFTER)
    seen += await read(first, runs, path, seen[-1][0])
    assert offsets(seen) == list(range(1, len(seen) + 1))
    assert len(seen) > 3 * CUT_AFTER
    assert seen[-1][1] == {"end": ""}
    assert text(seen).startswith(f"You ask: “{QUESTION}” A nursery")
    assert text(seen).endswith("and none twice.")
    # A newcomer gets the same from the beginning, whichever way it comes.
    assert seen == await read("events", runs, path) == await read("socket", runs, path)


@pytest.mark.parametrize("way", WAYS)
async def test_answer_of_a_killed_program_is_kept_by_its_store(tmp_path: Path, way: str) -> None:
    """What was written goes on in the same epoch, and ends with what happened."""
    options = ["--pace", "0.01", "--store", str(tmp_path / "runs.db")]
    port = free_port()
    with running("model_stream.py", port, *options) as runs:
        path = await ask(runs)
        seen = await read(way, runs, path, most=CUT_AFTER)
        runs.is_killed = True
        runs.process.kill()
        runs.process.wait(PATIENCE)
    with running("model_stream.py", port, *options) as runs:
        seen += await read(way, runs, path, seen[-1][0])
        assert offsets(seen) == list(range(1, len(seen) + 1))
        assert seen[-1][1]["end"].startswith("the program was started again")
        assert text(seen).startswith(f"You ask: “{QUESTION}”")
        # It is told once, and others get the same.
        assert seen == await read("events", runs, path) == await read("socket", runs, path)
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            response = await client.get(f"{runs.url}runs/nonsense")
        assert response.status_code == 404


@pytest.mark.parametrize("way", WAYS)
async def test_who_comes_from_another_life_is_told_and_gets_all(runs: Program, way: str) -> None:
    path = await ask(runs)
    whole = await read(way, runs, path)
    for position in ("00ff00ff00ff00ff:5", "nonsense"):
        gap, *rest = await read(way, runs, path, position)
        assert "gap" in gap[1]
        assert rest == whole


@pytest.mark.parametrize("way", WAYS)
async def test_model_that_fails_ends_its_run_alone(runs: Program, way: str) -> None:
    failing, other = await ask(runs, "fail"), await ask(runs)
    pieces = await read(way, runs, failing)
    assert pieces[-1][1] == {"end": "the model has failed, as it was asked to"}
    assert len(pieces) == 21
    assert (await read(way, runs, other))[-1][1] == {"end": ""}


async def test_what_is_not_there_is_refused(runs: Program) -> None:
    assert (await fetch(runs.url))[1].startswith("<!doctype html>")
    assert (await fetch(f"{runs.url}runs/nobody"))[0] == 404
    async with trioweb.open_connection(f"{runs.ws_url}runs/nobody") as connection:
        with trio.fail_after(PATIENCE):
            await connection.wait_closed()
        assert connection.close_code == 4404
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for question, status in ((b" \n", 400), (b"x" * 2001, 413)):
            assert (await client.post(f"{runs.url}runs", content=question)).status_code == status
