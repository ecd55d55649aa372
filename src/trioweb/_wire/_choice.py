"""Which wire leads to a peer."""

from __future__ import annotations

import trio

from .._tls import Tls
from ._kernel import Descriptor, KernelWire, check_sigpipe, direct_socket, kernel_socket
from ._records import RecordWire
from ._stream import StreamWire
from ._wire import Wire


def wire_to(
    stream: trio.abc.Stream,
    tls: Tls | None,
    write_timeout: float,
    socket: Descriptor | None = None,
) -> Wire:
    """The fastest way to write to *stream*.

    Args:
        tls: what stands between the bytes and *stream*, which then is a kernel's.
        socket: what `kernel_socket` has said of *stream*, if it was asked already.
    """
    socket = socket or kernel_socket(stream)
    if socket is None:
        return StreamWire(stream, write_timeout)
    check_sigpipe()
    if tls is None:
        return KernelWire(socket, write_timeout, direct_socket(stream))
    return RecordWire(socket, write_timeout, tls)
