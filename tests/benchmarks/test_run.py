"""The rounds, and what becomes of results that are there already."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.cases import CASES, Case
from benchmarks.measure import Cores, Figures
from benchmarks.report import Results
from benchmarks.task import Task


def results(date: str, versions: dict[str, str], *cases: str) -> Results:
    found = {case: {"date": date, "rounds": 1, "figures": {}} for case in cases}
    return {
        "date": date,
        "machine": "",
        "system": "",
        "python": "",
        "versions": versions,
        "cases": found,
    }


def test_run_takes_turns_and_goes_on_when_a_measurement_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = []

    def measure(peer: str, cores: Cores, task: Task) -> Figures:
        order.append(peer)
        if len(order) == 2:
            raise ChildProcessError("it failed")
        return {"cpu": len(order), "more": 0}

    monkeypatch.setattr(command, "measure", measure)
    case = Case("A question", Task("publish"), ("cpu",), ("a", "b", "c"), ())
    figures = command.run(case, ["a", "b", "c"], 2, Cores(0, 0))
    assert order == ["a", "b", "c", "b", "c", "a"]
    assert figures["cpu"] == {"a": [1, 6], "b": [None, 4], "c": [3, 5]}
    assert figures["more"] == {"a": [0, 0], "b": [None, 0], "c": [0, 0]}


def test_merged_keeps_the_cases_that_were_not_measured_again() -> None:
    first, second, third = list(CASES)[:3]
    old = results("2026-01-01", {"a": "1", "b": "1"}, second, third)
    new = results("2026-02-02", {"b": "2"}, third, first)
    found = command.merged(old, new)
    assert found["date"] == "2026-02-02"
    assert found["versions"] == {"a": "1", "b": "2"}
    dates = [(name, case["date"]) for name, case in found["cases"].items()]
    assert dates == [(first, "2026-02-02"), (second, "2026-01-01"), (third, "2026-02-02")]


def test_case_that_cannot_be_measured_is_told_and_keeps_its_old_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(peer: str, cores: Cores, task: Task) -> Figures:
        raise ChildProcessError("it failed")

    case = next(iter(CASES))
    old = tmp_path / "old.json"
    old.write_text(json.dumps(results("2026-01-01", {}, case)))
    monkeypatch.setattr(command, "measure", fail)
    monkeypatch.setattr(sys, "argv", ["benchmarks", case, "--rounds", "1", "--json", f"{old}"])
    assert command.main() == 1
    assert f"{case}: it could not be measured" in capsys.readouterr().err
    assert json.loads(old.read_text())["cases"][case]["date"] == "2026-01-01"
