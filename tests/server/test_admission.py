"""Who may connect: Origin, subprotocol, `admit`, and the limits on how many."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, echo, start, upgrade_head, wait
from tests.support import TEXT, Frame

# Origins.


@pytest.mark.parametrize(
    ("origin", "host", "origins", "let_in"),
    [
        (None, "example.com", (), True),
        # The host that was asked for, however both are written.
        ("http://example.com", "example.com", (), True),
        ("https://example.com", "example.com", (), True),
        ("https://EXAMPLE.com", "example.COM", (), True),
        ("http://example.com:80", "example.com", (), True),
        ("http://example.com", "example.com:80", (), True),
        ("https://example.com", "example.com:443", (), True),
        ("http://example.com:8000", "example.com:8000", (), True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", (), True),
        ("http://[::1]:8000", "[::1]:8000", (), True),
        # Another port or scheme is another Origin.
        ("http://example.com", "example.com:8000", (), False),
        ("http://example.com:8000", "example.com", (), False),
        ("http://example.com", "example.com:443", (), False),
        ("http://localhost:8000", "127.0.0.1:8000", (), False),
        ("ftp://example.com", "example.com", (), False),
        # Somebody else, however much it looks like us.
        ("https://evil.org", "example.com", (), False),
        ("https://evil-example.com", "example.com", (), False),
        ("https://www.example.com", "example.com", (), False),
        ("https://example.com.evil.org", "example.com", (), False),
        ("https://example.com@evil.org", "example.com", (), False),
        ("https://evil.org/example.com", "example.com", (), False),
        ("https://evil.org#example.com", "example.com", (), False),
        ("https://example.com.", "example.com", (), False),
        ("https://example.com, https://evil.org", "example.com", (), False),
        # What browsers send for sandboxed frames and files, and what is no Origin at all.
        ("null", "example.com", (), False),
        ("null", "null", (), False),
        ("", "example.com", (), False),
        ("example.com", "example.com", (), False),
        ("//example.com", "example.com", (), False),
        ("https://[::1", "example.com", (), False),
        # Listed ones.
        ("https://friend.org", "example.com", ("https://friend.org",), True),
        ("https://friend.org:444", "example.com", ("https://friend.org",), False),
        ("http://friend.org", "example.com", ("https://friend.org",), False),
        ("https://example.com", "example.com", ("https://friend.org",), True),
        ("null", "example.com", ("null",), True),
        ("https://evil.org", "example.com", ("*",), True),
        ("null", "example.com", ("*",), True),
    ],
)
async def test_origin_decides_who_may_connect(
    origin: str | None,
    host: str,
    origins: tuple[str, ...],
    let_in: bool,
    nursery: trio.Nursery,
) -> None:
    """RFC 6455 section 10.2."""
    site = await start(nursery, wait, origins=origins)
    peer = await site.peer()
    await peer.write(upgrade_head(Host=host, Origin=origin))
    status, _ = await peer.read_head()
    assert status == (101 if let_in else 403)
    assert site.server.statistics().refused == ({} if let_in else {403: 1})


async def test_refused_origin_is_told_with_the_host_and_the_option(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING the first time: it is what whoever sets a server up meets first."""
    caplog.set_level(logging.INFO)
    site = await start(nursery, wait)

    async def refused(origin: str) -> None:
        head = upgrade_head(Host="api.example.com", Origin=origin)
        answer = await site.ask(head)
        assert (answer.status, answer.body) == (403, b"This Origin may not connect.\n")

    for origin in "https://example.com", "https://example.com", "https://other.example":
        await refused(origin)
    text = "Origin https://example.com is not of the host asked for, api.example.com; origins="
    levels = [logging.WARNING, logging.INFO, logging.WARNING]
    assert [record.levelno for record in caplog.records] == levels
    assert text in caplog.records[0].getMessage()
    assert text in caplog.records[1].getMessage()
    caplog.clear()
    for origin in "https://user:SECRET@example.com", "https://example.com/?token=SECRET", "SECRET":
        await refused(origin)
    assert "SECRET" not in caplog.text
    caplog.clear()
    for number in range(1100):
        await refused(f"https://{number}.example")
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[-1].levelno == logging.INFO  # it is not remembered for ever


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ("https://example.com/", "'https://example.com' would"),
        ("https://example.com/page?x", "'https://example.com' would"),
        ("example.com", "'https://example.com' would"),
        ("localhost:3000", "'https://localhost:3000' would"),
        ("HTTPS://Example.com", "'https://example.com' would"),
        ("https://example.com:443", "'https://example.com' would"),
        ("http://example.com:80", "'http://example.com' would"),
        ("https://bücher.example", "'https://xn--bcher-kva.example' would"),
        ("http://[0::1]:8000", "'http://[::1]:8000' would"),
        (" https://example.com", "'https://example.com' would"),
        ("https://*.example.com", "there are no patterns"),
        ("https://a.de, https://b.de", "write it as browsers send it"),
        ("https://example.com:99999", "write it as browsers send it"),
        ("", "write it as browsers send it"),
        ("https://", "write it as browsers send it"),
        ("NULL", "'https://null' would"),
    ],
)
async def test_origin_that_can_match_none_is_refused_at_once(entry: str, right: str) -> None:
    with pytest.raises(ValueError, match=re.escape(right)) as caught:
        await trioweb.serve(wait, 0, origins=[entry])
    assert f"origins: {entry!r} can match no Origin" in str(caught.value)


