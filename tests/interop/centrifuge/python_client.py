"""Checks of a topic server with the stock centrifuge-python; a line for each, and their count.

python -m tests.interop.centrifuge.python_client URL json|protobuf
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from centrifuge import (
    Client,
    ClientEventHandler,
    ReplyError,
    StreamPosition,
    Subscription,
    SubscriptionEventHandler,
    SubscriptionState,
)

URL, FORMAT = sys.argv[1:]
IS_PROTOBUF: Final = FORMAT == "protobuf"
PATIENCE: Final = 20  # seconds for one check


def packed(value: object) -> Any:
    return json.dumps(value).encode() if IS_PROTOBUF else value


def unpacked(data: Any) -> Any:
    return json.loads(data) if IS_PROTOBUF else data


class Events(ClientEventHandler):  # type: ignore[misc]
    """Notes what a client is told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    async def on_connecting(self, ctx: Any) -> None:
        self.log.append(("connecting", ctx))

    async def on_connected(self, ctx: Any) -> None:
        self.log.append(("connected", ctx))

    async def on_disconnected(self, ctx: Any) -> None:
        self.log.append(("disconnected", ctx))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.log]


class SubscriptionEvents(SubscriptionEventHandler):  # type: ignore[misc]
    """Notes what a subscription is told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.publications: list[Any] = []

    async def on_subscribed(self, ctx: Any) -> None:
        self.log.append(("subscribed", ctx))

    async def on_unsubscribed(self, ctx: Any) -> None:
        self.log.append(("unsubscribed", ctx))

    async def on_publication(self, ctx: Any) -> None:
        self.publications.append(ctx.pub)

    async def on_join(self, ctx: Any) -> None:
        self.log.append(("join", ctx))

    async def on_leave(self, ctx: Any) -> None:
        self.log.append(("leave", ctx))

    def of(self, kind: str) -> list[Any]:
        return [ctx for name, ctx in self.log if name == kind]


class Bench:
    """The clients of one check, and what it does with them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self._background: set[asyncio.Task[None]] = set()

    async def connected(self, **more: Any) -> tuple[Client, Events]:
        events = Events()
        client = Client(
            URL,
            events=events,
            use_protobuf=IS_PROTOBUF,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            **more,
        )
        self.clients.append(client)
        await client.connect()
        await client.ready()
        return client, events

    async def subscribed(
        self, client: Client, topic: str, **more: Any
    ) -> tuple[Subscription, SubscriptionEvents]:
        events = SubscriptionEvents()
        subscription = client.new_subscription(
            topic,
            events=events,
            min_resubscribe_delay=0.02,
            max_resubscribe_delay=0.2,
            **more,
        )
        await subscription.subscribe()
        await subscription.ready()
        return subscription, events

    async def control(self, client: Client, name: str, data: object) -> Any:
        return unpacked((await client.rpc("ctl." + name, packed(data))).data)

    async def publish(self, client: Client, topic: str, values: list[Any]) -> None:
        await self.control(client, "publish", {"channel": topic, "values": values})

    def begin(self, awaitable: Awaitable[Any]) -> None:
        """Let something happen whose end nobody waits for."""
        task = asyncio.ensure_future(quiet(awaitable))
        self._background.add(task)


async def quiet(awaitable: Awaitable[Any]) -> None:
    try:
        await awaitable
    except Exception as exc:
        # The connection's end is what was asked for.
        print("#", repr(exc)[:100], file=sys.stderr)


def unique(prefix: str) -> str:
    return f"{prefix}:{uuid.uuid4().hex[:8]}"


async def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE / 2
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"timed out waiting for {what}")
        await asyncio.sleep(0.005)


async def check_publications_come_in_order(bench: Bench) -> None:
    a, _ = await bench.connected(data=packed({"user": "ada"}))
    b, _ = await bench.connected()
    topic = unique("chat")
    subscription, _ = await bench.subscribed(a, topic)
    _, events = await bench.subscribed(b, topic)
    for number in range(50):
        await subscription.publish(packed(number))
    await until(lambda: len(events.publications) == 50, "publications")
    assert [unpacked(one.data) for one in events.publications] == list(range(50))
    assert [one.offset for one in events.publications] == list(range(1, 51))
    assert events.publications[0].info.user == "ada"


async def check_history_and_presence(bench: Bench) -> None:
    client, _ = await bench.connected(data=packed({"user": "ada"}))
    topic = unique("chat")
    subscription, _ = await bench.subscribed(client, topic)
    await bench.publish(client, topic, [1, 2, 3])
    history = await subscription.history(limit=2)
    assert [unpacked(one.data) for one in history.publications] == [1, 2]
    assert history.offset == 3
    since = StreamPosition(1, history.epoch)
    history = await subscription.history(limit=-1, since=since)
    assert [unpacked(one.data) for one in history.publications] == [2, 3]
    [info] = (await subscription.presence()).clients.values()
    assert info.user == "ada"
    assert unpacked(info.conn_info) == {"name": "ada"}
    stats = await subscription.presence_stats()
    assert (stats.num_clients, stats.num_users) == (1, 1)


async def check_recovery(bench: Bench) -> None:
    client, _ = await bench.connected()
    other, _ = await bench.connected()
    topic = unique("chat")
    subscription, events = await bench.subscribed(client, topic)
    await bench.publish(other, topic, [1, 2])
    await until(lambda: len(events.publications) == 2, "first publications")
    bench.begin(client.rpc("ctl.abort", packed(None)))
    await until(lambda: subscription.state == SubscriptionState.SUBSCRIBING, "subscribing")
    await bench.publish(other, topic, [3, 4])
    await until(lambda: len(events.publications) == 4, "recovered publications")
    again = events.of("subscribed")[1]
    assert again.was_recovering and again.recovered
    await bench.publish(other, topic, [5])
    await until(lambda: len(events.publications) == 5, "next publication")
    assert [one.offset for one in events.publications] == [1, 2, 3, 4, 5]


