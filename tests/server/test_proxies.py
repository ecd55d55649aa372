"""Who a peer is behind proxies: whose X-Forwarded-For is believed, and how much of it."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, start, upgrade_head, wait
from trioweb.testing import Network

# The proxy of these tests, and networks that it belongs to or not.
PROXY = "10.0.0.2"


async def behind(nursery: trio.Nursery, *trusted: str, **options: Any) -> Site:
    """A site whose peers come from the host PROXY."""
    network = Network()
    network.host("server")
    assert network.host("client").address == PROXY
    return await start(nursery, wait, network=network, trusted_proxies=trusted, **options)


def forwarded(*values: str, **changes: str) -> bytes:
    return upgrade_head(extra=[("X-Forwarded-For", value) for value in values], **changes)


async def opened_for(site: Site, *values: str) -> Peer:
    peer = await site.peer()
    await peer.write(forwarded(*values))
    assert (await peer.read_head())[0] == 101
    return peer


async def remote_of(site: Site, *values: str) -> tuple[str, bool]:
    """Whom the server takes a peer for, and whether with the port of its own."""
    await opened_for(site, *values)
    await trio.testing.wait_all_tasks_blocked()
    [connection] = site.server.connections
    assert connection.remote == connection.request.remote
    assert isinstance(connection.remote, tuple)
    host, port = connection.remote
    return host, bool(port)


@pytest.mark.parametrize(
    ("trusted", "values", "expected"),
    [
        # Nobody is believed whom the user does not name.
        ((), ["198.51.100.7"], (PROXY, True)),
        (("192.0.2.0/24",), ["198.51.100.7"], (PROXY, True)),
        (("unix",), ["198.51.100.7"], (PROXY, True)),
        (("::/0",), ["198.51.100.7"], (PROXY, True)),
        # The proxy's own word, however it is written.
        ((PROXY,), ["198.51.100.7"], ("198.51.100.7", False)),
        (("10.0.0.0/8",), ["198.51.100.7"], ("198.51.100.7", False)),
        ((PROXY,), ["198.51.100.7:5555"], ("198.51.100.7", True)),
        ((PROXY,), ["2001:DB8::7"], ("2001:db8::7", False)),
        ((PROXY,), ["[2001:db8::7]"], ("2001:db8::7", False)),
        ((PROXY,), ["[2001:db8::7]:5555"], ("2001:db8::7", True)),
        ((PROXY,), ["::ffff:198.51.100.7"], ("198.51.100.7", False)),
        # What the peer itself says stands to the left of what the proxy has seen.
        ((PROXY,), ["127.0.0.1, 198.51.100.7"], ("198.51.100.7", False)),
        ((PROXY,), ["127.0.0.1", "198.51.100.7"], ("198.51.100.7", False)),
        ((PROXY,), ["rubbish, 198.51.100.7"], ("198.51.100.7", False)),
        # A chain of proxies is followed for as long as they are trusted.
        (("10.0.0.0/8",), ["203.0.113.9, 198.51.100.7, 10.1.1.1"], ("198.51.100.7", False)),
        ((PROXY,), ["203.0.113.9, 10.1.1.1"], ("10.1.1.1", False)),
        (("10.0.0.0/8",), ["10.3.3.3, 10.1.1.1"], ("10.3.3.3", False)),
        # What is missing or malformed leaves the proxy, which is at least somebody.
        ((PROXY,), [], (PROXY, True)),
        ((PROXY,), [""], (PROXY, True)),
        ((PROXY,), [","], (PROXY, True)),
        ((PROXY,), ["unknown"], (PROXY, True)),
        ((PROXY,), ["198.51.100.7, unknown"], (PROXY, True)),
        ((PROXY,), ["198.51.100.7, 10.1.1"], (PROXY, True)),
        ((PROXY,), ["198.51.100.256"], (PROXY, True)),
        ((PROXY,), ["198.51.100.7:65536"], (PROXY, True)),
        ((PROXY,), ["198.51.100.7:"], (PROXY, True)),
        ((PROXY,), ["[198.51.100.7]x"], (PROXY, True)),
        ((PROXY,), ["fe80::1%eth0"], (PROXY, True)),
        ((PROXY,), ["198.51.100.7 198.51.100.8"], (PROXY, True)),
        ((PROXY,), ['"198.51.100.7"'], (PROXY, True)),
    ],
)
async def test_remote_is_the_rightmost_address_that_is_no_trusted_proxy(
    trusted: tuple[str, ...],
    values: list[str],
    expected: tuple[str, bool],
    nursery: trio.Nursery,
) -> None:
    """CWE-348: everything to the left of it, anybody may have written."""
    site = await behind(nursery, *trusted)
    assert await remote_of(site, *values) == expected


@pytest.mark.parametrize("name", ["Forwarded", "X-Real-IP", "X-Forwarded-Host"])
async def test_no_other_header_is_believed(name: str, nursery: trio.Nursery) -> None:
    site = await behind(nursery, PROXY)
    peer = await site.peer()
    value = "for=198.51.100.7" if name == "Forwarded" else "198.51.100.7"
    await peer.write(upgrade_head(extra=[(name, value)], Origin="http://198.51.100.7"))
    assert (await peer.read_head())[0] == 403  # the Origin is still compared with Host


async def test_admit_and_http_see_the_remote(nursery: trio.Nursery) -> None:
    seen: list[trioweb.Request] = []

    async def admit(request: trioweb.Request) -> None:
        seen.append(request)

    async def http(request: trioweb.Request) -> trioweb.Response:
        seen.append(request)
        return trioweb.Response()

    site = await behind(nursery, PROXY, admit=admit, http=http)
    await opened_for(site, "198.51.100.7")
    await site.ask(b"GET / HTTP/1.1\r\nHost: server\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
    assert [request.remote for request in seen] == [("198.51.100.7", 0)] * 2


async def test_log_tells_the_remote_even_of_what_is_refused(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = await behind(nursery, PROXY)
    assert (await site.ask(forwarded("198.51.100.7", Origin="http://evil.org"))).status == 403
    assert (await site.ask(forwarded("2001:db8::7", Sec_WebSocket_Key="short"))).status == 400
    peer = await opened_for(site, "198.51.100.8:5555")
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    texts = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert texts == ["198.51.100.7", "2001:db8::7", "198.51.100.8:5555"]


async def test_limit_for_each_host_counts_the_remote(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8: one address behind a proxy uses up neither the others' room nor the proxy's."""
    limits = trioweb.Limits(max_connections_per_host=2)
    site = await behind(nursery, PROXY, limits=limits)
    # Of whom nobody knows yet for whom they ask.
    silent = [await site.peer() for _ in range(5)]
    first = [await opened_for(site, "198.51.100.7") for _ in range(2)]
    answer = await site.ask(forwarded("198.51.100.8, 198.51.100.7"))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    await opened_for(site, "198.51.100.8")
    # The proxy itself, when it asks for nobody (a health check, or a wrong configuration).
    for _ in range(2):
        await opened_for(site)
    assert (await site.ask(forwarded())).status == 503

    await first[0].stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await opened_for(site, "198.51.100.7")
    for peer in silent:
        await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().refused == {503: 2}
    assert site.server._places._hosts == {"198.51.100.7": 2, "198.51.100.8": 1, PROXY: 2}


