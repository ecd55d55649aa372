"""Listening on sockets that another process has opened, a service manager for instance.

Source: sd_listen_fds(3).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping
from typing import Final

import trio

_FIRST_DESCRIPTOR: Final = 3
_MAX_DESCRIPTORS: Final = 1024


def adopt_listener(descriptor: int) -> trio.SocketListener:
    """Listen on *descriptor*, which no program that is started from here gets.

    Raises:
        OSError: it is no listening stream socket; its text has the number.  It stays open.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise OSError(exc.errno, f"descriptor {descriptor}: {exc.strerror}") from exc
    try:
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.type != socket.SOCK_STREAM or not is_listening:
            text = f"descriptor {descriptor}: is a socket, but no listening stream socket"
            raise OSError(errno.EINVAL, text)
        os.set_inheritable(descriptor, False)
    except OSError:
        sock.detach()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def passed_descriptors(environment: MutableMapping[str, str]) -> range:
    """The descriptors that *environment* says were passed to this process, and to no other; it
    says so no more, lest a program that is started from here believes it.

    Raises:
        ValueError: their number is none.
    """
    process, count = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()):
        return range(0)
    if not (count.isascii() and count.isdecimal()) or int(count) > _MAX_DESCRIPTORS:
        raise ValueError(f"LISTEN_FDS={count!r} is not a number of descriptors")
    return range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
