"""Our client through other people's proxies, to our server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import trioweb
from tests.interop.proxies import PASSWORD, PROXIES, USER, running_proxy
from tests.interop.servers.common import Certificates
from tests.processes import free_port
from trioweb import Connection, ProxyRefused, Retry

pytestmark = [pytest.mark.network, pytest.mark.proxy]

WAYS = [(name, scheme) for name, schemes in PROXIES.items() for scheme in schemes]


@asynccontextmanager
async def serving(
    seen: list[trioweb.Headers], certificates: Certificates | None
) -> AsyncGenerator[str]:
    """Our server, which echoes; its URL.  *seen* gets what clients tell it."""

    async def echo(connection: Connection) -> None:
        seen.append(connection.request.headers)
        async for message in connection:
            await connection.send(message)

    context = None if certificates is None else certificates.server_context()
    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, echo, 0, host="127.0.0.1", ssl_context=context)
        server = await nursery.start(serve)
        scheme, host = ("ws", "127.0.0.1") if context is None else ("wss", "localhost")
        yield f"{scheme}://{host}:{server.port}/"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("over_tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("knows_us", [False, True], ids=["open", "with a password"])
@pytest.mark.parametrize(("name", "scheme"), WAYS)
async def test_messages_go_both_ways_through_a_proxy(
    name: str,
    scheme: str,
    knows_us: bool,
    over_tls: bool,
    tmp_path: Path,
    certificates: Certificates,
) -> None:
    seen: list[trioweb.Headers] = []
    user = f"{USER}:{PASSWORD}@" if knows_us else ""
    async with (
        running_proxy(name, tmp_path, knows_us=knows_us) as port,
        serving(seen, certificates if over_tls else None) as url,
        trioweb.open_connection(
            url,
            proxy=f"{scheme}://{user}127.0.0.1:{port}",
            ssl_context=certificates.client_context() if over_tls else None,
        ) as connection,
    ):
        assert connection.remote == ("127.0.0.1", port)
        for message in "text ✓", b"\x00\xff", "é" * 300_000:
            await connection.send(message)
            assert await connection.receive() == message
        assert await connection.ping() > 0
    assert not [field for field in seen[0] if field.startswith("proxy")]


@pytest.mark.parametrize(("name", "scheme"), WAYS)
async def test_proxy_that_does_not_know_us_is_told(name: str, scheme: str, tmp_path: Path) -> None:
    async with running_proxy(name, tmp_path, knows_us=True) as port:
        for user in "", f"{USER}:wrong@":
            with pytest.raises(ProxyRefused) as caught:
                async with trioweb.open_connection(
                    "ws://127.0.0.1:9/", proxy=f"{scheme}://{user}127.0.0.1:{port}"
                ):
                    raise AssertionError("the block was entered")
            # tinyproxy has 407 for nobody and 401 for a stranger.
            assert caught.value.status in ({401, 407} if scheme == "http" else {None})
            assert scheme != "http" or "it does not know" in str(caught.value)
            assert not trioweb.is_worth_retry(caught.value)
            assert f"{scheme}://127.0.0.1:{port}" in str(caught.value)
            assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(("name", "scheme"), WAYS)
async def test_server_that_the_proxy_cannot_reach_is_told_and_tried_again(
    name: str, scheme: str, tmp_path: Path
) -> None:
    async with running_proxy(name, tmp_path) as port:
        with pytest.raises(ProxyRefused) as caught:
            async with trioweb.open_connection(
                f"ws://127.0.0.1:{free_port()}/", proxy=f"{scheme}://127.0.0.1:{port}"
            ):
                raise AssertionError("the block was entered")
        assert trioweb.is_worth_retry(caught.value)


@pytest.mark.parametrize(("name", "scheme"), WAYS)
async def test_client_outlives_its_proxy(name: str, scheme: str, tmp_path: Path) -> None:
    port = free_port()
    async with serving([], None) as url:
        async with trioweb.open_client(
            url,
            proxy=f"{scheme}://127.0.0.1:{port}",
            retry=Retry(initial=0.05, maximum=0.2),
            outbox=trioweb.Outbox(confirm=True),
        ) as client:
            for message in "before", "after":
                await client.send(message)
                async with running_proxy(name, tmp_path, port=port):
                    with trio.fail_after(20):
                        while await client.receive() != message:
                            pass
                        await client.flush()
            with trio.move_on_after(0):
                await client.aclose()