async def test_origin_with_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="an entry with a user in it") as caught:
        await trioweb.serve(wait, 0, origins=["https://user:SECRET@example.com"])
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "null",
        "file://",
        "https://example.com",
        "http://localhost:3000",
        "http://127.0.0.1:8000",
        "http://[::1]:8000",
        "https://xn--bcher-kva.example",
        "https://example.com.",
        "https://a_b.example",
        "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
        "capacitor://localhost",
    ],
)
async def test_origin_that_browsers_send_can_be_listed(entry: str, nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, origins=[entry])
    origin = "https://any.example" if entry == "*" else entry
    await site.opened(Origin=origin)


async def test_origin_is_checked_before_admit_is_asked(nursery: trio.Nursery) -> None:
    async def admit(request: trioweb.Request) -> None:
        raise AssertionError

    site = await start(nursery, wait, admit=admit)
    assert (await site.ask(upgrade_head(Origin="https://evil.org"))).status == 403


async def test_repeated_origin_is_refused(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait)
    mine = ("Origin", "https://server")
    answer = await site.ask(upgrade_head(extra=[mine, ("Origin", "https://evil.org")]))
    assert answer.status == 403


# Subprotocols.


@pytest.mark.parametrize(
    ("spoken", "offered", "chosen"),
    [
        ((), None, None),
        ((), "chat", None),
        (("chat",), None, None),
        (("chat",), "chat", "chat"),
        (("v2", "v1"), "v1, v2", "v2"),  # the server's preference counts
        (("v2", "v1"), "v0,v1", "v1"),
        (("chat",), "Chat", None),  # RFC 6455 section 11.3.4: case-sensitive
    ],
)
async def test_subprotocol_is_the_first_of_ours_that_the_peer_offers(
    spoken: tuple[str, ...], offered: str | None, chosen: str | None, nursery: trio.Nursery
) -> None:
    seen: list[str | None] = []

    async def handler(connection: trioweb.Connection) -> None:
        seen.append(connection.subprotocol)
        await wait(connection)

    site = await start(nursery, handler, subprotocols=spoken)
    peer = await site.peer()
    headers = await peer.open(Sec_WebSocket_Protocol=offered)
    assert headers.get("sec-websocket-protocol") == chosen
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [chosen]


