"""The application behind `trioweb serve`: every path is a topic.

What a client sends to ws://host/lobby reaches everyone on /lobby.  A browser that asks for
a path gets a chat page that connects to the same path.  There are other doors to the same topics:
stock clients of the Centrifuge protocol, streams of events, and publishing by POST.

NOTE: At each of them `Access` says what a peer may do, and nothing here decides that by itself.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from ._access import FOR_EVER, Access, Caller, Permit
from ._centrifuge import SUBPROTOCOLS, USUAL_PATH
from ._centrifuge._codes import DisconnectCode
from ._chance import random_bytes
from ._close_codes import CloseCode
from ._connection import Connection
from ._dataclass import dataclass
from ._errors import BrokerFull, HubFull, Unpublished
from ._pages import page_headers, read_page
from ._policy import Retain
from ._posting import publish_posted
from ._protocol._http import Request, Response
from ._refusals import Reject
from ._server import Accept, Server, event_stream
from ._server._answering import ALLOW
from ._server._events import wants_events
from ._server._origins import Origins
from ._topic_server._rules import Granted, TopicRules, takes_anonymous
from ._topics import Hub, Topic
from ._topics._engine_link import EngineLost
from ._topics._presence import Member as Present

if TYPE_CHECKING:
    from ._admin import Admin
    from ._topic_server import ConnectRequest, Member, SubscribeRequest, TopicServer, Welcome

MAX_TOPIC_BYTES: Final = 255
# Of what peers call themselves; as the page has it.
_MAX_NAME: Final = 32
_TAKEN: Final = ("/admin", "/healthz", "/metrics", "/stats")
_ADMIN: Final = "/admin/"
_RESERVED: Final = ("/connection/", _ADMIN)
# What a page of another, listed Origin is told before it sends a key, a token or JSON.  Without its
# cookies: who may do what with those is said for WebSockets, by SameSite.
_VARY: Final = ("Vary", "Origin")
_PREFLIGHT: Final = (
    ("Access-Control-Allow-Methods", "GET, POST"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"),
    ("Access-Control-Max-Age", "600"),
    _VARY,
)


def _allowing(request: Request) -> tuple[str, str]:
    """The field that lets the page that has sent *request* read the answer."""
    return ("Access-Control-Allow-Origin", request.origin or "")


def _full() -> Reject:
    return Reject(503, "Too many topics.\n", [("Retry-After", "5")])


def _is_topic(request: Request) -> bool:
    return request.path not in _TAKEN and not request.path.startswith(_RESERVED)


@dataclass(frozen=True, slots=True)
class _Visit:
    """What `connection.user` is of a plain subscriber."""

    topic: Topic
    permit: Permit

    def __str__(self) -> str:
        publisher = self.permit.publisher
        return "" if publisher is None else publisher.id


class Broadcast:
    """The callables that `serve` wants: `admit`, `handle` and `http`.

    Args:
        hub: where the topics live.
        access: says who may do what.
        history: how many past messages a newcomer gets.
        echo: whether a sender gets its own messages.
        origins: of pages that may publish by POST, too; as for `serve`.

    Attributes:
        server: whose health and numbers `http` tells; set it once it is started.
        topic_server: serves clients of the Centrifuge protocol; None: nobody does.
        ask_all: has the numbers of all workers, where this is one.
        admin: answers below `/admin`, and tells the metrics; None: nobody does here.
    """

    server: Server
    topic_server: TopicServer | None = None
    ask_all: Callable[[], Awaitable[dict[str, Any]]] | None = None
    admin: Admin | None = None

    def __init__(
        self,
        hub: Hub,
        access: Access,
        *,
        history: int,
        echo: bool,
        origins: Collection[str] = (),
    ) -> None:
        self._hub = hub
        self._access = access
        self._history = history
        self._echo = echo
        self._origins = Origins(origins)
        page = read_page(__package__, "_page.html")
        if not echo:
            # Or it would wait for what it sent to come back.
            page = page.replace('data-echo="yes"', 'data-echo="no"')
        self._page = page.replace('data-history="0"', f'data-history="{history}"')
        self._headers = page_headers(page)

    def replace_rules(self, topics: Mapping[str, TopicRules]) -> None:
        """Go by *topics* from now on; members of a topic server, from when they subscribe again."""
        self._access.replace_topics(topics)

        def retain_of(name: str) -> Retain | None:
            rules = self._access.rules_of(name)
            return None if rules is None else rules.retain

        self._hub._replace_retain(retain_of)
        if self.topic_server is not None:
            self.topic_server.takes_anonymous = takes_anonymous(topics)

    def replace_origins(self, origins: Collection[str]) -> None:
        """Let pages of *origins* connect and publish from now on; as for `serve`."""
        self._origins.replace(origins)
        self.server._settings.origins.replace(origins)

    async def admit(self, request: Request) -> Accept:
        """Let a peer in at the door that it asks for, or refuse it."""
        if request.path.startswith(_ADMIN):
            if self.admin is None:
                raise Reject(404, "not here: see --admin\n")
            return await self.admin.admit(request)
        spoken = next((name for name in SUBPROTOCOLS if name in request.subprotocols), None)
        if spoken is not None or request.path == USUAL_PATH:
            return self._admit_member(request, spoken)
        permit = await self._access.subscribe(request, self._name(request))
        try:
            return Accept(user=_Visit(self._topic(request, permit), permit))
        except HubFull:
            raise _full() from None

    def _admit_member(self, request: Request, subprotocol: str | None) -> Accept:
        """Let in a client of the Centrifuge protocol, which may say who it is later."""
        if self.topic_server is None:
            raise Reject(
                501, "Stock clients need msgspec here: pip install 'trioweb[centrifuge]'\n"
            )
        return Accept(subprotocol=subprotocol, user=self._access.caller(request))

    async def welcome(self, member: Member, asked: ConnectRequest) -> Welcome | None:
        """The topic server's `on_connect`."""
        caller: Caller | None = member.connection.user
        return None if caller is None else self._access.welcome(caller, asked)

    async def grant(self, member: Member, asked: SubscribeRequest) -> Granted | None:
        """The topic server's `on_subscribe`: others are told the name that a peer gives itself,
        where nobody can know a better one."""
        name = asked.data.get("name") if isinstance(asked.data, dict) else None
        rules = self._access.rules_of(asked.topic)
        if self._access.tokens is not None or rules is None or not rules.subscribe:
            return None
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            return None
        return Granted(info={"name": name})

    def _name(self, request: Request) -> str:
        """The name of the topic at the path."""
        if not _is_topic(request):
            raise Reject(404, f"{request.path} is not a topic.\n")
        name = request.path.removeprefix("/")
        if len(name.encode()) > MAX_TOPIC_BYTES:
            raise Reject(414, f"A topic's name has at most {MAX_TOPIC_BYTES} bytes.\n")
        return name

    def _topic(self, request: Request, permit: Permit) -> Topic:
        return self._hub.topic(self._name(request), retain=permit.rules.retain)

    async def handle(self, connection: Connection) -> None:
        user: _Visit | Caller | None = connection.user
        if connection.request.path.startswith(_ADMIN):
            assert self.admin is not None
            await self.admin.handle(connection)
            return
        if isinstance(user, _Visit):
            run, until = self._relay, user.permit.until
        else:
            assert self.topic_server is not None
            run, until = self.topic_server.handle, FOR_EVER if user is None else user.until
        if until == FOR_EVER:
            await run(connection)
            return
        with trio.move_on_at(until):
            await run(connection)
            return
        # It comes back, with another token if it has one by then.
        expired = DisconnectCode.EXPIRED
        await connection.aclose(expired, expired.reason)

    async def _relay(self, connection: Connection) -> None:
        visit: _Visit = connection.user
        topic, permit = visit.topic, visit.permit
        may_publish, publisher = permit.rules.publish, permit.publisher
        skip = None if self._echo else connection
        presence = self._hub._presence if permit.rules.presence else None
        key = random_bytes(8).hex()
        try:
            with topic.subscribe(connection, history=permit.history(self._history)):
                if presence is not None:
                    user = "" if publisher is None else publisher.id
                    presence.enter(topic.name, key, Present(user, b""))
                async for message in connection:
                    if not may_publish:
                        reason = "publishing to this topic is not allowed"
                        await connection.aclose(CloseCode.POLICY_VIOLATION, reason)
                        return
                    try:
                        topic.publish(message, skip, publisher=publisher)
                    except BrokerFull:
                        # Whoever sends faster than the broker takes it is read more slowly.  What
                        # it refuses is in the log.
                        with suppress(Unpublished):
                            await topic.publish_confirmed(message, skip, publisher=publisher)
        except HubFull:
            # Others made topics between the request and now; or this peer has left, and with
            # it the topic, while its last messages were still to be read.
            await connection.aclose(CloseCode.TRY_AGAIN_LATER, "too many topics")
        finally:
            if presence is not None:
                presence.leave(topic.name, key)

    async def http(self, request: Request) -> Response:
        if request.method == "POST" and self._access.takes_posts and _is_topic(request):
            return await self._publish(request)
        if self._is_preflight(request):
            return Response(204, b"", (*_PREFLIGHT, _allowing(request)))
        if request.method not in ("GET", "HEAD"):
            return Response(405, "only GET and HEAD are answered\n", [ALLOW])
        match request.path:
            case "/healthz":
                draining = self.server.draining
                return Response(503, "draining\n") if draining else Response(200, "ok\n")
            case "/stats":
                await self._access.enter(request)
                body = json.dumps(await self._statistics(), indent=2) + "\n"
                return Response(200, body, [("Content-Type", "application/json")])
            case "/admin" | "/metrics":
                if self.admin is None:
                    return Response(404, f"not here: see --{request.path[1:]}\n")
                return await self.admin.http(request)
            case _:
                return await self._show(request)

    def _is_preflight(self, request: Request) -> bool:
        """Whether the browser of a page that may connect asks what else it may send to a topic."""
        return (
            request.method == "OPTIONS"
            and "access-control-request-method" in request.headers
            and request.origin is not None
            and self._origins.complaint(request) is None
            and _is_topic(request)
        )

    async def _statistics(self) -> dict[str, Any]:
        if self.ask_all is not None:
            with suppress(EngineLost):
                return await self.ask_all()
        return asdict(self.server.statistics())

    async def _publish(self, request: Request) -> Response:
        # A form of another site brings our users' cookies along.
        if self._origins.complaint(request):
            raise Reject(403, "This Origin may not publish.\n")
        if request.origin is None:
            return await self._publish_permitted(request)
        # Its page may read what came of it.
        added = (_allowing(request), _VARY)
        try:
            response = await self._publish_permitted(request)
        except Reject as exc:
            raise Reject(exc.status, exc.body, (*exc.headers, *added)) from None
        assert isinstance(response.headers, tuple)
        return replace(response, headers=(*response.headers, *added))

    async def _publish_permitted(self, request: Request) -> Response:
        permit = await self._access.publish(request, self._name(request))
        try:
            topic = self._topic(request, permit)
            return await publish_posted(request, topic, permit.publisher)
        except HubFull:
            raise _full() from None

    async def _show(self, request: Request) -> Response:
        """A topic as a stream of events, or else as a page."""
        permit = await self._access.subscribe(request, self._name(request))
        if wants_events(request):
            return event_stream(
                request,
                self._topic(request, permit),
                history=permit.history(self._history),
                resume=permit.rules.recover == "all",
                lifetime=permit.lifetime,
            )
        page = self._page
        if not permit.rules.publish:
            page = page.replace('data-publish="yes"', 'data-publish="no"', 1)
        if self.topic_server is not None:
            page = page.replace('data-protocol="no"', 'data-protocol="yes"', 1)
        return Response(200, page.encode(), self._headers)