async def check_too_much_missed_is_not_recovered(bench: Bench) -> None:
    client, _ = await bench.connected()
    other, _ = await bench.connected()
    topic = unique("small")
    _, events = await bench.subscribed(client, topic)
    await bench.publish(other, topic, [1])
    await until(lambda: len(events.publications) == 1, "first publication")
    await client.disconnect()
    await bench.publish(other, topic, list(range(2, 12)))
    client._need_reconnect = True
    await client.connect()
    await until(lambda: len(events.of("subscribed")) == 2, "subscribed again")
    again = events.of("subscribed")[1]
    assert again.was_recovering and not again.recovered


async def check_a_state_that_cannot_be_recovered_from_is_fetched(bench: Bench) -> None:
    client, _ = await bench.connected()
    other, _ = await bench.connected()
    topic = unique("small")
    asked = []
    await bench.publish(other, topic, [1])

    async def get_state(topic: str) -> StreamPosition:
        asked.append(topic)
        return StreamPosition(0, "")

    _, events = await bench.subscribed(client, topic, get_state=get_state)
    await until(lambda: len(events.publications) == 1, "publication")
    assert asked == [topic]


async def check_join_and_leave(bench: Bench) -> None:
    ada, _ = await bench.connected(data=packed({"user": "ada"}))
    bob, _ = await bench.connected(data=packed({"user": "bob"}))
    topic = unique("chat")
    _, events = await bench.subscribed(ada, topic, join_leave=True)
    subscription, _ = await bench.subscribed(bob, topic)
    await until(lambda: any(one.info.user == "bob" for one in events.of("join")), "join")
    await subscription.unsubscribe()
    await until(lambda: any(one.info.user == "bob" for one in events.of("leave")), "leave")


async def check_calls(bench: Bench) -> None:
    client, _ = await bench.connected()
    assert unpacked((await client.rpc("echo", packed({"a": "ü"}))).data) == {"a": "ü"}
    for method, code, temporary in (("fail", 1400, True), ("nothing", 104, False)):
        with pytest.raises(ReplyError) as refused:
            await client.rpc(method, packed(1))
        assert (refused.value.code, bool(refused.value.temporary)) == (code, temporary)


async def check_a_connections_token_is_refreshed(bench: Bench) -> None:
    asked = []

    async def get_token() -> str:
        asked.append(1)
        return "ttl:1"

    _, events = await bench.connected(token="ttl:1", get_token=get_token)
    await until(lambda: len(asked) >= 2, "refreshes")
    assert events.kinds().count("disconnected") == 0


async def check_a_subscriptions_token_is_refreshed(bench: Bench) -> None:
    asked = []

    async def get_token(topic: str) -> str:
        asked.append(topic)
        return "ttl:1"

    client, _ = await bench.connected()
    subscription, events = await bench.subscribed(
        client, unique("token"), token="ttl:1", get_token=get_token
    )
    assert unpacked(events.of("subscribed")[0].data) == {"welcome": True}
    await until(lambda: len(asked) >= 2, "refreshes")
    assert subscription.state == SubscriptionState.SUBSCRIBED


async def check_closes_by_their_codes(bench: Bench) -> None:
    for code, comes_back in ((3000, True), (4100, True), (3503, False), (4501, False)):
        client, events = await bench.connected()
        order = packed({"code": code, "reason": "because"})
        bench.begin(client.rpc("ctl.disconnect", order))
        kind = "connecting" if comes_back else "disconnected"

        def told(events: Events = events, code: int = code, kind: str = kind) -> list[Any]:
            return [ctx for name, ctx in events.log if name == kind and ctx.code == code]

        await until(told, kind)
        assert told()[0].reason == "because"
        if comes_back:

            def is_back(events: Events = events) -> bool:
                return events.kinds().count("connected") == 2

            await until(is_back, "connected again")


async def check_refusals_to_subscribe(bench: Bench) -> None:
    client, _ = await bench.connected()
    for topic, code in ((unique("nowhere"), 102), (unique("secret"), 103)):
        events = SubscriptionEvents()
        subscription = client.new_subscription(topic, events=events)
        await subscription.subscribe()

        def is_over(subscription: Subscription = subscription) -> bool:
            return bool(subscription.state == SubscriptionState.UNSUBSCRIBED)

        await until(is_over, "unsubscribed")
        assert events.of("unsubscribed")[0].code == code


async def check_the_server_unsubscribes(bench: Bench) -> None:
    client, _ = await bench.connected()
    topic = unique("chat")
    subscription, events = await bench.subscribed(client, topic)
    order = {"channel": topic, "code": 2500, "reason": "insufficient state"}
    await bench.control(client, "unsubscribe", order)
    await until(lambda: len(events.of("subscribed")) == 2, "subscribed again")
    await bench.control(client, "unsubscribe", {"channel": topic})
    await until(lambda: subscription.state == SubscriptionState.UNSUBSCRIBED, "unsubscribed")


CHECKS: Final = [check for name, check in globals().items() if name.startswith("check_")]


async def main() -> bool:
    bad = 0
    for check in CHECKS:
        bench = Bench()
        try:
            await asyncio.wait_for(check(bench), PATIENCE)
            print("ok", check.__name__, flush=True)
        except Exception as exc:
            bad += 1
            print("FAIL", check.__name__, repr(exc)[:300], flush=True)
        for client in bench.clients:
            await quiet(client.disconnect())
    print(f"{len(CHECKS) - bad} passed, {bad} failed", flush=True)
    return bad == 0


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
