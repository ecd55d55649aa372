"""Ratios, verdicts, and the tables that show them: on the terminal, in `docs/` and in the README.

It knows figures and cases, and nothing of how a figure is got.
"""

import re
import statistics
import textwrap
from pathlib import Path
from typing import Any, TypedDict

from .cases import CASES, UNITS, Bar, Case
from .peers import OURS

# A figure for each round, or None where the measurement failed.
Values = list[float | None]
Figures = dict[str, dict[str, Values]]  # by their names, then by peer


class CaseResults(TypedDict):
    date: str
    rounds: int
    figures: Figures


class Results(TypedDict):
    """What the JSON file holds."""

    date: str
    machine: str
    system: str
    python: str
    versions: dict[str, str]
    cases: dict[str, Any]  # of CaseResults


PICTURES = {
    "benchmarks-subscribers.png": "Cost of a delivery over the number of subscribers",
    "benchmarks-bursts.png": "Cost of a delivery over the size of a burst",
    "benchmarks-latency.png": "Time from publishing to receiving",
    "benchmarks-memory.png": "Memory over the number of idle connections",
}
_BEGIN, _END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def ratios(values: dict[str, Values], peer: str) -> list[float]:
    """Return ours divided by the peer's, round by round, where both were measured."""
    pairs = zip(values.get(OURS, []), values.get(peer, []), strict=False)
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]


def rival(case: Case, figures: Figures, bar: Bar) -> str | None:
    """Return the best of the peers that the bar names, or None if none was measured.

    That is the one that we compare worst with, by the median of all rounds. The best of each round
    would be nobody's figure: of many equals, one is lucky in every round.
    """
    values = figures.get(bar.figure or case.figures[0], {})
    rounds = sum(ours is not None for ours in values.get(OURS, []))
    medians = {
        peer: statistics.median(found)
        for peer in bar.against
        # One that failed in most rounds is not judged by a lucky one.
        if (found := ratios(values, peer)) and len(found) * 2 >= rounds
    }
    furthest = min if bar.relation == "≥" else max
    return furthest(medians, key=medians.__getitem__, default=None)


def judged(case: Case, figures: Figures, bar: Bar) -> list[float]:
    """Return what the bar judges, round by round: ratios to the best, or our own figures."""
    values = figures.get(bar.figure or case.figures[0], {})
    if bar.against == (OURS,):
        return [ours for ours in values.get(OURS, []) if ours is not None]
    best = rival(case, figures, bar)
    return [] if best is None else ratios(values, best)


def _label(case: Case, figures: Figures, bar: Bar) -> str:
    """Return whom the bar compares us with, in words."""
    return f"{bar.name} ({rival(case, figures, bar)})" if bar.name else bar.label


def holds(case: Case, figures: Figures, bar: Bar) -> bool | None:
    """Return whether the bar holds for the median, or None if it was not measured."""
    found = judged(case, figures, bar)
    return bar.holds(statistics.median(found)) if found else None


def missed(name: str, results: CaseResults) -> list[Bar]:
    """Return the bars of a case that do not hold."""
    case = CASES[name]
    return [bar for bar in case.bars if holds(case, results["figures"], bar) is False]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    if not values:
        return "– | –"
    low, high = number(min(values)), number(max(values))
    return f"{number(statistics.median(values))} | {low} – {high}"


def _bar_line(case: Case, figures: Figures, bar: Bar) -> str:
    found = judged(case, figures, bar)
    if not found:
        return f"- Against {bar.label}: {bar}: not measured."
    verdict = "yes" if bar.holds(statistics.median(found)) else "**no**"
    if bar.against == (OURS,):
        what = UNITS[bar.figure or case.figures[0]]
    else:
        what = f"trioweb ÷ {_label(case, figures, bar)}"
    spread = f"{number(min(found))} – {number(max(found))}"
    return f"- {what} {bar}: {number(statistics.median(found))} ({spread}), {verdict}."


def tables(name: str, results: CaseResults) -> str:
    """Return a case as Markdown: a table for each of its figures, and its bars."""
    case = CASES[name]
    lines = [f"### {case.title}", ""]
    for figure in case.figures:
        values = results["figures"].get(figure, {})
        unit = UNITS[figure]
        lines += [
            f"| peer | {unit} | lowest – highest | trioweb ÷ peer | lowest – highest |",
            "|---|---|---|---|---|",
        ]
        for peer, measured in values.items():
            theirs = [value for value in measured if value is not None]
            compared = [] if peer == OURS else ratios(values, peer)
            lines.append(f"| {peer} | {_spread(theirs)} | {_spread(compared)} |")
        lines.append("")
    lines += [_bar_line(case, results["figures"], bar) for bar in case.bars]
    if case.bound and missed(name, results):
        lines += ["", case.bound]
    lines += ["", f"`{name}`, {results['date']}, rounds: {results['rounds']}."]
    return "\n".join(lines)


def _in_order(results: Results) -> list[tuple[str, CaseResults]]:
    return [(name, results["cases"][name]) for name in CASES if name in results["cases"]]


def versions(results: Results) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"Python {results['python']}, {listed}"


