"""Checks of what users give: told at once and by name, and no secret is repeated."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trioweb._arguments import (
    check_async,
    check_headers,
    check_kind,
    check_passes_on,
    check_texts,
    is_token,
    shown,
)
from trioweb._callbacks import awaitable

# What an error shows.


class _Secret:
    def __repr__(self) -> str:
        return "SECRET"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (False, "False"),
        (0, "0"),
        (2.5, "2.5"),
        (len, "len"),
        (_Secret, "the class _Secret"),
        (_Secret(), "a _Secret"),
        ("SECRET", "a str"),
        (b"SECRET", "a bytes"),
        ({"token": "SECRET"}, "a dict"),
        (functools.partial(print, "SECRET"), "a partial"),
        (OSError("SECRET"), "an OSError"),
    ],
    ids=str,
)
def test_shown_tells_what_cannot_be_a_secret_and_else_the_kind(value: object, text: str) -> None:
    assert shown(value) == text


# Kinds.


def test_check_kind_takes_what_is_of_a_kind() -> None:
    check_kind("f", "x", 1, int)
    check_kind("f", "x", 1.5, int, float)
    check_kind("f", "x", True, bool)
    check_kind("f", "x", None, int, optional=True)


@pytest.mark.parametrize("value", [None, "1", True, 1.5, {}])
def test_check_kind_names_the_argument_and_what_would_be_right(value: object) -> None:
    text = f"f: x must be of type int, not {shown(value)}"
    with pytest.raises(TypeError, match=f"^{text}$"):
        check_kind("f", "x", value, int)


def test_check_kind_says_that_none_would_do() -> None:
    with pytest.raises(TypeError, match=r"^f: x must be of type str or None, not 1$"):
        check_kind("f", "x", 1, str, optional=True)


def test_check_texts_keeps_what_is_there_now() -> None:
    names = ["a", "b"]
    kept = check_texts("f", "names", names)
    names.append("c")
    assert kept == ("a", "b")
    assert check_texts("f", "names", iter("ab")) == ("a", "b")


@pytest.mark.parametrize("values", [None, "SECRET", b"SECRET", 1, [1], ["a", None]])
def test_check_texts_refuses_what_is_not_several_texts(values: object) -> None:
    with pytest.raises(TypeError, match=r"^f: (each of )?names must be") as caught:
        check_texts("f", "names", values)
    assert "SECRET" not in str(caught.value)


# Callbacks.


async def _async(request: object) -> None: ...


def _sync(request: object) -> None: ...


class _Callback:
    async def __call__(self, request: object) -> None: ...

    async def method(self, request: object) -> None: ...

    @classmethod
    async def of_class(cls, request: object) -> None: ...

    @staticmethod
    async def static(request: object) -> None: ...


class _SyncCallback:
    def __call__(self, request: object) -> None: ...

    def method(self, request: object) -> None: ...


def _decorated(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    def wrapper(*args: object) -> Awaitable[None]:
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    "callback",
    [
        _async,
        functools.partial(_async, 1),
        functools.partial(functools.partial(_async), 1),
        _Callback(),
        functools.partial(_Callback()),
        _Callback().method,
        _Callback.of_class,
        _Callback.static,
        _decorated(_async),
        print,  # in C: nothing tells
    ],
    ids=range(10),
)
def test_check_async_takes_what_may_be_awaited(callback: object) -> None:
    check_async("f", "admit(request)", callback)


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (_sync, "_sync"),
        (lambda request: None, "<lambda>"),
        (functools.partial(_sync, "SECRET"), "a partial"),
        (_SyncCallback(), "a _SyncCallback"),
        (_SyncCallback().method, "_SyncCallback.method"),
        (_Callback, "_Callback"),
        (dict, "dict"),
    ],
)
def test_check_async_refuses_a_function_that_is_not_async(callback: object, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_async("f", "admit(request)", callback)
    assert str(caught.value).startswith(
        "f: admit must be an async function: `async def admit(request)`; "
    )
    assert str(caught.value).endswith(f"{name} is not async")


@pytest.mark.parametrize("value", [False, 0, "admit", {}, ()])
def test_check_async_refuses_what_cannot_be_called(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f: admit must be an async function or None: .*, not"):
        check_async("f", "admit(request)", value, optional=True)


def test_check_async_takes_none_only_where_it_is_optional() -> None:
    check_async("f", "admit(request)", None, optional=True)
    with pytest.raises(TypeError, match=r"^f: admit must be an async function: .*, not None"):
        check_async("f", "admit(request)", None)


# Headers.


@pytest.mark.parametrize("name", ["a", "X-Token", "v1.json", "!#$%&'*+-.^_`|~09AZaz"])
def test_is_token_knows_the_tokens_of_rfc_9110(name: str) -> None:
    assert is_token(name)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a,b", "a:", "(a)", "a/b", "é", "a\n", '"a"', "@"]
)
def test_is_token_knows_what_is_none(name: str) -> None:
    assert not is_token(name)


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "!~", "a  \t b", "a=1; b=2"])
def test_check_headers_takes_values_that_can_be_sent(value: str) -> None:
    check_headers("test", [("X", value)])


@pytest.mark.parametrize(
    "value", [" ", "a ", " a", "\ta", "a\t", "a\r\nb: c", "a\nb", "a\rb", "é", "a\0", "\x7f", "\n"]
)
def test_check_headers_refuses_a_value_that_cannot_be_sent(value: str) -> None:
    with pytest.raises(ValueError, match=r"test: .* header 'X' must be printable ASCII"):
        check_headers("test", [("X", value)])


@pytest.mark.parametrize("value", ["Bearer SECRET\n", b"Bearer SECRET"], ids=["no line", "bytes"])
def test_check_headers_does_not_repeat_a_value(value: Any) -> None:
    """CWE-532: it may be a secret, and errors reach logs."""
    with pytest.raises((TypeError, ValueError)) as caught:
        check_headers("test", [("Authorization", value)])
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\r\n"])
def test_check_headers_refuses_a_name_that_is_no_token(name: str) -> None:
    with pytest.raises(ValueError, match=r"test: header name .* is not a token"):
        check_headers("test", [("good", "1"), (name, "1")])


@pytest.mark.parametrize("pair", [(b"X", "1"), ("X", b"1"), ("X", 1), (None, "1")])
def test_check_headers_refuses_what_is_not_text(pair: Any) -> None:
    with pytest.raises(TypeError, match=r"test: each of headers must be two str"):
        check_headers("test", [pair])


def test_check_headers_is_quick_with_a_value_of_many_blanks() -> None:
    """The pattern must not try every way to share the blanks out."""
    with pytest.raises(ValueError, match="printable ASCII"):
        check_headers("test", [("X", "a " * 20_000)])


def test_check_headers_takes_a_mapping_and_keeps_what_is_there_now() -> None:
    headers = {"A": "b"}
    kept = check_headers("test", headers)
    headers["C"] = "d"
    assert kept == (("A", "b"),)
    assert check_headers("test", iter([["A", "b"]])) == kept


@pytest.mark.parametrize("headers", [None, 1, "A: SECRET", ["A: SECRET"], [("A",)], [None]])
def test_check_headers_refuses_what_is_no_pairs(headers: Any) -> None:
    with pytest.raises(TypeError, match=r"^test: (each of )?headers must be") as caught:
        check_headers("test", headers)
    assert "SECRET" not in str(caught.value)


# What passes on what is async.


async def _answer() -> int:
    return 7


async def test_awaitable_is_let_through() -> None:
    assert await awaitable("url()", _answer()) == 7


@pytest.mark.parametrize(("value", "text"), [("SECRET", "a str"), (None, "None")])
def test_result_that_cannot_be_awaited_is_told_by_name_and_kind(value: object, text: str) -> None:
    with pytest.raises(TypeError, match=rf"^url must be .* `async def url\(\)`; .* {text}$"):
        awaitable("url()", value)


@pytest.mark.parametrize("value", [3, "SECRET", ()])
def test_what_may_pass_on_must_be_callable(value: object) -> None:
    check_passes_on("f", "dial(host, port)", None)
    check_passes_on("f", "dial(host, port)", print)
    with pytest.raises(TypeError, match=r"^f: dial must be an async function or None") as caught:
        check_passes_on("f", "dial(host, port)", value)
    assert "SECRET" not in str(caught.value)
