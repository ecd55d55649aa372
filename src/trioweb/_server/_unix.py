"""Listening on a Unix socket, whose path is a thing of its own: it outlives the process that made
it, unless somebody removes it, and stands in the way of the next one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Final

import trio

from ._listening import BACKLOG

# Who may connect is for the directory to say, and for these: the owner and the group.
MODE: Final = 0o660


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """Listens on a Unix socket, and removes its path at the end if that is still its own.

    Attributes:
        transport_listener: the socket's.
    """

    def __init__(self, sock: trio.socket.SocketType, path: str) -> None:
        self.transport_listener = trio.SocketListener(sock)
        self._path: str | None = path
        self._identity = _identity(path)

    async def accept(self) -> trio.SocketStream:
        return await self.transport_listener.accept()

    async def aclose(self) -> None:
        path, self._path = self._path, None
        # NOTE: before the socket is closed, which keeps its file's number from being another's.
        if path is not None:
            with suppress(OSError):
                if _identity(path) == self._identity:
                    os.unlink(path)
        await self.transport_listener.aclose()


async def open_unix_listener(path: str, mode: int = MODE) -> UnixListener:
    """Listen on the Unix socket *path*, which those may connect to whom *mode* lets write there.

    A socket that is left over there, where nobody listens any more, is removed.

    Raises:
        OSError: it cannot be had; its text has the path.  What stands there stays.
    """
    try:
        _make_way(path)
        sock = trio.socket.socket(socket.AF_UNIX)
        try:
            await sock.bind(path)
            # Before anybody can connect.
            os.chmod(path, mode)
            sock.listen(BACKLOG)
            return UnixListener(sock, path)
        except BaseException:
            sock.close()
            raise
    except OSError as exc:
        reason = exc.strerror or str(exc)  # a path that is too long has no errno
        raise OSError(exc.errno or errno.EINVAL, f"cannot listen on {path}: {reason}") from exc


def _make_way(path: str) -> None:
    """Remove a socket at *path* on which nobody listens."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(info.st_mode):
        raise FileExistsError(errno.EEXIST, "there is something there that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        # One that is full does not refuse, and would be waited for.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _identity(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_dev, info.st_ino
