"""What a broker costs: CPU of this process, as ratios to a bare loop that does the same.

    python -m benchmarks.brokers TASK        (a Task as JSON: `broker`)

The bare loop makes each command anew, packs it with hiredis, writes 64 at a time to a stream of
Trio's and reads the replies.  It checks nothing, keeps nothing, and nobody waits for anything.
Each figure is the median of pairs that are measured one after the other.  It prints the figures as
JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import hiredis
import trio

import trioweb
from trioweb._topics._node import EngineNode
from trioweb.redis import RedisBroker
from trioweb.redis._link import RedisLink
from trioweb.redis._words import Words

from .task import Task

_WINDOW = 64
_PAIRS = 5
_RETAIN = trioweb.Retain()

Work = Callable[[], Awaitable[object]]


class Bare:
    """A connection that is written to and read from, and no more."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader()

    async def ask(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Have them done, 64 at a time."""
        stream, reader, pack = self._stream, self._reader, hiredis.pack_command
        commands = iter(commands)
        while some := [pack(each) for each in islice(commands, _WINDOW)]:
            await stream.send_all(b"".join(some))
            left = len(some)
            while left:
                reader.feed(bytes(await stream.receive_some(65536)))
                while reader.gets() is not False:
                    left -= 1


async def cpu(work: Work) -> float:
    before = time.process_time()
    await work()
    return time.process_time() - before


async def ratio(ours: Work, theirs: Work) -> float:
    return statistics.median([await cpu(ours) / await cpu(theirs) for _ in range(_PAIRS)])


async def publishing(broker: RedisBroker, bare: Bare, words: Words, count: int) -> float:
    """Of *count* publications, 64 at a time."""
    texts = [f"{number:064}" for number in range(count)]
    names = words._names
    keys = *names.keys("bare"), names.node("bare", "bare")
    shared = *words._evaluate("publish", "bare", _RETAIN, keys), names.channel("bare")

    async def with_hub() -> None:
        for start in range(0, count, _WINDOW):
            receipts = [topic.post(text) for text in texts[start : start + _WINDOW]]
            await receipts[-1].confirmed()

    async def without() -> None:
        await bare.ask(
            (*shared, number, "0", 266, "", "i", f"bare:{number}", "t", text)
            for number, text in enumerate(texts, 1)
        )

    async with trioweb.open_hub(broker=broker) as hub:
        topic = hub.topic("news")
        await topic.publish_confirmed("first")
        return await ratio(with_hub, without)


async def attaching(broker: RedisBroker, bare: Bare, words: Words, count: int) -> dict[str, float]:
    """Of *count* topics, at first and after the connection was lost."""
    names = words._names
    found: dict[str, list[float]] = {"attach": [], "resync": []}

    def commands() -> Iterable[tuple[Any, ...]]:
        for number in range(count):
            topic = f"{number}"
            yield b"SUBSCRIBE", names.channel(topic)
            keys = names.keys(topic)
            yield *words._evaluate("place", topic, _RETAIN, keys), "", 0, b""

    async def without() -> None:
        await bare.ask(commands())

    for _ in range(_PAIRS):
        async with trioweb.open_hub(broker=broker, max_topics=2 * count) as hub:
            await attach_once(hub, count, without, found)
    return {name: statistics.median(values) for name, values in found.items()}


async def attach_once(
    hub: trioweb.Hub, count: int, without: Work, found: dict[str, list[float]]
) -> None:
    node = hub._node
    assert isinstance(node, EngineNode)
    await hub.topic("first").wait_live()
    topics = [hub.topic(f"{number}") for number in range(count)]

    async def attach() -> None:
        for number, topic in enumerate(topics):
            hub._use(topic)
            assert topic._window is not None
            topic._window.use()
            if number % 256 == 0:
                await trio.lowlevel.checkpoint()
        # Answers come in order.
        await topics[-1].wait_live()

    async def resync() -> None:
        assert isinstance(node._link, RedisLink)
        node._link.lose("it is to be made again")
        while node.statistics().connects < 2 or not node._is_synced:  # noqa: ASYNC110
            await trio.sleep(0.001)
        await topics[-1].wait_live()

    found["attach"].append(await cpu(attach) / await cpu(without))
    found["resync"].append(await cpu(resync) / await cpu(without))


async def main(task: Task) -> dict[str, float]:
    broker = RedisBroker(task.broker, retry=trioweb.Retry(initial=0.001, maximum=0.001))
    where = urlsplit(task.broker)
    assert where.hostname is not None and where.port is not None
    bare = Bare(await trio.open_tcp_stream(where.hostname, where.port))
    await bare.ask([("HELLO", "3")])
    async with broker.connect("bare", "", lambda push: None) as link:
        assert isinstance(link, RedisLink)
        words = link._words
        publish = await publishing(broker, bare, words, task.publications)
        return {"publish": publish, **await attaching(broker, bare, words, task.connections)}


if __name__ == "__main__":
    print(json.dumps(trio.run(main, Task.from_json(sys.argv[1]))), flush=True)
