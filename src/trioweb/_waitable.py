"""Something that changes, and the tasks that wait for that."""

from __future__ import annotations

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
        self._waiting: set[Task] = set()

    # As Trio's own primitives.  Whoever is on the set and does not wait, because an interrupt has
    # struck between the two, would be woken while it runs, which ends Trio.
    @enable_ki_protection
    async def wait_change(self) -> None:
        """Wait until something about this has changed; then look again.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        waiting = self._waiting
        task = current_task()

        def abort(_: RaiseCancelT) -> Abort:
            waiting.remove(task)
            return Abort.SUCCEEDED

        waiting.add(task)
        await wait_task_rescheduled(abort)

    @enable_ki_protection
    def changed(self) -> None:
        """Wake all who wait.

        Raises:
            RuntimeError: called from another thread than that of Trio; nobody was woken, nor is
                anybody forgotten.
        """
        waiting = self._waiting
        if waiting:
            try:
                for task in waiting:
                    reschedule(task)
            except RuntimeError:
                raise wrong_thread() from None
            waiting.clear()
