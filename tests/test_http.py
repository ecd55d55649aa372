"""HTTP heads, requests and responses: what is taken, what is refused, and with which status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any, Final

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Script, one_by_one, open_streams
from trioweb._handshake._responses import read_response
from trioweb._heads import addresses, read_head
from trioweb._protocol._http import BadHead, Headers, Request, Response, format_address
from trioweb._protocol._requests import parse_request

_MAX: Final = 16 * 2**10
_HEAD: Final = b"GET /chat?room=1 HTTP/1.1\r\nHost: trioweb.test\r\n\r\n"


def parse(head: bytes) -> Request:
    return parse_request(head, remote="", local="")


# Headers.


def test_headers_are_a_mapping_that_knows_no_case_and_joins_repeated_names() -> None:
    headers = Headers([("Set", "a"), ("X-One", "1"), ("set", "b, c")])
    assert headers["SET"] == "a, b, c"
    assert headers["x-one"] == headers.get("X-ONE") == "1"
    assert headers.get_all("Set") == ["a", "b, c"]
    assert headers.items_all() == (("set", "a"), ("x-one", "1"), ("set", "b, c"))
    assert dict(headers) == {"set": "a, b, c", "x-one": "1"}
    assert len(headers) == 2
    assert "Set" in headers
    assert repr(headers) == "Headers([('set', 'a'), ('x-one', '1'), ('set', 'b, c')])"


def test_headers_join_the_lines_of_a_cookie_as_cookies_are() -> None:
    headers = Headers([("Cookie", "lang=de; session=abc"), ("cookie", "csrf=xyz"), ("X", "1")])
    assert headers["COOKIE"] == "lang=de; session=abc; csrf=xyz"
    assert SimpleCookie(headers["cookie"])["session"].value == "abc"
    assert headers.get_all("Cookie") == ["lang=de; session=abc", "csrf=xyz"]


def test_headers_without_a_name_have_nothing_for_it() -> None:
    headers = Headers()
    assert headers.get_all("x") == headers.tokens("x") == []
    assert "x" not in headers
    with pytest.raises(KeyError):
        headers["x"]


def test_headers_tokens_are_taken_from_all_lines_and_empty_ones_left_out() -> None:
    headers = Headers([("Connection", "keep-alive , ,Upgrade"), ("connection", "x"), ("empty", "")])
    assert headers.tokens("connection") == ["keep-alive", "Upgrade", "x"]
    assert headers.tokens("empty") == []


@pytest.mark.parametrize("field", [("a", "b\nc: d"), ("a\0b", "c"), ("a", "b\n"), ("\n", "")])
def test_headers_refuse_what_would_be_another_field(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="LF or NUL in"):
        Headers([("host", "x"), field])


def test_headers_take_any_other_text_as_it_is() -> None:
    fields = (("a:b", ": c:\r"), ("a", ":d\t"), ("\xe4", "\u20ac"), ("", ""))
    headers = Headers(fields)
    assert headers.items_all() == fields
    assert headers == dict(fields)
    assert [headers[name] for name, _ in fields] == [value for _, value in fields]
    assert "a:b\n" not in headers


# Requests.


def test_request_takes_its_target_apart() -> None:
    request = Request("GET", "/caf%C3%A9/a%2Fb+c?uid=7&uid=8&q=a+b%21&empty=", remote=("::1", 80))
    assert request.path == "/café/a/b+c"
    assert request.query == {"uid": "8", "q": "a b!", "empty": ""}
    assert request.target == "/caf%C3%A9/a%2Fb+c?uid=7&uid=8&q=a+b%21&empty="
    assert repr(request) == "<Request GET '/caf%C3%A9/a%2Fb+c' from [::1]:80>"


def test_request_without_query_and_headers_has_none() -> None:
    request = Request("GET", "/")
    assert request.query == {}
    assert len(request.headers) == 0
    assert request.origin is None
    assert request.subprotocols == ()
    assert (request.remote, request.local) == ("", "")


def test_request_reads_origin_and_subprotocols_out_of_its_headers() -> None:
    headers = [
        ("Origin", "https://trioweb.test:8000"),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("sec-websocket-protocol", "v2"),
        ("X-Colons", "a:b: c"),
        ("X-Empty", ""),
    ]
    request = Request("GET", "/", headers)
    assert request.origin == "https://trioweb.test:8000"
    assert request.subprotocols == ("chat", "superchat", "v2")
    assert request.headers["x-colons"] == "a:b: c"
    assert request.headers["x-empty"] == ""


_ADDRESSES: Mapping[str, tuple[Any, str]] = {
    "IPv4": (("127.0.0.1", 8000), "127.0.0.1:8000"),
    "IPv6": (("::1", 8000), "[::1]:8000"),
    "Unix": ("/run/trioweb", "/run/trioweb"),
    "none": ("", "(no address)"),
}


@pytest.mark.parametrize(("address", "text"), _ADDRESSES.values(), ids=_ADDRESSES)
def test_format_address_writes_it_as_people_do(address: Any, text: str) -> None:
    assert format_address(address) == text


@pytest.mark.network
@pytest.mark.parametrize("transport", ["tcp", "tls-tcp"])
async def test_addresses_are_the_sockets_own_under_tls_too(transport: str) -> None:
    async with open_streams(transport) as (client, server):
        remote, local = addresses(server)
        assert addresses(client) == (local, remote)
        assert isinstance(remote, tuple)
        assert remote[0] == "127.0.0.1"
        assert remote != local


@pytest.mark.network
async def test_addresses_are_empty_where_there_are_none_or_the_peer_has_gone() -> None:
    async with open_streams("unix") as (client, _):
        assert addresses(client) == ("", "")
    async with open_streams("memory") as (client, _):
        assert addresses(client) == ("", "")
    async with open_streams("tcp") as (client, server):
        await client.aclose()
        assert addresses(client) == ("", "")
        assert addresses(server)[1] != ""


# Reading a head.


async def test_read_head_gives_the_head_and_what_came_behind_it() -> None:
    assert await read_head(Script([_HEAD]), _MAX) == (_HEAD, b"")
    assert await read_head(Script([_HEAD + b"\xff\n\x00"]), _MAX) == (_HEAD, b"\xff\n\x00")
    assert await read_head(Script(), _MAX, _HEAD + _HEAD) == (_HEAD, _HEAD)
    assert await read_head(Script([_HEAD[10:]]), _MAX, _HEAD[:10]) == (_HEAD, b"")


async def test_read_head_takes_it_cut_at_every_place() -> None:
    assert await read_head(Script(one_by_one(_HEAD), silent=True), _MAX) == (_HEAD, b"")
    for cut in range(1, len(_HEAD)):
        stream = Script([_HEAD[:cut], _HEAD[cut:] + b"rest"], silent=True)
        assert await read_head(stream, _MAX) == (_HEAD, b"rest"), cut


_FORBIDDEN: Mapping[str, bytes] = {
    "TLS instead of HTTP": b"\x16",
    "a bare LF": b"GET / HTTP/1.1\n",
    "a bare LF after a good line": b"GET / HTTP/1.1\r\nHost: a\n",
    "a blank line of bare LFs": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "a bare LF at the start": b"\n",
    "a bare CR": b"GET / HTTP/1.1\rH",
    "two CRs": b"GET / HTTP/1.1\r\r",
    "NUL": b"GET / HTTP/1.1\r\nHost: a\0",
    "ESC": b"GET / HTTP/1.1\r\nX: \x1b",
    "DEL": b"GET / HTTP/1.1\r\nX: \x7f",
    "vertical tab": b"GET / HTTP/1.1\r\nX: \x0b",
}


@pytest.mark.parametrize("start", _FORBIDDEN.values(), ids=_FORBIDDEN)
async def test_read_head_refuses_a_forbidden_byte_as_soon_as_it_is_seen(
    start: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    # However it comes: by itself, behind a cut, or with the rest of a head behind it.
    for reads in (
        one_by_one(start),
        [start],
        [start[:-1], start[-1:]] if len(start) > 1 else [start],
        [start + b"\r\nHost: a\r\n\r\n"],
    ):
        with pytest.raises(BadHead, match=r"not an HTTP/1\.1 head") as caught:
            await read_head(Script(reads, silent=True), _MAX)
        assert caught.value.status == 400
    # And not a byte earlier.
    with trio.move_on_after(1) as scope:
        await read_head(Script(one_by_one(start[:-1]), silent=True), _MAX)
    assert scope.cancelled_caught


@pytest.mark.parametrize("reads", [lambda data: [data], one_by_one])
async def test_read_head_passes_one_empty_line_in_front_if_asked(
    reads: Callable[[bytes], list[bytes]],
) -> None:
    """RFC 9112 section 2.2."""
    for front in b"", b"\r\n":
        stream = Script(reads(front + _HEAD), silent=True)
        assert await read_head(stream, len(_HEAD), pass_empty_line=True) == (_HEAD, b"")
    for front in b"\r\n\r\n", b"\n", b"\r\n\n", b"\r\r\n":
        with pytest.raises(BadHead, match="not an HTTP"):
            await read_head(Script(reads(front), silent=True), _MAX, pass_empty_line=True)
    with pytest.raises(BadHead, match="not an HTTP"):
        await read_head(Script(reads(b"\r\n"), silent=True), _MAX)


def _head_of(size: int) -> bytes:
    head = b"GET / HTTP/1.1\r\nX: " + b"x" * (size - 23) + b"\r\n\r\n"
    assert len(head) == size
    return head


@pytest.mark.parametrize("behind", [b"", b"behind" * 100])
@pytest.mark.parametrize("size", [30, 100, 16384, 16385, 20000])
async def test_read_head_keeps_its_limit_to_the_byte(size: int, behind: bytes) -> None:
    """Also where the end has been found in the chunk that goes over the limit."""
    head = _head_of(size)
    ways = [[head + behind], [head[:-1], head[-1:] + behind], [head[:-3], head[-3:] + behind]]
    if size == 100:
        ways.append(one_by_one(head + behind))
    for reads in ways:
        found, rest = await read_head(Script(reads), size)
        assert found == head
        assert behind.startswith(rest)
        for limit in (size - 1, size - 4, 25):
            with pytest.raises(BadHead, match=f"head of more than {limit} bytes") as caught:
                await read_head(Script(reads), limit)
            assert caught.value.status == 431


async def test_read_head_stops_reading_at_its_limit() -> None:
    """Invariant 8: a head without an end is not kept."""
    reads = 0

    def count() -> None:
        nonlocal reads
        reads += 1

    with pytest.raises(BadHead):
        await read_head(Script([b"x" * 100] * 1000, on_read=count), 1000)
    assert reads == 11


async def test_read_head_says_how_far_it_came_when_the_peer_ends() -> None:
    for size in range(len(_HEAD)):
        with pytest.raises(EOFError, match=f"closed after {size} bytes of its HTTP head"):
            await read_head(Script([_HEAD[:size]] if size else []), _MAX)


async def test_read_head_lets_a_failure_of_the_transport_out() -> None:
    with pytest.raises(trio.BrokenResourceError):
        await read_head(Script([b"GET", trio.BrokenResourceError()]), _MAX)


# Parsing a request.


def test_parse_request_takes_what_browsers_send() -> None:
    head = (
        b"GET /lobby?uid=1 HTTP/1.1\r\n"
        b"Host: trioweb.test:8000\r\n"
        b"Connection: keep-alive, Upgrade\r\n"
        b"Upgrade: websocket\r\n"
        b"Origin: http://trioweb.test:8000\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Cookie: a=b; c=d\r\n\r\n"
    )
    request = parse_request(head, remote=("::1", 1), local=("::1", 8000))
    assert (request.method, request.path, request.query) == ("GET", "/lobby", {"uid": "1"})
    assert request.headers["cookie"] == "a=b; c=d"
    assert request.headers["connection"] == "keep-alive, Upgrade"
    assert len(request.headers) == 8
    assert (request.remote, request.local) == (("::1", 1), ("::1", 8000))


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",  # as load balancers ask
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: tea\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /%F0%9F%92%A9%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_parse_request_takes_what_can_be_answered(head: bytes) -> None:
    assert parse(head).target.encode() in head


_BAD_REQUESTS: Mapping[str, tuple[bytes, int]] = {
    "nothing": (b"\r\n\r\n", 400),
    "rubbish": (b"hello\r\n\r\n", 400),
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    "a response": (b"HTTP/1.1 200 OK\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    "a line folded at the start": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a space in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", 400),
    "a target for all": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with a password": (b"GET http://a:b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with a fragment": (b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target without a host": (b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target of another kind": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tunnel": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a trace": (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a path in UTF-8": (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method in Latin-1": (b"G\xcbT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a version in Latin-1": (b"GET / HTTP/1.\xb9\r\nHost: a\r\n\r\n", 400),
    "a name in Latin-1": (b"GET / HTTP/1.1\r\nHost: a\r\nX-\xd6: 1\r\n\r\n", 400),
    "a blank of Latin-1 before the colon": (b"GET / HTTP/1.1\r\nHost\xa0: a\r\n\r\n", 400),
    "both": (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "a length twice": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n",
        400,
    ),
    "a list of lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "a line of blanks": (b"GET / HTTP/1.1\r\nHost: a\r\n \t\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400),
    "a length in Latin-1": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\n", 400),
    "no length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    "two codings": (
        b"POST / HTTP/1.1\r\nHost: a\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n",
        501,
    ),
    "two expectations": (
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nExpect: 100-continue\r\n\r\n",
        417,
    ),
    "a folded length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\n", 400),
    "a signed length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
    "chunks twice": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        501,
    ),
    "another expectation": (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    "an unknown coding": (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n", 501),
    "a length that is none": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
        400,
    ),
    "5,000 digits": (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        400,
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "an upgrade of HTTP/1.0": (
        b"GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize(("head", "status"), _BAD_REQUESTS.values(), ids=_BAD_REQUESTS)
def test_parse_request_refuses_a_bad_one_with_its_status(head: bytes, status: int) -> None:
    with pytest.raises(BadHead) as caught:
        parse(head)
    assert caught.value.status == status
    assert caught.value.reason == str(caught.value) != ""


# Responses that a server sends.


def test_response_encodes_its_head() -> None:
    response = Response(200, "grüße", [("Cache-Control", "no-store")])
    head = (
        b"HTTP/1.1 200 OK\r\n"
        b"Cache-Control: no-store\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 7\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert response.encode_head() == head
    assert response.whole == "grüße".encode()
    assert b"Connection" not in response.encode_head(persists=True)


def test_response_keeps_the_content_type_that_it_is_given() -> None:
    data = Response(200, b"{}", {"content-type": "application/json"}).encode_head()
    assert data.lower().count(b"content-type") == 1
    assert b"content-type: application/json\r\n" in data


def test_response_reads_headers_only_once() -> None:
    """They may be an iterator, and the response may be sent many times."""
    pairs = (pair for pair in [("X-A", "1"), ("X-B", "2")])
    response = Response(headers=pairs)
    assert response.encode_head() == response.encode_head()
    assert b"X-A: 1\r\nX-B: 2\r\n" in response.encode_head()


@pytest.mark.parametrize("status", [204, 304])
def test_response_has_neither_body_nor_its_headers_where_http_allows_none(status: int) -> None:
    """RFC 9110 sections 8.6, 15.3.5 and 15.4.5."""
    data = Response(status, headers={"ETag": '"1"'}).encode_head()
    assert data.startswith(b"HTTP/1.1 %d N" % status)
    assert b"content-" not in data.lower()
    assert data.endswith(b"Connection: close\r\n\r\n")
    with pytest.raises(ValueError, match=rf"Response\({status}\): must not have a body"):
        Response(status, "text")


def test_response_takes_a_status_that_has_no_name() -> None:
    assert Response(299).encode_head().startswith(b"HTTP/1.1 299 \r\n")


_BAD_RESPONSES: Mapping[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a status of no answer": ({"status": 101}, ValueError, r"Response\(101\): the status must be"),
    "a status too large": ({"status": 600}, ValueError, r"from 200 to 599"),
    "a status that is text": (
        {"status": "200"},
        TypeError,
        r"Response: status .* not a str",
    ),
    "a status with a fraction": (
        {"status": 200.5},
        TypeError,
        r"status .* int, not 200\.5",
    ),
    "no body": (
        {"body": None},
        TypeError,
        r"body must be of type str or bytes, or an async iterable, not None",
    ),
    "a dict": ({"body": {}}, TypeError, r"str or bytes, or an async iterable, not a dict"),
    "no headers": ({"headers": None}, TypeError, r"Response\(200\): headers must be"),
    "headers as lines": ({"headers": ["a: b"]}, TypeError, r"each of headers must be"),
    "a surrogate": ({"body": "\ud800"}, ValueError, r"surrogate"),
    "a second Content-Length": ({"headers": {"content-length": "1"}}, ValueError, r"is set by"),
    "a second Connection": ({"headers": {"Connection": "x"}}, ValueError, r"is set by"),
    "a coding": ({"headers": {"Transfer-Encoding": "chunked"}}, ValueError, r"is set by"),
    "a bad name": ({"headers": {"a b": "1"}}, ValueError, r"Response\(200\): header name 'a b'"),
    "a second line": ({"headers": {"a": "1\r\nb: 2"}}, ValueError, r"printable ASCII"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "text"), _BAD_RESPONSES.values(), ids=_BAD_RESPONSES
)
def test_response_refuses_when_made_what_could_not_be_sent(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Response(**arguments)


def test_headers_do_not_repeat_a_value_that_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match="LF or NUL") as caught:
        Headers([("Cookie", "SECRET\n")])
    assert "SECRET" not in str(caught.value)


# Targets.


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("http://b:8000/lobby?x=1", "b:8000", "/lobby?x=1"),
        ("HTTPS://b/lobby", "b", "/lobby"),
        ("ws://[::1]:80", "[::1]:80", "/"),
        ("wss://b?x=1", "b", "/?x=1"),
        ("http://b//c/http://d/", "b", "//c/http://d/"),
    ],
)
def test_parse_request_takes_an_absolute_target_and_its_host(
    target: str, host: str, expected: str
) -> None:
    """RFC 9112 section 3.2.2."""
    request = parse(f"GET {target} HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n".encode())
    assert request.target == expected
    assert request.headers.get_all("host") == [host]
    assert request.headers["x"] == "y"


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        ("caf%C3%A9", "café"),
        ("caf%E9", "café"),
        ("%C3%A9%E9", "Ã©é"),  # one of them is not UTF-8, so neither is
        ("%ff%FE", "ÿþ"),
        ("%ED%A0%80", "í\xa0\x80"),  # a surrogate, in what would be UTF-8
        ("%F0%9F%92%A9", "\U0001f4a9"),
        ("%00%2f%25", "\0/%"),
        ("%", "%"),
    ],
)
def test_request_reads_percent_encoded_bytes_as_utf_8_or_else_as_latin_1(
    encoded: str, text: str
) -> None:
    request = parse(f"GET /{encoded}?{encoded}={encoded} HTTP/1.0\r\n\r\n".encode())
    assert request.path == f"/{text}"
    assert request.query == {text: text}
    json.dumps([request.path, request.query]).encode()


# Dates.


def test_response_says_when_it_was_made() -> None:
    """RFC 9110 section 6.6.1."""
    assert b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" in Response().encode_head(
        sent_at=784111777.9
    )
    own = Response(headers={"date": "today"}).encode_head(sent_at=784111777)
    assert own.lower().count(b"\r\ndate:") == 1
    assert b"\r\ndate: today\r\n" in own


# Bytes above ASCII: opaque, RFC 9110 section 5.5.

_ABOVE_ASCII: Final = bytes(range(0x80, 0x100))


def test_parse_request_reads_bytes_above_ascii_in_a_value_as_latin_1() -> None:
    lines = b"Cookie: n=J\xc3\xbcrgen\r\nUser-Agent: T\xe9l\r\nX-All: " + _ABOVE_ASCII
    request = parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")
    assert request.headers["cookie"].encode("latin-1").decode() == "n=Jürgen"
    assert request.headers["user-agent"] == "Tél"
    assert request.headers["x-all"].encode("latin-1") == _ABOVE_ASCII
    assert len(request.headers) == 4


async def test_read_head_takes_bytes_above_ascii_however_they_come() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + _ABOVE_ASCII + b"\r\n\r\n"
    assert await read_head(Script([head]), _MAX) == (head, b"")
    assert await read_head(Script(one_by_one(head)), _MAX) == (head, b"")


@pytest.mark.parametrize("blank", ["\x85", "\xa0", "\x1c"])
def test_tokens_have_no_other_blanks_around_them_than_rfc_9110_knows(blank: str) -> None:
    """A proxy on the way takes such a token for another one, too."""
    headers = Headers([("Upgrade", f"{blank}websocket{blank},\t b ")])
    assert headers.tokens("upgrade") == [f"{blank}websocket{blank}", "b"]


@pytest.mark.parametrize(
    "text", ["Commuté".encode(), b"Commut\xe9", _ABOVE_ASCII, b"", b"\t \xa0"], ids=ascii
)
async def test_read_response_takes_any_bytes_in_a_reason_and_in_values(text: bytes) -> None:
    lines = b"Upgrade: websocket\r\nX: y" + text + b"z\r\n"
    switch = b"HTTP/1.1 101 " + text + b"\r\n" + lines + b"\r\n"
    early = b"HTTP/1.1 103 " + text + b"\r\nLink: y" + text + b"z\r\n\r\n"
    status, headers, _ = await read_response(Script([early + switch]), _MAX)
    assert (status, headers["x"].encode("latin-1")) == (101, b"y" + text + b"z")
    refusal = b"HTTP/1.1 403 " + text + b"\r\n" + lines + b"Content-Length: 2\r\n\r\nno"
    status, headers, body = await read_response(Script([refusal]), _MAX)
    assert (status, headers["x"].encode("latin-1"), body) == (403, b"y" + text + b"z", b"no")


# Responses that a client reads.

_SWITCH: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


async def test_read_response_gives_a_101_and_the_bytes_behind_it() -> None:
    for reads in ([_SWITCH + b"\x81\x00"], [*one_by_one(_SWITCH)[:-1], b"\n\x81\x00"]):
        status, headers, rest = await read_response(Script(reads, silent=True), _MAX)
        assert (status, dict(headers), rest) == (101, {"upgrade": "websocket"}, b"\x81\x00")


@pytest.mark.parametrize("split", [False, True])
async def test_read_response_passes_over_informational_answers(split: bool) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + early * 3 + _SWITCH + b"rest"
    stream = Script(one_by_one(data) if split else [data], silent=True)
    status, headers, rest = await read_response(stream, _MAX)
    assert (status, dict(headers)) == (101, {"upgrade": "websocket"})
    assert rest == (b"" if split else b"rest")


_BODIES: Mapping[str, tuple[bytes, bytes]] = {
    "Content-Length": (b"Content-Length: 9\r\n\r\nforbidden", b"forbidden"),
    "Content-Length, and more": (b"Content-Length: 3\r\n\r\nforbidden", b"for"),
    "Content-Length, cut short": (b"Content-Length: 99\r\n\r\nforbidden", b"forbidden"),
    "none": (b"Content-Length: 0\r\n\r\n", b""),
    "chunked": (
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nfor\r\n6\r\nbidden\r\n0\r\n\r\n",
        b"forbidden",
    ),
    "chunked, cut short": (b"Transfer-Encoding: chunked\r\n\r\n3\r\nfor\r\n6\r\nbid", b"forbid"),
    "chunked, broken": (b"Transfer-Encoding: chunked\r\n\r\n3\r\nfor\r\nrubbish\r\n", b"for"),
    "until the end": (b"\r\nforbidden", b"forbidden"),
}


@pytest.mark.parametrize(("data", "expected"), _BODIES.values(), ids=_BODIES)
async def test_read_response_gives_the_body_of_a_rejection(data: bytes, expected: bytes) -> None:
    data = b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\n" + data
    for reads in ([data], one_by_one(data)):
        status, headers, body = await read_response(Script(reads), _MAX)
        assert (status, headers["x-why"], body) == (403, "no", expected)


@pytest.mark.parametrize(
    "head",
    [b"", b"Content-Length: 200000\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["until the end", "Content-Length", "chunked"],
)
async def test_read_response_keeps_only_the_start_of_a_long_body(head: bytes) -> None:
    """Invariant 8: the rest is not even read."""
    piece = b"x" * 2**14
    if b"chunked" in head:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    reads = 0

    def count() -> None:
        nonlocal reads
        reads += 1

    data = [b"HTTP/1.1 500 Oops\r\n" + head + b"\r\n", *[piece] * 12]
    status, _, kept = await read_response(Script(data, on_read=count), _MAX)
    assert (status, kept) == (500, b"x" * 64 * 2**10)
    assert reads <= 10


async def test_read_response_takes_what_came_of_a_body_when_the_transport_breaks() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n"
    stream = Script([head, b"for", trio.BrokenResourceError()])
    assert (await read_response(stream, _MAX))[::2] == (403, b"for")


async def test_read_response_does_not_wait_long_for_a_body(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 6: the status must not be lost to the deadline of the handshake."""
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 9\r\n\r\n"
    status, headers, body = await read_response(Script([head, b"try"], silent=True), _MAX)
    assert (status, headers["retry-after"], body) == (503, "5", b"try")
    assert trio.current_time() <= 1