def document(results: Results) -> str:
    """Return all of `docs/benchmarks.md`."""
    pictures = "\n\n".join(f"![{title}](pictures/{file})" for file, title in PICTURES.items())
    cases = "\n\n".join(tables(name, found) for name, found in _in_order(results))
    return f"""\
# Benchmarks

trioweb and its peers, measured side by side. Written by `python -m benchmarks --write` on
{results["date"]}, on a machine with {results["machine"]}, {results["system"]}; {versions(results)}.

To repeat it on a quiet machine with two cores, Linux, and whatever peers can be installed:

```console
nox -s bench
```

`nox -s bench -- CASE… --write` measures some cases again and merges them into
`benchmarks/results.json`, which holds every figure; `nox -s bench -- --redraw` writes this page,
its pictures and the README's table from that file.

## How it is measured

- In every round each peer is started afresh and measured once, in an order that turns with the
  rounds. A ratio is taken between two figures of the same round; a table shows the median of the
  rounds, and their lowest and highest. Absolute figures say little beyond one machine. The best
  peer is the one that trioweb compares worst with, by the median of the rounds.
- What is measured has one core to itself, and the load another: raw sockets and epoll, counting
  bytes. Cost is CPU time, so a load that is not fast enough makes nobody look better; if
  either had to share its core, the run says so.
- "floor" is a bare loop of non-blocking `send` calls over the same kind of sockets; "floor in
  bursts" joins what is sent at once.
- Each peer does what its own documentation recommends for a broadcast, has its heartbeat on if it
  has one, and compresses only where that is the question.
- Node's `ws` and nginx's nchan are given their publications through a pipe and as HTTP requests,
  by a process on the load's core; their CPU time and memory are read from `/proc`.
- Time from publishing to receiving is that of an open loop: each message says when it was due, so
  a server that falls behind does not hide it. Of what one read brings, the oldest message counts.
- A server has received what it has answered a ping behind. Opening a connection is over with the
  101; to close it, the load sends a Close and waits for the server's. Memory is what a process
  shares with nobody, beyond its first hundred connections.
- "bare Trio" is an echo in which each task reads from Trio's own socket, unmasks one frame, and
  writes: what Trio's loop leaves to be had.
- Those who come back at once ask for a history that the topic has, or that the peer's handler sends
  message by message; meanwhile the load reads what is live as in the case of latency.
- Members connect and subscribe in one message, as stock clients do. Frames are as long for members
  and events as for plain subscribers: what they have around the data is taken off it. The
  connections of those who come back are opened once without asking for anything, to compare with.
- A hub is filled with publications that are all different objects, as received ones are.
- Each import is that of a fresh interpreter with its bytecode at hand, less Python's own start.
- The connections with their heartbeat are watched for one interval, 20 s, in which each has its
  ping, and the load answers.
- Beside the stalled subscribers memory is compared with what it was when they were connected and
  the topic's log was full: first the process's, then what its objects occupy, since Python keeps
  memory that it has freed.
- The last cases of a family are put to the fastest peers alone.

{pictures}

## Figures

{cases}
"""


def _readme_row(case: Case, figures: Figures, bar: Bar) -> str:
    found = judged(case, figures, bar)
    against, ratio = _label(case, figures, bar), statistics.median(found)
    must = str(bar)
    if bar.against == (OURS,):
        against, ratio, must = f"{bar.limit:g} {_unit(case, bar)}", ratio / bar.limit, "≤ 1"
    verdict = "" if bar.holds(statistics.median(found)) else " (missed)"
    what = case.headline
    if len(case.figures) > 1:
        what += f": {UNITS[bar.figure or case.figures[0]]}"
    return f"| {what} | {against} | {number(ratio)} | {must}{verdict} |"


def _unit(case: Case, bar: Bar) -> str:
    """Return the first words of a unit, as in "KiB" or "% of a core"."""
    return UNITS[bar.figure or case.figures[0]].partition(" of private")[0]


def _hardest(case: Case, figures: Figures) -> Bar | None:
    """Return the bar that is the furthest from being held, or the nearest to not being."""

    def share(bar: Bar) -> float:
        found = statistics.median(judged(case, figures, bar))
        return bar.limit / found if bar.relation == "≥" else found / bar.limit

    measured = [bar for bar in case.bars if judged(case, figures, bar)]
    return max(measured, key=share, default=None)


def readme_table(results: Results) -> str:
    """Return what stands between the README's markers: a row for each headline.

    Where a case has several bars, that is the one which says the least for us.
    """
    rows = [
        _readme_row(CASES[name], found["figures"], bar)
        for name, found in _in_order(results)
        if CASES[name].headline and (bar := _hardest(CASES[name], found["figures"]))
    ]
    intro = (
        f"Measured side by side on {results['date']} ({results['machine']}; Python"
        f" {results['python']}). Medians of the rounds, as ratios, trioweb ÷ peer; of several peers"
        " each row has the one that trioweb stands worst against."
    )
    return "\n".join(
        [
            textwrap.fill(intro, 100),
            "",
            "| what | against | ratio | wanted |",
            "|---|---|---|---|",
            *rows,
            "",
            "`nox -s bench` repeats it; [docs/benchmarks.md](docs/benchmarks.md) has all cases,"
            " peers, versions,",
            "spreads and pictures, and how it is measured.",
        ]
    )


def with_table(readme: str, table: str) -> str:
    """Return the README with what stands between its markers replaced."""
    pattern = f"{re.escape(_BEGIN)}.*?{re.escape(_END)}"
    found, count = re.subn(pattern, lambda _: f"{_BEGIN}\n{table}\n{_END}", readme, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the README must have {_BEGIN} and {_END} once, not {count} times")
    return found


def write(results: Results, root: Path) -> None:
    """Write the page and the README's table; the pictures are `plots.draw`'s."""
    (root / "docs" / "benchmarks.md").write_text(document(results))
    readme = root / "README.md"
    readme.write_text(with_table(readme.read_text(), readme_table(results)))
