"""How much may be unconfirmed, when the server is asked, and how seconds of reading are counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb._client._confirmation import MAX_WINDOW, Confirmation, ReadingTime


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 3)), min_size=1, max_size=30))
def test_never_is_more_in_flight_than_the_window_and_all_of_it_is_asked_about(
    rounds: list[tuple[int, float]],
) -> None:
    confirmation = Confirmation(20)
    now = 0.0
    confirmation.begin(now, 0)
    sent = settled = 0
    for count, seconds in rounds:
        asked = 0
        while count and (room := confirmation.room(sent, settled)) > 0:
            written = min(count, room)
            sent += written
            count -= written
            assert sent - settled <= confirmation.window <= MAX_WINDOW
            if confirmation.is_due(sent, written):
                confirmation.asked(now, sent)
                asked += 1
        if not confirmation.is_asked(sent):
            # As the outbox has run empty.
            assert not count
            confirmation.asked(now, sent)
            asked += 1
        now += seconds
        for _ in range(asked):
            before = confirmation.window
            settled = confirmation.confirmed(now)
            assert confirmation.window in (before, 2 * before, MAX_WINDOW)
            assert confirmation.window == before or seconds <= 1
        assert settled == sent
        assert confirmation.deadline(now, None) == math.inf


def test_each_session_begins_with_one_message() -> None:
    confirmation = Confirmation(20)
    confirmation.begin(0, 0)
    for number in range(1, 4):
        confirmation.asked(0, number)
        confirmation.confirmed(0)
    assert confirmation.room(3, 3) > 1
    confirmation.finish(0, None)
    confirmation.begin(0, 3)
    assert (confirmation.window, confirmation.room(3, 3), confirmation.room(4, 3)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("pauses", "reached_at"),
    [
        ([], 20),
        # Short pauses count, and long ones do not; they are not the end of what was counted.
        ([(5, 6.5)], 20),
        ([(5, 9)], 24),
        ([(5, 9), (10, 11), (15, 100)], 109),
        # A moment is read from in any case before it is over.
        ([(5, 9), (23.95, 60)], 60.1),
    ],
)
def test_reading_time_leaves_out_long_pauses(
    pauses: list[tuple[float, float]], reached_at: float
) -> None:
    reading = ReadingTime(0, short=2)
    for paused_at, resumed_at in pauses:
        assert reading.reaches(20) > paused_at
        reading.look(paused_at, paused_at)
        assert reading.reaches(20) == math.inf
        reading.look(resumed_at, None)
    assert reading.reaches(20) == pytest.approx(reached_at)


def test_reading_time_sees_a_pause_that_follows_another_at_once() -> None:
    reading = ReadingTime(0, short=2)
    reading.look(1, 1)
    # It was read from in between, and nobody looked.
    reading.look(5, 2.5)
    reading.look(6, None)
    assert reading.reaches(20) == pytest.approx(6 + 20 - 1 - 1.5)


def test_reading_time_is_judged_at_a_pause_that_comes_when_it_is_reached() -> None:
    reading = ReadingTime(0, short=2)
    reading.look(10, 10)
    reading.look(12, None)
    reading.look(20, 20)
    assert reading.reaches(20) <= 20


def test_patience_doubles_after_a_timeout_and_ends_with_a_pong_in_time() -> None:
    confirmation = Confirmation(20)
    patience = []
    now = 0.0
    for _ in range(5):
        confirmation.begin(now, 0)
        confirmation.asked(now, 1)
        assert confirmation.deadline(now, None) == now + confirmation.timeout
        now += confirmation.timeout
        confirmation.finish(now, None)
        patience.append(confirmation.patience)
    assert patience == [2, 4, 8, 8, 8]
    confirmation.begin(now, 0)
    confirmation.asked(now, 1)
    confirmation.confirmed(now + 19)
    assert confirmation.patience == 1
    # A session that was shorter says nothing of how slow the server is.
    confirmation.asked(now + 19, 2)
    confirmation.finish(now + 38, None)
    assert confirmation.patience == 1


def test_session_that_ends_with_all_confirmed_says_nothing_of_how_slow_the_server_is() -> None:
    confirmation = Confirmation(20)
    confirmation.begin(0, 0)
    confirmation.asked(0, 1)
    confirmation.confirmed(1)
    confirmation.finish(100, None)
    assert confirmation.patience == 1


def test_first_ping_after_a_silence_has_all_its_time() -> None:
    confirmation = Confirmation(20)
    confirmation.begin(0, 0)
    confirmation.asked(100, 1)
    assert confirmation.deadline(100, None) == 120
