"""Redirects: where they lead, what may go there, and that both openings do the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.client.support import ONCE, Door, Serve, answer, answer_pings, stay
from trioweb import GaveUp, HandshakeFailed, HandshakeRejected, OpenFailed
from trioweb._client._redirects import Trail, Visit, redirect
from trioweb._protocol._url import parse_url
from trioweb.testing import RawPeer

Opening = Callable[..., AbstractAsyncContextManager[object]]


@asynccontextmanager
async def open_client_once(url: str, **options: Any) -> AsyncGenerator[trioweb.Client]:
    """A client that tells why there is no connection as `open_connection` does."""
    try:
        async with trioweb.open_client(url, retry=ONCE, **options) as client:
            await client.wait_open()
            assert client.statistics().attempts == 1
            yield client
    except GaveUp as exc:
        raise exc.last from exc.last.__cause__


@pytest.fixture(params=[trioweb.open_connection, open_client_once])
def opening(request: pytest.FixtureRequest) -> Any:
    return request.param


async def told(door: Door, opening: Opening, *turns: Serve, **options: Any) -> OpenFailed:
    """Why there is no connection to a server that does *turns*."""
    url = options.pop("url", "ws://server/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve, *turns)
        with pytest.raises(OpenFailed) as caught:
            async with opening(url, dial=door.dial, **options):
                raise AssertionError("the block was entered")
        nursery.cancel_scope.cancel()
    return caught.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_followed(
    nursery: trio.Nursery, autojump_clock: MockClock, opening: Opening, status: int
) -> None:
    heads = []

    async def accept(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        heads.append(peer.head)
        await answer_pings(peer)

    door = Door()
    nursery.start_soon(door.serve, answer(status, location="/b?c=d"), accept)
    headers = {"Authorization": "Bearer t"}
    async with opening("ws://server/a", dial=door.dial, subprotocols=["x"], headers=headers):
        pass
    assert door.asked == [("server", 80)] * 2
    assert heads[0].startswith(b"GET /b?c=d HTTP/1.1\r\nHost: server\r\n")
    assert b"Sec-WebSocket-Protocol: x\r\n" in heads[0]
    assert b"Authorization: Bearer t\r\n" in heads[0]


async def test_nothing_of_the_users_goes_to_another_origin(
    nursery: trio.Nursery, autojump_clock: MockClock, opening: Opening
) -> None:
    """No list of names stands for "secret": each header and subprotocol may be one."""
    heads = []

    async def accept(stream: trio.abc.Stream) -> None:
        peer = await RawPeer.accept(stream)
        heads.append(peer.head)
        await answer_pings(peer)

    door = Door()
    nursery.start_soon(door.serve, answer(302, location="http://other:81/b?c=d"), accept)
    names = ("Cookie", "Proxy-Authorization", "X-Api-Key", "User-Agent")
    headers = dict.fromkeys(names, "s3cret")
    async with opening(
        "ws://ada:s3cret@server/?t=s3cret",
        dial=door.dial,
        headers=headers,
        subprotocols=["token.s3cret"],
    ):
        pass
    assert door.asked == [("server", 80), ("other", 81)]
    assert heads[0].startswith(b"GET /b?c=d HTTP/1.1\r\nHost: other:81\r\n")
    assert b"s3cret" not in heads[0] and b"Authorization" not in heads[0]
    assert b"\r\nUser-Agent: trioweb/" in heads[0]


async def test_other_statuses_are_no_redirects(autojump_clock: MockClock, opening: Opening) -> None:
    door = Door()
    error = await told(door, opening, answer(300, location="/other?key=s3cret"))
    assert isinstance(error, HandshakeRejected)
    assert "HTTP status 300, to /other?…" in str(error)
    assert len(door.times) == 1


async def test_no_redirect_is_followed_if_none_is_wanted_and_the_error_names_the_location(
    autojump_clock: MockClock, opening: Opening
) -> None:
    door = Door()
    error = await told(door, opening, answer(302, location="ws://a:b@new/x?k=s3cret"), redirects=0)
    assert isinstance(error, HandshakeRejected)
    assert str(error).endswith("HTTP status 302, to ws://…@new/x?…")
    assert len(door.times) == 1


async def test_redirects_end(autojump_clock: MockClock, opening: Opening) -> None:
    door = Door()
    turns = [answer(302, location=f"/{n}?k=s3cret") for n in range(7)]
    error = await told(door, opening, *turns)
    assert isinstance(error, HandshakeFailed)
    assert str(error) == ("redirected more than 5 times (redirects), at last to ws://server/5?…")
    assert isinstance(error.__cause__, HandshakeRejected)
    assert len(door.times) == 6


async def test_as_many_redirects_are_followed_as_is_said(
    nursery: trio.Nursery, autojump_clock: MockClock, opening: Opening
) -> None:
    door = Door()
    turns: list[Serve] = [*(answer(302, location=f"/{n}") for n in range(7)), stay]
    nursery.start_soon(door.serve, *turns)
    async with opening("ws://server/", dial=door.dial, redirects=7):
        pass


@pytest.mark.parametrize("locations", [["/"], ["/a", "/b", "/"], ["ws://other/", "ws://server/"]])
async def test_loop_of_redirects_is_told(
    autojump_clock: MockClock, opening: Opening, locations: list[str]
) -> None:
    door = Door()
    error = await told(door, opening, *(answer(302, location=each) for each in locations))
    assert isinstance(error, HandshakeFailed)
    assert str(error) == "redirected in a loop, back to ws://server/"
    assert len(door.times) == len(locations)


async def test_timeout_names_the_host_that_was_redirected_to(
    autojump_clock: MockClock, opening: Opening
) -> None:
    async def hang(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    door = Door()
    error = await told(door, opening, answer(302, location="ws://other:81/"), hang)
    assert str(error) == (
        "other:81 did not answer within 10 s (opening handshake; Limits.connect_timeout)"
    )


async def test_failure_behind_a_redirect_has_a_note_that_says_so(
    autojump_clock: MockClock, opening: Opening
) -> None:
    """A token that did not go along is missed at the other origin alone."""
    turns = answer(302, location="ws://other:81/?k=s3cret"), answer(401)
    error = await told(Door(), opening, *turns, headers={"Authorization": "Bearer t"})
    assert isinstance(error, HandshakeRejected)
    assert error.__notes__ == [
        "redirected from ws://server/ to ws://other:81/?…, another origin, where no header of "
        "yours went along"
    ]
    turns = answer(302, location="/b"), answer(404)
    error = await told(Door(), opening, *turns, headers={"Authorization": "Bearer t"})
    assert error.__notes__ == ["redirected from ws://server/ to ws://server/b"]
    error = await told(Door(), opening, answer(404))
    assert not hasattr(error, "__notes__")


def visit(url: str, *headers: tuple[str, str], subprotocols: tuple[str, ...] = ()) -> Visit:
    return Visit(parse_url(url), headers, subprotocols)


@pytest.mark.parametrize(
    ("location", "resource", "asked"),
    [
        ("/x", "/x", ("server", 80)),
        ("x", "/a/x", ("server", 80)),
        ("../x", "/x", ("server", 80)),
        ("?q=1", "/a/b?q=1", ("server", 80)),
        ("", "/a/b?c", ("server", 80)),
        ("//other/x", "/x", ("other", 80)),
        ("ws://other:9/x", "/x", ("other", 9)),
        ("HTTP://other/x#fragment", "/x", ("other", 80)),
        ("HTTPS://server/x", "/x", ("server", 443)),
    ],
)
def test_redirect_leads_where_the_location_says(
    location: str, resource: str, asked: tuple[str, int]
) -> None:
    found = redirect(visit("ws://server/a/b?c"), location).target
    assert found.resource == resource
    assert (found.host, found.port) == asked
    assert found.secure is location.startswith("HTTPS")


@pytest.mark.parametrize("location", ["/b", "//[fe80::1]:81/b", "ws://[fe80::1]:81/b"])
def test_redirect_to_the_same_address_stays_on_its_link(location: str) -> None:
    """The server cannot name the link, which only we know (RFC 6874 section 4)."""
    old = visit("ws://[fe80::1%25eth0]:81/a", ("X-Token", "1"))
    new = redirect(old, location)
    assert (new.target.host, new.target.resource) == ("fe80::1%eth0", "/b")
    assert new.headers == old.headers


@pytest.mark.parametrize(
    "location",
    ["ws://", "mailto:x@y", "http://[::1", "http://host:99999/", "/with space", "file:///etc"],
)
def test_redirect_to_nowhere_is_a_failed_handshake(location: str) -> None:
    """Invariant 7: only our errors leave."""
    with pytest.raises(HandshakeFailed, match="redirected to nowhere"):
        redirect(visit("ws://server/"), location)


def test_no_secret_of_a_location_is_told() -> None:
    with pytest.raises(HandshakeFailed) as caught:
        redirect(visit("ws://server/"), "mailto://a:s3cret@b/?k=s3cret")
    assert str(caught.value) == "redirected to nowhere: 'mailto://…@b/?…'"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("location", ["http://server/?k=s3cret", "ws://server/?k=s3cret"])
def test_redirect_from_tls_to_plain_tcp_is_never_followed(location: str) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        redirect(visit("wss://server/"), location)
    assert str(caught.value) == "redirected from TLS to plain TCP, to ws://server/?…"
    assert redirect(visit("wss://server/"), "//server:80/").target.secure


@pytest.mark.parametrize(
    ("location", "same"),
    [
        ("/x", True),
        ("ws://server/x", True),
        ("http://SERVER:80/x", True),
        ("wss://server/x", True),
        ("https://server:8443/x", True),
        ("ws://other/x", False),
        ("wss://other/x", False),
        ("ws://server:81/x", False),
        ("ws://server.evil/x", False),
    ],
)
def test_what_the_user_gave_goes_to_the_same_origin_and_its_tls_alone(
    location: str, same: bool
) -> None:
    given = [("X-Api-Key", "k"), ("cookie", "c=1")]
    old = visit("ws://user:pw@server/", *given, subprotocols=("x",))
    new = redirect(old, location)
    assert list(new.headers) == (given if same else [])
    assert new.subprotocols == (("x",) if same else ())
    assert new.target.headers == (old.target.headers if same else ())


def test_what_was_left_behind_does_not_come_back_with_a_second_redirect() -> None:
    old = visit("ws://user:pw@server/", ("X-Api-Key", "k"), subprotocols=("x",))
    trail = Trail(old, 5)
    for location in ("ws://other/", "ws://server/again"):
        trail.follow(HandshakeRejected(302, [("location", location)]))
    assert trail.visit == visit("ws://server/again")


def test_credentials_of_the_location_replace_those_of_the_url() -> None:
    found = redirect(visit("ws://old:pw@server/"), "ws://new:pw@server/").target
    assert found.headers == parse_url("ws://new:pw@server/").headers


def test_authorization_of_the_user_is_the_only_one_whatever_the_location_says() -> None:
    found = redirect(visit("ws://server/", ("authorization", "Bearer t")), "ws://u:pw@server/")
    assert found.target.headers == ()
    assert found.headers == (("authorization", "Bearer t"),)


# Unix sockets.


def test_redirect_of_a_unix_socket_stays_there_under_its_own_name_alone() -> None:
    old = Visit(parse_url("ws+unix:///run/s:/a"), (("Token", "x"),), ())
    for location in "/b", "http://localhost/b", "ws://LOCALHOST:80/b":
        new = redirect(old, location)
        assert (new.target.host, new.target.resource) == ("/run/s", "/b")
        assert new.headers == old.headers
    for location in "http://localhost:8000/b", "http://elsewhere/b":
        new = redirect(old, location)
        assert not new.target.is_unix
        assert new.headers == ()


@pytest.mark.parametrize("old", ["ws://server/", "ws+unix:///run/other:/", "ws://localhost/"])
def test_no_redirect_leads_to_a_unix_socket(old: str) -> None:
    """A server must not say which of this machine's sockets are spoken to."""
    with pytest.raises(HandshakeFailed, match=r"ws\+unix:///run/docker.sock:/"):
        redirect(Visit(parse_url(old), (), ()), "ws+unix:///run/docker.sock:/")
