"""What is worth another try, of errors alone and for a client."""

from __future__ import annotations

import re
import urllib.error
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import pytest
import python_socks
import trio
from aiohttp.client_reqrep import ConnectionKey

import trioweb
from trioweb import (
    ClosedByPeer,
    ClosedLocally,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    GaveUp,
    HandshakeFailed,
    HandshakeRejected,
    TryAgain,
    is_worth_retry,
)
from trioweb._client._worth import Judge, describe, is_about_connecting, is_refusal


def _retried(errors: dict[Any, Exception]) -> set[Any]:
    return {key for key, error in errors.items() if is_worth_retry(error)}


def test_is_worth_retry_after_any_status_that_does_not_blame_the_request() -> None:
    statuses = range(200, 600)
    assert _retried({status: HandshakeRejected(status) for status in statuses}) == {
        *range(200, 400),
        408,
        425,
        429,
        *range(500, 600),
    }


@pytest.mark.parametrize("kind", [ClosedByPeer, ClosedLocally, ConnectionLost])
def test_is_worth_retry_after_any_code_that_is_not_final(kind: type[ConnectionClosed]) -> None:
    """Discord's and Pusher's 4000 to 4299 mean what each service says, and are tried again."""
    codes = range(1000, 5000)
    final = {1002, 1003, 1007, 1009, 1010, *range(3500, 4000), *range(4500, 5000)}
    refusals = {1008, 3000, 3003, 4401, 4403}
    assert _retried({code: kind(code) for code in codes}) == {*codes} - final - refusals


def named(package: str, name: str, *bases: type[Exception], **attributes: object) -> Exception:
    """An error as the library *package* raises it, which this does not import."""
    body = {"__module__": f"{package}._exceptions", **attributes}
    made: Exception = type(name, bases or (Exception,), body)("down")
    return made


def status_error(package: str, name: str, status: int) -> Exception:
    return named(package, name, response=SimpleNamespace(status_code=status))


NETWORK = [
    ConnectFailed("refused"),
    HandshakeFailed("silence"),
    TryAgain("busy"),
    GaveUp(3, ConnectFailed("of another client")),
    OSError("no route"),
    TimeoutError("asyncio's and the system's"),
    trio.TooSlowError(),
    trio.BrokenResourceError(),
    trio.ClosedResourceError(),
    named("httpx", "ConnectError", type(named("httpx", "NetworkError"))),
    named("httpx", "PoolTimeout", type(named("httpx", "TimeoutException"))),
    named("httpx", "RemoteProtocolError"),
    named("httpx", "ProxyError"),
    named("httpcore", "ConnectTimeout", type(named("httpcore", "TimeoutException"))),
    status_error("httpx", "HTTPStatusError", 503),
    status_error("httpx", "HTTPStatusError", 429),
    status_error("requests", "HTTPError", 502),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientConnectorError(
        ConnectionKey("h", 1, False, True, None, None, None), OSError("refused")
    ),
    aiohttp.ClientPayloadError(),
    aiohttp.ClientHttpProxyError(None, (), status=503),  # type: ignore[arg-type]
    aiohttp.ClientResponseError(None, (), status=504),  # type: ignore[arg-type]
    python_socks.ProxyError("503 Service Unavailable", error_code=503),
    python_socks.ProxyError("Host unreachable", error_code=4),
    python_socks.ProxyError("the connection was closed"),
    urllib.error.URLError("no route"),
    urllib.error.HTTPError("http://h/", 503, "busy", Message(), None),
    ExceptionGroup("both", [OSError("a"), ExceptionGroup("", [trio.TooSlowError()])]),
]


@pytest.mark.parametrize("error", NETWORK, ids=repr)
def test_failure_of_the_network_is_worth_another_try_whoever_tells_of_it(error: Exception) -> None:
    assert is_worth_retry(error)
    assert is_about_connecting(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault of the program"),
        GaveUp(1, ValueError("of another client's callable")),
        KeyError("token"),
        named("mine", "ConnectError"),
        named("httpx", "UnsupportedProtocol"),
        named("httpx", "HTTPStatusError"),
        status_error("httpx", "HTTPStatusError", 401),
        aiohttp.InvalidURL("x"),
        python_socks.ProxyError("407 Proxy Authentication Required", error_code=407),
        aiohttp.ClientResponseError(None, (), status=404),  # type: ignore[arg-type]
        ExceptionGroup("both", [OSError("a"), KeyError("b")]),
    ],
    ids=repr,
)
def test_any_other_error_is_a_fault_of_the_program(error: Exception) -> None:
    assert not is_worth_retry(error)
    assert not is_about_connecting(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("self-signed", untrusted=True),
        HandshakeRejected(404),
        ClosedByPeer(4500),
        urllib.error.HTTPError("http://h/", 404, "no", Message(), None),
    ],
    ids=repr,
)
def test_final_answer_is_about_the_connection_and_not_worth_another_try(error: Exception) -> None:
    assert not is_worth_retry(error)
    assert is_about_connecting(error)


