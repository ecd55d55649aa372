"""The page for monitoring systems: right, readable, and nobody's way to choose what is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

import trioweb
from tests.client.support import Door
from tests.server.support import echo, start
from tests.support import CLOSE, TEXT, Frame
from tests.topics.support import open_peers, settle
from trioweb._effort import A_TURN
from trioweb._metrics import _under_way
from trioweb.testing import MemoryBroker


class Numbers:
    """A page, as Prometheus' own parser reads it.

    Attributes:
        kinds: of each family.
    """

    def __init__(self, page: str) -> None:
        self.kinds: dict[str, str] = {}
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(page):
            assert family.documentation
            assert family.name not in self.kinds
            self.kinds[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self._values
                self._values[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._values.get((f"trioweb_{name}", frozenset(labels.items())))

    def labels(self) -> set[tuple[str, str]]:
        return {each for _, labels in self._values for each in labels}


async def numbers(*args: Any, **options: Any) -> Numbers:
    return Numbers(await trioweb.metrics(*args, **options))


async def full_page() -> str:
    """A page with every family but those of a store: a hub with a broker has none."""
    async with (
        trio.open_nursery() as nursery,
        trioweb.open_hub(broker=MemoryBroker()) as hub,
        trioweb.open_client("ws://server/", dial=Door().dial) as client,
    ):
        topic = hub.topic("lobby")
        await topic.publish_confirmed("news")
        site = await start(nursery, echo, hub=hub)
        # So that it is in use, and has a lag.
        with topic.publications():
            page = await trioweb.metrics(site.server, client=client, topics=["lobby"])
        nursery.cancel_scope.cancel()
    return page


async def store_page(path: Path) -> str:
    """A page of a hub with a store at *path*."""
    async with trioweb.open_hub(store=path) as hub:
        return await trioweb.metrics(hub=hub)


async def test_page_of_nothing_is_empty() -> None:
    assert await trioweb.metrics() == ""


async def test_page_of_a_server_tells_what_went_over_its_connections(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    site = await start(nursery, echo)
    staying, leaving = await site.opened(), await site.opened()
    for peer in staying, leaving, leaving:
        await peer.send(Frame(TEXT, b"hello"))
    await trio.sleep(1)
    before = await numbers(site.server)
    assert before("connections", state="open") == 2
    assert before("messages_received_total") == before("messages_sent_total") == 3
    assert before("received_bytes_total") == 3 * (2 + 4 + 5)
    assert before("sent_bytes_total") == 3 * (2 + 5)
    await leaving.send(Frame(CLOSE, (4321).to_bytes(2, "big")))
    await leaving.stream.aclose()
    await (await site.peer()).ask(b"nonsense\r\n\r\n")
    await (await site.peer()).ask(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
    await trio.sleep(1)
    after = await numbers(site.server)
    assert after("connections", state="open") == 1
    assert after("connections", state="opening") == after("connections", state="closing") == 0
    assert after("connections_opened_total") == 2
    assert after("connections_closed_total", code="4xxx") == 1
    assert after("messages_received_total") == after("messages_sent_total") == 3
    assert after("received_bytes_total") == 3 * (2 + 4 + 5) + (2 + 4 + 2)
    assert after("requests_refused_total", status="400") == 1
    assert after("requests_answered_total", status="404") == 1
    assert after("handshake_seconds_count") == 2
    assert after("draining") == 0


async def test_what_a_connection_has_carried_is_counted_while_only_its_handler_is_left(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(connection: trioweb.Connection) -> None:
        await connection.receive()
        await connection.wait_closed()
        await trio.sleep(100)

    site = await start(nursery, handler)
    peer = await site.opened()
    await peer.send(Frame(TEXT, b"hello"))
    await trio.sleep(1)
    await peer.stream.aclose()
    for seconds in 10, 200:
        await trio.sleep(seconds)
        assert not site.server.connections
        assert (await numbers(site.server))("messages_received_total") == 1


async def test_heartbeat_that_is_lost_is_told(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    heartbeat = trioweb.Heartbeat(interval=10, timeout=10)
    site = await start(nursery, echo, heartbeat=heartbeat)
    await site.opened()
    await trio.sleep(30)
    told = await numbers(site.server)
    assert told("heartbeats_lost_total") == 1
    assert told("connections_closed_total", code="1006") == 1
    assert told("loop_lateness_seconds_count") == told("loop_lateness_seconds_bucket", le="0.25")
    assert (told("loop_lateness_seconds_count") or 0) > 0


async def test_page_of_a_hub_tells_of_deliveries_lag_and_evictions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trioweb.open_hub(max_bytes=2**20) as hub, open_peers() as peers:
        topic = hub.topic("prices", retain=trioweb.Retain(max_messages=2, patience=1))
        fast, slow = peers.open(), peers.open(reading=False)
        topic.subscribe(fast.connection)
        topic.subscribe(slow.connection)
        await slow.clog()
        for _ in range(12):
            topic.publish("12345")
        await settle()
        told = await numbers(hub=hub)
        assert told("publications_total") == told("deliveries_total") == 12
        assert told("delivered_bytes_total") == 12 * 7
        assert told("subscribers") == told("subscriber_lag_count") == 2
        assert told("subscriber_lag_bucket", le="0") == told("subscriber_lag_bucket", le="10") == 1
        assert told("subscriber_lag_bucket", le="100") == 2
        assert told("subscriber_lag_sum") == 12
        assert told("retained_publications") == hub.statistics().retained_messages
        assert told("retained_bytes") == hub.statistics().retained_bytes
        assert told("retained_bytes_limit") == 2**20
        assert told("topics") == 1
        assert told("turn_seconds_count") == 1
        await trio.sleep(5)
        topic.subscribe(fast.connection, since=(topic.epoch, 12)).close()
        topic.subscribe(fast.connection, since=(topic.epoch, 1)).close()
        told = await numbers(hub=hub)
        assert told("evictions_total") == told("subscribers") == 1
        assert told("recoveries_total", outcome="recovered") == 1
        assert told("recoveries_total", outcome="gap") == 1


@pytest.mark.parametrize("slow", ["evict", "latest"])
@pytest.mark.parametrize("transport", ["kernel", "tls", "memory"])
async def test_deliveries_are_those_that_peers_get(transport: Any, slow: Any) -> None:
    async with trioweb.open_hub() as hub, open_peers() as peers:
        topic = hub.topic("prices", slow=slow)
        everyone = [peers.open(transport) for _ in range(4)]
        for peer in everyone:
            topic.subscribe(peer.connection)
        for number in range(20):
            # Large ones are cut by the kernel; some are not for all.
            skip = everyone[0].connection if number % 3 == 0 else None
            topic.publish(bytes(number * 1000), skip)
            if number % 4 == 0:
                await settle()
        await hub.wait_caught_up()
        while any(peer.link.queue.buffered_amount for peer in everyone):
            await settle()
        await settle()
        told = await numbers(hub=hub)
        assert told("deliveries_total") == sum(len(peer.messages) for peer in everyone)
        assert told("delivered_bytes_total") == sum(len(peer.raw) for peer in everyone)


async def test_page_of_a_hub_with_a_broker_tells_how_that_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    gauges = "connected", "waiting", "topics"
    async with trioweb.open_hub(broker=broker) as hub:
        topic = hub.topic("lobby")
        with topic.publications():
            await topic.wait_live()
            broker.refuse("out of memory")
            with pytest.raises(trioweb.Unpublished):
                await topic.publish_confirmed("a")
            broker.refuse(None)
            broker.shut_down()
            await trio.sleep(1)
            topic.publish("b")
            found = await numbers(hub=hub)
            assert [found(f"broker_{name}") for name in gauges] == [0, 1, 1]
            broker.restart()
            broker.start()
            await trio.sleep(10)
            found = await numbers(hub=hub)
            assert [found(f"broker_{name}") for name in gauges] == [1, 0, 1]
            counters = "connects", "refused", "restarts"
            assert [found(f"broker_{name}_total") for name in counters] == [2, 1, 1]
            attempts = found("broker_attempts_total")
            assert attempts is not None and attempts > 2
            assert topic.restarts == 1
            assert hub.broker is not None and hub.broker.state == "live"
    async with trioweb.open_hub() as hub:
        topic = hub.topic("lobby")
        await topic.wait_live()
        assert (hub.broker, topic.restarts) == (None, 0)
        assert (await numbers(hub=hub))("broker_connected") is None


async def test_topics_that_the_program_names_are_told_apart_and_no_others() -> None:
    async with trioweb.open_hub() as hub, open_peers() as peers:
        odd = 'a "quoted"\\ \n name'
        for name in odd, "secret":
            peer = peers.open(reading=False)
            hub.topic(name).subscribe(peer.connection)
            await peer.clog()
            hub.topic(name).publish("news")
        told = await numbers(hub=hub, topics=[odd, "there is none"])
        assert told("topic_head", topic=odd) == told("topic_subscribers", topic=odd) == 1
        assert told("topic_lag_max", topic=odd) == 1
        assert told("topic_retained_bytes", topic=odd) == hub.topic(odd).size
        assert {value for label, value in told.labels() if label == "topic"} == {odd}
        assert hub.statistics().topics == 2
        assert not any(label == "topic" for label, _ in (await numbers(hub=hub)).labels())


async def test_no_label_is_of_a_peers_choice(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with trioweb.open_hub() as hub:

        async def handler(connection: trioweb.Connection) -> None:
            with hub.topic(connection.request.path).subscribe(connection):
                await connection.wait_closed()

        site = await start(nursery, handler, hub=hub)
        codes = [1000, 1001, *range(3000, 3150), *range(4000, 4150)]
        for code in codes:
            peer = await site.opened(f"/{code}")
            await peer.send(Frame(CLOSE, code.to_bytes(2, "big")))
            await peer.stream.aclose()
        await trio.sleep(1)
        told = await numbers(site.server)
    assert told("connections_closed_total", code="3xxx") == 150
    assert told("connections_closed_total", code="4xxx") == 150
    found = {value for label, value in told.labels() if label != "le"}
    assert found == {
        *("1000", "1001", "3xxx", "4xxx"),
        *("opening", "open", "closing", "recovered", "gap"),
    }


async def test_page_of_a_client_tells_of_its_attempts_and_its_outbox(
    autojump_clock: trio.testing.MockClock,
) -> None:
    door = Door()
    with trio.fail_after(100):
        async with trioweb.open_client("ws://server/", dial=door.dial) as client:
            await client.send("hello")
            told = await numbers(client=client)
            assert told("client_state", state="connecting") == 1
            assert told("client_outbox_messages") == 1
            assert told("client_outbox_bytes") == 5
            await door.accept()
            await client.flush()
            told = await numbers(client=client)
            assert told("client_state", state="open") == 1
            assert told("client_state", state="connecting") == 0
            assert told("client_attempts_total") == told("client_sessions_total") == 1
            assert told("client_messages_accepted_total") == 1
            assert told("client_outbox_messages") == 0


class Steps(trio.abc.Instrument):
    """Counts the turns that the task gets which makes it."""

    def __init__(self) -> None:
        self.count = 0
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self._task


async def _turns(make: Callable[[], Any]) -> int:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await make()
    trio.lowlevel.remove_instrument(steps)
    return steps.count


async def test_others_run_after_each_millisecond_of_work() -> None:
    async with trioweb.open_hub() as hub, open_peers() as peers:
        alone = await _turns(lambda: trioweb.metrics(hub=hub))
        connection = peers.open().connection
        for number in range(10_000):
            hub.topic(str(number)).subscribe(connection)
        turns = await _turns(lambda: trioweb.metrics(hub=hub))
    # Each look at a subscription costs three quarters of a microsecond.
    assert turns - alone == 10_000 * 3 // A_TURN


async def test_page_that_is_being_made_is_given_to_all_who_ask() -> None:
    pages = []

    async def ask(hub: trioweb.Hub) -> None:
        pages.append(await trioweb.metrics(hub=hub))

    async with trioweb.open_hub() as hub, open_peers() as peers:
        connection = peers.open().connection
        for number in range(2000):
            hub.topic(str(number)).subscribe(connection)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, hub)
        first, second, third = pages
        assert first is second is third
        assert await trioweb.metrics(hub=hub) is not first


async def test_page_whose_maker_is_cancelled_is_made_by_the_next() -> None:
    pages = []
    async with trioweb.open_hub() as hub, open_peers() as peers:
        connection = peers.open().connection
        for number in range(10_000):
            hub.topic(str(number)).subscribe(connection)

        async def make(scope: trio.CancelScope) -> None:
            with scope:
                await trioweb.metrics(hub=hub)

        async def ask() -> None:
            pages.append(await trioweb.metrics(hub=hub))

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make, scope)
            while not _under_way:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(ask)
            for _ in range(3):  # it waits for the page
                await trio.lowlevel.checkpoint()
            scope.cancel()
        assert scope.cancelled_caught
        assert Numbers(pages[0])("subscribers") == 10_000


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"server": "x"}, "server must be of type Server or None"),
        ({"hub": "x"}, "hub must be of type Hub or None"),
        ({"client": "x"}, "client must be of type Client or None"),
        ({"topics": "lobby"}, "topics must be a collection of str"),
    ],
)
async def test_bad_argument_is_an_error(options: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        await trioweb.metrics(**options)


async def test_page_of_a_hub_with_a_store_tells_how_that_does(tmp_path: Path) -> None:
    async with trioweb.open_hub(store=tmp_path / "topics.db", max_bytes=2**20) as hub:
        topic = hub.topic("lobby")
        topic.publish("news")
        found = await numbers(hub=hub)
        gauges = "failing", "waiting", "waiting_bytes_limit", "topics", "replayed", "ended"
        # The topic is a record, too.
        assert [found(f"store_{name}") for name in gauges] == [0, 2, 2**18, 1, 0, 0]
        assert hub.store is not None and found("store_waiting_bytes") == hub.store.waiting_bytes
    (tmp_path / "topics.db-pending").unlink()
    async with trioweb.open_hub(store=tmp_path / "topics.db") as hub:
        found = await numbers(hub=hub)
        assert (found("store_ended"), found("store_waiting")) == (1, 0)
        assert found("store_bytes") == topic.size > 0
        assert hub.broker is None
    async with trioweb.open_hub() as hub:
        assert hub.store is None
        assert (await numbers(hub=hub))("store_topics") is None


async def test_documentation_lists_what_a_page_has(tmp_path: Path) -> None:
    page = await full_page() + await store_page(tmp_path / "topics.db")
    text = Path("docs/operating.md").read_text("utf-8")
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            what = page.partition(f"# HELP {name} ")[2].partition("\n")[0]
            assert f"| `{name}` | {kind} | {what} |" in text
    listed = set(re.findall(r"^\| `(trioweb_\w+)`", text, re.MULTILINE))
    assert listed == set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
