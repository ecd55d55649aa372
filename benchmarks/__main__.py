"""The command line: which cases, how many rounds, and what is written.

In every round each peer is started afresh and measured once, in an order that turns with the
rounds; a ratio is taken between two figures of the same round. What is measured has one core to
itself, and the load another. Progress goes to stderr and the tables (Markdown) to stdout. The exit
code is 1 if a bar was missed, or a case could not be measured; that one keeps its old figures.
"""

import argparse
import datetime
import importlib.util
import json
import platform
import resource
import sys
import time
from pathlib import Path

from . import report
from .cases import CASES, Case
from .measure import Cores, measure, progress
from .peers import PEERS, missing, versions

_ROOT = Path(__file__).parent.parent
_RESULTS = Path(__file__).parent / "results.json"


def run(case: Case, peers: list[str], rounds: int, cores: Cores) -> report.Figures:
    """Measure each peer once in every round; one that fails does not end the others."""
    figures: report.Figures = {}
    for number in range(rounds):
        turn = number % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            try:
                found = measure(peer, cores, case.task)
            except (ChildProcessError, OSError) as error:
                progress(f"  {number + 1}/{rounds} {peer}: {error}")
                continue
            for figure, value in found.items():
                values = figures.setdefault(figure, {known: [None] * rounds for known in peers})
                values[peer][number] = value
            shown = ", ".join(f"{found[figure]:.4g}" for figure in case.figures)
            progress(f"  {number + 1}/{rounds} {peer}: {shown}")
    return figures


def _peers(case: Case, wanted: list[str]) -> list[str]:
    """Return those of a case's peers that are wanted and can be measured."""
    return [peer for peer in case.peers if peer in wanted and not missing(peer)]


def _machine() -> str:
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0] if models else platform.machine()}"


def _read(path: Path) -> report.Results | None:
    if not path.exists():
        return None
    results: report.Results = json.loads(path.read_text())
    return results


def merged(old: report.Results | None, new: report.Results) -> report.Results:
    """Return the new results with the old ones of the cases that were not measured again."""
    if old is None:
        return new
    cases = {**old["cases"], **new["cases"]}
    return {
        **new,
        "versions": {**old["versions"], **new["versions"]},
        "cases": {name: cases[name] for name in CASES if name in cases},
    }


def _write_documents(results: report.Results) -> None:
    from . import plots  # what it needs is needed for nothing else

    report.write(results, _ROOT)
    plots.draw(results, _ROOT / "docs" / "pictures")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", help="only these, separated by commas")
    parser.add_argument("--cores", default="0,1", help="for what is measured, and for the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="merge every figure into it")
    parser.add_argument(
        "--write",
        action="store_true",
        help="merge into benchmarks/results.json (or the file named), then write"
        " docs/benchmarks.md, its pictures and the README's table from it",
    )
    parser.add_argument("--redraw", action="store_true", help="write those, but measure nothing")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    options.peers = options.peers.split(",") if options.peers else list(PEERS)
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if options.write or options.redraw:
        options.json = options.json or _RESULTS
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("the pictures need matplotlib")
    return options


def _measure_all(options: argparse.Namespace) -> tuple[report.Results, list[str]]:
    """Return what was found, and the cases of which nothing was."""
    cores = Cores(*map(int, options.cores.split(",")))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for peer in options.peers:
        if lacking := missing(peer):
            progress(f"without {peer}, which needs {' and '.join(lacking)}")
    present = [peer for peer in options.peers if not missing(peer)]
    results: report.Results = {
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(present),
        "cases": {},
    }
    plan = {
        name: (peers, min(options.rounds, CASES[name].rounds))
        for name in options.cases or CASES
        if (peers := _peers(CASES[name], present))
    }
    took = sum(CASES[name].took * len(peers) * rounds for name, (peers, rounds) in plan.items())
    progress(f"{len(plan)} cases; about {took / 60:.0f} minutes on a quiet machine")
    print(
        f"{results['date']}, {results['machine']}, {results['system']};",
        report.versions(results),
        flush=True,
    )
    failed = []
    started = time.monotonic()
    for name, (peers, rounds) in plan.items():
        progress(f"{(time.monotonic() - started) / 60:.1f} min: {name}: {CASES[name].title}")
        if not (figures := run(CASES[name], peers, rounds, cores)):
            failed.append(name)
            continue
        results["cases"][name] = {"date": results["date"], "rounds": rounds, "figures": figures}
        print(f"\n{report.tables(name, results['cases'][name])}", flush=True)
    return results, failed


def main() -> int:
    options = _options()
    if options.redraw:
        results = _read(options.json)
        if results is None:
            sys.exit(f"there is no {options.json}")
        _write_documents(results)
        return 0
    results, failed = _measure_all(options)
    missed = [f"{name}: it could not be measured" for name in failed]
    missed += [
        f"{name}: {bar.label} {bar}"
        for name, found in results["cases"].items()
        for bar in report.missed(name, found)
    ]
    for bar in missed:
        progress(f"missed: {bar}")
    if options.json:
        results = merged(_read(options.json), results)
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        if options.write:
            _write_documents(results)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
