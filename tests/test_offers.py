"""Subprotocols and headers that users put into a handshake: which are taken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trioweb._offers import check_request_headers, check_subprotocols


def test_subprotocol_that_may_be_a_token_is_not_shown_whole() -> None:
    for names in (["bearer.0123456789abcdef=="], ["bearer.0123456789abcdef"] * 2):
        with pytest.raises(ValueError, match=r"'bearer\.012345678…'"):
            check_subprotocols("test", names)


def test_check_subprotocols_takes_tokens() -> None:
    check_subprotocols("test", [])
    check_subprotocols("test", ("chat", "v1.json", "graphql-ws"))


@pytest.mark.parametrize(
    ("subprotocols", "error", "text"),
    [
        ("chat", TypeError, "test: subprotocols must be a collection of str, not a str"),
        (["a", ""], ValueError, "test: subprotocol '' is not a token"),
        (["a b"], ValueError, "test: subprotocol 'a b' is not a token"),
        (["a,b"], ValueError, "test: subprotocol 'a,b' is not a token"),
        (["a\r\nX: y"], ValueError, "is not a token"),
        (["é"], ValueError, "is not a token"),
        ([b"a"], TypeError, "test: each of subprotocols must be of type str, not a bytes"),
        (["a", "b", "a"], ValueError, "test: subprotocols has 'a' twice"),
    ],
)
def test_check_subprotocols_refuses_what_cannot_stand_in_the_header(
    subprotocols: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        check_subprotocols("test", subprotocols)


def test_check_request_headers_takes_those_of_applications() -> None:
    check_request_headers(
        "test", [("Authorization", "Bearer x"), ("Cookie", "a=b"), ("Origin", "x")]
    )


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "UPGRADE",
        "connection",
        "Content-Length",
        "Transfer-Encoding",
        "Sec-WebSocket-Key",
        "sec-websocket-extensions",
        "Sec-WebSocket-Protocol",
    ],
)
def test_check_request_headers_keeps_those_of_the_handshake(name: str) -> None:
    with pytest.raises(ValueError, match=f"test: header {name!r} belongs to the handshake itself"):
        check_request_headers("test", iter([("X", "y"), (name, "z")]))


def test_check_request_headers_refuses_what_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match=r"test: .* header 'X'"):
        check_request_headers("test", [("X", "a\r\nHost: b")])
