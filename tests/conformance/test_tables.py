"""The page about the suite: that all of it is there, and fits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.conformance.report import tables
from tests.conformance.suite import Result, Results, Run, Verdict

PAGE: Final = Path(__file__).parents[2] / "docs" / "conformance.md"
# What the site has room for, whose text is some 90 characters wide.
_MOST_COLUMNS: Final = 8


def results(**verdicts: Verdict) -> Results:
    """Of cases `s1_2`, which are written 1.2."""
    return {
        case.removeprefix("s").replace("_", "."): [Result(verdict, "why")]
        for case, verdict in verdicts.items()
    }


def test_sections_are_rows_and_each_library_of_others_stands_apart() -> None:
    shown = tables(
        {
            Run("trioweb", "server"): results(s1_1="OK", s1_2="OK", s7_1="INFORMATIONAL"),
            Run("websockets", "server"): results(s1_1="OK", s1_2="FAILED", s7_1="INFORMATIONAL"),
        }
    ).splitlines()
    assert "|  | trioweb server, plain |" in shown
    assert shown.count("| 1 framing | 2 |") == shown.count("| 1 framing | 1, 1 **F** |") == 1
    assert shown.count("| 7 closing | 1 i |") == 2
    assert shown.count("| all that are OK | 2 |") == shown.count("| all that are FAILED | 1 |") == 1
    assert "| 1.2 | FAILED | websockets server, plain | why |" in shown
    assert "| 7.1 | INFORMATIONAL | all | why |" in shown


def test_cases_of_which_the_same_is_said_share_a_row_in_their_order() -> None:
    outcome = {Run("websockets", "client"): results(s9_10="FAILED", s9_2="FAILED", s9_1="OK")}
    assert "| 9.2, 9.10 | FAILED | all | why |" in tables(outcome).splitlines()


def test_worst_of_several_repeats_counts() -> None:
    repeated = {"1.1": [Result("OK", ""), Result("NON-STRICT", "late")]}
    shown = tables({Run("trioweb", "client", repeats=2): repeated}).splitlines()
    assert "| 1 framing | 1 n |" in shown


def test_page_is_no_wider_than_the_site() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert rows
    assert max(row.count("|") - 1 for row in rows) <= _MOST_COLUMNS
