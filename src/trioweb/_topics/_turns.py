"""The turns of one send queue: its subscriptions that lag, in the order in which they are written
to.

While one stands in line the queue is writable for nobody else, so no pass over another topic gets
ahead of it; and between two messages of the handler there is a turn for the line.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ._sink import Outlet

if TYPE_CHECKING:
    from ._pump import Pump
    from ._subscription import Subscription

# A link that ends takes so many subscriptions along at once; of more of them, which take some 7 µs
# each, others have their turns in between.
_ENDED_AT_ONCE: Final = 64
_COST_OF_END: Final = 28
# Every queue's line until somebody lags: hardly any ever has one.
_NOBODY: Final[OrderedDict[Subscription, None]] = OrderedDict()


class Turns:
    """The subscriptions of one queue to the topics of one hub.

    Attributes:
        subscriptions: all of them.
        line: those that lag, the next one first.
        is_over: nothing can be written any more, and all of them end.
    """

    __slots__ = ("_pump", "_queue", "is_over", "line", "subscriptions")

    def __init__(self, queue: Outlet, pump: Pump) -> None:
        self._queue = queue
        self._pump = pump
        self.subscriptions: dict[Subscription, None] = {}
        self.line = _NOBODY
        self.is_over = False
        self._queue.set_hooks(self, closed=self._on_closed, drained=self._on_drained)

    def add(self, subscription: Subscription) -> None:
        """*subscription* is one of them, from now on."""
        self.subscriptions[subscription] = None

    def stand_in_line(self, subscription: Subscription) -> None:
        """*subscription* lags: have it written to when the queue is free and its turn comes."""
        if self.line is _NOBODY:
            self.line = OrderedDict()
        # Where nobody is written to any more, nobody is kept waiting for that.
        if not self.line and self._pump.is_running:
            self._queue.stand_in_line(self)
        self.line[subscription] = None
        if self._queue.is_free:
            # No drained hook comes where nothing is queued.
            self._pump.free(self)

    def leave_line(self, subscription: Subscription) -> None:
        """*subscription* has caught up, or has left."""
        del self.line[subscription]
        if not self.line:
            self._pump.not_free(self)
            self._queue.leave_line(self)

    def remove(self, subscription: Subscription) -> None:
        """*subscription*, which does not stand in line, has left its topic."""
        del self.subscriptions[subscription]
        if not self.subscriptions:
            self._queue.remove_hooks(self)
            self._pump.left(self._queue)

    def serve(self, budget: int) -> int:
        """Write to those in line, one chunk a turn, until the queue is full, nobody lags, or the
        *budget* is spent.  Returns the cost."""
        cost = 0
        while self.line and self._queue.is_free and cost < budget:
            subscription = next(iter(self.line))
            # NOTE: One step, as an interrupt may strike between two: who is ASIDE stands in line.
            self.line.move_to_end(subscription)
            cost += subscription._members.serve(subscription)
        self._queue.turn_over()
        return cost

    @property
    def is_waiting(self) -> bool:
        """Whether somebody could be written to at once."""
        return bool(self.line) and self._queue.is_free

    @property
    def has_caught_up(self) -> bool:
        """Whether all that was published has been written to the transport."""
        return not self.line and not self._queue.buffered_amount

    def stop(self) -> None:
        """Nobody is written to any more, so nobody needs to be waited for."""
        self._queue.leave_line(self)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in tuple(self.subscriptions):
            subscription.close()

    def _on_closed(self) -> None:
        self.is_over = True
        if len(self.subscriptions) <= _ENDED_AT_ONCE:
            self.close()
        else:
            self._pump.do_later(self._end())

    def _end(self) -> Iterator[int]:
        """End all subscriptions, some at a time."""
        # Each is let go of as soon as it has ended: all at once would take as long again.
        left = list(self.subscriptions)
        while left:
            left.pop().close()
            yield _COST_OF_END

    def _on_drained(self) -> None:
        if self.line:
            self._pump.free(self)
        else:
            self._pump.wake()  # somebody may wait for what was queued
