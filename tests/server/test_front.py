"""The front: heads within their limits, plain HTTP, and upgrades that are none."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
import warnings
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trioweb
from tests.server.support import Handing, Peer, echo, start, upgrade_head, wait
from tests.support import PING, TEXT, Frame, Script, tls_contexts
from trioweb._tls import TlsStream
from trioweb.testing import Network, stream_pair


def get(path: str = "/", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: server\r\n\r\n".encode()


# Upgrades that cannot be taken, each with its status.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (upgrade_head(method="POST"), 405),
        (upgrade_head(method="HEAD"), 405),
        (upgrade_head(Connection=None), 400),
        (upgrade_head(Connection="keep-alive"), 400),
        (upgrade_head(Sec_WebSocket_Key=None), 400),
        (upgrade_head(Sec_WebSocket_Key=""), 400),
        (upgrade_head(Sec_WebSocket_Key="c2hvcnQ="), 400),
        (upgrade_head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ"), 400),
        (upgrade_head(extra=[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]), 400),
        (upgrade_head(Sec_WebSocket_Version=None), 426),
        (upgrade_head(Sec_WebSocket_Version="8"), 426),
        (upgrade_head(Sec_WebSocket_Version="13, 8"), 426),
        (upgrade_head(Sec_WebSocket_Protocol="a b"), 400),
        (upgrade_head(Host=None), 400),
        (upgrade_head(Host="ser ver"), 400),
        (upgrade_head(extra=[("Host", "other")]), 400),
        (upgrade_head(Content_Length="3"), 400),
        (upgrade_head(Transfer_Encoding="chunked"), 400),
        (upgrade_head(version="HTTP/1.0"), 400),
        (upgrade_head("http://user@server/"), 400),
        (upgrade_head("http://ser^ver/"), 400),
        (upgrade_head("*"), 400),
        (upgrade_head(Host="\xff"), 400),
        (upgrade_head(Upgrade="websocket", Connection="\xa0Upgrade"), 400),
        (upgrade_head(Sec_WebSocket_Key="\xb9GhlIHNhbXBsZSBub25jZQ=="), 400),
        (upgrade_head(Sec_WebSocket_Version="1\xb3"), 426),
        (upgrade_head(Sec_WebSocket_Protocol="d\xe9j\xe0"), 400),
        (upgrade_head("/d\xe9j\xe0"), 400),
        (upgrade_head(Cookie="x" * 20_000), 431),
        (upgrade_head().replace(b"\r\n", b"\n"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"x" * 20_000, 431),
    ],
)
async def test_malformed_upgrade_is_refused_with_its_status(
    head: bytes, status: int, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 6455 section 4.2.1."""
    caplog.set_level(logging.INFO)

    async def admit(request: trioweb.Request) -> None:
        raise AssertionError("asked about a malformed request")

    site = await start(nursery, wait, admit=admit)
    answer = await site.ask(head)
    assert answer.status == status
    assert site.server.statistics().refused == {status: 1}
    [record] = caplog.records
    assert record.getMessage().isprintable()
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().opening == 0


@pytest.mark.parametrize(
    ("head", "path", "host"),
    [
        (upgrade_head("http://example.com:80/lobby"), "/lobby", "example.com:80"),
        (b"\r\n" + upgrade_head("/lobby"), "/lobby", "server"),
        (upgrade_head("/caf%E9"), "/café", "server"),
        (upgrade_head("/lobby", Host=""), "/lobby", ""),
    ],
    ids=["absolute-form", "an empty line first", "Latin-1", "an empty Host"],
)
async def test_upgrade_that_is_only_unusual_is_taken(
    head: bytes, path: str, host: str, nursery: trio.Nursery
) -> None:
    """RFC 9112 sections 2.2 and 3.2.2, RFC 9110 section 7.2."""
    requests: list[trioweb.Request] = []

    async def admit(request: trioweb.Request) -> None:
        requests.append(request)

    site = await start(nursery, wait, admit=admit)
    peer = await site.peer()
    await peer.write(head)
    assert (await peer.read_head())[0] == 101
    [request] = requests
    assert (request.path, request.headers["host"]) == (path, host)


