"""Ctrl-C at every line: what a program makes of an interrupt, wherever it strikes.

Python delivers a signal between two instructions, so an interrupt can strike at any line, in
whichever task happens to run.  Trio lets it strike there unless the code is protected, and hands it
to the main task otherwise.  Here a real SIGINT is raised at one line after the other, and Trio's
own handler decides.
"""

from __future__ import annotations

import dis
import gc
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from random import Random
from types import CodeType, FrameType
from typing import Any, Final

import trio
import trio.testing

from .._error_groups import leaves
from ._scheduling import deterministic

# What runs for longer, by the clock of the run, will not end any more.
_MAX_SECONDS: Final = 7 * 86_400
# Nothing waits for a time any more, and so long, by the real clock, nothing else has come either.
_MAX_IDLE_SECONDS: Final = 10


def interrupt_everywhere(
    scenario: Callable[[], Awaitable[object]],
    *,
    packages: Sequence[str] = ("trioweb",),
    max_runs: int | None = None,
    seed: int = 0,
) -> int:
    """Run *scenario* again and again, each time with a SIGINT at another line.

    Each run is a `trio.run` of its own in virtual time, so this is called by a test that is not
    async.  Of each line the first and the last time that each task passes it are tried.  A
    `KeyboardInterrupt` must come out of the run: by itself, or in a group if the scenario has
    nurseries of its own.

    Args:
        scenario: an async function without arguments, which ends by itself.  It does its I/O on
            networks and streams in memory, such as `Network`.
        packages: names of the modules and packages whose lines count, such as ("trioweb", "chat")
            with your own; of trioweb all but its `testing`, by default.
        max_runs: no more than so many of the lines, which *seed* chooses; None for all.
        seed: for the order in which Trio runs tasks, too.

    Returns:
        How many runs were interrupted.

    Raises:
        AssertionError: an interrupt was swallowed, or replaced by something else; the run hung, or
            left something open; Trio failed.  The text names the line and the task.
        RuntimeError: this was not called in the main thread.
        What the scenario itself raises where nothing interrupts it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Trio can be interrupted only in the main thread")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _interrupt_everywhere(scenario, packages, max_runs, seed)
    finally:
        signal.signal(signal.SIGINT, handler)


def _interrupt_everywhere(
    scenario: Callable[[], Awaitable[object]],
    packages: Sequence[str],
    max_runs: int | None,
    seed: int,
) -> int:
    with deterministic(seed):
        trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    tracer = _Tracer(packages)
    with deterministic(seed), tracer.installed():
        trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    moments = sorted({moment for pair in tracer.passed.values() for moment in pair})
    if max_runs is not None and len(moments) > max_runs:
        moments = sorted(Random(seed).sample(moments, max_runs))
    struck = 0
    with _frozen():
        for moment in moments:
            tracer = _Tracer(packages, moment)
            with deterministic(seed):
                fault = _run_interrupted(scenario, tracer)
            if tracer.where is not None:
                struck += 1
                if fault is not None:
                    raise AssertionError(f"an interrupt at {tracer.where}: {fault}")
    if not struck:
        raise AssertionError(f"the scenario runs no line of {', '.join(packages)}")
    return struck


class _Tracer:
    """Counts the lines that run; at the one numbered *strike_at* it raises SIGINT.

    Attributes:
        passed: for each line and task the numbers of the first and the last time.
        where: the line that was struck, in words.
    """

    def __init__(self, packages: Sequence[str], strike_at: int = 0) -> None:
        self.passed: dict[tuple[CodeType, int, str], tuple[int, int]] = {}
        self.where: str | None = None
        self._packages = packages
        self._strike_at = strike_at
        self._count = 0
        self._chosen: dict[CodeType, bool] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        chosen = self._chosen.get(code)
        if chosen is None:
            chosen = self._chosen[code] = self._is_chosen(frame.f_globals.get("__name__", ""))
        return self._line if chosen else None

    def _is_chosen(self, module: str) -> bool:
        def within(package: str) -> bool:
            return f"{module}.".startswith(f"{package}.")

        own = any(package.startswith(_TESTING) for package in self._packages)
        return any(map(within, self._packages)) and (own or not within(_TESTING))

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "line" or frame.f_lasti in _never_interrupted(frame.f_code):
            return self._line
        self._count += 1
        if not self._strike_at:
            key = frame.f_code, frame.f_lineno, _task_name()
            first, _ = self.passed.get(key, (self._count, 0))
            self.passed[key] = first, self._count
        elif self._count == self._strike_at:
            code = frame.f_code
            self.where = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}, {_task_name()}"
            sys.settrace(None)
            frame.f_trace = None
            signal.raise_signal(signal.SIGINT)
            return None
        return self._line


@cache
def _never_interrupted(code: CodeType) -> frozenset[int]:
    """Offsets in *code* at which a line begins, but at which Python does not look for signals.

    It looks when a function begins or goes on, after a call, and when it jumps back: not between
    the end of a `with` block and the call of `__exit__`, nor at a bare `try`.  Whoever raised
    there would break what Python itself keeps whole.
    """
    found = set()
    kept = [each for each in dis.get_instructions(code) if each.opname not in _NO_INSTRUCTIONS]
    for number, instruction in enumerate(kept):
        following = kept[number : number + 4]
        names = [each.opname for each in following]
        leaves_with = names[:3] == ["LOAD_CONST"] * 3 and all(
            each.argval is None for each in following[:3]
        )
        if (leaves_with and names[3:] and "CALL" in names[3]) or "WITH_EXCEPT_START" in names[:2]:
            found.add(instruction.offset)
    found.update(each.offset for each in dis.get_instructions(code) if each.opname == "NOP")
    return frozenset(found)


# These take part in no line's work.
_NO_INSTRUCTIONS: Final = frozenset({"CACHE", "EXTENDED_ARG", "NOP"})
_TESTING: Final = __name__.rpartition(".")[0]


def _task_name() -> str:
    try:
        return f"task {trio.lowlevel.current_task().name}"
    except RuntimeError:
        return "between tasks"


class _Hung(Exception):
    """The run will not end any more."""


class _Watch(trio.abc.Instrument):
    """Ends a run that hangs: by an error of its clock, which Trio does not survive."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self._sleep_time = self.clock.deadline_to_sleep_time
        self._idle_since: float | None = None
        # Trio's clocks cannot be derived from.
        vars(self.clock)["deadline_to_sleep_time"] = self._look

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._idle_since = None

    def _look(self, deadline: float) -> float:
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        if self.clock.current_time() > _MAX_SECONDS or (
            deadline == math.inf and now > self._idle_since + _MAX_IDLE_SECONDS
        ):
            raise _Hung(f"the run hangs:{_tasks()}")
        return self._sleep_time(deadline)


