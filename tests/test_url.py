"""Where a WebSocket URL leads, and what is wrong with it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioweb._protocol._url import parse_url
from trioweb._redaction import shown_url

URLS: Mapping[str, tuple[str, tuple[bool, str, int, str, str]]] = {
    "the least": ("ws://host", (False, "host", 80, "host", "/")),
    "TLS": ("wss://host", (True, "host", 443, "host", "/")),
    "in capitals": ("WSS://HOST/Path", (True, "host", 443, "host", "/Path")),
    "a port": ("ws://host:8000/", (False, "host", 8000, "host:8000", "/")),
    "its own default port": ("wss://host:443/", (True, "host", 443, "host", "/")),
    "the other default port": ("ws://host:443/", (False, "host", 443, "host:443", "/")),
    "an empty port": ("ws://host:/a", (False, "host", 80, "host", "/a")),
    "path and query": ("ws://host/a/b?c=d&e", (False, "host", 80, "host", "/a/b?c=d&e")),
    "a query alone": ("ws://host?c=d", (False, "host", 80, "host", "/?c=d")),
    "an empty query": ("ws://host/?", (False, "host", 80, "host", "/")),
    "question marks": ("ws://host/a??b=?", (False, "host", 80, "host", "/a??b=?")),
    "two slashes": ("ws://host//a", (False, "host", 80, "host", "//a")),
    "percent-encoded": (
        "ws://host/a%20b%2f?%C3%A9",
        (False, "host", 80, "host", "/a%20b%2f?%C3%A9"),
    ),
    "not encoded": ("ws://host/é?ü=|", (False, "host", 80, "host", "/%C3%A9?%C3%BC=%7C")),
    "IPv4": ("ws://127.0.0.1:81", (False, "127.0.0.1", 81, "127.0.0.1:81", "/")),
    "IPv6": ("ws://[::1]/", (False, "::1", 80, "[::1]", "/")),
    "IPv6 and a port": (
        "ws://[2001:DB8::1]:81",
        (False, "2001:db8::1", 81, "[2001:db8::1]:81", "/"),
    ),
    "IPv6 on a link": (
        "ws://[fe80::1%25eth0]:81",
        (False, "fe80::1%eth0", 81, "[fe80::1]:81", "/"),
    ),
    "IPv6 on a link, as people write it": (
        "wss://[FE80::1%Wlan-0.1]/",
        (True, "fe80::1%Wlan-0.1", 443, "[fe80::1]", "/"),
    ),
    "a name beyond ASCII": (
        "ws://bücher.example/",
        (False, "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/"),
    ),
    "an encoded name": (
        "ws://xn--strae-oqa.example:81/",
        (False, "xn--strae-oqa.example", 81, "xn--strae-oqa.example:81", "/"),
    ),
    "an underscore": ("ws://my_service:81", (False, "my_service", 81, "my_service:81", "/")),
    "a Unix socket": (
        "ws+unix:///run/a%3Ab%20c.sock:/chat:1?q=/:",
        (False, "/run/a:b c.sock", 0, "localhost", "/chat:1?q=/:"),
    ),
    "a Unix socket alone": ("ws+unix:///s", (False, "/s", 0, "localhost", "/")),
    "a Unix socket and a query": ("ws+unix:///s:?q", (False, "/s", 0, "localhost", "/?q")),
    "a Unix socket and TLS": ("WSS+UNIX:///S:/", (True, "/S", 0, "localhost", "/")),
    "the root's dot": ("ws://host.example./", (False, "host.example.", 80, "host.example.", "/")),
}


@pytest.mark.parametrize(("url", "expected"), URLS.values(), ids=URLS)
def test_parse_url_takes_it_apart(url: str, expected: tuple[bool, str, int, str, str]) -> None:
    target = parse_url(url)
    found = (target.secure, target.host, target.port, target.authority, target.resource)
    assert found == expected
    assert target.headers == ()


@pytest.mark.parametrize("zone", ["%", "%25", "%25a%0d", "%25a b", "%25%2f"])
def test_parse_url_refuses_a_zone_that_is_none(zone: str) -> None:
    with pytest.raises(ValueError, match=r"is not a zone|must not contain spaces|not appear to be"):
        parse_url(f"ws://[fe80::1{zone}]/")


def test_url_of_a_unix_socket_is_told_without_its_query() -> None:
    target = parse_url("wss+unix:///run/s:/chat?token=SECRET")
    assert target.url == "wss+unix:///run/s:/chat?…"
    assert target.name == "localhost"


def test_name_of_a_server_has_no_zone() -> None:
    """For its certificate: which link that is, only we know (RFC 6874 section 4)."""
    assert parse_url("wss://[fe80::1%25eth0]/").name == "fe80::1"
    assert parse_url("wss://host/").name == "host"


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [("me:secret", "me:secret"), ("me", "me:"), ("a%40b:%3A%2F%C3%BC", "a@b::/ü"), (":x", ":x")],
)
def test_parse_url_makes_basic_authorization_of_user_and_password(
    userinfo: str, credentials: str
) -> None:
    target = parse_url(f"wss://{userinfo}@host:444/a")
    [(name, value)] = target.headers
    assert name == "Authorization"
    assert base64.b64decode(value.removeprefix("Basic ")).decode() == credentials
    assert (target.authority, target.resource) == ("host:444", "/a")
    assert "secret" not in repr(target)
    assert value not in repr(target)


_BAD_URLS: Mapping[str, tuple[str, str]] = {
    "nothing": ("", "must start with ws:// or wss://"),
    "no scheme": ("host/path", "must start with ws:// or wss://"),
    "host and port": ("localhost:8000", "must start with ws:// or wss://"),
    "HTTP": ("http://host/", "must start with ws:// or wss://"),
    "a scheme and nothing": ("ws:", "has no host"),
    "no slashes": ("ws:host", "has no host"),
    "no host": ("ws:///path", "has no host"),
    "only a port": ("ws://:80/", "has no host"),
    "only a user": ("ws://me@/", "has no host"),
    "a fragment": ("ws://host/#top", "must not have a fragment"),
    "an empty fragment": ("ws://host/#", "must not have a fragment"),
    "port 0": ("ws://host:0/", "the port must be from 1 to 65535"),
    "port 65536": ("ws://host:65536/", "0-65535"),
    "a port with a sign": ("ws://host:-1/", "Port"),
    "a port in words": ("ws://host:http/", "Port"),
    "a bracket": ("ws://[::1/", "Invalid IPv6 URL"),
    "a space": ("ws://host/a b", "must not contain spaces"),
    "a space before": (" ws://host/", "must not contain spaces"),
    "a second line": ("ws://host/a\r\nX: y", "control characters"),
    "a tab": ("ws://ho\tst/", "control characters"),
    "NUL": ("ws://host/\0", "control characters"),
    "DEL": ("ws://host/\x7f", "control characters"),
    "a surrogate": ("ws://host/\udc80", "surrogates"),
    "an empty label": ("ws://a..b/", "'a..b' is not a host name"),
    "a label too long": (f"ws://{'a' * 64}.example/", "is not a host name"),
    "a name that is none": ("ws://\u00ad/", "is not a host name"),
    "a name with a space in it": ("ws://\u00a8/", "is not a host name"),
    "a Unix socket of a host": ("ws+unix://run/s:/", "with an absolute path"),
    "a Unix socket with a user": ("ws+unix://me@/run/s:/", "with an absolute path"),
    "a Unix socket without a path": ("ws+unix://", "with an absolute path"),
    "a Unix socket at the root": ("ws+unix:///:/chat", "with an absolute path"),
    "a Unix socket with NUL": ("ws+unix:///a%00b:/", "with an absolute path"),
    "a Unix socket and no slash": ("ws+unix:///s:chat", "must begin with /"),
    "a Unix socket and a fragment": ("ws+unix:///s:/#top", "must not have a fragment"),
    "a name in brackets": ("ws://<host>/", "'<host>' is not a host name"),
}


@pytest.mark.parametrize(("url", "text"), _BAD_URLS.values(), ids=_BAD_URLS)
def test_parse_url_says_what_is_wrong_with_it(url: str, text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"url {shown_url(url)!r}: ")) as caught:
        parse_url(url)
    assert text in str(caught.value)


@pytest.mark.parametrize("url", [None, b"ws://host/", 80, ["ws://host/"]])
def test_parse_url_wants_text(url: Any) -> None:
    """What it is instead may be a secret, unless it is a number."""
    with pytest.raises(TypeError, match=r"'ws://host/path', not (None|a bytes|80|a list)$"):
        parse_url(url)


@pytest.mark.parametrize(
    "url", ["ws://a:s3cret/x@host/", "http://a:s3cret@host/?k=s3cret", "ws://a:s3cret?x@host/"]
)
def test_parse_url_shows_no_password_and_no_query(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url ") as caught:
        parse_url(url)
    assert "s3cret" not in str(caught.value)


@given(
    st.text(max_size=30) | st.text(max_size=30).map("ws://h/".__add__) | st.from_regex("ws://.*")
)
@settings(deadline=None)
def test_parse_url_gives_a_request_line_or_a_value_error_whatever_it_is_given(url: str) -> None:
    try:
        target = parse_url(url)
    except ValueError as exc:
        assert repr(shown_url(url)) in str(exc)  # noqa: PT017  either is right
        return
    assert re.fullmatch(r"/[!-~]*", target.resource)
    assert re.fullmatch(r"[!-~]+", target.authority)
    assert 1 <= target.port <= 65535


# What users may ask for.
