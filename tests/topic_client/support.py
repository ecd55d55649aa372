"""A topic client in memory, before the project's own topic server or one written by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, Final

import trio

import trioweb
from tests.topic_server.support import Serving, settle
from trioweb import Connection, TopicClient, TopicSubscription, open_topic_client
from trioweb._nursery import open_hidden_nursery
from trioweb._server import serve_listeners
from trioweb.testing import Network

# Of virtual time; no test takes so much.
_PATIENCE: Final = 1000
RETRY: Final = trioweb.Retry(initial=0.1, maximum=1)


@asynccontextmanager
async def client_of(
    web: Serving, *, host: str = "client", **given: Any
) -> AsyncGenerator[TopicClient]:
    """A client of the server that serves there."""
    given = {"retry": RETRY, "random": Random(1), "heartbeat": None, **given}
    with trio.fail_after(_PATIENCE):
        async with open_topic_client(web.url, dial=web.network.host(host).dial, **given) as client:
            yield client


async def cut(web: Serving, *hosts: str) -> None:
    """Reset all connections; whatever follows from that has happened."""
    web.network.reset(hosts or "client")
    await settle()


class Reader:
    """Reads a subscription, for as long as it goes.

    Attributes:
        items: what came, and the Gap that was raised.
        error: what ended it.
    """

    def __init__(self, subscription: TopicSubscription[Any]) -> None:
        self.items: list[Any] = []
        self.error: Exception | None = None
        self.is_over = False
        self._subscription = subscription

    async def run(self) -> None:
        while not self.is_over:
            try:
                async for item in self._subscription:
                    self.items.append(item)
                self.is_over = True
            except trioweb.Gap as gap:
                self.items.append(gap)
            except trioweb.TriowebError as exc:
                self.error = exc
                self.is_over = True

    @property
    def data(self) -> list[Any]:
        """What was published; "gap" where one was raised."""
        return [
            "gap" if isinstance(item, trioweb.Gap) else item.data
            for item in self.items
            if isinstance(item, trioweb.Gap | trioweb.TopicPublication)
        ]


class Fake:
    """A server by hand: what it is told, one command after the other, and what it says.

    Attributes:
        said: the commands so far, of all connections.
        connections: that have been made.
    """

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.connections: list[Connection] = []
        # By the name of a command, what its reply has; None: there is none.
        self.replies: dict[str, Any] = {"connect": {"connect": {"client": "c"}}}

    async def handle(self, connection: Connection) -> None:
        self.connections.append(connection)
        async for message in connection:
            for line in str(message).split("\n"):
                command = json.loads(line)
                self.said.append(command)
                name = next((name for name in command if name != "id"), "")
                reply = self.replies.get(name, {name: {}} if name != "send" else None)
                if callable(reply):
                    reply = reply(command)
                if command.get("id") and reply is not None:
                    await connection.send(json.dumps({"id": command["id"], **reply}))

    async def push(self, what: object) -> None:
        await self.connections[-1].send(json.dumps(what))

    def names(self) -> list[str]:
        """Of the commands; "" for a pong."""
        return [next((name for name in each if name != "id"), "") for each in self.said]


@asynccontextmanager
async def against(fake: Fake, **given: Any) -> AsyncGenerator[TopicClient]:
    """A client of *fake*."""
    network = Network()
    listener = network.host("server").listen(80)
    async with open_hidden_nursery() as nursery:
        serve: Callable[..., Any] = partial(
            serve_listeners,
            fake.handle,
            [listener],
            subprotocols=["centrifuge-json", "centrifuge-protobuf"],
            heartbeat=None,
        )
        await nursery.start(serve)
        given = {"retry": RETRY, "random": Random(1), "heartbeat": None, **given}
        dial = network.host("client").dial
        with trio.fail_after(_PATIENCE):
            async with open_topic_client("ws://server/", dial=dial, **given) as client:
                yield client
