"""The supervisor: starts workers, replaces those that die, renews them one by one, ends them all.

    STARTING ── it says that it serves ──▶ SERVING ── told to end ──▶ LEAVING ──▶ gone
        └──────────────── its process ends ────┴──▶ gone, and replaced

Each place has one worker that serves, and for a while another that is about to.  A worker is told
to end by an order; if it has not ended after the grace, it is killed.

Knows of processes only what `WorkerProcess` says.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, TypeAlias

import trio

from .._chance import new_random
from .._close_codes import CloseCode
from .._metrics import tell_store
from .._policy import Retry
from .._topics import StoreStatistics
from .._waitable import Waitable
from ._sums import add_pages, add_statistics, counted_on_page, counted_so_far
from ._switchboard import Switchboard
from ._worker import Worker, WorkerProcess

_logger = logging.getLogger("trioweb.workers")

# For loading the program and all certificates, on a machine that is busy with just that.
_READY_SECONDS: Final = 60
# What a worker needs to end behind its grace: its last numbers, and the interpreter's end.
_LAST_SECONDS: Final = 0.5
# One that does not hear its parent any more, and is still there, is of no use.
_DEAF_SECONDS: Final = 5
# So often it is asked whether it is still there, and so long it may take to answer: the kernel goes
# on dealing connections to one that stands still.
_LOOK_SECONDS: Final = 20
_ANSWER_SECONDS: Final = 20
_LAST_CHANCE_SECONDS: Final = 5
# For what a worker said last to be read, once it has ended.
_HEAR_SECONDS: Final = 1
# For a worker to tell its numbers; in place of one that does not are those that it told before.
_TELL_SECONDS: Final = 2


class StartFailed(Exception):
    """A worker has ended before it served.

    Attributes:
        status: as `WorkerProcess.wait` returns it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


# Start the process of the worker at the place of that number.
Start: TypeAlias = Callable[[int], Awaitable[WorkerProcess]]


