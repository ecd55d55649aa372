"""Proxies: which one, what it is told, what the server is told, and how it says no."""

from __future__ import annotations

import base64
import importlib.util
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.client.support import Door, answer, answer_pings, hang, refuse
from tests.support import HOST, tls_contexts
from trioweb import ConnectFailed, GaveUp, ProxyRefused
from trioweb._client import _trust
from trioweb._client._proxy import ENVIRONMENT, Proxy, find_proxy, is_local, parse_proxy
from trioweb._protocol._url import parse_url
from trioweb.testing import RawPeer, no_leaks, stream_pair

OPENINGS: Final[list[Callable[..., Any]]] = [trioweb.open_connection, trioweb.open_client]
OK: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


# Which one.


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("ws", "wss", "http", "https", "socks", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)


def found(url: str) -> str | None:
    proxy = find_proxy("test", parse_url(url))
    return None if proxy is None else proxy.url


def test_entries_of_the_environment_go_in_the_order_of_the_rfc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 6455 section 4.1."""
    entries = {"http": "http://h:1", "https": "http://s:2", "socks": "socks5://k:3"}
    seen: list[tuple[str | None, str | None]] = []
    for name, value in {**entries, "ws": "http://w:4", "wss": "https://x"}.items():
        monkeypatch.setenv(f"{name}_proxy", value)
        seen.append((found("ws://example.org/"), found("wss://example.org/")))
    assert seen == [
        ("http://h:1", None),
        ("http://s:2", "http://s:2"),
        ("socks5://k:3", "socks5://k:3"),
        ("http://w:4", "socks5://k:3"),
        ("http://w:4", "https://x:443"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "url"),
    [
        ("HTTPS_PROXY", "10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("https_proxy", "http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080"),
        ("SOCKS_PROXY", "10.0.0.1", "socks5h://10.0.0.1:1080"),
        ("socks_proxy", "http://10.0.0.1:9050", "socks5h://10.0.0.1:9050"),
        ("https_proxy", "", None),
        ("all_proxy", "http://h:1", None),
    ],
)
def test_entry_of_the_environment_is_taken_as_people_write_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, url: str | None
) -> None:
    monkeypatch.setenv(name, value)
    assert found("wss://example.org/") == url


def test_cgi_has_no_say_in_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's Proxy header is HTTP_PROXY to a CGI script (CVE-2016-1000110)."""
    monkeypatch.setenv("HTTP_PROXY", "http://evil:1")
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert found("ws://example.org/") is None
    monkeypatch.setenv("http_proxy", "http://h:1")
    assert found("ws://example.org/") == "http://h:1"


@pytest.mark.parametrize(
    ("host", "goes"),
    [
        ("example.org", False),
        ("a.example.org", False),
        ("other:8000", False),
        ("other", True),
        ("notexample.org", True),
        ("[2001:db8::1]", True),
        ("[2001:db8::2]", False),
        ("[2001:db8::3]", False),
    ],
)
def test_no_proxy_is_the_standard_librarys(
    monkeypatch: pytest.MonkeyPatch, host: str, goes: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://h:1")
    monkeypatch.setenv("no_proxy", ".example.org, other:8000,[2001:db8::2],2001:DB8::3")
    assert (found(f"ws://{host}/") is not None) is goes
    monkeypatch.setenv("no_proxy", "*")
    assert found(f"ws://{host}/") is None


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((each, True) for each in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9")),
        *((each, True) for each in ("::1", "::ffff:127.0.0.1", "0.0.0.0")),
        *((each, False) for each in ("localhost.org", "mylocalhost", "10.0.0.1", "::2", "fe80::1")),
    ],
)
def test_no_proxy_leads_to_this_machine(
    monkeypatch: pytest.MonkeyPatch, host: str, local: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://h:1")
    assert is_local(host) is local
    assert (found(f"ws://{f'[{host}]' if ':' in host else host}:8000/") is None) is local


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_settings_of_the_system_are_asked_where_it_has_any(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://system:1"})
    assert found("wss://example.org/") is None
    monkeypatch.setattr("sys.platform", platform)
    assert found("wss://example.org/") == "http://system:1"


# A bad one is told, without who we are.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "proxy must be 'environment', None, or a URL such as .*, not 5"),
        ("", "must be 'environment'"),
        ("host:3128", "must be 'environment'"),
        ("socks4://ada:s3cret@host", "'socks4://…@host' must be 'environment'"),
        ("http://", "must be 'environment'"),
        ("http://ada:s3cret@host:99999", "'http://…@host:99999' has a bad host or port"),
        ("http://ada:s3cret@[::1", "has a bad host or port"),
        ("http://ada:s3/cret@host:80", "'http://…@host:80' has a bad host or port"),
        ("http://ada:s3cret@host:0", "must have a host and a port"),
        ("http://ada:s3cret@host/path?k=s3cret", "'http://…' must have|'http://…@host/path"),
        ("socks5://ada:@host", "a user and a password of 1 to 255 ASCII"),
        ("socks5://ada:s3cr%C3%A9t@host", "a user and a password of 1 to 255 ASCII"),
    ],
)
@pytest.mark.parametrize("opening", OPENINGS)
async def test_bad_proxy_is_told_at_once_without_its_password(
    opening: Callable[..., Any], value: Any, text: str
) -> None:
    async with no_leaks():
        with pytest.raises((TypeError, ValueError), match=text) as caught:
            async with opening("ws://server/", dial=refuse, proxy=value):
                raise AssertionError("the block was entered")
    assert "s3c" not in str(caught.value) and "ada" not in str(caught.value)