_BAD_ANSWERS: Mapping[str, bytes] = {
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "rubbish": b"hello\r\n\r\n",
    "nothing": b"\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a short status": b"HTTP/1.1 99 \r\n\r\n",
    "a status below all": b"HTTP/1.1 000 \r\n\r\n",
    "a long status": b"HTTP/1.1 1010 \r\n\r\n",
    "no colon": b"HTTP/1.1 101 OK\r\nX\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "binary": b"\x81\x05hello",
    "a bare LF": b"HTTP/1.1 101 OK\n\n",
    "a status in Latin-1": b"HTTP/1.1 10\xb9 OK\r\n\r\n",
    "a name in Latin-1": b"HTTP/1.1 101 OK\r\nX-\xd6: 1\r\n\r\n",
    "too large": b"HTTP/1.1 101 OK\r\nX: " + b"x" * _MAX,
    "rubbish behind a 103": b"HTTP/1.1 103 Early\r\n\r\nhello\r\n\r\n",
}


@pytest.mark.parametrize("data", _BAD_ANSWERS.values(), ids=_BAD_ANSWERS)
async def test_read_response_refuses_what_is_no_answer(data: bytes) -> None:
    for reads in ([data], one_by_one(data)) if len(data) < 100 else ([data],):
        with pytest.raises(BadHead):
            await read_response(Script(reads, silent=True), _MAX)


