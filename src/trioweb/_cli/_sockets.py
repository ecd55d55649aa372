"""Where `trioweb serve` listens: on TCP, on a Unix socket, or on what it was started with."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

import trio

from .._protocol._http import format_address
from .._server._inherited import adopt_listener, passed_descriptors
from .._server._listening import open_listeners
from .._server._unix import MODE, open_unix_listener
from ._terminal import UsageError

# Where to listen unless told otherwise: for this machine alone.
_HOST: Final = "127.0.0.1"
_PORT: Final = 8000


async def listen(
    options: argparse.Namespace, environment: MutableMapping[str, str] = os.environ
) -> Sequence[trio.abc.Listener[Any]]:
    """Listen where the options say, and what the service manager has passed on.

    Raises:
        UsageError: that cannot be, or they say several things.
    """
    try:
        passed = passed_descriptors(environment)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    places = {
        "--host or --port": options.host is not None or options.port is not None,
        "--unix": options.unix is not None,
        "--fd": options.fd is not None,
        "sockets that were passed on (LISTEN_FDS)": bool(passed),
    }
    given = [name for name, is_given in places.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: only one of them can say where to listen")
    if options.unix_mode is not None and options.unix is None:
        raise UsageError("--unix-mode needs --unix, the path that it is for")
    if options.unix is not None:
        return await _listen_unix(options.unix, options.unix_mode)
    if descriptors := options.fd or passed:
        return _adopt(descriptors)
    return await _listen_tcp(
        options.host or [_HOST], _PORT if options.port is None else options.port
    )


async def _listen_tcp(hosts: Sequence[str], port: int) -> Sequence[trio.abc.Listener[Any]]:
    try:
        return await open_listeners(port, hosts)
    except OSError as exc:
        raise UsageError(f"{exc.strerror}; choose another --host or --port") from exc
    except UnicodeError as exc:  # a name that no host can have
        where = ", ".join(format_address((host, port)) for host in hosts)
        raise UsageError(f"cannot listen on {where}: {exc}; choose another --host") from exc


async def _listen_unix(path: str, mode: int | None) -> Sequence[trio.abc.Listener[Any]]:
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("--unix: this system has no Unix sockets")
    try:
        return [await open_unix_listener(path, MODE if mode is None else mode)]
    except (OSError, ValueError) as exc:  # the latter for a NUL in it
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{reason}; choose another --unix") from exc


def _adopt(descriptors: Sequence[int]) -> Sequence[trio.abc.Listener[Any]]:
    try:
        return [adopt_listener(descriptor) for descriptor in descriptors]
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot listen: {reason}") from exc


def describe(
    listener: trio.abc.Listener[Any], hosts: Sequence[str] | None, *, secure: bool
) -> tuple[str, str]:
    """Where the server is, as a URL for pages and as the beginning of one for WebSockets."""
    s = "s" if secure else ""
    inner = getattr(listener, "transport_listener", listener)
    assert isinstance(inner, trio.SocketListener)
    name = inner.socket.getsockname()
    if not isinstance(name, tuple):
        path = os.fsdecode(name)
        return f"unix:{path}", f"ws{s}+unix://{path}:"
    # The name that was given, as the certificate may be for that alone.
    address = format_address((hosts[0] if hosts else str(name[0]), int(name[1])))
    return f"http{s}://{address}/", f"ws{s}://{address}"
