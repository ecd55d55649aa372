"""The errors: whose fault each is, what it carries, what it says."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import trio

import trioweb
from trioweb import (
    BrokerFull,
    ClosedByPeer,
    ClosedLocally,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    Dismiss,
    Gap,
    GaveUp,
    HandshakeFailed,
    HandshakeRejected,
    HubFull,
    Lagged,
    NotReceiving,
    OpenFailed,
    OutboxFull,
    ProxyRefused,
    Refuse,
    Refused,
    Reject,
    StoreError,
    TriowebError,
    TryAgain,
    Unpublished,
    Unsent,
    Unsubscribed,
)
from trioweb._close_codes import CloseCode
from trioweb._errors import FrameError

_TREE: dict[type[Exception], tuple[type[Exception], ...]] = {
    ConnectionClosed: (TriowebError,),
    ClosedLocally: (ConnectionClosed, trio.ClosedResourceError),
    ClosedByPeer: (ConnectionClosed, trio.BrokenResourceError),
    ConnectionLost: (ConnectionClosed, trio.BrokenResourceError),
    OpenFailed: (TriowebError, trio.BrokenResourceError),
    ConnectFailed: (OpenFailed,),
    ProxyRefused: (ConnectFailed,),
    HandshakeFailed: (OpenFailed,),
    HandshakeRejected: (OpenFailed,),
    TryAgain: (TriowebError,),
    Reject: (TriowebError,),
    Refuse: (TriowebError,),
    Dismiss: (TriowebError,),
    Refused: (TriowebError,),
    Unsubscribed: (TriowebError,),
    Gap: (TriowebError,),
    GaveUp: (TriowebError,),
    Unsent: (TriowebError,),
    OutboxFull: (TriowebError,),
    NotReceiving: (TriowebError,),
    BrokerFull: (TriowebError, trio.WouldBlock),
    Unpublished: (TriowebError,),
    HubFull: (TriowebError,),
    StoreError: (TriowebError,),
    Lagged: (TriowebError,),
    FrameError: (TriowebError,),
}


@pytest.mark.parametrize(("kind", "bases"), _TREE.items())
def test_error_says_by_its_bases_whose_fault_it_is(
    kind: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert kind.__bases__ == bases
    closed = issubclass(kind, trio.ClosedResourceError)
    assert closed is (kind is ClosedLocally)


def test_every_public_error_stands_in_the_tree() -> None:
    public = {
        value
        for value in vars(trioweb).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert public == {*_TREE, TriowebError} - {FrameError}


_ERRORS: list[tuple[TriowebError, dict[str, Any], str]] = [
    (
        ClosedLocally(1000, "bye"),
        {"code": 1000, "reason": "bye"},
        "connection closed by this side (1000, 'bye')",
    ),
    (
        ClosedByPeer(1005),
        {"code": 1005, "reason": ""},
        "connection closed by the peer (1005)",
    ),
    (
        ConnectionLost(CloseCode.ABNORMAL, "reset"),
        {"code": 1006, "reason": "reset"},
        "connection lost (1006, 'reset')",
    ),
    (
        Refuse(100, temporary=True),
        {"code": 100, "message": "", "temporary": True},
        "refused (100)",
    ),
    (Dismiss(4501, "bye"), {"code": 4501, "reason": "bye"}, "dismissed (4501, 'bye')"),
    (
        Refused(103, "permission denied"),
        {"code": 103, "message": "permission denied", "temporary": False},
        "refused: permission denied (103)",
    ),
    (
        Unsubscribed(2000, "server unsubscribe"),
        {"code": 2000, "reason": "server unsubscribe"},
        "unsubscribed by the server: server unsubscribe (2000)",
    ),
    (
        Gap("news", ("a", 3), ("a", 5)),
        {"topic": "news", "since": ("a", 3), "position": ("a", 5), "missing": 2},
        "2 publications of topic 'news' were missed",
    ),
    (
        Gap("news", ("a", 3), ("b", 5)),
        {"topic": "news", "since": ("a", 3), "position": ("b", 5), "missing": None},
        "an unknown number of publications of topic 'news' were missed",
    ),
    (ConnectionClosed(4000), {"code": 4000, "reason": ""}, "connection closed (4000)"),
    (
        HandshakeRejected(403, [("retry-after", "5"), ("retry-after", "6")], b"no"),
        {"status": 403, "headers": (("retry-after", "5"), ("retry-after", "6")), "body": b"no"},
        "server rejected the WebSocket handshake with HTTP status 403: no",
    ),
    (
        Reject(401, "Who?", iter([("WWW-Authenticate", "Basic")])),
        {"status": 401, "headers": (("WWW-Authenticate", "Basic"),), "body": b"Who?"},
        "401",
    ),
    (ConnectFailed("no route"), {"untrusted": False}, "no route"),
    (ConnectFailed("expired", untrusted=True), {"untrusted": True}, "expired"),
    (
        Unsent(2, ["a", b"b"]),
        {"count": 2, "messages": ("a", b"b")},
        "2 accepted messages were not handed over",
    ),
    (Reject(), {"status": 403, "headers": (), "body": b""}, "403"),
    (
        StoreError("topics.db", "it is no store"),
        {"path": "topics.db", "reason": "it is no store"},
        "cannot open the store topics.db: it is no store",
    ),
    (
        HubFull("max_topics=1"),
        {"limit": "max_topics=1"},
        "the hub is full (max_topics=1), and nothing in it can go",
    ),
    (Lagged(3), {"skipped": 3}, "3 publications left the log before they were read"),
    (
        FrameError(CloseCode.MESSAGE_TOO_BIG, "over 9 bytes", "Limits.max_message_bytes"),
        {"code": 1009, "reason": "over 9 bytes", "limit": "Limits.max_message_bytes"},
        "(<CloseCode.MESSAGE_TOO_BIG: 1009>, 'over 9 bytes', 'Limits.max_message_bytes')",
    ),
]


@pytest.mark.parametrize(("error", "data", "text"), _ERRORS, ids=lambda value: type(value).__name__)
def test_error_carries_its_data_and_says_it(
    error: TriowebError, data: dict[str, Any], text: str
) -> None:
    assert {name: getattr(error, name) for name in data} == data
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _, _ in _ERRORS], ids=repr)
def test_error_survives_copying_and_pickling(error: TriowebError) -> None:
    """Test runners and process pools do that to errors."""
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_gave_up_tells_of_the_last_error_and_how_many_there_were() -> None:
    last = ConnectFailed("no route")
    error = GaveUp(3, last)
    assert (error.attempts, error.last, error.__cause__) == (3, last, last)
    assert str(error) == "gave up after 3 attempts: no route"
    assert str(GaveUp(1, last)) == "gave up after 1 attempt: no route"
    again = pickle.loads(pickle.dumps(error))
    assert (again.attempts, str(again.last)) == (3, "no route")


def test_gave_up_shows_no_token_of_the_last_error() -> None:
    assert "s3cret" not in str(GaveUp(1, OSError("no answer of https://host/?key=s3cret")))
    assert str(GaveUp(1, trio.TooSlowError())).endswith("TooSlowError")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"API key\r\n is missing\n", ": API key is missing"),
        ("schlüssel fehlt".encode(), ": schlüssel fehlt"),
        (b"x" * 300, f": {'x' * 200}…"),
        (b"<html><h1>403</h1>", ""),
        (b"a\x1b[31m", ""),
        (b" ", ""),
        (b"", ""),
    ],
)
def test_handshake_rejected_says_what_a_person_can_read_of_the_body(body: bytes, told: str) -> None:
    text = str(HandshakeRejected(403, (), body))
    assert text == f"server rejected the WebSocket handshake with HTTP status 403{told}"


def test_handshake_rejected_gives_the_first_header_of_a_name() -> None:
    error = HandshakeRejected(503, [("a", "1"), ("retry-after", "5"), ("retry-after", "6")])
    for name in ("retry-after", "Retry-After", "RETRY-AFTER"):
        assert error.header(name) == "5"
    assert error.header("b") is None
