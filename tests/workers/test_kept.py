"""The engine of a parent with a store: what comes back after a kill, and what a full store does."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.brokers.worker_broker import Ignore
from tests.store.support import RETAIN, Desk, copy_as_killed, journal_of
from trioweb import Hub, Position, Publisher, StoreError, open_hub
from trioweb._protocol._frames import decode_message
from trioweb._topics._commands import (
    Loaded,
    Refusal,
    Unsubscribe,
)
from trioweb._topics._store import _keeping, _opening
from trioweb._topics._store._keeping import Store
from trioweb._workers import Switchboard, _kept, open_switchboard, open_worker
from trioweb._workers._parent_end import ParentEnd
from trioweb.testing import stream_pair

ME = Publisher("me", b"info")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topics.db"


@asynccontextmanager
async def opened(
    path: Path, *, max_topics: int = 100, max_bytes: int = 2**20
) -> AsyncGenerator[tuple[Switchboard, Store]]:
    async with open_switchboard(max_topics=max_topics, max_bytes=max_bytes, store=path) as board:
        assert board.store is not None
        yield board, board.store


def texts(loaded: Loaded) -> dict[int, str | bytes]:
    return {each.offset: decode_message(each.entry.frame) for each in loaded.entries}


async def publish_some(path: Path, to: Path, count: int = 5) -> Position:
    """Publish to "news", and be killed; return where that stands."""
    async with opened(path) as (board, store):
        desk = Desk(board)
        for number in range(count):
            position = await desk.publish(
                "news", f"{number + 1}", key=f"{number + 1}", tags={"a": "ö"}, publisher=ME
            )
        copy_as_killed(store, to)
    return position


async def test_topic_goes_on_after_a_kill_with_all_that_its_publications_have(
    path: Path, tmp_path: Path
) -> None:
    """Invariant 15."""
    epoch, head = await publish_some(path, tmp_path / "killed")
    async with opened(tmp_path / "killed" / path.name) as (board, _):
        desk = Desk(board, "other")
        standing = await desk.ask("news")
        assert standing == (epoch, head, 0, 1, [])
        loaded = await desk.load("news", 2)
        assert (loaded.epoch, loaded.oldest) == (epoch, 1)
        assert texts(loaded) == {3: "3", 4: "4", 5: "5"}
        entry = loaded.entries[-1].entry
        assert (entry.details.key, entry.details.tags) == ("5", {"a": "ö"})
        assert entry.details.publisher == ME
        assert all(0 <= each.age < 600 for each in loaded.entries)
        # A key is known for as long as its publication.
        assert await desk.publish("news", "again", key="5", publisher=ME) == (epoch, 5)
        assert await desk.publish("news", "6") == (epoch, 6)


@pytest.mark.parametrize("what", ["boot", "journal"])
async def test_where_something_may_be_missing_every_topic_begins_a_new_epoch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    epoch, head = await publish_some(path, tmp_path / "killed")
    if what == "boot":
        path = tmp_path / "killed" / path.name
        monkeypatch.setattr(_opening, "boot_id", lambda: "another")
    else:
        journal_of(path).unlink()
    async with opened(path) as (board, store):
        desk = Desk(board)
        standing = await desk.ask("news")
        assert standing.epoch != epoch
        assert (standing.head, standing.begin, standing.oldest) == (head, head, 1)
        assert list(texts(await desk.load("news"))) == [1, 2, 3, 4, 5]
        assert await desk.publish("news") == (standing.epoch, head + 1)
        assert store.statistics().ended is not None


async def test_topic_that_left_memory_comes_back_and_a_retry_is_not_published_twice(
    path: Path,
) -> None:
    async with opened(path, max_topics=1) as (board, _):
        desk = Desk(board)
        sent = desk.say("news", "once")
        await desk.execute(sent)
        epoch, head = await desk.publish("news", "last")
        await desk.publish("other")
        assert set(board.engine.topics) == {"other"}
        # Its worker, which has lost its session, has had no answer, and what it knows fits.
        standing = await desk.ask("news", epoch, 1, "node:1")
        assert (standing.epoch, standing.head) == (epoch, head)
        assert [each.offset for each in standing.entries] == [2]
        answer = await desk.execute(sent._replace(is_retry=True))
        assert answer == Position(epoch, 0)
        assert (await desk.ask("news")).head == head
        # A node that is gone leaves nothing.
        await desk.publish("other")
        assert set(board.engine.topics) == {"other"}
        for _ in board.engine.forget_node("node"):
            pass
        assert await desk.execute(sent._replace(is_retry=True)) == Position(epoch, 3)


async def test_memory_holds_the_newest_of_what_is_loaded_where_there_is_no_room_for_all(
    path: Path, tmp_path: Path
) -> None:
    async with opened(path) as (board, store):
        for _ in range(10):
            await Desk(board).publish("news", "x" * 5000)
        copy_as_killed(store, tmp_path / "killed")
    async with opened(tmp_path / "killed" / path.name, max_bytes=20_000) as (board, _):
        loaded = await Desk(board).load("news")
        assert loaded.oldest > 1
        assert [each.offset for each in loaded.entries] == list(range(loaded.oldest, 11))
        assert len(loaded.entries) >= 2
        assert board.engine.size <= 20_000 + 192 * 10


@asynccontextmanager
async def open_worker_hub(board: Switchboard) -> AsyncGenerator[Hub]:
    """The hub of a worker whose parent has this engine."""
    here, there = stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ParentEnd(there, board, Ignore()).run)
        async with open_worker(here) as end, open_hub(broker=end.broker) as hub:
            yield hub
        nursery.cancel_scope.cancel()


async def test_workers_of_the_next_parent_go_on_with_the_topics_of_the_one_before(
    path: Path, tmp_path: Path
) -> None:
    """Invariant 15, and what a worker asks for while a topic is loaded is done in order."""
    async with opened(path) as (board, store), open_worker_hub(board) as hub:
        with trio.fail_after(20):
            for number in range(1, 6):
                epoch, offset = await hub.topic("news").publish_confirmed(f"{number}")
        assert offset == 5
        copy_as_killed(store, tmp_path / "killed")
    async with (
        opened(tmp_path / "killed" / path.name) as (board, _),
        open_worker_hub(board) as one,
        open_worker_hub(board) as other,
    ):
        for number in range(6, 9):
            one.topic("news").publish(f"{number}")
        with (
            trio.fail_after(20),
            other.topic("news").publications(since=(epoch, 2)) as publications,
        ):
            # A gap would be raised.
            found = [await anext(publications) for _ in range(6)]

        assert [each.offset for each in found] == [3, 4, 5, 6, 7, 8]
        assert [each.message for each in found] == ["3", "4", "5", "6", "7", "8"]
        assert other.topic("news").epoch == epoch
        assert await one.topic("news").publish_confirmed("9") == (epoch, 9)


# Full.


async def test_full_journal_has_publishers_wait_while_it_is_committed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kept, "_PATIENCE", 20)
    async with opened(path, max_bytes=2**19) as (board, store):
        desk = Desk(board)
        waited = 0
        for number in range(300):
            command = desk.say("news", "x" * 1000)
            waited += board.wait_for(command) is not None
            assert isinstance(await desk.execute(command), Position)
            assert (await desk.ask("news")).head == number + 1
        assert waited
        assert store.statistics().waiting_bytes <= store.capacity
        # What can never fit is refused at once, and costs nobody else anything.
        answer = await desk.execute(desk.say("other", "x" * 2**18))
        assert answer == Refusal("the store has no room: 131072 bytes of journal")
        assert await desk.publish("news")


async def test_full_disk_refuses_what_the_journal_does_not_hold(path: Path, tmp_path: Path) -> None:
    async with opened(path, max_bytes=2**19) as (board, store):
        desk = Desk(board)
        epoch, _ = await desk.publish("news", "1")
        store._database._execute("PRAGMA query_only = 1")
        count = 1
        while isinstance(answer := await desk.execute(desk.say("news", "x" * 3000)), Position):
            count += 1
            assert answer == (epoch, count)
        assert isinstance(answer, Refusal) and "no room" in answer.reason
        assert (await desk.ask("news")).head == count
        copy_as_killed(store, tmp_path / "killed")
        store._database._execute("PRAGMA query_only = 0")
        with trio.fail_after(20):
            while not store.has_room_for(3000):
                await store.wait_room(3000)
        assert await desk.publish("news") == (epoch, count + 1)
    async with opened(tmp_path / "killed" / path.name, max_bytes=2**19) as (board, _):
        standing = await Desk(board).ask("news")
        assert (standing.epoch, standing.head) == (epoch, count)


async def test_disk_that_does_not_answer_refuses_what_the_journal_does_not_hold(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(path, max_bytes=2**19) as (board, store):
        desk = Desk(board)
        await desk.publish("news")
        with store._database.lock:
            while isinstance(await desk.execute(desk.say("news", "x" * 3000)), Position):
                pass
            # Only the first one has waited.
            assert board.wait_for(desk.say("news", "x" * 3000)) is None


async def test_disk_that_does_not_answer_keeps_no_worker_waiting(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that cannot be loaded in time goes on, and what it had is told to be missing."""
    epoch, head = await publish_some(path, tmp_path / "killed")
    async with opened(path) as (board, store):
        monkeypatch.setattr(_keeping, "_SILENCE", 0.1)
        desk = Desk(board, "other")
        store._database.lock.acquire()
        assert await desk.subscribe("news") == (epoch, head, 0, head + 1, [])
        assert await desk.publish("news", "new") == (epoch, head + 1)
        store._database.lock.release()


