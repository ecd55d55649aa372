"""One measurement of one peer: start what is measured and its load, each on its core, and end both.

It knows how a figure is got, not what it is compared with.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import wire

_MAX_SECONDS = 120  # for one measurement, which takes a few
_MIN_BUSY = 0.9  # less than this means that others had the core, or the load was too slow


@dataclass(frozen=True)
class Cores:
    """Where the processes run."""

    measured: int
    load: int


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _started(
    core: int, module: str, *arguments: object, stdin: int | IO[bytes] | None = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our modules on a core, and end it whatever happens."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    ) as process:
        limit = threading.Timer(_MAX_SECONDS, process.kill)
        limit.start()
        try:
            os.sched_setaffinity(process.pid, {core})
            yield process
        finally:
            limit.cancel()
            process.kill()


def _figures(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError(f"it failed, or took more than {_MAX_SECONDS} s")
    return json.loads(line)


def _warn(figures: Any) -> None:
    if figures["busy"] < _MIN_BUSY:
        progress(f"  disturbed: what comes next ran for only {figures['busy']:.0%} of its time")


def _measure_server(peer: str, cores: Cores, load: list[object], **options: object) -> Any:
    """Put a load on a peer's server: each reads what the other writes."""
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with (
        _started(cores.load, "load", *load, stdin=subprocess.PIPE) as loading,
        _started(cores.measured, "servers", peer, *arguments, stdin=loading.stdout) as server,
    ):
        assert loading.stdin and loading.stdout and server.stdout
        loading.stdout.close()  # the server has it
        loading.stdin.write(server.stdout.readline())  # the port
        loading.stdin.close()
        figures = _figures(server)
        if loading.wait():
            raise ChildProcessError("the load did not receive what was sent")
        return figures


def fan_out(peer: str, cores: Cores, *, connections: int, size: int, burst: int) -> float:
    """Return the CPU time of the server for each delivery, in microseconds."""
    due = len(wire.text_frame("x" * size)) * connections * burst
    load: list[object] = ["subscribe", f"--connections={connections}", f"--due={due}"]
    options = {"connections": connections, "size": size, "burst": burst}
    figures = _measure_server(peer, cores, load, **options)
    _warn(figures)
    return float(figures["cpu"]) * 1e6


def idle(peer: str, cores: Cores, *, connections: int) -> float:
    """Return the private memory of the server for each connection, in KiB."""
    load: list[object] = ["stay", f"--connections={connections}"]
    figures = _measure_server(peer, cores, load, connections=connections, burst=0)
    return float(figures["bytes"]) / 1024


def receive(peer: str, cores: Cores, *, size: int, resilient: bool = False) -> float:
    """Return how many thousand messages the client receives in a second of its CPU time."""
    options = ["--resilient"] if resilient else []
    with (
        _started(cores.load, "load", "send", f"--size={size}") as loading,
        _started(cores.measured, "clients", peer, *options, stdin=loading.stdout) as client,
    ):
        figures = _figures(client)
    _warn(figures)
    return float(figures["rate"]) / 1e3


def resilience(peer: str, cores: Cores, *, question: str) -> float:
    """Return one of the figures of `benchmarks.resilience`, in its unit."""
    with _started(cores.measured, "resilience", question) as client:
        return float(_figures(client))