async def test_bad_proxy_of_the_environment_is_told_with_its_name(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://ada:s3cret@host")
    text = r"https_proxy in the environment: proxy 'ftp://…@host' must be"
    for opening in OPENINGS:
        with pytest.raises(ValueError, match=text):
            async with opening("wss://server/"):
                await trio.sleep_forever()


async def test_socks_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for opening in OPENINGS:
        with pytest.raises(
            ImportError, match=r"needs python-socks: pip install 'trioweb\[proxy\]'"
        ):
            async with opening("ws://server/", proxy="socks5h://host", dial=refuse):
                raise AssertionError("the block was entered")


def test_proxy_of_a_url() -> None:
    assert parse_proxy("test", "http://h") == Proxy("http", "h", 80)
    assert parse_proxy("test", "https://h/") == Proxy("https", "h", 443)
    assert parse_proxy("test", "socks5://h") == Proxy("socks5", "h", 1080)
    proxy = parse_proxy("test", "http://a%40b:c%3Ad@[::1]:3128")
    assert proxy == Proxy("http", "::1", 3128, "a@b", "c:d")
    assert proxy.url == "http://[::1]:3128"
    assert "c:d" not in repr(proxy) and "a@b" not in repr(proxy)
    assert proxy.authorization == "Basic " + base64.b64encode(b"a@b:c:d").decode()
    assert importlib.util.find_spec("python_socks"), "the tests need it"


# The way through.


class ConnectProxy:
    """A proxy in memory, in front of a server in memory.

    Attributes:
        heads: what it was asked for.
        seen: what the server was.
    """

    def __init__(self, reply: bytes = OK) -> None:
        self.heads: list[bytes] = []
        self.seen: list[bytes] = []
        self._reply = reply

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.heads.append(await RawPeer(stream, masked=False).receive_head())
        await stream.send_all(self._reply)
        if self._reply != OK:
            await stream.aclose()
            return
        await lead(stream, self.seen)


async def lead(stream: trio.abc.Stream, seen: list[bytes]) -> None:
    """Be the server that the client has been connected with."""
    peer = await RawPeer.accept(stream)
    seen.append(peer.head)
    await answer_pings(peer)


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("url", ["ws://server:8000/x", "ws://127.0.0.1:8000/x"])
async def test_dial_reaches_the_proxy_and_connect_the_server(
    nursery: trio.Nursery, autojump_clock: MockClock, opening: Callable[..., Any], url: str
) -> None:
    """A proxy that was named leads anywhere, to this machine, too."""
    proxy, door = ConnectProxy(), Door()
    nursery.start_soon(door.serve, proxy.serve)
    async with opening(url, dial=door.dial, proxy="http://ada:s3cret@proxy:3128") as opened:
        if isinstance(opened, trioweb.Client):
            await opened.wait_open()
    assert door.asked == [("proxy", 3128)]
    where = parse_url(url).authority.encode()
    [head], [seen] = proxy.heads, proxy.seen
    assert head.startswith(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: " % (where, where))
    credentials = base64.b64encode(b"ada:s3cret")
    assert b"\r\nProxy-Authorization: Basic %s\r\n" % credentials in head
    # The server is told nothing of the proxy, nor the proxy of what is for the server.
    assert b"Proxy" not in seen and credentials not in seen
    assert seen.startswith(b"GET /x HTTP/1.1\r\nHost: " + where)


async def test_port_that_is_the_default_is_told_to_the_proxy_and_so_are_ipv6_brackets(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    proxy, door = ConnectProxy(), Door()
    nursery.start_soon(door.serve, proxy.serve)
    for host in ("server", "[2001:db8::1]"):
        async with trioweb.open_connection(
            f"ws://{host}/", dial=door.dial, proxy="http://proxy", user_agent=""
        ):
            pass
    assert proxy.heads == [
        b"CONNECT server:80 HTTP/1.1\r\nHost: server:80\r\n\r\n",
        b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
    ]


async def test_proxy_of_the_environment_is_used_unless_there_is_a_dial(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, door, direct = ConnectProxy(), Door(), Door()
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setattr(trio, "open_tcp_stream", door.dial)
    nursery.start_soon(door.serve, proxy.serve, hang)
    nursery.start_soon(direct.serve, lambda stream: lead(stream, proxy.seen))
    async with trioweb.open_connection("ws://server/"):
        pass
    assert door.asked == [("proxy", 3128)] and len(proxy.heads) == 1
    async with trioweb.open_connection("ws://server/", dial=direct.dial, proxy=ENVIRONMENT):
        pass
    assert direct.asked == [("server", 80)]
    with pytest.raises(trioweb.OpenFailed):
        async with trioweb.open_connection(
            "ws://server/", proxy=None, limits=trioweb.Limits(connect_timeout=1)
        ):
            raise AssertionError("the block was entered")
    assert door.asked[1:] == [("server", 80)]


async def test_each_redirect_asks_for_its_own_way(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, door = ConnectProxy(), Door()
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setattr(trio, "open_tcp_stream", door.dial)
    nursery.start_soon(door.serve, answer(302, location="ws://server/"), proxy.serve)
    async with trioweb.open_connection("ws://localhost/"):
        pass
    assert door.asked == [("localhost", 80), ("proxy", 3128)]


async def test_tls_goes_through_the_proxy_to_the_server(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    proxy, door = ConnectProxy(), Door()

    async def serve(stream: trio.abc.Stream) -> None:
        proxy.heads.append(await RawPeer(stream, masked=False).receive_head())
        await stream.send_all(OK)
        await lead(trio.SSLStream(stream, tls_contexts()[1], server_side=True), proxy.seen)

    nursery.start_soon(door.serve, serve)
    async with trioweb.open_connection(
        f"wss://{HOST}/", dial=door.dial, proxy="http://proxy", ssl_context=tls_contexts()[0]
    ):
        pass
    assert proxy.heads[0].startswith(b"CONNECT %s:443 " % HOST.encode())
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_proxy_may_be_spoken_to_over_tls(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """It proves to be who it is by the system's authorities, whatever the server's are."""
    monkeypatch.setattr(_trust, "_context", tls_contexts()[0])
    proxy, door = ConnectProxy(), Door()

    async def serve(stream: trio.abc.Stream) -> None:
        outer = trio.SSLStream(stream, tls_contexts()[1], server_side=True)
        proxy.heads.append(await RawPeer(outer, masked=False).receive_head())
        await outer.send_all(OK)
        inner: trio.abc.Stream = outer
        if scheme == "wss":
            inner = trio.SSLStream(outer, tls_contexts()[1], server_side=True)
        await lead(inner, proxy.seen)

    nursery.start_soon(door.serve, serve)
    async with trioweb.open_connection(
        f"{scheme}://{HOST}/", dial=door.dial, proxy=f"https://a:b@{HOST}:8443"
    ) as connection:
        await connection.send("through")
        assert await connection.ping() >= 0
        # The proxy's is nobody's business.
        assert (connection.certificate is not None) is (scheme == "wss")
        assert connection.secure is (scheme == "wss")
    assert door.asked == [(HOST, 8443)]
    assert b"Proxy-Authorization" in proxy.heads[0] and len(proxy.seen) == 1


async def test_proxy_that_is_not_trusted_is_told_nothing(nursery: trio.Nursery) -> None:
    door = Door()

    async def serve(stream: trio.abc.Stream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, tls_contexts()[1], server_side=True).do_handshake()
        await stream.aclose()

    nursery.start_soon(door.serve, serve)
    with pytest.raises(ConnectFailed, match=r"TLS with the proxy https://proxy:443 failed") as told:
        async with trioweb.open_connection("ws://server/", dial=door.dial, proxy="https://proxy"):
            pass
    assert told.value.untrusted
    assert isinstance(told.value.__cause__, ssl.SSLCertVerificationError)


# It says no.


async def told(serve: Callable[[trio.abc.Stream], Awaitable[object]], proxy: str) -> ConnectFailed:
    """Why there is no way through a proxy."""
    ends = stream_pair()
    door = Door(lambda: ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, serve)
        with pytest.raises(ConnectFailed) as caught:
            async with trioweb.open_connection("ws://server/", dial=door.dial, proxy=proxy):
                raise AssertionError("the block was entered")
        # Invariant 10.
        with pytest.raises(trio.ClosedResourceError):
            await ends[0].receive_some()
        nursery.cancel_scope.cancel()
    assert "s3cret" not in str(caught.value)
    return caught.value


def reply(status: str, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("status", "body", "text", "again"),
    [
        ("403 Filtered", b"not there\n", "HTTP status 403: not there", False),
        ("404 Not Found", b"<html>", "HTTP status 404", False),
        ("407 Who?", b"", "HTTP status 407: it does not know this user and password", False),
        ("401 Who?", b"", "HTTP status 401: it does not know this user and password", False),
        ("429 Slow", b"", "HTTP status 429", True),
        ("502 Bad Gateway", b"", "HTTP status 502", True),
        ("503 Unavailable", b"", "HTTP status 503", True),
    ],
)
async def test_refusal_of_a_proxy_is_told_and_is_not_the_servers(
    autojump_clock: MockClock, status: str, body: bytes, text: str, again: bool
) -> None:
    error = await told(ConnectProxy(reply(status, body)).serve, "http://ada:s3cret@proxy:3128")
    assert isinstance(error, ProxyRefused) and error.status == int(status[:3])
    what = f"the proxy http://proxy:3128 answered CONNECT to server:80 with {text}"
    assert str(error) == what
    assert trioweb.is_worth_retry(error) is again


async def test_proxy_that_wants_a_user_says_so(autojump_clock: MockClock) -> None:
    error = await told(ConnectProxy(reply("407 Who?")).serve, "http://proxy")
    assert "it does not know us, and the proxy's URL has no user" in str(error)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "gave no answer that makes sense"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "gave no answer that makes sense"),
        (OK + b"HTTP/1.1 101 Switching Protocols\r\n", "sent bytes ahead of the server"),
    ],
)
async def test_proxy_that_makes_no_sense_is_told(
    autojump_clock: MockClock, sent: bytes, text: str
) -> None:
    error = await told(ConnectProxy(sent).serve, "http://ada:s3cret@proxy:3128")
    assert text in str(error) and "the proxy http://proxy:3128" in str(error)
    assert trioweb.is_worth_retry(error)


@pytest.mark.parametrize("proxy", ["http://a:s3cret@proxy:1", "socks5h://a:s3cret@proxy:1"])
async def test_proxy_that_is_silent_is_left_at_the_connect_timeout(
    autojump_clock: MockClock, proxy: str
) -> None:
    """Invariant 6: of SOCKS, too, whose library has a deadline of its own."""
    error = await told(hang, proxy)
    where = proxy.replace("a:s3cret@", "")
    assert str(error) == (
        f"server:80 did not answer within 10 s (asking the proxy {where}; Limits.connect_timeout)"
    )
    assert trio.current_time() == 10


async def test_proxy_that_cannot_be_reached_is_told_by_its_own_name(
    autojump_clock: MockClock,
) -> None:
    async def never(host: str, port: int) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    for dial, text in (
        (refuse, "could not connect to the proxy http://proxy:3128: Connection refused"),
        (never, r"server:80 did not answer within 10 s \(connecting to the proxy http://proxy"),
    ):
        with pytest.raises(ConnectFailed, match=text):
            async with trioweb.open_connection(
                "ws://server/", dial=dial, proxy="http://a:s3cret@proxy:3128"
            ):
                pass


async def test_proxy_that_is_busy_is_asked_again_and_one_that_denies_is_not(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    busy, denies = ConnectProxy(reply("503 Busy")), ConnectProxy(reply("403 No"))
    door = Door()
    nursery.start_soon(door.serve, busy.serve, trio.aclose_forcefully, denies.serve)
    with pytest.raises(GaveUp) as caught:
        async with trioweb.open_client(
            "ws://server/", dial=door.dial, proxy="http://ada:s3cret@proxy"
        ) as client:
            await client.wait_open()
    assert caught.value.attempts == 3
    assert isinstance(caught.value.last, ProxyRefused) and caught.value.last.status == 403
    assert "s3cret" not in caplog.text and "ada" not in caplog.text


# SOCKS.


class SocksProxy:
    """A SOCKS5 proxy in memory (RFC 1928, RFC 1929), in front of a server in memory.

    Args:
        method: how it wants to know us.
        code: how it answers.
    """

    def __init__(self, method: int = 0, auth: int = 0, code: int = 0) -> None:
        self.said: list[bytes] = []
        self.seen: list[bytes] = []
        self._method, self._auth, self._code = method, auth, code

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.said.append(bytes(await stream.receive_some()))
        await stream.send_all(bytes([5, self._method]))
        if self._method == 2:
            self.said.append(bytes(await stream.receive_some()))
            await stream.send_all(bytes([1, self._auth]))
        self.said.append(bytes(await stream.receive_some()))
        if self.said[-1]:
            await stream.send_all(bytes([5, self._code, 0, 1, 0, 0, 0, 0, 0, 0]))
        with suppress(EOFError):
            await lead(stream, self.seen)


async def test_socks5h_has_the_proxy_look_the_name_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    proxy, door = SocksProxy(), Door()
    nursery.start_soon(door.serve, proxy.serve)
    async with trioweb.open_connection("ws://server:81/", dial=door.dial, proxy="socks5h://proxy"):
        pass
    assert door.asked == [("proxy", 1080)]
    assert proxy.said == [b"\x05\x01\x00", b"\x05\x01\x00\x03\x06server\x00\x51"]
    assert proxy.seen[0].startswith(b"GET / HTTP/1.1\r\nHost: server:81\r\n")


async def test_socks5_looks_the_name_up_here_and_may_want_to_know_us(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    proxy, door = SocksProxy(method=2), Door()
    nursery.start_soon(door.serve, proxy.serve)
    async with trioweb.open_connection(
        "ws://127.0.0.1/", dial=door.dial, proxy="socks5://ada:s3cret@proxy:9050"
    ):
        pass
    assert door.asked == [("proxy", 9050)]
    assert proxy.said == [
        b"\x05\x02\x00\x02",
        b"\x01\x03ada\x06s3cret",
        b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
    ]
    assert b"s3cret" not in proxy.seen[0]


@pytest.mark.parametrize(
    ("proxy", "text", "again"),
    [
        (SocksProxy(code=1), "General SOCKS server failure", True),
        (SocksProxy(code=2), "not allowed by ruleset", False),
        (SocksProxy(code=5), "refused", True),
        (SocksProxy(method=255), "No acceptable authentication methods", False),
        (SocksProxy(method=2, auth=1), "authentication failure", False),
    ],
    ids=repr,
)
async def test_refusal_of_a_socks_proxy_is_told(
    autojump_clock: MockClock, proxy: SocksProxy, text: str, again: bool
) -> None:
    error = await told(proxy.serve, "socks5h://ada:s3cret@proxy")
    assert isinstance(error, ProxyRefused) and error.status is None
    assert text in str(error)
    assert "the proxy socks5h://proxy:1080 did not connect us with server:80" in str(error)
    assert trioweb.is_worth_retry(error) is again


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05"])
async def test_what_is_no_socks_proxy_is_told(autojump_clock: MockClock, sent: bytes) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(sent or b"\x05")
        await stream.aclose()

    error = await told(serve, "socks5h://ada:s3cret@proxy")
    assert "the proxy socks5h://proxy:1080" in str(error)


async def test_cancelled_way_through_a_proxy_leaves_nothing_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Invariant 10."""
    for proxy in ("http://proxy", "socks5h://proxy"):
        ends = stream_pair()
        door = Door(lambda ends=ends: ends)  # type: ignore[misc]
        with trio.move_on_after(1) as scope:
            async with trioweb.open_connection("ws://server/", dial=door.dial, proxy=proxy):
                pass
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await ends[0].receive_some()
