"""What an error may show of a URL."""

from __future__ import annotations

import pytest

from trioweb._redaction import shown_url, without_secrets


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("for url 'wss://ada:pw@host:1/a?token=x&y=z#f'", "for url 'wss://…@host:1/a?…'"),
        ("https://host/?a=1 and HTTP://u@h/", "https://host/?… and HTTP://…@h/"),
        ("what? no: a@b", "what? no: a@b"),
        ("ws://host/path", "ws://host/path"),
    ],
)
def test_without_secrets_keeps_what_is_none(text: str, told: str) -> None:
    assert without_secrets(text) == told


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://host/path", "ws://host/path"),
        ("ws://a:b@c@host/p", "ws://…@host/p"),
        ("ws://a:b/c@host/p", "ws://…@host/p"),
        ("ws://a:b?c@host/p?q", "ws://…"),
        ("ws://host/p?mail=a@b", "ws://…"),
        ("a:b@host", "…@host"),
        ("//a:b@host/?q", "//…@host/?…"),
        ("/@ada/x?q", "/@ada/x?…"),
        ("?q", "?…"),
        ("", ""),
    ],
)
def test_shown_url_shows_no_password_and_no_query(url: str, shown: str) -> None:
    assert shown_url(url) == shown
