"""Accepting streams, also through times when the system has no room for another.

`trio.serve_listeners` does the same but logs ten tracebacks a second while file descriptors are
short, which fills the disk next.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

_logger = logging.getLogger("trioweb.server")

# What is short when accept(2) says so, file descriptors or memory, comes back when others leave.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Whoever wants to connect waits in the kernel meanwhile, which a person hardly notices.
_RETRY_SECONDS: Final = 0.1
# At its limit a server runs short again with every peer that it accepts in place of another.
_SILENCE_SECONDS: Final = 60


def has_waiting(listener: trio.abc.Listener[Any]) -> bool:
    """Whether the kernel has a stream ready that *listener* would accept at once.

    What waits there when a listener is closed is reset, though its peer takes it for accepted.
    """
    inner = getattr(listener, "transport_listener", listener)
    return isinstance(inner, trio.SocketListener) and inner.socket.is_readable()


# An interrupt between accepting a stream and starting its task would leave it open.
@enable_ki_protection
async def accept_streams(
    listener: trio.abc.Listener[Any],
    run: Callable[[trio.abc.Stream], Awaitable[object]],
    nursery: trio.Nursery,
) -> None:
    """Start *run* in *nursery* with each stream that *listener* accepts, and close it at the end.

    Runs until it is cancelled, or *listener* fails otherwise than by shortage.
    """
    say_after = -math.inf
    try:
        while True:
            try:
                stream = await listener.accept()
            except OSError as exc:
                if exc.errno not in _SHORTAGES:
                    raise
                if trio.current_time() >= say_after:
                    _logger.error("cannot accept connections for now: %s", exc.strerror)
                    say_after = trio.current_time() + _SILENCE_SECONDS
                await trio.sleep(_RETRY_SECONDS)
            else:
                nursery.start_soon(run, stream)
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(listener)