async def test_offer_of_subprotocols_that_is_not_taken_is_told_once(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser closes the connection then, and cannot say why."""
    caplog.set_level(logging.INFO)
    site = await start(nursery, wait, subprotocols=["chat"])
    await site.opened(Sec_WebSocket_Protocol="chat, SECRET")
    await site.opened()
    assert not caplog.records
    for _ in range(2):
        await site.opened(Sec_WebSocket_Protocol="SECRET, mqtt")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "subprotocols= (--subprotocol)" in record.getMessage()
    assert "SECRET" not in record.getMessage()


async def test_admit_chooses_the_subprotocol_over_the_servers_preference(
    nursery: trio.Nursery,
) -> None:
    async def admit(request: trioweb.Request) -> trioweb.Accept:
        assert request.subprotocols == ("v1", "v2")
        return trioweb.Accept(subprotocol="v1")

    site = await start(nursery, wait, admit=admit, subprotocols=["v2"])
    peer = await site.peer()
    headers = await peer.open(Sec_WebSocket_Protocol="v1, v2")
    assert headers["sec-websocket-protocol"] == "v1"


async def test_admit_that_chooses_a_subprotocol_nobody_offered_is_a_500(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 6455 section 4.1: the peer would have to fail the connection."""

    async def admit(request: trioweb.Request) -> trioweb.Accept:
        return trioweb.Accept(subprotocol="v3")

    site = await start(nursery, wait, admit=admit)
    assert (await site.ask(upgrade_head(Sec_WebSocket_Protocol="v1"))).status == 500
    [record] = caplog.records
    assert "v3" in caplog.text
    assert record.exc_info is not None


# admit.


async def test_admit_sees_the_request_and_gives_headers_and_a_user(nursery: trio.Nursery) -> None:
    users: list[object] = []

    async def admit(request: trioweb.Request) -> trioweb.Accept:
        assert request.path == "/ä room"
        assert request.query == {"uid": "7"}
        assert request.headers["cookie"] == "token=x"
        return trioweb.Accept(user={"name": "Ann"}, headers=[("Set-Cookie", "a=b")])

    async def handler(connection: trioweb.Connection) -> None:
        users.append(connection.user)
        await wait(connection)

    site = await start(nursery, handler, admit=admit)
    peer = await site.peer()
    headers = await peer.open("/%C3%A4%20room?uid=7", Cookie="token=x")
    assert headers["set-cookie"] == "a=b"
    await trio.testing.wait_all_tasks_blocked()
    assert users == [{"name": "Ann"}]


async def test_admit_that_returns_none_lets_in_with_the_defaults(nursery: trio.Nursery) -> None:
    async def admit(request: trioweb.Request) -> None:
        return None

    site = await start(nursery, echo, admit=admit)
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"hello"))
    assert await peer.frame() == Frame(TEXT, b"hello")
    assert [connection.user for connection in site.server.connections] == [None]


@pytest.mark.parametrize("is_known", [True, False])
async def test_peer_that_admit_knows_again_gets_none_of_its_own_after_a_reconnect(
    is_known: bool, nursery: trio.Nursery
) -> None:
    """An identity that outlives the connection decides what `skip=` means."""

    async def admit(request: trioweb.Request) -> trioweb.Accept:
        return trioweb.Accept(peer=request.query["device"] if is_known else None)

    async with trioweb.open_hub() as hub:
        topic = hub.topic("chat")

        async def chat(connection: trioweb.Connection) -> None:
            since = int(connection.request.query["since"])
            with topic.subscribe(connection, since=(topic.epoch, since)):
                async for message in connection:
                    topic.publish(message, skip=connection)

        site = await start(nursery, chat, admit=admit, hub=hub)
        ann, bob = await site.opened("/?device=a&since=0"), await site.opened("/?device=b&since=0")
        await ann.send(Frame(TEXT, b"from ann"))
        assert await bob.frame() == Frame(TEXT, b"from ann")
        await ann.stream.aclose()
        back = await site.opened("/?device=a&since=0")
        await bob.send(Frame(TEXT, b"from bob"))
        got = [await back.frame() for _ in range(1 if is_known else 2)]
    assert got[-1] == Frame(TEXT, b"from bob")
    assert (Frame(TEXT, b"from ann") in got) == (not is_known)


