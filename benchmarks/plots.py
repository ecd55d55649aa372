"""The pictures: one colour for each peer, the same in all of them.

Cost and latency are drawn as multiples of the floor's, since absolute ones say little.
"""

import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from .cases import CASES
from .peers import FLOOR, OURS, PEERS
from .report import PICTURES, Results, Values

_SUBSCRIBERS = ["fan-out-50-64", "fan-out-500-64", "fan-out-5000-64"]
_BURSTS = ["fan-out-500-64", "burst-10-64", "burst-100-64"]


def _values(results: Results, case: str, figure: str) -> dict[str, Values]:
    if case not in results["cases"]:
        return {}
    values: dict[str, Values] = results["cases"][case]["figures"].get(figure, {})
    return values


def _median(values: Values) -> float | None:
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None


def _line(axes: Axes, peer: str, points: list[tuple[float, float | None]]) -> None:
    known = [(x, y) for x, y in points if y is not None]
    if not known:
        return
    axes.plot(
        [x for x, _ in known],
        [y for _, y in known],
        color=PEERS[peer].colour,
        linewidth=2.6 if peer == OURS else 1.4,
        linestyle="--" if peer == FLOOR else "-",
        marker="o",
        markersize=5 if peer == OURS else 3.5,
        label=peer,
        zorder=3 if peer == OURS else 2,
    )


def _cost(axes: Axes, results: Results, cases: list[str], sizes: list[int]) -> None:
    """Draw the cost of a delivery, as a multiple of the floor's in the same round."""
    for peer in PEERS:
        points: list[tuple[float, float | None]] = []
        for size, case in zip(sizes, cases, strict=True):
            values = _values(results, case, "cpu")
            pairs = zip(values.get(peer, []), values.get(FLOOR, []), strict=False)
            multiples: Values = [cost / floor for cost, floor in pairs if cost and floor]
            points.append((size, _median(multiples)))
        _line(axes, peer, points)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_ylabel("CPU for each delivery ÷ the bare send loop's")


def _subscribers(axes: Axes, results: Results) -> None:
    _cost(axes, results, _SUBSCRIBERS, [CASES[name].task.connections for name in _SUBSCRIBERS])
    axes.set_xlabel("subscribers (64 bytes, one publication at a time)")


def _bursts(axes: Axes, results: Results) -> None:
    _cost(axes, results, _BURSTS, [CASES[name].task.burst for name in _BURSTS])
    axes.set_xlabel("publications in a burst (500 subscribers, 64 bytes)")


def _latency(axes: Axes, results: Results) -> None:
    figures = results["cases"].get("latency", {}).get("figures", {})
    parts = [figure for figure in figures if figure.startswith("p")]
    floor = _median(figures["p50"].get(FLOOR, [])) if "p50" in figures else None
    for peer in PEERS:
        found = [_median(figures[part].get(peer, [])) for part in parts]
        points = [(x, y / (floor or 1) if y else None) for x, y in enumerate(found)]
        _line(axes, peer, [(float(x), y) for x, y in points])
    axes.set_yscale("log")
    axes.set_xticks(range(len(parts)), [part.removeprefix("p") for part in parts])
    axes.set_xlabel("% of messages (1,000 subscribers, 100 publications a second, 64 bytes)")
    axes.set_ylabel(
        "received within, ÷ the bare send loop's median" if floor else "received within, ms"
    )


def _memory(axes: Axes, results: Results) -> None:
    figures = results["cases"].get("idle", {}).get("figures", {})
    steps = [int(name.split()[1]) for name in figures if name.startswith("at ")]
    for peer in PEERS:
        points: list[tuple[float, float | None]] = [(0, 0)]
        for step in steps:
            each = _median(figures[f"at {step}"].get(peer, []))
            points.append((step, each and each * step / 1024))
        if any(y for _, y in points):
            _line(axes, peer, points)
    axes.set_xlabel("idle connections, with their heartbeat where there is one")
    axes.set_ylabel("MiB of private memory")


def draw(results: Results, folder: Path) -> None:
    """Write all the pictures, as PNG files."""
    mpl.use("Agg")
    drawings = dict(zip(PICTURES, (_subscribers, _bursts, _latency, _memory), strict=True))
    for file, drawing in drawings.items():
        figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
        drawing(axes, results)
        axes.set_title(PICTURES[file])
        axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.minorticks_off()
        if axes.lines:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(folder / file, dpi=110, facecolor="white")
        pyplot.close(figure)
