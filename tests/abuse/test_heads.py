"""Heads that are too long, too many, smuggled, forged for the log, or slow to parse."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, MIB, assert_alone, assert_linear, tasks, traced, unreachable
from tests.server.support import Peer, Site, start, upgrade_head, wait
from tests.support import TEXT, Frame, close_frame
from trioweb.testing import Network

_NAMES = ("Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_MORE_NAMES = (
    "Origin",
    "Cookie",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Content-Length",
    "Transfer-Encoding",
    "X-Forwarded-For",
    "X-Anything",
)


def _with(name: str, value: str | None) -> bytes:
    changes: dict[str, Any] = {name.replace("-", "_"): value}
    return upgrade_head(**changes)


# Too much.


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(
            upgrade_head(extra=[(f"X-{number}", "x") for number in range(5000)]), id="5,000 headers"
        ),
        pytest.param(upgrade_head(Cookie="x" * 200 * KIB), id="a header of 200 KiB"),
        pytest.param(upgrade_head("/" + "x" * 200 * KIB), id="a path of 200 KiB"),
        pytest.param(upgrade_head("/?" + "a=b&" * 50 * KIB), id="a query of 200 KiB"),
        pytest.param(upgrade_head(extra=[("X" * 200 * KIB, "x")]), id="a name of 200 KiB"),
        pytest.param(b"\r\n" * 100 * KIB, id="blank lines"),
    ],
)
async def test_head_beyond_the_limit_is_not_read(
    head: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CVE-2024-37890 (ws: too many headers end the process), CWE-770.

    Twenty at once cost the limit and one read for each, not what they send.
    """
    site = await start(nursery, unreachable)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()

    async def ask() -> None:
        peer = await site.peer()
        async with trio.open_nursery() as sending:

            @sending.start_soon
            async def send() -> None:
                try:
                    await peer.write(head)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass

            assert (await peer.read_head())[0] in (400, 431)
            await peer.read_end()

    with traced() as memory:
        async with trio.open_nursery() as peers:
            for _ in range(20):
                peers.start_soon(ask)
    # 64 KiB between the ends, the server's 16 and 16, and as much again for the peer.
    assert memory.peak < 20 * 160 * KIB
    assert trio.current_time() - begun <= 1
    assert sum(site.server.statistics().refused.values()) == 20
    await assert_alone(site, before)


async def test_five_thousand_headers_are_taken_where_the_user_allows_their_size(
    nursery: trio.Nursery,
) -> None:
    """CVE-2024-37890: how many there are is not what anything here depends on."""
    limits = trioweb.Limits(max_request_bytes=MIB)
    site = await start(nursery, wait, limits=limits)
    extra = [(f"X-{number}", "x") for number in range(5000)]
    with traced() as memory:
        peer = await site.opened(extra=extra)
        await trio.testing.wait_all_tasks_blocked()
    assert peer.unparsed == b""
    assert memory.peak < 8 * MIB
    # An idle connection keeps its request, as one string.
    assert memory.kept < 4 * len(upgrade_head(extra=extra))


