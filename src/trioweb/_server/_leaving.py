"""Waiting for what a user's callable decides about a peer, for as long as that peer is there.

Nobody reads from it meanwhile, so that it has gone is asked of the kernel, by the one task that
reads for all; a transport that is not the kernel's is read ahead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from .._nursery import open_hidden_nursery
from .._wire._kernel import kernel_fileno
from ._reader import Reader

_AHEAD_BYTES: Final = 16 * 2**10

T = TypeVar("T")


class Waiting:
    """What a `Reader` looks after in place of a link; `scope` is cancelled when its peer goes."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    def break_off(self, reason: str) -> None:
        self.scope.cancel()

    def ended_in_pause(self) -> None:
        # Who asks for an upgrade and says that it sends nothing more has no use for one.
        self.scope.cancel()


async def while_there(
    stream: trio.abc.Stream, reader: Reader | None, decide: Callable[[], Awaitable[T]]
) -> tuple[T, bytes]:
    """Call *decide*, and cancel that if the peer at *stream*, of whom nothing is expected, goes.

    Returns:
        What it returned, and what the peer has sent all the same.

    Raises:
        EOFError: the peer has gone.
    """
    fileno = kernel_fileno(getattr(stream, "transport_stream", stream))
    if reader is not None and fileno is not None:
        waiting, number = Waiting(), fileno()
        with waiting.scope:
            reader.watch_end(waiting, number)
            try:
                return await decide(), b""
            finally:
                reader.unwatch_end(number)
    else:
        scope = trio.CancelScope()
        ahead = b""
        decided: list[T] = []

        async def watch() -> None:
            nonlocal ahead
            try:
                ahead = bytes(await stream.receive_some(_AHEAD_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            if not ahead:
                scope.cancel()

        async with open_hidden_nursery() as nursery:
            nursery.start_soon(watch)
            with scope:
                decided.append(await decide())
        if decided:
            return decided[0], ahead
    raise EOFError("gone before it was decided whether it may come in")
