"""What one task does for an open connection of a client: it reads, and sees to all that is due.

Whoever gives out what has come, or asks for confirmations, does that at once when it is called, and
says when to call it again; so does the heartbeat.  So one task waits for all of them: each more
would be 2 to 3 KiB of a client that idles.

NOTE: Whatever may change what is due wakes that task: a link by `changed` or, where it is read from
here, by `unwatch`; and everything else of a client by `Signal.changed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine

import trio
from trio.lowlevel import enable_ki_protection

from .._heartbeat import Lookout
from .._link import OPEN, Link


class Reading:
    """Reads for a link in the task that attends to it: see `Reads` of links.

    It does so from when the link begins until the link ends, pauses or breaks.  From then on the
    link reads for itself.
    """

    __slots__ = ("_fileno", "_is_waiting", "_nap")

    def __init__(self) -> None:
        self._fileno: int | None = None
        # What the task is in while it waits; only the wait itself needs an end.
        self._nap: trio.CancelScope | None = None
        self._is_waiting = False

    @property
    def is_on(self) -> bool:
        """Whether the link is read from here."""
        return self._fileno is not None

    def watch(self, link: Link, fileno: int) -> None:
        self._fileno = fileno

    def unwatch(self, link: Link, fileno: int) -> None:
        self._fileno = None
        self.wake()

    # As `Waitable.changed`.
    @enable_ki_protection
    def wake(self) -> None:
        """End the wait that is on, if there is one."""
        if self._is_waiting and self._nap is not None:
            # NOTE: not by `notify_closing`, which whoever waits to write would take for the end.
            self._nap.cancel()

    def nap_in(self, scope: trio.CancelScope) -> None:
        """The task is in *scope* from now on."""
        self._nap = scope
        self._is_waiting = False

    def wait(self) -> Coroutine[object, object, None]:
        """Wait until there is something to `read`, or `wake`.

        Not async itself, as a frame more would stay while a client idles.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        assert self._fileno is not None
        self._is_waiting = True
        return trio.lowlevel.wait_readable(self._fileno)  # noqa: ASYNC105  # by who waits

    def read(self, link: Link) -> None:
        """Feed what has come."""
        self._is_waiting = False
        # Others have run since, and the descriptor may be another's.
        if self._fileno is not None:
            link.carrier.take(self._fileno, trio.current_time())


# As `Carrier.run`.
@enable_ki_protection
async def attend(
    link: Link,
    reading: Reading,
    lookout: Lookout | None,
    chores: Callable[[Link], float] | None = None,
) -> None:
    """See to *link* until it is open no more, or cancelled.

    Args:
        lookout: looks for its signs of life; None where nobody wants that.
        chores: does whatever else is due, and returns when to call it again; it is called then, and
            whenever something may have changed.

    Cancellation: nothing is lost.
    """
    while link.state is OPEN:
        if lookout is not None and lookout.due <= trio.current_time():
            # Whoever became readable at the same moment reads first.
            await trio.lowlevel.checkpoint()
            lookout.look(trio.current_time())
        with trio.CancelScope() as nap:
            reading.nap_in(nap)
            while link.state is OPEN:
                due = math.inf if lookout is None else lookout.due
                if chores is not None:
                    due = min(due, chores(link))
                if due != nap.deadline:
                    nap.deadline = due
                if reading.is_on and link.carrier.pause_if_due():
                    link.carrier.read_alone()
                    # Of a pause, too, somebody may have to be told.
                    continue
                if reading.is_on and link.incoming.is_undecoded:
                    # Twice: whoever was woken by what was decoded runs between the two.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                    if reading.is_on:
                        link.incoming.go_on()
                elif reading.is_on:
                    await reading.wait()
                    reading.read(link)
                elif chores is not None:
                    await link.wait_change()
                else:
                    # No change makes the heartbeat due, so that messages need not wake this.
                    await trio.sleep_forever()
