"""The retry policy: how long, how often, and how many clients together."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from email.utils import format_datetime
from heapq import heapify, heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb import ConnectFailed, HandshakeRejected, Retry
from trioweb._client._retry import Schedule, seconds_to_wait

_seconds = st.floats(0.001, 1000)


class _Highest(Random):
    """Draws the upper bound, so that a test sees it."""

    def uniform(self, a: float, b: float) -> float:
        return b


@given(initial=_seconds, factor=st.floats(1, 1e6), seed=st.integers(), failures=st.integers(1, 80))
def test_next_delay_is_drawn_between_zero_and_a_bound_that_doubles(
    initial: float, factor: float, seed: int, failures: int
) -> None:
    retry = Retry(initial=initial, maximum=initial * factor)
    schedule, bounds = Schedule(retry, Random(seed)), Schedule(retry, _Highest())
    for n in range(failures):
        schedule.begin(0)
        bounds.begin(0)
        bound = bounds.next_delay(0)
        assert bound == min(retry.maximum, initial * 2**n)
        delay = schedule.next_delay(0)
        assert delay is not None and 0 <= delay <= (bound or 0)


def test_next_delay_is_drawn_evenly() -> None:
    schedule = Schedule(Retry(initial=1, maximum=1), Random(0))
    delays = [schedule.next_delay(0) or 0 for _ in range(4000)]
    tenths = Counter(int(delay * 10) for delay in delays)
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) < 1.25 * min(tenths.values())


@given(stable_after=_seconds, up=_seconds)
def test_count_begins_again_only_after_a_stable_connection(stable_after: float, up: float) -> None:
    schedule = Schedule(Retry(initial=1, maximum=64, stable_after=stable_after), _Highest())
    for _ in range(3):
        schedule.begin(0)
    schedule.opened_for(up)
    stable = up >= stable_after
    assert schedule.next_delay(0) == (1 if stable else 4)
    schedule.begin(0)
    assert schedule.attempts == (1 if stable else 4)


@given(max_attempts=st.integers(1, 50))
def test_next_delay_gives_up_after_max_attempts(max_attempts: int) -> None:
    schedule = Schedule(Retry(max_attempts=max_attempts), Random(0))
    delays = []
    for _ in range(max_attempts):
        schedule.begin(0)
        delays.append(schedule.next_delay(0))
    assert [delay is None for delay in delays] == [False] * (max_attempts - 1) + [True]


def test_max_attempts_counts_from_the_last_stable_connection() -> None:
    schedule = Schedule(Retry(max_attempts=2), Random(0))
    for _ in range(10):
        schedule.begin(0)
        schedule.opened_for(5)
        assert schedule.next_delay(0) is not None
    schedule.begin(0)
    assert schedule.next_delay(0) is not None
    schedule.begin(0)
    assert schedule.next_delay(0) is None


@given(start=st.floats(0, 1e6), max_elapsed=st.floats(1, 1e4), seed=st.integers())
def test_next_delay_gives_up_rather_than_begin_an_attempt_after_max_elapsed(
    start: float, max_elapsed: float, seed: int
) -> None:
    schedule = Schedule(Retry(max_elapsed=max_elapsed), Random(seed))
    now = start
    for _ in range(20_000):
        schedule.begin(now)
        assert now <= start + max_elapsed
        delay = schedule.next_delay(now)
        if delay is None:
            break
        now += delay
    assert delay is None
    # No wait is longer than 20 s, so it did not give up before it had to.
    assert now >= start + max_elapsed - 20


def test_max_elapsed_counts_from_the_last_stable_connection() -> None:
    schedule = Schedule(Retry(max_elapsed=10), _Highest())
    schedule.begin(0)
    schedule.opened_for(1000)
    assert schedule.next_delay(1000) == 0.5
    schedule.begin(1000.5)
    assert schedule.next_delay(1009.9) == 0.5
    assert schedule.next_delay(1010.1) is None


@given(retry_after=st.floats(0, 1e5), seed=st.integers())
def test_jitter_goes_on_top_of_retry_after(retry_after: float, seed: int) -> None:
    schedule = Schedule(Retry(), Random(seed))
    schedule.begin(0)
    delay = schedule.next_delay(0, retry_after)
    assert delay is not None and retry_after <= delay <= retry_after + 0.5


def test_retry_after_beyond_max_elapsed_gives_up() -> None:
    schedule = Schedule(Retry(max_elapsed=60), Random(0))
    schedule.begin(0)
    assert schedule.next_delay(0, 61) is None
    assert schedule.next_delay(0, 59) is not None


@pytest.mark.parametrize("seed", range(3))
def test_five_thousand_clients_do_not_storm_a_server_that_is_down(seed: int) -> None:
    clients, down = 5000, 300.0
    random = Random(seed)
    schedules = [Schedule(Retry(), random) for _ in range(clients)]
    agenda = []
    for number, schedule in enumerate(schedules):
        # The connection that was lost had been stable.
        schedule.begin(-1000)
        schedule.opened_for(1000)
        agenda.append((schedule.next_delay(0) or 0, number))
    heapify(agenda)
    attempts: Counter[int] = Counter()
    back = []
    while agenda:
        now, number = heappop(agenda)
        attempts[int(now)] += 1
        schedules[number].begin(now)
        if now >= down:
            back.append(now)
        else:
            heappush(agenda, (now + (schedules[number].next_delay(now) or 0), number))
    assert max(count for second, count in attempts.items() if second > 40) <= 1.5 * clients / 10
    assert len(back) == clients and max(back) <= down + 20


# Retry-After.


def wait_for(value: str, now: float = 0, **headers: str) -> float:
    fields = [("retry-after", value), *headers.items()]
    return seconds_to_wait(HandshakeRejected(503, fields), now)


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()
    later = format_datetime(datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC), usegmt=True)
    assert wait_for("30", now) == 30
    assert wait_for(later, now) == 30
    assert wait_for("Saturday, 21-Nov-26 12:00:30 GMT", now) == 30
    assert wait_for("Sat Nov 21 12:00:30 2026", now) == 30
    assert wait_for(later, now + 100) == 0


def test_retry_after_is_nothing_without_one() -> None:
    assert seconds_to_wait(HandshakeRejected(503), 0) == 0
    assert seconds_to_wait(ConnectFailed("refused"), 0) == 0


@pytest.mark.parametrize("ahead", [-86_000, 0, 86_000])
def test_retry_after_as_a_date_is_held_against_the_clock_of_who_sent_it(ahead: float) -> None:
    sent = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    date = format_datetime(sent, usegmt=True)
    later = format_datetime(sent.replace(minute=1), usegmt=True)
    assert wait_for(later, sent.timestamp() + ahead, date=date) == 60


def test_retry_after_as_a_date_is_held_against_our_clock_where_there_is_no_other() -> None:
    later = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
    value = format_datetime(later, usegmt=True)
    assert wait_for(value, later.timestamp() - 30, date="yesterday") == 30


@given(st.text() | st.from_regex(r"\w{3}, \d+ Nov \d{1,9} \d\d:\d\d:\d\d [+-]?\w{1,9}"))
def test_retry_after_that_makes_no_sense_is_no_error(value: str) -> None:
    assert 0 <= wait_for(value) <= 86_400
    assert 0 <= wait_for("Sat, 21 Nov 2026 12:00:30 GMT", date=value) <= 86_400


@pytest.mark.parametrize("value", ["86401", "9" * 12, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_a_day_at_most(value: str) -> None:
    assert wait_for(value) == 86_400


@pytest.mark.parametrize(
    "value", ["soon", "-5", "1.5", "²", "9" * 400, "Fri, 31 Dec 9999 23:59:59 -2359"]
)
def test_retry_after_ignores_what_is_neither(value: str) -> None:
    assert wait_for(value, 1e18) == 0
