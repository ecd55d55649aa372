"""Several servers that share the topics, and sentinels that know which one leads: all real."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from tests.brokers.redis_server import RedisServer, run_redis
from trioweb import Hub, Position, Topic, open_hub
from trioweb._topics._engine_link import EngineLost
from trioweb.redis import RedisBroker
from trioweb.redis._share import ALONE, Share, owner

pytestmark = pytest.mark.redis

_SECONDS = 60
NAMES = [f"topic {number}" for number in range(24)]


@pytest.fixture
def servers(tmp_path: Path) -> Generator[list[RedisServer]]:
    with ExitStack() as stack:
        found = []
        for name in "abc":
            (tmp_path / name).mkdir()
            found.append(stack.enter_context(run_redis(tmp_path / name)))
        yield found


def urls(*servers: RedisServer) -> list[str]:
    return [f"redis://127.0.0.1:{server.port}" for server in servers]


def topics_of(server: RedisServer) -> set[str]:
    keys = server.ask("KEYS", "trioweb:{*}:m")
    return {key.decode().removeprefix("trioweb:{").removesuffix("}:m") for key in keys}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def publish_all(hub: Hub) -> dict[str, Position]:
    return {name: await hub.topic(name).publish_confirmed("a") for name in NAMES}


async def test_who_is_there_is_kept_where_the_topic_is(servers: list[RedisServer]) -> None:
    one, other = RedisBroker(urls(*servers)), RedisBroker(urls(*servers))
    async with open_hub(broker=one) as first, open_hub(broker=other) as second:
        with trio.fail_after(_SECONDS):
            for name in NAMES:
                await first.topic(name).enter(f"in {name}", user="ann")
            for name in NAMES:
                assert await second.topic(name).members() == {f"in {name}": b""}
                assert (await second.topic(name).count_members()).users == 1
            with second.topic(NAMES[0]).presence_changes() as changes:
                await second.topic(NAMES[0]).members()
                first.topic(NAMES[0]).leave(f"in {NAMES[0]}")
                assert not (await anext(changes)).is_there
        held = [len(server.ask("KEYS", "trioweb:{*}:p")) for server in servers]
        assert sum(held) == len(NAMES) - 1 and all(held)


async def test_topics_are_spread_over_servers_and_are_the_same_on_all_hubs(
    servers: list[RedisServer],
) -> None:
    one, other = RedisBroker(urls(*servers)), RedisBroker(urls(*reversed(servers)))
    async with open_hub(broker=one) as first, open_hub(broker=other) as second:
        with trio.fail_after(_SECONDS):
            places = await publish_all(first)
            for name, (epoch, offset) in places.items():
                topic = second.topic(name)
                await topic.wait_live()
                assert (topic.epoch, topic.head) == (epoch, offset) == (epoch, 1)
        held = [topics_of(server) for server in servers]
        assert sorted(name for each in held for name in each) == sorted(NAMES)
        assert all(held)
        statistics = first.broker
        assert statistics is not None
        assert (statistics.state, statistics.connects, statistics.waiting) == ("live", 3, 0)


async def test_a_server_that_fails_takes_only_its_topics_along(servers: list[RedisServer]) -> None:
    async with open_hub(broker=RedisBroker(urls(*servers), flush_timeout=0.1)) as hub:
        with trio.fail_after(_SECONDS):
            await publish_all(hub)
            servers[0].kill()
            gone = topics_of(servers[1]) | topics_of(servers[2])
            for name in gone:
                await hub.topic(name).publish_confirmed("b")
            [lost, *_] = set(NAMES) - gone
            receipt = hub.topic(lost).post("b")
            await until(lambda: hub.broker is not None and hub.broker.state == "connecting")
            servers[0].start()
            assert (await receipt.confirmed()).offset == 2


async def refusal(broker: RedisBroker) -> str:
    """Why its servers do not let it in."""
    for engine in broker.engines:
        try:
            async with engine.connect("node", "", lambda push: None):
                pass
        except EngineLost as exc:
            return str(exc)
    return ""


async def test_a_node_with_another_list_is_refused(servers: list[RedisServer]) -> None:
    a, b, c = servers
    async with open_hub(broker=RedisBroker(urls(a, b), timeout=0.2)) as hub:
        with trio.fail_after(_SECONDS):
            await publish_all(hub)
            for other in RedisBroker(urls(a, b, c)), RedisBroker(urls(a)), RedisBroker(urls(b)):
                assert "its nodes have the engines 127.0.0.1:" in await refusal(other)
            assert await refusal(RedisBroker(urls(b, a))) == ""
            # One with a later list is let in, and then this one is not, as it comes to know.
            assert await refusal(RedisBroker(urls(a, b, c), generation=2)) == ""
            assert "generation 2, and this one has " in await refusal(RedisBroker(urls(a, b)))
            await until(lambda: hub.broker is not None and not hub.broker.connected)


async def test_topics_that_have_moved_begin_a_life_and_others_do_not(
    servers: list[RedisServer],
) -> None:
    a, b, c = servers
    lists = [urls(a, b, c), urls(a, b), urls(a, b, c)]
    ended = []
    with trio.fail_after(_SECONDS):
        epochs: dict[str, str] = {}
        known: set[str] = set()
        for generation, each in enumerate(lists, 1):
            broker = RedisBroker(each, generation=generation)
            async with open_hub(broker=broker) as hub:
                places = await publish_all(hub)
            ended.append({name for name in NAMES if epochs.get(name) != places[name].epoch})
            assert not {places[name].epoch for name in ended[-1]} & known
            epochs = {name: place.epoch for name, place in places.items()}
            known.update(epochs.values())
    assert ended[0] == set(NAMES)
    # The third was told nothing of the second list, and what it had is not taken for whole.
    assert ended[1] == ended[2] == topics_of(c)
    assert 0 < len(ended[1]) < len(NAMES)


async def test_a_server_with_everything_is_joined_by_another(servers: list[RedisServer]) -> None:
    a, b, _ = servers
    with trio.fail_after(_SECONDS):
        async with open_hub(broker=RedisBroker(urls(a))) as hub:
            before = await publish_all(hub)
        async with open_hub(broker=RedisBroker(urls(a, b), generation=2)) as hub:
            after = await publish_all(hub)
    stayed = {name for name in NAMES if before[name].epoch == after[name].epoch}
    assert stayed == set(NAMES) - topics_of(b)


def test_a_list_with_one_more_moves_its_topics_only() -> None:
    before, after = ["a", "b", "c"], ["d", "b", "c", "a"]
    names = [f"{number}" for number in range(1000)]
    moved = [name for name in names if owner(before, name) != owner(after, name)]
    assert {owner(after, name) for name in moved} == {"d"}
    assert 150 < len(moved) < 350


def test_a_hole_in_what_a_server_knows_of_lists_ends_each_life() -> None:
    share = Share("a", ["a", "b"], 4)
    lists = {1: "a\nb", 2: "a\nb", 4: "a\nb"}
    share.check(lists)
    assert {share.since(name) for name in NAMES} == {4}
    share.check({**lists, 3: "b"})
    assert {share.since(name) for name in NAMES} == {4}
    share.check({**lists, 3: "a\nb"})
    mine = [name for name in NAMES if owner(["a", "b"], name) == "a"]
    assert {share.since(name) for name in mine} == {1}
    Share("", ALONE, 1).check({})


# Sentinels.


@contextmanager
def run_sentinel(directory: Path, leader: RedisServer) -> Generator[RedisServer]:
    """One that watches *leader*, and alone decides that it has failed."""
    directory.mkdir()
    server = RedisServer(directory)
    lines = [
        f"port {server.port}",
        "bind 127.0.0.1",
        f"dir {directory}",
        f"sentinel monitor mymaster 127.0.0.1 {leader.port} 1",
        "sentinel down-after-milliseconds mymaster 500",
        "sentinel failover-timeout mymaster 2000",
    ]
    (directory / "sentinel.conf").write_text("\n".join(lines))
    with open(directory / "log", "ab") as log:
        command = ["redis-server", str(directory / "sentinel.conf"), "--sentinel"]
        server._process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def known_replicas(sentinel: RedisServer) -> list[bytes]:
    found = sentinel.ask("SENTINEL", "REPLICAS", "mymaster")
    return [each[1] for each in found if each[each.index(b"flags") + 1] == b"slave"]


async def test_sentinels_say_who_leads_after_a_failover(
    servers: list[RedisServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    leader, replica, nobody = servers
    replica.follow(leader)
    with run_sentinel(tmp_path / "sentinel", leader) as sentinel:
        # The first is none, and says so.
        broker = RedisBroker.sentinel(urls(nobody, sentinel), "mymaster", prefix="app")
        async with open_hub(broker=broker) as hub:
            with trio.fail_after(_SECONDS):
                topic: Topic = hub.topic("news")
                before = await topic.publish_confirmed("a")
                assert leader.ask("EXISTS", "app:{news}:m") == 1
                # Only with a replica that it knows can it have another lead.
                await until(lambda: b"127.0.0.1:%d" % replica.port in known_replicas(sentinel))
                replica.catch_up(leader)
                await topic.wait_live()
                leader.kill()
                after = await topic.publish_confirmed("b")
                assert after.offset == 2 and after.epoch != before.epoch
                assert replica.ask("EXISTS", "app:{news}:m") == 1
                await topic.wait_live()
                assert topic.restarts == 1
        broker = RedisBroker.sentinel(urls(sentinel), "other")
        assert "no sentinel knows where 'other' is: 127.0.0.1:" in await refusal(broker)
        assert "/0: it has not heard of that" in await refusal(broker)


async def test_where_the_server_is_may_be_asked_of_a_function(servers: list[RedisServer]) -> None:
    ports = iter([servers[0].find_port(), servers[0].port])

    async def resolve() -> tuple[str, int]:
        return "127.0.0.1", next(ports)

    broker = RedisBroker("redis://:unused@name.example", resolve=resolve)
    servers[0].ask("CONFIG", "SET", "requirepass", "unused")
    async with open_hub(broker=broker) as hub:
        with trio.fail_after(_SECONDS):
            await hub.topic("news").publish_confirmed("a")
    assert next(ports, None) is None


@pytest.mark.parametrize(
    ("sentinels", "message"),
    [
        ([], "must be URLs"),
        (["redis://a/1"], "must be URLs"),
        (["a"], "must begin with redis://"),
    ],
)
def test_sentinels_that_cannot_be_asked_are_refused(sentinels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RedisBroker.sentinel(sentinels, "mymaster")