async def test_origin_is_compared_with_the_host_of_an_absolute_target(
    nursery: trio.Nursery,
) -> None:
    site = await start(nursery, wait)
    head = upgrade_head("http://a.example/", Host="b.example", Origin="http://b.example")
    assert (await site.ask(head)).status == 403
    peer = await site.peer()
    await peer.write(upgrade_head("http://a.example/", Host="b", Origin="http://a.example"))
    assert (await peer.read_head())[0] == 101


async def test_answers_have_a_date(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 784111777.9)
    site = await start(nursery, wait)
    for head in get(), b"nonsense\r\n\r\n":
        assert (await site.ask(head)).headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize("upgrade", [None, ""])
async def test_swallowed_upgrade_is_named(
    upgrade: str | None, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that is not told to pass it on takes it away; what was meant is clear."""
    caplog.set_level(logging.INFO)

    async def http(request: trioweb.Request) -> trioweb.Response:
        raise AssertionError("asked about a handshake")

    site = await start(nursery, wait, http=http)
    answer = await site.ask(upgrade_head(Upgrade=upgrade, Connection="close"))
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
    [record] = caplog.records
    assert "refused with 426" in record.getMessage()
    assert "no Upgrade: a proxy on the way must pass that on" in record.getMessage()


async def test_wrong_version_is_told_the_right_one(nursery: trio.Nursery) -> None:
    """RFC 6455 section 4.2.2."""
    site = await start(nursery, wait)
    answer = await site.ask(upgrade_head(Sec_WebSocket_Version="8"))
    assert answer.headers["sec-websocket-version"] == "13"


async def test_head_may_come_a_byte_at_a_time(nursery: trio.Nursery) -> None:
    site = await start(nursery, echo, network=Network(segment=1))
    peer = await site.peer()
    await peer.write(upgrade_head() + peer.encode(Frame(TEXT, b"hello")))
    assert (await peer.read_head())[0] == 101
    assert await peer.frame() == Frame(TEXT, b"hello")


async def test_slow_head_is_refused_at_the_deadline_however_busy_its_peer_is(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6."""
    site = await start(nursery, wait, limits=trioweb.Limits(connect_timeout=4))
    peer = await site.peer()
    begun = trio.current_time()
    async with trio.open_nursery() as talking:

        @talking.start_soon
        async def dribble() -> None:
            while True:
                await peer.write(b"x")
                await trio.sleep(0.5)

        status, _ = await peer.read_head()
        talking.cancel_scope.cancel()
    assert status == 408
    assert trio.current_time() - begun == pytest.approx(4)
    await peer.read_end()
    assert site.server.statistics().refused == {408: 1}


async def test_peer_that_goes_before_it_has_asked_is_counted_and_logged_once(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = await start(nursery, wait)
    peer = await site.peer()
    await peer.write(b"GET / HT")
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().refused == {0: 1}
    assert site.streams == 0
    assert len(caplog.records) == 1


@pytest.mark.network
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_check_of_the_port_makes_no_line_and_no_count(
    tls: bool, reset: bool, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Load balancers connect and close, every few seconds."""
    caplog.set_level(logging.INFO)
    client_context, server_context = tls_contexts()
    options: dict[str, Any] = {"ssl_context": server_context} if tls else {}
    serve = partial(trioweb.serve, wait, 0, host="127.0.0.1", **options)
    server: trioweb.Server = await nursery.start(serve)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if reset:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
    # Who comes later is accepted later.
    later: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if tls:
        later = trio.SSLStream(
            later, client_context, server_hostname="localhost", https_compatible=True
        )
    assert (await Peer(later).ask(get())).status == 404
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.statistics().refused == {}
    assert not caplog.records


async def test_refused_peer_that_neither_reads_nor_closes_is_cut_off(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6."""
    site = await start(nursery, wait)
    peer = await site.peer()
    await peer.write(b"rubbish\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert site.streams == 2
    await trio.sleep(1.1)
    assert site.streams == 1
    await peer.stream.aclose()


async def test_refusal_is_not_overtaken_by_a_reset(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Closing with bytes unread would reset the connection, answer and all."""
    site = await start(nursery, wait, network=Network(latency=0.1))
    peer = await site.peer()
    await peer.write(upgrade_head(Sec_WebSocket_Version="8"))
    for _ in range(5):
        await peer.write(bytes(10_000))
    await trio.sleep(0.9)
    assert (await peer.read_answer()).status == 426


def over_tls(
    listener: trio.abc.Listener[Any], way: str
) -> tuple[trio.abc.Listener[Any], dict[str, Any]]:
    """What to serve, and how: our own TLS on top of *listener*, or Trio's."""
    _, server_context = tls_contexts()
    if way == "ours":
        return listener, {"ssl_context": server_context}
    return trio.SSLListener(listener, server_context), {}


WAYS = pytest.mark.parametrize("way", ["ours", "Trio's"])


@WAYS
@pytest.mark.parametrize("handshake", ["never begins", "never ends"])
async def test_silent_tls_peer_is_given_up_at_the_deadline(
    handshake: str,
    way: str,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Invariant 6, for one beyond the limit, too."""
    caplog.set_level(logging.INFO, "trioweb")
    network = Network()
    listener, options = over_tls(network.host("server").listen(443), way)
    limits = trioweb.Limits(max_connections=1)
    serve = partial(trioweb.serve_listeners, wait, [listener], limits=limits, **options)
    server: trioweb.Server = await nursery.start(serve)
    peers = [Peer(await network.host("client").dial("server", 443)) for _ in range(2)]
    begun = trio.current_time()
    for peer in peers:
        if handshake == "never ends":
            await peer.write(b"\x16\x03\x01\x02\x00")
    for peer in peers:
        await peer.read_end()
    assert trio.current_time() - begun == pytest.approx(10)
    assert server.statistics().refused == {0: 2}
    assert all("TLS" in record.getMessage() for record in caplog.records)


@pytest.mark.network
@WAYS
@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_host"])
async def test_crowd_of_silent_tls_peers_is_bounded_and_a_few_beyond_the_limit_are_told(
    limit: str,
    way: str,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """CWE-770: who says nothing holds no more than twice the room, and not until a deadline."""
    caplog.set_level(logging.INFO, "trioweb")
    client_context, _ = tls_contexts()
    # Of a network in memory all peers are without an address.
    [tcp] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener, options = over_tls(tcp, way)
    limits = trioweb.Limits(**{limit: 3})
    serve = partial(trioweb.serve_listeners, wait, [listener], limits=limits, **options)
    server: trioweb.Server = await nursery.start(serve)

    async def dial() -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return stream

    silent = [await dial() for _ in range(5)]
    secure = trio.SSLStream(
        await dial(), client_context, server_hostname="localhost", https_compatible=True
    )
    late = [Peer(await dial()) for _ in range(10)]
    for peer in late:
        assert await peer.read_end() == b""
    assert server.statistics().opening == 6
    assert server.statistics().refused == {0: 10}
    assert len(caplog.records) == 10
    assert all("too many connections" in record.getMessage() for record in caplog.records)

    assert (await Peer(secure).ask(upgrade_head())).status == 503
    for stream in silent:
        await stream.aclose()


@pytest.mark.network
@WAYS
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("plain HTTP", "TLS failed: http request"),
        ("too old", "TLS failed: unsupported protocol"),
        ("no trust", "TLS failed: tlsv1 alert unknown ca"),
    ],
)
async def test_reason_why_tls_failed_is_told(
    fault: str, reason: str, way: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioweb")
    network = Network()
    listener, options = over_tls(network.host("server").listen(443), way)
    await nursery.start(partial(trioweb.serve_listeners, wait, [listener], **options))
    transport = await network.host("client").dial("server", 443)
    if fault == "plain HTTP":
        await transport.send_all(get())
    else:
        context = ssl.create_default_context()
        if fault == "too old":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(trio.BrokenResourceError):
            # Not Trio's: that one does not send its alert.
            await TlsStream(transport, context, server_hostname="localhost").do_handshake()
    await trio.testing.wait_all_tasks_blocked()
    await trio.aclose_forcefully(transport)
    await trio.testing.wait_all_tasks_blocked()
    [record] = caplog.records
    assert reason in record.getMessage()
    assert record.exc_info is None


async def test_tls_context_for_clients_is_refused_at_once() -> None:
    context = ssl.create_default_context()
    with pytest.raises(ValueError, match=r"ssl_context must be one for servers, ssl\.create_def"):
        await trioweb.serve(wait, 0, ssl_context=context)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "not shown"])
@WAYS
async def test_request_tells_of_tls_and_of_the_peers_certificate(
    way: str, shown: bool, nursery: trio.Nursery
) -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client_context = ssl.create_default_context()
    for context in server_context, client_context:
        authority.configure_trust(context)
    authority.issue_cert("server").configure_cert(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    if shown:
        authority.issue_cert("ada@example.org").configure_cert(client_context)
    seen: list[trioweb.Request | trioweb.Connection] = []

    async def admit(request: trioweb.Request) -> None:
        seen.append(request)

    async def handler(connection: trioweb.Connection) -> None:
        seen.append(connection)

    network = Network()
    listener: trio.abc.Listener[Any] = network.host("server").listen(443)
    options: dict[str, Any] = {"ssl_context": server_context}
    if way == "Trio's":
        listener, options = trio.SSLListener(listener, server_context), {}
    await nursery.start(
        partial(trioweb.serve_listeners, handler, [listener], admit=admit, **options)
    )
    async with trioweb.open_connection(
        "wss://server/", ssl_context=client_context, dial=network.host("client").dial
    ) as connection:
        await connection.wait_closed()
        assert connection.secure
        assert connection.certificate is not None
        assert connection.certificate["subjectAltName"] == (("DNS", "server"),)
    for one in seen:
        assert one.secure
        if shown:
            assert one.certificate is not None
            assert one.certificate["subjectAltName"] == (("email", "ada@example.org"),)
        else:
            assert one.certificate is None
    assert len(seen) == 2


async def test_request_without_tls_is_not_secure(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait)
    await site.opened()
    await trio.testing.wait_all_tasks_blocked()
    [connection] = site.server.connections
    assert (connection.secure, connection.certificate) == (False, None)


@WAYS
async def test_page_that_came_over_http_may_not_connect_over_tls(
    way: str, nursery: trio.Nursery
) -> None:
    """Anybody on the way may have written it; behind a proxy nobody knows, and it passes."""
    client_context, _ = tls_contexts()
    network = Network()
    listener, options = over_tls(network.host("server").listen(443), way)
    await nursery.start(
        partial(
            trioweb.serve_listeners, wait, [listener], origins=["http://listed.example"], **options
        )
    )
    for origin, status in [
        ("http://server", 403),
        ("https://server", 101),
        ("http://listed.example", 101),
    ]:
        transport = await network.host("client").dial("server", 443)
        peer = Peer(
            trio.SSLStream(
                transport, client_context, server_hostname="localhost", https_compatible=True
            )
        )
        await peer.write(upgrade_head(Origin=origin))
        assert (await peer.read_head())[0] == status
        await trio.aclose_forcefully(peer.stream)


@WAYS
async def test_plain_http_to_a_tls_port_ends_nobody_else(way: str, nursery: trio.Nursery) -> None:
    client_context, _ = tls_contexts()
    network = Network()
    listener, options = over_tls(network.host("server").listen(443), way)
    serve = partial(trioweb.serve_listeners, wait, [listener], http=hello, **options)
    server: trioweb.Server = await nursery.start(serve)
    plain = Peer(await network.host("client").dial("server", 443))
    await plain.write(get())
    await plain.read_end()
    assert server.statistics().refused == {0: 1}

    transport = await network.host("client").dial("server", 443)
    secure = trio.SSLStream(
        transport, client_context, server_hostname="localhost", https_compatible=True
    )
    assert (await Peer(secure).ask(get())).body == b"hello"


# Plain HTTP.


async def hello(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, "hello", [("X-Path", request.path)])


async def test_plain_request_is_answered_with_404_by_default(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait)
    answer = await site.ask(get())
    assert answer.status == 404
    assert site.server.statistics().answered == {404: 1}
    assert site.server.statistics().refused == {}


async def test_http_answers_what_is_no_upgrade(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=hello)
    answer = await site.ask(get("/a%20b?c"))
    assert (answer.status, answer.body, answer.headers["x-path"]) == (200, b"hello", "/a b")
    assert answer.headers["content-length"] == "5"
    # RFC 9110 section 7.8: a server may ignore an Upgrade to what it does not speak.
    assert (await site.ask(upgrade_head(Upgrade="h2c"))).status == 200
    assert site.server.statistics().answered == {200: 2}


async def test_head_is_answered_like_get_but_without_a_body(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=hello)
    answer = await site.ask(get(method="HEAD"))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "5"


METHODS = ["POST", "PUT", "DELETE", "OPTIONS", "BREW", "get"]


@pytest.mark.parametrize("method", METHODS)
async def test_other_methods_are_refused_with_405_where_nobody_answers(
    method: str, nursery: trio.Nursery
) -> None:
    site = await start(nursery, wait)
    answer = await site.ask(get(method=method))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert site.server.statistics().refused == {405: 1}


@pytest.mark.parametrize("method", METHODS)
async def test_http_is_asked_whatever_the_method(method: str, nursery: trio.Nursery) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, f"{request.method} {request.path}")

    site = await start(nursery, wait, http=http)
    answer = await site.ask(get("/a", method=method))
    assert (answer.status, answer.body) == (200, f"{method} /a".encode())


@pytest.mark.parametrize("http", [None, hello])
@pytest.mark.parametrize(
    "head",
    [
        get(method="TRACE"),
        b"CONNECT server:443 HTTP/1.1\r\nHost: server:443\r\n\r\n",
        upgrade_head(method="CONNECT"),
    ],
)
async def test_connect_and_trace_are_refused_with_501(
    head: bytes, http: Any, nursery: trio.Nursery
) -> None:
    site = await start(nursery, wait, http=http)
    assert (await site.ask(head)).status == 501
    assert site.server.statistics().refused == {501: 1}


async def _raise(request: trioweb.Request) -> trioweb.Response:
    raise RuntimeError("template is missing")


async def _forget_to_return(request: trioweb.Request) -> Any:
    return None


@pytest.mark.parametrize("http", [_raise, _forget_to_return])
async def test_http_that_fails_is_a_500_and_concerns_nobody_else(
    http: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2, for plain HTTP."""
    site = await start(nursery, echo, http=http)
    neighbour = await site.opened()
    answer = await site.ask(get())
    assert answer.status == 500
    assert b"template" not in answer.body
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert site.server.statistics().handler_errors == 1
    await neighbour.send(Frame(TEXT, b"hello"))
    assert await neighbour.frame() == Frame(TEXT, b"hello")


async def test_http_may_reject(nursery: trio.Nursery) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        raise trioweb.Reject(403, "no")

    site = await start(nursery, wait, http=http)
    answer = await site.ask(get())
    assert (answer.status, answer.body) == (403, b"no")
    assert site.server.statistics().handler_errors == 0


async def test_big_answer_to_a_slow_reader_arrives_whole_and_holds_up_nobody(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 3."""
    body = bytes(range(256)) * 4096

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, body if request.path == "/big" else b"small")

    network = Network(max_bytes=10_000)
    site = await start(nursery, wait, http=http, network=network)
    slow = await site.peer()
    await slow.write(get("/big"))
    await trio.testing.wait_all_tasks_blocked()
    begun = trio.current_time()
    assert (await site.ask(get())).body == b"small"
    assert trio.current_time() == begun

    _, headers = await slow.read_head()
    received = slow.unparsed
    while data := await slow.stream.receive_some():
        received += data
        await trio.sleep(0.1)
    assert int(headers["content-length"]) == len(body)
    assert received == body
    await slow.stream.aclose()


async def test_reader_that_takes_nothing_is_given_up_after_the_write_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 8."""

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(200, bytes(2**20))

    limits = trioweb.Limits(write_timeout=7)
    site = await start(nursery, wait, http=http, limits=limits)
    peer = await site.peer()
    await peer.write(get())
    await trio.sleep(6.9)
    assert site.streams == 2
    await trio.sleep(0.2)
    assert site.streams == 1
    await peer.stream.aclose()


async def test_answer_goes_out_on_a_stream_without_half_close() -> None:
    """TLS, and what users bring: closing is all the end there is."""
    ours, theirs = stream_pair()

    class NoHalfClose(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await ours.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await ours.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return await ours.receive_some(max_bytes)

        async def aclose(self) -> None:
            await ours.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve_listeners, wait, [Handing([NoHalfClose()])], http=hello)
        await nursery.start(serve)
        assert (await Peer(theirs).ask(get())).body == b"hello"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (trio.BrokenResourceError("gone"), "gone"),
        (trio.TooSlowError("the peer reads too slowly"), "the peer reads too slowly"),
        (OSError("io"), "io"),
    ],
    ids=["gone", "slow", "io"],
)
async def test_peer_that_does_not_take_its_101_is_gone_while_opening(
    error: Exception, text: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2: and nobody else hears of it."""
    caplog.set_level(logging.INFO, "trioweb")
    streams = [Script([upgrade_head()], silent=True, fault=error)]
    server: trioweb.Server = await nursery.start(
        partial(trioweb.serve_listeners, wait, [Handing(streams)])
    )
    await trio.testing.wait_all_tasks_blocked()
    assert [record.getMessage() for record in caplog.records] == [
        f"(no address): gone while opening: {text!r}"
    ]
    statistics = server.statistics()
    assert (statistics.opened, statistics.handler_errors) == (0, 0)


async def test_peer_that_does_not_read_its_101_has_the_time_of_an_opening_for_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 6."""
    caplog.set_level(logging.INFO, "trioweb")
    ours, theirs = stream_pair(100)
    limits = trioweb.Limits(connect_timeout=7)
    serve = partial(trioweb.serve_listeners, wait, [Handing([ours])], limits=limits)
    await nursery.start(serve)
    await theirs.send_all(upgrade_head())
    await trio.sleep(6.9)
    assert not caplog.records
    await trio.sleep(0.2)
    assert caplog.records[0].getMessage().endswith("'the peer reads too slowly'")


# What is set on the sockets.


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True])
async def test_kernel_holds_little_for_a_peer_that_does_not_read(
    secure: bool, nursery: trio.Nursery
) -> None:
    """Invariants 3 and 8: what is queued in the kernel, nobody here can bound or count."""
    import socket

    if not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("this system has no TCP_NOTSENT_LOWAT")
    client_context, server_context = tls_contexts()
    context: ssl.SSLContext | None = server_context if secure else None
    serve = partial(trioweb.serve, wait, 0, host="127.0.0.1", ssl_context=context)
    server: trioweb.Server = await nursery.start(serve)
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if secure:
        assert isinstance(stream, trio.SocketStream)
        stream = trio.SSLStream(stream, client_context, server_hostname="localhost")
    peer = Peer(stream)
    await peer.open()
    await trio.testing.wait_all_tasks_blocked(0.01)
    [connection] = server.connections
    transport = connection.link.carrier._stream
    transport = getattr(transport, "transport_stream", transport)
    assert isinstance(transport, trio.SocketStream)
    unsent = transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert unsent <= 2**17
    await trio.aclose_forcefully(stream)


async def test_ping_sent_along_with_the_upgrade_is_answered(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait)
    peer = await site.peer()
    await peer.write(upgrade_head() + peer.encode(Frame(PING, b"early")))
    await peer.read_head()
    assert await peer.frame() == Frame(0xA, b"early")
