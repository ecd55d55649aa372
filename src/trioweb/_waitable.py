"""Tasks that wait: all of them for any change, each for one of what comes, or each for its turn."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from typing import Generic, TypeVar

from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    current_task,
    enable_ki_protection,
    in_trio_run,
    reschedule,
    wait_task_rescheduled,
)


def wrong_thread() -> RuntimeError:
    """The error of what was called from a thread that does not run Trio."""
    return RuntimeError(
        "trioweb was called from a thread that does not run Trio: "
        "call it by trio.from_thread.run_sync there"
    )


def check_thread() -> None:
    """Raise `wrong_thread` unless Trio runs in the calling thread."""
    if not in_trio_run():
        raise wrong_thread()


class Waitable:
    """What tasks wait for in `wait_change`, and wake up from whenever `changed` is called.

    A condition without a lock: who waits looks at the object, and looks again once awake.  Of
    Trio's own, an Event for each change costs a third more time in each wake-up and 100 bytes of
    each connection that idles, and a ParkingLot more than that.
    """

    __slots__ = ("_first", "_others")

    def __init__(self) -> None:
        # Nearly always one task waits or none.  For it alone, a set would be 216 bytes of each
        # connection, and a function to be called when it is cancelled 200 more than a method.
        self._first: Task | None = None
        self._others: set[Task] | None = None

    # As Trio's own primitives.  A task that is noted and does not wait, because an interrupt has
    # struck between the two, would be woken while it runs, which ends Trio.
    @enable_ki_protection
    async def wait_change(self) -> None:
        """Wait until something about this has changed; then look again.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        task = current_task()
        if self._first is None:
            self._first = task
            await wait_task_rescheduled(self._leave_first)
        else:
            if self._others is None:
                self._others = set()
            self._others.add(task)
            await wait_task_rescheduled(partial(self._leave_others, self._others, task))

    def _leave_first(self, _: RaiseCancelT) -> Abort:
        self._first = None
        return Abort.SUCCEEDED

    @staticmethod
    def _leave_others(others: set[Task], task: Task, _: RaiseCancelT) -> Abort:
        others.remove(task)
        return Abort.SUCCEEDED

    @enable_ki_protection
    def changed(self) -> None:
        """Wake all who wait.

        Raises:
            RuntimeError: called from another thread than that of Trio; nobody was woken, nor is
                anybody forgotten.
        """
        first, others = self._first, self._others
        try:
            if first is not None:
                reschedule(first)
            if others is not None:
                for task in others:
                    reschedule(task)
        except RuntimeError:
            raise wrong_thread() from None
        self._first = self._others = None


class Takers:
    """Tasks that wait for what only one of them can have: each that comes wakes one of them, the
    first to wait first.

    A task that was woken looks whether there is still something: another one may have been faster.
    """

    __slots__ = ("_takers",)

    def __init__(self) -> None:
        # A task alone, as nearly always, or several in their order; None stands for the one that
        # was alone.  For each, a line of its own would be 500 bytes of each connection that idles.
        self._takers: Task | OrderedDict[Task | None, Task] | None = None

    # See `Waitable.wait_change`.
    @enable_ki_protection
    async def wait_taking(self) -> None:
        """Wait until woken; then look.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        if self._takers is None:
            self._takers = current_task()
            await wait_task_rescheduled(self._leave_first)
        else:
            # In a coroutine of its own: one that waits keeps room for all that it may ever need.
            await self._wait_in_line(self._takers, current_task())

    async def _wait_in_line(
        self, takers: Task | OrderedDict[Task | None, Task], task: Task
    ) -> None:
        if isinstance(takers, Task):
            takers = self._takers = OrderedDict({None: takers})
        takers[task] = task
        await wait_task_rescheduled(partial(self._leave_line, takers, task))

    def _leave_first(self, cancelled: RaiseCancelT) -> Abort:
        takers = self._takers
        if isinstance(takers, OrderedDict):
            return self._leave_line(takers, None, cancelled)
        self._takers = None
        return Abort.SUCCEEDED

    def _leave_line(
        self, line: OrderedDict[Task | None, Task], key: Task | None, _: RaiseCancelT
    ) -> Abort:
        del line[key]
        if not line:
            self._takers = None
        return Abort.SUCCEEDED

    @enable_ki_protection
    def wake(self, count: int) -> None:
        """Wake so many of those who wait, or all if there are not more.

        Raises:
            RuntimeError: called from another thread than that of Trio; nobody was woken.
        """
        try:
            while self._takers is not None and count > 0:
                takers = self._takers
                if isinstance(takers, Task):
                    reschedule(takers)
                    self._takers = None
                    return
                key, task = next(iter(takers.items()))
                reschedule(task)
                del takers[key]
                if not takers:
                    self._takers = None
                count -= 1
        except RuntimeError:
            raise wrong_thread() from None

    def wake_all(self) -> None:
        """Wake all who wait: nothing more comes, or not for them."""
        self.wake(sys.maxsize)


class Waiter:
    """A task in a line: the one that makes it."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task = current_task()


_W = TypeVar("_W", bound=Waiter)


class Line(Generic[_W]):
    """Tasks in the order in which they came, each of which is woken when its turn has come.

    NOTE: Who wakes a waiter does for it what it waited for, or notes in it why not.  A waiter that
    is cancelled leaves the line at once, and one that was woken is cancelled too late.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        # None while nobody waits, as mostly nobody does: an empty one takes 350 bytes.
        self._waiters: OrderedDict[_W, None] | None = None

    def __bool__(self) -> bool:
        return bool(self._waiters)

    @property
    def first(self) -> _W:
        """The one whose turn is next."""
        return next(iter(self._waiters or ()))

    # See `Waitable.wait_change`.
    @enable_ki_protection
    async def wait(self, waiter: _W) -> None:
        """Wait at the end of the line until woken.

        Cancellation: the waiter was not woken.  Checkpoint: always.
        """
        if self._waiters is None:
            self._waiters = OrderedDict()
        self._waiters[waiter] = None

        def abort(_: RaiseCancelT) -> Abort:
            self._leave(waiter)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    @enable_ki_protection
    def wake(self) -> _W:
        """Wake the first; return it.

        Raises:
            RuntimeError: called from another thread than that of Trio; nobody was woken.
        """
        waiter = self.first
        try:
            reschedule(waiter.task)
        except RuntimeError:
            raise wrong_thread() from None
        self._leave(waiter)
        return waiter

    def _leave(self, waiter: _W) -> None:
        assert self._waiters is not None
        del self._waiters[waiter]
        if not self._waiters:
            self._waiters = None
