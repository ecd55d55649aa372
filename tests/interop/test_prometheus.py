"""Prometheus itself reads what we tell it, and can answer each question of the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.interop.prometheus import PROMTOOL
from tests.test_metrics import full_page, store_page

pytestmark = [pytest.mark.promtool]

DASHBOARD: Final = Path("docs/grafana.json")
PICTURE: Final = Path("docs/pictures/grafana.png")
# What Grafana puts in their place, or something like it.
VARIABLES: Final = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}


def _promtool(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def queries() -> list[str]:
    board: Any = json.loads(DASHBOARD.read_text("utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    assert len(found) == len(set(found)) > 20
    return found


async def test_prometheus_reads_the_page_and_has_no_complaint() -> None:
    assert _promtool("check", "metrics", text=await full_page()) == ""


@pytest.mark.parametrize("query", queries())
def test_query_of_the_dashboard_is_one(query: str, tmp_path: Path) -> None:
    # `promtool check rules` parses each expression, and so needs no server.
    rules = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": query}]}]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    assert "SUCCESS: 1 rules found" in _promtool("check", "rules", str(tmp_path / "rules.json"))


def test_prometheus_refuses_a_query_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="parse"):
        test_query_of_the_dashboard_is_one("sum(rate(x[)", tmp_path)


async def test_queries_of_the_dashboard_name_what_a_page_has(tmp_path: Path) -> None:
    page = await full_page() + await store_page(tmp_path / "topics.db")
    samples = set(re.findall(r"^(trioweb_\w+)", page, re.MULTILINE))
    named = {name for query in queries() for name in re.findall(r"trioweb_\w+", query)}
    assert named - samples == {f"trioweb_{name}" for name in _ONLY_AFTER_EVENTS}
    for name in _ONLY_AFTER_EVENTS:
        assert f"# TYPE trioweb_{name} counter" in page
    variables = re.findall(
        r"trioweb_\w+", json.dumps(json.loads(DASHBOARD.read_text())["templating"])
    )
    assert set(variables) <= samples
    assert {f"trioweb_{name}" for name in _OF_BROKERS_AND_STORES} <= named


def test_panels_of_the_dashboard_lie_beside_each_other() -> None:
    board: Any = json.loads(DASHBOARD.read_text("utf-8"))
    places = [panel["gridPos"] for panel in board["panels"]]
    taken = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24, "the width of a dashboard"
    assert len({panel["id"] for panel in board["panels"]}) == len(places)


def test_picture_shows_the_panels_of_the_dashboard() -> None:
    """It says so itself: `docs/pictures/grafana.py` draws it again."""
    board: Any = json.loads(DASHBOARD.read_text("utf-8"))
    said = re.search(rb"tEXtDescription\0(\[.*?\])", PICTURE.read_bytes(), re.DOTALL)
    assert said is not None
    assert json.loads(said[1]) == [panel["title"] for panel in board["panels"]]


# By which one sees that they are there, keep up, and lose nothing.
_OF_BROKERS_AND_STORES: Final = (
    *("broker_connected", "broker_waiting", "broker_attempts_total", "broker_refused_total"),
    *(
        "broker_restarts_total",
        "store_failing",
        "store_waiting_bytes",
        "store_bytes",
        "store_ended",
    ),
)
# With a label whose values are those that there were.
_ONLY_AFTER_EVENTS: Final = (
    "connections_closed_total",
    "requests_answered_total",
    "requests_refused_total",
)
