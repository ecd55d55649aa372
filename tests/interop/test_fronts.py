"""Our server behind nginx, HAProxy and Caddy, configured as the page says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trioweb
from tests.interop.clients import CLIENTS
from tests.interop.fronts import FRONTS, IMPATIENT, dial_from, running_front, trusting
from tests.interop.peer import Target
from tests.interop.servers.common import Certificates
from tests.processes import PATIENCE, running

pytestmark = [
    pytest.mark.network,
    pytest.mark.front,
]
each = pytest.mark.parametrize("name", FRONTS)
each_impatient = pytest.mark.parametrize("name", IMPATIENT)


async def echo(connection: trioweb.Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def say_ok(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(
        200, "<!doctype html><title>ok</title>", [("Content-Type", "text/html")]
    )


@asynccontextmanager
async def serving(handler: Any = echo, http: Any = say_ok, **options: Any) -> AsyncGenerator[int]:
    """Run a server that knows its proxy; its port."""
    serve = partial(
        trioweb.serve,
        handler,
        0,
        host="127.0.0.1",
        http=http,
        trusted_proxies=["127.0.0.1"],
        **options,
    )
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            server: trioweb.Server = await nursery.start(serve)
            yield server.port
            nursery.cancel_scope.cancel()


@each
async def test_messages_pass_and_a_page_of_the_same_host_may_connect(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    async with (
        serving() as target,
        running_front(name, certificates, target, tmp_path) as port,
    ):
        options: dict[str, Any] = {
            "ssl_context": trusting(certificates),
            # The same as Host, port included; without Host passed on it would be foreign.
            "headers": [("Origin", f"https://localhost:{port}")],
        }
        async with trioweb.open_connection(f"wss://localhost:{port}/", **options) as connection:
            for message in ("naïve ✓", b"\xff" * 200_000, ""):
                await connection.send(message)
                assert await connection.receive() == message
            await connection.ping()


@each
async def test_address_is_the_clients_and_a_forged_one_is_not_believed(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    async def tell(connection: trioweb.Connection) -> None:
        await connection.send(str(connection.request.remote))

    async with (
        serving(tell) as target,
        running_front(name, certificates, target, tmp_path) as port,
        trioweb.open_connection(
            f"wss://localhost:{port}/",
            ssl_context=trusting(certificates),
            headers=[("X-Forwarded-For", "203.0.113.9")],
            dial=lambda host, port: dial_from("127.0.0.2", port),
        ) as connection,
    ):
        told = await connection.receive()
        assert isinstance(told, str)
        assert "127.0.0.2" in told


@each_impatient
async def test_silent_connection_lives_on_the_pings(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    heartbeat = trioweb.Heartbeat(interval=0.3, timeout=PATIENCE)
    async with (
        serving(heartbeat=heartbeat) as target,
        running_front(name, certificates, target, tmp_path, after="1s") as port,
        trioweb.open_connection(
            f"wss://localhost:{port}/", ssl_context=trusting(certificates), heartbeat=None
        ) as connection,
    ):
        with trio.move_on_after(3) as scope:
            await connection.wait_closed()
        assert scope.cancelled_caught
        await connection.send("still here")
        assert await connection.receive() == "still here"


@each_impatient
async def test_silent_connection_without_heartbeat_is_ended_by_the_proxy(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    async with (
        serving(heartbeat=None) as target,
        running_front(name, certificates, target, tmp_path, after="1s") as port,
        trioweb.open_connection(
            f"wss://localhost:{port}/", ssl_context=trusting(certificates), heartbeat=None
        ) as connection,
    ):
        await connection.wait_closed()
        assert connection.close_code == 1006


@each
@pytest.mark.curl
async def test_event_arrives_at_once_over_http_2(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    async with trioweb.open_hub() as hub:
        news = hub.topic("news")

        async def answer(request: trioweb.Request) -> trioweb.Response:
            return trioweb.event_stream(request, news, history=1)

        news.publish("one")
        trust = ("--cacert", str(certificates.authority))
        curl_command = ["curl", "-isN", "--http2", *trust, "-H", "Accept: text/event-stream"]
        async with (
            serving(http=answer, hub=hub) as target,
            running_front(name, certificates, target, tmp_path) as port,
            running([*curl_command, f"https://localhost:{port}/news"]) as curl,
        ):
            assert (await curl.output.next()).startswith("HTTP/2 200")
            for text in "one", "two", "three":
                await curl.output.until(f"data: {text}")
                # The next one is not there yet, to push this one out of a buffer.
                news.publish("two" if text == "one" else "three")


@each
@pytest.mark.browser
async def test_browser_talks_through_it(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    async with (
        serving() as target,
        running_front(name, certificates, target, tmp_path) as port,
    ):
        chromium = CLIENTS["Chromium"]
        where = Target(f"wss://localhost:{port}/", authority=certificates.authority)

        async def client() -> None:
            async with chromium.open(where) as connection:
                await connection.send("from a browser")
                assert await connection.receive() == "from a browser"

        await chromium.run(client)
