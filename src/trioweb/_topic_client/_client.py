"""The topic client, as users hold it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, overload

import trio

from .._arguments import check_kind, is_count
from .._centrifuge import _schema as wire
from .._centrifuge._codes import ErrorCode
from .._centrifuge._values import payload_of
from .._chance import random_bytes
from .._client import Client
from .._errors import Refused
from .._link import State
from .._nursery import open_hidden_nursery, protected_block
from .._topics import Position
from . import _requests as requests
from ._following import Following
from ._granted_stream import ServerSubscriptions
from ._items import (
    Item,
    MemberInfo,
    PresenceStatistics,
    ServerItem,
    TopicHistory,
    TopicPublication,
)
from ._messages import ServerMessages
from ._requests import check_position, check_value
from ._session import Session
from ._subscription import TopicSubscription
from ._token import Token, TokenArgument
from ._upkeep import Upkeep


class TopicClient:
    """A client of a topic server, over all its connections.  `open_topic_client` makes one.

    What it is asked for while there is no connection waits for one.  A server that does not
    answer within `Limits.connect_timeout` is left for the next connection.
    """

    def __init__(self, client: Client, session: Session, timeout: float) -> None:
        self._client = client
        self._session = session
        self._timeout = timeout
        # Nobody else has the same keys, even where the server takes many for one user.
        self._name = random_bytes(12).hex()
        self._keys = itertools.count(1)

    def __repr__(self) -> str:
        return f"<TopicClient {self.id!r}: {self.state.name.lower()}>"

    @property
    def id(self) -> str:
        """What the server calls this client on its present connection; "" without one."""
        line = self._session.line
        return "" if line is None else line.client

    @property
    def state(self) -> State:
        """CONNECTING while there is no connection but one is tried for, OPEN, CLOSING, and
        CLOSED when there will be no other."""
        state = self._client.state
        return State.CONNECTING if state is State.OPEN and self._session.line is None else state

    @property
    def last_error(self) -> Exception | None:
        """What ended the last attempt to connect, or the connection; None before."""
        return self._client.last_error

    async def wait_open(self) -> None:
        """Wait until there is a connection, on which the server has let this client in.

        Raises:
            GaveUp, ClosedLocally: there will be none.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        await self._session.line_for()

    @overload
    def subscription(
        self,
        topic: str,
        *,
        since: Position | tuple[str, int] | None = None,
        token: TokenArgument = None,
        data: Any = None,
        events: Literal[False] = False,
        max_messages: int = 256,
    ) -> AbstractAsyncContextManager[TopicSubscription[TopicPublication]]: ...

    @overload
    def subscription(
        self,
        topic: str,
        *,
        since: Position | tuple[str, int] | None = None,
        token: TokenArgument = None,
        data: Any = None,
        events: bool,
        max_messages: int = 256,
    ) -> AbstractAsyncContextManager[TopicSubscription[Item]]: ...

    @protected_block
    async def subscription(
        self,
        topic: str,
        *,
        since: Position | tuple[str, int] | None = None,
        token: TokenArgument = None,
        data: Any = None,
        events: bool = False,
        max_messages: int = 256,
    ) -> AsyncGenerator[TopicSubscription[Any]]:
        """Follow *topic* for the length of the block, over all connections.

        The block begins once the server has subscribed this client.  What is missed without a
        connection is recovered when there is one again; what cannot be is told, as Gap.

        A program that reads too slowly stops neither the connection nor other topics: when
        *max_messages* wait, this is unsubscribed, and when half of them were read, subscribed
        again and recovered.  In between, a server that asks for that refuses what needs a
        subscription (103), as publishing.  In a topic without positions that costs a Gap.

        Args:
            since: (epoch, offset) of the last publication that the program has, as
                `TopicSubscription.position` had it.
            token: for this topic, or an async callable that makes one: it is asked for again
                when the token has expired, and before that does.
            data: said along with it.
            events: also give Gap, Subscribed, Joined and Left, in their place among the
                publications.
            max_messages: how many may wait to be read.

        Yields:
            The TopicSubscription.  Leaving the block unsubscribes.

        Raises:
            Refused: the server does not let this client subscribe; 105: it has a subscription of
                that topic.
            Unsubscribed: the server took it back before the block began.
            GaveUp, ClosedLocally: there will be no connection.
            TypeError, ValueError: an argument cannot work.
            What *token* raises, unless that is passing: then it is asked again.

        Cancellation: unsubscribes, as leaving the block does.
        """
        check_kind("subscription", "topic", topic, str)
        check_kind("subscription", "events", events, bool)
        if not topic:
            raise ValueError("subscription(topic=''): a topic has a name")
        if not is_count(max_messages, least=1):
            raise ValueError(f"subscription(max_messages={max_messages!r}): must be 1 or more")
        position = check_position("subscription", since)
        check_value(data)
        session = self._session
        of_topic = Token("subscription", token, self._timeout)
        following = Following(
            topic, since=position, token=of_topic, events=events, max_messages=max_messages
        )
        session.check_open()
        if topic in session.following:
            raise Refused(ErrorCode.ALREADY_SUBSCRIBED, ErrorCode.ALREADY_SUBSCRIBED.message)
        session.following[topic] = following
        try:
            async with open_hidden_nursery() as nursery:
                nursery.start_soon(Upkeep(session, following, of_topic, data).run)
                await following.wait_settled()
                following.check()
                yield TopicSubscription(following)
        finally:
            following.leave()
            del session.following[topic]

    async def publish(self, topic: str, data: Any) -> None:
        """Publish *data* and wait until the server has.

        A server of trioweb publishes it once, however often the connection is lost meanwhile, as
        long as fewer than its `Retain` keeps are published between two attempts, and it is not
        started anew.  To any other it is sent once.

        Args:
            data: what JSON has, or bytes.

        Raises:
            Refused: the server has said no.
            ConnectionClosed: the connection was lost, and this server would not know a second
                attempt for one: nobody knows whether it was published.
            GaveUp, ClosedLocally: there will be no connection.
            TypeError, ValueError: *data* cannot be said in JSON.

        Cancellation: it may have been published.  Checkpoint: always.
        """
        check_kind("publish", "topic", topic, str)
        check_value(data)
        await requests.publish(self._session, topic, data, key=f"{self._name}-{next(self._keys)}")

    async def call(self, method: str, data: Any = None) -> Any:
        """Have the server do something, and return what comes of it.

        The deadline is that of the cancel scopes around this; a server of trioweb keeps it, too,
        and stops when the caller is cancelled.  It is sent once.

        Raises:
            Refused: the server has said no.
            ConnectionClosed: the connection was lost: nobody knows what was done.
            GaveUp, ClosedLocally: there will be no connection.
            TypeError, ValueError: *data* cannot be said in JSON.

        Cancellation: it may have been done.  Checkpoint: always.
        """
        check_kind("call", "method", method, str)
        check_value(data)
        return await requests.call(self._session, method, data)

    async def send(self, data: Any) -> None:
        """Send *data* outside of all topics, once.  There is no answer.

        Many servers have no use for that, and send a client away for good that does so (3508).

        Raises:
            ConnectionClosed: the connection was lost; nothing was sent.
            GaveUp, ClosedLocally: there will be no connection.
            TypeError, ValueError: *data* cannot be said in JSON.

        Cancellation: a cancelled `send` has sent nothing.  Checkpoint: a cancellation point
        always; lets others run whenever it waits and every 16 messages.
        """
        check_value(data)
        line = await self._session.line_for()
        await line.send(wire.SendRequest(data=payload_of(line.codec, data)))

    def messages(self, *, max_messages: int = 256) -> ServerMessages:
        """A stream of what the server sends outside of all topics, from now on.

        Args:
            max_messages: so many wait to be read; further ones push out the oldest, which Lagged
                tells.

        Raises:
            ValueError: *max_messages* is no number from 1 on.
            GaveUp, ClosedLocally: the client is over.
        """
        if not is_count(max_messages, least=1):
            raise ValueError(f"messages(max_messages={max_messages!r}): must be 1 or more")
        self._session.check_open()
        stream = ServerMessages(max_messages)
        self._session.streams.add(stream)
        return stream

    @overload
    def server_subscriptions(
        self, *, events: Literal[False] = False, max_messages: int = 256
    ) -> ServerSubscriptions[TopicPublication]: ...

    @overload
    def server_subscriptions(
        self, *, events: bool, max_messages: int = 256
    ) -> ServerSubscriptions[ServerItem]: ...

    def server_subscriptions(
        self, *, events: bool = False, max_messages: int = 256
    ) -> ServerSubscriptions[Any]:
        """A stream of topics to which the server subscribes this client by itself, from now on.

        Which these are, the server decides: a program may be followed by what concerns its user
        without knowing any name.  What is missed without a connection is recovered when there is
        one again and the server has subscribed the client to the topic again; what cannot be is
        told, as Gap.  Made before the first await in the client's block, the stream has all there
        is from the first connection on.

        Args:
            events: also give Gap, Subscribed, Unsubscribed, Joined and Left, in their place among
                the publications.  But for Gap, none of these is given that finds no room.
            max_messages: how many may wait to be read.  Publications for which there is no room
                are dropped, which Gap tells: the server cannot be asked for them again without a
                new connection.

        Raises:
            GaveUp, ClosedLocally: there will be no connection.
            TypeError, ValueError: an argument cannot work.
        """
        check_kind("server_subscriptions", "events", events, bool)
        if not is_count(max_messages, least=1):
            raise ValueError(
                f"server_subscriptions(max_messages={max_messages!r}): must be 1 or more"
            )
        self._session.check_open()
        stream: ServerSubscriptions[Any] = ServerSubscriptions(max_messages, events=events)
        self._session.granted.streams.add(stream)
        return stream

    async def history(
        self,
        topic: str,
        *,
        limit: int = -1,
        since: Position | tuple[str, int] | None = None,
        reverse: bool = False,
    ) -> TopicHistory:
        """Ask for what *topic* retains.

        Args:
            limit: at most so many publications; 0 for the position alone, -1 for as many as the
                server gives at one time.
            since: behind which publication to begin; with *reverse* in front of which.
            reverse: the newest first.

        Raises:
            Refused: the server has said no; 112: *since* is of another life of the topic.
            GaveUp, ClosedLocally: there will be no connection.

        Cancellation, Checkpoint: always, and nothing is lost.
        """
        check_kind("history", "topic", topic, str)
        position = check_position("history", since)
        check_kind("history", "limit", limit, int)
        if not -(2**31) <= limit < 2**31:
            raise ValueError(f"history(limit={limit!r}): must be a number of 32 bits")
        return await requests.history(self._session, topic, limit, position, reverse=bool(reverse))

    async def presence(self, topic: str) -> dict[str, MemberInfo]:
        """Ask who is subscribed to *topic*, by client.

        Raises, Cancellation, Checkpoint: as `history`.
        """
        check_kind("presence", "topic", topic, str)
        return await requests.presence(self._session, topic)

    async def presence_stats(self, topic: str) -> PresenceStatistics:
        """Ask how many are subscribed to *topic*.

        Raises, Cancellation, Checkpoint: as `history`.
        """
        check_kind("presence_stats", "topic", topic, str)
        return await requests.presence_stats(self._session, topic)
