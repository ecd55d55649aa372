"""A hub with a store: what comes back, what ends an epoch, and who is told."""

from __future__ import annotations

import logging
import os
import random
import resource
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.store.support import copy_as_killed, journal_of, store_of
from tests.topics.support import open_peers
from trioweb import Hub, HubFull, Publisher, Retain, StoreError, StoreStatistics, open_hub
from trioweb._topics._commands import Loaded
from trioweb._topics._log import OVERHEAD_BYTES
from trioweb._topics._store import _keeping, _opening
from trioweb.testing import MemoryBroker

ME = Publisher("me", b"info")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topics.db"


def told(hub: Hub) -> StoreStatistics:
    statistics = hub.statistics().store
    assert isinstance(statistics, StoreStatistics)
    return statistics


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(0.01)


async def committed(hub: Hub) -> None:
    await until(lambda: not told(hub).waiting)


async def publish_some(path: Path, killed: Path | None = None, count: int = 20) -> str:
    """Publish to "news"; return its epoch."""
    async with open_hub(store=path) as hub:
        topic = hub.topic("news")
        for number in range(count):
            topic.publish(f"{number}")
        if killed is not None:
            copy_as_killed(hub, killed)
        return topic.epoch


async def read(path: Path, epoch: str, offset: int = 0) -> tuple[bool, list[str | bytes]]:
    """What somebody who comes back to "news" gets, and whether nothing is missing."""
    async with open_hub(store=path) as hub:
        topic = hub.topic("news")
        since = (epoch, offset)
        await topic.load(since=since)
        start = topic.recovery(since)
        return start.recovered, [one.message for one in topic.history(start.position.offset)]


# What comes back.


async def test_topic_goes_on_with_all_that_its_publications_have(path: Path) -> None:
    """Invariant 15."""
    async with open_hub(store=path) as hub:
        topic = hub.topic("näws\ud800")
        topic.publish("plain")
        topic.publish(b"\xff")
        topic.publish('{"a": 1}', kind="json")
        topic.publish('"said"', kind="json", skip="you")
        topic.publish("all", "you", key="k", tags={"ä": "ö"}, publisher=ME)
        before = [
            (one._frame, one.kind, one._is_string, topic._log.skip(one.offset), one.key, one.tags)
            for one in topic.history()
        ]
        size, epoch = topic.size, topic.epoch
    async with open_hub(store=path) as hub:
        topic = hub.topic("näws\ud800")
        assert (topic.epoch, topic.head) == (epoch, 5)
        assert topic.retained == 0  # nothing is loaded that nobody needs
        await topic.load(since=(epoch, 0))
        after = [
            (one._frame, one.kind, one._is_string, topic._log.skip(one.offset), one.key, one.tags)
            for one in topic.history()
        ]
        assert after == before
        assert topic.history()[-1].publisher == ME
        assert topic.size == size
        assert topic.publish("next") == 6
        assert told(hub).ended is None


async def test_subscriber_who_comes_back_after_a_restart_gets_what_it_missed(path: Path) -> None:
    epoch = await publish_some(path)
    async with open_peers() as peers, open_hub(store=path) as hub:
        topic = hub.topic("news")
        peer = peers.open("memory")
        subscription = topic.subscribe(peer.connection, since=(epoch, 17))
        topic.publish("new")
        await until(lambda: "new" in peer.messages)
        assert peer.messages == ["17", "18", "19", "new"]
        assert subscription.recovered


async def test_what_was_not_committed_is_replayed(path: Path, tmp_path: Path) -> None:
    epoch = await publish_some(path, tmp_path / "killed")
    async with open_hub(store=tmp_path / "killed" / path.name) as hub:
        # The topic itself is a record, too.
        assert (told(hub).replayed, told(hub).waiting) == (21, 0)
    messages = [str(number) for number in range(20)]
    assert await read(tmp_path / "killed" / path.name, epoch) == (True, messages)


async def test_start_after_a_clean_end_has_nothing_to_replay(path: Path) -> None:
    await publish_some(path)
    async with open_hub(store=path) as hub:
        assert (told(hub).replayed, told(hub).ended) == (0, None)
        # Not more than what others need to know.
        assert sorted(each.name for each in path.parent.iterdir() if each.stat().st_size) == [
            "topics.db",
            "topics.db-pending",
            "topics.db-shm",
        ]


