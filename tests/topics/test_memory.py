"""Invariant 17: what a hub counts is what its publications take in the memory of the process."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Generator
from contextlib import suppress

import pytest
import trio

from tests.topics.support import Peers, PerTurn, settle
from trioweb import Connection, Hub, Retain, open_hub
from trioweb._topics import Encode

MAX_BYTES = 2**21
EVERYTHING = Retain(max_messages=10**6, max_bytes=2**30)


@pytest.fixture(autouse=True)
def traced() -> Generator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def grown() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Nothing(list[bytes]):
    """Of what is put in, nothing stays."""

    def append(self, data: bytes) -> None:
        pass


async def open_sink(peers: Peers, nursery: trio.Nursery) -> Connection:
    """A connection whose far side reads and keeps nothing."""
    peer = peers.open("kernel", reading=False, max_bytes=2**20)
    peer.queue.offers = Nothing()

    async def read() -> None:
        with suppress(trio.ClosedResourceError):
            while await peer.stream.receive_some(2**16):
                pass

    nursery.start_soon(read)
    return peer.connection


@pytest.mark.parametrize("kind", ["text", "bytes"])
@pytest.mark.parametrize("size", [1, 100, 10_000, 2**18])
async def test_bound_of_a_hub_holds_for_process_memory(
    peers: Peers, nursery: trio.Nursery, size: int, kind: str
) -> None:
    connection = await open_sink(peers, nursery)
    async with open_hub(max_bytes=MAX_BYTES) as hub:
        topic = hub.topic("news", retain=EVERYTHING)
        topic.subscribe(connection, slow="skip")
        before = grown()
        for _ in range(MAX_BYTES // (size + 150) + 10):
            topic.publish("x" * size if kind == "text" else bytes(size))
            if topic.head % 100 == 0:
                await hub.wait_caught_up()
        await hub.wait_caught_up()
        counted = hub._retention.size + hub._retention.shapes.size
        assert MAX_BYTES / 2 < counted <= 1.01 * MAX_BYTES
        assert grown() - before <= 1.5 * MAX_BYTES


async def test_bound_holds_for_what_is_kept_of_encodings(
    peers: Peers, nursery: trio.Nursery
) -> None:
    """Every subscriber has an encoding of its own."""
    connection = await open_sink(peers, nursery)

    def encoding(number: int) -> Encode:
        return lambda publication: f"{number}: {publication.message!r}"

    async with open_hub(max_bytes=MAX_BYTES) as hub:
        topic = hub.topic("news", retain=EVERYTHING)
        for number in range(20):
            topic.subscribe(connection, encode=encoding(number), slow="skip")
        before = grown()
        for _ in range(MAX_BYTES // 2500):
            topic.publish("x" * 2000)
            if topic.head % 20 == 0:
                await hub.wait_caught_up()
        assert grown() - before <= 1.5 * MAX_BYTES


@pytest.mark.parametrize("encode", [None, lambda publication: publication.message])
async def test_publication_that_left_the_log_is_kept_nowhere_else(
    peers: Peers, nursery: trio.Nursery, encode: Encode | None
) -> None:
    """But for the encodings of two blocks, which are counted."""
    connection = await open_sink(peers, nursery)
    async with open_hub() as hub:
        topic = hub.topic("news", retain=Retain(max_messages=1))
        topic.subscribe(connection, encode=encode)
        before = grown()
        for _ in range(12):
            topic.publish(bytes(MAX_BYTES // 4))
            await hub.wait_caught_up()
        counted = hub._retention.size + hub._retention.shapes.size
        assert counted <= (1 if encode is None else 3) * MAX_BYTES // 4 + 2000
        assert grown() - before <= 1.2 * counted


def _publications(hub: Hub) -> int:
    retention = hub._retention
    frames = [topic._log._frames for topic in retention.topics.values()]
    frames += [remains[0] for remains in retention._remains]
    return sum(map(len, frames))


async def test_large_log_that_is_forgotten_goes_some_at_a_time() -> None:
    """Invariant 13: 64 MiB of tiny publications take 20 ms to free."""
    async with open_hub(max_topics=1) as hub:
        topic = hub.topic("large", retain=Retain(max_messages=20_000, max_bytes=2**25))
        for _ in range(20_000):
            topic.publish("x")
        del topic
        await settle()
        before = _publications(hub)
        hub.topic("another").publish("y")
        # Nothing is counted of it any more, but it is still there.
        assert hub.statistics().retained_messages == 1
        assert before - _publications(hub) < 1000
        turns = PerTurn(lambda: _publications(hub))
        trio.lowlevel.add_instrument(turns)
        await settle()
        trio.lowlevel.remove_instrument(turns)
        assert 0 < turns.most < 5000
        assert _publications(hub) == before - 20_000 + 1


async def test_log_that_was_forgotten_makes_way_for_what_is_published_without_a_pause() -> None:
    """Invariant 17: memory stays within the bound, whatever has its turn when."""
    async with open_hub(max_topics=1) as hub:
        topic = hub.topic("large", retain=Retain(max_messages=20_000, max_bytes=2**25))
        for _ in range(20_000):
            topic.publish("x")
        del topic
        before = _publications(hub)
        another = hub.topic("another", retain=Retain(max_messages=20_000))
        for _ in range(20_000 // 512 + 1):
            another.publish("y")
        assert _publications(hub) <= before - 20_000 + 41
