"""The dashboard example, run as a process and used by real clients."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import trioweb
from tests.examples.support import PATIENCE, Program, fetch, running

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Program]:
    with running("dashboard.py") as program:
        yield program


async def receive(connection: trioweb.Connection) -> Any:
    with trio.fail_after(PATIENCE):
        return json.loads(await connection.receive())


async def test_dashboard_serves_its_page_beside_the_websocket(dashboard: Program) -> None:
    for url in (dashboard.url, f"{dashboard.url}?uid=ada"):
        status, page = await fetch(url)
        assert status == 200
        assert page.startswith("<!doctype html>")
    assert (await fetch(f"{dashboard.url}elsewhere"))[0] == 404


async def test_dashboard_sends_the_whole_chart_at_once_and_again_each_second(
    dashboard: Program,
) -> None:
    url = f"{dashboard.ws_url}ws"
    async with trioweb.open_connection(url) as connection:
        first = await receive(connection)
        second = await receive(connection)
        # The next one is a second away, but a newcomer has not to wait for it.
        async with trioweb.open_connection(url) as newcomer:
            assert await receive(newcomer) == second
    assert second["samples"][:-1] == first["samples"]
    newest = second["samples"][-1]
    assert newest["load"] >= 0
    assert 5 < newest["memory"] < 500
    assert newest["connections"] >= 1


async def test_dashboard_shows_who_watches_by_uid(dashboard: Program) -> None:
    url = f"{dashboard.ws_url}ws"
    async with (
        trioweb.open_connection(f"{url}?uid=ada") as ada,
        trioweb.open_connection(f"{url}?uid=ada"),
        trioweb.open_connection(url),
    ):
        # The first may be from before they came.
        with trio.fail_after(PATIENCE):
            while (await receive(ada))["watching"] != ["ada", "guest"]:
                pass


@pytest.mark.parametrize(
    ("path", "status"), [("", 404), ("wss", 404), ("ws?uid=a%20b", 400), ("ws?uid=", 400)]
)
async def test_dashboard_refuses_what_it_does_not_serve(
    dashboard: Program, path: str, status: int
) -> None:
    with pytest.raises(trioweb.HandshakeRejected) as caught:
        async with trioweb.open_connection(dashboard.ws_url + path):
            pass
    assert caught.value.status == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_dashboard_ends_softly_when_told_to(number: signal.Signals) -> None:
    with running("dashboard.py") as program:
        async with trioweb.open_connection(f"{program.ws_url}ws") as connection:
            await receive(connection)
            program.process.send_signal(number)
            with trio.fail_after(PATIENCE):
                await connection.wait_closed()
            assert connection.close_code == trioweb.CloseCode.SERVICE_RESTART
        # What else must be so, `running` checks: exit code 0 and not a word.
        program.process.wait(PATIENCE)
