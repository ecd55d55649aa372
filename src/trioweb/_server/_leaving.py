"""Waiting for what a user's callable decides about a peer, for as long as that peer is there.

Nobody reads from it meanwhile, so that it has gone is asked of the kernel, by the one task that
reads for all; a transport that is not the kernel's is read ahead.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeVar

import trio

from .._nursery import open_hidden_nursery, protected_block
from .._reader import Reader
from .._wire._kernel import kernel_socket

_AHEAD_BYTES: Final = 16 * 2**10

T = TypeVar("T")


class Presence:
    """Whether the peer of a stream is still there.  A `Reader` looks after it in place of a link.

    Args:
        patience: for how many seconds a peer that has ended its sending may still wait for
            something: that looks like a peer that has closed, until it is written to.

    Attributes:
        ahead: what the peer has sent meanwhile, as far as it had to be read.
    """

    def __init__(self, patience: float) -> None:
        self.ahead = b""
        # How long anything may take from now on.
        self._patience = math.inf
        self._patience_at_end = patience
        self._scope: trio.CancelScope | None = None

    def break_off(self, reason: str) -> None:
        self._lose_patience(0)

    def ended_in_pause(self) -> None:
        self._lose_patience(self._patience_at_end)

    def _lose_patience(self, patience: float) -> None:
        self._patience = patience
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + patience)

    async def during(self, call: Callable[[], Awaitable[T]]) -> T:
        """What *call* returns; it is cancelled if the peer goes.

        Raises:
            EOFError: the peer has gone.
        """
        with trio.CancelScope(deadline=trio.current_time() + self._patience) as self._scope:
            return await call()
        raise EOFError("gone before it was answered")


@protected_block
async def watch_presence(
    stream: trio.abc.Stream,
    reader: Reader | None,
    *,
    patience: float = 0,
    silent: trio.Event | None = None,
) -> AsyncGenerator[Presence]:
    """In the block, know whether the peer of *stream* is there.

    Args:
        silent: set once nothing more is expected of it; None if that is so now.  Until then
            somebody else may read.
    """
    presence = Presence(patience)
    socket = kernel_socket(getattr(stream, "transport_stream", stream))
    if reader is not None and socket is not None:
        number = socket.fileno()
        reader.watch_end(presence, number)
        try:
            yield presence
        finally:
            reader.unwatch_end(number)
        return

    async def read_ahead() -> None:
        if silent is not None:
            await silent.wait()
        try:
            presence.ahead = bytes(await stream.receive_some(_AHEAD_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            presence.break_off("")
        else:
            if not presence.ahead:
                presence.ended_in_pause()

    async with open_hidden_nursery() as nursery:
        nursery.start_soon(read_ahead)
        yield presence
