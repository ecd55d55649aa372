"""The pump: whose turn it is.

One task writes for all topics of a hub.  There are two kinds of work, topics with news and links
that are free again for those who lag, and each kind has its round: every topic and every link
gets a slice of work in its turn, however much more it has.  So neither a crowd that catches up
nor a topic with very many subscribers delays another topic by more than a few slices.

Costs are those of `_shape`: quarters of a microsecond, counted and not measured, so that a
simulation runs the same each time.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from time import perf_counter
from typing import TYPE_CHECKING, Final, NoReturn

import trio
from trio.lowlevel import enable_ki_protection

from .._histogram import SECONDS, Histogram
from .._observer import Observer
from ._pass import make_pass, wants_pass, watch_pass
from ._sink import Outlet
from ._turns import Turns

if TYPE_CHECKING:
    from ._subscription import Subscription
    from ._topic import Topic

# Between two checkpoints: a millisecond.
_TURN: Final = 4096
# So many topics whose time has come are touched at a time, which takes a quarter of that.
_TOUCHED_AT_ONCE: Final = 256
# What it costs to find that a link is not free any more.
_COST_OF_LOOK: Final = 2
# Of a turn for one topic or one link, before the next one's: about as long as it takes to write
# 64 KiB to three links, or to wake up for less.
_SLICE: Final = 1024


class Pump:
    """Delivers what is published.  `run` is its task.

    Attributes:
        is_running: whether anything will still be delivered.
        turns: the seconds for which it has held the loop at a time.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.is_running = True
        self.turns = Histogram(SECONDS)
        self._observer = observer
        self._turns: dict[Outlet, Turns] = {}
        # The two rounds, the next one first.
        self._topics: OrderedDict[Topic, None] = OrderedDict()
        self._links: OrderedDict[Turns, None] = OrderedDict()
        # What takes long and nobody waits for, one after the other; each tells its costs.
        self._chores: deque[Iterator[int]] = deque()
        # Passes that are under way.
        self._passes: dict[Topic, Iterator[int]] = {}
        # When topics want to be looked at, though nobody publishes: the earliest of each.
        self._agenda: list[tuple[float, int, Topic]] = []
        self._expected: dict[Topic, float] = {}
        self._number = 0
        self._work = trio.Event()
        self._rest = trio.Event()

    # What topics and links tell.

    def touch(self, topic: Topic) -> None:
        """*topic* has news, or something else that a pass looks after."""
        if topic not in self._topics:
            self._topics[topic] = None
            self._work.set()

    def expect(self, topic: Topic, due: float) -> None:
        """Have *topic* looked at at that time; only the earliest of several is remembered."""
        if self._expected.get(topic, math.inf) <= due:
            return
        if len(self._agenda) > 2 * len(self._expected) + 32:
            # Most have been replaced by earlier ones, or their topics are gone.
            self._agenda = [entry for entry in self._agenda if self._is_expected(entry)]
            heapify(self._agenda)
        self._expected[topic] = due
        self._number += 1
        heappush(self._agenda, (due, self._number, topic))
        if self._agenda[0][0] == due:
            self._work.set()  # it sleeps until a later time

    def forget(self, topic: Topic) -> None:
        """*topic* is over, or begins anew."""
        self._topics.pop(topic, None)
        self._passes.pop(topic, None)
        self._expected.pop(topic, None)

    def turns_of(self, queue: Outlet) -> Turns:
        """The turns of *queue*, which `left` ends."""
        turns = self._turns.get(queue)
        if turns is None:
            turns = self._turns[queue] = Turns(queue, self)
        return turns

    def free(self, turns: Turns) -> None:
        """Somebody can be written to who stands in line there."""
        self._links[turns] = None
        self._work.set()

    def not_free(self, turns: Turns) -> None:
        """Nobody can, or need be, any more."""
        self._links.pop(turns, None)
        self._work.set()  # somebody may wait for those who lag

    def left(self, queue: Outlet) -> None:
        """*queue* has no subscription any more."""
        del self._turns[queue]

    def do_later(self, chore: Iterator[int]) -> None:
        """Have *chore* done, some of it in each turn; at once, if there are no turns any more."""
        self._chores.append(chore)
        if self.is_running:
            self._work.set()
        else:
            self._do_chores(math.inf)

    def wake(self) -> None:
        """Something has changed that is waited for in `wait_rest`."""
        self._work.set()

    # What hubs ask.

    @property
    def links(self) -> Iterable[Turns]:
        """The turns of all links that have subscriptions."""
        return self._turns.values()

    def subscriptions_of(self, queue: Outlet) -> tuple[Subscription, ...]:
        """The subscriptions of *queue*."""
        turns = self._turns.get(queue)
        return () if turns is None else tuple(turns.subscriptions)

    def lagging(self, queue: Outlet) -> list[Subscription]:
        """The subscriptions of *queue* that have not been written all that was published."""
        turns = self._turns.get(queue)
        if turns is None or not self.is_running:
            return []
        return [subscription for subscription in turns.subscriptions if subscription.lag]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to be delivered at the moment."""
        return not self._topics and not self._links

    async def wait_rest(self) -> None:
        """Wait until there was nothing more to do for a moment."""
        await self._rest.wait()

    # The task.

    async def run(self) -> NoReturn:
        """Deliver until cancelled.

        From then on nothing is delivered any more, but what is published is taken all the same:
        who says good-bye while everything is cancelled must not get an error for it.
        """
        try:
            await self._run()
        finally:
            self.stop()

    def stop(self) -> None:
        """Deliver nothing any more; nobody waits for that."""
        self.is_running = False
        for turns in self._turns.values():
            turns.stop()
        self._do_chores(math.inf)
        self._rest.set()

    async def _run(self) -> NoReturn:
        spent = 0
        while True:
            await self._wait_work()
            self._work = trio.Event()
            if self._look_at_agenda():
                # After a pause of the process, links have drained that nobody knows of yet.
                await trio.lowlevel.checkpoint()
            if self._topics or self._links or self._chores:
                spent = await self._work_off(spent)
            self._rest.set()
            self._rest = trio.Event()

    async def _wait_work(self) -> None:
        """Wait until there is something to do, or the time has come for what is on the agenda."""
        if not self._agenda:
            # A scope would be a third of what a publication costs beside its encoding and writes.
            await self._work.wait()
            return
        with trio.CancelScope(deadline=self._agenda[0][0]):
            await self._work.wait()

    async def _work_off(self, spent: int) -> int:
        """Do all that there is to do, of which so much is *spent* since others could run; return
        how much is afterwards."""
        begun_at = perf_counter()
        while self._topics or self._links or self._chores:
            if self._chores:
                spent += self._do_chores(_SLICE)
            # To each kind half of the turn, and what the other one leaves.
            spent += self._serve(_TURN // 2 if self._topics else _TURN)
            spent += self._deliver(max(_TURN // 2, _TURN - spent))
            if spent >= _TURN:
                spent = 0
                self.turns.observe(perf_counter() - begun_at)
                await trio.lowlevel.checkpoint()
                self._look_at_agenda()
                begun_at = perf_counter()
        self.turns.observe(perf_counter() - begun_at)
        return spent

    # Nothing of it is left out.
    @enable_ki_protection
    def _do_chores(self, budget: float) -> int:
        """Go on with what nobody waits for; return the cost."""
        spent = 0
        while self._chores and spent < budget:
            cost = next(self._chores[0], None)
            if cost is None:
                self._chores.popleft()
            else:
                spent += cost
        return spent

    # An interrupt in the middle of these two would leave a frame cut, or who lags in no line.
    @enable_ki_protection
    def _serve(self, budget: int) -> int:
        """Write to those who lag, at links that are free; return the cost."""
        spent = 0
        while self._links and spent < budget:
            turns, _ = self._links.popitem(last=False)
            spent += turns.serve(_SLICE) + _COST_OF_LOOK
            if turns.is_waiting:
                self._links[turns] = None
        return spent

    @enable_ki_protection
    def _deliver(self, budget: int) -> int:
        """Go on with the passes of topics that have news; return the cost."""
        spent = 0
        while self._topics and spent < budget:
            topic = next(iter(self._topics))
            work = self._passes.get(topic)
            if work is None:
                work = make_pass(topic)
                if self._observer is not None:
                    work = watch_pass(topic, work, self._observer)
                self._passes[topic] = work
            spent += self._go_on(topic, work)
        return spent

    def _go_on(self, topic: Topic, work: Iterator[int]) -> int:
        """Give *topic* its slice of work; return the cost."""
        spent = 0
        for cost in work:
            spent += cost
            if spent >= _SLICE:
                break
        else:
            self._passes.pop(topic, None)
            if not wants_pass(topic):
                self._topics.pop(topic, None)
        if topic in self._topics:
            self._topics.move_to_end(topic)
        return spent

    def _is_expected(self, entry: tuple[float, int, Topic]) -> bool:
        due, _, topic = entry
        return self._expected.get(topic) == due

    def _look_at_agenda(self) -> bool:
        """Touch topics whose time has come, the others next time; return whether there were any."""
        now = trio.current_time()
        found = False
        for _ in range(_TOUCHED_AT_ONCE):
            if not self._agenda or self._agenda[0][0] > now:
                break
            entry = heappop(self._agenda)
            if self._is_expected(entry):
                del self._expected[entry[2]]
                self.touch(entry[2])
                found = True
        return found
