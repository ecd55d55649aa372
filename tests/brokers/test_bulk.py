"""Nodes with very many topics, whose connection to the engine was lost, and bursts of pushes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import hiredis
import pytest
import trio
import trio.testing

from trioweb import open_hub
from trioweb._topics._commands import Answer, Command, Pushed
from trioweb._topics._node import _MOST_ASKED, _SENT_AT_ONCE
from trioweb.redis._link import _CHUNK, _TAKEN_AT_ONCE, RedisLink
from trioweb.redis._names import Names
from trioweb.redis._share import ALONE, Share
from trioweb.redis._words import Words
from trioweb.testing import MemoryBroker
from trioweb.testing._broker import _MemoryLink


@dataclass(eq=False)
class Work(trio.abc.Instrument):
    """Counts what is done in one turn of a task.

    Attributes:
        done: in this turn, so far.
        most: in any turn.
    """

    done: int = 0
    most: int = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most, self.done = max(self.most, self.done), 0


@contextmanager
def counted() -> Generator[Work]:
    work = Work()
    trio.lowlevel.add_instrument(work)
    try:
        yield work
    finally:
        trio.lowlevel.remove_instrument(work)


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_a_resync_lets_others_run_and_asks_for_so_many_topics_at_a_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = most = 0
    send = _MemoryLink.send
    broker = MemoryBroker(latency=1)
    async with open_hub(broker=broker) as hub:
        topics = [hub.topic(f"{number}") for number in range(3 * _MOST_ASKED)]
        with ExitStack() as stack, counted() as work:
            for topic in topics:
                stack.enter_context(topic.publications())
                await topic.load()

            def counting(
                self: _MemoryLink, command: Command, answered: Callable[[Answer], None]
            ) -> None:
                def then(answer: Answer) -> None:
                    nonlocal under_way
                    under_way -= 1
                    answered(answer)

                nonlocal under_way, most
                work.done += 1
                under_way += 1
                most = max(most, under_way)
                send(self, command, then)

            monkeypatch.setattr(_MemoryLink, "send", counting)
            broker.cut()
            await trio.sleep(100)
            assert all(topic._window and topic._window.has(None, 0) for topic in topics)
            statistics = hub.statistics().broker
            assert statistics is not None and statistics.connects == 2
    # The node itself has some, too.
    assert _SENT_AT_ONCE <= work.most <= _SENT_AT_ONCE + 8
    assert _MOST_ASKED <= most <= _MOST_ASKED + 8


async def test_a_link_lets_others_run_while_it_hands_on_and_writes_so_much_at_a_time() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    names, share = Names("app", 0), Share("", ALONE, 1)
    words = Words("node", "run", {}, names, share, durable=False, idle=60)
    with counted() as work:

        def receive(pushed: Pushed) -> None:
            work.done += 1

        link = RedisLink("1", ours, hiredis.Reader(), words, names, share, receive)
        data = b"7 epoch i6:node:1t2:it"
        channel = names.channel("news")
        push = b">3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        link._reader.feed(push % (len(channel), channel, len(data), data) * 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert work.most == _TAKEN_AT_ONCE
    link._unsent.extend([b"a" * 1000] * 1000)
    assert _CHUNK <= len(link._take_unsent()) < _CHUNK + 1000
    await theirs.aclose()
    await ours.aclose()
