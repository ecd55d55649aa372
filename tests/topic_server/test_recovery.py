"""Recovery: what somebody who comes back is told and given.  `recovered` is never said in part."""

from __future__ import annotations

from typing import Any

import pytest

from tests.topic_server.support import (
    FORMATS,
    JSON,
    PROTOBUF,
    Peer,
    Serving,
    serving,
    settle,
    value,
)
from trioweb import TopicRules
from trioweb._centrifuge import _schema as wire


async def come_back(web: Serving, topic: str, format: str = JSON, **given: Any) -> tuple[Peer, Any]:
    peer = await web.connect(format)
    return peer, await peer.subscribe(topic, recover=True, **given)


def all_offsets(peer: Peer, topic: str, told: wire.SubscribeResult) -> list[int]:
    """Of what was recovered, in the reply and behind it."""
    return [publication.offset for publication in told.publications] + peer.offsets(topic)


@FORMATS
@pytest.mark.parametrize(
    ("offset", "epoch", "recovered"),
    [
        (20, "its own", True),  # nothing was missed
        (15, "its own", True),
        (10, "its own", True),  # the first of the log is the next
        (9, "its own", False),
        (0, "its own", False),
        (21, "its own", False),
        (2**64 - 1, "its own", False),
        (15, "another", False),
        (15, "", True),  # any
        (0, "", False),
    ],
)
async def test_recovered_is_said_only_of_all(
    format: str, offset: int, epoch: str, recovered: bool
) -> None:
    async with serving() as web:
        for n in range(20):
            web.server.publish("chat:1", n + 1)  # 10 are retained
        own = web.hub.topic("chat:1").epoch
        peer, told = await come_back(
            web, "chat:1", format, offset=offset, epoch=own if epoch == "its own" else epoch
        )
        assert (told.was_recovering, told.recovered, told.epoch) == (True, recovered, own)
        assert told.offset == (offset if recovered else 20)
        web.server.publish("chat:1", 21)
        await settle()
        start = offset if recovered else 20
        assert all_offsets(peer, "chat:1", told) == list(range(start + 1, 22))


async def test_a_whole_log_is_recovered_from_its_beginning() -> None:
    async with serving() as web:
        for n in range(5):
            web.server.publish("chat:1", n)
        _, told = await come_back(web, "chat:1", epoch=web.hub.topic("chat:1").epoch)
        assert told.recovered
        assert [value(publication.data) for publication in told.publications] == [0, 1, 2, 3, 4]


@FORMATS
@pytest.mark.parametrize(
    ("offset", "epoch"),
    [
        (9, ""),
        (9, "its own"),
        (0, "its own"),
        (21, "its own"),
        (2**64 - 1, "its own"),
        (15, "another"),
        (99, ""),
    ],
)
async def test_who_wants_all_or_nothing_is_refused_and_can_subscribe_again(
    format: str, offset: int, epoch: str
) -> None:
    async with serving() as web:
        for n in range(20):
            web.server.publish("chat:1", n)
        if epoch == "its own":
            epoch = web.hub.topic("chat:1").epoch
        peer, told = await come_back(web, "chat:1", format, offset=offset, epoch=epoch, flag=2)
        assert told == wire.Error(112, "unrecoverable position")
        assert web.server.presence("chat:1") == ()
        assert (await peer.subscribe("chat:1")).offset == 20


@FORMATS
@pytest.mark.parametrize(("size", "in_reply"), [(16 * 2**10, True), (16 * 2**10 + 1, False)])
async def test_what_was_missed_comes_in_the_reply_or_behind_it(
    format: str, size: int, in_reply: bool
) -> None:
    async with serving() as web:
        web.server.publish("chat:1", 0)
        for part in (4000, size - 4000):
            web.server.publish("chat:1", "x" * (part - 2))  # and two quotes
        peer, told = await come_back(web, "chat:1", format, offset=1)
        assert (told.recovered, told.offset) == (True, 1)
        assert len(told.publications) == (2 if in_reply else 0)
        assert all_offsets(peer, "chat:1", told) == [2, 3]


async def test_a_position_outlives_a_quiet_topic() -> None:
    async with serving() as web:
        peer = await web.connect()
        told = await peer.subscribe("chat:quiet")
        await peer.connection.aclose()
        await settle()
        assert web.hub.statistics().topics == 0
        _, told = await come_back(web, "chat:quiet", epoch=told.epoch, offset=told.offset)
        assert (told.was_recovering, told.recovered) == (True, True)


@FORMATS
async def test_of_the_latest_only_that_matters(format: str) -> None:
    async with serving() as web:
        _, told = await come_back(web, "now:1", format)
        assert (told.was_recovering, told.recovered, told.publications) == (True, False, [])
        _, again = await come_back(web, "now:1", format, epoch=told.epoch)
        assert again.recovered  # there still is nothing
        for n in range(3):
            web.server.publish("now:1", n)
        for given in ({}, {"epoch": told.epoch, "offset": 1}, {"epoch": "another", "offset": 3}):
            _, told_now = await come_back(web, "now:1", format, **given)
            assert told_now.recovered
            assert [value(p.data) for p in told_now.publications] == [2]
        _, told = await come_back(web, "now:1", format, epoch=told.epoch, offset=3)
        assert (told.recovered, told.publications, told.offset) == (True, [], 3)


async def test_a_large_latest_comes_behind_the_reply() -> None:
    async with serving() as web:
        web.server.publish("now:1", 0)
        web.server.publish("now:1", "x" * 20_000)
        peer, told = await come_back(web, "now:1")
        assert (told.recovered, told.publications, told.offset) == (True, [], 1)
        assert peer.offsets("now:1") == [2]


async def test_where_nothing_is_recovered_no_position_is_told_unless_asked_for() -> None:
    async with serving(topics={"plain": TopicRules(recover=None)}) as web:
        web.server.publish("plain:1", 0)
        _, told = await come_back(web, "plain:1", offset=1)
        assert told == wire.SubscribeResult()
        positioned = await (await web.connect()).subscribe("plain:1", positioned=True)
        assert (positioned.positioned, positioned.recoverable, positioned.offset) == (
            True,
            False,
            1,
        )


async def test_a_crowd_that_is_cut_off_at_once_recovers_all_of_it() -> None:
    async with serving() as web:
        for n in range(3):
            web.server.publish("chat:1", n)
        peers = [await web.connect(chance) for chance in (JSON, PROTOBUF) * 50]
        told = [await peer.subscribe("chat:1") for peer in peers]
        for peer in peers:
            peer.connection.link.abort("test")
        await settle()
        assert web.server.statistics().subscriptions == 0
        for n in range(3, 9):
            web.server.publish("chat:1", n)
        for epoch, offset in ((one.epoch, one.offset) for one in told):
            peer, again = await come_back(web, "chat:1", epoch=epoch, offset=offset)
            assert again.recovered
            assert all_offsets(peer, "chat:1", again) == [4, 5, 6, 7, 8, 9]


async def test_many_who_come_back_share_what_they_missed() -> None:
    """By a cursor each: nothing is copied for them, and what they do not read is not queued."""
    async with serving(topics={"big": TopicRules()}) as web:
        for _ in range(300):
            web.server.publish("big:1", "x" * 1000)
        peers = [await web.connect(PROTOBUF) for _ in range(20)]
        before = web.hub.statistics().retained_bytes
        for peer in peers:
            told = await peer.subscribe("big:1", recover=True)
            assert (told.recovered, told.publications) == (True, [])
        await settle()
        assert all(peer.offsets("big:1") == list(range(1, 301)) for peer in peers)
        assert web.hub.statistics().retained_bytes == before
