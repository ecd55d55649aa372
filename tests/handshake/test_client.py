"""A client's opening handshake: against trio-websocket's server, and peers made of bytes."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import pytest
import trio
import trio.testing
import trio_websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handshake.support import ACCEPT, MAX_HEAD_BYTES
from tests.support import BINARY, TEXT, Frame, RawPeer, Script, encode, one_by_one
from tests.test_url import URLS
from trioweb import Deflate, HandshakeFailed, HandshakeRejected, OpenFailed, Request, TriowebError
from trioweb._handshake import Switch, accept_token, check_upgrade, connect, encode_switch
from trioweb._heads import read_head
from trioweb._protocol._requests import parse_request
from trioweb._protocol._url import parse_url
from trioweb.testing import stream_pair


def answering(template: str, *, behind: bytes = b"") -> Callable[[bytes], list[bytes]]:
    """A server's answer, with the right answer to the key where it says @accept@."""

    def answer(request: bytes) -> list[bytes]:
        key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)\r\n", request)
        assert key is not None
        text = template.replace("@accept@", accept_token(key[1])).replace("\n", "\r\n")
        return [text.encode("latin-1") + behind]

    return answer


def split(answer: Callable[[bytes], list[bytes]]) -> Callable[[bytes], list[bytes]]:
    return lambda request: one_by_one(b"".join(answer(request)))


_GOOD: Final = """\
HTTP/1.1 101 Switching Protocols
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Accept: @accept@

"""


async def _connect(
    transport: trio.abc.Stream,
    url: str = "ws://trioweb.test/",
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    compression: Deflate | None = None,
) -> Switch:
    return await connect(
        transport,
        parse_url(url),
        subprotocols=subprotocols,
        headers=headers,
        compression=compression,
        max_head_bytes=MAX_HEAD_BYTES,
    )


async def test_connect_sends_what_rfc_6455_asks_for() -> None:
    transport = Script(answering(_GOOD))
    await _connect(
        transport,
        "ws://me:pw@trioweb.test:8000/a?b",
        subprotocols=["chat", "v2"],
        headers=[("X-A", "1"), ("Cookie", "c=d")],
    )
    head, rest = await read_head(Script([transport.sent]), MAX_HEAD_BYTES)
    assert rest == b""
    request = parse_request(head, remote="", local="")
    check_upgrade(request)
    assert request.target == "/a?b"
    assert request.headers["host"] == "trioweb.test:8000"
    assert request.subprotocols == ("chat", "v2")
    assert request.headers["authorization"] == "Basic bWU6cHc="
    assert (request.headers["x-a"], request.headers["cookie"]) == ("1", "c=d")
    assert "sec-websocket-extensions" not in request.headers


@pytest.mark.parametrize("url", [url for url, _ in URLS.values()] + [f"ws://{'a' * 63}:8000/"])
async def test_connect_names_any_host_that_a_url_can_name(url: str) -> None:
    transport = Script(answering(_GOOD))
    await _connect(transport, url)
    request = parse_request(transport.sent, remote="", local="")
    check_upgrade(request)
    assert request.headers.get_all("host") == [parse_url(url).authority]
    assert request.target == parse_url(url).resource


async def test_connect_uses_a_new_key_each_time() -> None:
    keys = set()
    for _ in range(5):
        transport = Script(answering(_GOOD))
        await _connect(transport)
        keys.add(parse_request(transport.sent, remote="", local="").headers["sec-websocket-key"])
    assert len(keys) == 5


@pytest.mark.parametrize("cut", [False, True])
async def test_connect_gives_headers_subprotocol_and_the_frames_behind_the_answer(
    cut: bool,
) -> None:
    behind = encode(Frame(TEXT, b"hello"), masked=False)
    template = _GOOD.replace("\n\n", "\nSec-WebSocket-Protocol: b\nX-Server: 1\n\n")
    answer = answering(template, behind=behind)
    transport = Script(split(answer) if cut else answer, silent=True)
    switch = await _connect(transport, subprotocols=["a", "b"])
    assert switch.headers["x-server"] == "1"
    assert switch.subprotocol == "b"
    assert switch.rest == (b"" if cut else behind)
    if cut:  # what was not read is still there
        assert await transport.receive_some() == behind[:1]


