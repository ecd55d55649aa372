"""History: what a member can read of what is retained."""

from __future__ import annotations

from typing import Any

import pytest

from tests.topic_server.support import FORMATS, Peer, Serving, serving, value
from trioweb import MemberLimits, Retain, TopicRules
from trioweb._centrifuge import _schema as wire

_FIRST, _HEAD = 101, 500


async def filled(web: Serving, format: str) -> Peer:
    """A member subscribed to a topic with the offsets 101 to 500, each of which says so."""
    for n in range(_HEAD):
        web.server.publish("log:1", n + 1)
    peer = await web.connect(format)
    await peer.subscribe("log:1")
    return peer


@FORMATS
@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, []),
        ({"limit": 3}, [101, 102, 103]),
        ({"limit": -1}, list(range(101, 401))),
        ({"limit": 301}, list(range(101, 401))),
        ({"limit": 3, "since": 500}, []),
        ({"limit": 3, "since": 498}, [499, 500]),
        ({"limit": 3, "since": 95}, [101, 102, 103]),
        ({"limit": 3, "since": 0}, [101, 102, 103]),
        ({"limit": 3, "since": 900}, []),
        ({"limit": 3, "reverse": True}, [500, 499, 498]),
        ({"limit": 3, "reverse": True, "since": 501}, [500, 499, 498]),
        ({"limit": 3, "reverse": True, "since": 500}, [499, 498, 497]),
        ({"limit": 3, "reverse": True, "since": 102}, [101]),
        ({"limit": 3, "reverse": True, "since": 50}, []),
    ],
)
async def test_history(format: str, given: dict[str, Any], found: list[int]) -> None:
    rules = TopicRules(retain=Retain(max_messages=400), history=True)
    async with serving(topics={"log": rules}) as web:
        peer = await filled(web, format)
        epoch = web.hub.topic("log:1").epoch
        if "since" in given:
            given = {**given, "since": wire.StreamPosition(given["since"], epoch)}
        told = await peer.ask(wire.HistoryRequest(topic="log:1", **given))
        assert (told.epoch, told.offset) == (epoch, _HEAD)
        assert [publication.offset for publication in told.publications] == found
        assert [value(publication.data) for publication in told.publications] == found


async def test_history_that_cannot_be() -> None:
    rules = TopicRules(history=True)
    async with serving(topics={"log": rules, "chat": TopicRules()}) as web:
        peer = await filled(web, "centrifuge-json")

        async def code(topic: str = "log:1", **given: Any) -> int:
            error = await peer.ask(wire.HistoryRequest(topic=topic, **given))
            found: int = error.code
            return found

        assert await code(limit=1, since=wire.StreamPosition(1, "another")) == 112
        assert await code(reverse=True, since=wire.StreamPosition(0, "")) == 107
        assert await code("chat:1") == 108  # not even if subscribed
        assert await code("log:2") == 103
        assert await code("nowhere:1") == 102


async def test_a_member_reads_no_more_at_once_than_the_limits_say() -> None:
    async with serving(limits_of_members=MemberLimits(max_history=2)) as web:
        peer = await web.connect()
        await peer.subscribe("chat:1")
        for n in range(5):
            web.server.publish("chat:1", n)
        told = await peer.ask(wire.HistoryRequest(topic="chat:1", limit=-1))
        assert [publication.offset for publication in told.publications] == [1, 2]
