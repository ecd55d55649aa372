"""The front: from an accepted stream to a checked request.

A head is read once.  What is an upgrade has passed every check of RFC 6455 section 4.2.1 when it
leaves.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeGuard

import trio

from .._handshake import check_upgrade, is_upgrade
from .._heads import read_head
from .._protocol._http import Address, BadHead, Request, Response
from .._protocol._requests import parse_request
from .._tls import TlsStream, describe_tls
from ._eager import Eager

Http: TypeAlias = Callable[[Request], Awaitable[Response]]
_Tls: TypeAlias = TlsStream | trio.SSLStream[Any]

# So much may wait unsent in the kernel, as much as a topic writes at a time.  Without a bound
# the kernel takes megabytes for a peer that does not read, before anybody here notices.
_MAX_UNSENT_BYTES = 64 * 2**10


def bound_kernel_queue(stream: trio.abc.Stream) -> None:
    """Bound what the kernel queues for the peer of *stream*, where the system knows how."""
    transport = getattr(stream, "transport_stream", stream)
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if isinstance(transport, trio.SocketStream) and option is not None:
        with suppress(OSError):  # no TCP
            transport.setsockopt(socket.IPPROTO_TCP, option, _MAX_UNSENT_BYTES)


def wants_tls(stream: trio.abc.Stream) -> TypeGuard[_Tls]:
    """Whether *stream* begins with a TLS handshake."""
    return isinstance(stream, (TlsStream, trio.SSLStream))


async def shake_tls(stream: _Tls, deadline: float) -> None:
    """Do the TLS handshake by *deadline*.

    A peer that does not get through it cannot be answered, and one that will be refused has
    no longer for it than any other.

    Raises:
        NothingSent, EOFError, trio.BrokenResourceError: it has not.
    """
    with trio.move_on_at(deadline) as scope:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as exc:
            if isinstance(stream, TlsStream) and not stream.has_received:
                raise NothingSent from exc
            raise
    if scope.cancelled_caught:
        raise EOFError("no TLS handshake in time")


class NothingSent(Exception):
    """A peer has come and gone without a byte, as load balancers do that only look whether the
    port is open, and browsers that connect in advance."""


def why_gone(error: Exception) -> str:
    """What a peer's end while it opens, or is not let in, is told as in the log."""
    if isinstance(error.__cause__, ssl.SSLError):
        return describe_tls(error.__cause__)
    return str(error) or type(error).__name__


async def read_request(
    stream: trio.abc.Stream,
    deadline: float,
    max_bytes: int,
    *,
    remote: Address,
    local: Address,
    start: bytes = b"",
) -> tuple[Request, bytes]:
    """Read and parse a request's head of at most *max_bytes* by *deadline*.

    Args:
        start: what has come of it already.

    Returns:
        The request, and the bytes behind its head.

    Raises:
        BadHead: it must be refused, with `status`.
        NothingSent, EOFError, trio.BrokenResourceError: nobody is left to be answered.
    """
    eager = Eager(stream, deadline)
    try:
        head, rest = await read_head(eager, max_bytes, start, pass_empty_line=True)
    except trio.TooSlowError:
        raise BadHead(408, "no whole request in time") from None
    except (EOFError, trio.BrokenResourceError) as exc:
        if not (start or eager.has_received):
            raise NothingSent from exc
        raise
    certificate = None
    if isinstance(stream, TlsStream):
        certificate = stream.tls.certificate()
    elif isinstance(stream, trio.SSLStream):
        certificate = stream.getpeercert() or None
    request = parse_request(
        head, remote=remote, local=local, secure=wants_tls(stream), certificate=certificate
    )
    return request, rest


def check_request(request: Request) -> None:
    """Check that *request* is an upgrade without fault, or none at all.

    Raises:
        BadHead: it must be refused, with `status`.
    """
    if is_upgrade(request):
        check_upgrade(request)
    elif "sec-websocket-key" in request.headers and not request.headers.get("upgrade"):
        raise BadHead(426, "a WebSocket key, but no Upgrade: a proxy on the way must pass that on")