async def test_connection_without_a_key_of_its_own_is_a_peer_of_its_own(
    nursery: trio.Nursery,
) -> None:
    async def admit(request: trioweb.Request) -> trioweb.Accept:
        return trioweb.Accept(peer=request.query.get("device"))

    site = await start(nursery, wait, admit=admit)
    await site.opened("/?device=a")
    await site.opened("/")
    await trio.testing.wait_all_tasks_blocked()
    known, unknown = site.server.connections
    assert known.peer == "a" != known.id
    assert unknown.peer == unknown.id


async def test_admit_that_rejects_is_answered_with_its_status_headers_and_body(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def admit(request: trioweb.Request) -> None:
        raise trioweb.Reject(401, "Who are\nyou?\x1b[2J", [("WWW-Authenticate", "Bearer")])

    site = await start(nursery, wait, admit=admit)
    answer = await site.ask(upgrade_head())
    assert (answer.status, answer.body) == (401, b"Who are\nyou?\x1b[2J")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert site.server.statistics().refused == {401: 1}
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert "\\n" in record.getMessage()
    assert "\x1b" not in record.getMessage() and "\n" not in record.getMessage()


async def _raise(request: trioweb.Request) -> None:
    raise RuntimeError("database is down")


async def _raise_a_group(request: trioweb.Request) -> None:
    raise ExceptionGroup("two", [RuntimeError("database is down"), trioweb.Reject(403)])


async def _reject_with_a_bad_header(request: trioweb.Request) -> None:
    raise trioweb.Reject(403, headers=[("no token", "value")])


@pytest.mark.parametrize("admit", [_raise, _raise_a_group, _reject_with_a_bad_header])
async def test_admit_that_fails_is_a_500_and_concerns_nobody_else(
    admit: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2, for what is asked before there is a handler."""

    async def one_fails(request: trioweb.Request) -> Any:
        return await admit(request) if request.path == "/bad" else None

    site = await start(nursery, echo, admit=one_fails)
    neighbour = await site.opened()
    answer = await site.ask(upgrade_head("/bad"))
    assert answer.status == 500
    assert b"database" not in answer.body
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    statistics = site.server.statistics()
    assert (statistics.handler_errors, statistics.refused) == (1, {500: 1})
    await neighbour.send(Frame(TEXT, b"hello"))
    assert await neighbour.frame() == Frame(TEXT, b"hello")


@pytest.mark.parametrize(
    "value",
    [False, True, 0, "", "SECRET", {}, {"user": "SECRET"}, (), trioweb.Accept, trioweb.Reject(403)],
    ids=str,
)
async def test_admit_that_returns_neither_accept_nor_none_lets_nobody_in(
    value: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A check fails closed: only Accept and None are a yes."""

    async def admit(request: trioweb.Request) -> Any:
        return value

    async def handler(connection: trioweb.Connection) -> None:
        raise AssertionError("let in")

    site = await start(nursery, handler, admit=admit)
    answer = await site.ask(upgrade_head())
    assert (answer.status, answer.body) == (500, b"internal error\n")
    [record] = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is TypeError
    assert "admit must return an Accept or None" in caplog.text
    assert "SECRET" not in caplog.text
    assert site.server.statistics().handler_errors == 1


@pytest.mark.parametrize("value", [None, "SECRET", {"status": 200}, trioweb.Response], ids=str)
async def test_http_that_returns_no_response_is_a_500(
    value: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def http(request: trioweb.Request) -> Any:
        return value

    site = await start(nursery, wait, http=http)
    assert (await site.ask(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")).status == 500
    assert "http must return a Response" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"headers": None}, TypeError),
        ({"headers": "a: b"}, TypeError),
        ({"headers": ["a: b"]}, TypeError),
        ({"subprotocol": 1}, TypeError),
        ({"subprotocol": ["v1"]}, TypeError),
        ({"headers": [("a b", "c")]}, ValueError),
        ({"peer": 7}, TypeError),
        ({"peer": ""}, ValueError),
        ({"headers": [("a", "b\r\nc: d")]}, ValueError),
        ({"headers": [("a", 1)]}, TypeError),
        ({"subprotocol": "a b"}, ValueError),
        # The handshake's own, which cannot be said twice.
        ({"headers": [("Sec-WebSocket-Protocol", "chat")]}, ValueError),
        ({"headers": [("Upgrade", "h2c")]}, ValueError),
    ],
    ids=str,
)
def test_accept_refuses_what_cannot_stand_in_a_head(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=rf"Accept: .*{next(iter(arguments)).removesuffix('s')}"):
        trioweb.Accept(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"status": None}, TypeError),
        ({"status": "403"}, TypeError),
        ({"status": True}, TypeError),
        ({"status": 200}, ValueError),
        ({"body": None}, TypeError),
        ({"body": 5}, TypeError),
        ({"body": ["no"]}, TypeError),
        ({"headers": None}, TypeError),
        ({"headers": ["a: b"]}, TypeError),
        ({"headers": [("a b", "c")]}, ValueError),
    ],
    ids=str,
)
def test_reject_refuses_at_once_what_could_not_be_answered(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=rf"Reject.*{next(iter(arguments)).removesuffix('s')}"):
        trioweb.Reject(**arguments)


