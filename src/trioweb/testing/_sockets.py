"""The network under programs that know nothing of it: Trio's socket factory and resolver.

Rules kept here: a task's host is in its context, so that programs of several hosts run side by
side; where no host is installed, everything goes where it went before.  A socket's `fileno` is
never a descriptor's: nobody may write to what belongs to something else.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from ._ends import NetworkStream
    from ._hosts import Host, NetworkListener

# Invalid as -1 is, which to Trio, as to `socket`, says that the socket is closed.
_NO_DESCRIPTOR: Final = -2

_host: Final[ContextVar[Host | None]] = ContextVar("trioweb.testing host", default=None)


@contextmanager
def installed(host: Host) -> Iterator[None]:
    """Let sockets that this task and those that it starts make be *host*'s."""
    factory, resolver = _Factory(), _Resolver()
    # They stay for the whole run: tasks that were begun in the block may outlive it.
    before = trio.socket.set_custom_socket_factory(factory)
    if isinstance(before, _Factory):
        trio.socket.set_custom_socket_factory(before)
    else:
        factory.other = before
        resolver.other = trio.socket.set_custom_hostname_resolver(resolver)
    token = _host.set(host)
    try:
        yield
    finally:
        _host.reset(token)


class _Factory(trio.abc.SocketFactory):
    other: trio.abc.SocketFactory | None = None

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        host = _host.get()
        if host is not None:
            if family != socket.AF_INET or type != socket.SOCK_STREAM:
                raise _error(errno.EAFNOSUPPORT)
            return SimulatedSocket(host)
        if self.other is not None:
            return self.other.socket(family, type, proto)
        return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))


class _Resolver(trio.abc.HostnameResolver):
    other: trio.abc.HostnameResolver | None = None

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        asking = _host.get()
        if asking is not None:
            await trio.lowlevel.checkpoint()
            found = asking.network.find((host or b"localhost").decode(), asking)
            kind = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
            return [(socket.AF_INET, *kind, (found.address, int(port or 0)))]
        arguments = host, port, family, type, proto, flags
        if self.other is not None:
            return await self.other.getaddrinfo(*arguments)
        return await trio.to_thread.run_sync(socket.getaddrinfo, *arguments, abandon_on_cancel=True)

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        asking = _host.get()
        if asking is not None:
            await trio.lowlevel.checkpoint()
            return asking.network.find(sockaddr[0], asking).name, str(sockaddr[1])
        if self.other is not None:
            return await self.other.getnameinfo(sockaddr, flags)
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True
        )


class SimulatedSocket(trio.socket.SocketType):
    """A TCP socket of a host: what Trio's streams and listeners, and most programs, ask of one."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._port = 0
        self._listener: NetworkListener | None = None
        self._stream: NetworkStream | None = None
        self._options: dict[tuple[int, int], Any] = {}
        self._closed = False
        self._shut = False

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __enter__(self) -> SimulatedSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        return self._shut

    def fileno(self) -> int:
        return -1 if self._closed else _NO_DESCRIPTOR

    def close(self) -> None:
        self._closed = True
        for each in (self._listener, self._stream):
            if each is not None:
                each.close()

    def getsockname(self) -> Any:
        known = self._stream or self._listener
        return known.socket.getsockname() if known else (self._host.address, self._port)

    def getpeername(self) -> Any:
        return self._connected().socket.getpeername()

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return int(self._listener is not None)
        return self._options.get((level, optname), 0)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        self._options[level, optname] = value

    async def bind(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._port = address[1]

    def listen(self, backlog: int = 128) -> None:
        self._listener = self._host.listen(self._port, backlog=backlog)

    async def accept(self) -> tuple[trio.socket.SocketType, Any]:
        if self._listener is None:
            raise _error(errno.EINVAL)
        with _as_socket_errors():
            stream = await self._listener.accept()
        accepted = SimulatedSocket(self._host)
        accepted._stream = stream
        return accepted, stream.socket.getpeername()

    async def connect(self, address: Any) -> None:
        if self._stream is not None:
            raise _error(errno.EISCONN)
        stream = await self._host.dial(address[0], address[1])
        if self._closed:
            stream.close()
            raise _error(errno.EBADF)
        self._stream = stream

    async def send(self, buffer: Any, flags: int = 0) -> int:
        with _as_socket_errors():
            return await self._connected().send_some(buffer)

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        with _as_socket_errors():
            return await self._connected().receive_some(bufsize)

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        with memoryview(buffer) as view, view.cast("B") as octets:
            data = await self.recv(nbytes or len(octets), flags)
            octets[: len(data)] = data
            return len(data)

    async def wait_writable(self) -> None:
        with _as_socket_errors():
            await self._connected().wait_send_all_might_not_block()

    def shutdown(self, flag: int) -> None:
        if flag != socket.SHUT_RD:
            self._connected().finish()
            self._shut = True

    def _connected(self) -> NetworkStream:
        if self._closed:
            raise _error(errno.EBADF)
        if self._stream is None:
            raise _error(errno.ENOTCONN)
        return self._stream


@contextmanager
def _as_socket_errors() -> Iterator[None]:
    """Let a stream's errors be those of a socket."""
    try:
        yield
    except trio.ClosedResourceError:
        raise _error(errno.EBADF) from None
    except trio.BrokenResourceError:
        raise _error(errno.ECONNRESET) from None


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
