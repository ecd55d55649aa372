"""Listening on TCP: on every address of some hosts that this machine has, and on one port.

`trio.open_tcp_listeners` fails where one of several addresses cannot be had, as ::1 of localhost in
most containers, takes another port for each for port 0, and shares none with other processes.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from typing import Final

import trio

from .._protocol._http import format_address

# What says that an address is not one of this machine's, though a name has it.
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
# A port that was free at one address may be taken at another: then another one is tried.
_TRIES: Final = 20
# As many as the system allows: when everybody comes back at once, nobody should be turned away.
BACKLOG: Final = 0xFFFF


async def open_listeners(
    port: int, hosts: Iterable[str | None], *, reuse_port: bool = False
) -> list[trio.SocketListener]:
    """Listen on *port* at all addresses of *hosts*; None is all of this machine.

    Args:
        reuse_port: other processes of the same user may listen there, too, and the kernel gives
            each of them a share.

    Raises:
        OSError: a port is taken, or of the addresses there is none; its text says which.  Nothing
            is left open.
    """
    addresses: dict[str, None] = {}
    for host in hosts:
        try:
            found = await trio.socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as exc:
            raise socket.gaierror(exc.errno, _complaint(host or "", port, exc)) from exc
        for *_, address in found:
            addresses[str(address[0])] = None
    for _ in range(_TRIES - 1):
        try:
            return await _listen(port, addresses, reuse_port)
        except OSError as exc:
            if port or exc.errno != errno.EADDRINUSE:
                raise
    return await _listen(port, addresses, reuse_port)


async def _listen(
    port: int, addresses: Iterable[str], reuse_port: bool
) -> list[trio.SocketListener]:
    listeners: list[trio.SocketListener] = []
    absent: OSError | None = None
    try:
        for address in addresses:
            try:
                listener = await _bind(address, port, reuse_port)
            except OSError as exc:
                error = OSError(exc.errno, _complaint(address, port, exc))
                error.__cause__ = exc
                if exc.errno not in _ABSENT:
                    raise error from exc
                absent = error
            else:
                listeners.append(listener)
                port = port or int(listener.socket.getsockname()[1])
        if absent is not None and not listeners:
            raise absent
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _bind(address: str, port: int, reuse_port: bool) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = trio.socket.socket(family)
    try:
        if sys.platform != "win32":  # where the option lets another program take the port away
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 has sockets of its own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((address, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


def _complaint(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {format_address((host, port))}: {error.strerror}"
