"""Numbers of several workers, added up: statistics as JSON has them, and pages of metrics.

What is counted so far, as opposed to what there is now, outlives the worker that has counted it:
a sum must not fall when a worker is replaced.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# Of statistics, what there is now.
_NOW: Final = frozenset(
    {
        "connections",
        "opening",
        "topics",
        "subscribers",
        "retained_messages",
        "retained_bytes",
        "connected",
        "waiting",
        "attached",
    }
)
# Gauges of which the workers do not each have a part, but all the same, or the worst.
_LARGEST: Final = frozenset({"trioweb_draining", "trioweb_topic_head", "trioweb_topic_lag_max"})


def add_statistics(all: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of statistics; what is true of all is true of the sum."""
    total: dict[str, Any] = {}
    for one in all:
        for name, value in one.items():
            total[name] = _add(total[name], value) if name in total else value
    return total


def _add(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        return add_statistics((one, other))
    if isinstance(one, bool):
        return one and other
    return one + other


def counted_so_far(statistics: dict[str, Any]) -> dict[str, Any]:
    """Of *statistics* what remains when their worker has gone."""
    return {
        name: counted_so_far(value) if isinstance(value, dict) else value
        for name, value in statistics.items()
        if name not in _NOW
    }


def add_pages(pages: Iterable[str]) -> str:
    """The sum of pages of metrics; families and series are in the order in which they appear."""
    families: dict[str, _Family] = {}
    for page in pages:
        for family in _read(page):
            known = families.setdefault(family.name, family)
            if known is not family:
                known.add(family)
    return "".join(map(str, families.values()))


def counted_on_page(page: str) -> str:
    """Of *page* what remains when its worker has gone."""
    return "".join(str(family) for family in _read(page) if family.kind != "gauge")


class _Family:
    """A metric's family: its head, and the value of each of its series."""

    def __init__(self, head: str, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self._head = head
        self._series: dict[str, float] = {}

    def read(self, line: str) -> None:
        series, _, value = line.rpartition(" ")
        self._series[series] = int(value) if value.isdecimal() else float(value)

    def add(self, other: _Family) -> None:
        for series, value in other._series.items():
            if series not in self._series:
                self._series[series] = value
            elif self.name in _LARGEST:
                self._series[series] = max(self._series[series], value)
            else:
                self._series[series] += value

    def __str__(self) -> str:
        lines = [f"{series} {value}\n" for series, value in self._series.items()]
        return self._head + "".join(lines)


def _read(page: str) -> Iterable[_Family]:
    """The families of *page*, which `metrics` has written: HELP, then TYPE, then the series."""
    family: _Family | None = None
    head = ""
    for line in page.splitlines(keepends=True):
        if line.startswith("# HELP "):
            if family is not None:
                yield family
            head = line
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            family = _Family(head + line, name, kind)
        else:
            assert family is not None
            family.read(line.rstrip("\n"))
    if family is not None:
        yield family
