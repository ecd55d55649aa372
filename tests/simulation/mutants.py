"""Mutants: each switches off one thing that trioweb does, to prove that the checks can fail."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NoReturn, TypeAlias

from trioweb import Connection, Recovery, Topic
from trioweb._client._confirmation import MAX_WINDOW, Confirmation
from trioweb._client._outbox import OutboxQueue
from trioweb._client._retry import Schedule
from trioweb._heartbeat import Lookout
from trioweb._server._handling import Handling
from trioweb._topics import Since, _delivery, _placing
from trioweb._topics._pump import Pump
from trioweb._topics._retention import Retention
from trioweb._topics._subscription import Subscription

_begin = Confirmation.begin
_serve = Pump._serve
_find = _placing.find


class _Leak(BaseException):
    """What nobody contains."""


def _forget_what_is_in_flight(self: OutboxQueue) -> None:
    self.settle(self.sent)


def _look_at_nothing(self: Lookout, now: float) -> None:
    self.due = math.inf


def _wait_for_ever(self: Confirmation, now: float, paused_at: float | None) -> float:
    return math.inf


def _open_the_window_at_once(self: Confirmation, now: float, settled: int) -> None:
    _begin(self, now, settled)
    self.window = MAX_WINDOW


def _keep_the_window(self: Confirmation, now: float, settled: int) -> None:
    before = self.window
    _begin(self, now, settled)
    self.window = before


def _call_everything_stable(self: Schedule, seconds: float) -> None:
    self.attempts = 0


def _skip_in_silence(self: Subscription, cursor: int, count: int) -> None:
    self.cursor = max(self.cursor, cursor)


def _serve_without_bound(self: Pump, budget: int) -> int:
    return _serve(self, sys.maxsize)


def _reserve_nothing(self: Retention, topic: Topic, size: int) -> None:
    pass


def _call_it_recovered(topic: Topic, since: Since | None, history: int) -> Recovery:
    return replace(_find(topic, since, history), recovered=True)


def _evict_in_silence(subscription: Subscription) -> None:
    pass


def _contain_nothing(self: Handling, error: Exception, connection: Connection) -> NoReturn:
    raise _Leak from error


# What to replace, and by what, for each name.
Mutants: TypeAlias = dict[str, tuple[object, str, Callable[..., Any]]]

MUTANTS: Final[Mutants] = {
    "nothing is sent again": (OutboxQueue, "rewind", _forget_what_is_in_flight),
    "no heartbeat": (Lookout, "look", _look_at_nothing),
    "a confirming ping may stay unanswered": (Confirmation, "deadline", _wait_for_ever),
    "confirmation does not start slowly": (Confirmation, "begin", _open_the_window_at_once),
    "deaths do not shrink the window": (Confirmation, "begin", _keep_the_window),
    "every connection counts as stable": (Schedule, "opened_for", _call_everything_stable),
    "skipped publications are not counted": (Subscription, "_pass_over", _skip_in_silence),
    "a judged subscriber is not counted": (_delivery, "_tell_of_eviction", _evict_in_silence),
    "links are served without bound": (Pump, "_serve", _serve_without_bound),
    "memory of topics in use is not bounded": (Retention, "reserve", _reserve_nothing),
    "a forgotten position is called recovered": (_placing, "find", _call_it_recovered),
    "a handler's error is not contained": (Handling, "_contain", _contain_nothing),
}


@contextmanager
def mutated(name: str, mutants: Mutants = MUTANTS) -> Iterator[None]:
    """Let a mutant live for the length of a block."""
    owner, attribute, replacement = mutants[name]
    original = getattr(owner, attribute)
    setattr(owner, attribute, replacement)
    try:
        yield
    finally:
        setattr(owner, attribute, original)
