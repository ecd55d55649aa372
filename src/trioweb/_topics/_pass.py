"""A pass: what the pump does with a topic that has news, or whose publications come of age.

It writes to every subscriber that can be written to, drops what retention does not keep and
nobody still has time to take, and judges those who needed that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from .._observer import Observer, tell
from ._life import trim
from ._subscription import ASIDE

if TYPE_CHECKING:
    from ._topic import Topic

# What a pass costs that finds nobody to write to, in the units of `_shape`.
_COST_OF_PASS: Final = 24
# So many publications are dropped at a time; about as costly as so many of those units.
_TRIMMED_AT_ONCE: Final = 512
# Where retention began is remembered so many times within the patience of a topic.
_LOOKS_PER_PATIENCE: Final = 8


def make_pass(topic: Topic) -> Iterator[int]:
    """Write to every member that can be written to, judge the others, drop what retention
    does not keep.  Yields what that has cost, so that others can have their turns."""
    topic._look = False
    # NOTE: What comes in during the pass is for the next one.
    log = topic._log
    head = log.head
    yield _COST_OF_PASS
    for members in tuple(topic._members.values()):
        yield from members.deliver(head)
    if log is not topic._log:
        return  # an encoding has ended this life of the topic; another one has its own passes
    topic._passed = head
    now = trio.current_time()
    yield from _let_go(topic, min(log.floor(now), head + 1), now)
    if log is topic._log:  # as above, but by those who were too slow
        expect_next(topic, now)
        topic._hub._retention.settle(topic)


def wants_pass(topic: Topic) -> bool:
    """Whether there is something that the last pass did not look at."""
    return topic._look or topic._log.head > topic._passed


def watch_pass(topic: Topic, work: Iterator[int], observer: Observer) -> Iterator[int]:
    """Do the *work* of a pass, and tell *observer* about it in the end."""
    first = topic._passed + 1
    seconds = 0.0
    begun_at = perf_counter()
    for cost in work:
        seconds += perf_counter() - begun_at
        yield cost
        begun_at = perf_counter()
    seconds += perf_counter() - begun_at
    tell(observer.on_pass, topic.name, range(first, topic._passed + 1), seconds)


def _let_go(topic: Topic, floor: int, now: float) -> Iterator[int]:
    """Drop what lies before *floor*, unless somebody needs it who still has time."""
    log = topic._log
    cursor = min((reader.cursor for reader in topic._readers), default=log.head)
    for members in tuple(topic._members.values()):
        least, cost = members.furthest_back()
        if least is not None:
            cursor = min(cursor, least)
        yield cost
    needed = max(log.first, cursor + 1)
    if needed < floor:
        floor = max(needed, _overdue(topic, floor, now))
    else:
        topic._late.clear()
        topic._is_spared = False
    for members in tuple(topic._members.values()):
        yield 1
        # Who could be written to waits for the pump, and not the pump for it.
        for subscription in members.behind(floor):
            if subscription._queue.is_free:
                floor = min(floor, subscription.cursor + 1)
            yield 1
    while log.first < floor:
        trim(topic, min(floor, log.first + _TRIMMED_AT_ONCE))
        yield _TRIMMED_AT_ONCE
    for members in tuple(topic._members.values()):
        yield 1
        for subscription in members.behind(log.first):
            if subscription._place is ASIDE and subscription.cursor < log.first - 1:
                yield members.judge(subscription)


def _overdue(topic: Topic, floor: int, now: float) -> int:
    """The place before which nobody may need anything any more: where retention began
    when the topic's patience began."""
    late, patience = topic._late, topic.retain.patience
    overdue = 0
    if late and not topic._is_spared and 0 < patience / 2 <= now - late[0][0] - patience:
        # Nobody looked when it was due: the process stood still, for those who lag as well.
        # Once, as where it is always late nobody would ever be slow.
        late.clear()
        topic._is_spared = True
    while late and late[0][0] + patience <= now:
        _, overdue = late.pop(0)
        topic._is_spared = False
    # Not each time, or very many would be remembered.
    if not late or now >= late[-1][0] + patience / _LOOKS_PER_PATIENCE:
        late.append((now, floor))
    return overdue


def expect_next(topic: Topic, now: float) -> None:
    """See that there is another look when somebody's time is over, or a publication's."""
    due = math.inf
    if topic.retain.max_age is not None:
        first = topic._log.floor(now)
        if first <= topic._log.head:
            due = topic._log.time(first) + topic.retain.max_age
    if topic._late:
        due = min(due, topic._late[0][0] + topic.retain.patience)
    if due < math.inf:
        topic._hub._pump.expect(topic, due)
