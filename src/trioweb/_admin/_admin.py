"""The admin of a server: a page, and a topic server of its own behind it.

What a page, or `trioweb top`, shows comes over the Centrifuge protocol: the topic "overview" has
the figures about once a second, for as long as somebody watches, and calls give the lists and make
the changes.  Who has no key gets nothing but the page.

NOTE: The topics of this are in a hub of their own, so no other door leads to them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import trio

from .._arguments import check_kind
from .._centrifuge import SUBPROTOCOLS
from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._connection import Connection
from .._keys import Pace, bearer_of, is_one_of
from .._logs import log
from .._metrics import metrics
from .._nursery import open_hidden_nursery, protected_block
from .._pages import page_headers, read_page
from .._policy import Retain
from .._protocol._http import Request, Response, format_address
from .._refusals import Dismiss, Refuse, Reject
from .._server import Accept, Server
from .._server._answering import ALLOW
from .._topic_server import (
    ConnectRequest,
    Member,
    MemberLimits,
    TopicRules,
    TopicServer,
    Welcome,
    open_topic_server,
)
from .._topic_server._rules import Callback, Topics, rules_by_name
from .._topics import Hub, open_hub
from ._changes import Changes, logger, text_of
from ._figures import Figures
from ._lists import (
    CONNECTION_COLUMNS,
    MOST_ROWS,
    TOPIC_COLUMNS,
    Query,
    Row,
    Turns,
    connection_list,
    publication_row,
    topic_list,
)
from ._together import Colleagues, add_connections, add_figures, add_topics

PAGE_PATH: Final = "/admin"
SOCKET_PATH: Final = "/admin/socket"
_METRICS_TYPE: Final = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
_OVERVIEW: Final = "overview"
_SECONDS: Final = 1.0
_RULES: Final = {"": TopicRules(retain=Retain(max_messages=1), recover=None)}
# A page asks for its two lists once a second.
_LIMITS: Final = MemberLimits(max_topics=2, max_calls=4)
_MOST_PUBLICATIONS: Final = 50
# Who guesses faster than it is told no; not final, so that a client of ours comes back later.
_TOO_FAST: Final = 4429


class Admin:
    """See `open_admin`.

    Attributes:
        topic_server: whose members are listed with their users; None if there is none.
    """

    topic_server: TopicServer | None = None
    _server: Server
    _own: TopicServer
    _colleagues: Colleagues | None = None

    def __init__(
        self,
        hub: Hub,
        *,
        topics: Topics,
        keys: Iterable[bytes],
        pace: Pace,
        node: str,
        metrics_topics: Sequence[str],
        nursery: trio.Nursery,
    ) -> None:
        self._hub = hub
        self._keys = tuple(keys)
        self._pace = pace
        self._metrics_topics = metrics_topics
        self._nursery = nursery
        self._figures = Figures(hub, node)
        self._changes = Changes(hub, rules=rules_by_name(topics), spawn=nursery.start_soon)
        # One list is made at a time, however many ask for some.
        self._walking = trio.Lock()
        self._visits = 0
        self._arrival = trio.Event()
        page = read_page(__package__, "page.html")
        self._page = page.encode()
        self._headers = page_headers(page)

    @property
    def calls(self) -> Mapping[str, Callback]:
        """What whoever has a key may call."""
        return {
            "topics": self._list_topics,
            "connections": self._list_connections,
            "publications": self._list_publications,
            "publish": self._changes.publish,
            "close": self._changes.close,
            "trace": self._changes.trace,
            "drain": self._changes.drain,
        }

    def start(self, server: Server, *, grace: float = 10, spread: float = 0) -> None:
        """Administer *server* from now on; before, nobody may be let in.

        Args:
            grace, spread: for its drain.
        """
        self._server = self._figures.server = self._changes.server = server
        self._changes.farewell = grace, spread

    def join(self, colleagues: Colleagues) -> None:
        """Show what *colleagues* have, too, and reach their connections."""
        self._colleagues = self._changes.colleagues = colleagues
        self._figures.is_alone = colleagues.are_all

    def replace_keys(self, keys: Iterable[bytes]) -> None:
        """Take *keys* from now on; whoever is there shows theirs again."""
        self._keys = tuple(keys)
        for member in tuple(self._own.members):
            member.dismiss(DisconnectCode.FORCE_RECONNECT)

    # What `serve` is given, or what is asked where there are other doors, too.

    async def admit(self, request: Request) -> Accept:
        """Let in whoever asks for the socket: they say who they are once they are connected."""
        if request.path != SOCKET_PATH:
            raise Reject(404, "There is no WebSocket here.\n")
        spoken = (name for name in SUBPROTOCOLS if name in request.subprotocols)
        return Accept(subprotocol=next(spoken, None))

    async def handle(self, connection: Connection) -> None:
        self._visits += 1
        self._arrival.set()
        try:
            await self._own.handle(connection)
        finally:
            self._visits -= 1

    async def http(self, request: Request) -> Response:
        """The page, and for whoever has a key the metrics."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, "only GET and HEAD are answered\n", [ALLOW])
        match request.path:
            case "/admin":
                return Response(200, self._page, self._headers)
            case "/":
                return Response(303, "", [("Location", PAGE_PATH)])
            case "/metrics":
                if not is_one_of(bearer_of(request), self._keys):
                    await self._pace.wait(request.remote)
                    raise Reject(401, "an admin key is needed\n", [("WWW-Authenticate", "Bearer")])
                text = await metrics(self._server, topics=self._metrics_topics)
                return Response(200, text, [_METRICS_TYPE])
        return Response(404, f"there is only {PAGE_PATH} here\n")

    # What the topic server is given.

    async def welcome(self, member: Member, asked: ConnectRequest) -> Welcome:
        """Let in whoever has a key."""
        if is_one_of(asked.token, self._keys):
            return Welcome(user="admin")
        connection = member.connection
        who = format_address(connection.remote)
        log(logger, logging.INFO, connection, "%s: no admin key", who, address=who, status=401)
        try:
            await self._pace.wait(connection.remote)
        except Reject:
            raise Dismiss(_TOO_FAST, "too many guesses") from None
        raise Dismiss(DisconnectCode.INVALID_TOKEN)

    async def _list_topics(self, member: Member, data: Any) -> Row:
        query = Query.of(data, TOPIC_COLUMNS, "rate")
        if self._colleagues is None:
            return await self._topics_here(query)
        # Those that have few subscribers at each may have many together.
        wide = replace(query, limit=MOST_ROWS)
        others = await self._colleagues.ask("topics", asdict(wide))
        return add_topics(await self._topics_here(wide), others, query)

    async def _topics_here(self, query: Query) -> Row:
        async with self._walking:
            found = topic_list(self._figures.rates)
            return await found.take(tuple(self._hub.topics.values()), query)

    async def _list_connections(self, member: Member, data: Any) -> Row:
        query = Query.of(data, CONNECTION_COLUMNS, "age")
        if self._colleagues is None:
            return await self._connections_here(query)
        others = await self._colleagues.ask("connections", asdict(query))
        here = await self._connections_here(query)
        return add_connections(here, others, query, self._colleagues.number)

    async def _connections_here(self, query: Query) -> Row:
        async with self._walking:
            found = connection_list(self._hub, await self._users(), self._changes.traced)
            return await found.take(self._server.connections, query)

    async def _users(self) -> dict[Connection, str]:
        """Who the members of the topic servers are."""
        users: dict[Connection, str] = {}
        turns = Turns()
        for server in (self.topic_server, self._own):
            for member in () if server is None else tuple(server.members):
                users[member.connection] = member.user
                await turns.spend(1)
        return users

    async def _list_publications(self, member: Member, data: Any) -> Row:
        """The newest publications of a `topic`."""
        await trio.lowlevel.checkpoint()
        name = text_of(data, "topic")
        found = self._publications_here(name)
        if found is None and self._colleagues is not None:
            others = await self._colleagues.ask("publications", {"topic": name})
            found = next((told for _, told in others if told is not None), None)
        if found is None:
            raise Refuse(ErrorCode.UNKNOWN_TOPIC, "there is no such topic any more")
        return found

    def _publications_here(self, name: str) -> Row | None:
        topic = self._hub.topics.get(name)
        if topic is None:
            return None
        newest = topic.history(count=_MOST_PUBLICATIONS, reverse=True)
        return {
            "epoch": topic.epoch,
            "head": topic.head,
            "rows": [publication_row(each) for each in newest],
        }

    async def perform(self, what: str, data: Row) -> Any:
        """What an admin wants to know of this worker, or to have done here, by another one of them.

        Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        match what:
            case "figures":
                return await self._figures.glance()
            case "topics":
                return await self._topics_here(Query(**data))
            case "connections":
                return await self._connections_here(Query(**data))
            case "publications":
                return self._publications_here(data["topic"])
            case _:
                return await self._changes.do(what, data)

    async def _figures_of_all(self, late: float) -> Row:
        own = await self._figures.take(late)
        if self._colleagues is None:
            return own
        return add_figures(own, await self._colleagues.ask("figures", {}), self._colleagues.number)

    async def run(self, own: TopicServer) -> None:
        """Publish the figures to those who watch, on their own topic server.

        Checkpoint: it runs until it is cancelled.
        """
        self._own = own
        while True:
            if not self._visits:
                self._figures.forget()
                self._arrival = trio.Event()
                await self._arrival.wait()
            due = trio.current_time() + _SECONDS
            await trio.sleep_until(due)
            if own.presence(_OVERVIEW):
                own.publish(_OVERVIEW, await self._figures_of_all(trio.current_time() - due))


@protected_block
async def open_admin(
    hub: Hub,
    *,
    topics: Topics,
    keys: Iterable[bytes],
    pace: Pace,
    node: str,
    metrics_topics: Sequence[str] = (),
) -> AsyncGenerator[Admin]:
    """Have an admin of a server for the length of the block; `Admin.start` says of which.

    Args:
        hub: whose topics are shown.
        topics: their rules; as for `open_topic_server`.
        keys: whoever has one of these is let in.
        pace: how fast one may guess.
        node: the name of this process.
        metrics_topics: as for `metrics`.
    """
    check_kind("open_admin", "hub", hub, Hub)
    async with open_hub(max_topics=1, linger=0) as own_hub, open_hidden_nursery() as nursery:
        admin = Admin(
            hub,
            topics=topics,
            keys=keys,
            pace=pace,
            node=node,
            metrics_topics=metrics_topics,
            nursery=nursery,
        )

        async with open_topic_server(
            own_hub, topics=_RULES, on_connect=admin.welcome, calls=admin.calls, limits=_LIMITS
        ) as own:
            nursery.start_soon(admin.run, own)
            yield admin
