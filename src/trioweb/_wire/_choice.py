"""Which wire leads to a peer."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._tls import Tls
from ._kernel import KernelWire, check_sigpipe, kernel_fileno, kernel_send
from ._records import RecordWire
from ._stream import StreamWire
from ._wire import Wire


def wire_to(
    stream: trio.abc.Stream,
    tls: Tls | None,
    write_timeout: float,
    fileno: Callable[[], int] | None = None,
) -> Wire:
    """The fastest way to write to *stream*.

    Args:
        tls: what stands between the bytes and *stream*, which then is a kernel's.
        fileno: what `kernel_fileno` has said of *stream*, so that both are one object.
    """
    fileno = fileno or kernel_fileno(stream)
    if fileno is None:
        return StreamWire(stream, write_timeout)
    check_sigpipe()
    if tls is None:
        return KernelWire(fileno, write_timeout, kernel_send(stream))
    return RecordWire(fileno, write_timeout, tls)
