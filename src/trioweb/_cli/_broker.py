"""The broker that joins a server with others: where the command line finds it, and its password.

A password stands in a file or in the environment, since whoever may list this machine's processes
sees what stands on a command line.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Final
from urllib.parse import unquote, urlsplit

import trio

from .._topics import Broker
from ._files import read_text
from ._terminal import UsageError

_FILE: Final = "--broker-password-file"
_VARIABLE: Final = "TRIOWEB_BROKER_PASSWORD"
_REST: Final = {
    "broker_password_file": _FILE,
    "broker_sentinel": "--broker-sentinel",
}


def open_broker(options: argparse.Namespace) -> Broker | None:
    """What *options* name; None for none.

    Raises:
        UsageError: it cannot be.
    """
    urls: list[str] = options.broker
    if not urls:
        for name, option in _REST.items():
            if getattr(options, name) is not None:
                raise UsageError(f"{option} needs --broker, which it says more about")
        return None
    has_password = any(urlsplit(url).password is not None for url in urls)
    on_line = hasattr(options.arguments, "broker")
    if has_password and on_line:
        raise UsageError(
            "--broker: whoever lists the processes of this machine sees a password that stands "
            f"here; it may stand in {_FILE}, in {_VARIABLE}, or in a URL in TRIOWEB_BROKER"
        )
    try:
        from ..redis import RedisBroker
    except ImportError as exc:
        raise UsageError(f"--broker: {exc}") from None
    credentials = None
    if _password(options.broker_password_file) is not None:
        users = {urlsplit(url).username or "default" for url in urls}
        if has_password or len(users) > 1:
            raise UsageError(f"{_FILE}: has one password, for one user of a --broker without any")
        credentials = partial(_credentials, unquote(users.pop()), options.broker_password_file)
    try:
        if options.broker_sentinel is not None:
            return RedisBroker.sentinel(
                urls,
                options.broker_sentinel,
                prefix=options.broker_prefix,
                credentials=credentials,
            )
        return RedisBroker(
            urls,
            prefix=options.broker_prefix,
            credentials=credentials,
            generation=options.broker_generation,
        )
    except ValueError as exc:
        why = str(exc).partition(": ")[2]
        raise UsageError(f"--broker: {why}") from None


async def _credentials(user: str, path: str | None) -> tuple[str, str]:
    """What stands there by now, each time that the server is connected to."""
    try:
        password = await trio.to_thread.run_sync(_password, path)
    except UsageError as exc:
        raise OSError(str(exc)) from None
    return user, password or ""


def _password(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(_VARIABLE)
    lines = read_text(_FILE, path).splitlines()
    if len(lines) != 1 or not lines[0]:
        raise UsageError(f"{_FILE} {path}: has to have one line, the password")
    return lines[0]
