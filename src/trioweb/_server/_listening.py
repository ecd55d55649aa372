"""Listening: on every address of some hosts that this machine has, and on one port.

`trio.open_tcp_listeners` fails where one of several addresses cannot be had, as ::1 of localhost in
most containers, and for port 0 takes another port for each.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Final

import trio

# What says that an address is not one of this machine's, though a name has it.
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
# A port that was free at one address may be taken at another: then another one is tried.
_TRIES: Final = 20


async def open_listeners(port: int, hosts: Iterable[str | None]) -> list[trio.SocketListener]:
    """Listen on *port* at all addresses of *hosts*; None is all of this machine.

    Raises:
        OSError: a port is taken, or of the addresses there is none; nothing is left open.
    """
    addresses: dict[str, None] = {}
    for host in hosts:
        for *_, address in await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            addresses[str(address[0])] = None
    for _ in range(_TRIES - 1):
        try:
            return await _listen(port, addresses)
        except OSError as exc:
            if port or exc.errno != errno.EADDRINUSE:
                raise
    return await _listen(port, addresses)


async def _listen(port: int, addresses: Iterable[str]) -> list[trio.SocketListener]:
    listeners: list[trio.SocketListener] = []
    absent: OSError | None = None
    try:
        for address in addresses:
            try:
                [listener] = await trio.open_tcp_listeners(port, host=address)
            except OSError as exc:
                if exc.errno not in _ABSENT:
                    raise
                absent = exc
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