def _tasks() -> str:
    """Which tasks there are, and where each of them waits."""
    found = ""
    root = trio.lowlevel.current_root_task()
    tasks = [] if root is None else [root]
    while tasks:
        task = tasks.pop()
        tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        frames = [f"{frame.f_code.co_name}:{line}" for frame, line in task.iter_await_frames()]
        found += f"\n    {task.name}: {' > '.join(frames)}"
    return found


def _run_interrupted(scenario: Callable[[], Awaitable[object]], tracer: _Tracer) -> str | None:
    """Run *scenario* under *tracer*; return what is wrong with how that ended.

    Raises:
        What comes out of it, if it was not interrupted.
    """
    watch = _Watch()
    left: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: left.append(repr(args.exc_value))
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ResourceWarning)
            try:
                with tracer.installed():
                    trio.run(scenario, clock=watch.clock, instruments=[watch])
                fault = "it was swallowed"
            except BaseException as exc:
                if tracer.where is None:
                    raise
                fault = _judge(exc)
            gc.collect()
    finally:
        sys.unraisablehook = hook
    left += [str(each.message) for each in said if issubclass(each.category, ResourceWarning)]
    return fault or (f"left behind: {'; '.join(left)}" if left else None)


def _judge(error: BaseException) -> str:
    """What is wrong with *error*, as what comes out of an interrupted run; "" if nothing is."""
    if isinstance(error, trio.TrioInternalError):
        return str(error.__cause__) if isinstance(error.__cause__, _Hung) else repr(error)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(error)):
        return ""
    return f"{error!r} came out instead"


@contextmanager
def _frozen() -> Iterator[None]:
    """Let the collector pass over what is there already, which takes most of its time.

    A program that has done so itself keeps that, and what is frozen along: then the larger part is
    frozen before.  Python 3.12 begins with some hundreds of its own objects.
    """
    keeps = gc.get_freeze_count() > len(gc.get_objects())
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not keeps:
            gc.unfreeze()
