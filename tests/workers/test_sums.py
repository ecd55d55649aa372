"""Statistics and pages of metrics of several workers, added up."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from trioweb import BrokerStatistics, HubStatistics, ServerStatistics, metrics, open_hub, serve
from trioweb._workers._sums import (
    _NOW,
    add_pages,
    add_statistics,
    counted_on_page,
    counted_so_far,
)


def server_statistics(factor: int) -> dict[str, Any]:
    def numbers(kind: type[Any], *others: str) -> dict[str, Any]:
        names = [field.name for field in fields(kind) if field.name not in others]
        return {name: factor * number for number, name in enumerate(names, 1)}

    broker = BrokerStatistics(connected=True, **numbers(BrokerStatistics, "connected"))
    hub = HubStatistics(broker=broker, **numbers(HubStatistics, "broker", "store"))
    counts = numbers(ServerStatistics, "refused", "answered", "closed", "hub")
    closed = {1000: factor, 1012 + factor: 1}
    return asdict(
        ServerStatistics(refused={503: factor}, answered={}, closed=closed, hub=hub, **counts)
    )


def test_statistics_are_added_field_by_field() -> None:
    one, two = server_statistics(1), server_statistics(2)
    total = add_statistics([one, two])
    for name in ("connections", "opening", "opened", "handler_errors"):
        assert total[name] == 3 * one[name]
    assert total["refused"] == {503: 3}
    assert total["closed"] == {1000: 3, 1013: 1, 1014: 1}
    for field in fields(HubStatistics):
        if field.name not in ("broker", "store"):
            assert total["hub"][field.name] == 3 * one["hub"][field.name]
    assert total["hub"]["broker"]["waiting"] == 3
    assert total["hub"]["broker"]["connected"] is True
    two["hub"]["broker"]["connected"] = False
    assert add_statistics([one, two])["hub"]["broker"]["connected"] is False
    assert add_statistics([]) == {}


def test_what_was_counted_remains_and_what_there_was_does_not() -> None:
    left = counted_so_far(server_statistics(1))
    assert set(left) == {"opened", "refused", "answered", "closed", "handler_errors", "hub"}
    kept = {"published", "deliveries", "evicted", "skipped", "forgotten", "broker", "store"}
    assert set(left["hub"]) == kept
    assert set(left["hub"]["broker"]) == {"refused", "restarts", "attempts", "connects"}
    known = {
        field.name
        for kind in (ServerStatistics, HubStatistics, BrokerStatistics)
        for field in fields(kind)
    }
    assert known >= _NOW


def test_statistics_of_a_server_without_a_hub_are_added() -> None:
    bare = asdict(ServerStatistics(1, 0, 1, {}, {}, {}, 0, None))
    total = add_statistics([bare, counted_so_far(bare), server_statistics(1)])
    assert (total["connections"], total["opened"]) == (2, 5)
    assert total["hub"]["topics"] == 1


def values(page: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse_metrics(page)
        for sample in family.samples
    }


async def test_pages_are_added_series_by_series(nursery: trio.Nursery) -> None:
    async with open_hub() as hub:

        async def handle(connection: object) -> None:
            raise AssertionError

        server = await nursery.start(
            lambda task_status: serve(handle, 0, host="127.0.0.1", hub=hub, task_status=task_status)
        )
        with hub.topic("lobby").publications():
            hub.topic("lobby").publish("a")
            page = await metrics(server, topics=["lobby"])
            hub.topic("lobby").publish("b")
            other = await metrics(server, topics=["lobby"])
        one, two, total = values(page), values(other), values(add_pages([page, other]))
        assert set(total) == set(one)
        largest = {"trioweb_topic_head", "trioweb_draining", "trioweb_topic_lag_max"}
        for key, value in total.items():
            expected = max(one[key], two[key]) if key[0] in largest else one[key] + two[key]
            assert value == pytest.approx(expected), key
        assert total["trioweb_topic_head", "lobby"] == 2
        assert total["trioweb_publications_total",] == 3
        assert total["trioweb_topics",] == 2
        # The format is the same, comments included.
        assert add_pages([page]) == page
        assert add_pages(["", page, ""]) == page
        left = values(counted_on_page(page))
        assert ("trioweb_publications_total",) in left
        assert any(name.startswith("trioweb_turn_seconds_bucket") for name, *_ in left)
        assert ("trioweb_topics",) not in left
        nursery.cancel_scope.cancel()


def test_series_that_only_some_have_are_there() -> None:
    head = "# HELP trioweb_a A.\n# TYPE trioweb_a counter\n"
    total = add_pages([head + 'trioweb_a{code="1 }"} 1\n', head + 'trioweb_a{code="2"} 0.5\n'])
    assert total == head + 'trioweb_a{code="1 }"} 1\ntrioweb_a{code="2"} 0.5\n'
