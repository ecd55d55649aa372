"""Where `trioweb serve` tells its numbers: a listener of its own, for those who watch it.

On the port that is for everybody they are not told: how many are there, and when, is nobody's
business but the operator's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from .._connection import Connection
from .._nursery import protected_block
from .._policy import Limits
from .._protocol._http import Request, Response
from .._refusals import Reject
from .._server import Server, serve_listeners
from .._server._listening import open_listeners
from ._terminal import UsageError

_CONTENT_TYPE: Final = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
# Monitoring systems come one at a time; some keep their connections.
_LIMITS: Final = Limits(max_connections=32, max_request_bytes=4096)


@protected_block
async def listen_apart(
    option: str, where: tuple[str, int] | None
) -> AsyncGenerator[Sequence[trio.abc.Listener[Any]]]:
    """Listen where *option* says, if anywhere, for the length of the block.

    Raises:
        UsageError: that cannot be.
    """
    listeners: Sequence[trio.abc.Listener[Any]] = []
    try:
        if where is not None:
            listeners = await open_listeners(where[1], [where[0]])
    except OSError as exc:
        raise UsageError(f"{exc.strerror}; choose another {option}") from exc
    except UnicodeError as exc:  # a name that no host can have
        raise UsageError(f"{option}: {exc}; choose another") from exc
    try:
        yield listeners
    finally:
        # Shielded, or a cancellation would take the place of what is on its way out.
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await trio.aclose_forcefully(listener)


async def serve_metrics(
    listeners: Sequence[trio.abc.Listener[Any]],
    tell: Callable[[], Awaitable[str]],
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tell who asks for /metrics what *tell* returns, until cancelled."""

    async def answer(request: Request) -> Response:
        if request.path != "/metrics":
            return Response(404, "there is only /metrics here\n")
        return Response(200, await tell(), [_CONTENT_TYPE])

    async def refuse(request: Request) -> None:
        raise Reject(404, "There is no WebSocket here.\n")

    serve = partial(serve_listeners, heartbeat=None, limits=_LIMITS)
    await serve(
        Connection.wait_closed, listeners, admit=refuse, http=answer, task_status=task_status
    )