def test_headers_of_accept_and_reject_may_be_a_mapping() -> None:
    assert trioweb.Accept(headers={"a": "b"}).headers == (("a", "b"),)
    assert trioweb.Reject(headers={"a": "b"}).headers == (("a", "b"),)


def test_accept_keeps_headers_of_an_iterator() -> None:
    accepted = trioweb.Accept(headers=iter([("a", "b")]))
    assert list(accepted.headers) == list(accepted.headers) == [("a", "b")]


# How many.


async def test_connections_beyond_the_limit_get_a_503_until_one_goes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 8."""
    site = await start(nursery, wait, limits=trioweb.Limits(max_connections=2))
    first, opening = await site.opened(), await site.peer()
    await trio.testing.wait_all_tasks_blocked()
    # It need not even ask.
    answer = await (await site.peer()).read_answer()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert site.server.statistics().refused == {503: 1}

    await opening.open()  # who was there first is not pushed out
    await first.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().connections == 2


@pytest.mark.network
async def test_connections_of_one_host_beyond_its_limit_get_a_503(nursery: trio.Nursery) -> None:
    """Invariant 8."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    limits = trioweb.Limits(max_connections_per_host=2)

    async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
        await trioweb.serve_listeners(wait, listeners, limits=limits, task_status=task_status)

    server: trioweb.Server = await nursery.start(serve)

    async def dial(host: str) -> Peer:
        return Peer(await trio.open_tcp_stream("127.0.0.1", port, local_address=host))

    peers = [await dial(host) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2")]
    for peer in peers:
        await peer.open()
    assert (await (await dial("127.0.0.1")).read_answer()).status == 503
    assert server.statistics().refused == {503: 1}
    for peer in peers:
        await peer.stream.aclose()


async def test_many_silent_peers_keep_nobody_from_connecting(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 3 and 6: slowloris."""
    site = await start(nursery, echo, limits=trioweb.Limits(connect_timeout=10))
    silent = [await site.peer() for _ in range(200)]
    begun = trio.current_time()
    for index, peer in enumerate(silent):
        await peer.write(upgrade_head()[:index])

    async def talk(site: Site) -> None:
        peer = await site.opened()
        await peer.send(Frame(TEXT, b"hello"))
        assert await peer.frame() == Frame(TEXT, b"hello")

    async with trio.open_nursery() as others:
        for _ in range(20):
            others.start_soon(talk, site)
    assert trio.current_time() == begun
    assert site.server.statistics().opening >= 200 - len(upgrade_head())

    for peer in silent:
        await peer.stream.receive_some()
        await peer.stream.aclose()
    assert trio.current_time() - begun == pytest.approx(10)
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 0
