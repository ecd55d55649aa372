"""API keys, and the keys that tokens are checked with: where the command line finds them.

No option takes one itself, since whoever may list this machine's processes would see it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from .._access import Access
from .._keys import MIN_KEY_CHARS, BadKeys, parse_keys
from .._topic_server._tokens import MIN_SECRET_BYTES, Key, Tokens
from ._files import read_text
from ._rereading import Part
from ._terminal import UsageError

_PEM: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


def _lines(option: str, path: str | None, variable: str, min_chars: int) -> tuple[bytes, ...]:
    """The keys in the file of *option* and in the environment's *variable*."""
    keys: tuple[bytes, ...] = ()
    text = os.environ.get(variable)
    try:
        if path is not None:
            keys += parse_keys(read_text(option, path), f"{option} {path}", min_chars=min_chars)
        if text is not None:
            keys += parse_keys(text, variable, min_chars=min_chars)
    except BadKeys as exc:
        raise UsageError(str(exc)) from None
    return keys


def api_keys(options: argparse.Namespace) -> tuple[bytes, ...]:
    """Those of the file and the environment; () if neither is there.

    Raises:
        UsageError: they cannot be had.
    """
    return _lines("--api-key-file", options.api_key_file, "TRIOWEB_API_KEY", MIN_KEY_CHARS)


def admin_keys(options: argparse.Namespace) -> tuple[bytes, ...]:
    """Likewise those of admins."""
    return _lines("--admin-key-file", options.admin_key_file, "TRIOWEB_ADMIN_KEY", MIN_KEY_CHARS)


def _token_keys(options: argparse.Namespace) -> list[Key]:
    option, path = "--token-secret-file", options.token_secret_file
    keys: list[Key] = [*_lines(option, path, "TRIOWEB_TOKEN_SECRET", MIN_SECRET_BYTES)]
    if options.token_key_file is not None:
        text = read_text("--token-key-file", options.token_key_file)
        # A line that is none would be a secret, and a public one.
        found = [match[0] for match in _PEM.finditer(text)]
        if not found:
            raise UsageError(
                f"--token-key-file {options.token_key_file}: no public key (PEM) in it"
            )
        keys += found
    return keys


@contextmanager
def _telling(options: argparse.Namespace) -> Iterator[None]:
    """Tell what is wrong with the keys of tokens as the user can mend it."""
    try:
        yield
    except ValueError as exc:
        # A secret that is good for a file is good, so that it was this.
        why = str(exc).removeprefix("Tokens(keys=…): ")
        raise UsageError(f"--token-key-file {options.token_key_file}: {why}") from None
    except ImportError as exc:
        raise UsageError(str(exc)) from None


def tokens(options: argparse.Namespace) -> Tokens | None:
    """What tokens are checked with; None if there is no key for it.

    Raises:
        UsageError: keys cannot be had.
    """
    keys = _token_keys(options)
    asked = {"audience": options.token_audience, "issuer": options.token_issuer}
    if not keys:
        for name, value in asked.items():
            # Whoever checks tokens by it would let in everybody.
            if value is not None:
                raise UsageError(f"--token-{name} needs --token-secret-file or --token-key-file")
        return None
    with _telling(options):
        return Tokens(keys, **asked)


def again(access: Access) -> list[Part]:
    """What of them can be read again, and is put into *access* then."""

    def load_api_keys(options: argparse.Namespace) -> Callable[[], None]:
        return partial(setattr, access, "keys", api_keys(options))

    def load_token_keys(options: argparse.Namespace) -> Callable[[], None]:
        keys = _token_keys(options)
        if access.tokens is None or not keys:
            raise UsageError("whether tokens are needed: takes a restart")
        with _telling(options):
            Tokens(keys)
        return partial(access.tokens.replace_keys, keys)

    return [
        Part("API keys", ("api_key_file",), load_api_keys),
        Part("keys of tokens", ("token_secret_file", "token_key_file"), load_token_keys),
    ]
