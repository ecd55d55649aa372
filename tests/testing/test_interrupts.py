"""Interrupts at every line: what is found, and what a run is spared."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from trioweb.testing import _interrupts, interrupt_everywhere

_HERE = (__name__,)


async def three_lines() -> None:
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


def test_each_line_is_struck_once_and_one_that_runs_again_twice() -> None:
    assert interrupt_everywhere(three_lines, packages=_HERE) == 3

    async def loop() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()

    assert interrupt_everywhere(loop, packages=_HERE) == 4


def test_max_runs_bounds_the_runs() -> None:
    assert interrupt_everywhere(three_lines, packages=_HERE, max_runs=2) == 2


def test_with_block_that_is_left_is_always_left() -> None:
    """Its end is a line of its own, at which Python does not look for signals."""
    entered: list[None] = []
    left: list[None] = []

    async def scenario() -> None:
        assert len(left) >= len(entered), "of the run before"
        entered.clear()
        left.clear()
        thing = SimpleNamespace(close=partial(left.append, None))
        with closing(thing):
            entered.append(None)
            for _ in range(2):
                await trio.lowlevel.checkpoint()

    assert interrupt_everywhere(scenario, packages=_HERE) > 4
    assert len(left) >= len(entered)


async def swallow() -> None:
    try:
        await trio.sleep(1)
    except KeyboardInterrupt:
        pass


async def leave_open() -> None:
    try:
        await trio.sleep(1)
    except KeyboardInterrupt:
        os.fdopen(os.dup(0))
        raise


async def stay() -> None:
    try:
        await trio.sleep(1)
    except KeyboardInterrupt:
        for _ in range(10_000):
            await trio.sleep(1000)


async def break_trio() -> None:
    try:
        await trio.sleep(1)
    except KeyboardInterrupt:
        trio.lowlevel.reschedule(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("scenario", "complaint"),
    [
        (swallow, "it was swallowed"),
        (leave_open, "left behind: unclosed file"),
        (stay, "the run hangs"),
        (break_trio, "TrioInternalError"),
    ],
)
def test_interrupt_that_does_not_come_out_well_is_told_with_its_line(
    scenario: Callable[[], Awaitable[None]], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint) as caught:
        interrupt_everywhere(scenario, packages=_HERE)
    assert f"in {scenario.__name__}, task" in str(caught.value)


def test_error_that_takes_the_place_of_an_interrupt_is_told() -> None:
    async def scenario() -> None:
        try:
            await trio.sleep(1)
        except KeyboardInterrupt as exc:
            raise ValueError("instead") from exc

    with pytest.raises(AssertionError, match=r"ValueError\('instead'\) came out instead"):
        interrupt_everywhere(scenario, packages=_HERE)


def test_run_that_waits_for_nothing_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_interrupts, "_MAX_IDLE_SECONDS", 0.05)

    async def scenario() -> None:
        try:
            await trio.sleep(1)
        except KeyboardInterrupt:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

    with pytest.raises(AssertionError, match=r"the run hangs:(\n.*)*scenario:\d+ > sleep_forever"):
        interrupt_everywhere(scenario, packages=_HERE)


def test_error_of_the_scenario_itself_comes_out_as_it_is() -> None:
    async def scenario() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        interrupt_everywhere(scenario, packages=_HERE)


def test_lines_that_no_package_has_are_an_error() -> None:
    with pytest.raises(AssertionError, match="runs no line of nowhere"):
        interrupt_everywhere(three_lines, packages=["nowhere"])


def test_another_thread_than_the_main_one_is_refused() -> None:
    errors: list[BaseException] = []

    def call() -> None:
        try:
            interrupt_everywhere(three_lines, packages=_HERE)
        except RuntimeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in str(errors)


@pytest.mark.parametrize("frozen", ["the smaller part", "the larger part"])
def test_collector_passes_over_what_was_there_before(frozen: str) -> None:
    """Also where some of it is frozen: Python 3.12 has some of its own, and a program may."""
    looked_at: list[int] = []

    async def scenario() -> None:
        looked_at.append(len(gc.get_objects()))
        await trio.lowlevel.checkpoint()

    assert gc.get_freeze_count() > 20_000, "tests/conftest.py froze nothing"
    count = gc.get_freeze_count() if frozen == "the smaller part" else 10_000
    there: list[list[None]] = [[] for _ in range(count)]
    try:
        assert interrupt_everywhere(scenario, packages=_HERE) == 2
        assert looked_at[-1] < 10_000
    finally:
        there.clear()
        gc.freeze()


def test_what_a_program_has_frozen_stays_frozen() -> None:
    frozen = gc.get_freeze_count()
    interrupt_everywhere(three_lines, packages=_HERE)
    assert gc.get_freeze_count() > frozen / 2 > 1_000


def test_handler_and_trace_function_are_put_back() -> None:
    def handler(number: int, frame: object) -> None:
        raise AssertionError

    before, trace = signal.signal(signal.SIGINT, handler), sys.gettrace()
    try:
        interrupt_everywhere(three_lines, packages=_HERE)
        assert signal.getsignal(signal.SIGINT) is handler
        assert sys.gettrace() is trace
    finally:
        signal.signal(signal.SIGINT, before)
