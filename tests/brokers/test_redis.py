"""What only a broker on a Redis has to do, on a real server; what all brokers do, and the faults
that they all stand, is `test_conformance`."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.brokers.conftest import MakeBroker
from tests.brokers.redis_server import RedisServer, run_redis
from tests.brokers.test_conformance import open_two, subscribe
from tests.topics.support import Peers
from trioweb import BrokerPolicy, Publisher, Retain, open_hub
from trioweb.redis import RedisBroker

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("engine", ["redis"], indirect=True)]

DOCS = Path(__file__).parents[2] / "docs" / "topics.md"


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
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            async with broker.connect("node", "", lambda push: None):
                raise AssertionError("it trusts anybody")


def documented_rights() -> list[str]:
    [line] = [each for each in DOCS.read_text().splitlines() if each.startswith("ACL SETUSER")]
    return line.split()


async def test_the_rights_that_are_documented_suffice(
    engine: str, redis_server: RedisServer
) -> None:
    redis_server.ask(*documented_rights())
    await use(RedisBroker(f"redis://trioweb:PASSWORD@127.0.0.1:{redis_server.port}"))


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
