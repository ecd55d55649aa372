"""What the benchmarks conclude from their figures."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from benchmarks import report
from benchmarks.cases import CASES, Bar, Case
from benchmarks.report import Results, Values
from benchmarks.task import Task


def case(*bars: Bar) -> Case:
    return Case("A question", Task("publish"), ("cpu",), ("trioweb", "a", "b"), bars)


def results(**values: Values) -> Results:
    """What a run of one case with a headline found."""
    measured = {"date": "2026-11-21", "rounds": 3, "figures": {"cpu": values}}
    return {
        "date": "2026-11-22",
        "machine": "2 × a processor",
        "system": "Linux 6",
        "python": "3.11.7",
        "versions": {"trio": "0.35.0"},
        "cases": {"fan-out-500-64": measured},
    }


def test_ratios_are_taken_within_a_round() -> None:
    figures: dict[str, Values] = {"trioweb": [1, 2, 9], "a": [2, 8, 9]}
    assert report.ratios(figures, "a") == [0.5, 0.25, 1]


def test_ratios_leave_out_rounds_in_which_one_failed() -> None:
    figures: dict[str, Values] = {"trioweb": [None, 2, 9], "a": [2, None, 3]}
    assert report.ratios(figures, "a") == [3]


@pytest.mark.parametrize(
    ("relation", "found"),
    [("<", [0.5, 2, 2]), ("≤", [0.5, 2, 2]), ("≥", [1, 20 / 9, 0.5])],
)
def test_bar_takes_the_peer_that_we_compare_worst_with_by_the_median(
    relation: str, found: list[float]
) -> None:
    """Neither the best of each round, nor the one whose own median is the best."""
    bar = Bar(("a", "b"), relation, 1)
    figures: dict[str, Values] = {"trioweb": [2, 20, 20], "a": [4, 10, 10], "b": [2, 9, 40]}
    assert report.judged(case(bar), {"cpu": figures}, bar) == found


def test_bar_leaves_out_a_peer_that_failed_in_most_rounds() -> None:
    bar = Bar(("a", "b"), "<", 1)
    figures: dict[str, Values] = {"trioweb": [4, 4, 4], "a": [1, None, None], "b": [2, None, 4]}
    assert report.judged(case(bar), {"cpu": figures}, bar) == [2, 1]


def test_bar_compares_with_the_peers_that_were_measured() -> None:
    bar = Bar(("a", "b", "c"), "<", 1)
    figures: dict[str, Values] = {"trioweb": [4, 4], "a": [2, None]}
    assert report.judged(case(bar), {"cpu": figures}, bar) == [2]


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(3.9, False), (4, True)],
)
def test_bar_judges_the_median(limit: float, verdict: bool) -> None:
    bar = Bar(("trioweb",), "≤", limit)
    assert report.holds(case(bar), {"cpu": {"trioweb": [9, 4, 1]}}, bar) is verdict


def test_bar_is_undecided_when_nothing_was_measured() -> None:
    bar = Bar(("a",), "<", 1)
    assert report.holds(case(bar), {"cpu": {"trioweb": [4]}}, bar) is None


def test_bar_judges_the_figure_that_it_names() -> None:
    bar = Bar(("trioweb",), "≤", 1, figure="p99")
    figures = {"cpu": {"trioweb": [5.0]}, "p99": {"trioweb": [0.5]}}
    assert report.judged(case(bar), figures, bar) == [0.5]  # type: ignore[arg-type]


def test_missed_names_the_bars_that_do_not_hold() -> None:
    found = results(trioweb=[3], floor=[1], aiohttp=[4])["cases"]["fan-out-500-64"]
    (bar,) = report.missed("fan-out-500-64", found)
    assert bar.against == ("floor",)


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1, "1"), (99.44, "99.4"), (12345.6, "12,346")]
)
def test_numbers_show_three_digits_at_least(value: float, text: str) -> None:
    assert report.number(value) == text


def test_tables_show_medians_spreads_and_verdicts() -> None:
    found = results(trioweb=[6, 5, 7], floor=[5, 5, 5], aiohttp=[None, 4, 8])
    lines = report.tables("fan-out-500-64", found["cases"]["fan-out-500-64"]).splitlines()
    assert "| trioweb | 6 | 5 – 7 | – | – |" in lines
    assert "| floor | 5 | 5 – 5 | 1.2 | 1 – 1.4 |" in lines
    assert "| aiohttp | 6 | 4 – 8 | 1.06 | 0.875 – 1.25 |" in lines
    assert "- trioweb ÷ floor ≤ 1.1: 1.2 (1 – 1.4), **no**." in lines
    best = "the best peer but picows (aiohttp)"
    assert f"- trioweb ÷ {best} < 1: 1.06 (0.875 – 1.25), **no**." in lines
    assert "`fan-out-500-64`, 2026-11-21, rounds: 3." in lines


def rows(found: Results) -> list[str]:
    """Those of the README's table."""
    return [line for line in report.readme_table(found).splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (
            {"floor": [1], "websockets": [0.5]},
            "the best peer but picows (websockets) | 2 | < 1 (missed)",
        ),
        ({"floor": [1], "websockets": [2]}, "floor | 1 | ≤ 1.1"),
        ({"websockets": [2]}, "the best peer but picows (websockets) | 0.5 | < 1"),
    ],
)
def test_readme_table_has_the_bar_of_a_headline_that_says_the_least_for_us(
    values: dict[str, Values], row: str
) -> None:
    found = results(trioweb=[1], **values)
    assert rows(found) == [f"| CPU for each delivery, 500 subscribers, 64 bytes | {row} |"]


