"""What a server is told at the opening, and what both openings check and share on the way."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.client.support import ONCE, URL, Door, answer_pings, open_at, refuse, stay
from trioweb import ConnectFailed, GaveUp, Limits, Retry
from trioweb._client import _trust
from trioweb.testing import RawPeer, no_leaks

OPENINGS: list[Callable[..., Any]] = [trioweb.open_connection, trioweb.open_client]


async def head_of(opening: Callable[..., Any], url: str = URL, **options: Any) -> bytes:
    """The head that a server gets."""
    heads = []

    async def serve(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        heads.append(peer.head)
        await answer_pings(peer)

    door = Door()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, serve)
        async with opening(url, dial=door.dial, **options) as opened:
            if isinstance(opened, trioweb.Client):
                await opened.wait_open()
        nursery.cancel_scope.cancel()
    return bytes(heads[0])


def values(head: bytes, name: str) -> list[str]:
    return re.findall(rf"(?im)^{name}: (.*)\r$", head.decode())


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"user_agent": "mine/1"}, ["mine/1"]),
        ({"headers": {"USER-AGENT": "mine/2"}}, ["mine/2"]),
        ({"user_agent": ""}, []),
    ],
)
async def test_user_agent_can_be_replaced(
    autojump_clock: MockClock, opening: Callable[..., Any], options: Any, sent: list[str]
) -> None:
    assert values(await head_of(opening, **options), "user-agent") == sent


@pytest.mark.parametrize("opening", OPENINGS)
async def test_user_agent_is_trioweb_and_its_version(
    autojump_clock: MockClock, opening: Callable[..., Any]
) -> None:
    [agent] = values(await head_of(opening), "user-agent")
    assert re.fullmatch(r"trioweb/\d[\w.]*", agent)


TWICE: list[tuple[str, dict[str, Any], str]] = [
    (URL, {"headers": [("Authorization", "x"), ("authorization", "y")]}, "Authorization .*headers"),
    (URL, {"headers": {"User-Agent": "x"}, "user_agent": "y"}, "User-Agent .*user_agent and by"),
    (URL, {"headers": {"User-Agent": "x"}, "user_agent": ""}, "User-Agent .*user_agent and by"),
]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize(("url", "options", "text"), TWICE)
async def test_two_sources_of_one_value_are_an_error_at_once(
    opening: Callable[..., Any], url: str, options: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        async with opening(url, dial=refuse, **options):
            raise AssertionError("the block was entered")


async def test_two_sources_of_one_value_are_an_error_where_a_callable_is_one(
    autojump_clock: MockClock,
) -> None:
    async def headers() -> list[tuple[str, str]]:
        return [("Authorization", "Bearer s3cret")] * 2

    with pytest.raises(ValueError, match="Authorization is given twice") as caught:
        async with trioweb.open_client(URL, headers=headers, dial=refuse):
            await trio.sleep_forever()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("opening", OPENINGS)
async def test_authorization_of_headers_takes_the_place_of_that_of_the_url(
    autojump_clock: MockClock, opening: Callable[..., Any]
) -> None:
    """RFC 9110 section 11.6.2: there is one."""
    url = "ws://ada:pw@server/"
    head = await head_of(opening, url, headers={"authorization": "Bearer t"})
    assert values(head, "authorization") == ["Bearer t"]
    assert values(await head_of(opening, url), "authorization") == ["Basic YWRhOnB3"]


# Wrong arguments: each is named, at once, by both.

WRONG: list[tuple[str, Any, str]] = [
    ("url", None, "url: must be a str such as"),
    ("headers", None, r"headers must be \(name, value\) pairs or a mapping, not None"),
    ("headers", ["A: s3cret"], r"each of headers must be a \(name, value\) pair, not a str"),
    ("headers", "A: s3cret", "headers must be .*, not a str"),
    ("subprotocols", None, "subprotocols must be a collection of str, not None"),
    ("subprotocols", [5], "each of subprotocols must be of type str, not 5"),
    ("ssl_context", True, "ssl_context must be of type SSLContext or None, not True"),
    ("heartbeat", 20, "heartbeat must be of type Heartbeat or None, not 20"),
    ("limits", {"max_message_bytes": 5}, "limits must be of type Limits, not a dict"),
    ("limits", None, "limits must be of type Limits, not None"),
    ("compression", True, "compression"),
    ("dial", 5, "dial must be an async function or None: .*, not 5"),
    ("redirects", True, "redirects must be of type int, not True"),
    ("redirects", None, "redirects must be of type int, not None"),
    ("redirects", -1, "redirects=-1 must not be below 0"),
    ("user_agent", b"s3cret", "user_agent must be of type str or None, not a bytes"),
    ("user_agent", "s3cret\r\nX: y", "user_agent"),
]
WRONG_FOR_A_CLIENT: list[tuple[str, Any, str]] = [
    ("headers", dict, "headers must be an async function"),
    ("retry", 3, "retry must be of type Retry, not 3"),
    ("retry", None, "retry must be of type Retry, not None"),
    ("outbox", True, "outbox must be of type Outbox, not True"),
    ("on_open", lambda connection: None, "on_open must be an async function"),
    ("on_open", 5, "on_open must be an async function or None: .*, not 5"),
    ("receive", None, "receive must be of type bool, not None"),
    ("random", 7, "random must be of type Random or None, not 7"),
]


@pytest.mark.parametrize(
    ("opening", "name", "value", "text"),
    [
        *((opening, *case) for opening in OPENINGS for case in WRONG),
        *((trioweb.open_client, *case) for case in WRONG_FOR_A_CLIENT),
    ],
)
async def test_wrong_argument_is_named_at_once(
    opening: Callable[..., Any], name: str, value: Any, text: str
) -> None:
    async with no_leaks():
        with pytest.raises((TypeError, ValueError), match=text) as caught:
            async with opening(**{"url": URL, "dial": refuse, name: value}):
                raise AssertionError("the block was entered")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("opening", OPENINGS)
async def test_dial_that_returns_nothing_to_await_is_named(
    autojump_clock: MockClock, opening: Callable[..., Any]
) -> None:
    """It may be any function that passes on what is async, so this is seen when it is called."""
    with pytest.raises(TypeError, match=r"dial must be an async function: .* it returned None"):
        async with opening(URL, dial=lambda host, port: None):
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda client: client.messages(events=5), "messages: events must be of type bool, not 5"),
        (lambda client: client.messages(max_messages=0), r"messages\(max_messages=0\): must be"),
        (lambda client: client.messages(max_messages="x"), r"messages\(max_messages='x'\): must"),
        (lambda client: client.messages(full="x"), r"messages\(full='x'\): must be 'wait'"),
        (lambda client: client.send_nowait(["s3cret"]), "must be str or bytes, not list"),
    ],
)
async def test_wrong_argument_of_a_clients_method_is_named(
    autojump_clock: MockClock, call: Callable[[trioweb.Client], object], text: str
) -> None:
    async with trioweb.open_client(URL, dial=refuse) as client:
        with pytest.raises((TypeError, ValueError), match=text) as caught:
            call(client)
    assert "s3cret" not in str(caught.value)


# TLS.


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that loaded the system's authorities, from none loaded on."""
    made: list[str] = []
    create = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(threading.current_thread().name)
        return create()

    monkeypatch.setattr(ssl, "create_default_context", counted)
    monkeypatch.setattr(_trust, "_context", None)
    return made


