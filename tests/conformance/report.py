"""What the suite found, as a page for people, and whether it will do.

Knows nothing of how the suite was run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .suite import VERDICTS, Results, Run, Verdict

SECTIONS: Final = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits: up to 16 MiB, up to 1,000 messages",
    "10": "fragments of its own choice",
    "12": "compression",
    "13": "compression parameters",
}

# Why a case is not OK, by the beginning of its number; for others the suite's own words must do.
_EARLY: Final = (
    "A message, and behind it what must not be: the peer fails the connection at once (RFC 6455 "
    "section 7.1.7), and the echo of the message comes too late. Whether both arrive in one read "
    "is a matter of microseconds, so the verdict changes from run to run."
)
REASONS: Final = {
    "3.": _EARLY,
    "4.": _EARLY,
    "5.15": _EARLY,
    "6.4.": "Invalid UTF-8 is refused when the message is whole instead of at once.",
    "7.1.6": "The suite sends 256 KiB, Close and a ping at once, and only notes how the peer ends.",
    "7.13.": "The suite closes with a code that does not exist (5000, 65535), and only notes what "
    "becomes of it. trioweb answers 1002.",
}

_COLUMNS: Final[tuple[Verdict, ...]] = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED")

OURS: Final = "trioweb"
_MARKS: Final[Mapping[Verdict, str]] = {
    "OK": "",
    "INFORMATIONAL": " i",
    "NON-STRICT": " n",
    "UNIMPLEMENTED": " u",
    "FAILED": " **F**",
}
_LEGEND: Final = (
    "A number is that of cases: without a letter of those that are OK, with i INFORMATIONAL, with\n"
    "n NON-STRICT, with **F** FAILED."
)

Outcome = Mapping[Run, Results]


def counts(results: Results, section: str) -> Counter[Verdict]:
    """The verdicts on the cases of a section; of several repeats the worst counts."""
    return Counter(
        max((result.verdict for result in repeats), key=VERDICTS.index)
        for case, repeats in results.items()
        if case.split(".")[0] == section
    )


def faults(outcome: Outcome) -> Iterator[str]:
    """Say what must not be: cases that trioweb failed, or that ask for what it lacks.

    Not the non-strict ones: they are allowed, and change from run to run (see REASONS).
    """
    for run, results in outcome.items():
        if run.library != OURS:
            continue
        for case, repeats in results.items():
            for result in repeats:
                if result.verdict in ("FAILED", "UNIMPLEMENTED"):
                    yield f"{run}: {case} {result.verdict}: {result.text}"


def tables(outcome: Outcome) -> str:
    """All results by section, and what was not OK by case, in Markdown.

    The sections are the rows: there are more of them than a page is wide for.
    """
    ours = {run: results for run, results in outcome.items() if run.library == OURS}
    peers = {run: results for run, results in outcome.items() if run.library != OURS}
    parts = [_LEGEND, *(_by_section(some) for some in (ours, peers) if some), _by_case(outcome)]
    return "\n\n".join(parts)


def _by_section(outcome: Outcome) -> str:
    """The results of some runs: a column for each of them."""
    found = {
        section: [counts(results, section) for results in outcome.values()] for section in SECTIONS
    }
    rows = [["", *map(str, outcome)]]
    rows += [
        [f"{section} {SECTIONS[section]}", *map(_cell, of_runs)]
        for section, of_runs in found.items()
        if any(of_runs)
    ]
    totals = [sum(of_run, Counter[Verdict]()) for of_run in zip(*found.values(), strict=True)]
    rows += [
        [f"all that are {verdict}", *(str(total[verdict]) for total in totals)]
        for verdict in _COLUMNS
    ]
    return _table(rows)


def _cell(verdicts: Counter[Verdict]) -> str:
    parts = [f"{verdicts[verdict]}{_MARKS[verdict]}" for verdict in VERDICTS if verdicts[verdict]]
    return ", ".join(parts) or "–"


def _by_case(outcome: Outcome) -> str:
    """Each case that was not OK somewhere; those together of which the same is to be said."""
    cases = sorted(
        {case for results in outcome.values() for case in results},
        key=lambda case: [int(part) for part in case.split(".")],
    )
    bad: dict[tuple[str, str, str], list[str]] = {}
    for case in cases:
        for verdict in VERDICTS[1:]:
            runs = [
                run
                for run, results in outcome.items()
                if any(result.verdict == verdict for result in results.get(case, ()))
            ]
            if runs:
                text = next(
                    result.text for result in outcome[runs[0]][case] if result.verdict == verdict
                )
                of = "all" if len(runs) == len(outcome) else "; ".join(map(str, runs))
                bad.setdefault((verdict, of, _reason(case, text)), []).append(case)
    rows = [["case", "verdict", "of", "reason"]]
    return _table([*rows, *([", ".join(found), *said] for said, found in bad.items())])


def _reason(case: str, text: str) -> str:
    return next((why for start, why in REASONS.items() if case.startswith(start)), text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
