"""A nursery behind a context manager, whose users do not know that there is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_hidden_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that is cancelled at the end of the block.

    What the block raises comes out as it is: not as part of a group, and not replaced by a
    cancellation that came, too.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:
                error = exc
            nursery.cancel_scope.cancel()
    finally:
        if error is not None:
            raise error