@pytest.mark.network
async def test_system_authorities_are_loaded_once_and_not_in_the_event_loop(
    contexts: list[str],
) -> None:
    async def hang_up(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    door = Door()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, hang_up)
        async with trio.open_nursery() as several:

            async def attempt() -> None:
                retry = Retry(initial=1e-6, maximum=1e-6, max_attempts=3)
                with pytest.raises(GaveUp, match="TLS with server:443 failed"):
                    async with open_at(door, "wss://server/", retry=retry) as client:
                        await client.wait_open()

            for _ in range(3):
                several.start_soon(attempt)
        with pytest.raises(ConnectFailed):
            async with trioweb.open_connection("wss://server/", dial=door.dial):
                pass
        nursery.cancel_scope.cancel()
    assert len(door.times) == 10
    assert len(contexts) == 1
    assert contexts[0] != threading.main_thread().name


# What is told of the way.


async def test_timeout_names_the_phase_that_took_too_long(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def hang(*arguments: Any) -> Any:
        await trio.sleep_forever()

    async def last(**options: Any) -> str:
        with pytest.raises(GaveUp) as caught:
            async with trioweb.open_client(
                URL, retry=ONCE, limits=Limits(connect_timeout=3), **options
            ) as client:
                await client.wait_open()
        return str(caught.value.last)

    door = Door()
    nursery.start_soon(door.serve, hang, stay)
    what = "server:80 did not answer within 3 s ({}; Limits.connect_timeout)"
    assert await last(dial=hang) == what.format("connecting")
    assert await last(dial=door.dial) == what.format("opening handshake")
    assert "on_open was not through within 3 s" in await last(dial=door.dial, on_open=hang)
    for name in ("headers", "subprotocols"):
        assert f"{name} was not through within 3 s" in await last(dial=refuse, **{name: hang})


async def test_last_error_is_why_there_is_no_connection_yet(autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(5):
            async with trioweb.open_client(URL, dial=refuse) as client:
                assert client.last_error is None
                await client.wait_open()
    assert "could not connect to server:80" in str(client.last_error)


async def test_failure_to_connect_that_says_nothing_is_told_by_its_kind(
    autojump_clock: MockClock,
) -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise TimeoutError

    with pytest.raises(ConnectFailed, match=r"^could not connect to server:80: TimeoutError$"):
        async with trioweb.open_connection(URL, dial=dial):
            pass
