"""What only a broker on a Redis has to do, on a real server; what all brokers do, and the faults
that they all stand, is `test_conformance`."""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.brokers.conftest import MakeBroker
from tests.brokers.redis_broker import FaultyRedisBroker, Timekeeper
from tests.brokers.redis_server import RedisServer, run_redis
from tests.brokers.test_conformance import open_two, subscribe
from tests.docs.support import blocks
from tests.topics.support import Peers
from trioweb import BrokerPolicy, Position, Publisher, Retain, Topic, open_hub
from trioweb.redis import RedisBroker

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("engine", ["redis"], indirect=True)]

DOCS = Path(__file__).parents[2] / "docs"


async def use(broker: RedisBroker, topic: str = "news") -> None:
    """Have two hubs do all that they do with a server."""
    retain = Retain(max_messages=5, max_age=1000, patience=0)
    async with open_hub(broker=broker) as one, open_hub(broker=broker) as other:
        with trio.fail_after(60):
            there = other.topic(topic, retain=retain)
            with there.publications() as publications:
                await there.load()
                for number in range(10):
                    await one.topic(topic, retain=retain).publish_confirmed(
                        f"{number}", key=f"{number}", publisher=Publisher("ann")
                    )
                    assert (await anext(publications)).message == f"{number}"
            await one.topic(topic).load(history=9)
            assert [each.message for each in one.topic(topic).history()] == list("56789")


async def test_it_is_spoken_to_by_a_unix_socket_in_another_database(
    engine: str, redis_server: RedisServer
) -> None:
    await use(RedisBroker(f"unix://{redis_server.unix_socket}?db=3", prefix="app"))
    keys = {key.decode() for key in redis_server.ask("KEYS", "*")}
    assert keys == set()
    await use(RedisBroker(f"redis://127.0.0.1:{redis_server.port}", prefix="app"))
    keys = {key.decode() for key in redis_server.ask("KEYS", "app:{news}:?")}
    assert keys == {"app:{news}:m", "app:{news}:s", "app:{news}:k"}


def test_program_of_the_documentation_publishes(engine: str, redis_server: RedisServer) -> None:
    [text] = [block for block in blocks(DOCS / "topics.md") if "RedisBroker" in block]
    namespace: dict[str, Any] = {}
    text = text.replace("redis://10.0.0.5", f"redis://127.0.0.1:{redis_server.port}")
    exec(text.replace("...", "await hub.topic('news').publish_confirmed('it')"), namespace)
    trio.run(namespace["main"])
    assert "trioweb:{news}:s" in {key.decode() for key in redis_server.ask("KEYS", "*")}


