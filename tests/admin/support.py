"""A server in memory, as `trioweb serve` runs it, with an admin; and clients of that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

import trio

import trioweb
from tests.topic_server.support import settle
from trioweb import Retain, TopicClient, open_topic_client
from trioweb._access import Access, open_rules
from trioweb._admin import Admin, open_admin
from trioweb._broadcast import Broadcast
from trioweb._nursery import open_hidden_nursery
from trioweb._protocol._http import format_address
from trioweb._server import serve_listeners
from trioweb.testing import Network

KEY: Final = "the-key-of-the-admin"
OTHER_KEY: Final = "another-key-of-the-admin"
# Of virtual time; no test takes so much.
PATIENCE: Final = 1000


@dataclass
class Office:
    """What is administered.

    Attributes:
        drained: whether the server has ended.
    """

    hub: trioweb.Hub
    server: trioweb.Server
    admin: Admin
    network: Network
    nursery: trio.Nursery
    access: Access
    drained: trio.Event

    def url(self, path: str) -> str:
        return f"ws://server:80{path}"

    @asynccontextmanager
    async def desk(
        self, key: str = KEY, host: str = "admin", **given: Any
    ) -> AsyncGenerator[TopicClient]:
        """A client of the admin's, with a *key*."""
        given = {"retry": trioweb.Retry(initial=0.1, maximum=1), "heartbeat": None, **given}
        dial = self.network.host(host).dial
        url = self.url("/admin/socket")
        with trio.fail_after(PATIENCE):
            async with open_topic_client(
                url, token=key, dial=dial, random=Random(1), **given
            ) as client:
                yield client

    async def visitor(self, path: str = "/lobby", host: str = "visitor", **given: Any) -> Visitor:
        """Somebody who is subscribed to the topic at *path*."""
        connection: trioweb.Connection = await self.nursery.start(self._visit, path, host, given)
        await settle()
        return Visitor(connection)

    async def _visit(
        self,
        path: str,
        host: str,
        given: dict[str, Any],
        *,
        task_status: trio.TaskStatus[trioweb.Connection],
    ) -> None:
        async with trioweb.open_connection(
            self.url(path), heartbeat=None, dial=self.network.host(host).dial, **given
        ) as connection:
            task_status.started(connection)
            await trio.sleep_forever()


@dataclass
class Visitor:
    """Somebody who is connected."""

    connection: trioweb.Connection

    @property
    def address(self) -> str:
        return format_address(self.connection.local)


async def rows(client: TopicClient, method: str, **query: Any) -> list[dict[str, Any]]:
    """What a list has."""
    found: list[dict[str, Any]] = (await client.call(method, query))["rows"]
    return found


@asynccontextmanager
async def administering(
    *,
    origins: Iterable[str] = (),
    tokens: trioweb.Tokens | None = None,
    keys: Iterable[str] = (KEY,),
    hub: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[Office]:
    network = Network()
    access = Access(open_rules(Retain()), tokens=tokens)
    drained = trio.Event()
    async with (
        trioweb.open_hub(**hub or {}) as opened,
        open_admin(
            opened,
            topics=access.topics,
            keys=[key.encode() for key in keys],
            pace=access.pace,
            node="node-1",
        ) as admin,
        open_hidden_nursery() as nursery,
    ):
        broadcast = Broadcast(opened, access, history=0, echo=True, origins=list(origins))
        broadcast.admin = admin
        async with trioweb.open_topic_server(
            opened, topics=access.topics, tokens=tokens, on_connect=broadcast.welcome
        ) as broadcast.topic_server:
            admin.topic_server = broadcast.topic_server
            serve = partial(
                serve_listeners,
                broadcast.handle,
                [network.host("server").listen(80)],
                admit=broadcast.admit,
                http=broadcast.http,
                origins=list(origins),
                heartbeat=None,
                hub=opened,
                **options,
            )

            async def run(task_status: trio.TaskStatus[trioweb.Server]) -> None:
                await serve(task_status=task_status)
                drained.set()

            server = await nursery.start(run)
            broadcast.server = server
            admin.start(server, grace=5)
            yield Office(opened, server, admin, network, nursery, access, drained)