def test_readme_table_says_which_figure_it_is_where_a_case_has_several() -> None:
    values: dict[str, Values] = {"trioweb": [1, 1], "websockets": [4, 4]}
    figures = {"caught up": values, "live p99": values | {"websockets": [0.5, 0.5]}}
    found = results(trioweb=[None])
    found["cases"] = {"storm": {"date": "2026-11-21", "rounds": 2, "figures": figures}}
    unit = "ms, 99 of 100 live messages within meanwhile"
    assert rows(found) == [
        f"| 1,000 peers come back at once: {unit} | websockets | 2 | ≤ 0.5 (missed) |"
    ]


def test_readme_table_takes_more_for_better_where_it_is() -> None:
    values: dict[str, Values] = {"trioweb": [9], "websockets": [2], "aiohttp": [4]}
    found = results(trioweb=[None])
    figures = {"rate": values}
    found["cases"] = {"client-64": {"date": "2026-11-21", "rounds": 1, "figures": figures}}
    assert rows(found) == [
        "| messages of 64 bytes a client receives in a second | aiohttp | 2.25 | ≥ 2.2 |"
    ]


def test_readme_table_is_short() -> None:
    assert 10 <= sum(bool(case.headline) for case in CASES.values()) <= 13


def test_write_replaces_what_is_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    markers = "<!-- benchmarks:begin -->\n{}\n<!-- benchmarks:end -->"
    readme.write_text(f"before\n{markers.format('old')}\nafter\n")
    found = results(trioweb=[1], floor=[1])
    report.write(found, tmp_path)
    assert readme.read_text() == f"before\n{markers.format(report.readme_table(found))}\nafter\n"
    assert "`fan-out-500-64`, 2026-11-21" in (tmp_path / "docs" / "benchmarks.md").read_text()


def test_readme_has_the_markers() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "a new table" in report.with_table(readme, "a new table")


@pytest.mark.parametrize("count", [0, 2])
def test_table_is_refused_when_the_markers_are_not_there_once(count: int) -> None:
    with pytest.raises(ValueError, match=f"not {count} times"):
        report.with_table("<!-- benchmarks:begin --><!-- benchmarks:end -->" * count, "new")


def test_every_bar_judges_a_figure_of_its_case() -> None:
    for name, asked in CASES.items():
        for bar in asked.bars:
            figure = bar.figure or asked.figures[0]
            assert figure in asked.figures, name
            values: dict[str, Values] = {peer: [2, 2] for peer in asked.peers}
            assert median(report.judged(asked, {figure: values}, bar)) in (1, 2), name