async def test_peer_that_comes_by_itself_is_judged_before_it_asks(nursery: trio.Nursery) -> None:
    limits = trioweb.Limits(max_connections_per_host=1)
    site = await behind(nursery, "192.0.2.1", limits=limits)
    await opened_for(site, "198.51.100.7")
    assert (await (await site.peer()).read_answer()).status == 503


@pytest.mark.network
async def test_proxy_over_a_unix_socket_is_trusted_by_name(nursery: trio.Nursery) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        with trio.socket.socket(trio.socket.AF_UNIX) as socket:
            await socket.bind(path)
            socket.listen()
            serve = partial(trioweb.serve_listeners, wait, [trio.SocketListener(socket)])
            limits = trioweb.Limits(max_connections_per_host=1)
            server: trioweb.Server = await nursery.start(
                partial(serve, trusted_proxies=["unix"], limits=limits)
            )
            peers = [Peer(await trio.open_unix_socket(path)) for _ in range(2)]
            for peer in peers:
                await peer.write(forwarded("198.51.100.7"))
            statuses = {(await peer.read_head())[0] for peer in peers}
            assert statuses == {101, 503}
            await trio.testing.wait_all_tasks_blocked()
            [connection] = server.connections
            assert connection.remote == ("198.51.100.7", 0)
            for peer in peers:
                await peer.stream.aclose()


@pytest.mark.parametrize(
    ("trusted", "error", "text"),
    [
        ("127.0.0.1", TypeError, "trusted_proxies must be a collection of str"),
        ([1], TypeError, "each of trusted_proxies must be of type str, not 1"),
        (["localhost"], ValueError, "'localhost' must be an IP address"),
        (["10.0.0.1/8"], ValueError, "host bits set"),
        ([""], ValueError, "'' must be"),
    ],
)
async def test_trusted_proxies_are_checked_before_anything_begins(
    trusted: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await trioweb.serve(wait, 0, trusted_proxies=trusted)
