"""The application behind `trioweb serve`: every path is a topic.

What a client sends to ws://host/lobby reaches everyone on /lobby.  A browser that asks for
a path gets a chat page that connects to the same path.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict
from hashlib import sha256
from importlib.resources import files
from typing import Final

from ._connection import Connection
from ._errors import CloseCode, HubFull, Reject
from ._policy import Retain
from ._posting import Gate, publish_posted
from ._protocol._http import Request, Response
from ._server import Accept, Server, event_stream
from ._server._answering import ALLOW
from ._server._events import wants_events
from ._topics import Hub, Topic

MAX_TOPIC_BYTES: Final = 255
_TAKEN: Final = ("/healthz", "/metrics", "/stats")
_PAGE_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


def _policy(page: str) -> str:
    """The page is one file: nothing may be loaded, only its own code runs, and it may talk to its
    own host only."""

    def digest(tag: str) -> str:
        _, _, rest = page.partition(f"<{tag}>")
        body = rest.partition(f"</{tag}>")[0].encode()
        return f"'sha256-{b64encode(sha256(body).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {digest('style')}; script-src {digest('script')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _full() -> Reject:
    return Reject(503, "Too many topics.\n", [("Retry-After", "5")])


class Broadcast:
    """The callables that `serve` wants: `admit`, `handle` and `http`.

    Args:
        hub: where the topics live.
        history: how many past messages a newcomer gets.
        echo: whether a sender gets its own messages.
        gate: who may publish by POST; None for nobody.

    Attributes:
        server: whose health and numbers `http` tells; set it once it is started.
    """

    server: Server

    def __init__(self, hub: Hub, *, history: int, echo: bool, gate: Gate | None = None) -> None:
        self._hub = hub
        self._gate = gate
        self._history = history
        self._retain = Retain(max_messages=max(history, Retain().max_messages))
        self._echo = echo
        page = files(__package__).joinpath("_page.html").read_text("utf-8")
        if not echo:
            # Or it would wait for what it sent to come back.
            page = page.replace('data-echo="yes"', 'data-echo="no"')
        self._page = page.encode()
        self._headers = (*_PAGE_HEADERS, ("Content-Security-Policy", _policy(page)))

    async def admit(self, request: Request) -> Accept:
        """Find the topic of a path, or refuse it."""
        try:
            return Accept(user=self._topic(request))
        except HubFull:
            raise _full() from None

    def _topic(self, request: Request) -> Topic:
        if request.path in _TAKEN:
            raise Reject(404, f"{request.path} is not a topic.\n")
        name = request.path.removeprefix("/")
        if len(name.encode()) > MAX_TOPIC_BYTES:
            raise Reject(414, f"A topic's name has at most {MAX_TOPIC_BYTES} bytes.\n")
        return self._hub.topic(name, retain=self._retain)

    async def handle(self, connection: Connection) -> None:
        topic: Topic = connection.user
        skip = None if self._echo else connection
        try:
            with topic.subscribe(connection, history=self._history):
                async for message in connection:
                    topic.publish(message, skip)
        except HubFull:
            # Others made topics between the request and now; or this peer has left, and with
            # it the topic, while its last messages were still to be read.
            await connection.aclose(CloseCode.TRY_AGAIN_LATER, "too many topics")

    async def http(self, request: Request) -> Response:
        if request.method == "POST" and self._gate is not None and request.path not in _TAKEN:
            await self._gate.check(request)
            try:
                return await publish_posted(request, self._topic(request))
            except HubFull:
                raise _full() from None
        if request.method not in ("GET", "HEAD"):
            return Response(405, "only GET and HEAD are answered\n", [ALLOW])
        if request.path not in _TAKEN and wants_events(request):
            return event_stream(request, self._topic(request), history=self._history)
        match request.path:
            case "/healthz":
                draining = self.server.draining
                return Response(503, "draining\n") if draining else Response(200, "ok\n")
            case "/stats":
                body = json.dumps(asdict(self.server.statistics()), indent=2) + "\n"
                return Response(200, body, [("Content-Type", "application/json")])
            case "/metrics":
                return Response(404, "not here: see --metrics\n")
            case _:
                return Response(200, self._page, self._headers)
