"""A node as a process of its own: it publishes, follows its topic, and writes down what it learns.

    python -m tests.brokers.node URL NAME RATE DURABLE

It publishes NAME0, NAME1, … to one topic, RATE of them a second.  It can be typed to: `flood N` has
it publish N large ones at once; `stop` ends publishing, and `last` publishes that.  Each line of
its output is an object:

    {"got": [epoch, offset, text]}         was published, by anybody
    {"lagged": [skipped]}                  something was missed, or a life has ended
    {"confirmed": [epoch, offset, text]}   of its own, once it has stopped
    {"refused": [text, reason]}            likewise
    {"settled": [restarts, connects]}      that was all
"""

from __future__ import annotations

import json
import sys

import trio

from trioweb import BrokerFull, Lagged, Receipt, Retain, Retry, Topic, Unpublished, open_hub
from trioweb.redis import RedisBroker

RETAIN = Retain(max_messages=2_000, max_bytes=2**22, patience=0)


def tell(kind: str, *values: object) -> None:
    print(json.dumps({kind: values}), flush=True)


async def follow(topic: Topic, task_status: trio.TaskStatus[None]) -> None:
    await topic.wait_live()
    with topic.publications() as publications:
        task_status.started()
        while True:
            try:
                one = await anext(publications)
            except Lagged as exc:
                tell("lagged", exc.skipped)
            else:
                tell("got", topic.epoch, one.offset, str(one.message).split()[0])


class Publisher:
    """What is published by this node, and what became of it."""

    def __init__(self, topic: Topic, name: str) -> None:
        self._topic = topic
        self._name = name
        self._number = 0
        self._receipts: dict[str, Receipt] = {}

    def publish(self, padding: int = 0) -> None:
        text = f"{self._name}{self._number}"
        self._number += 1
        try:
            self._receipts[text] = self._topic.post(f"{text} {'x' * padding}")
        except BrokerFull:
            tell("refused", text, "full")

    async def publish_at(self, rate: float) -> None:
        start, count = trio.current_time(), 0
        while True:
            await trio.sleep_until(start + count / rate)
            count += 1
            self.publish()

    async def settle(self) -> None:
        for text, receipt in self._receipts.items():
            try:
                position = await receipt.confirmed()
            except Unpublished as exc:
                tell("refused", text, str(exc))
            else:
                tell("confirmed", *position, text)


async def main(url: str, name: str, rate: str, durable: str) -> None:
    broker = RedisBroker(
        url,
        timeout=1,
        retry=Retry(initial=0.05, maximum=0.3),
        durable=durable == "durable",
    )
    async with open_hub(broker=broker) as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news", retain=RETAIN)
        await nursery.start(follow, topic)
        publisher = Publisher(topic, name)
        publishing = trio.CancelScope()

        @nursery.start_soon
        async def run() -> None:
            with publishing:
                await publisher.publish_at(float(rate))

        while line := (await trio.to_thread.run_sync(sys.stdin.readline)).split():
            match line:
                case ["flood", count]:
                    for _ in range(int(count)):
                        publisher.publish(padding=2_000)
                case ["stop"]:
                    publishing.cancel()
                    await publisher.settle()
                    assert hub.broker is not None
                    tell("settled", topic.restarts, hub.broker.connects)
                case ["last"]:
                    await topic.publish_confirmed("last")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    url, name, rate, durable = sys.argv[1:]
    trio.run(main, url, name, rate, durable)
