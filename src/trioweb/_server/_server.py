"""The server: accepts streams, runs a handler for each connection, drains.

NOTE: One nursery holds a server's every task: what accepts, the monitor, and for each
connection the task that runs its handler and the one that carries its link.  So nothing
that belongs to one connection may let an error out.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_kind
from .._close_codes import CloseCode
from .._connection import Connection
from .._heads import addresses
from .._heartbeat import Monitor
from .._link import State
from .._logs import log
from .._nursery import open_hidden_nursery
from .._protocol._frames import check_close
from .._protocol._http import format_address
from .._reader import Reader
from .._tls import TlsStream
from ._accepting import accept_streams, has_waiting
from ._counts import Counts, ServerStatistics
from ._deciding import Judge
from ._drain import Stop, say_good_bye
from ._front import bound_kernel_queue
from ._handling import Handling
from ._opening import Opening
from ._places import Places
from ._proxies import Visitor
from ._settings import Settings

_logger = logging.getLogger("trioweb.server")

# So many may wait at a listener for being accepted, when it is to be closed: more than a server's
# backlog, and less than what a turn may take where none can be accepted.
_WAITING_ACCEPTS: Final = 1000


class Server:
    """A running server, as `nursery.start(serve, …)` returns it.

    Attributes:
        listeners: what it accepts from.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        nursery: trio.Nursery,
        reader: Reader | None,
    ) -> None:
        self.listeners = list(listeners)
        self._settings = settings
        self._nursery = nursery
        self._reader = reader
        # What whoever comes from now on is shown.
        self._ssl_context = settings.ssl_context
        heartbeat = settings.heartbeat
        self._monitor = (
            Monitor(heartbeat, observer=settings.observer) if heartbeat is not None else None
        )
        self._counts = Counts()
        self._places = Places(
            settings.limits, settings.proxies, has_spares=settings.http is not None
        )
        self._stop = Stop()
        self._opening = Opening(
            settings,
            Judge(settings, self._counts, self._stop),
            self._places,
            self._counts,
            self._stop,
            spawn=nursery.start_soon,
            reader=reader,
        )
        self._handling = Handling(settings, self._monitor, self._places, self._counts, self._stop)
        self._drained = trio.Event()
        # No new stream is to be accepted, and none is any more.
        self._accepting_ends = trio.Event()
        self._accepting_ended = trio.Event()

    @property
    def draining(self) -> bool:
        """Whether `drain` was called, and new connections are refused since; with
        `drain(handover=True)` nobody is."""
        return self._stop.is_refusing

    @property
    def port(self) -> int:
        """The port of the first listener that has one.

        Raises:
            LookupError: no listener has.
        """
        for listener in self.listeners:
            inner = getattr(listener, "transport_listener", listener)
            socket = getattr(inner, "socket", None)
            name = None if socket is None else socket.getsockname()
            if isinstance(name, tuple):
                return int(name[1])
        raise LookupError("no listener has a port")

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open, at any time: `len` and `in` cost the same however many
        there are, and iterating goes over those that there were when it began.

        One whose peer has gone is none, even if its handler runs on.
        """
        return self._places.connections

    def statistics(self) -> ServerStatistics:
        """What the server has been through, up to now, with its hub's numbers if it has one."""
        hub = self._settings.hub
        return self._counts.told(
            connections=self._places.opened,
            opening=self._places.opening,
            hub=None if hub is None else hub.statistics(),
        )

    async def drain(
        self,
        grace: float = 10,
        spread: float = 0,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "",
        *,
        handover: bool = False,
    ) -> None:
        """Stop softly: no new connections, tell the old ones to come back later, wait, close.

        Every connection is sent Close as soon as it has got what its topics had published by then,
        which is at once for all that keep up.  Then its handler may end.  What of all that has not
        ended after *grace*, subscribers that lag, handlers, requests and closing handshakes, is
        cut off.  Then this returns, and `serve` a moment later, when all is closed and counted.

        Upgrades are answered with 503 from now on.  The listeners stay open until the end,
        so that a load balancer which asks for its health page is told, and a client that
        comes back too early gets an answer.

        Args:
            grace: seconds that the whole stop may take.  10, after which container runtimes kill:
                a program that they stop needs something less.
            spread: seconds of these over which the Closes are spread evenly, so that clients do
                not all come back at once.
            code, reason: of the Close; 1012 says "service restart".
            handover: another process accepts from now on.  The listeners are closed first, and
                nobody is refused: who was accepted before is answered as ever, with the 101 and
                then with Close, and whoever has not asked yet may do so for as long as the grace
                lasts.

        Raises:
            TypeError, ValueError: an argument cannot work; nothing was begun.

        Cancellation: the server stops at once, with what Closes the kernel takes.
        Concurrency: a second call waits for the first.
        """
        check_close(code, reason)
        for name, value in (("grace", grace), ("spread", spread)):
            check_kind("drain", name, value, int, float)
            if not value >= 0:
                raise ValueError(f"drain({name}={value!r}): must not be negative")
        if spread > grace:
            raise ValueError(f"drain(spread={spread!r}): must not be more than grace={grace!r}")
        check_kind("drain", "handover", handover, bool)
        if self._stop.farewell is not None:
            await self._drained.wait()
            return
        # One whose handshake ends only now is told at once.
        self._stop.begin((code, reason), is_refusing=not handover)
        try:
            with trio.move_on_after(grace):
                await self._drain(spread, handover=handover)
            # Those who still lag get no more, but are told why if they read at all.
            await say_good_bye(tuple(self.connections), None, 0, code, reason)
        finally:
            self._accepting_ends.set()
            self._drained.set()

    async def _drain(self, spread: float, *, handover: bool) -> None:
        self._places.dismiss_idle()
        if handover:
            await self._stop_accepting()
        assert self._stop.farewell is not None
        everybody = tuple(self.connections)
        await say_good_bye(everybody, self._settings.hub, spread, *self._stop.farewell)
        # A peer that was silent so far, as a browser's spare connection is, would have to be
        # refused anyway, unless nobody is.
        await self._places.wait_left(with_undecided=handover)

    async def _stop_accepting(self) -> None:
        """Close the listeners, once those are accepted who wait there already."""
        for _ in range(_WAITING_ACCEPTS):
            if not any(map(has_waiting, self.listeners)):
                break
            await trio.lowlevel.checkpoint()
        self._accepting_ends.set()
        await self._accepting_ended.wait()

    async def _serve(self, task_status: trio.TaskStatus[Server]) -> None:
        if self._monitor is not None:
            self._nursery.start_soon(self._monitor.run)
        if self._reader is not None:
            self._nursery.start_soon(self._reader.run)
        async with open_hidden_nursery() as accepting:
            for listener in self.listeners:
                accepting.start_soon(accept_streams, listener, self._run, self._nursery)
            task_status.started(self)
            await self._accepting_ends.wait()
        self._accepting_ended.set()
        await self._drained.wait()

    # It closes the stream, in the end.  The callables of the user's are interrupted as ever.
    @enable_ki_protection
    async def _run(self, stream: trio.abc.Stream) -> None:
        """One accepted stream, from its first byte to its last."""
        visitor: Visitor | None = None
        connection: Connection | None = None
        self._places.streams += 1
        try:
            bound_kernel_queue(stream)
            remote, local = addresses(stream)
            if self._ssl_context is not None:
                stream = TlsStream(stream, self._ssl_context, server_side=True)
            visitor = self._places.meet(remote)
            connection = await self._opening.open(stream, visitor, local)
            if connection is not None:
                await self._handling.run(connection, visitor)
        except Exception as exc:
            # Streams, and what `http` returns, are anybody's: none may end the others.
            self._counts.handler_errors += 1
            who = format_address(visitor.remote if visitor is not None else "")
            connection = visitor.connection if visitor is not None else None
            text = "unexpected error while serving %s"
            log(_logger, logging.ERROR, connection, text, who, error=exc, address=who or None)
        finally:
            self._places.leave(visitor)
            # A connection that is over has closed its stream.
            if connection is None or connection.state is not State.CLOSED:
                # Shielded, or a cancellation would take the place of what is on its way out.
                with trio.CancelScope(shield=True), suppress(Exception):
                    await trio.aclose_forcefully(stream)
