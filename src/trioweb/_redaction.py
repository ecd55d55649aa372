"""What an error or a record of the log may show of a URL, and of the body of a response: no secret,
and of a page nothing.
"""

from __future__ import annotations

import re
from typing import Final

# So much of a response's body stands in the text of an error.
_WORDS_BYTES: Final = 200
_URL: Final = r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"]+"
_URL_START: Final = r"(?i)([a-z][a-z0-9+.-]*:)?//"


def without_secrets(text: str) -> str:
    """*text* with each URL in it as `shown_url` has it."""
    return re.sub(_URL, lambda url: shown_url(url[0]), text)


def shown_url(url: str) -> str:
    """*url*, absolute or not, as an error may show it: without user, password and query.

    It may be a bad one: a password with a "/" or "?" in it, which ends a host for everybody else.
    """
    match = re.match(_URL_START, url)
    start = match[0] if match else ""
    rest = url[len(start) :]
    user, at, host = rest.rpartition("@")
    if at and (start or not user.startswith("/")):
        rest = "…" if "?" in user or "#" in user else f"…@{host}"
    path, mark, _ = rest.partition("?")
    return f"{start}{path}{'?…' if mark else ''}"


def first_words(body: bytes) -> str:
    """What a person can read at the start of a response's *body*, on one line; "" for a page."""
    text = " ".join(body[:_WORDS_BYTES].decode("utf-8", "replace").split())
    if text.startswith("<") or not text.isprintable():
        return ""
    return text + ("…" if len(body) > _WORDS_BYTES else "")
