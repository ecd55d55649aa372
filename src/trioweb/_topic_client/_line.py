"""One connection to a server of the protocol: commands out, replies and pushes in.

What a reply says comes true in the order in which replies and pushes arrive, so whoever has to
keep that order is called when the reply is read (`settle`), and not when a waiting task wakes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import trio

from .._centrifuge import CODECS
from .._centrifuge import _schema as wire
from .._centrifuge._commands import Command, Request
from .._centrifuge._replies import Push, Reply, Result
from .._connection import Connection
from .._errors import BadMessage, ConnectionClosed, Refused
from .._link import State
from .._policy import Message
from .._protocol._frames import encode_message
from .._refusals import TryAgain
from ._token import renewal

# The protocol's clients give a ping ten seconds beyond its interval.  The last of them is for a
# program that stood still, and has yet to read the pings that have come meanwhile.
_PING_GRACE: Final = 9.0
_SECOND_LOOK: Final = 1.0


# Of what is written without waiting, pongs and their like, so much may be unread.
_MOST_UNREAD: Final = 2**20

# What each request is answered with.  A result that has nothing to say is left out by some.
_RESULTS: Final[dict[type, type[Result]]] = {
    wire.ConnectRequest: wire.ConnectResult,
    wire.SubscribeRequest: wire.SubscribeResult,
    wire.PublishRequest: wire.PublishResult,
    wire.PresenceRequest: wire.PresenceResult,
    wire.PresenceStatsRequest: wire.PresenceStatsResult,
    wire.HistoryRequest: wire.HistoryResult,
    wire.RPCRequest: wire.RPCResult,
    wire.RefreshRequest: wire.RefreshResult,
    wire.SubRefreshRequest: wire.SubRefreshResult,
}


class _Pending:
    """Somebody who waits for the reply to *request*.

    Attributes:
        result: what the server says, or the error; None as long as it says nothing.
    """

    __slots__ = ("_kind", "_settle", "event", "result")

    def __init__(self, request: Request, settle: Callable[[Any], None] | None = None) -> None:
        self.event = trio.Event()
        self.result: Result | wire.Error | None = None
        self._kind = _RESULTS[type(request)]
        self._settle = settle

    def take(self, reply: Reply) -> None:
        if self.result is not None:
            return
        if reply.error is not None:
            self.result = reply.error
        else:
            result = reply.result
            self.result = result if isinstance(result, self._kind) else self._kind()
            if self._settle is not None:
                self._settle(self.result)
        self.event.set()

    def outcome(self) -> Any:
        """The result.

        Raises:
            Refused: it is an error.
        """
        result = self.result
        if isinstance(result, wire.Error):
            raise Refused(result.code, result.message, result.temporary)
        return result


class Line:
    """One connection.

    Args:
        timeout: seconds within which a reply comes, but for that to a call.

    Attributes:
        is_extended: the server is trioweb's: it knows the extensions.
        client: the name that the server has given this connection.
        is_over: nothing is received from it any more.
        ping_due: when the next ping must have come.
        renew_at: when its token is to be renewed.
        asked, told: where the client was in topics to which the server subscribes it, and what the
            server has said to that.
        early: what came right behind the reply to `connect`.
        work: the scopes of what is done for the server.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self.connection = connection
        self.codec = CODECS.get(connection.subprotocol or "", CODECS[""])
        self.client = ""
        self.is_extended = False
        self.is_over = False
        self.ping_due = self.renew_at = math.inf
        self.early: list[Reply] = []
        self.asked: Mapping[str, wire.SubscribeRequest] = {}
        self.told: Mapping[str, wire.SubscribeResult] = {}
        self.work: set[trio.CancelScope] = set()
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._ping = 0
        self._pongs = self._is_missed = False

    async def connect(self, request: wire.ConnectRequest) -> None:
        """Say who this is.  Nobody else reads the connection yet.

        Raises:
            Refused: the server does not want that.
            TryAgain: it does not speak the protocol.
        """
        id = next(self._ids)
        await self.connection.send(self.codec.encode(Command.of(id, request)))
        pending = _Pending(request)
        while not pending.event.is_set():
            for reply in self._decode(await self.connection.receive()):
                if pending.event.is_set():
                    self.early.append(reply)
                elif reply.id == id:
                    pending.take(reply)
        result = pending.outcome()
        self.client = result.client
        self.is_extended = bool(result.x_trioweb)
        self.asked, self.told = request.subs, result.subs
        self._ping, self._pongs = result.ping, result.pong
        self._await_ping()
        self.expires(result.ttl if result.expires else None)

    def _decode(self, message: Message) -> Iterator[Reply]:
        try:
            yield from self.codec.decode_replies(message)
        except BadMessage as exc:
            raise TryAgain(f"the server does not speak the Centrifuge protocol: {exc}") from exc

    def expires(self, ttl: int | None) -> None:
        """The token is good for *ttl* seconds from now on; None: for ever."""
        self.renew_at = renewal(ttl)

    # Commands.

    async def ask(
        self,
        request: Request,
        *,
        settle: Callable[[Any], None] | None = None,
        is_call: bool = False,
    ) -> Any:
        """Send *request* and wait for its result.

        A server that does not answer in time is left: nobody knows what it has done.

        Args:
            settle: is called with the result when that is read.
            is_call: the caller's deadline is all there is, and the server is told of its end.

        Raises:
            Refused: the server has said no.
            ConnectionClosed: the connection is over, and there was no answer.

        Cancellation: the request may have been sent.  Checkpoint: always.
        """
        id = next(self._ids)
        pending = self._pending[id] = _Pending(request, settle)
        link = self.connection.link
        try:
            with trio.move_on_after(math.inf if is_call else self._timeout):
                await self.connection.send(self.codec.encode(Command.of(id, request)))
                if not self.is_over:
                    await pending.event.wait()
            if pending.result is None and not self.is_over:
                link.abort(f"no reply within {self._timeout:g} s")
        finally:
            del self._pending[id]
            if is_call and pending.result is None and self.is_extended:
                self.write(Command.of(0, wire.CancelRequest(id)))
        if pending.result is None:
            raise link.error()
        return pending.outcome()

    async def send(self, request: Request) -> None:
        """Send *request*, which has no answer.  See `Connection.send`."""
        await self.connection.send(self.codec.encode(Command.of(0, request)))

    def tell(self, request: Request) -> None:
        """Send *request* at once, and look at no answer."""
        self.write(Command.of(next(self._ids), request))

    def write(self, command: Command) -> None:
        """Write what is short, behind all that was written before; nothing if that cannot be.

        It does not wait for room, as the task that reads must not.  A server that makes it write
        and does not read is left.
        """
        link = self.connection.link
        if link.state is State.OPEN and not self.is_over:
            try:
                link.check_writable()
            except ConnectionClosed:
                return
            if link.queue.buffered_amount > _MOST_UNREAD:
                link.abort("the server asks, and does not read the answers")
                return
            link.queue.put(encode_message(self.codec.encode(command), link.form))

    # What arrives.

    def read(self, message: Message) -> Iterator[Push]:
        """The pushes of *message*, in their places among the replies, which are given out."""
        try:
            for reply in self.codec.decode_replies(message):
                push = self.take(reply)
                if push is not None:
                    yield push
        except BadMessage as exc:
            self.connection.link.abort(f"not of the Centrifuge protocol: {exc}")

    def take(self, reply: Reply) -> Push | None:
        """Give out a reply, answer a ping, or return a push."""
        if reply.id:
            pending = self._pending.get(reply.id)
            if pending is not None:
                pending.take(reply)
            return None
        if reply.push is not None:
            return reply.push
        self._await_ping()
        if self._pongs:
            self.write(Command())
        return None

    def _await_ping(self) -> None:
        if self._ping:
            self.ping_due = trio.current_time() + self._ping + _PING_GRACE
            self._is_missed = False

    def miss_ping(self) -> None:
        """It is `ping_due`, and nothing has come."""
        if self._is_missed:
            self.ping_due = math.inf
            self.connection.link.abort("no ping from the server")
        else:
            self.ping_due = trio.current_time() + _SECOND_LOOK
            self._is_missed = True

    def end(self) -> None:
        """Nothing more arrives."""
        self.is_over = True
        for pending in self._pending.values():
            pending.event.set()
        for scope in self.work:
            scope.cancel()