async def test_store_that_cannot_be_is_told(path: Path) -> None:
    async with opened(path):
        with pytest.raises(StoreError, match="another hub has it open"):
            async with opened(path):
                pass  # pragma: no cover - it cannot be opened


# All at once.


class Model:
    """What publishers were told, by topic: texts in order, and keys."""

    def __init__(self) -> None:
        self.epochs: dict[str, str] = {}
        self.told: dict[str, list[str]] = {name: [] for name in "abc"}
        self.keys: dict[str, dict[str, int]] = {name: {} for name in "abc"}


async def use(rng: random.Random, desk: Desk, name: str, model: Model, text: str) -> None:
    """Do something with the topic *name*, and compare."""
    told, keys = model.told[name], model.keys[name]
    head = len(told)
    first = max(0, head - RETAIN.max_messages)
    match rng.randrange(6):
        case 0:
            await trio.sleep(rng.choice((0, 0, 0.01)))
        case 1:
            board = desk.switchboard
            if rng.randrange(2):
                standing = await desk.subscribe(name)
                assert standing.head == head
                assert standing.epoch == model.epochs.setdefault(name, standing.epoch)
            else:
                board.execute(desk, desk.node, Unsubscribe(name))
            if board._idle:
                board._forget_longest_unused()
        case 2:
            standing = await desk.ask(name)
            assert standing.head == head
            assert standing.epoch == model.epochs.setdefault(name, standing.epoch)
            assert standing.oldest <= first + 1
        case 3:
            after = rng.randrange(head + 1)
            loaded = await desk.load(name, after)
            found = texts(loaded)
            assert found == {offset: told[offset - 1] for offset in found}
            assert list(found) == list(range(max(after, loaded.oldest - 1) + 1, head + 1))
            assert loaded.oldest <= first + 1
        case 4 if keys:
            key, offset = rng.choice(list(keys.items()))
            if offset > first:
                assert (await desk.publish(name, "again", key=key)).offset == offset
        case _:
            new_key = text if rng.random() < 0.3 else None
            command = desk.say(name, text, key=new_key)
            answer = await desk.execute(command)
            assert isinstance(answer, Position)
            assert answer.offset == head + 1
            assert answer.epoch == model.epochs.setdefault(name, answer.epoch)
            told.append(text)
            if new_key is not None:
                keys[new_key] = head + 1
            if rng.random() < 0.2:
                # Its answer was lost.
                again = await desk.execute(command._replace(is_retry=True))
                assert isinstance(again, Position)
                assert again.offset in (head + 1, 0)


@pytest.mark.parametrize("seed", range(8))
async def test_engine_is_what_a_model_says_over_restarts(tmp_path: Path, seed: int) -> None:
    """Invariant 15: random use, kills and restarts: nothing is missing, nothing comes twice."""
    rng = random.Random(seed)
    path = tmp_path / "0.db"
    model = Model()
    for life in range(12):
        async with opened(path) as (board, store):
            assert store.statistics().ended is None
            desks = [Desk(board, f"{life}-{number}") for number in range(2)]
            for number in range(rng.randrange(40)):
                await use(rng, rng.choice(desks), rng.choice("abc"), model, f"{life} {number}")
            if rng.random() < 0.6:
                path = copy_as_killed(store, tmp_path / f"{life + 1}")
