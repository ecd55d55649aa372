"""One measurement of one peer: start what is measured and its load, each on its core, and end both.

It knows how a figure is got, not what it is compared with.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from . import wire
from .redis_server import run_redis
from .task import Task

_MAX_SECONDS = 120  # for one measurement, which takes a few
_PAIRS = 3  # where a few percent are asked about: the median of so many
_MIN_BUSY = 0.9  # less than this means that others had the core, or the load was too slow

Figures = dict[str, float]


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
    """Run one of our modules on a core, and end it and what it started whatever happens."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        process_group=0,
    ) as process:

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        limit = threading.Timer(_MAX_SECONDS, kill)
        limit.start()
        try:
            os.sched_setaffinity(process.pid, {core})
            yield process
        finally:
            limit.cancel()
            kill()


def _figures(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError(f"it failed, or took more than {_MAX_SECONDS} s")
    return json.loads(line)


def _warn(busy: float) -> None:
    if busy < _MIN_BUSY:
        progress(f"  disturbed: what comes next ran for only {busy:.0%} of its time")


def _write_certificate(folder: Path) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued = authority.issue_cert(wire.HOST)
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")


def _serve(peer: str, cores: Cores, task: Task) -> Any:
    """Put a load on a peer's server: the server reads what the load writes."""
    with tempfile.TemporaryDirectory() as scratch:
        if task.tls:
            _write_certificate(Path(scratch))
        argument = replace(task, scratch=scratch, load_core=cores.load).to_json()
        with (
            _started(cores.load, "load", argument, stdin=subprocess.PIPE) as loading,
            _started(cores.measured, "servers", peer, argument, stdin=loading.stdout) as server,
        ):
            assert loading.stdin and loading.stdout and server.stdout
            loading.stdout.close()  # the server has it
            loading.stdin.write(server.stdout.readline())  # the port
            loading.stdin.close()
            figures = _figures(server)
            if loading.wait():
                raise ChildProcessError("the load did not receive what was sent")
            return figures


def measure(peer: str, cores: Cores, task: Task) -> Figures:
    """Measure one peer once.

    Returns:
        The figures of the task's kind, by name, in the units of `cases.UNITS`.
    """
    if task.kind == "client":
        return _measure_client(peer, cores, task)
    if task.kind in ("reconnect", "idle-client"):
        with _started(cores.measured, "resilience", task.to_json()) as client:
            return {task.kind: float(_figures(client))}
    if task.kind == "import":
        with _started(cores.measured, "imports", peer) as importing:
            return dict(_figures(importing))
    if task.kind == "hub-memory":
        with _started(cores.measured, "hubs", task.to_json()) as filling:
            return {task.kind: float(_figures(filling))}
    if task.kind == "broker":
        return _measure_broker(peer, cores, task)
    if task.kind == "stalled":
        alone = _serve(peer, cores, replace(task, stalled=0))
        beside = _serve(peer, cores, task)
        return {
            "stalled": beside["stalled"] / 1024,
            "evicted": beside["evicted"] / 1024,
            "p99 beside": beside["p99"] / alone["p99"],
            "p99": beside["p99"],
            "p99 alone": alone["p99"],
        }
    if task.kind in DOORS:
        return _through_doors(peer, cores, task)
    found = _serve(peer, cores, task)
    match task.kind:
        case "publish":
            _warn(found["busy"])
            return {"cpu": found["cpu"] * 1e6}
        case "latency":
            return dict(found)
        case "receive":
            # Its load never pauses, so the server has no reason to.
            _warn(found["spent"] / found["elapsed"])
            return {"rate": found["count"] / found["spent"] / 1e3}
        case "echo":
            _warn(found["busy"])
            return {"rate": found["count"] / found["spent"] / 1e3, "p50": found["p50"]}
        case "connections":
            _warn(found["busy"])
            each = {part: found[part] / found["count"] * 1e6 for part in ("open", "close")}
            return {"open and close": sum(each.values())} | each
        case "storm":
            return {
                "caught up": found["caught_up"],
                "storm": found["spent"] / task.returning * 1e6,
                "live p99": found["during"],
                "live p99 alone": found["alone"],
            }
        case "heartbeats":
            return {"share": found["spent"] / found["elapsed"] * 100, "pongs": found["pongs"]}
        case "memory":
            bytes_each = {step: grown / int(step) for step, grown in found.items()}
            return {"memory": list(bytes_each.values())[-1] / 1024} | {
                f"at {step}": each / 1024 for step, each in bytes_each.items()
            }
    raise ValueError(f"no such kind: {task.kind}")


# The doors that are compared with that of a plain subscriber, by the kind of measurement.
DOORS = {
    "members": ("json", "protobuf", "events"),
    "member-memory": ("json", "protobuf"),
    "herd": ("json", "protobuf"),
}


def _through_doors(peer: str, cores: Cores, task: Task) -> Figures:
    """Measure ours through one door after the other, within one round."""

    def cost(**given: Any) -> float:
        found = _serve(peer, cores, replace(task, **given))
        if task.kind == "member-memory":
            steps = {int(step): grown for step, grown in found.items()}
            return float(steps[max(steps)] / max(steps) / 1024)
        _warn(found["busy"])
        return float(found["cpu"] if task.kind == "members" else found["spent"] / found["count"])

    figures: Figures = {}
    match task.kind:
        case "members":
            plain = cost(kind="publish", door="plain")
            for door in DOORS[task.kind]:
                figures[f"{door} ÷ plain"] = cost(kind="publish", door=door) / plain
            figures["plain"] = plain * 1e6
        case "member-memory":
            plain = cost(kind="memory", door="plain")
            for door in DOORS[task.kind]:
                figures[f"{door} beyond plain"] = cost(kind="memory", door=door) - plain
            figures["plain"] = plain
        case "herd":
            for door in DOORS[task.kind]:
                opening = cost(door=door, publications=0)
                figures[f"{door} ÷ opening"] = cost(door=door) / opening
                figures[f"{door}, opening"] = opening * 1e6
    return figures


def _measure_broker(peer: str, cores: Cores, task: Task) -> Figures:
    with run_redis(cores.load) as url:
        with _started(cores.measured, "brokers", replace(task, broker=url).to_json()) as bare:
            figures = dict(_figures(bare))
        delivery = Task("publish", connections=max(1, task.connections // 20), seconds=task.seconds)
        latency = Task("latency", connections=1, seconds=task.seconds, rate=300)
        for name, figure, asked in ("delivery", "cpu", delivery), ("node to node", "p50", latency):
            ratios = []
            for _ in range(_PAIRS):
                alone = _serve(peer, cores, asked)[figure]
                ratios.append(_serve(peer, cores, replace(asked, broker=url))[figure] / alone)
            figures[name] = statistics.median(ratios)
    return figures


def _measure_client(peer: str, cores: Cores, task: Task) -> Figures:
    argument = task.to_json()
    with (
        _started(cores.load, "load", argument) as loading,
        _started(cores.measured, "clients", peer, argument, stdin=loading.stdout) as client,
    ):
        figures = _figures(client)
    _warn(figures["busy"])
    return {"rate": figures["rate"] / 1e3}