@pytest.mark.parametrize(
    "endless",
    [b"GET /" + b"x" * 1000, upgrade_head()[:-2] + b"X-Endless: " + b"x" * 1000],
    ids=["path", "header"],
)
async def test_endless_head_is_cut_off(
    endless: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: it is answered at the limit, and cut off a second later, however it goes on."""
    network = Network(bandwidth=64 * KIB, max_bytes=4 * KIB)
    site = await start(nursery, unreachable, network=network)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peer = await site.peer()
    begun = trio.current_time()
    sent = 0
    async with trio.open_nursery() as sending:

        @sending.start_soon
        async def send() -> None:
            nonlocal sent
            await peer.write(endless)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.write(b"x" * 1000)
                    sent += 1000

        assert (await peer.read_head())[0] == 431
        # The limit of 16 KiB, one read's worth, and what is under way.
        assert sent <= 40 * KIB
    # 16 KiB at 64 KiB a second, and the second in which it may take its answer.
    assert trio.current_time() - begun < 2
    await peer.stream.aclose()
    await assert_alone(site, before)


@pytest.mark.parametrize("name", _NAMES + _MORE_NAMES)
async def test_random_bytes_in_a_header_get_an_answer_and_a_printable_line(
    name: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """CWE-20: whatever stands in it, it is let in or refused, and never an error of ours."""
    caplog.set_level(logging.INFO)
    site = await start(nursery, wait, trusted_proxies=["10.0.0.0/8"], subprotocols=["chat"])
    source = random.Random(name)
    for number in range(40):
        value = source.randbytes(source.randint(0, 40))
        if number % 2:  # what passes for text, so that later checks have their share
            value = bytes(byte % 95 + 32 for byte in value)
        line = name.encode() + b": " + value + b"\r\n"
        head = _with(name, None) if name in _NAMES else upgrade_head()
        peer = await site.peer()
        await peer.write(head[:-2] + line + b"\r\n")
        await peer.stream.send_eof()  # type: ignore[attr-defined]
        data = await peer.read_end()
        assert data.startswith(b"HTTP/1.1 "), value
        assert int(data.split()[1]) in (101, 400, 403, 404, 426, 501), value
    await trio.testing.wait_all_tasks_blocked()
    assert site.server.statistics().handler_errors == 0
    assert site.streams == 0
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert record.levelno in (logging.INFO, logging.WARNING)  # but nothing of ours failed


# Smuggled.


@pytest.mark.parametrize(
    "smuggled",
    [
        pytest.param(
            upgrade_head(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n",
            id="Content-Length with Transfer-Encoding",
        ),
        pytest.param(upgrade_head(Content_Length="5") + b"hello", id="a body"),
        pytest.param(
            upgrade_head(Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n",
            id="a chunked body",
        ),
        pytest.param(
            upgrade_head(Transfer_Encoding=", chunked") + b"0\r\n\r\n", id="a masked chunked"
        ),
        pytest.param(
            upgrade_head(extra=[("Content-Length", "0"), ("Content-Length", "5")]) + b"hello",
            id="two Content-Lengths",
        ),
        pytest.param(upgrade_head(Content_Length="+5") + b"hello", id="a signed Content-Length"),
        pytest.param(upgrade_head().replace(b"\r\n", b"\n"), id="bare LF everywhere"),
        pytest.param(
            upgrade_head(Cookie="a\nContent-Length: 5") + b"hello", id="bare LF in a header"
        ),
        pytest.param(upgrade_head(Cookie="a\rContent-Length: 5") + b"hello", id="bare CR"),
        pytest.param(upgrade_head(Cookie="a\0b"), id="NUL"),
        pytest.param(upgrade_head(extra=[("Content-Length ", "5")]) + b"hello", id="space, colon"),
        pytest.param(upgrade_head(extra=[("", "5")]), id="no name"),
        pytest.param(upgrade_head(extra=[("Host", "other")]), id="two Hosts"),
        pytest.param(b"GET / HTTP/1.1\r\n" + upgrade_head(), id="a head in a head"),
    ],
)
async def test_smuggled_request_is_refused_and_what_follows_is_never_read(
    smuggled: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Request smuggling (CWE-444): of everything on that stream, one request gets one answer."""
    asked: list[str] = []

    async def http(request: trioweb.Request) -> trioweb.Response:
        asked.append(request.target)
        return trioweb.Response()

    site = await start(nursery, unreachable, http=http)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    peer = await site.peer()
    await peer.write(smuggled + b"GET /smuggled HTTP/1.1\r\nHost: server\r\n\r\n" + upgrade_head())
    data = await peer.read_end()
    assert re.findall(rb"HTTP/1.1 (\d\d\d)", data) in ([b"400"], [b"501"])
    assert asked == []
    assert trio.current_time() - begun <= 1
    await assert_alone(site, before)


# Forged.

# What ends a line, moves a cursor, or turns the direction of writing.
_FORGED = "\r\n2026-01-01 INFO: all is well\x1b[2J\x1b]0;owned\x07\x9b\x85\u2028\u202e"


class Console:
    """What a terminal would be sent, were the log printed in the simplest way."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.handler = logging.Handler(logging.DEBUG)
        self.handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    logger = logging.getLogger("trioweb")
    level = logger.level
    logger.addHandler(console.handler)
    logger.setLevel(logging.DEBUG)
    yield console
    logger.setLevel(level)
    logger.removeHandler(console.handler)


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


async def _ask(site: Site, head: bytes) -> None:
    await (await site.peer()).ask(head)


async def _open_and_fail(site: Site) -> None:
    peer = await site.opened("/fail/" + _percent(_FORGED))
    assert (await peer.read_close())[0] == 1011
    await peer.stream.aclose()


async def _close(site: Site) -> None:
    peer = await site.opened()
    await peer.send(close_frame(4000, _FORGED))
    await peer.read_end()


async def _break(site: Site) -> None:
    peer = await site.opened("/" + _percent(_FORGED))
    await peer.send(Frame(TEXT, _FORGED.encode()[:-1]))  # UTF-8, cut off
    await peer.read_end()


@pytest.mark.parametrize(
    "attack",
    [
        lambda site: _ask(site, upgrade_head("/reject/" + "x" * 15 * KIB)),
        lambda site: _ask(site, upgrade_head("/raise/" + "x" * 15 * KIB)),
        lambda site: _ask(site, upgrade_head("/" + _FORGED[:-2])),
        lambda site: _ask(site, upgrade_head("/" + _percent(_FORGED), Origin="http://evil.org")),
        lambda site: _ask(site, upgrade_head("/reject/" + _percent(_FORGED))),
        lambda site: _ask(site, upgrade_head("/raise/" + _percent(_FORGED))),
        lambda site: _ask(site, upgrade_head(Cookie=_FORGED[:-2])),
        lambda site: _ask(site, upgrade_head(Sec_WebSocket_Protocol=_FORGED[:-2])),
        lambda site: _ask(site, upgrade_head(extra=[(":" * 15 * KIB, "x")])),
        lambda site: _ask(site, upgrade_head(Host="\x1b[2J")),
        lambda site: _ask(site, upgrade_head(method="\x1b[2J")),
        lambda site: _ask(site, upgrade_head(version="\x1b[2J")),
        _open_and_fail,
        _close,
        _break,
    ],
    ids=[
        "long path, rejected with its own words",
        "long path, admit fails",
        "path",
        "encoded path",
        "encoded path, rejected with its own words",
        "encoded path, admit fails",
        "header",
        "subprotocol",
        "long line that is no header",
        "Host",
        "method",
        "version",
        "encoded path, handler fails",
        "close reason",
        "broken message",
    ],
)
async def test_nothing_raw_reaches_a_line_of_the_log(
    attack: Callable[[Site], Awaitable[None]],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    console: Console,
) -> None:
    """Log injection (CWE-117) and flooding: for an event, one short line of printable ASCII."""

    async def admit(request: trioweb.Request) -> None:
        if request.path.startswith("/reject/"):
            raise trioweb.Reject(403, request.path)
        if request.path.startswith("/raise/"):
            raise RuntimeError("no database")

    async def handler(connection: trioweb.Connection) -> None:
        if connection.request.path.startswith("/fail/"):
            raise RuntimeError("no database")
        await wait(connection)

    site = await start(nursery, handler, admit=admit)
    await attack(site)
    await trio.testing.wait_all_tasks_blocked()
    assert 1 <= len(console.lines) <= 2
    for line in console.lines:
        assert len(line) < 400
        assert line.isascii() and line.isprintable(), line


async def test_no_query_reaches_a_line_of_the_log(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, console: Console
) -> None:
    """CWE-532: browsers can send a token nowhere else."""

    async def fail(connection: object) -> None:
        raise RuntimeError("no database")

    site = await start(nursery, fail, admit=fail)
    await _ask(site, upgrade_head("/room?token=secret"))
    site = await start(nursery, fail, network=Network())
    peer = await site.opened("/room?token=secret")
    await peer.read_end()
    await trio.testing.wait_all_tasks_blocked()
    assert len(console.lines) == 4
    assert sum("/room" in line for line in console.lines) == 2
    assert not [line for line in console.lines if "secret" in line]


_TOKENS = ("/?token=SECRET", {"Authorization": "Bearer SECRET", "Cookie": "id=SECRET"})


def _with_tokens(**changes: Any) -> bytes:
    return upgrade_head(_TOKENS[0], **{**_TOKENS[1], **changes})


@pytest.mark.parametrize(
    "head",
    [
        _with_tokens(method="GE T"),
        _with_tokens(version="and more HTTP/1.1"),
        _with_tokens(version=""),
        _with_tokens(version="HTTP/9.9"),
        _with_tokens(Host=None),
        _with_tokens(Host="user:SECRET@server"),
        _with_tokens(Connection="SECRET"),
        _with_tokens(Upgrade="SECRET"),
        _with_tokens(Origin="https://SECRET.org/"),
        _with_tokens(Content_Length="SECRET"),
        _with_tokens(Transfer_Encoding="SECRET"),
        _with_tokens(Sec_WebSocket_Key="SECRET"),
        _with_tokens(Sec_WebSocket_Version="SECRET"),
        _with_tokens(Sec_WebSocket_Protocol="not a SECRET"),
        _with_tokens(Sec_WebSocket_Protocol="SECRET"),
        _with_tokens(Sec_WebSocket_Extensions="SECRET; SECRET"),
        _with_tokens(X_Forwarded_For="SECRET"),
        _with_tokens().replace(b"Authorization:", b"Authorization :"),
        _with_tokens().replace(b"Authorization:", b" Authorization:"),
        _with_tokens().replace(b"Cookie: ", b"Cookie "),
        _with_tokens().replace(b"Cookie: ", b"Cookie: \x1b"),
        _with_tokens().replace(b"Cookie: ", b"\xe9: "),
        _with_tokens().replace(b"\r\n", b"\n"),
        _with_tokens(Cookie="SECRET" * 3 * KIB),
        _with_tokens()[:-2],
    ],
    ids=range(25),
)
async def test_no_token_of_a_head_reaches_a_line_of_the_log(
    head: bytes, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """CWE-532: not of the query, and not of a value, whether the head is well formed or not."""
    caplog.set_level(logging.DEBUG)

    async def admit(request: trioweb.Request) -> trioweb.Accept:
        return trioweb.Accept(subprotocol="v1")

    site = await start(nursery, wait, admit=admit, trusted_proxies=["0.0.0.0/0"])
    stream = await site.dial()
    await stream.send_all(head)
    await stream.send_eof()
    answer = await Peer(stream).read_end()
    await trio.testing.wait_all_tasks_blocked()
    assert b"SECRET" not in answer
    assert "SECRET" not in caplog.text  # tracebacks included


async def test_server_cannot_forge_lines_of_a_clients_log(
    autojump_clock: trio.testing.MockClock, console: Console
) -> None:
    """Log injection (CWE-117), from the other side."""
    network = Network()
    listener = network.host("server").listen(80)

    async def serve() -> None:
        peer = Peer(await listener.accept())
        await peer.stream.receive_some()
        await peer.write(b"HTTP/1.1 503 \x1b[2J\r\n\r\n")
        await peer.stream.aclose()
        served = await trioweb.testing.RawPeer.accept(await listener.accept())
        await served.send_frame(0x8, (4000).to_bytes(2, "big") + _FORGED.encode())
        await served.stream.aclose()
        served = await trioweb.testing.RawPeer.accept(await listener.accept())
        await served.send_frame(0x8, (3500).to_bytes(2, "big") + _FORGED.encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(trioweb.GaveUp):
            async with trioweb.open_client(
                "ws://server/", dial=network.host("client").dial
            ) as client:
                async for _ in client:
                    raise AssertionError
    warnings = [line for line in console.lines if "connecting again" in line or "giving up" in line]
    assert len(warnings) == 3
    for line in console.lines:
        assert line.isascii() and line.isprintable(), line


# Slow to parse.


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Sec-WebSocket-Protocol", "b{ }x"),  # the one of CVE-2021-32640
        ("Sec-WebSocket-Protocol", "{a,}"),
        ("Sec-WebSocket-Protocol", "{,}"),
        ("Sec-WebSocket-Protocol", "{, \t}"),
        ("Sec-WebSocket-Extensions", 'a; b="{\\c}'),  # the one of CVE-2020-7663
        ("Sec-WebSocket-Extensions", "{permessage-deflate,}"),
        ("Sec-WebSocket-Extensions", "permessage-deflate{;a}"),
        ("Sec-WebSocket-Extensions", "permessage-deflate{; }"),
        ("Sec-WebSocket-Extensions", "{;,=}"),
        ("Sec-WebSocket-Key", "{ }x"),
        ("Sec-WebSocket-Version", "13{ }x"),
        ("Connection", "{Upgrade,}"),
        ("Upgrade", "websocket{ }x"),
        ("Origin", "http://{a.}"),
        ("Origin", "http://{[}"),
        ("X-Forwarded-For", "{1.1.1.1,}"),
        ("X-Forwarded-For", "{1}.1"),
        ("X-Forwarded-For", "[{:}"),
        ("Cookie", "{ \t}x"),
    ],
)
async def test_header_value_costs_time_in_proportion_to_its_length(
    name: str, pattern: str, nursery: trio.Nursery
) -> None:
    """ReDoS (CWE-1333): CVE-2021-32640 in ws, CVE-2020-7663 in websocket-extensions."""
    limits = trioweb.Limits(max_request_bytes=MIB)
    site = await start(
        nursery,
        wait,
        network=Network(max_bytes=MIB),
        limits=limits,
        subprotocols=["chat"],
        trusted_proxies=["0.0.0.0/0"],
    )
    before, _, rest = pattern.partition("{")
    repeated, _, behind = rest.partition("}")

    async def attack(size: int) -> None:
        value = before + repeated * (size // len(repeated)) + behind
        head = _with(name, value)
        peer = await site.peer()
        await peer.write(head)
        assert (await peer.read_head())[0] in (101, 400, 403, 404, 426)
        await peer.stream.aclose()

    await assert_linear(attack, 8 * KIB)


@pytest.mark.parametrize("line", ["X: y", "Sec-WebSocket-Protocol: a", "Connection: Upgrade"])
async def test_headers_cost_time_in_proportion_to_their_number(
    line: str, nursery: trio.Nursery
) -> None:
    """CWE-407: a name that comes a thousand times is not put together a thousand times."""
    limits = trioweb.Limits(max_request_bytes=MIB)
    network = Network(max_bytes=MIB)
    site = await start(nursery, wait, network=network, limits=limits, subprotocols=["a"])
    name, _, value = line.partition(": ")

    async def attack(count: int) -> None:
        await (await site.opened(extra=[(name, value)] * count)).stream.aclose()

    await assert_linear(attack, 500)
