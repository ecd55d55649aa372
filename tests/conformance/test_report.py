"""What is a fault of ours in what the Autobahn testsuite says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.conformance import __main__ as conformance
from tests.conformance.report import faults
from tests.conformance.suite import VERDICTS, Result, Run, Verdict

OURS = Run("trioweb", "client", repeats=2)
PEER = Run("websockets", "client")


def found(run: Run, *verdicts: Verdict) -> list[str]:
    return list(faults({run: {"1.1.1": [Result(verdict, "because") for verdict in verdicts]}}))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_fault_is_what_fails_or_is_lacking_in_any_repeat(verdict: Verdict) -> None:
    expected = {"FAILED", "UNIMPLEMENTED"} & {verdict}
    assert found(OURS, "OK", verdict) == [f"{OURS}: 1.1.1 {each}: because" for each in expected]
    assert found(PEER, verdict) == []


@pytest.mark.parametrize("asked", [(), ("--ours",), ("--ours", "1.*"), ("1.*",)], ids=str)
def test_options_choose_runs_and_cases_and_only_a_whole_run_writes_the_page(
    asked: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path_factory.mktemp("docs") / "conformance.md"
    ran: dict[Run, Sequence[str]] = {}

    def run(run: Run, wstest: str, cases: Sequence[str], directory: object) -> object:
        ran[run] = cases
        return {"1.1.1": [Result("OK", "")] * run.repeats}

    monkeypatch.setattr(conformance, "PAGE", page)
    monkeypatch.setattr(conformance, "run", run)
    monkeypatch.setattr(conformance, "make_certificates", lambda directory: None)
    assert conformance.main("wstest", str(tmp_path_factory.mktemp("reports")), *asked) == 0
    if "--ours" in asked:
        assert {run.library for run in ran} == {"trioweb"}
        assert {run.repeats for run in ran} == {1}
        assert {(run.side, run.way) for run in ran} == {
            (run.side, run.way) for run in conformance.RUNS if run.library == "trioweb"
        }
    else:
        assert list(ran) and set(ran) == set(conformance.RUNS)
    for one, cases in ran.items():
        assert tuple(cases) == (("1.*",) if "1.*" in asked else conformance.cases_of(one))
    assert page.exists() == (not asked)
    assert capsys.readouterr().out.endswith("Nothing failed.\n")
