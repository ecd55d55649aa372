"""`trioweb serve --store`: killed and started again, it recovers whoever comes back."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
import trio

import trioweb
from tests.interop.serving import PATIENCE, Server, publish, serving, wait_until, write_keys
from tests.processes import free_port, python, running, running_processes
from tests.test_cli import fails

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("root_logger")]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def read_events(url: str, position: str, count: int) -> list[tuple[str, str, str]]:
    """So many events of a stream, as a stock client has them: kind, id and data."""
    headers = {"Last-Event-ID": position} if position else {}
    events: list[tuple[str, str, str]] = []
    with (
        httpx.Client(timeout=PATIENCE) as client,
        httpx_sse.connect_sse(client, "GET", url, headers=headers) as source,
    ):
        for event in source.iter_sse():
            # What stands in front has a position alone.
            if event.data:
                events.append((event.event, event.id, event.data))
            if len(events) == count:
                break
    return events


async def join(url: str, recover: dict[str, Any]) -> Any:
    """What the protocol answers to a member that subscribes to "lobby"."""
    async with trioweb.open_connection(f"{url}connection/websocket") as connection:
        await connection.send(json.dumps({"id": 1, "connect": {}}))
        await connection.receive()
        await connection.send(json.dumps({"id": 2, "subscribe": {"channel": "lobby", **recover}}))
        with trio.fail_after(PATIENCE):
            return json.loads(await connection.receive())["subscribe"]


def kill(server: Server) -> None:
    """End it, and wait for its workers to end, which still accept until they have seen that."""
    workers = {pid for pid, parent in running_processes() if parent == server.process.pid}
    server.kill()
    wait_until(lambda: workers.isdisjoint(dict(running_processes())), "the workers end")


@pytest.mark.parametrize("more", [(), pytest.param(("--workers", "2"), marks=LINUX)])
async def test_killed_server_that_starts_again_recovers_everybody(
    tmp_path: Path, more: Sequence[str]
) -> None:
    """Invariant 15: over Server-Sent Events, by the protocol, and a client that stays."""
    options = ["--store", str(tmp_path / "topics.db"), "--api-key-file", write_keys(tmp_path)]
    options += more
    port = free_port()
    at = f"ws://127.0.0.1:{port}/"
    with ExitStack() as servers:
        server = servers.enter_context(serving(*options, port=port))
        async with (
            trioweb.open_topic_client(f"{at}connection/websocket") as client,
            client.subscription("lobby") as following,
        ):
            for number in range(1, 6):
                assert await trio.to_thread.run_sync(publish, server, f"{number}") == number
            told = await join(at, {})
            epoch, offset = told["epoch"], told["offset"]
            assert offset == 5
            numbers = await trio.to_thread.run_sync(server.statistics)
            assert numbers["hub"]["store"]["topics"] == 1
            await trio.to_thread.run_sync(kill, server)
            server = servers.enter_context(serving(*options, port=port))
            assert await trio.to_thread.run_sync(publish, server, "6") == 6
            url = f"{server.url}lobby"
            events = await trio.to_thread.run_sync(read_events, url, f"{epoch}:3", 3)
            assert events == [("message", f"{epoch}:{n}", f"{n}") for n in (4, 5, 6)]
            told = await join(at, {"recover": True, "epoch": epoch, "offset": 2})
            assert told["recovered"] and told["was_recovering"]
            assert [one["offset"] for one in told["publications"]] == [3, 4, 5, 6]
            with trio.fail_after(PATIENCE):
                found = [(await anext(following)).offset for _ in range(6)]  # a Gap would come out
            assert found == [1, 2, 3, 4, 5, 6]
            await trio.to_thread.run_sync(kill, server)


@pytest.mark.parametrize("more", [(), pytest.param(("--workers", "1"), marks=LINUX)])
async def test_second_server_says_that_the_first_has_the_store(
    tmp_path: Path, more: Sequence[str]
) -> None:
    path = str(tmp_path / "topics.db")
    command = python("-m", "trioweb", "serve", "--port", "0", "--store", path, *more)
    async with running(command) as one:
        await one.output.next()
        async with running(command) as other:
            code, _, errors = await other.ended()
            assert code == 2
            assert f"--store {path}: another hub has it open" in errors
            assert "Traceback" not in errors
        one.process.terminate()
        code, _, errors = await one.ended()
        assert code == 0, errors


def test_broker_does_not_go_with_a_store_which_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--store", str(tmp_path / "topics.db"), "--broker", "redis://a"]
    assert "--store: a --broker keeps the topics itself" in fails(capsys, "serve", *options)
    assert not list(tmp_path.iterdir())


def test_store_that_cannot_be_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "topics.db")
    line = fails(capsys, "serve", "--port", "0", "--store", path)
    assert f"--store {path}: " in line
    assert "No such file" in line
