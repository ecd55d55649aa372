"""Policy is frozen, checked when it is made, and says which number is wrong."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any

import pytest

from trioweb import Deflate, Heartbeat, Limits, Outbox, Retain, Retry
from trioweb._policy import check_message

# Called with whatever a test likes, so not by their types.
Policy = type[Any]

_POLICIES: tuple[Policy, ...] = (Limits, Heartbeat, Deflate, Retain, Retry, Outbox)
_COUNTS: list[tuple[Policy, str]] = [
    (Limits, "max_message_bytes"),
    (Limits, "max_request_bytes"),
    (Limits, "inbox_messages"),
    (Limits, "inbox_bytes"),
    (Limits, "send_bytes"),
    (Limits, "max_connections"),
    (Limits, "max_connections_per_host"),
    (Deflate, "level"),
    (Deflate, "min_bytes"),
    (Retain, "max_messages"),
    (Retain, "max_bytes"),
    (Retry, "max_attempts"),
    (Outbox, "max_messages"),
    (Outbox, "max_bytes"),
    (Outbox, "max_resends"),
]
_NUMBERS: list[tuple[Policy, str]] = [
    (Limits, "max_messages_per_second"),
    (Limits, "connect_timeout"),
    (Limits, "close_timeout"),
    (Limits, "write_timeout"),
    (Heartbeat, "interval"),
    (Heartbeat, "timeout"),
    (Retain, "max_age"),
    (Retry, "stable_after"),
    (Retry, "max_elapsed"),
]
# What the two bounds of a wait must be is tested by itself.
_REST: list[tuple[Policy, str]] = [
    (Retain, "patience"),
    (Heartbeat, "message"),
    (Heartbeat, "reply"),
    (Retry, "initial"),
    (Retry, "maximum"),
    (Retry, "worth"),
    (Outbox, "full"),
    (Outbox, "confirm"),
]


def test_policy_has_the_defaults_that_the_documents_promise() -> None:
    assert Limits() == Limits(
        max_message_bytes=1_048_576,
        max_request_bytes=16_384,
        inbox_messages=256,
        inbox_bytes=1_048_576,
        max_messages_per_second=None,
        send_bytes=65_536,
        connect_timeout=10,
        close_timeout=10,
        write_timeout=20,
        max_connections=10_000,
        max_connections_per_host=None,
    )
    assert Heartbeat() == Heartbeat(interval=20, timeout=20, message=None, reply=None)
    assert Deflate() == Deflate(level=6, min_bytes=128)
    assert Retain() == Retain(max_messages=1000, max_bytes=1_048_576, max_age=None, patience=1)
    assert Retry() == Retry(
        initial=0.5, maximum=20, stable_after=5, max_attempts=None, max_elapsed=None, worth=None
    )
    assert Outbox() == Outbox(max_messages=1000, max_bytes=1_048_576, full="wait", confirm=False)


def test_every_field_of_a_policy_is_tested_here() -> None:
    found = {(kind, field.name) for kind in _POLICIES for field in fields(kind)}
    assert found == {*_COUNTS, *_NUMBERS, *_REST}


@pytest.mark.parametrize("kind", _POLICIES)
def test_policy_is_frozen_hashable_and_made_by_name(kind: Policy) -> None:
    policy = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(policy, fields(policy)[0].name, 1)
    assert hash(policy) == hash(kind())
    with pytest.raises(TypeError, match="positional"):
        kind(1)


@pytest.mark.parametrize(("kind", "name"), _COUNTS + _NUMBERS)
def test_policy_refuses_a_number_that_is_not_positive(kind: Policy, name: str) -> None:
    for value in (0, -1):
        text = f"{kind.__name__}({name}={value!r}): must be greater than 0"
        with pytest.raises(ValueError, match=re.escape(text)):
            kind(**{name: value})
    kind(**{name: 1})


@pytest.mark.parametrize(("kind", "name"), _COUNTS)
def test_policy_refuses_a_count_that_is_not_whole(kind: Policy, name: str) -> None:
    for value in (1.5, 1.0, "1", True):
        text = f"{kind.__name__}({name}={value!r}): must be a whole number"
        with pytest.raises(TypeError, match=re.escape(text)):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), _NUMBERS)
def test_policy_takes_any_positive_number_where_parts_of_one_make_sense(
    kind: Policy, name: str
) -> None:
    for value in (0.001, 1.5, 10**400, float("inf")):
        assert getattr(kind(**{name: value}), name) == value
    for value in (float("nan"), -0.0, -float("inf")):
        with pytest.raises(ValueError, match=re.escape(f"({name}={value!r}): must be greater")):
            kind(**{name: value})
    for wrong in ("1", True, 1j):
        with pytest.raises(TypeError, match=re.escape(f"({name}={wrong!r}): must be a number")):
            kind(**{name: wrong})


_UNLIMITED = {
    *("max_message_bytes", "inbox_messages", "inbox_bytes"),
    *("max_messages_per_second", "max_connections", "max_connections_per_host"),
    *("max_age", "max_attempts", "max_elapsed", "max_resends"),
}


@pytest.mark.parametrize(("kind", "name"), _COUNTS + _NUMBERS)
def test_policy_takes_none_only_for_what_may_be_without_limit(kind: Policy, name: str) -> None:
    if name in _UNLIMITED:
        assert getattr(kind(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=f"{name}=None.*there is no way to have no limit"):
            kind(**{name: None})


async def _asynchronous(error: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("worth", "text"),
    [
        (3, "Retry: worth must be a function: `def worth(error)`, not 3"),
        (_asynchronous, "Retry: worth must not be async: `def worth(error)`; _asynchronous is"),
        (partial(_asynchronous, OSError()), "Retry: worth must not be async"),
    ],
)
def test_worth_is_a_function_that_answers_at_once(worth: Any, text: str) -> None:
    """A coroutine that nobody awaits would say yes to everything."""
    with pytest.raises(TypeError, match=re.escape(text)):
        Retry(worth=worth)
    assert Retry(worth=partial(isinstance, OSError())).worth is not None


def test_confirm_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="confirm must be of type bool, not a str"):
        Outbox(confirm="no")  # type: ignore[arg-type]


def test_patience_may_be_nothing_but_not_less() -> None:
    assert [Retain(patience=value).patience for value in (0, 0.5, 3)] == [0, 0.5, 3]
    for wrong, error in (
        (-1, ValueError),
        (float("nan"), ValueError),
        (None, TypeError),
        (False, TypeError),
    ):
        with pytest.raises(error, match=re.escape(f"Retain(patience={wrong!r})")):
            Retain(patience=wrong)  # type: ignore[arg-type]


def test_inbox_has_a_bound_in_any_case() -> None:
    with pytest.raises(ValueError, match="inbox_messages=None, inbox_bytes=None"):
        Limits(inbox_messages=None, inbox_bytes=None)


def test_deflate_has_nine_levels() -> None:
    assert Deflate(level=9).level == 9
    with pytest.raises(ValueError, match=re.escape("Deflate(level=10): must be from 1 to 9")):
        Deflate(level=10)


@pytest.mark.parametrize("name", ["initial", "maximum"])
def test_retry_wants_bounds_of_its_waits_that_are_positive_and_in_order(name: str) -> None:
    for value in (0, -1, float("nan")):
        with pytest.raises(
            ValueError, match=re.escape(f"Retry({name}={value!r}): must be greater")
        ):
            Retry(**{name: value})  # type: ignore[arg-type]
    assert Retry(initial=3, maximum=3).maximum == 3
    text = "Retry(initial=3, maximum=2.5): maximum must not be below initial"
    with pytest.raises(ValueError, match=re.escape(text)):
        Retry(initial=3, maximum=2.5)


def test_outbox_knows_three_ways_to_be_full_and_drops_nothing_that_is_confirmed() -> None:
    for full in ("wait", "raise"):
        assert Outbox(full=full, confirm=True).full == full
    assert Outbox(full="drop").full == "drop"
    with pytest.raises(
        ValueError, match=re.escape("Outbox(full='block'): must be 'wait', 'raise'")
    ):
        Outbox(full="block")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("Outbox(full='drop', confirm=True)")):
        Outbox(full="drop", confirm=True)


def test_heartbeat_takes_a_message_of_text_or_bytes_and_its_reply() -> None:
    assert Heartbeat(message="ping", reply=b"pong").reply == b"pong"
    assert Heartbeat(message=b"").message == b""


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"message": 1}, TypeError, "Heartbeat(message=…): must be str or bytes, not int"),
        ({"message": "a", "reply": []}, TypeError, "Heartbeat(reply=…): must be str or bytes"),
        ({"message": "\ud800"}, ValueError, "Heartbeat(message=…): UTF-8 cannot hold"),
        ({"message": "a", "reply": "\udfff"}, ValueError, "Heartbeat(reply=…): UTF-8 cannot hold"),
        ({"reply": "pong"}, ValueError, "Heartbeat(reply='pong'): needs a message to reply to"),
    ],
)
def test_heartbeat_refuses_what_could_not_be_sent(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        Heartbeat(**arguments)


@pytest.mark.parametrize("value", ["", "grüße", "\U0010ffff", b"\xff"])
def test_check_message_takes_text_and_bytes(value: object) -> None:
    check_message("test", value)


@pytest.mark.parametrize("value", [None, 1, bytearray(b"x"), memoryview(b"x"), ["x"]])
def test_check_message_refuses_what_could_change_or_not_be_sent(value: object) -> None:
    name = type(value).__name__
    with pytest.raises(TypeError, match=f"test: must be str or bytes, not {name}"):
        check_message("test", value)
