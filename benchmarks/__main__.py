"""The cases, the rounds and the bars: what is measured, how often, and what must hold.

In every round each peer is started afresh and measured once, in an order that turns with the
rounds; a ratio is taken between two figures of the same round. What is measured has one core to
itself, and the load another. Progress goes to stderr, the tables (Markdown) to stdout, and every
figure to a JSON file if one is named. The exit code is 1 if a bar was missed.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import operator
import platform
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import clients, servers
from .measure import Cores, fan_out, idle, progress, receive, resilience

OURS = "trioweb"
_RELATIONS = {"<": operator.lt, "≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Bar:
    """What must hold for the ratio of our figure to a peer's, or for our figure itself."""

    peer: str
    relation: str
    limit: float

    def holds(self, value: float) -> bool:
        return bool(_RELATIONS[self.relation](value, self.limit))

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:g}"


@dataclass(frozen=True)
class Case:
    """One question, the peers it is put to, and the answer that is expected."""

    title: str
    unit: str
    peers: tuple[str, ...]
    bars: tuple[Bar, ...]
    measure: Callable[[str, Cores], float]


CASES = {
    "fan-out": Case(
        "Fan-out to 500 subscribers, 64 bytes, one publication per tick",
        "µs of CPU for each delivery",
        tuple(servers.PEERS),
        (Bar("floor", "≤", 1.35), Bar("websockets", "<", 1)),
        partial(fan_out, connections=500, size=64, burst=1),
    ),
    "burst": Case(
        "Fan-out to 500 subscribers, 64 bytes, bursts of 100 publications",
        "µs of CPU for each delivery",
        tuple(servers.PEERS),
        (Bar("floor", "≤", 1 / 20),),
        partial(fan_out, connections=500, size=64, burst=100),
    ),
    "receive": Case(
        "One client receives messages of 64 bytes",
        "thousand messages in a second of CPU",
        tuple(clients.PEERS),
        (Bar("websockets", "≥", 4),),
        partial(receive, size=64),
    ),
    "client": Case(
        "One client that would reconnect (open_client) receives messages of 64 bytes",
        "thousand messages in a second of CPU",
        tuple(clients.PEERS),
        (Bar("websockets", "≥", 4),),
        partial(receive, size=64, resilient=True),
    ),
    "reconnect": Case(
        "A client connects again to a server that was killed and restarted, 20 times",
        "ms beyond the policy's own delay (median)",
        (OURS,),
        (Bar(OURS, "≤", 50),),
        partial(resilience, question="reconnect"),
    ),
    "idle-client": Case(
        "An idle client that would reconnect",
        "KiB of private memory",
        (OURS,),
        (Bar(OURS, "≤", 40),),
        partial(resilience, question="idle"),
    ),
    "idle": Case(
        "An idle connection to a server",
        "KiB of private memory",
        tuple(peer for peer in servers.PEERS if peer != "floor"),
        (Bar(OURS, "≤", 14),),
        partial(idle, connections=2100),
    ),
}


def _packages(peer: str) -> list[str]:
    return [] if peer == "floor" else peer.split("+")


def _version(package: str) -> str | None:
    """Return an installed package's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from the source tree" if importlib.util.find_spec(package) else None


def _run(case: Case, peers: list[str], rounds: int, cores: Cores) -> dict[str, list[float]]:
    """Measure each peer once in every round."""
    figures: dict[str, list[float]] = {peer: [] for peer in peers}
    for number in range(rounds):
        turn = number % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            figures[peer].append(case.measure(peer, cores))
            progress(f"  {number + 1}/{rounds} {peer}: {figures[peer][-1]:.4g}")
    return figures


def _ratios(figures: dict[str, list[float]], peer: str) -> list[float]:
    """Return ours divided by the peer's, round by round; for ourselves, our figures."""
    ours = figures.get(OURS, [])
    if peer == OURS:
        return ours
    return [our / their for our, their in zip(ours, figures.get(peer, []), strict=False)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    if not values:
        return "– | –"
    low, high = _number(min(values)), _number(max(values))
    return f"{_number(statistics.median(values))} | {low} – {high}"


def _verdict(case: Case, figures: dict[str, list[float]], bar: Bar) -> bool | None:
    """Return whether the bar holds for the median, or None if it was not measured."""
    ratios = _ratios(figures, bar.peer)
    return bar.holds(statistics.median(ratios)) if ratios else None


def _table(case: Case, figures: dict[str, list[float]]) -> str:
    bars = {bar.peer: bar for bar in case.bars}
    lines = [
        f"### {case.title}",
        "",
        f"| peer | {case.unit} | lowest – highest | trioweb ÷ peer | lowest – highest | must be |",
        "|---|---|---|---|---|---|",
    ]
    for peer, values in figures.items():
        ratios = [] if peer == OURS else _ratios(figures, peer)
        must = ""
        if bar := bars.get(peer):
            verdict = {True: "yes", False: "**no**", None: "?"}[_verdict(case, figures, bar)]
            must = f"{bar}: {verdict}"
        lines.append(f"| {peer} | {_spread(values)} | {_spread(ratios)} | {must} |")
    return "\n".join(lines)


def _machine() -> str:
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0] if models else platform.machine()}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", help="only these, separated by commas")
    parser.add_argument("--cores", default="0,1", help="for what is measured, and for the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def main() -> int:
    options = _options()
    cores = Cores(*map(int, options.cores.split(",")))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    wanted = options.peers.split(",") if options.peers else [*servers.PEERS, *clients.PEERS]
    versions = {
        package: version
        for package in ["trio", *(package for peer in wanted for package in _packages(peer))]
        if (version := _version(package))
    }
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "rounds": options.rounds,
        "cases": {},
    }
    print(
        f"{report['date']}, {report['machine']}, {report['system']}, Python {report['python']};",
        ", ".join(f"{package} {version}" for package, version in versions.items()),
    )
    print(f"Medians of {options.rounds} rounds; a ratio is taken within a round.", flush=True)
    missed = False
    for name in options.cases or CASES:
        case = CASES[name]
        progress(case.title)
        peers = [
            peer
            for peer in case.peers
            if peer in wanted and all(package in versions for package in _packages(peer))
        ]
        figures = _run(case, peers, options.rounds, cores)
        verdicts = {f"{bar.peer} {bar}": _verdict(case, figures, bar) for bar in case.bars}
        missed |= False in verdicts.values()
        report["cases"][name] = {"unit": case.unit, "figures": figures, "bars": verdicts}
        print(f"\n{_table(case, figures)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return missed


if __name__ == "__main__":
    sys.exit(main())
