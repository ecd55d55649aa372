"""Room: which streams and connections there are, and how many more there may be.

A stream has a place from when it is accepted until it is no more.  A connection's is free once its
transport is closed, whatever its handler does yet.  A stream that is kept alive between two
requests goes for whoever finds no room.  Knows nothing of what goes over a stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from .._connection import Connection
from .._link import Link
from .._policy import Limits, bound
from .._protocol._http import Address, Request
from ._admission import Refused
from ._proxies import Proxies, Visitor
from ._spares import Spares, asks_for_health

# To be refused over TLS, a peer must get through its handshake first.  So many times the
# limits may be there in all; whoever comes then is closed instead.
TLS_MARGIN: Final = 2

CROWDED: Final = "too many connections"


class Open(Collection[Connection]):
    """The connections that are open, at any time.

    How many there are, and whether one is among them, costs the same however many there are.  Who
    iterates gets those that were there when it began.
    """

    def __init__(self, visitors: Mapping[Link, Visitor]) -> None:
        self._visitors = visitors

    def __len__(self) -> int:
        return len(self._visitors)

    def __contains__(self, connection: object) -> bool:
        if not isinstance(connection, Connection):
            return False
        visitor = self._visitors.get(connection.link)
        return visitor is not None and visitor.connection is connection

    def __iter__(self) -> Iterator[Connection]:
        found = [visitor.connection for visitor in self._visitors.values()]
        return (connection for connection in found if connection is not None)

    def __repr__(self) -> str:
        return f"<{len(self)} open connections>"


class Places:
    """The places of one server.

    Args:
        limits: those of `max_connections` and `max_connections_per_host` are kept here.
        proxies: who says for whom a stream counts.
        has_spares: whether there are some beyond the limits, for questions after the server's
            health, and for peers that have to be told in their own way to come back.

    Attributes:
        streams: those that have a place.
        undecided: streams of which nobody knows yet what they want.
        connections: those that are open.
    """

    def __init__(self, limits: Limits, proxies: Proxies, *, has_spares: bool) -> None:
        self._limits = limits
        self._proxies = proxies
        self._has_spares = has_spares
        self.streams = 0
        self._bereft: dict[Link, Connection] = {}
        self.undecided = 0
        self._connections: dict[Link, Visitor] = {}
        self.connections: Collection[Connection] = Open(self._connections)
        self._hosts: Counter[str] = Counter()
        # Those of them that are there beyond the limit.
        self._spares = Spares()
        # Those that are kept alive, the longest idle first, and how many had to go of them that are
        # not closed yet.
        self._idle: dict[trio.CancelScope, Visitor] = {}
        self._dismissed = 0
        self._left = trio.Event()

    @property
    def carried(self) -> Collection[Connection]:
        """Those that are open, and those that have given back their places although their handlers
        run on."""
        return (*self.connections, *self._bereft.values())

    @property
    def opening(self) -> int:
        """Streams that are no connections yet, or never will be."""
        return self.streams - self.opened

    @property
    def opened(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def meet(self, remote: Address) -> Visitor:
        """Count a stream from *remote*, which has its place already, for its host, too."""
        visitor = self._proxies.meet(remote)
        self._hosts[visitor.host] += 1
        return visitor

    def move_in(self, connection: Connection, visitor: Visitor) -> None:
        """*visitor* has become *connection*."""
        visitor.connection = connection
        self._connections[connection.link] = visitor

    def let_go(self, link: Link) -> None:
        """The transport of *link* is closed: its place is free, whatever its handler does yet."""
        visitor = self._connections.pop(link, None)
        if visitor is not None:
            assert visitor.connection is not None
            self._bereft[link] = visitor.connection
            self._give_back(visitor)

    def leave(self, visitor: Visitor | None) -> None:
        """The task of a stream has come to its end."""
        if visitor is None or visitor.has_place:
            self._give_back(visitor)
        elif visitor.connection is not None:
            self._bereft.pop(visitor.connection.link, None)
        else:
            self._dismissed -= 1
        self._left.set()
        self._left = trio.Event()

    async def wait_left(self, *, with_undecided: bool) -> None:
        """Wait until there is no stream and no handler any more, but for those streams, maybe, of
        which nobody knows what they want."""
        ignored = 0 if with_undecided else self.undecided
        while self.streams + len(self._bereft) + self._dismissed > ignored:
            await self._left.wait()
            ignored = 0 if with_undecided else self.undecided

    def release(self, scope: trio.CancelScope) -> None:
        """What runs in *scope* has no use for a spare any more, if it had one."""
        self._spares.release(scope)

    def identify(self, visitor: Visitor, request: Request) -> None:
        """Count *visitor* for the host that *request* comes from, if only its proxy was known."""
        before = visitor.host
        self._proxies.identify(visitor, request)
        if visitor.host != before:
            self._forget(before)
            self._hosts[visitor.host] += 1
            if excess := self._excess_beyond_idle(visitor.host):
                raise Refused.because(excess, retry_after=5)

    @contextmanager
    def keep(self, visitor: Visitor, scope: trio.CancelScope) -> Generator[None]:
        """In the block, the stream of *visitor* is kept alive and asks for nothing.

        Args:
            scope: cancelled if its place is needed.
        """
        # What is to come over a proxy's stream may be for anybody.
        host = self._proxies.host_of(visitor.address)
        self._forget(visitor.host)
        self._hosts[host] += 1
        visitor.host = host
        self._idle[scope] = visitor
        try:
            yield
        finally:
            self._idle.pop(scope, None)

    def dismiss_idle(self) -> None:
        """Close what is kept alive."""
        for scope in tuple(self._idle):
            self._dismiss(scope)

    def _dismiss(self, scope: trio.CancelScope) -> None:
        self._dismissed += 1
        self._give_back(self._idle.pop(scope))
        scope.cancel()

    def _forget(self, host: str) -> None:
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]

    def find_room(self, scope: trio.CancelScope, host: str) -> bool:
        """See that there is room for *host*; return whether that is only one of the spares."""
        excess = self._excess_beyond_idle(host)
        if not excess:
            return False
        if not self._has_spares:
            raise Refused.because(excess, retry_after=5)
        # It may want events: then 503 would be the wrong answer, and end them for ever.
        self._spares.take(scope, host)
        return True

    def check_spare(self, scope: trio.CancelScope, host: str, request: Request) -> None:
        """Refuse *request* unless it asks for the server's health, or there is room by now."""
        excess = self.excess(host, more=1)
        if not excess:
            self._spares.release(scope)
        elif not asks_for_health(request):
            raise Refused.because(excess, retry_after=5)

    def _excess_beyond_idle(self, host: str) -> str:
        """As `excess`, once those that are kept alive have made room, the longest idle first."""
        while excess := self.excess(host):
            for scope, visitor in self._idle.items():
                if excess is CROWDED or visitor.host == host:
                    self._dismiss(scope)
                    break
            else:
                break
        return excess

    def excess(self, host: str, margin: int = 1, more: int = 0) -> str:
        """What there is too much of for *host*, at *margin* times the limits and with so many
        *more* streams; "" if nothing."""
        limits = self._limits
        streams = self.streams - len(self._spares) + more
        if streams > margin * bound(limits.max_connections):
            return CROWDED
        limit = limits.max_connections_per_host
        # A Unix socket tells nothing of its peer's host, and a trusted proxy not yet.
        if limit is None or not host:
            return ""
        if self._hosts[host] - self._spares.of(host) + more > margin * limit:
            return "too many connections from this address"
        return ""

    def _give_back(self, visitor: Visitor | None) -> None:
        """Give back the place of a stream that is no more."""
        self.streams -= 1
        if visitor is not None:
            visitor.has_place = False
            self._forget(visitor.host)