REFUSALS = [
    HandshakeRejected(401),
    HandshakeRejected(403),
    ClosedByPeer(1008),
    ClosedByPeer(3000),
    ClosedByPeer(3003),
    ClosedByPeer(4401),
    ClosedByPeer(4403),
]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_refusal_gets_one_fresh_token(error: Exception) -> None:
    def refused(judge: Judge) -> bool:
        # After too short a time for having been let in.
        lasted = 59.9 if isinstance(error, ConnectionClosed) else None
        return judge.is_worth(error, lasted=lasted)

    judge = Judge(None, renews=True)
    assert refused(judge)
    assert not refused(judge)
    assert not refused(Judge(None, renews=False))
    # A failure without a connection says nothing about the token; an end of another kind does.
    judge = Judge(None, renews=True)
    assert refused(judge)
    assert judge.is_worth(OSError(), lasted=None)
    assert not refused(judge)
    assert judge.is_worth(ClosedByPeer(1001), lasted=0)
    assert refused(judge)


@pytest.mark.parametrize("renews", [False, True])
def test_refusal_of_who_was_let_in_for_long_is_tried_again(renews: bool) -> None:
    """Exchanges send 1008 for a pong that was late, and servers whose users' tokens expire."""
    judge = Judge(None, renews=renews)
    for _ in range(3):
        assert judge.is_worth(ClosedByPeer(1008), lasted=60)
    assert judge.is_worth(HandshakeRejected(401), lasted=None) is renews
    assert not judge.is_worth(HandshakeRejected(401), lasted=None)


def test_worth_of_the_user_is_asked_about_every_error_and_decides_alone() -> None:
    asked = []

    def worth(error: Exception) -> bool:
        asked.append(error)
        return isinstance(error, KeyError)

    judge = Judge(worth, renews=True)
    errors = [KeyError("mine"), OSError(), HandshakeRejected(401)]
    answers = [judge.is_worth(error, lasted=None) for error in errors]
    assert answers == [True, False, False]
    assert asked == errors


def test_describe_shows_the_kind_of_errors_that_are_not_ours_and_no_token() -> None:
    assert describe(GaveUp(1, ConnectFailed("x"))) == "gave up after 1 attempt: x"
    assert describe(OSError("no route")) == "no route"
    assert describe(OSError()) == "OSError()"
    assert describe(trio.TooSlowError()) == "TooSlowError()"
    assert describe(KeyError("k")) == "KeyError('k')"
    assert "s3cret" not in describe(RuntimeError("GET https://a:s3cret@h/?t=s3cret failed"))
    assert describe(ConnectFailed("a\nb")) == r"a\nb"


# docs/client.md says the same.

_DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "client.md"


def _table_of(first: str) -> list[list[str]]:
    """The cells of the table whose first heading is *first*."""
    _, _, rest = _DOCUMENT.read_text().partition(f"\n| {first} |")
    table, _, _ = rest.partition("\n\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]


def _numbers(text: str) -> set[int]:
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d{3,4})(?:–(\d{4}))?", text):
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def test_documented_table_of_close_codes_is_true() -> None:
    *rows, others = _table_of("the server closes with")
    told: set[int] = set()
    for cell, answer, _ in rows:
        for code in _numbers(cell):
            error = ClosedByPeer(code)
            assert is_worth_retry(error) is (answer == "yes")
            assert is_refusal(error) is answer.startswith("once")
            told.add(code)
    assert others[:2] == ["any other from 3001 to 4499", "yes"]
    for code in {*range(3001, 4500)} - told:
        assert is_worth_retry(ClosedByPeer(code))


def test_documented_table_of_statuses_is_true() -> None:
    for cell, answer, _ in _table_of("the server answers"):
        for status in _numbers(cell) - {101}:
            error = HandshakeRejected(status)
            assert is_worth_retry(error) is (answer == "yes")
            assert is_refusal(error) is answer.startswith("once")


def test_documented_recipes_do_what_they_say() -> None:
    codes = re.findall(r"```python\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    [code] = [code for code in codes if "def worth" in code]
    names: dict[str, Any] = {"trioweb": trioweb}
    exec(code, names)
    worth = names["retry"].worth
    assert worth(ClosedByPeer(4000)) and not worth(ClosedByPeer(4004))
    assert worth(OSError()) and not worth(ValueError())
