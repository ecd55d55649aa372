"""`trioweb serve --workers N`: the parent, which listens, and has its workers serve."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import trio

from .._workers import StartFailed, Supervisor, Switchboard, WorkerProcess, open_switchboard
from .._workers._processes import python_command, start_process
from ._metrics import listen_apart, serve_metrics
from ._notify import Notifier
from ._signals import CLOSE_CODES, SIGHUP
from ._sockets import Shares, announce, describe, listen_for_workers
from ._terminal import UsageError
from ._worker import OPTION, program

_logger = logging.getLogger("trioweb")

# Of what all topics together keep of their past, as the hub of a server without workers has it.
_MAX_BYTES: Final = 64 * 2**20


async def serve_with_workers(options: argparse.Namespace) -> int:
    """Run the parent of as many workers as *options* ask for; return the exit code."""
    if sys.platform == "win32":
        raise UsageError("--workers: this system cannot pass sockets on to other processes")
    command = [*python_command(), "-m", "trioweb", *options.command_line]
    async with _open_engine(options) as switchboard, listen_for_workers(options) as shares:

        async def start(place: int) -> WorkerProcess:
            return await start_process(command, OPTION, place + 1, shares.of(place), program())

        supervisor = Supervisor(
            options.workers, start, grace=options.grace, switchboard=switchboard
        )
        async with listen_apart("--metrics", options.metrics) as watchers:
            return await _run(supervisor, shares, watchers, options)


def _open_engine(options: argparse.Namespace) -> AbstractAsyncContextManager[Switchboard | None]:
    if options.broker:
        return nullcontext()  # the workers have no use for another one
    return open_switchboard(
        max_topics=options.max_topics, max_bytes=_MAX_BYTES, store=options.store
    )


async def _run(
    supervisor: Supervisor,
    shares: Shares,
    watchers: Sequence[trio.abc.Listener[Any]],
    options: argparse.Namespace,
) -> int:
    with trio.open_signal_receiver(*CLOSE_CODES) as signals, Notifier() as manager:
        async with trio.open_nursery() as nursery:

            async def supervise(task_status: trio.TaskStatus[None]) -> None:
                await supervisor.run(task_status)
                nursery.cancel_scope.cancel()

            nursery.start_soon(_obey, signals, supervisor, shares, manager)
            try:
                await nursery.start(supervise)
            except StartFailed as exc:
                nursery.cancel_scope.cancel()
                return max(exc.status, 1)
            if supervisor.is_stopping:
                return 0  # told to end before it had begun
            if watchers:
                await nursery.start(serve_metrics, watchers, supervisor.metrics)
                at, _ = describe(watchers[0], options.metrics[:1], secure=False)
                _logger.info("metrics at %smetrics", at)
            announce(shares.listener, options.host, secure=options.tls_cert is not None)
            manager.ready()
            nursery.start_soon(manager.keep_alive)
    return 0


async def _obey(
    signals: AsyncIterator[int], supervisor: Supervisor, shares: Shares, manager: Notifier
) -> None:
    """Do what *signals* say, until a second one says to end."""

    async def renew() -> None:
        manager.reloading()
        await supervisor.renew()
        manager.ready()

    async with trio.open_nursery() as nursery:
        # A terminal that is closed takes its programs along.
        while (number := await anext(signals)) == SIGHUP and not sys.stderr.isatty():
            nursery.start_soon(renew)
        nursery.cancel_scope.cancel()
    manager.stopping()
    await shares.give_up()
    supervisor.stop(CLOSE_CODES[number])
    async for number in signals:
        if number != SIGHUP:
            raise KeyboardInterrupt
