"""Work that servers do for topics, counted: virtual time does not see it.

What is counted are writes, their bytes, frames that are encoded, and passes over a topic, at what
each of them takes; so `checks` can say how much was done for others before a publication was
written to somebody who could be written to.

Rules kept here: nothing is asked of trioweb's own counts, which may be what is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from trioweb import Hub, Subscription, Topic
from trioweb._link import SendQueue
from trioweb._topics import _pump

# In microseconds, as measured.
_WRITE: Final = 4.0
_KIB: Final = 1.0
_ENCODING: Final = 2.0
_KIB_ENCODED: Final = 4.0
_PASS: Final = 6.0

# What may be done for others before a publication is written: about a millisecond for links that
# are free and for topics in front, and as much again for the slices that end beyond their bounds.
MOST_WORK: Final = 2000.0


class Meter:
    """The work of the hubs of a run, and who waits for it.

    Args:
        too_late: is called with a subscription for which too much was done for others.
    """

    def __init__(self, too_late: Callable[[Subscription, float], None]) -> None:
        self.written = 0
        self.most = 0.0
        self._too_late = too_late
        # Of each hub, and of that for each queue.
        self._total: defaultdict[Hub, float] = defaultdict(float)
        self._own: defaultdict[SendQueue, float] = defaultdict(float)
        self._hubs: dict[SendQueue, Hub] = {}
        self._subscriptions: defaultdict[Topic, list[Subscription]] = defaultdict(list)
        # Who is to be written what: the offset, and what had been done for others before.
        self._waiting: defaultdict[Hub, dict[Subscription, tuple[int, float]]] = defaultdict(dict)

    def subscribed(self, subscription: Subscription) -> None:
        queue = subscription.connection.link.queue
        self._hubs[queue] = subscription.topic._hub
        self._subscriptions[subscription.topic].append(subscription)

    def published(self, topic: Topic, offset: int) -> None:
        hub = topic._hub
        owed = [one for one in self._subscriptions[topic] if hub._is_owed(one, offset)]
        self._subscriptions[topic] = owed
        for subscription in owed:
            if subscription.connection.link.queue.writable:
                before = self._done_for_others(subscription)
                self._waiting[hub].setdefault(subscription, (offset, before))

    def encoded(self, topic: Topic, size: int) -> None:
        self._total[topic._hub] += _ENCODING + _KIB_ENCODED * size / 1024

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is written and passed over, for the length of a block."""
        offer: Any = SendQueue.offer
        make_pass: Any = vars(_pump)["make_pass"]

        def count_offer(queue: SendQueue, data: bytes) -> Any:
            hub = self._hubs.get(queue)
            if hub is not None:
                self._look(hub)
                cost = _WRITE + _KIB * len(data) / 1024
                self._total[hub] += cost
                self._own[queue] += cost
            return offer(queue, data)

        def count_pass(topic: Topic) -> Iterator[int]:
            self._look(topic._hub)
            self._total[topic._hub] += _PASS
            yield from make_pass(topic)

        for owner, name, counting in (
            (SendQueue, "offer", count_offer),
            (_pump, "make_pass", count_pass),
        ):
            setattr(owner, name, counting)
        try:
            yield
        finally:
            for owner, name, original in (
                (SendQueue, "offer", offer),
                (_pump, "make_pass", make_pass),
            ):
                setattr(owner, name, original)

    def _look(self, hub: Hub) -> None:
        """See who was written to, and for whom too much was done before."""
        waiting = self._waiting[hub]
        for subscription, (offset, before) in tuple(waiting.items()):
            work = self._done_for_others(subscription) - before
            if subscription.cursor >= offset:
                self.written += 1
                self.most = max(self.most, work)
            elif not (
                hub._is_owed(subscription, offset) and subscription.connection.link.queue.writable
            ):
                pass  # it waits for its peer, and not for others
            elif work > MOST_WORK:
                self._too_late(subscription, work)
            else:
                continue
            del waiting[subscription]

    def _done_for_others(self, subscription: Subscription) -> float:
        queue = subscription.connection.link.queue
        return self._total[self._hubs[queue]] - self._own[queue]
