"""A topic server in memory, and peers that speak the protocol to it, command by command.

The peers' messages are made and read by the project's own codecs, which other tests hold to what
other people's programs say.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import pytest
import trio
import trio.testing

import trioweb
from trioweb import Connection, Hub, Retain, TopicRules, TopicServer
from trioweb._centrifuge import CODECS, Codec
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Command, Request
from trioweb._centrifuge._replies import Push, Reply
from trioweb._nursery import open_hidden_nursery
from trioweb._server import serve_listeners
from trioweb.testing import Network

JSON: Final = "centrifuge-json"
PROTOBUF: Final = "centrifuge-protobuf"
FORMATS = pytest.mark.parametrize("format", [JSON, PROTOBUF])

ALL: Final = TopicRules(
    retain=Retain(max_messages=10), publish=True, history=True, presence=True, join_leave=True
)
TOPICS: Final = {
    "chat": ALL,
    "now": TopicRules(recover="latest", publish=True),
    "plain": TopicRules(recover=None),
    "secret": TopicRules(subscribe=False),
}

PONG: Final = {JSON: "{}", PROTOBUF: b"\0"}


def raw(value: object) -> msgspec.Raw:
    """*value* as a payload, which JSON is in both encodings."""
    return msgspec.Raw(json.dumps(value).encode())


def value(payload: object) -> Any:
    """What *payload* says."""
    assert isinstance(payload, msgspec.Raw)
    return json.loads(bytes(payload))


class Peer:
    """A client of the protocol.

    Attributes:
        log: all replies and pushes so far, in their order, without pings.
        pings: when these came.
        answers: whether it answers them.
    """

    def __init__(self, connection: Connection, codec: Codec) -> None:
        self.connection = connection
        self.codec = codec
        self.log: list[Reply] = []
        self.pings: list[float] = []
        self.answers = True
        self._ids = itertools.count(1)

    async def run(self) -> None:
        async for message in self.connection:
            for reply in self.codec.decode_replies(message):
                if not reply.is_ping:
                    self.log.append(reply)
                    continue
                self.pings.append(trio.current_time())
                if self.answers:
                    await self.connection.send(self.codec.PING)

    async def send(self, *requests: Request) -> list[int]:
        """Send *requests* in one message; return their ids."""
        ids = [next(self._ids) for _ in requests]
        parts = [
            self.codec.encode(Command.of(id, request))
            for id, request in zip(ids, requests, strict=True)
        ]
        await self.connection.send(self.codec.join(parts))
        return ids

    async def ask(self, request: Request) -> Any:
        """Send *request*; return the result, or the Error."""
        [id] = await self.send(request)
        await settle()
        return self.answer(id)

    def answer(self, id: int) -> Any:
        """The result of the command *id*, or the Error."""
        [reply] = [reply for reply in self.log if reply.id == id]
        return reply.result if reply.error is None else reply.error

    async def subscribe(self, topic: str, **given: Any) -> Any:
        return await self.ask(wire.SubscribeRequest(topic=topic, **given))

    async def publish(self, topic: str, what: object, **given: Any) -> Any:
        return await self.ask(wire.PublishRequest(topic=topic, data=raw(what), **given))

    @property
    def pushes(self) -> list[Push]:
        return [reply.push for reply in self.log if reply.push is not None]

    def publications(self, topic: str) -> list[wire.Publication]:
        """Those that came as pushes."""
        return [p.pub for p in self.pushes if p.topic == topic and p.pub is not None]

    def offsets(self, topic: str) -> list[int]:
        return [publication.offset for publication in self.publications(topic)]

    def closed(self) -> tuple[int | None, str]:
        """The code and reason of the Close that has ended it; None and "" before."""
        return self.connection.close_code, self.connection.close_reason


@dataclass
class Serving:
    """A topic server that serves.

    Attributes:
        open: opens a connection to it.
        handling: how many connections are handled now.
    """

    hub: Hub
    server: TopicServer
    network: Network
    nursery: trio.Nursery
    url: str
    web: trioweb.Server
    handling: int = 0

    async def open(self, format: str = JSON, client: str = "client", query: str = "") -> Peer:
        """A peer that has not said anything yet.  Args: client: the name of its host."""
        connection = await self.nursery.start(self._carry, format, client, query)
        peer = Peer(connection, CODECS[format])
        self.nursery.start_soon(peer.run)
        return peer

    async def _carry(
        self, format: str, client: str, query: str, *, task_status: trio.TaskStatus[Connection]
    ) -> None:
        async with trioweb.open_connection(
            self.url + query,
            subprotocols=[format],
            heartbeat=None,
            dial=self.network.host(client).dial,
            limits=trioweb.Limits(max_message_bytes=2**24),
        ) as connection:
            task_status.started(connection)
            await trio.sleep_forever()

    async def connect(
        self, format: str = JSON, user: str = "", client: str = "client", **given: Any
    ) -> Peer:
        """A peer that is connected."""
        peer = await self.open(format, client)
        if user:
            given["data"] = raw({"user": user})
        result = await peer.ask(wire.ConnectRequest(**given))
        assert isinstance(result, wire.ConnectResult), result
        return peer


async def by_data(member: trioweb.Member, request: trioweb.ConnectRequest) -> trioweb.Welcome:
    """Whoever says who they are is believed."""
    data = request.data if isinstance(request.data, dict) else {}
    user = data.get("user", "")
    return trioweb.Welcome(user=user, info={"name": user} if user else None)


@asynccontextmanager
async def serving(
    *,
    limits: trioweb.Limits = trioweb.Limits(),
    hub: dict[str, Any] | None = None,
    max_bytes: int = 65536,
    limits_of_members: trioweb.MemberLimits | None = None,
    **given: Any,
) -> AsyncGenerator[Serving]:
    """Serve in memory.

    Args:
        hub: for `open_hub`.
        max_bytes: what a connection's transport holds.
        limits: of connections.
        given: for `open_topic_server`.
    """
    if limits_of_members is not None:
        given["limits"] = limits_of_members
    given = {"topics": TOPICS, "on_connect": by_data, **given}
    network = Network(max_bytes=max_bytes)
    async with (
        trioweb.open_hub(**hub or {}) as opened,
        trioweb.open_topic_server(opened, **given) as server,
        open_hidden_nursery() as nursery,
    ):
        listener = network.host("server").listen()

        async def handle(connection: Connection) -> None:
            found.handling += 1
            try:
                await server.handle(connection)
            finally:
                found.handling -= 1

        serve: Callable[..., Any] = partial(
            serve_listeners,
            handle,
            [listener],
            subprotocols=server.subprotocols,
            heartbeat=None,
            limits=limits,
            hub=opened,
        )
        web: trioweb.Server = await nursery.start(serve)
        url = f"ws://server:{listener.port}/"
        found = Serving(opened, server, network, nursery, url, web)
        yield found


async def settle() -> None:
    """Let all that can happen now happen."""
    await trio.testing.wait_all_tasks_blocked(0.01)