async def test_read_response_says_so_when_the_peer_ends() -> None:
    for size in range(len(_SWITCH)):
        with pytest.raises(EOFError):
            await read_response(Script([_SWITCH[:size]] if size else []), _MAX)


# Anything at all.

_REQUEST: Final = (
    b"GET /a%20b?c HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_ANSWERS: Final = (
    _SWITCH,
    b"HTTP/1.1 103 Early\r\n\r\n" + _SWITCH,
    b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nbye",
    b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbye\r\n0\r\n\r\n",
)


@st.composite
def mangled(draw: st.DrawFn, originals: Iterable[bytes]) -> bytes:
    """Bytes that nearly are one of *originals*: some replaced, left out or put in."""
    data = draw(st.sampled_from(list(originals)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.integers(0, 3))
        odd = st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b",", b"\0", b"9"])
        data = data[:start] + draw(odd | st.binary(max_size=3)) + data[stop:]
    return data


async def _read_request(data: bytes, size: int) -> Request | None:
    reads = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        head, _ = await read_head(Script(reads), 300)
        return parse(head)
    except (BadHead, EOFError):
        return None


_SECRETS: Final = (
    b"GET /lobby?token=SECRET HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer SECRET\r\n"
    b"Cookie: SECRET\r\nContent-Length: SECRET\r\nSECRET: 1\r\n\r\n"
)
_ANSWERED_SECRETS: Final = (
    b"HTTP/1.1 403 SECRET\r\nSet-Cookie: SECRET\r\nContent-Length: SECRET\r\nSECRET: 1\r\n\r\n"
)