class Supervisor:
    """See the top of this module.

    Args:
        count: how many workers there are to be.
        start: starts one.
        grace: seconds that a soft end may take.
        retry: when one that has died is replaced: the first time at once.
        switchboard: the engine; None if the workers have another one.

    Attributes:
        changed: whenever something has become of a worker.
        restarts: workers that were replaced since they had died.
        is_stopping: `stop` was called.
    """

    def __init__(
        self,
        count: int,
        start: Start,
        *,
        grace: float,
        retry: Retry = Retry(initial=0.5, maximum=20),
        switchboard: Switchboard | None = None,
    ) -> None:
        self.changed = Waitable()
        self.restarts = 0
        self.switchboard = switchboard
        self._start = start
        self._grace = grace
        self._retry = retry
        self._random = new_random()
        self._places: list[Worker | None] = [None] * count
        self._workers: dict[Worker, None] = {}
        self.is_stopping = False
        # Renewals that were asked for, and those that are done.
        self._asked = self._renewed = 0
        self._questions = 0
        # Those about what workers are to do whose answers are not too late yet.
        self._awaited: set[int] = set()
        # What workers that have gone had counted.
        self._statistics: dict[str, Any] = {}
        self._page = ""
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the workers, and have them run until `stop`.

        Raises:
            StartFailed: one of the first has not come to serve; none is left.

        Cancellation: they are killed.
        """
        failure: StartFailed | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for number in range(len(self._places)):
                self._places[number] = await self._begin(number)
            for worker in self._places:
                assert worker is not None
                if not await self._wait_serving(worker) and not self.is_stopping:
                    failure = StartFailed(worker.status or 1)
                    self.is_stopping = True
                    nursery.cancel_scope.cancel()
            if failure is None:
                for number in range(len(self._places)):
                    nursery.start_soon(self._keep, number)
                nursery.start_soon(self._renew)
                task_status.started()
                while self._workers or not self.is_stopping:
                    await self.changed.wait_change()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def renew(self) -> None:
        """Replace all workers one by one: each new one serves before the old one ends.

        If that is being done already, it is done once more behind that.
        """
        self._asked += 1
        asked = self._asked
        self.changed.changed()
        while self._renewed < asked:
            await self.changed.wait_change()

    def stop(self, code: int) -> None:
        """End all workers softly; `run` returns when they have gone."""
        self.is_stopping = True
        for worker in self._workers:
            worker.leave(code, handover=False)
        self.changed.changed()

    # One worker.

    async def _begin(self, number: int) -> Worker:
        assert self._nursery is not None
        worker: Worker = await self._nursery.start(self._attend, number)
        if self.is_stopping:
            worker.leave(CloseCode.SERVICE_RESTART, handover=False)
        return worker

    async def _attend(self, number: int, task_status: trio.TaskStatus[Worker]) -> None:
        """One worker, from its beginning to its end."""
        process = await self._start(number)
        worker = Worker(number, process, self)
        self._workers[worker] = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, worker)
                nursery.start_soon(self._watch, worker)
                task_status.started(worker)
                worker.status = await process.wait()
                self.changed.changed()
                with trio.move_on_after(_HEAR_SECONDS):
                    await worker.was_heard.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if worker.status is None:
                    process.kill()
                    worker.status = await process.wait()
                await trio.aclose_forcefully(process.stream)
            del self._workers[worker]
            self._bury(worker)
            self.changed.changed()
        self._report(worker)

    async def _hear(self, worker: Worker) -> None:
        await worker.end.run()
        worker.was_heard.set()
        await trio.sleep(_DEAF_SECONDS)
        worker.process.kill()

    async def _watch(self, worker: Worker) -> None:
        """Kill it if it does not begin, stands still, or does not end."""
        with trio.move_on_after(_READY_SECONDS) as scope:
            while not worker.is_serving and not worker.is_leaving.is_set():
                await self.changed.wait_change()
        if scope.cancelled_caught:
            _logger.error("%s does not serve after %d seconds", worker, _READY_SECONDS)
            worker.process.kill()
        while not worker.is_leaving.is_set():
            with trio.move_on_after(_LOOK_SECONDS):
                await worker.is_leaving.wait()
            if not worker.is_leaving.is_set() and not await self._answers(worker):
                _logger.error("%s does not answer for %d seconds", worker, _ANSWER_SECONDS)
                worker.process.kill()
                return
        await trio.sleep(self._grace + _LAST_SECONDS)
        _logger.error("%s has not ended after %g seconds", worker, self._grace)
        worker.process.kill()

    async def _answers(self, worker: Worker) -> bool:
        """Whether it still tells its numbers when it is asked."""
        self._questions += 1
        number = self._questions
        worker.end.tell(number, with_page=False)
        # Twice, as this process may itself have stood still until the first deadline had passed.
        for seconds in _ANSWER_SECONDS, _LAST_CHANCE_SECONDS:
            with trio.move_on_after(seconds):
                while worker.told < number and not worker.is_leaving.is_set():
                    await self.changed.wait_change()
                return True
        return False

    def _bury(self, worker: Worker) -> None:
        """Keep what it has counted."""
        self._statistics = add_statistics((self._statistics, counted_so_far(worker.statistics)))
        self._page = add_pages((self._page, counted_on_page(worker.page)))

    def _report(self, worker: Worker) -> None:
        status = worker.status
        assert status is not None
        what = f"exit status {status}"
        if status < 0:
            try:
                what = f"killed by {signal.Signals(-status).name}"
            except ValueError:
                what = f"killed by signal {-status}"
        is_wanted = worker.is_leaving.is_set() and not status
        level = logging.INFO if is_wanted else logging.ERROR
        _logger.log(level, "%s has ended: %s", worker, what)

    async def _wait_serving(self, worker: Worker) -> bool:
        """Wait until it serves; return False if it has ended before."""
        while not worker.is_serving and worker.status is None:
            await self.changed.wait_change()
        return worker.is_serving

    # One place.

    async def _keep(self, number: int) -> None:
        """See that there is a worker at the place."""
        deaths = 0
        while not self.is_stopping:
            worker = self._places[number]
            assert worker is not None
            if worker.status is None:
                await self.changed.wait_change()
                continue
            if trio.current_time() - worker.since >= self._retry.stable_after:
                deaths = 0
            if deaths:
                bound = min(self._retry.maximum, self._retry.initial * 2 ** min(deaths - 1, 30))
                await trio.sleep(self._random.uniform(0, bound))
            deaths += 1
            # One that is renewed meanwhile is there already.
            if self._places[number] is worker and not self.is_stopping:
                self.restarts += 1
                new = await self._begin(number)
                if self._places[number] is worker:
                    self._places[number] = new
                else:
                    new.leave(CloseCode.SERVICE_RESTART, handover=True)

    async def _renew(self) -> None:
        while True:
            while self._renewed == self._asked:
                await self.changed.wait_change()
            asked = self._asked
            if await self._renew_all():
                _logger.info("all workers were renewed")
            else:
                _logger.error("the new worker has not come to serve: the old ones stay")
            self._renewed = asked
            self.changed.changed()

    async def _renew_all(self) -> bool:
        for number in range(len(self._places)):
            if self.is_stopping:
                break
            new = await self._begin(number)
            if not await self._wait_serving(new):
                return False
            old = self._places[number]
            self._places[number] = new
            assert old is not None
            old.leave(CloseCode.SERVICE_RESTART, handover=True)
            while old.status is None:
                await self.changed.wait_change()
        return True

    # Numbers.

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(worker.is_serving for worker in self._workers)

    def answer(self, worker: Worker, question: int) -> None:
        """Tell *worker* the statistics of all."""

        async def answer() -> None:
            worker.end.answer_all(question, await self.statistics())

        assert self._nursery is not None
        self._nursery.start_soon(answer)

    def have_others_do(self, worker: Worker, question: int, what: str, data: Any) -> None:
        """Have all workers but *worker* do *what*, and tell it their answers."""

        async def answer() -> None:
            others = [each for each in self._workers if each is not worker and each.is_serving]
            self._questions += 1
            number = self._questions
            self._awaited.add(number)
            for each in others:
                each.end.do(number, what, data)
            with trio.move_on_after(_TELL_SECONDS):
                while any(number not in each.answers and each.status is None for each in others):
                    await self.changed.wait_change()
            self._awaited.discard(number)
            answers = [(each.number + 1, each.answers.pop(number, None)) for each in others]
            worker.end.answer_others(question, answers)

        assert self._nursery is not None
        self._nursery.start_soon(answer)

    def awaits(self, question: int) -> bool:
        """Whether somebody waits for an answer to that `ParentEnd.do`."""
        return question in self._awaited

    @property
    def _store(self) -> StoreStatistics | None:
        """What the parent's store has."""
        if self.switchboard is None or self.switchboard.store is None:
            return None
        return self.switchboard.store.statistics()

    async def statistics(self) -> dict[str, Any]:
        """Those of all workers, with what those had counted that have gone."""
        await self._ask(with_page=False)
        total = add_statistics([*(each.statistics for each in self._workers), self._statistics])
        if self._store is not None and isinstance(total.get("hub"), dict):
            total["hub"] = {**total["hub"], "store": asdict(self._store)}
        return {"workers": self.serving, **total}

    async def metrics(self) -> str:
        """The page of all workers, with what those had counted that have gone."""
        await self._ask(with_page=True)
        own = _PAGE.format(count=self.serving, restarts=self.restarts)
        if self._store is not None:
            own += tell_store(self._store)
        return add_pages([*(worker.page for worker in self._workers), self._page, own])

    async def _ask(self, *, with_page: bool) -> None:
        """Have all workers tell their numbers."""
        self._questions += 1
        number = self._questions
        asked = [worker for worker in self._workers if worker.is_serving]
        for worker in asked:
            worker.end.tell(number, with_page=with_page)
        with trio.move_on_after(_TELL_SECONDS):
            while any(worker.told < number and worker.status is None for worker in asked):
                await self.changed.wait_change()


_PAGE: Final = """\
# HELP trioweb_workers Workers that serve.
# TYPE trioweb_workers gauge
trioweb_workers {count}
# HELP trioweb_worker_restarts_total Workers that had died, and were replaced.
# TYPE trioweb_worker_restarts_total counter
trioweb_worker_restarts_total {restarts}
"""
