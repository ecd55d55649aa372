"""Where `trioweb serve` listens: on TCP, on a Unix socket, or on what it was started with."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from typing import Any, Final

import trio

from .._nursery import protected_block
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
    return await _listen(options, _passed(options, environment))


def _passed(options: argparse.Namespace, environment: MutableMapping[str, str]) -> Sequence[int]:
    """The descriptors of sockets that were passed on, if any.

    Raises:
        UsageError: it is said several times where to listen.
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
    return options.fd or passed


async def _listen(
    options: argparse.Namespace, passed: Sequence[int]
) -> Sequence[trio.abc.Listener[Any]]:
    if options.unix is not None:
        return await _listen_unix(options.unix, options.unix_mode)
    if passed:
        return _adopt(passed)
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


class Shares:
    """Where the workers of one server listen.

    Sockets of TCP that were opened here are one for each worker: the kernel deals the connections
    out, and what it has dealt to a worker that ends waits for the next one there.  Others are the
    same for all.
    """

    def __init__(self, sets: Sequence[Sequence[trio.abc.Listener[Any]]]) -> None:
        self._sets = sets

    @property
    def listener(self) -> trio.abc.Listener[Any]:
        """One of them."""
        return self._sets[0][0]

    def of(self, place: int) -> list[int]:
        """The descriptors for the worker at *place*."""
        own = self._sets[place % len(self._sets)]
        return [_socket_of(listener).fileno() for listener in own]

    async def give_up(self) -> None:
        """Keep nothing for workers to come: what waits for one that ends goes to the others."""
        if len(self._sets) > 1:
            await self.aclose()

    async def aclose(self) -> None:
        for listeners in self._sets:
            for listener in listeners:
                await trio.aclose_forcefully(listener)


@protected_block
async def listen_for_workers(
    options: argparse.Namespace, environment: MutableMapping[str, str] = os.environ
) -> AsyncGenerator[Shares]:
    """Listen for as many workers as the options say, for the length of the block; see `listen`."""
    passed = _passed(options, environment)
    sets = [await _listen(options, passed)]
    try:
        # Elsewhere the last one gets everything, or there is nothing of the kind.
        if sys.platform == "linux" and not passed and options.unix is None:
            addresses = [_socket_of(listener).getsockname() for listener in sets[0]]
            # Only now, as somebody else's socket with that option would have been no obstacle.
            for listener in sets[0]:
                _socket_of(listener).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for _ in range(options.workers - 1):
                hosts = [address[0] for address in addresses]
                sets.append(await open_listeners(addresses[0][1], hosts, reuse_port=True))
        yield Shares(sets)
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            await Shares(sets).aclose()


def _socket_of(listener: trio.abc.Listener[Any]) -> trio.socket.SocketType:
    inner = getattr(listener, "transport_listener", listener)
    assert isinstance(inner, trio.SocketListener)
    return inner.socket


def announce(listener: trio.abc.Listener[Any], hosts: list[str] | None, *, secure: bool) -> None:
    """Say where to go; the URL stands alone on standard output, for scripts."""
    url, prefix = describe(listener, hosts, secure=secure)
    print(url, flush=True)
    print(
        f"Every path is a topic, for browsers and for {prefix}/… alike. "
        "Ctrl-C closes softly, a second one at once.",
        file=sys.stderr,
        flush=True,
    )


def describe(
    listener: trio.abc.Listener[Any], hosts: Sequence[str] | None, *, secure: bool
) -> tuple[str, str]:
    """Where the server is, as a URL for pages and as the beginning of one for WebSockets."""
    s = "s" if secure else ""
    name = _socket_of(listener).getsockname()
    if not isinstance(name, tuple):
        path = os.fsdecode(name)
        return f"unix:{path}", f"ws{s}+unix://{path}:"
    # The name that was given, as the certificate may be for that alone.
    address = format_address((hosts[0] if hosts else str(name[0]), int(name[1])))
    return f"http{s}://{address}/", f"ws{s}://{address}"
