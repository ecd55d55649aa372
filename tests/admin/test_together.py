"""Several workers are administered as one, whichever of them one has reached."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.admin.support import Office, administering, rows
from trioweb._admin import Admin
from trioweb._admin._lists import Query
from trioweb._admin._together import add_connections, add_figures, add_topics
from trioweb.testing import MemoryBroker


@dataclass
class Others:
    """The other of two workers; or None, if it does not answer."""

    number: int
    admin: Admin | None
    are_all: bool = True

    async def ask(self, what: str, data: dict[str, Any]) -> Sequence[tuple[int, Any]]:
        if self.admin is None:
            await trio.sleep(2)
            return [(3 - self.number, None)]
        return [(3 - self.number, await self.admin.perform(what, data))]


@asynccontextmanager
async def two() -> AsyncGenerator[tuple[Office, Office]]:
    broker = MemoryBroker()
    async with (
        administering(hub={"broker": broker}) as one,
        administering(hub={"broker": broker}) as other,
    ):
        one.admin.join(Others(1, other.admin))
        other.admin.join(Others(2, one.admin))
        yield one, other


async def test_figures_are_those_of_all_and_say_whose(autojump_clock: MockClock) -> None:
    async with two() as (one, other):
        for office in one, one, other:
            await office.visitor("/lobby")
        async with one.desk() as client, client.subscription("overview") as overview:
            first = (await anext(overview)).data
            assert first["delivery_rate"] is None
            for number in range(10):
                one.hub.topic("lobby").publish(str(number))
            await trio.sleep(0.5)
            told = (await anext(overview)).data
            expected = {
                "connections": 4,
                "subscribers": 3,
                "topics": 1,
                "publications": 10,
                "deliveries": 30,
                "alone": True,
                "worker": 1,
                "workers": [1, 2],
                "silent": [],
            }
            assert {name: told[name] for name in expected} == expected
            one.admin.join(Others(1, None, are_all=False))
            while not (told := (await anext(overview)).data)["silent"]:
                pass
            assert (told["workers"], told["silent"], told["alone"]) == ([1], [2], False)
            assert told["connections"] == 3


async def test_worker_that_others_look_at_now_and_then_has_rates_only_while_they_do(
    autojump_clock: MockClock,
) -> None:
    async with two() as (one, _):
        topic = one.hub.topic("lobby")
        with topic.publications():
            await topic.wait_live()
            assert (await one.admin.perform("figures", {}))["publication_rate"] is None
            for number in range(10):
                topic.publish(str(number))
            await trio.sleep(1)
            found = await one.admin.perform("figures", {})
            assert found["publication_rate"] == pytest.approx(10, rel=0.1)
            assert await one.admin.perform("figures", {}) is found, "these are fresh"
            await trio.sleep(60)
            assert (await one.admin.perform("figures", {}))["publication_rate"] is None


async def test_lists_have_what_all_have_in_the_order_that_was_asked_for(
    autojump_clock: MockClock,
) -> None:
    async with two() as (one, other):
        mine = await one.visitor("/lobby")
        await trio.sleep(5)
        theirs = await other.visitor("/lobby")
        await trio.sleep(5)
        await other.visitor("/theirs")
        async with one.desk() as client:
            found = await client.call("connections", {"sort": "age", "limit": 2})
            assert (found["total"], found["found"]) == (4, 4)
            assert [(row["address"], row["worker"]) for row in found["rows"]] == [
                (mine.address, 1),
                (theirs.address, 2),
            ]
            found = await client.call("topics", {"sort": "subscribers"})
            assert (found["total"], found["found"]) == (2, 2)
            assert [(row["name"], row["subscribers"]) for row in found["rows"]] == [
                ("lobby", 2),
                ("theirs", 1),
            ]
            found = await client.call("topics", {"sort": "name", "search": "their"})
            assert (found["total"], found["found"], len(found["rows"])) == (2, 1, 1)
            await other.hub.topic("theirs").publish_confirmed("news")
            [row] = (await client.call("publications", {"topic": "theirs"}))["rows"]
            assert row["text"] == "news"
            with pytest.raises(trioweb.Refused, match="no such topic"):
                await client.call("publications", {"topic": "nobody's"})


async def test_connection_is_closed_and_traced_wherever_it_is_and_the_log_says_by_whom(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trioweb.admin")
    async with two() as (one, other):
        visitor = await other.visitor("/lobby")
        async with one.desk() as client:
            [row] = await rows(client, "connections", search="lobby")
            assert row["traced"] is False
            await client.call("trace", {"id": row["id"], "on": True})
            [row] = await rows(client, "connections", search="lobby")
            assert row["traced"] is True
            await client.call("close", {"id": row["id"], "code": 4004, "reason": "bye"})
            await visitor.connection.wait_closed()
            assert visitor.connection.close_code == 4004
            with pytest.raises(trioweb.Refused, match="no such connection"):
                await client.call("close", {"id": row["id"]})
    traced, closed = [each for each in caplog.records if each.name == "trioweb.admin"]
    assert "logs the frames of" in traced.getMessage()
    assert closed.__dict__["code"] == 4004 and closed.__dict__["connection"] == row["id"]
    # The admin's address is that at the worker that it has reached.
    assert closed.getMessage().startswith(f"admin at {closed.__dict__['address']} closed")


# The sums themselves.


def test_figures_that_each_has_whole_are_not_added() -> None:
    own = {"time": 5.0, "node": "a", "alone": True, "draining": False, "lag": 3, "queued": 10}
    own |= {"publications": 7, "late": 0.25, "delivery_rate": None}
    other = own | {"time": 9.0, "node": "b", "draining": True, "lag": 5, "late": 0.0}
    told = add_figures(own, [(2, other | {"delivery_rate": 1.5}), (4, None), (3, other)], 1)
    assert told == own | {
        "lag": 5,
        "queued": 30,
        "delivery_rate": 1.5,
        "worker": 1,
        "workers": [1, 2, 3],
        "silent": [4],
    }


def test_worker_that_is_being_replaced_is_not_silent_while_one_at_its_place_answers() -> None:
    own = {"node": "a", "queued": 1}
    assert add_figures(own, [(2, None), (2, own)], 1)["silent"] == []


def _topic(name: str, **given: Any) -> dict[str, Any]:
    usual = {"rate": 0.0, "head": 0, "retained": 0, "bytes": 0, "subscribers": 0, "lag": 0}
    return {"name": name, **usual, **given}


def test_topic_of_several_workers_is_one_and_they_are_put_in_order_anew() -> None:
    own = {"rows": [_topic("a", subscribers=2, head=4, bytes=10)], "total": 300, "found": 1}
    other = {
        "rows": [_topic("b", subscribers=3), _topic("a", subscribers=2, head=5, lag=1, bytes=9)],
        "total": 200,
        "found": 2,
    }
    told = add_topics(own, [(2, other), (3, None)], Query("subscribers", True, "", 1))
    assert told["rows"] == [_topic("a", subscribers=4, head=5, lag=1, bytes=19)]
    assert (told["total"], told["found"]) == (300, 2)


def test_connections_without_a_round_trip_can_be_put_in_order_by_it() -> None:
    own = {"rows": [{"id": "a", "rtt": None}], "total": 1, "found": 1}
    other = {"rows": [{"id": "b", "rtt": 0.1}, {"id": "c", "rtt": None}], "total": 9, "found": 2}
    told = add_connections(own, [(2, other)], Query("rtt", True, "", 50), 1)
    assert [(row["id"], row["worker"]) for row in told["rows"]] == [("b", 2), ("a", 1), ("c", 2)]
    assert (told["total"], told["found"]) == (10, 3)
