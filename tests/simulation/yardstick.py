"""Hashes of every byte and event of repeatable runs: `python -m tests.simulation.yardstick`.

A change that is not meant to change what trioweb does, a module that moves or a class that is
split, changes none of them.  The runs are simulations, and the scripts of `tests/test_conformance`
over streams in memory.  TLS is not among them: what OpenSSL makes follows from no seed.

Rules kept here: a run is seen from outside, as its streams see it; nothing here knows what goes
on in a link.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final
from weakref import WeakKeyDictionary

import pytest
import trio
import trio.testing

from trioweb.testing import MemoryStream, Trace, deterministic

from .runner import run
from .scenario import Scenario

_ROOT: Final = Path(__file__).parents[2]
_SCRIPTS: Final = "tests/test_conformance.py"
_IN_MEMORY: Final = "memory and not tls and not filtered"
_STREAMS: Final = (
    MemoryStream,
    trio.testing.MemorySendStream,
    trio.testing.MemoryReceiveStream,
)


class Witness:
    """What the streams of one run are given, and what they give, as one hash."""

    def __init__(self) -> None:
        self.events = 0
        self._hash = hashlib.sha256()
        # Streams have numbers, in the order in which they are first used.
        self._numbers: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._next = itertools.count()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]

    def note(self, *facts: object) -> None:
        """Hash *facts*, and when that was if the time is virtual."""
        at = None
        if trio.lowlevel.in_trio_run() and isinstance(
            trio.lowlevel.current_clock(), trio.testing.MockClock
        ):
            at = trio.current_time()
        self._hash.update(repr((at, *facts)).encode())
        self.events += 1

    @contextmanager
    def watching(self, seed: int) -> Iterator[None]:
        """Hash what is run in this block, which *seed* decides."""
        note = Trace.note

        def note_trace(trace: Trace, *facts: Any) -> None:
            self.note(*facts)
            note(trace, *facts)

        with deterministic(seed), pytest.MonkeyPatch.context() as patches:
            # The key of an opening handshake is not trioweb's to choose, nor is what Date says.
            patches.setattr(os, "urandom", Random(f"{seed} keys").randbytes)
            patches.setattr(time, "time", lambda: 1e9)
            patches.setattr(Trace, "note", note_trace)
            for kind in _STREAMS:
                for name in {"send_all", "receive_some", "send_eof"} & vars(kind).keys():
                    patches.setattr(kind, name, self._seen(vars(kind)[name]))
                patches.setattr(kind, "close", self._seen_close(vars(kind)["close"]))
            yield

    def _see(self, stream: object, event: str, *facts: object) -> None:
        if stream not in self._numbers:
            self._numbers[stream] = next(self._next)
        self.note(self._numbers[stream], event, *facts)

    def _seen(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """*method*, with what it is given and what it gives hashed."""
        name = method.__name__

        @functools.wraps(method)
        async def call(stream: object, *given: Any) -> Any:
            data = [bytes(each) for each in given if isinstance(each, (bytes, memoryview))]
            self._see(stream, name, *data)
            try:
                result = await method(stream, *given)
            except BaseException as exc:
                self._see(stream, f"{name} raised", type(exc).__name__)
                raise
            self._see(stream, f"{name} returned", bytes(result or b""))
            return result

        return call

    def _seen_close(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def close(stream: object) -> None:
            self._see(stream, "close")
            method(stream)

        return close


class _Scripts:
    """A plugin of pytest's that hashes each test."""

    def __init__(self) -> None:
        self.found: dict[str, Witness] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        witness = self.found[item.name] = Witness()
        with witness.watching(0):
            return (yield)


def measure_seed(seed: int) -> tuple[str, str, int]:
    """The name of a run of the simulation, its hash, and how many events are in that."""
    witness = Witness()
    with witness.watching(seed):
        # What is encrypted is never the same twice.
        result, _ = run(replace(Scenario.of(seed), secure=False))
    witness.note(str(result))
    return f"seed {seed}", witness.digest, witness.events


def measure_seeds(seeds: Iterable[int], processes: int) -> Iterator[tuple[str, str, int]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(measure_seed, seeds, chunksize=5)


def measure_scripts() -> Iterator[tuple[str, str, int]]:
    """The same for each script over streams in memory."""
    scripts = _Scripts()
    options = ["-q", "-p", "no:cacheprovider", "-k", _IN_MEMORY, "--rootdir", str(_ROOT)]
    if pytest.main([*options, str(_ROOT / _SCRIPTS)], plugins=[scripts]):
        raise SystemExit("the scripts fail")
    for name, witness in sorted(scripts.found.items()):
        yield name, witness.digest, witness.events


def main() -> int:
    parser = argparse.ArgumentParser(description="Hash every byte and event of repeatable runs.")
    parser.add_argument("--seeds", type=int, default=100, help="of the simulation (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--each", action="store_true", help="a line for each run, to be compared")
    options = parser.parse_args()
    kinds = {
        "scripts": measure_scripts(),
        "seeds": measure_seeds(range(options.seeds), options.processes),
    }
    for kind, runs in kinds.items():
        total, count, events = hashlib.sha256(), 0, 0
        for name, digest, size in runs:
            if options.each:
                print(f"{digest} {size:8} {name}")
            total.update(digest.encode())
            count += 1
            events += size
        print(f"{total.hexdigest()[:16]} {events:8} events of {count} {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