async def test_it_is_spoken_to_over_tls(engine: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    for name, blob in (
        ("ca", authority.cert_pem),
        ("cert", certificate.cert_chain_pems[0]),
        ("key", certificate.private_key_pem),
    ):
        blob.write_to_path(str(tmp_path / name))
    words = [f"--tls-{name}-file {tmp_path / name}" for name in ("cert", "key")]
    words += [f"--tls-ca-cert-file {tmp_path / 'ca'}", "--tls-auth-clients no"]
    with run_redis(tmp_path, *" ".join(words).split()) as server:
        secure = server.find_port()
        server.ask("CONFIG", "SET", "tls-port", secure)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        await use(RedisBroker(f"rediss://localhost:{secure}", ssl_context=trusting))
        broker = RedisBroker(f"rediss://localhost:{secure}")
        with pytest.raises(Exception, match="certificate verify failed"):
            async with broker.connect("node", "", lambda push: None):
                raise AssertionError("it trusts anybody")


def documented_rights() -> list[str]:
    text = (DOCS / "processes.md").read_text()
    [line] = [each for each in text.splitlines() if each.startswith("ACL SETUSER")]
    return line.split()


async def test_the_rights_that_are_documented_suffice(
    engine: str,
    redis_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    redis_server.ask(*documented_rights())
    await use(RedisBroker(f"redis://trioweb:PASSWORD@127.0.0.1:{redis_server.port}"))
    # Also for connecting again, for publishing again, and for leaving a topic.
    times, policy = Timekeeper(autojump_clock), BrokerPolicy(linger=1)
    broker = FaultyRedisBroker(redis_server, policy, times, "trioweb:PASSWORD@")
    async with open_two(broker) as hubs:
        topic = hubs[0].topic("other")
        _, subscription = await subscribe(peers, topic)
        receipts = [topic.post(text) for text in "abc"]
        broker.cut()
        broker.arrive_late()
        assert [(await receipt.confirmed()).offset for receipt in receipts] == [1, 2, 3]
        subscription.close()
        # And for who is there: leaving, taking over from another node, clearing up behind one.
        await topic.enter("ann")
        await hubs[1].topic("other").enter("bob")
        with hubs[1].topic("other").presence_changes() as changes:
            assert set(await hubs[1].topic("other").members()) == {"ann", "bob"}
            assert (await topic.count_members()).members == 2
            topic.leave("ann")
            assert (await anext(changes)).key == "ann"
        broker.cut()
        await broker.pass_time(20)
        assert set(await topic.members()) == {"bob"}
        for hub in hubs:
            statistics = hub.statistics().broker
            assert statistics is not None
            assert (statistics.connects, statistics.attached) == (3, 0)
    broker.close()


async def test_who_is_not_let_in_is_told_why_and_asks_for_credentials_anew(
    engine: str,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_server.ask(*documented_rights())
    given = iter(["wrong", "PASSWORD", "PASSWORD"])

    async def credentials() -> tuple[str, str]:
        return "trioweb", next(given)

    caplog.set_level(logging.INFO)
    url = f"redis://127.0.0.1:{redis_server.port}"
    async with open_hub(broker=RedisBroker(url, credentials=credentials)) as hub:
        await hub.topic("news").publish_confirmed("a")
        assert next(given) == "PASSWORD"
    [line] = [each for each in caplog.messages if "no connection" in each]
    assert line.startswith("no connection to the broker: HELLO: WRONGPASS ")


@pytest.mark.parametrize(
    "name", ["", "{", "}", "a}{b}:c", "a b\0\n", "é" * 127, "\ud800", "$5\r\n"]
)
async def test_a_topic_may_have_any_name(engine: str, redis_server: RedisServer, name: str) -> None:
    await use(RedisBroker(f"redis://127.0.0.1:{redis_server.port}"), name)


async def test_scripts_that_are_gone_are_loaded_again(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_two(make_broker(BrokerPolicy())) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        peer, subscription = await subscribe(peers, topics[1])
        first = await topics[0].publish_confirmed("a")
        redis_server.ask("SCRIPT", "FLUSH")
        second = await topics[0].publish_confirmed("b")
        await trio.sleep(1)
        assert second == (first.epoch, 2)
        assert peer.messages == ["a", "b"]
        assert subscription.recovered


async def test_a_server_that_was_flushed_begins_a_life(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_two(make_broker(BrokerPolicy(durable=True))) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        peer, subscription = await subscribe(peers, topics[1], slow="skip")
        for number in range(5):
            first = await topics[0].publish_confirmed(f"{number}")
        redis_server.ask("FLUSHALL")
        second = await topics[0].publish_confirmed("new")
        await trio.sleep(1)
        assert second.epoch != first.epoch and second.offset == 1
        assert topics[1].epoch == second.epoch
        assert not subscription.recovered
        assert peer.messages == ["0", "1", "2", "3", "4", "new"]


async def test_connections_that_the_server_closes_lose_nothing(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_two(make_broker(BrokerPolicy())) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        members = [await subscribe(peers, topic) for topic in topics]
        receipts = []
        for number in range(100):
            receipts.append(topics[number % 2].post(f"{number}"))
            if number % 20 == 10:
                # With what is under way in both directions.
                await trio.lowlevel.checkpoint()
                assert redis_server.ask("CLIENT", "KILL", "SKIPME", "yes") >= 2
                await trio.sleep(1)
        offsets = [(await receipt.confirmed()).offset for receipt in receipts]
        await trio.sleep(1)
        first, second = (peer.messages for peer, _ in members)
        assert first == second
        assert [first[offset - 1] for offset in offsets] == [f"{n}" for n in range(100)]
        assert len(first) == 100
        assert all(subscription.recovered for _, subscription in members)


async def test_a_server_that_is_a_replica_now_is_left(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    peers: Peers,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of one whose connections stay open, and which a subscriber would hear nothing from."""
    caplog.set_level(logging.INFO)
    async with open_two(make_broker(BrokerPolicy(timeout=5))) as (one, other):
        topic = one.topic("news")
        await subscribe(peers, other.topic("news"))
        await topic.publish_confirmed("a")
        redis_server.ask("REPLICAOF", "127.0.0.1", redis_server.find_port())
        # It says so to who publishes, which is not refused for that, and to who asks.
        receipt = topic.post("b")
        await trio.sleep(1)
        assert any(": READONLY " in line for line in caplog.messages)
        assert not any("is a slave now" in line for line in caplog.messages)
        await trio.sleep(10)
        assert any("is a slave now" in line for line in caplog.messages)
        for hub in (one, other):
            statistics = hub.statistics().broker
            assert statistics is not None and not statistics.connected
        redis_server.lead()
        assert (await receipt.confirmed()).offset == 2
    lines = [line for line in caplog.messages if line.startswith("no connection")]
    assert lines[-1].endswith("the server is a slave")


@pytest.fixture
def second_server(tmp_path: Path, redis_server: RedisServer) -> Generator[RedisServer]:
    """A replica of the first, so far."""
    directory = tmp_path / "second"
    directory.mkdir()
    with run_redis(directory) as server:
        server.follow(redis_server)
        yield server


@pytest.mark.parametrize("durable", [False, True])
async def test_a_replica_that_takes_over_without_the_last_ones_begins_a_life(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    second_server: RedisServer,
    peers: Peers,
    durable: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is not durable, whatever it is called: a hub that has the last ones finds that."""
    broker = make_broker(BrokerPolicy(durable=durable))
    assert isinstance(broker, FaultyRedisBroker)
    async with open_two(broker) as hubs:
        topics = [hub.topic("news") for hub in hubs]
        peer, subscription = await subscribe(peers, topics[1], slow="skip")
        for number in range(10):
            kept = await topics[0].publish_confirmed(f"{number}")
        second_server.catch_up(redis_server)
        second_server.lead()
        for number in range(10, 15):
            lost = await topics[0].publish_confirmed(f"{number}")
        await trio.sleep(1)
        broker.server = second_server
        redis_server.kill()
        after = await topics[0].publish_confirmed("after")
        assert after.offset == 11
        await trio.sleep(10)
        last = await topics[0].publish_confirmed("last")
        await trio.sleep(1)
        assert last.epoch != kept.epoch
        assert topics[1].epoch == last.epoch
        assert not subscription.recovered
        assert peer.messages[:15] == [f"{number}" for number in range(15)]
        assert peer.messages[-1] == "last"
        # It belongs to the life that ended if it came before the hub that could tell.
        assert ("after" in peer.messages) is (after.epoch == last.epoch)
        assert after.epoch == last.epoch or durable
        for since in (kept, lost):
            _, back = await subscribe(peers, topics[1], since=since)
            assert not back.recovered


async def test_two_servers_that_both_lead_never_give_one_place_to_two(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    second_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    brokers = [make_broker(BrokerPolicy()) for _ in range(2)]
    old, new = brokers
    assert isinstance(old, FaultyRedisBroker) and isinstance(new, FaultyRedisBroker)
    places: dict[tuple[str, int], str] = {}

    async def publish(topic: Topic, text: str) -> Position:
        position = await topic.publish_confirmed(text)
        assert places.setdefault(position, text) == text
        return position

    async with open_hub(broker=old) as one, open_hub(broker=new) as other:
        topics = [hub.topic("news") for hub in (one, other)]
        peer, subscription = await subscribe(peers, topics[0], slow="skip")
        for number in range(5):
            before = await publish(topics[number % 2], f"{number}")
        second_server.catch_up(redis_server)
        # One hub is on the side of the old one.
        second_server.lead()
        new.server = second_server
        new.cut()
        for number in range(5):
            here = await publish(topics[0], f"old {number}")
            there = await publish(topics[1], f"new {number}")
        assert here.epoch == before.epoch != there.epoch
        # It comes to know, and its connections stay open.
        old.server = second_server
        redis_server.follow(second_server)
        await trio.sleep(20)
        last = await publish(topics[0], "last")
        await trio.sleep(1)
        assert (last.epoch, last.offset) == (there.epoch, 11)
        assert topics[0].epoch == there.epoch
        assert not subscription.recovered
        assert peer.messages[:10] == [*"01234", *(f"old {number}" for number in range(5))]
        assert peer.messages[-1] == "last"


async def test_a_node_that_reads_too_slowly_is_dropped_and_says_what_it_has_missed(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    peers: Peers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    redis_server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 8mb 0 0")
    retain = Retain(max_messages=50, max_bytes=2**24, patience=0)
    slow, fast = (make_broker(BrokerPolicy()) for _ in range(2))
    assert isinstance(slow, FaultyRedisBroker)
    async with open_hub(broker=fast) as one, open_hub(broker=slow) as other:
        topic = one.topic("news", retain=retain)
        peer, subscription = await subscribe(
            peers,
            other.topic("news", retain=retain),
            slow="skip",
            encode=lambda each: str(each.message)[:4],
        )
        await topic.publish_confirmed("0   ")
        await trio.sleep(1)
        slow.freeze()
        # More than the buffers of both kernels and of the server.
        for number in range(1, 301):
            await topic.publish_confirmed(f"{number:<100000}")
        slow.thaw()
        await trio.sleep(20)
        got = [int(str(message)) for message in peer.messages]
        assert got == sorted(set(got))
        assert got[0] == 0 and got[-50:] == list(range(251, 301))
        assert len(got) + subscription.skipped == 301
        assert subscription.skipped > 0
        statistics = other.statistics().broker
        assert statistics is not None and statistics.connects == 2


async def test_a_node_asks_for_no_more_than_a_server_may_owe(
    make_broker: MakeBroker,
    redis_server: RedisServer,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be dropped, and ask again for as much, for ever."""
    redis_server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 4mb 0 0")
    monkeypatch.setattr("trioweb.redis._link._MAX_OWED", 2**20)
    away, there = (make_broker(BrokerPolicy()) for _ in range(2))
    async with open_hub(broker=there) as one, open_hub(broker=away) as other:
        names = [f"{number}" for number in range(40)]
        retain = Retain(max_bytes=2**19)
        with ExitStack() as stack:
            for name in names:
                topic = other.topic(name, retain=retain)
                stack.enter_context(topic.publications())
                await topic.load()
            away.shut_down()
            for name in names:
                for _ in range(4):
                    await one.topic(name, retain=retain).publish_confirmed("a" * 100_000)
            away.start()
            await trio.sleep(10)
            assert [other.topic(name).head for name in names] == [4] * len(names)
            assert [other.topic(name).retained for name in names] == [4] * len(names)
            statistics = other.statistics().broker
            assert statistics is not None and statistics.connects == 2


async def test_the_server_retains_what_a_hub_that_is_alone_does(
    make_broker: MakeBroker, redis_server: RedisServer, autojump_clock: trio.testing.MockClock
) -> None:
    chance = random.Random(5)
    async with open_two(make_broker(BrokerPolicy())) as (one, other), open_hub() as alone:
        for number in range(20):
            retain = Retain(
                max_messages=chance.choice([1, 3, 40, 200]),
                max_bytes=chance.choice([1, 3000, 20_000, 10**6]),
                patience=0,
            )
            name = f"{number}"
            topics = [hub.topic(name, retain=retain) for hub in (one, alone)]
            for count in range(chance.randrange(150)):
                key = f"{count % 7}{count}" if chance.random() < 0.5 else None
                text = "a" * chance.choice([0, 10, 125, 126, 2000])
                skip = chance.choice([None, "ann"])
                for topic in topics:
                    topic.publish(text, skip, key=key)
            await topics[0].publish_confirmed("last")
            topics[1].publish("last")
            # A tenth more may be there until somebody asks.
            held = redis_server.ask("XLEN", f"trioweb:{{{name}}}:s")
            assert held <= max(1, retain.max_messages * 1.1)
            there = other.topic(name, retain=retain)
            await there.load(history=1000)
            mine, theirs = ([each.offset for each in t.history()] for t in (topics[1], there))
            assert mine == theirs
            assert redis_server.ask("XLEN", f"trioweb:{{{name}}}:s") == len(mine)
            keys = {each.key for each in there.history() if each.key is not None}
            found = {key.decode()[1:] for key in redis_server.ask("HKEYS", f"trioweb:{{{name}}}:k")}
            assert found == keys


async def test_the_server_drops_what_is_too_old_by_its_own_clock(
    make_broker: MakeBroker, redis_server: RedisServer, autojump_clock: trio.testing.MockClock
) -> None:
    retain = Retain(max_age=0.1, patience=0)
    async with open_hub(broker=make_broker(BrokerPolicy())) as hub:
        topic = hub.topic("news", retain=retain)
        for text in "abc":
            await topic.publish_confirmed(text)
        born = redis_server.ask("TIME")
        start = int(born[0]) * 10**6 + int(born[1])
        while True:
            moment = redis_server.ask("TIME")
            if int(moment[0]) * 10**6 + int(moment[1]) - start > 110_000:
                break
        await topic.load(history=9)
        assert redis_server.ask("XLEN", "trioweb:{news}:s") == 0
        assert (topic.head, topic.history()) == (3, [])
        assert (await topic.publish_confirmed("d")).offset == 4


async def test_keys_that_are_idle_expire_and_the_epoch_outlives_the_log(
    engine: str, redis_server: RedisServer
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    await use(RedisBroker(url, idle=100))
    seconds = {kind: redis_server.ask("TTL", f"trioweb:{{news}}:{kind}") for kind in "msk"}
    assert 90 <= seconds["s"] <= 100 and 90 <= seconds["k"] <= 100
    assert 2990 <= seconds["m"] <= 3000
    [node] = redis_server.ask("KEYS", "trioweb:{news}:n:*")
    assert 590 <= redis_server.ask("TTL", node.decode()) <= 600


@pytest.mark.parametrize("field", ["", "t", "i"])
async def test_what_others_write_into_its_stream_is_not_handed_on(
    engine: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    caplog.set_level(logging.INFO)
    url = f"redis://127.0.0.1:{redis_server.port}"
    async with open_hub(broker=RedisBroker(url)) as hub:
        topic = hub.topic("news")
        with topic.publications() as publications:
            await topic.load()
            redis_server.ask("PUBLISH", "trioweb:{news}:c0", f"1 epoch {field}9:a")
            with trio.fail_after(60):
                await topic.publish_confirmed("a")
                assert (await anext(publications)).message == "a"
    assert any("is not trioweb's" in line for line in caplog.messages)
