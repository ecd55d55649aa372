"""A hub with a store, and the engine of a parent with one, under Ctrl-C, at each of its lines."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import trio

from tests.store.support import Desk
from trioweb import Retain, open_hub
from trioweb._workers import open_switchboard
from trioweb.testing import interrupt_everywhere


async def _scenario() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "topics.db"
        for life in range(2):
            async with open_hub(store=path, max_topics=1, max_bytes=2**16) as hub:
                topic = hub.topic("news", retain=Retain(max_messages=3))
                with topic.publications(history=1) as publications:
                    await topic.publish_confirmed("a", key=f"{life}")
                    while (await anext(publications)).offset != topic.head:
                        pass
                hub.topic("other").publish("b")
                topic = hub.topic("news", retain=Retain(max_messages=3))
                await topic.load(history=3)
                await trio.sleep(100)


def test_an_interrupt_comes_out_of_a_hub_with_a_store() -> None:
    """Invariant 14."""
    packages = [f"trioweb._topics.{name}" for name in ("_store", "_window", "_hub")]
    # What a thread does, and when, is not the same in each run, so a line may not be passed again.
    assert interrupt_everywhere(_scenario, packages=packages, max_runs=40) >= 30


async def _engine_scenario() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "topics.db"
        for life in range(2):
            async with open_switchboard(max_topics=1, max_bytes=2**16, store=path) as board:
                # The clock does not wait for threads.
                desk = Desk(board, f"{life}", Retain(max_messages=3), patience=math.inf)
                await desk.publish("news", "a", key=f"{life}")
                await desk.publish("other", "b")
                await desk.load("news")
                await trio.sleep(100)


def test_an_interrupt_comes_out_of_an_engine_with_a_store() -> None:
    """Invariant 14."""
    packages = ["trioweb._topics._store", "trioweb._workers._kept", "trioweb._workers._switchboard"]
    assert interrupt_everywhere(_engine_scenario, packages=packages, max_runs=40) >= 30
