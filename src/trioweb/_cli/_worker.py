"""A worker of `trioweb serve --workers N`: what its parent has passed on, and what it is told."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import trio

from .._errors import CloseCode
from .._metrics import metrics
from .._server import Server
from .._workers import Order, WorkerEnd, open_worker
from .._workers._processes import Inheritance
from ._terminal import UsageError

# Stands behind what the user gave, and is nothing for users.
OPTION: Final = "--worker"


def program() -> str:
    """What a parent and its workers must both be, to understand each other."""
    return f"{version('trioweb')}/{sys.implementation.cache_tag}"


class Worker:
    """What this process is to its parent.

    Attributes:
        end: its end of what connects them.
        listeners: where it accepts, and others may, too.
    """

    def __init__(self, end: WorkerEnd, listeners: Sequence[trio.SocketListener]) -> None:
        self.end = end
        self.listeners = listeners

    async def serve(
        self, server: Server, signals: AsyncIterator[int], options: argparse.Namespace
    ) -> None:
        """Say that *server* serves, tell its numbers, and end it softly when it is time."""

        async def tell(with_page: bool) -> tuple[dict[str, Any], str]:
            page = await metrics(server, topics=options.metrics_topic) if with_page else ""
            return plain(server), page

        self.end.tell = tell
        self.end.ready()
        code, is_handover = await self._wait_order(signals)
        await server.drain(options.grace, options.spread, code, handover=is_handover)

    async def _wait_order(self, signals: AsyncIterator[int]) -> Order:
        """Wait until this worker has to end: the parent says so, has gone, or somebody has sent
        SIGTERM to this process, in whose place the parent starts another."""
        order = Order(CloseCode.SERVICE_RESTART, is_handover=True)

        async def obey(scope: trio.CancelScope) -> None:
            nonlocal order
            order = await self.end.wait_order()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, nursery.cancel_scope)
            # Others are for the parent, which has had them, too, if they came from a terminal.
            while await anext(signals) != signal.SIGTERM:
                pass
            nursery.cancel_scope.cancel()
        return order


def plain(server: Server) -> dict[str, Any]:
    """The statistics of *server*, as JSON has them."""
    told: dict[str, Any] = json.loads(json.dumps(asdict(server.statistics())))
    return told


@asynccontextmanager
async def open_worker_of(options: argparse.Namespace) -> AsyncGenerator[Worker | None]:
    """Be what *options* say: a worker, or None.

    Raises:
        UsageError: the parent is another version of this program.
    """
    inheritance: Inheritance | None = options.worker
    if inheritance is None:
        yield None
        return
    if inheritance.program != program():
        raise UsageError(
            f"this is {program()}, and what has started it as a worker {inheritance.program}: "
            "restart that"
        )
    stream, listeners = inheritance.adopt()
    async with open_worker(stream) as end:
        yield Worker(end, listeners)