_GOOD_ANSWERS: Mapping[str, str] = {
    "as the RFC has it": _GOOD,
    "without a reason": _GOOD.replace(" Switching Protocols", ""),
    "with another reason": _GOOD.replace("Switching Protocols", "Web Socket Protocol Handshake"),
    "in capitals": _GOOD.replace("websocket", "WebSocket").replace(": Upgrade", ": UPGRADE"),
    "in lower case": _GOOD.replace("Sec-WebSocket-Accept", "sec-websocket-accept"),
    "with keep-alive": _GOOD.replace(": Upgrade", ": keep-alive, Upgrade"),
    "with two Connection lines": _GOOD.replace("\n\n", "\nConnection: keep-alive\n\n"),
    "with a date": _GOOD.replace("\n\n", "\nDate: Sat, 21 Nov 2026 08:00:00 GMT\nServer: x\n\n"),
    "after a 100": "HTTP/1.1 100 Continue\n\n" + _GOOD,
    "after hints": "HTTP/1.1 103 Early Hints\nLink: </a>\n\n" * 3 + _GOOD,
}


@pytest.mark.parametrize("template", _GOOD_ANSWERS.values(), ids=_GOOD_ANSWERS)
async def test_connect_takes_a_good_answer(template: str) -> None:
    for answer in (answering(template), split(answering(template))):
        switch = await _connect(Script(answer, silent=True), subprotocols=["a"])
        assert (switch.subprotocol, switch.rest) == (None, b"")


def _without(header: str) -> str:
    return re.sub(f"{header}: .*\n", "", _GOOD)


_BAD_ANSWERS: Mapping[str, tuple[str, str]] = {
    "no Upgrade": (_without("Upgrade"), "lacks Upgrade: websocket"),
    "another Upgrade": (_GOOD.replace("websocket\n", "h2c\n"), "lacks Upgrade: websocket"),
    "no Connection": (_without("Connection"), "lacks Connection: Upgrade"),
    "another Connection": (_GOOD.replace(": Upgrade", ": close"), "lacks Connection: Upgrade"),
    "no accept": (_without("Sec-WebSocket-Accept"), "does not answer our key"),
    "the accept of another key": (_GOOD.replace("@accept@", ACCEPT), "does not answer our key"),
    "an empty accept": (_GOOD.replace("@accept@", ""), "does not answer our key"),
    "two accepts": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Accept: @accept@\n\n"),
        "does not answer our key",
    ),
    "an extension": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Extensions: permessage-deflate\n\n"),
        "an extension that was not offered",
    ),
    "a subprotocol that was not offered": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Protocol: c\n\n"),
        "chose subprotocol 'c', not offered",
    ),
    "two subprotocols": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Protocol: a, b\n\n"),
        "chose subprotocol 'a, b', not offered",
    ),
    "a subprotocol in two lines": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Protocol: a\nSec-WebSocket-Protocol: b\n\n"),
        "chose subprotocol 'a, b', not offered",
    ),
    "an empty subprotocol": (
        _GOOD.replace("\n\n", "\nSec-WebSocket-Protocol:\n\n"),
        "chose subprotocol '', not offered",
    ),
    "a broken status line": (_GOOD.replace("HTTP/1.1 ", "HTTP/1.1"), "not an HTTP/1.1 response"),
    "another protocol": (_GOOD.replace("HTTP/1.1", "ICY"), "not an HTTP/1.1 response"),
    "garbage": ("\x00\x01\x02", "not an HTTP/1.1 head"),
    "Latin-1": (_GOOD.replace("101", "10\xb9"), "not an HTTP/1.1 response: illegal status line"),
    "a frame at once": ("\x81\x05hello", "not an HTTP/1.1 head"),
    "a bare LF": ("HTTP/1.1 101 x\r\nX: \x0b", "not an HTTP/1.1 head"),
    "too much": (
        _GOOD.replace("\n\n", "\nX: " + "x" * MAX_HEAD_BYTES + "\n\n"),
        "head of more than",
    ),
    "hints and garbage": ("HTTP/1.1 103 Hints\n\n\x00", "not an HTTP/1.1 head"),
}


