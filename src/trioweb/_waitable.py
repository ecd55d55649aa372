"""Tasks that wait: all of them for any change of something, or each for its turn."""

from __future__ import annotations

from collections import OrderedDict
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

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # Nearly always one task waits or none: a set of one is 216 bytes of each connection.
        self._waiting: Task | set[Task] | None = None

    # As Trio's own primitives.  A task that is noted and does not wait, because an interrupt has
    # struck between the two, would be woken while it runs, which ends Trio.
    @enable_ki_protection
    async def wait_change(self) -> None:
        """Wait until something about this has changed; then look again.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        waiting = self._waiting
        task = current_task()

        def abort(_: RaiseCancelT) -> Abort:
            if isinstance(self._waiting, set):
                self._waiting.remove(task)
            else:
                self._waiting = None
            return Abort.SUCCEEDED

        if waiting is None:
            self._waiting = task
        elif isinstance(waiting, set):
            waiting.add(task)
        else:
            self._waiting = {waiting, task}
        await wait_task_rescheduled(abort)

    @enable_ki_protection
    def changed(self) -> None:
        """Wake all who wait.

        Raises:
            RuntimeError: called from another thread than that of Trio; nobody was woken, nor is
                anybody forgotten.
        """
        waiting = self._waiting
        if waiting is not None:
            try:
                if isinstance(waiting, set):
                    for task in waiting:
                        reschedule(task)
                else:
                    reschedule(waiting)
            except RuntimeError:
                raise wrong_thread() from None
            self._waiting = None


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
        self._waiters: OrderedDict[_W, None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiters)

    @property
    def first(self) -> _W:
        """The one whose turn is next."""
        return next(iter(self._waiters))

    # See `Waitable.wait_change`.
    @enable_ki_protection
    async def wait(self, waiter: _W) -> None:
        """Wait at the end of the line until woken.

        Cancellation: the waiter was not woken.  Checkpoint: always.
        """
        waiters = self._waiters

        def abort(_: RaiseCancelT) -> Abort:
            del waiters[waiter]
            return Abort.SUCCEEDED

        waiters[waiter] = None
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
        del self._waiters[waiter]
        return waiter
