"""The protocol's numbers, as the reference server and its SDKs have them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb._centrifuge._codes import (
    DisconnectCode,
    ErrorCode,
    UnsubscribeCode,
    close_reason,
    is_applications_unsubscribe,
    is_retried,
    reconnects,
    resubscribes,
)


def test_errors_have_their_messages() -> None:
    """errors.go of centrifugal/centrifuge."""
    assert {code.value: code.message for code in ErrorCode} == {
        100: "internal server error",
        101: "unauthorized",
        102: "unknown channel",
        103: "permission denied",
        104: "method not found",
        105: "already subscribed",
        106: "limit exceeded",
        107: "bad request",
        108: "not available",
        109: "token expired",
        110: "expired",
        111: "too many requests",
        112: "unrecoverable position",
        113: "concurrent pagination",
        408: "deadline passed",
    }
    assert [code.value for code in ErrorCode if code.temporary] == [100, 111, 113]


def test_disconnects_have_their_reasons() -> None:
    """disconnect.go of centrifugal/centrifuge."""
    assert {code.value: code.reason for code in DisconnectCode} == {
        3000: "connection closed",
        3001: "shutdown",
        3004: "internal server error",
        3005: "connection expired",
        3006: "subscription expired",
        3008: "slow",
        3009: "write error",
        3010: "insufficient state",
        3011: "force reconnect",
        3012: "no pong",
        3013: "too many requests",
        3014: "state invalidated",
        3500: "invalid token",
        3501: "bad request",
        3502: "stale",
        3503: "force disconnect",
        3504: "connection limit",
        3505: "channel limit",
        3506: "inappropriate protocol",
        3507: "permission denied",
        3508: "not available",
        3509: "too many errors",
    }
    assert all(reconnects(code) == (code < 3500) for code in DisconnectCode)


def test_unsubscribes_have_their_reasons() -> None:
    """unsubscribe.go of centrifugal/centrifuge."""
    assert {code.value: code.reason for code in UnsubscribeCode} == {
        2000: "server unsubscribe",
        2500: "insufficient state",
        2501: "subscription expired",
        2502: "state invalidated",
    }


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [
        (1000, True),
        (1006, True),
        (1009, False),
        (1013, True),
        (2999, True),
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
        (5000, True),
    ],
)
def test_the_code_of_a_close_says_whether_a_client_comes_back(code: int, comes_back: bool) -> None:
    assert reconnects(code) is comes_back


def test_an_error_says_whether_a_client_tries_again() -> None:
    assert [code.value for code in ErrorCode if is_retried(code, code.temporary)] == [
        100,
        109,
        111,
        113,
    ]
    assert is_retried(1, False)
    assert is_retried(99, False)
    assert not is_retried(400, False)
    assert is_retried(400, True)


def test_an_unsubscribe_says_whether_a_client_subscribes_again() -> None:
    assert [code.value for code in UnsubscribeCode if resubscribes(code)] == [2500, 2501, 2502]
    assert not resubscribes(2499)
    assert resubscribes(2999)


def test_applications_unsubscribe_with_codes_of_their_own() -> None:
    assert [n for n in range(6000) if is_applications_unsubscribe(n)] == [
        *range(2000, 2500),
        *range(2600, 3000),
    ]


def test_a_reason_is_the_codes_own_where_there_is_none() -> None:
    assert close_reason(3503) == "force disconnect"
    assert close_reason(3503, " ") == "force disconnect"
    assert close_reason(4501) == "closed"
    assert close_reason(4501, "kicked") == "kicked"


@pytest.mark.parametrize(
    "reason",
    ['{"reconnect":true}', "123", "null", ' "a" ', "[]", "NaN", "9" * 120, "9" * 5000, "[" * 3000],
)
def test_a_reason_is_never_taken_for_advice(reason: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(close_reason(3000, reason))


@given(st.integers(3000, 4999), st.text(st.characters()) | st.text('{}[]":1234567890eé'))
def test_a_reason_fits_and_is_no_json(code: int, reason: str) -> None:
    text = close_reason(code, reason)
    assert text.strip()
    assert len(text.encode()) <= 123
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return
    raise AssertionError(text)
