"""The engine of a parent: its bounds of memory."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from trioweb import Position, Retain
from trioweb import _engine as engine
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics._commands import (
    Answer,
    Ask,
    Command,
    Publish,
    Push,
    Refusal,
    Standing,
    Subscribe,
    Unsubscribe,
    entry_of,
)
from trioweb._topics._details import NOTHING
from trioweb._workers import Switchboard
from trioweb._workers._pipe import Splitter
from trioweb._workers._words import hear_pushes

RETAIN = Retain(max_messages=1000)


class Desk:
    """A reader that asks and publishes as one node."""

    def __init__(self, switchboard: Switchboard, node: str = "node") -> None:
        self.switchboard = switchboard
        self.node = node
        # What it was told by the same words.
        self.pushed: list[list[Push]] = []
        self._number = 0

    def push(self, data: bytes) -> None:
        self.pushed += map(hear_pushes, Splitter().feed(data))

    def publish(self, topic: str, size: int = 1) -> Answer:
        self._number += 1
        frame = encode_message("x" * size, SERVER_FORM)
        entry = entry_of(f"{self.node}:{self._number}", frame, None, NOTHING)
        command = Publish(topic, RETAIN, self._number, entry, False)
        return self.switchboard.execute(self, self.node, command)

    def read(self, topic: str) -> None:
        self.switchboard.execute(self, self.node, Subscribe(topic, RETAIN, "", 0, ""))

    def leave(self, topic: str) -> None:
        self.switchboard.execute(self, self.node, Unsubscribe(topic))

    def ask(self, topic: str, epoch: str = "", offset: int = 0) -> Standing:
        answer = self.switchboard.execute(self, self.node, Ask(topic, RETAIN, epoch, offset, ""))
        assert isinstance(answer, Standing)
        return answer


async def test_topics_that_nobody_reads_are_bounded_and_the_longest_unused_go_first() -> None:
    switchboard = Switchboard(max_topics=3, max_bytes=2**20)
    desk = Desk(switchboard)
    desk.read("read")
    desk.publish("read")
    for name in "abc":
        desk.publish(name)
    desk.publish("a")
    desk.ask("d")
    assert set(switchboard.engine.topics) == {"read", "a", "c", "d"}
    desk.leave("read")
    assert set(switchboard.engine.topics) == {"read", "a", "d"}
    # One that goes on is used again.
    desk.read("a")
    for name in "efg":
        desk.publish(name)
    assert set(switchboard.engine.topics) == {"a", "e", "f", "g"}


async def test_at_the_bound_of_memory_unread_topics_go_before_any_log_is_shortened() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=50_000)
    desk = Desk(switchboard)
    desk.read("read")
    desk.publish("unread", 10_000)
    for _ in range(3):
        desk.publish("read", 11_000)
    assert "unread" in switchboard.engine.topics
    desk.publish("read", 11_000)
    assert "unread" not in switchboard.engine.topics
    assert desk.ask("read").oldest == 1
    assert isinstance(desk.publish("read", 11_000), Position)
    standing = desk.ask("read")
    assert (standing.head, standing.oldest) == (5, 2)
    assert 0 < switchboard.engine.size <= 50_000


async def test_the_largest_log_is_shortened_not_the_one_that_is_published_to() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=50_000)
    desk = Desk(switchboard)
    for name in ("large", "small"):
        desk.read(name)
    for _ in range(40):
        desk.publish("large", 1000)
    desk.publish("small", 1000)
    first = desk.ask("small").epoch
    for _ in range(10):
        desk.publish("small", 1000)
    small, large = desk.ask("small"), desk.ask("large")
    assert (small.epoch, small.oldest, small.head) == (first, 1, 11)
    assert large.oldest > 1 and large.head == 40


async def test_what_can_never_fit_is_refused_and_costs_nobody_else_anything() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=50_000)
    desk = Desk(switchboard)
    desk.publish("a")
    answer = desk.publish("b", 60_000)
    assert isinstance(answer, Refusal) and "50000 bytes" in answer.reason
    assert "a" in switchboard.engine.topics
    # Newest ones that are all that is left cannot go either.
    for name in "cd":
        desk.read(name)
        desk.publish(name, 20_000)
    desk.read("e")
    assert isinstance(desk.publish("e", 20_000), Refusal)


async def test_a_log_has_hardly_more_than_retention_keeps_and_shows_no_more() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**30)
    desk = Desk(switchboard)
    most = 0
    for _ in range(5000):
        desk.publish("many")
        most = max(most, len(switchboard.engine.topics["many"].ids))
    assert RETAIN.max_messages < most <= RETAIN.max_messages * 16 // 15 + 1
    standing = desk.ask("many")
    assert standing.head - standing.oldest + 1 == RETAIN.max_messages
    most = 0
    for _ in range(100):
        desk.publish("large", 100_000)
        most = max(most, switchboard.engine.topics["large"].log.size)
    assert RETAIN.max_bytes < most < RETAIN.max_bytes * 16 // 15 + 200_000
    desk.ask("large")
    assert switchboard.engine.topics["large"].log.size <= RETAIN.max_bytes


async def test_size_is_what_the_logs_take_whatever_happens_to_them() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    engine = switchboard.engine
    desk = Desk(switchboard)

    def check() -> None:
        assert engine.size == sum(topic.size for topic in engine.topics.values())

    for number in range(1100):
        desk.publish(f"{number % 2}", number % 50)
    desk.publish("2", 5000)
    check()
    engine.restart(3)
    check()
    engine.evict_log("2")
    check()
    engine.forget("1")
    check()
    assert engine.size > 0
    engine.restart(None)
    assert engine.size == 0


async def test_a_node_that_has_gone_leaves_nothing_behind() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    one, other = Desk(switchboard, "one"), Desk(switchboard, "other")
    one.read("a")
    one.publish("a")
    other.publish("a")
    switchboard.hand_out()
    assert len(one.pushed) == 1
    switchboard.leave(one, "a")
    for _ in switchboard.engine.forget_node("one"):
        pass
    [topic] = switchboard.engine.topics.values()
    assert topic.numbers == {"other": 1}
    other.publish("a")
    switchboard.hand_out()
    assert len(one.pushed) == 1


async def test_a_node_that_has_gone_is_taken_out_of_so_many_topics_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_FORGOTTEN_AT_ONCE", 10)
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    desk = Desk(switchboard)
    for number in range(35):
        desk.publish(f"{number}")
    assert len([*switchboard.engine.forget_node("node")]) == 3
    assert not any(topic.numbers for topic in switchboard.engine.topics.values())


async def test_a_log_to_be_shortened_is_found_without_a_look_at_all() -> None:
    """Work for each publication at the bound, counted in calls, whatever the number of topics."""

    def count(topics: int) -> int:
        calls = 0

        def profile(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        switchboard = Switchboard(max_topics=topics, max_bytes=2000 * topics)
        desk = Desk(switchboard)
        for number in range(topics):
            desk.read(f"{number}")
        number = 0
        while switchboard.engine.size + 1000 < 2000 * topics:
            number += 1
            desk.publish(f"{number % topics}")
        sys.setprofile(profile)
        try:
            for number in range(20):
                desk.publish(f"{number}")
        finally:
            sys.setprofile(None)
        assert switchboard.engine.size <= 2000 * topics
        return calls

    assert count(1000) < 1.5 * count(100)


async def test_what_is_published_behind_each_other_is_told_together_and_in_order() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    desk = Desk(switchboard)
    for name in "ab":
        desk.read(name)
    # What nobody reads is told to nobody.
    for name in ["a"] * 150 + ["b", "unread", "b", "a"]:
        desk.publish(name)
    switchboard.hand_out()
    switchboard.hand_out()
    told = [(push.topic, push.stored.offset) for pushes in desk.pushed for push in pushes]
    assert told == [("a", at) for at in range(1, 151)] + [("b", 1), ("b", 2), ("a", 151)]
    assert [len(pushes) for pushes in desk.pushed] == [64, 64, 22, 2, 1]
    assert {push.epoch for push in desk.pushed[0]} == {desk.ask("a").epoch}


@pytest.mark.parametrize(
    "command",
    [Ask("a", RETAIN, "", 0, ""), Subscribe("a", RETAIN, "", 0, ""), Unsubscribe("a")],
)
async def test_what_was_published_is_told_before_anything_else_is_answered(
    command: Command,
) -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    desk = Desk(switchboard)
    desk.read("a")
    desk.publish("a")
    switchboard.execute(desk, desk.node, command)
    assert len(desk.pushed) == 1


async def test_what_was_published_in_another_life_is_told_apart() -> None:
    switchboard = Switchboard(max_topics=100, max_bytes=2**20)
    desk = Desk(switchboard)
    desk.read("a")
    desk.publish("a")
    switchboard.engine.forget("a")
    desk.publish("a")
    switchboard.engine.restart(0)
    desk.publish("a")
    switchboard.hand_out()
    assert [len(pushes) for pushes in desk.pushed] == [1, 1, 1]
    assert len({push.epoch for [push] in desk.pushed}) == 3
    assert [push.stored.offset for [push] in desk.pushed] == [1, 1, 2]
