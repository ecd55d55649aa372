"""Who is in a topic of a hub that is alone."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trioweb import HubFull, PresenceCount, open_hub
from trioweb._topics._presence import LocalPresence


async def test_who_enters_is_there_until_they_leave() -> None:
    async with open_hub() as hub:
        topic = hub.topic("news")
        with topic.presence_changes() as changes:
            await topic.enter("ann", b"1", user="Ann")
            await topic.enter("ann", b"2", user="Ann")
            await topic.enter("bob", user="Ann")
            assert await topic.members() == {"ann": b"2", "bob": b""}
            assert await topic.count_members() == PresenceCount(2, 1)
            await topic.enter("bob", user="Bob")
            assert await topic.count_members() == PresenceCount(2, 2)
            topic.leave("ann")
            topic.leave("ann")
            topic.leave("nobody")
            topic.leave("bob")
            # It was never told of either, so there is nothing to tell.
            assert not changes._pending
            await topic.enter("cid", b"3")
            change = await anext(changes)
            assert (change.key, change.info, change.is_there) == ("cid", b"3", True)
            topic.leave("cid")
            change = await anext(changes)
            assert (change.key, change.info, change.is_there) == ("cid", b"3", False)
        assert await topic.members() == {}
        assert await topic.count_members() == PresenceCount(0, 0)
        presence = hub._presence
        assert isinstance(presence, LocalPresence)
        assert not presence._topics and not presence._followers


async def test_whoever_follows_hears_nothing_more_when_the_hub_is_closed() -> None:
    heard = []
    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            topic = hub.topic("news")

            async def follow(task_status: trio.TaskStatus[None]) -> None:
                with topic.presence_changes() as changes:
                    task_status.started()
                    heard.extend([change.key async for change in changes])

            await nursery.start(follow)
            await topic.enter("ann")
            await trio.testing.wait_all_tasks_blocked()
        # What had happened before is told.
    assert heard == ["ann"]
    for ask in (topic.members, topic.count_members, lambda: topic.enter("b")):
        with pytest.raises(trio.ClosedResourceError):
            await ask()
    with pytest.raises(trio.ClosedResourceError), topic.presence_changes():
        pass


async def test_members_leave_room_for_publications_and_give_back_what_they_took() -> None:
    async with open_hub(max_bytes=20_000) as hub:
        topic = hub.topic("news")
        with pytest.raises(HubFull, match="members"):
            for number in range(100):
                await topic.enter(f"{number}", bytes(200))
        assert 10 < number < 25
        topic.publish("a" * 9000)
        # A larger info needs room, too, and what was there stays if there is none.
        with pytest.raises(HubFull):
            await topic.enter("0", bytes(10_000))
        assert (await topic.members())["0"] == bytes(200)
        for number in range(100):
            topic.leave(f"{number}")
        topic.publish("a" * 18_000)
        assert hub._retention.max_bytes == 20_000


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"key": 1}, TypeError),
        ({"key": "x" * 256}, ValueError),
        ({"key": "\ud800"}, ValueError),
        ({"key": "a", "info": "text"}, TypeError),
        ({"key": "a", "user": None}, TypeError),
        ({"key": "a", "user": "\ud800"}, ValueError),
    ],
)
async def test_what_cannot_enter_is_told(arguments: dict[str, Any], error: type) -> None:
    async with open_hub() as hub:
        with pytest.raises(error, match="enter"):
            await hub.topic("news").enter(**arguments)
        with pytest.raises(TypeError, match="leave"):
            hub.topic("news").leave(1)  # type: ignore[arg-type]


async def test_presence_takes_no_topic_from_others() -> None:
    async with open_hub(max_topics=1) as hub:
        await hub.topic("a").enter("ann")
        hub.topic("b").publish("x")
        assert await hub.topic("a").members() == {"ann": b""}