@given(data=mangled([_SECRETS, _SECRETS.replace(b"Content-Length", b"Transfer-Encoding")]))
@settings(deadline=None)
async def test_refusal_of_a_request_repeats_nothing_of_it(data: bytes) -> None:
    """CWE-532: wherever it is malformed, a token may stand; and the reason is logged."""
    error: Exception | None = None
    try:
        head, _ = await read_head(Script([data]), 300)
        parse(head)
    except (BadHead, EOFError) as exc:
        error = exc
    assert "ECRE" not in str(error)
    assert getattr(error, "__cause__", None) is None


@given(data=mangled([_ANSWERED_SECRETS]))
@settings(deadline=None)
async def test_refusal_of_a_response_repeats_nothing_of_it(data: bytes) -> None:
    error: Exception | None = None
    try:
        await read_response(Script([data]), 300)
    except (BadHead, EOFError) as exc:
        error = exc
    assert "ECRE" not in str(error)
    assert getattr(error, "__cause__", None) is None


@given(data=mangled([_REQUEST]) | st.binary(max_size=300), size=st.integers(1, 400))
@settings(deadline=None)
async def test_a_request_head_is_taken_or_refused_whatever_it_is(data: bytes, size: int) -> None:
    """Invariant 7: no error of h11's, and the same answer however the bytes come."""
    request = await _read_request(data, size)
    again = await _read_request(data, len(data) or 1)
    assert (request is None) is (again is None)
    if request is not None:
        assert request.path.startswith("/")
        assert data.startswith(request.method.encode())
        assert isinstance(request.query, dict)


@given(
    data=mangled(_ANSWERS) | st.binary(max_size=300),
    size=st.integers(1, 400),
)
@settings(deadline=None)
async def test_a_response_head_is_taken_or_refused_whatever_it_is(data: bytes, size: int) -> None:
    """Invariant 7."""
    reads = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        status, _, body = await read_response(Script(reads), 300)
    except (BadHead, EOFError):
        return
    assert status == 101 or 200 <= status < 1000
    assert len(body) <= len(data)
