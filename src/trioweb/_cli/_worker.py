"""A worker of `trioweb serve --workers N`: what its parent has passed on, and what it is told."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import trio

from .._close_codes import CloseCode
from .._metrics import metrics
from .._server import Server
from .._topics._engine_link import EngineLost
from .._workers import Order, WorkerEnd, open_worker
from .._workers._processes import Inheritance
from ._terminal import UsageError

# Stands behind what the user gave, and is nothing for users.
OPTION: Final = "--worker"


def program() -> str:
    """What a parent and its workers must both be, to understand each other."""
    return f"{version('trioweb')}/{sys.implementation.cache_tag}"


def process_of(options: argparse.Namespace) -> dict[str, int]:
    """What tells this process from the others that *options* have serve: nothing, if it is the
    only one, or their parent."""
    inheritance: Inheritance | None = getattr(options, "worker", None)
    # Of one place there are two while it is renewed.
    return {} if inheritance is None else {"worker": inheritance.number, "process": os.getpid()}


class Worker:
    """What this process is to its parent.

    Attributes:
        number: its place, from 1 on.
        end: its end of what connects them.
        listeners: where it accepts, and others may, too.
    """

    def __init__(
        self, number: int, end: WorkerEnd, listeners: Sequence[trio.SocketListener]
    ) -> None:
        self.number = number
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


class Others:
    """See `Colleagues`."""

    def __init__(self, worker: Worker, *, are_all: bool) -> None:
        self.number = worker.number
        self.are_all = are_all
        self._end = worker.end

    async def ask(self, what: str, data: dict[str, Any]) -> list[tuple[int, Any]]:
        try:
            return await self._end.ask_others(what, data)
        except EngineLost:
            return []  # this worker is about to end


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
        yield Worker(inheritance.number, end, listeners)
