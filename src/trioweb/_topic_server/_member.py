"""A member: one peer of a topic server, as the program holds it, and what is written to it.

What a peer asks for is `_session`'s.  NOTE: What is written goes out in the order written, and a
subscription begins where the reply to it says, because no await lies between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_kind
from .._callbacks import awaitable
from .._centrifuge import Codec
from .._centrifuge._codes import (
    DisconnectCode,
    UnsubscribeCode,
    close_reason,
    is_applications_unsubscribe,
)
from .._centrifuge._replies import Event, Push, Reply, ServerMessage, Subscribe, Unsubscribe
from .._centrifuge._schema import SubscribeRequest
from .._centrifuge._values import payload_of
from .._chance import random_bytes
from .._connection import Connection
from .._protocol._frames import encode_message
from .._refusals import Dismiss
from .._topics import Subscription, Topic
from ._calls import Calls
from ._due import Due
from ._outcalls import Outcalls
from ._seat import Seat

if TYPE_CHECKING:
    from ._server import TopicServer


class Member:
    """One peer of a topic server, on one connection.

    The server's callbacks get one; `TopicServer.members` has all.

    Attributes:
        connection: its WebSocket.
        client: a random string that no other member has.
        user: as `Welcome.user`; "" before `on_connect` has answered.
        info: as `Welcome.info`.
    """

    __slots__ = (
        "_asking",
        "_calls",
        "_codec",
        "_due",
        "_is_anonymous",
        "_is_extended",
        "_is_over",
        "_is_pinged",
        "_is_welcome",
        "_outcalls",
        "_seats",
        "_server",
        "client",
        "connection",
        "info",
        "user",
    )

    def __init__(self, server: TopicServer, connection: Connection, codec: Codec) -> None:
        self.connection = connection
        self.client = random_bytes(16).hex()
        self.user = ""
        self.info: Any = None
        self._server = server
        self._codec = codec
        self._seats: dict[str, Seat] = {}
        # Made when first needed: most members never call, and are never called.
        self._calls: Calls | None = None
        self._outcalls: Outcalls | None = None
        self._asking: set[trio.CancelScope] | None = None
        self._is_welcome = False
        self._is_anonymous = False
        self._is_extended = False
        self._is_over = False
        # Otherwise by ping frames alone, for people at a terminal.
        self._is_pinged = True
        self._due = Due(self)

    def __repr__(self) -> str:
        return f"<Member {self.client} of {self.connection!r}>"

    @property
    def topics(self) -> tuple[str, ...]:
        """The names of the topics to which it is subscribed."""
        return tuple(seat.name for seat in self._seats.values() if seat.subscription is not None)

    async def subscribe(self, topic: str) -> None:
        """Subscribe the member to *topic*, which the rules need not allow; it is told.

        Nothing happens if it is subscribed already.

        Raises:
            ValueError: there are no rules for a topic of that name.
            ConnectionClosed: it is gone.
            HubFull: there is no room for the topic.

        Cancellation: it was not subscribed.  Checkpoint: always.
        """
        self._check_welcome()
        seat = self._server._new_seat(topic)
        if topic in self._seats:
            await trio.lowlevel.checkpoint()
            return
        self._seats[topic] = seat
        try:
            link = self.connection.link
            await trio.lowlevel.checkpoint()
            await self._load(self._server._topic(topic, seat.rules))
            await link.queue.wait_room()
            link.check_writable()
            if self._seats.get(topic) is not seat:
                return  # it was unsubscribed meanwhile
            told = seat.take(self, SubscribeRequest(topic=topic))
        except BaseException:
            self._drop(seat)
            raise
        event = Subscribe(
            recoverable=told.recoverable,
            epoch=told.epoch,
            offset=told.offset,
            positioned=told.positioned,
        )
        self._push(topic, event)

    def unsubscribe(
        self,
        topic: str,
        code: int = UnsubscribeCode.SERVER,
        reason: str = UnsubscribeCode.SERVER.reason,
    ) -> None:
        """End the member's subscription to *topic*; nothing if there is none.

        Args:
            code: 2000 to 2499: it is over; 2500 to 2999: the client subscribes again, with its
                position.  2500 to 2502 are the protocol's own; otherwise take yours from what is
                not below 2600 or above 2499.
            reason: for people.

        Raises:
            ValueError: another *code*.

        Checkpoint: never.
        """
        if not is_applications_unsubscribe(code) and code not in set(UnsubscribeCode):
            raise ValueError(f"unsubscribe(code={code!r}): must be 2000 to 2499 or 2600 to 2999")
        check_kind("unsubscribe", "reason", reason, str)
        seat = self._seats.get(topic)
        if seat is not None:
            self._drop(seat)
            self._push(topic, Unsubscribe(code=code, reason=reason))

    async def send(self, data: Any) -> None:
        """Send the member a message of the program's own, outside of all topics.

        Args:
            data: anything that is JSON, or bytes.

        Raises:
            ConnectionClosed: it is gone.
            TypeError, ValueError: *data* cannot be said in JSON.

        Cancellation: nothing was sent.  Checkpoint: as `Connection.send`.
        """
        self._check_welcome()
        event = ServerMessage(data=payload_of(self._codec, data))
        await self.connection.send(self._codec.encode(Reply(push=Push.of(event))))

    async def call(self, method: str, data: Any = None) -> Any:
        """Call *method* of the client's, and wait for what it returns.

        Only clients of trioweb's own can be called.

        Raises:
            Refused: it could not, or would not; 104 for a method that it does not have, 108 for a
                client that cannot be called.
            ConnectionClosed: it was gone before it had answered.

        Cancellation: the client may have been called, and is not told.  Checkpoint: always.
        """
        self._check_welcome()
        if self._outcalls is None:
            self._outcalls = Outcalls(self)
        return await self._outcalls.call(method, data)

    def dismiss(
        self,
        code: int = DisconnectCode.FORCE_DISCONNECT,
        reason: str = "",
    ) -> None:
        """Close the member's connection.  Idempotent.

        Args:
            code: from 3000 on; whether the client comes back depends on it: it does for 3000 to
                3499 and 4000 to 4499.  4000 to 4999 are for applications.
            reason: by default the code's own.

        Raises:
            ValueError: another *code*.

        Checkpoint: never.
        """
        self._dismissed(Dismiss(code, reason))

    # What others of this package use.

    def _dismissed(self, how: Dismiss) -> None:
        self.connection.link.close(how.code, close_reason(how.code, how.reason))

    def _end(self, code: DisconnectCode) -> None:
        self._dismissed(Dismiss(code))

    def _check_welcome(self) -> None:
        """Raise unless this member has been told that it is one."""
        if not self._is_welcome:
            self.connection.link.check_writable()
            raise RuntimeError("on_connect has not answered yet: use what it returns instead")

    async def _ask(self, call: str, function: Callable[..., Any], *args: Any) -> Any:
        """What the program's *function* answers; see `awaitable`.

        It is cancelled when the connection ends, and runs no further than to its first wait where
        that has ended already.

        Raises:
            ConnectionClosed: it was cancelled.
        """
        with trio.CancelScope() as scope:
            asking = self._asking
            if asking is None:
                asking = self._asking = set()
            asking.add(scope)
            if self._is_over:
                scope.cancel()
            try:
                return await awaitable(call, function(*args))
            finally:
                asking.remove(scope)
                if not asking:
                    self._asking = None
        raise self.connection.link.error()

    async def _load(self, topic: Topic, **what: Any) -> None:
        """Have *what* is asked of *topic* in this process; see `Topic.load`.

        A broker that does not answer keeps nobody whose connection is over.

        Checkpoint: only where it is not here anyhow: a crowd that comes back has enough of them.
        """
        if topic._window is not None:
            await self._ask("load()", partial(topic.load, **what))

    def _write(self, message: str | bytes) -> None:
        """Write *message* now, behind all that was written before.

        NOTE: What a peer that does not read can make long waits for room first.
        """
        link = self.connection.link
        link.check_writable()
        link.queue.write(encode_message(message, link.form))

    def _push(self, topic: str, event: Event) -> None:
        """Write what has happened to *topic*, which is short."""
        link = self.connection.link
        if link.is_whole:
            self._write(self._codec.encode(Reply(push=Push.of(event, topic))))

    @enable_ki_protection
    def _drop(self, seat: Seat) -> None:
        """*seat* is over."""
        seat.leave(self)
        if self._seats.get(seat.name) is seat:
            del self._seats[seat.name]

    def _lose_track(self, subscription: Subscription) -> None:
        """See `Holder`."""
        seat = self._seats.get(subscription.topic.name)
        if seat is None or seat.subscription is not subscription:
            return  # it has been left meanwhile
        if seat.is_programs:
            # The client cannot subscribe again.
            self._end(DisconnectCode.INSUFFICIENT_STATE)
        else:
            code = UnsubscribeCode.INSUFFICIENT_STATE
            self.unsubscribe(seat.name, code, code.reason)

    def _begin(self, ttl: float | None) -> None:
        """This is a member from now on."""
        self._is_welcome = True
        self._server._members[self.client] = self
        self._due.begin(ttl)

    # Of what is left behind, nothing may be.
    @enable_ki_protection
    def _on_closed(self) -> None:
        """The connection is over, and whatever the program does for it."""
        if self._is_over:
            return
        self._is_over = True
        self._due.cancel()
        # What it was allowed to do there it may have asked for before it went.
        for seat in self._seats.values():
            seat.leave(self)
        self._server._members.pop(self.client, None)
        for scope in self._asking or ():
            scope.cancel()
        if self._calls is not None:
            self._calls.cancel_all()
        if self._outcalls is not None:
            self._outcalls.end()