@pytest.mark.parametrize(("template", "text"), _BAD_ANSWERS.values(), ids=_BAD_ANSWERS)
async def test_connect_refuses_a_bad_answer_and_says_why(template: str, text: str) -> None:
    """Invariant 7; the peer then falls silent, and nothing waits for it."""
    answers = [answering(template)]
    if len(template) < MAX_HEAD_BYTES:
        answers.append(split(answering(template)))
    for answer in answers:
        with pytest.raises(HandshakeFailed, match=re.escape(text)) as caught:
            await _connect(Script(answer, silent=True), subprotocols=["a", "b"])
        _check_ours(caught.value)


def _answer_with(extensions: str) -> str:
    return _GOOD.replace("\n\n", f"\nSec-WebSocket-Extensions: {extensions}\n\n")


async def test_connect_offers_compression_and_takes_what_the_server_says_of_it() -> None:
    transport = Script(answering(_answer_with("permessage-deflate; server_max_window_bits=10")))
    switch = await _connect(transport, compression=Deflate())
    request = parse_request(transport.sent, remote="", local="")
    check_upgrade(request)
    offer = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
    assert request.headers.get_all("sec-websocket-extensions") == [offer]
    assert switch.compression is not None
    assert switch.compression.peer_bits == 10


async def test_connect_does_without_compression_when_the_server_declines_it() -> None:
    switch = await _connect(Script(answering(_GOOD)), compression=Deflate())
    assert switch.compression is None


@pytest.mark.parametrize("extensions", ["", "x-other", "permessage-deflate; x=1"])
async def test_connect_refuses_an_extension_that_it_did_not_offer(extensions: str) -> None:
    answer = answering(_answer_with(extensions))
    with pytest.raises(HandshakeFailed, match="Sec-WebSocket-Extensions: ") as caught:
        await _connect(Script(answer, silent=True), compression=Deflate())
    _check_ours(caught.value)


_REJECTIONS: Mapping[str, tuple[str, int, bytes]] = {
    "403": ("HTTP/1.1 403 Forbidden\nX-Why: no\nContent-Length: 4\n\nsite", 403, b"site"),
    "404 until the end": (
        "HTTP/1.1 404 Not Found\nX-Why: no\n\nnothing here",
        404,
        b"nothing here",
    ),
    "503 in chunks": (
        "HTTP/1.1 503 Busy\nX-Why: no\nTransfer-Encoding: chunked\n\n4\nbusy\n0\n\n",
        503,
        b"busy",
    ),
    "200": ("HTTP/1.1 200 OK\nX-Why: no\nContent-Length: 2\n\nhi", 200, b"hi"),
    "a redirection": ("HTTP/1.1 301 Moved\nX-Why: no\nContent-Length: 0\n\n", 301, b""),
    "HTTP/1.0": ("HTTP/1.0 502 Bad Gateway\nX-Why: no\n\n", 502, b""),
    "after hints": (
        "HTTP/1.1 103 Hints\n\nHTTP/1.1 429 Slow\nX-Why: no\nContent-Length: 0\n\n",
        429,
        b"",
    ),
    "a status of nobody's": ("HTTP/1.1 999 Denied\nX-Why: no\nContent-Length: 0\n\n", 999, b""),
}


@pytest.mark.parametrize(("template", "status", "body"), _REJECTIONS.values(), ids=_REJECTIONS)
async def test_connect_says_how_the_server_refused(template: str, status: int, body: bytes) -> None:
    """Invariant 7, and the status is what a client decides by."""
    for answer in (answering(template), split(answering(template))):
        with pytest.raises(HandshakeRejected) as caught:
            await _connect(Script(answer))
        assert (caught.value.status, caught.value.body) == (status, body)
        assert caught.value.header("x-why") == "no"
        _check_ours(caught.value)


