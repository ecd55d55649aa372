"""A kernel's socket, written to at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Final, Protocol

import trio

from ._wire import Account, Direct

_logger = logging.getLogger("trioweb")

_has_told_of_sigpipe = False


class Descriptor(Protocol):
    """What knows a descriptor."""

    def fileno(self) -> int: ...


# NOTE: The sockets themselves, and not their methods: those would be objects of 72 bytes each for
# every connection.
def kernel_socket(stream: trio.abc.Stream) -> Descriptor | None:
    """What knows the descriptor that `os.write` can use for *stream*, if there is one.

    NOTE: Ask at every write.  Once the socket is closed the answer is -1, while a number
    kept would be some other socket's soon.
    """
    if sys.platform == "win32" or not isinstance(stream, trio.SocketStream):
        return None
    # A custom socket factory makes sockets without a descriptor.
    if stream.socket.fileno() < 0:
        return None
    # Past Trio's wrapper, where that is possible: with many connections none of it is in the
    # processor's caches, and of a delivery that is most of what is not the system call.
    plain: Descriptor = getattr(stream.socket, "_sock", stream.socket)
    return plain


def direct_socket(stream: trio.abc.Stream) -> Direct | None:
    """What writes to *stream*, which has a `kernel_socket`, in one call; None if only its
    descriptor can be written to."""
    plain: Direct | None = getattr(getattr(stream, "socket", None), "_sock", None)
    return plain


def check_sigpipe() -> None:
    """Say, once, if the program has asked for being killed by the first write to a peer that has
    gone: Python ignores SIGPIPE from the start, and programs for pipes often undo that."""
    global _has_told_of_sigpipe
    if _has_told_of_sigpipe or sys.platform == "win32":
        return
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL:
        _has_told_of_sigpipe = True
        _logger.warning(
            "SIGPIPE is set to its default: the first write to a peer that has gone ends this "
            "process; signal.signal(signal.SIGPIPE, signal.SIG_IGN), as Python has it, mends that"
        )


class KernelWire:
    """See `Wire`.

    Args:
        socket: see `kernel_socket`.
        write_timeout: seconds for which the peer may take nothing.
        direct: see `Wire`.
    """

    __slots__ = ("_socket", "_timeout", "direct")

    is_queued: Final = False

    def __init__(
        self,
        socket: Descriptor,
        write_timeout: float,
        direct: Direct | None = None,
    ) -> None:
        self._socket = socket
        self._timeout = write_timeout
        self.direct = direct

    @property
    def backlog(self) -> int:
        return 0

    @property
    def has_more(self) -> bool:
        return False

    def offer(self, data: bytes) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def write(self, data: bytes, account: Account) -> None:
        view = memoryview(data)
        while view:
            fileno = self._socket.fileno()
            if fileno < 0:
                raise trio.ClosedResourceError("the transport was closed")
            with trio.move_on_after(self._timeout) as patience:
                await trio.lowlevel.wait_writable(fileno)
            # A kernel calls a socket writable when a good part of its buffer is free (Linux: a
            # third), which a slow peer may take longer for; so it is asked in any case.
            try:
                taken = os.write(self._socket.fileno(), view)
            except BlockingIOError:
                if patience.cancelled_caught:
                    raise trio.TooSlowError from None
                continue
            view = view[taken:]
            # The kernel was full, so it was the peer that made room.
            account.wrote(taken, by_peer=True)

    async def receive(self, max_bytes: int) -> bytes | None:
        # As a stream's `receive_some`, of which it takes a quarter of the time.
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            try:
                data = os.read(self._socket.fileno(), max_bytes)
            except BlockingIOError:
                # NOTE: no wait in here, which would keep the error and its traceback for as long
                # as nothing comes: 0.7 KiB of each connection that idles.
                pass
            else:
                if not has_waited:
                    # Shielded, since a cancellation would lose the data.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            try:
                await trio.lowlevel.wait_readable(self._socket.fileno())
            except trio.ClosedResourceError:
                if self._socket.fileno() < 0:
                    raise
                return None
            has_waited = True

    def interrupt(self) -> None:
        if (fileno := self._socket.fileno()) >= 0:
            trio.lowlevel.notify_closing(fileno)
