"""One topic, as a client follows it over all connections: its state, its position, its buffer.

    state        what ends it
    ────────────────────────────────────────────────────────────────────────────
    WAITING      there is a connection, and a token: ASKED
    ASKED        the reply: SUBSCRIBED; an error, or the connection's end: WAITING
    SUBSCRIBED   the connection's end, or the server's word: WAITING; no room: FULL
    FULL         half of the buffer was read: WAITING
    OVER         for good: refused, unsubscribed, the client's end, or that of the block

NOTE: Publications count only while SUBSCRIBED: in any other state they are those of an earlier
subscription, or will come again, since the position does not move.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio
from trio.lowlevel import enable_ki_protection

from .._centrifuge import _schema as wire
from .._centrifuge._codes import ErrorCode, UnsubscribeCode, is_retried, resubscribes
from .._centrifuge._replies import Join, Leave, Push, Unsubscribe
from .._centrifuge._values import optional_payload_of
from .._client import is_worth_retry
from .._errors import ConnectionClosed, Gap, Refused, Unsubscribed
from .._topics import Position
from .._waitable import Waitable
from ._items import (
    Item,
    Joined,
    Left,
    Subscribed,
    member_of,
    publication_of,
    value_of,
)
from ._line import Line
from ._token import Token, renewal

if TYPE_CHECKING:
    from ._session import Session


class State(Enum):
    WAITING = auto()
    ASKED = auto()
    SUBSCRIBED = auto()
    FULL = auto()
    OVER = auto()


_Item = TypeVar("_Item")


class TopicSubscription(Waitable, Generic[_Item]):
    """A topic that a client follows; `TopicClient.subscription` makes it.

    Iterate over it for its publications.  Where some may be missing, Gap is raised in their
    place; the next iteration goes on behind it.

    Attributes:
        topic: its name.
        position: (epoch, offset) of the last publication that was taken from it, for `since=` of
            a later program; None before the first, and in a topic without positions.
    """

    def __init__(
        self,
        session: Session,
        topic: str,
        *,
        since: Position | None,
        token: Token,
        data: Any,
        events: bool,
        max_messages: int,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.position = since
        self._session = session
        self._token = token
        self._data = data
        self._events = events
        self._max_messages = max_messages
        self._state = State.WAITING
        # Behind the last publication that was received; each item stands with where it leads.
        self._received = since
        self._items: deque[tuple[Item, Position | None]] = deque()
        # Whether something may be missing if the next subscription does not recover; and whether
        # the server has said that positions of before are no good.
        self._has_begun = since is not None
        self._is_invalid = False
        self._line: Line | None = None
        self._renew_at = math.inf
        self._failures = 0
        self._end: Callable[[], Exception] | None = None

    def __repr__(self) -> str:
        return f"<TopicSubscription {self.topic!r}: {self._state.name.lower()}>"

    # What the program does.

    def __aiter__(self) -> TopicSubscription[_Item]:
        return self

    async def __anext__(self) -> _Item:
        """Wait for the next publication (or event, with `events=True`).

        Raises:
            Gap: publications may be missing here; the next call goes on behind that.
            Refused: the server does not let the client subscribe again.
            Unsubscribed: the server has ended the subscription.
            GaveUp: the client gave up.
            StopAsyncIteration: the client, or the subscription's block, is over.
            All but Gap come once everything received before has been read, and again.

        Cancellation: a cancelled call has taken nothing.  Checkpoint: a cancellation point
        always; others run whenever it waits.
        """
        if self._items:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not self._items:
            if self._end is not None:
                raise self._end()
            await self.wait_change()
        # What may stand among the publications goes by `events`.
        item: Any
        item, self.position = self._take()
        if isinstance(item, Gap) and not self._events:
            raise item
        return cast("_Item", item)

    # An item belongs to whoever takes it, or stays.
    @enable_ki_protection
    def _take(self) -> tuple[Item, Position | None]:
        taken = self._items.popleft()
        if self._state is State.FULL and len(self._items) <= self._max_messages // 2:
            self._move(State.WAITING)
        return taken

    async def wait_settled(self) -> None:
        """Wait until the server has answered, on this connection, unless the buffer is full."""
        while self._state in (State.WAITING, State.ASKED):
            await self.wait_change()

    def check(self) -> None:
        """Raise what has ended this, if something has."""
        if self._end is not None:
            raise self._end()

    def _move(self, state: State) -> None:
        if self._state is not State.OVER:
            self._state = state
        self.changed()

    # The task.

    async def run(self) -> None:
        """Subscribe, and again, and keep the token fresh, until this is over."""
        while self._state is not State.OVER:
            if self._state is State.WAITING:
                line = await self._session.next_line()
                if line is None:
                    return
                await self._try(line)
            else:
                with trio.move_on_at(self._renew_at):
                    await self.wait_change()
                if self._state is State.SUBSCRIBED and self._renew_at <= trio.current_time():
                    await self._renew()

    async def _try(self, line: Line) -> None:
        """Subscribe, or wait until that may be tried again."""
        try:
            token = await self._token.get()
        except Exception as exc:
            if not is_worth_retry(exc):
                raise
            await self._nap()
            return
        if self._state is not State.WAITING or self._session.line is not line:
            return
        self._line = line
        request = self._request(token)
        self._move(State.ASKED)
        try:
            await line.ask(request, settle=lambda result: self._begin(line, request, result))
            self._failures = 0
        except ConnectionClosed:
            await self._session.next_line(line)
        except Refused as exc:
            await self._refused(exc)

    def _request(self, token: str) -> wire.SubscribeRequest:
        assert self._line is not None
        since = None if self._is_invalid else self._received
        return wire.SubscribeRequest(
            topic=self.topic,
            token=token,
            recover=since is not None,
            epoch="" if since is None else since.epoch,
            offset=0 if since is None else since.offset,
            data=optional_payload_of(self._line.codec, self._data),
            positioned=True,
            recoverable=True,
            join_leave=self._events,
        )

    async def _refused(self, error: Refused) -> None:
        has_expired = error.code == ErrorCode.TOKEN_EXPIRED
        if not is_retried(error.code, error.temporary) or (
            has_expired and not self._token.is_renewable
        ):
            self.finish(lambda: Refused(error.code, error.message, error.temporary))
            return
        self._move(State.WAITING)
        if has_expired:
            self._token.drop()
            if not self._failures:
                self._failures = 1
                return
        await self._nap()

    async def _nap(self) -> None:
        self._failures += 1
        with trio.move_on_after(self._session.delay(self._failures)):
            while self._state is State.WAITING:
                await self.wait_change()

    async def _renew(self) -> None:
        """Give the server a new token; what goes wrong, its own deadline for it ends."""
        line = self._line
        assert line is not None
        self._renew_at = math.inf
        if not self._token.is_renewable:
            return
        self._token.drop()
        try:
            token = await self._token.get()
            result = await line.ask(wire.SubRefreshRequest(topic=self.topic, token=token))
        except ConnectionClosed:
            return
        except Exception as exc:
            if not isinstance(exc, Refused) and not is_worth_retry(exc):
                raise
            if not isinstance(exc, Refused) or is_retried(exc.code, exc.temporary):
                self._failures += 1
                self._renew_at = trio.current_time() + self._session.delay(self._failures)
            return
        self._failures = 0
        self._expires(line, result.ttl if result.expires else None)

    def _expires(self, line: Line, ttl: int | None) -> None:
        if self._line is line:
            self._renew_at = renewal(ttl)

    # What the server says, in its order.  An interrupt in the middle would lose some of it.

    @enable_ki_protection
    def _begin(
        self, line: Line, request: wire.SubscribeRequest, result: wire.SubscribeResult
    ) -> None:
        """The server has subscribed this."""
        if self._state is not State.ASKED or self._line is not line:
            return
        has_position = result.positioned or result.recoverable
        since = self._received
        here = Position(result.epoch, result.offset)
        recovered = request.recover and (result.recovered or (has_position and since == here))
        start = Position(result.epoch, request.offset) if recovered else here
        self._received = start if has_position else None
        if self._has_begun and not recovered:
            self._put(Gap(self.topic, since, self._received))
        if self._events:
            data = value_of(line.codec, result.data)
            self._put(Subscribed(recovered or not self._has_begun, self._received, data))
        self._has_begun, self._is_invalid = True, False
        self._expires(line, result.ttl if result.expires else None)
        self._move(State.SUBSCRIBED)
        for publication in result.publications:
            self._publish(line, publication)

    @enable_ki_protection
    def hear(self, line: Line, push: Push) -> None:
        """Something has happened to the topic."""
        if self._state is not State.SUBSCRIBED or self._line is not line:
            return
        match push.event:
            case wire.Publication() as publication:
                self._publish(line, publication)
            case Join(info=wire.ClientInfo() as info):
                self._tell(Joined(member_of(line.codec, info)))
            case Leave(info=wire.ClientInfo() as info):
                self._tell(Left(member_of(line.codec, info)))
            case Unsubscribe(code=code, reason=reason):
                self._unsubscribed(code, reason)

    def _publish(self, line: Line, publication: wire.Publication) -> None:
        if self._state is not State.SUBSCRIBED:
            return
        received, offset = self._received, publication.offset
        if received is not None and offset:
            if offset <= received.offset:
                return
            if len(self._items) < self._max_messages:
                self._received = Position(received.epoch, offset)
        if len(self._items) < self._max_messages:
            self._put(publication_of(line.codec, publication))
        else:
            line.tell(wire.UnsubscribeRequest(topic=self.topic))
            self._move(State.FULL)

    def _tell(self, item: Joined | Left) -> None:
        if self._events and len(self._items) < self._max_messages:
            self._put(item)

    def _put(self, item: Item) -> None:
        self._items.append((item, self._received))
        self.changed()

    def _unsubscribed(self, code: int, reason: str) -> None:
        if not resubscribes(code):
            self.finish(lambda: Unsubscribed(code, reason))
            return
        if code == UnsubscribeCode.EXPIRED:
            self._token.drop()
        if code == UnsubscribeCode.STATE_INVALIDATED:
            self._is_invalid = True
        self._move(State.WAITING)

    @enable_ki_protection
    def lose(self, *, is_invalid: bool) -> None:
        """The connection is over.  Args: is_invalid: and the positions that it gave, too."""
        self._is_invalid = self._is_invalid or is_invalid
        self._renew_at = math.inf
        if self._state in (State.ASKED, State.SUBSCRIBED):
            self._move(State.WAITING)

    @enable_ki_protection
    def leave(self) -> None:
        """The block is over."""
        line = self._line
        if line is not None and self._state in (State.ASKED, State.SUBSCRIBED):
            line.tell(wire.UnsubscribeRequest(topic=self.topic))
        self.finish(StopAsyncIteration)

    @enable_ki_protection
    def finish(self, end: Callable[[], Exception]) -> None:
        """This is over, and *end* makes the error that says why."""
        if self._end is None:
            self._end = end
        self._move(State.OVER)
