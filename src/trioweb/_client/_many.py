"""Many connections that one block holds: one task reads for all of them, and one watches them.

A task for each would be most of what an idle connection costs.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator, Sequence

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_kind
from .._close_codes import CloseCode
from .._connection import Connection
from .._errors import ClosedLocally
from .._heartbeat import Monitor
from .._link import Link, Spawn
from .._nursery import open_hidden_nursery, protected_block
from .._policy import Deflate, Heartbeat, Limits
from .._reader import Reader, open_reader
from ._open import HeaderArgument, Offer, close_all, leave_by
from ._opener import DEFAULT_REDIRECTS, Dial, Opener
from ._proxy import ENVIRONMENT


class Connections:
    """The connections that a block holds.  `open_connections` makes one.

    Iterating gives those that have their transport, closing ones included, and `len` their number.
    """

    __slots__ = (
        "__weakref__",
        "_heartbeat",
        "_held",
        "_is_over",
        "_limits",
        "_monitor",
        "_offer",
        "_opener",
        "_reader",
        "_spawn",
    )

    def __init__(
        self,
        opener: Opener,
        offer: Offer,
        limits: Limits,
        heartbeat: Heartbeat | None,
        spawn: Spawn,
        reader: Reader | None,
        monitor: Monitor | None,
    ) -> None:
        self._opener = opener
        self._offer = offer
        self._limits = limits
        self._heartbeat = heartbeat
        self._spawn = spawn
        self._reader = reader
        self._monitor = monitor
        # Each with its number at the monitor.
        self._held: dict[Link, tuple[Connection, int]] = {}
        self._is_over = False

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Connection]:
        return iter([connection for connection, _ in self._held.values()])

    # What it opens is closed, in the end.
    @enable_ki_protection
    async def open(
        self, url: str, *, headers: HeaderArgument = (), subprotocols: Sequence[str] = ()
    ) -> Connection:
        """Connect to a WebSocket server; the connection is held until it ends or the block does.

        Args:
            url, headers, subprotocols: as for `open_connection`.

        Raises:
            TypeError, ValueError: an argument cannot work; nothing was dialled.
            ConnectFailed, HandshakeFailed, HandshakeRejected, ImportError: as `open_connection`.
            ClosedLocally: the block has been left.

        Cancellation: there is no connection.  Checkpoint: always.
        Concurrency: any number of tasks may open connections at once.
        """
        visit = self._offer.visit(url, headers, subprotocols)
        self._check_open()
        deadline = trio.current_time() + self._limits.connect_timeout
        opened = await self._opener.open(visit, deadline)
        if self._is_over:
            await trio.aclose_forcefully(opened.stream)
        self._check_open()
        connection = opened.start(self._spawn, self._heartbeat, self._limits, self._reader)
        number = 0 if self._monitor is None else self._monitor.add(connection)
        self._held[connection.link] = connection, number
        connection.link.carrier.on_let_go = self._let_go
        return connection

    def _check_open(self) -> None:
        if self._is_over:
            raise ClosedLocally(CloseCode.NORMAL, "the block of these connections was left")

    def _let_go(self, link: Link) -> None:
        """*link* has no transport any more."""
        _, number = self._held.pop(link)
        if self._monitor is not None:
            self._monitor.remove(number)

    def _stop(self) -> list[Link]:
        """Open no more; return the links of those that are there."""
        self._is_over = True
        return list(self._held)


@protected_block
async def open_connections(
    *,
    ssl_context: ssl.SSLContext | None = None,
    heartbeat: Heartbeat | None = Heartbeat(),
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    dial: Dial | None = None,
    redirects: int = DEFAULT_REDIRECTS,
    proxy: str | None = ENVIRONMENT,
    user_agent: str | None = None,
) -> AsyncGenerator[Connections]:
    """Hold any number of connections to servers for the length of the block.

    For programs that have hundreds of them: each takes a fraction of the memory that a block of
    `open_connection` takes, as one task reads for all (on Linux) and one asks for signs of life.
    None of them is opened again when it ends, as with `open_connection`.

    Args:
        ssl_context, heartbeat, limits, compression, dial, redirects, proxy, user_agent: as for
            `open_connection`; for all of them.

    Yields:
        The Connections, whose `open` opens one.  Leaving the block closes all of them at once, as
        leaving that of `open_connection` closes one.

    Raises:
        TypeError, ValueError: an argument cannot work.
        What the block raises comes out unchanged.

    Cancellation: sends Close where the kernel takes it at once, and closes the transports.
    """
    opener = Opener(
        "open_connections", ssl_context, limits, compression, dial, redirects, proxy, user_agent
    )
    check_kind("open_connections", "heartbeat", heartbeat, Heartbeat, optional=True)
    offer = Offer("open_connections", ssl_context, user_agent)
    with open_reader() as reader:
        async with open_hidden_nursery() as nursery:
            if reader is not None:
                nursery.start_soon(reader.run)
            monitor = None
            if heartbeat is not None:
                monitor = Monitor(heartbeat, keeps_alive=True)
                nursery.start_soon(monitor.run)
            connections = Connections(
                opener, offer, limits, heartbeat, nursery.start_soon, reader, monitor
            )
            try:
                yield connections
            except BaseException as exc:
                await leave_by(exc, connections._stop())
                raise
            await close_all(connections._stop(), CloseCode.NORMAL)