async def test_leaving_commits_also_when_it_is_cancelled_or_fails(path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_hub(store=path) as hub:
            hub.topic("news").publish("a")
            scope.cancel()
            await trio.sleep_forever()
    with pytest.raises(ZeroDivisionError):
        async with open_hub(store=path) as hub:
            hub.topic("news").publish("b")
            raise ZeroDivisionError
    async with open_hub(store=path) as hub:
        assert told(hub).replayed == 0
        assert hub.topic("news").head == 2


async def test_position_of_an_empty_topic_survives(path: Path) -> None:
    """Somebody was told its epoch, though nothing was ever published."""
    async with open_peers() as peers, open_hub(store=path) as hub:
        topic = hub.topic("news")
        topic.subscribe(peers.open("memory").connection)
        epoch = topic.epoch
        aged = hub.topic("aged", retain=Retain(max_age=1e-9))
        aged.publish("x")
        aged_epoch = aged.epoch
    async with open_hub(store=path) as hub:
        assert hub.topic("news").recovery((epoch, 0)).recovered
        assert hub.topic("aged", retain=Retain(max_age=1e-9)).recovery((aged_epoch, 1)).recovered


async def test_position_that_lingered_long_enough_is_forgotten(path: Path) -> None:
    async with open_hub(store=path, linger=0) as hub:
        topic = hub.topic("aged", retain=Retain(max_age=1e-9))
        topic.publish("x")
        epoch = topic.epoch
        await trio.sleep(0.6)
    async with open_hub(store=path, linger=0) as hub:
        assert hub.topic("aged").epoch != epoch


async def test_key_is_known_after_a_restart_as_long_as_its_publication(path: Path) -> None:
    retain = Retain(max_messages=3)
    async with open_hub(store=path) as hub:
        topic = hub.topic("news", retain=retain)
        assert topic.publish("a", key="a") == 1
        assert topic.publish("b", key="a", publisher=ME) == 2
    async with open_hub(store=path) as hub:
        topic = hub.topic("news", retain=retain)
        assert topic.publish("again", key="a") == 1
        assert topic.publish("again", key="a", publisher=ME) == 2
        assert [topic.publish("x") for _ in range(2)] == [3, 4]
        assert topic.publish("again", key="a", publisher=ME) == 2
        assert topic.publish("again", key="a") == 5  # the first has left the log


async def test_what_leaves_a_log_leaves_the_store(path: Path) -> None:
    async with open_hub(store=path) as hub:
        few = hub.topic("few", retain=Retain(max_messages=5))
        small = hub.topic("small", retain=Retain(max_bytes=5 * (704 + OVERHEAD_BYTES)))
        for number in range(3000):
            few.publish(f"{number}")
            small.publish("x" * 700)
        sizes = few.size, small.size
    async with open_hub(store=path) as hub:
        assert told(hub).bytes == sum(sizes)
        assert told(hub).topics == 2
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM publications").fetchone() == (5 + 5,)
    connection.close()
    assert path.stat().st_size < 100_000


async def test_bounds_that_are_replaced_hold_for_what_is_stored(path: Path) -> None:
    async with open_hub(store=path) as hub:
        topic = hub.topic("news", retain=Retain(max_messages=50))
        for number in range(50):
            topic.publish(f"{number}")
        await committed(hub)
        hub._replace_retain(lambda name: Retain(max_messages=5))
        topic.publish("last")
    async with open_hub(store=path) as hub:
        topic = hub.topic("news", retain=Retain(max_messages=100))
        await topic.load(history=100)
        assert topic.retained == 5


async def test_what_is_too_old_leaves_the_store_though_nobody_uses_its_topic(path: Path) -> None:
    async with open_hub(store=path) as hub:
        hub.topic("news", retain=Retain(max_age=0.3)).publish("x")
    await trio.sleep(0.4)
    async with open_hub(store=path) as hub:
        hub.topic("other").publish("x")
        await committed(hub)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM publications").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("bound", ["topics", "bytes"])
async def test_bounds_of_the_hub_hold_for_what_is_stored(path: Path, bound: str) -> None:
    """The longest unused goes first, but not where it stood."""
    max_topics = 10 if bound == "topics" else 1000
    max_bytes = 2**26 if bound == "topics" else 10 * (2**18 // 10 + 300)
    open_it = partial(open_hub, store=path, max_topics=max_topics, max_bytes=max_bytes)
    epochs = {}
    for start in range(0, 30, 5):
        async with open_it() as hub:
            for number in range(start, start + 5):
                topic = hub.topic(f"{number}")
                await topic.publish_confirmed("x" * (2**18 // 10))
                epochs[topic.name] = topic.epoch
            await committed(hub)
    with sqlite3.connect(path) as connection:
        names = connection.execute(
            "SELECT name FROM topics WHERE oldest <= head ORDER BY used"
        ).fetchall()
        (count,) = connection.execute("SELECT count(*) FROM topics").fetchone()
    connection.close()
    # As many as were in use may be there besides, or the next start would forget those.
    assert 10 <= len(names) <= (20 if bound == "topics" else 15)
    assert [name.decode() for (name,) in names][-10:] == [f"{n}" for n in range(20, 30)]
    assert len(names) < count <= 30
    async with open_it() as hub:
        gone = hub.topic("9" if bound == "topics" else "14")
        assert gone.epoch == epochs[gone.name]
        await gone.load(since=(gone.epoch, 0))
        assert gone.recovery((gone.epoch, 1)).recovered
        assert not gone.recovery((gone.epoch, 0)).recovered


async def test_start_forgets_only_as_many_topics_as_are_too_many_and_says_so(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody uses any yet, not even those that were in use until then."""
    epochs = {}
    async with open_hub(store=path, max_topics=10) as hub:
        for number in range(20):
            topic = hub.topic(f"{number}")
            await topic.publish_confirmed("x")
            epochs[topic.name] = topic.epoch

    async def start(max_topics: int) -> tuple[int, list[int]]:
        """How many were forgotten by the first commit, and of which something is missing."""
        lacking = []
        async with open_hub(store=path, max_topics=max_topics) as hub:
            hub.topic("19").publish("y")
            await committed(hub)
            for number in range(20):
                topic, since = hub.topic(f"{number}"), (epochs[f"{number}"], 0)
                await topic.load(since=since)
                if not topic.recovery(since).recovered:
                    lacking.append(number)
            # What is loaded comes behind a commit and its counts.
            forgotten = told(hub).forgotten
        return forgotten, lacking

    assert await start(10) == (0, [])
    assert not caplog.records
    assert await start(8) == (4, [0, 1, 2, 3])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the publications of 4 topics" in caplog.text


async def test_what_was_loaded_before_a_topic_left_memory_is_not_taken_for_what_is_loaded_now(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_keeping, "_SILENCE", 60)
    epoch = await publish_some(path, count=10)
    async with open_hub(store=path, max_topics=1) as hub:
        topic = hub.topic("news")
        lock = store_of(hub)._database.lock
        lock.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(topic.load, since=(epoch, 0)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert topic.publish("10") == 11
        hub.topic("other").publish("x")
        assert topic.retained == 0
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(topic.load, since=(epoch, 0)))
                await trio.testing.wait_all_tasks_blocked()
                lock.release()
        assert [one.message for one in topic.history()] == [f"{number}" for number in range(11)]


async def test_topic_that_had_to_leave_memory_is_loaded_again(path: Path) -> None:
    async with open_hub(store=path, max_topics=2) as hub:
        for name in "abc":
            for number in range(3):
                hub.topic(name).publish(f"{name}{number}")
        topic = hub.topic("a")
        assert (topic.head, topic.retained) == (3, 0)
        with topic.publications(history=2) as publications:
            assert [(await anext(publications)).message for _ in range(2)] == ["a1", "a2"]
        assert told(hub).ended is None


# What ends the epochs.


async def expect_new_epoch(
    path: Path, epoch: str, caplog: pytest.LogCaptureFixture, why: str
) -> list[str | bytes]:
    """All begins anew, and this is told; return what is left."""
    caplog.clear()
    async with open_hub(store=path) as hub:
        ended = told(hub).ended
        assert ended is not None and why in ended, ended
        topic = hub.topic("news")
        assert topic.epoch != epoch
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert why in caplog.text and "new epoch" in caplog.text
        await topic.load(since=(epoch, 20))
        assert not topic.recovery((epoch, 20)).recovered
        left = [one.message for one in topic.history()]
        head, epoch = topic.head, topic.epoch
        # No place is given twice in one epoch.
        assert topic.publish("new") == head + 1
    async with open_hub(store=path) as hub:
        assert (hub.topic("news").epoch, told(hub).ended) == (epoch, None)
    return left


@pytest.mark.parametrize("boot", ["another", "unknown"])
async def test_another_boot_ends_the_epoch_and_keeps_the_log(
    path: Path,
    tmp_path: Path,
    boot: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epoch = await publish_some(path, tmp_path / "killed")
    path = tmp_path / "killed" / path.name
    if boot == "unknown":
        monkeypatch.setattr(_opening, "_BOOT_ID", str(tmp_path / "no such file"))
    else:
        monkeypatch.setattr(_opening, "boot_id", lambda: boot)
    async with open_hub(store=path) as hub:
        ended = told(hub).ended
        assert ended is not None and "the machine was started again" in ended
        assert "new epoch" in caplog.text
        topic = hub.topic("news")
        assert topic.epoch != epoch
        # What the epoch began behind is known at once.
        assert topic.recovery((epoch, 12)).missing == 0
        await topic.load(since=(epoch, 12))
        # Of this life nothing is missing in front of what is here.
        start = topic.recovery((epoch, 12))
        assert (start.recovered, start.missing, start.position) == (False, 0, (topic.epoch, 0))
        assert len(topic.history()) == 20
        assert topic.publish("new") == 21


async def test_damaged_record_ends_the_epoch_and_what_is_before_it_stays(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    epoch = await publish_some(path, tmp_path / "killed")
    path = tmp_path / "killed" / path.name
    journal = bytearray(journal_of(path).read_bytes())
    journal[journal.index(b"\x81\x0213") + 2] ^= 1
    journal_of(path).write_bytes(journal)
    left = await expect_new_epoch(path, epoch, caplog, "the journal is damaged: record 15")
    assert left == [str(number) for number in range(13)]


@pytest.mark.parametrize("which", ["journal", "database", "both"])
async def test_missing_file_ends_the_epoch(
    path: Path, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    epoch = await publish_some(path)
    if which != "database":
        journal_of(path).unlink()
    if which != "journal":
        path.unlink()
    if which == "both":
        async with open_hub(store=path) as hub:
            assert hub.topic("news").epoch != epoch  # a new store, as any
        return
    left = await expect_new_epoch(path, epoch, caplog, f"{which} is missing")
    assert len(left) == (20 if which == "journal" else 0)


async def test_log_of_sqlite_that_is_lost_ends_the_epoch(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal says that there was more."""
    async with open_hub(store=path) as hub:
        topic = hub.topic("news")
        topic.publish("0")
        await committed(hub)
        topic.publish("1")
        killed = copy_as_killed(hub, tmp_path / "killed")
        epoch = topic.epoch
    Path(f"{killed}-wal").unlink()
    killed.write_bytes(b"")
    async with open_hub(store=tmp_path / "other.db") as hub:
        pass
    await expect_new_epoch(killed, epoch, caplog, "database is missing")
    # An older copy of the database, which does not know what the journal has let go.
    await publish_some(path)
    old = path.read_bytes()
    epoch = await publish_some(path)
    path.write_bytes(old)
    await expect_new_epoch(path, epoch, caplog, "do not belong together")


async def test_journal_of_another_store_ends_the_epoch(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    epoch = await publish_some(path)
    await publish_some(tmp_path / "other.db")
    journal_of(tmp_path / "other.db").replace(journal_of(path))
    left = await expect_new_epoch(path, epoch, caplog, "of another store")
    assert len(left) == 20


async def test_damaged_database_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    epoch = await publish_some(path)
    bad = path.read_bytes()[:100] + bytes(2000)
    path.write_bytes(bad)
    assert await expect_new_epoch(path, epoch, caplog, "the database is damaged") == []
    (aside,) = path.parent.glob("*-damaged-*")
    assert aside.read_bytes() == bad


async def test_whatever_byte_of_the_database_is_flipped_nothing_is_missing_in_silence(
    path: Path, tmp_path: Path
) -> None:
    epoch = await publish_some(path)
    good, journal = path.read_bytes(), journal_of(path).read_bytes()
    rng = random.Random(0)
    used = [at for at, byte in enumerate(good) if byte]
    outcomes = []
    for at in rng.sample(used, 60):
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
        journal_of(path).write_bytes(journal)
        try:
            async with open_hub(store=path) as hub:
                topic = hub.topic("news")
                await topic.load(since=(epoch, 0))
                if topic.recovery((epoch, 0)).recovered:
                    assert told(hub).ended is None and topic.epoch == epoch
                    messages = [one.message for one in topic.history(0)]
                    assert messages == [str(number) for number in range(20)], at
                    outcomes.append("whole")
                else:
                    outcomes.append("told")
        except StoreError:
            outcomes.append("refused")
    assert outcomes.count("told") > 10


async def test_something_else_is_left_as_it_is(path: Path) -> None:
    for content in (b"my novel\n" * 1000, None):
        if content is None:
            path.unlink()
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE mine (a)")
            connection.close()
        else:
            path.write_bytes(content)
        path.chmod(0o644)
        before = path.read_bytes()
        with pytest.raises(StoreError, match="no store, or is damaged") as caught:
            async with open_hub(store=path):
                pass  # pragma: no cover - it cannot be opened
        assert caught.value.path == str(path)
        assert path.read_bytes() == before
        assert path.stat().st_mode & 0o777 == 0o644


async def test_store_of_another_version_is_refused(path: Path) -> None:
    await publish_some(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="another version of trioweb"):
        async with open_hub(store=path):
            pass  # pragma: no cover - it cannot be opened


# Who may have it.


async def test_second_hub_is_told_that_the_store_is_in_use(path: Path) -> None:
    async with open_hub(store=path):
        with pytest.raises(StoreError, match="another hub has it open"):
            async with open_hub(store=path):
                pass  # pragma: no cover - it cannot be opened
        program = (
            "import sys, trio, trioweb\n"
            "async def main():\n"
            "    async with trioweb.open_hub(store=sys.argv[1]): pass\n"
            "trio.run(main)\n"
        )
        other = await trio.run_process(
            [sys.executable, "-c", program, str(path)], capture_stderr=True, check=False
        )
        assert other.returncode == 1
        assert b"StoreError: cannot open the store" in other.stderr
        assert b"another hub has it open" in other.stderr
    async with open_hub(store=path):
        pass


async def test_link_to_a_store_leads_to_the_same_lock_and_journal(
    path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    epoch = await publish_some(path)
    async with open_hub(store=link) as hub:
        assert (hub.topic("news").epoch, told(hub).ended) == (epoch, None)
        with pytest.raises(StoreError, match="another hub has it open"):
            async with open_hub(store=path):
                pass  # pragma: no cover - it cannot be opened


async def test_hub_with_a_store_works_in_virtual_time(
    path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What a thread does takes no virtual time, and a jump of the clock ends none of it."""
    for count in (1, 2):
        async with open_hub(store=path) as hub:
            topic = hub.topic("news")
            topic.publish(f"{count}")
            await trio.sleep(3600)
            await topic.load(since=(topic.epoch, 0))
            assert [one.message for one in topic.history()] == ["1", "2"][:count]
    assert not caplog.records


async def test_store_that_idles_writes_nothing(path: Path) -> None:
    async with open_hub(store=path) as hub:
        hub.topic("news").publish("x")
        await committed(hub)
        log = path.with_name(f"{path.name}-wal")
        before = log.stat().st_size, log.stat().st_mtime_ns
        for _ in range(3):
            await store_of(hub)._commit()
        assert (log.stat().st_size, log.stat().st_mtime_ns) == before


async def test_files_belong_to_their_user_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        async with open_hub(store=path) as hub:
            hub.topic("news").publish("x")
            await committed(hub)
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert modes == dict.fromkeys(modes, 0o600)
    assert {"topics.db", "topics.db-wal", "topics.db-pending", "topics.db-lock"} <= set(modes)


async def test_wrong_arguments_are_told(path: Path) -> None:
    with pytest.raises(ValueError, match="a broker keeps the topics itself"):
        async with open_hub(store=path, broker=MemoryBroker()):
            pass  # pragma: no cover - it cannot be opened
    with pytest.raises(TypeError, match="store must be of type str or PathLike or None"):
        async with open_hub(store=1):  # type: ignore[arg-type]
            pass  # pragma: no cover - it cannot be opened
    assert not path.exists()
    with pytest.raises(StoreError, match=r"No such file or directory$"):
        async with open_hub(store=path / "topics.db"):
            pass  # pragma: no cover - it cannot be opened


# Full.


async def test_full_journal_refuses_what_is_published_and_loses_nothing(path: Path) -> None:
    async with open_hub(store=path, max_bytes=2**19) as hub:
        topic = hub.topic("news")
        count = 0
        with pytest.raises(HubFull, match="131072 bytes of journal"):
            while True:
                topic.publish("x" * 1000)
                count += 1
        assert 100 < count < 131
        assert topic.head == count
        # There is room again as soon as somebody else may run; this waits for it.
        with trio.fail_after(20):
            position = await topic.publish_confirmed("next")
        assert position == (topic.epoch, count + 1)
        with pytest.raises(HubFull):
            await topic.publish_confirmed("x" * 2**18)
        with pytest.raises(HubFull):
            hub.topic("other").publish("x" * 2**18)
        assert hub.statistics().topics == 1  # as nothing was published there


@pytest.mark.parametrize("kind", ["database", "file"])
async def test_full_disk_is_told_once_and_waited_out(
    path: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_hub(store=path, max_bytes=2**19) as hub:
        topic = hub.topic("news", retain=Retain(max_bytes=2**18))
        topic.publish("0")
        await committed(hub)
        execute = store_of(hub)._database._execute
        if kind == "database":
            execute("PRAGMA max_page_count = 1")  # as many as it has
        try:
            if kind == "file":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
            count = 0
            with trio.fail_after(60), pytest.raises(HubFull):
                while True:
                    topic.publish(f"{count + 1}" + "x" * 3000)
                    count += 1
                    await trio.sleep(0.05)
            assert told(hub).failing is not None
            # What is in the journal is there for whoever comes back, too.
            copy = copy_as_killed(hub, tmp_path / "killed") if kind == "database" else None
            warnings = [each for each in caplog.records if "cannot commit" in each.message]
            assert len(warnings) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            execute("PRAGMA max_page_count = 1000000")
        epoch = topic.epoch
        with trio.fail_after(30):
            await topic.publish_confirmed("last")
        await until(lambda: told(hub).failing is None)
        assert "commits again" in caplog.text
    for each in (path, copy):
        if each is not None:
            recovered, messages = await read(each, epoch)
            assert recovered
            expected = ["0", *(f"{number}" for number in range(1, count + 1))]
            numbers = [str(message).rstrip("x") for message in messages]
            assert numbers == expected + ["last"] * (each is path)


async def test_topic_that_left_memory_while_nothing_can_be_committed_is_read_from_the_journal(
    path: Path,
) -> None:
    async with open_hub(store=path, max_topics=1) as hub:
        store_of(hub)._database._execute("PRAGMA query_only = 1")
        for number in range(3):
            hub.topic("news").publish(f"{number}")
        hub.topic("other").publish("x")
        topic = hub.topic("news")
        assert topic.retained == 0
        with trio.fail_after(20):
            await topic.load(since=(topic.epoch, 1))
        assert [one.message for one in topic.history()] == ["1", "2"]
        assert topic.recovery((topic.epoch, 1)).recovered
        store_of(hub)._database._execute("PRAGMA query_only = 0")


async def test_closing_with_a_full_disk_leaves_the_journal_to_the_next_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_hub(store=path) as hub:
        store_of(hub)._database._execute("PRAGMA query_only = 1")
        topic = hub.topic("news")
        topic.publish("x")
        epoch = topic.epoch
    assert "2 records stay in the journal" in caplog.text
    assert await read(path, epoch) == (True, ["x"])


async def test_disk_that_does_not_answer_holds_up_nobody_for_ever(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioweb._topics._store._keeping._MAX_CLOSING", 0.1)
    async with open_hub(store=path) as hub:
        hub.topic("news").publish("x")
        store = store_of(hub)
        store._database.lock.acquire()
    assert "not closed within" in caplog.text
    store._database.lock.release()
    with trio.fail_after(20):
        while True:
            try:
                async with open_hub(store=path) as hub:
                    assert hub.topic("news").head == 1
                break
            except StoreError:
                await trio.sleep(0.01)


async def test_much_is_committed_in_parts_each_of_which_has_its_own_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a disk that is busy with very much is not taken for one that does not answer."""
    monkeypatch.setattr(_opening, "_BATCH", 5)
    parts = 0
    do = _keeping._do

    def count(*args: Any) -> None:
        nonlocal parts
        parts += 1
        do(*args)

    monkeypatch.setattr(_keeping, "_do", count)
    async with open_hub(store=path) as hub:
        for number in range(24):
            hub.topic("news").publish(f"{number}")
        await committed(hub)
        assert parts == 5  # the topic is a record, too


async def test_disk_that_does_not_answer_keeps_nobody_waiting(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be had in time is told to be missing, and is there after the next start."""
    epoch = await publish_some(path, count=20)
    async with open_hub(store=path) as hub:
        monkeypatch.setattr(_keeping, "_SILENCE", 0.1)
        store, topic = store_of(hub), hub.topic("news")
        store._database.lock.acquire()
        topic.publish("under way")
        with trio.fail_after(20):
            await topic.load(since=(epoch, 5))
        start = topic.recovery((epoch, 5))
        assert (start.recovered, start.missing) == (False, 15)
        assert "has not answered" in (told(hub).failing or "")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        # Nobody else waits for as long.
        found: list[Loaded] = []
        store.load("news", epoch, 0, 10, found.append)
        assert found == [Loaded(epoch, 11, ())]
        assert topic.publish("new") == 22
        monkeypatch.setattr(_keeping, "_SILENCE", 60)
        store._database.lock.release()
        await until(lambda: told(hub).failing is None and not told(hub).waiting)
        assert "commits again" in caplog.text
        size = told(hub).bytes
    async with open_hub(store=path) as hub:
        assert told(hub).bytes == size
    assert await read(path, epoch) == (True, [*map(str, range(20)), "under way", "new"])


# All at once.


@pytest.mark.parametrize("seed", range(8))
async def test_store_is_what_a_model_says_over_restarts(tmp_path: Path, seed: int) -> None:
    """Random use, kills and restarts: nothing is missing, nothing comes twice."""
    rng = random.Random(seed)
    path = tmp_path / "0.db"
    names = ["a", "b", "c"]
    retain = Retain(max_messages=12)
    model: dict[str, list[str]] = {name: [] for name in names}
    epochs: dict[str, str] = {}
    positions: dict[str, int] = dict.fromkeys(names, 0)
    for life in range(12):
        async with open_hub(store=path, max_topics=rng.choice((2, 100)), max_bytes=2**20) as hub:
            assert told(hub).ended is None
            for number in range(rng.randrange(40)):
                name = rng.choice(names)
                topic = hub.topic(name, retain=retain)
                assert epochs.setdefault(name, topic.epoch) == topic.epoch
                told_so_far = model[name]
                assert topic.head == len(told_so_far)
                match rng.randrange(6):
                    case 0:
                        await trio.sleep(rng.choice((0, 0.01, 0.3 * (rng.random() < 0.1))))
                    case 1:
                        since = positions[name]
                        with topic.publications(since=(topic.epoch, since)) as publications:
                            oldest = max(since, topic.head - 12)
                            if oldest < topic.head:
                                assert (await anext(publications)).offset == oldest + 1
                        positions[name] = topic.head
                    case 2:
                        since = rng.randrange(topic.head + 1)
                        await topic.load(since=(topic.epoch, since))
                        start = topic.recovery((topic.epoch, since))
                        first = max(since, topic.head - 12)
                        assert start.position == (topic.epoch, first)
                        assert (start.recovered, start.missing) == (first == since, first - since)
                        found = [str(one.message) for one in topic.history(first)]
                        assert found == told_so_far[first:]
                    case _:
                        message = f"{life} {number}"
                        assert topic.publish(message) == len(told_so_far) + 1
                        told_so_far.append(message)
            if rng.random() < 0.5:
                path = copy_as_killed(hub, tmp_path / f"{life + 1}")
