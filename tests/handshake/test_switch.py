"""The 101, held to trio-websocket's."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

import trio
import trio.testing
import trio_websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handshake.support import ACCEPT, KEY, MAX_HEAD_BYTES, encode_request, upgrade
from tests.support import BINARY, TEXT, Frame, RawPeer
from trioweb import Headers, Request
from trioweb._handshake import accept_token, check_upgrade, encode_switch
from trioweb._heads import read_head
from trioweb._offers import check_request_headers
from trioweb._protocol._requests import parse_request
from trioweb.testing import stream_pair

_Pairs = Sequence[tuple[str, str]]

_TOKENS = st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,12}", fullmatch=True)
_VALUES = st.from_regex(r"([\x21-\x7e]+([\t ]+[\x21-\x7e]+)*)?", fullmatch=True)


def _is_free(pair: tuple[str, str]) -> bool:
    try:
        check_request_headers("test", [pair])
    except ValueError:
        return False
    return True


_HEADERS = st.lists(st.tuples(_TOKENS, _VALUES).filter(_is_free), max_size=4)
_OFFERS = st.lists(_TOKENS, unique=True, max_size=4)
_EXTENSIONS = st.sampled_from(
    ["", "permessage-deflate; server_no_context_takeover; client_max_window_bits=12"]
)


def test_accept_token_is_that_of_the_rfc() -> None:
    assert accept_token(KEY.encode()) == ACCEPT


def _fields(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The status of a response, and its header fields: names in lower case, in their order."""
    assert head.endswith(b"\r\n\r\n")
    status, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    parted = (line.partition(":") for line in lines)
    return status, [(name.lower(), value.strip(" \t")) for name, _, value in parted]


async def _answer_of_trio_websocket(
    request: Request, subprotocol: str | None, headers: _Pairs
) -> bytes:
    ours, theirs = stream_pair()
    await ours.send_all(encode_request(request))
    async with trio.open_nursery() as nursery:
        event = await trio_websocket.wrap_server_stream(nursery, theirs)
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        await event.accept(subprotocol=subprotocol, extra_headers=pairs)
        head, rest = await read_head(ours, MAX_HEAD_BYTES)
        assert rest == b""
        nursery.cancel_scope.cancel()
    return head


@given(
    nonce=st.binary(min_size=16, max_size=16),
    offered=_OFFERS,
    headers=_HEADERS,
    extensions=_EXTENSIONS,
    data=st.data(),
)
@settings(deadline=None)
async def test_switch_is_that_of_trio_websocket(
    nonce: bytes, offered: list[str], headers: _Pairs, extensions: str, data: st.DataObject
) -> None:
    key = base64.b64encode(nonce).decode()
    changes = {"Sec-WebSocket-Key": key, "Sec-WebSocket-Protocol": ", ".join(offered) or None}
    request = upgrade(changes)
    check_upgrade(request)
    subprotocol = data.draw(st.none() | st.sampled_from(offered)) if offered else None

    ours = encode_switch(
        key.encode(), subprotocol=subprotocol, extensions=extensions, headers=headers
    )
    # It knows no extensions, but sends any header along.
    extended = [("Sec-WebSocket-Extensions", extensions), *headers] if extensions else headers
    theirs = await _answer_of_trio_websocket(request, subprotocol, extended)
    assert _fields(ours) == _fields(theirs)


@given(offered=_OFFERS, headers=_HEADERS, data=st.data())
@settings(deadline=None)
async def test_switch_is_taken_by_trio_websockets_client(
    offered: list[str], headers: _Pairs, data: st.DataObject
) -> None:
    subprotocol = data.draw(st.none() | st.sampled_from(offered)) if offered else None
    ours, theirs = stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            head, rest = await read_head(ours, MAX_HEAD_BYTES)
            assert rest == b""
            request = parse_request(head, remote="", local="")
            check_upgrade(request)
            assert request.subprotocols == tuple(offered)
            key = request.headers["sec-websocket-key"].encode()
            await ours.send_all(encode_switch(key, subprotocol=subprotocol, headers=headers))

        nursery.start_soon(serve)
        connection = await trio_websocket.wrap_client_stream(
            nursery,
            theirs,  # type: ignore[arg-type]  # any stream will do
            "trioweb.test",
            "/lobby?uid=1",
            subprotocols=offered,
            extra_headers=[(b"X-Client", b"1")],
        )
        assert connection.subprotocol == subprotocol
        sent = Headers(
            (name.decode(), value.decode()) for name, value in connection.handshake_headers
        )
        for name, value in headers:
            assert value in sent.get_all(name)
        # And from here on nothing of the handshake stands between the two.
        peer = RawPeer(ours, is_client=False)
        await peer.send(Frame(TEXT, b"to them"))
        assert await connection.get_message() == "to them"
        await connection.send_message(b"to us")
        assert await peer.frame() == Frame(BINARY, b"to us")
        nursery.cancel_scope.cancel()


def test_switch_costs_less_than_the_parsing_of_its_request() -> None:
    head = encode_request(upgrade(None, ("Origin", "http://localhost"), ("User-Agent", "x")))
    request = parse_request(head, remote="", local="")

    def answer() -> None:
        encode_switch(request.headers["sec-websocket-key"].encode(), subprotocol=None)

    def parse() -> None:
        parse_request(head, remote="", local="")

    def seconds(call: Any) -> float:
        begun = time.thread_time()
        for _ in range(500):
            call()
        return time.thread_time() - begun

    assert min(seconds(answer) for _ in range(5)) < min(seconds(parse) for _ in range(5)) / 2