@pytest.mark.parametrize("end", [None, trio.BrokenResourceError("reset")], ids=["EOF", "reset"])
async def test_connect_fails_when_the_peer_ends_at_any_byte_of_its_answer(
    end: Exception | None,
) -> None:
    """Invariant 7."""
    sizes = iter(range(1000))
    ended = False
    while not ended:
        size = next(sizes)

        def answer(request: bytes) -> Iterable[bytes | BaseException]:
            nonlocal ended
            [data] = answering(_GOOD)(request)
            ended = size == len(data)  # noqa: B023
            return [data[:size], end] if end is not None and not ended else [data[:size]]  # noqa: B023

        transport = Script(answer)
        if size == 0:
            transport = Script([] if end is None else [end])
        try:
            await _connect(transport)
        except HandshakeFailed as exc:
            assert not ended
            _check_ours(exc)
        else:
            assert ended
    assert size > 100


async def test_connect_names_the_kind_of_an_error_without_text() -> None:
    with pytest.raises(HandshakeFailed, match="the opening handshake failed: BrokenResourceError"):
        await _connect(Script(fault=trio.BrokenResourceError()))


@pytest.mark.parametrize("start", ["", "HTTP/1.1 1", _GOOD[:-1]])
async def test_connect_can_be_cancelled_while_the_server_is_silent(
    start: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6: the deadline is the caller's."""
    answer = answering(start) if start else ()
    with trio.move_on_after(5) as scope:
        await _connect(Script(answer, silent=True))
    assert scope.cancelled_caught
    assert trio.current_time() == 5


@pytest.mark.parametrize("template", ["HTTP/1.1 403 No\n\n", "\0", _GOOD])
async def test_connect_ends_as_cancelled_when_it_fails_at_that_very_moment(template: str) -> None:
    """Invariant 7: not as a group of both."""
    with trio.CancelScope() as scope:
        await _connect(Script(answering(template), on_read=scope.cancel, silent=True))
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_connect_lets_a_keyboard_interrupt_out_as_it_is() -> None:
    with pytest.raises(KeyboardInterrupt):
        await _connect(Script([KeyboardInterrupt()]))
    with pytest.raises(KeyboardInterrupt):
        with trio.CancelScope() as scope:
            await _connect(Script([KeyboardInterrupt()], on_read=scope.cancel))


@pytest.mark.parametrize("template", ["HTTP/1.1 403 No\n\n", "\0", _without("Upgrade")])
async def test_a_failed_handshake_leaves_no_cycle_behind(template: str) -> None:
    """A client that tries for days must not depend on the collector."""

    async def fail() -> weakref.ref[OpenFailed]:
        try:  # pytest.raises would make a cycle of its own
            await _connect(Script(answering(template)))
        except OpenFailed as exc:
            return weakref.ref(exc)
        raise AssertionError("it did not fail")

    gc.collect()
    gc.disable()
    try:
        error = await fail()
        assert error() is None
    finally:
        gc.enable()


def _check_ours(error: OpenFailed) -> None:
    """Invariant 7: what leaves is ours, alone, and its causes come to an end."""
    assert isinstance(error, TriowebError)
    assert error.__context__ is None or error.__context__ is error.__cause__
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        assert not isinstance(cause, BaseExceptionGroup)
        assert not any(cause is other for other in chain)
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__


@pytest.mark.parametrize(
    "error",
    [trio.BrokenResourceError("gone"), trio.ClosedResourceError("shut"), OSError("io")],
    ids=str,
)
async def test_connect_fails_when_its_transport_takes_nothing(error: Exception) -> None:
    """Invariant 7."""
    with pytest.raises(HandshakeFailed, match=f"handshake failed: {error}") as caught:
        await _connect(Script(fault=error, silent=True))
    assert caught.value.__cause__ is error
    _check_ours(caught.value)


async def test_connect_fails_when_trio_websocket_refuses_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It closes the stream then, and waits for ever."""

    async def refuse(nursery: trio.Nursery, stream: trio.abc.Stream, *_: Any, **__: Any) -> None:
        await stream.wait_send_all_might_not_block()
        nursery.start_soon(stream.aclose)
        await trio.sleep_forever()

    monkeypatch.setattr(trio_websocket, "wrap_client_stream", refuse)
    with pytest.raises(HandshakeFailed, match="trio-websocket refused the handshake") as caught:
        await _connect(Script(silent=True))
    _check_ours(caught.value)


async def test_connect_opens_a_connection_to_trio_websockets_server() -> None:
    ours, theirs = stream_pair()
    accepted: list[trio_websocket.WebSocketConnection] = []

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await trio_websocket.wrap_server_stream(nursery, theirs)
            assert request.path == "/lobby?uid=1"
            assert request.proposed_subprotocols == ("chat", "superchat")
            assert (b"x-client", b"1") in request.headers
            accepted.append(
                await request.accept(subprotocol="superchat", extra_headers=[(b"X-Server", b"2")])
            )

        nursery.start_soon(serve)
        switch = await _connect(
            ours,
            "ws://trioweb.test:8000/lobby?uid=1",
            subprotocols=["chat", "superchat"],
            headers=[("X-Client", "1")],
        )
        await trio.testing.wait_all_tasks_blocked()

        assert switch.headers["x-server"] == "2"
        assert switch.subprotocol == "superchat"
        [connection] = accepted
        peer = RawPeer(ours, is_client=True)
        peer.unparsed = switch.rest
        await connection.send_message("to us")
        assert await peer.frame() == Frame(TEXT, b"to us")
        await peer.send(Frame(BINARY, b"to them"))
        assert await connection.get_message() == b"to them"
        nursery.cancel_scope.cancel()


async def test_connect_is_told_when_trio_websockets_server_refuses() -> None:
    ours, theirs = stream_pair()

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await trio_websocket.wrap_server_stream(nursery, theirs)
            await request.reject(401, extra_headers=[(b"X-Why", b"who?")], body=b"log in first")

        nursery.start_soon(serve)
        with pytest.raises(HandshakeRejected) as caught:
            await _connect(ours)
        assert (caught.value.status, caught.value.body) == (401, b"log in first")
        assert caught.value.header("x-why") == "who?"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("max_bytes", [1, 65536])
async def test_connect_understands_the_answer_of_a_server_of_ours(max_bytes: int) -> None:
    ours, theirs = stream_pair(max_bytes)
    served: list[Request] = []

    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            head, rest = await read_head(theirs, MAX_HEAD_BYTES)
            assert rest == b""
            request = parse_request(head, remote="", local="")
            check_upgrade(request)
            key = request.headers["sec-websocket-key"].encode()
            switch = encode_switch(key, subprotocol="b", headers=[("X-S", "1")])
            await theirs.send_all(switch)
            served.append(request)

        nursery.start_soon(serve)
        switch = await _connect(ours, "ws://bücher.example:81/é", subprotocols=["a", "b"])
    assert (switch.headers["x-s"], switch.subprotocol, switch.rest) == ("1", "b", b"")
    assert served[0].path == "/é"
    assert served[0].headers["host"] == "xn--bcher-kva.example:81"


# Anything at all.


@given(
    noise=st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3)), max_size=4
    )
    | st.binary(max_size=200),
    size=st.integers(1, 300),
)
@settings(deadline=None)
async def test_connect_opens_or_fails_with_one_of_our_errors_whatever_it_hears(
    noise: bytes | list[tuple[int, int, bytes]], size: int
) -> None:
    """Invariant 7: random bytes, or a good answer with some of its bytes changed."""

    def answer(request: bytes) -> Iterable[bytes]:
        if isinstance(noise, bytes):
            data = noise
        else:
            [data] = answering(_GOOD)(request)
            for place, length, put in noise:
                data = data[:place] + put + data[place + length :]
        return [data[start : start + size] for start in range(0, len(data), size)]

    try:
        switch = await _connect(Script(answer), subprotocols=["a"])
    except OpenFailed as exc:
        _check_ours(exc)
    else:
        assert "sec-websocket-accept" in switch.headers
