"""One topic, as a client follows it over all connections: its state, its position, its buffer.

    state        what ends it
    ────────────────────────────────────────────────────────────────────────────
    WAITING      there is a connection, and a token: ASKED
    ASKED        the reply: SUBSCRIBED; an error, or the connection's end: WAITING
    SUBSCRIBED   the connection's end, or the server's word: WAITING; no room: FULL
    FULL         half of the buffer was read: WAITING.  It also takes the place of WAITING while
                 there is no room for more
    OVER         for good: refused, unsubscribed, the client's end, or that of the block

NOTE: Publications count only while SUBSCRIBED: in any other state they are those of an earlier
subscription, or will come again, since the position does not move.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._centrifuge import _schema as wire
from .._centrifuge._codes import UnsubscribeCode, resubscribes
from .._centrifuge._replies import Join, Leave, Push, Unsubscribe
from .._errors import Gap, Unsubscribed
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
from ._place import beginning
from ._token import Token, renewal

# A server that ends a subscription sooner than this is not asked again at once.
_STABLE_SECONDS: Final = 5.0


class State(Enum):
    """See the table."""

    WAITING = auto()
    ASKED = auto()
    SUBSCRIBED = auto()
    FULL = auto()
    OVER = auto()


class Following(Waitable):
    """A topic that is followed.

    Attributes:
        topic: its name.
        items: what was received and not read, each with where it leads.
        start: behind what the program has before the first item.
        received: behind the last publication that was received.
        is_invalid: the server has said that positions of before are no good.
        is_sent_away: the server has ended the subscription for a while, right behind its beginning.
        line: the connection on which it is subscribed, or was.
        renew_at: when its token is to be renewed.
        end: makes the error that says why this is over.
    """

    def __init__(
        self,
        topic: str,
        *,
        since: Position | None,
        token: Token,
        events: bool,
        max_messages: int,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.items: deque[tuple[Item, Position | None]] = deque()
        self.start = self.received = since
        self.is_invalid = self.is_sent_away = False
        self.line: Line | None = None
        self.renew_at = math.inf
        self.end: Callable[[], Exception] | None = None
        self.state = State.WAITING
        self.events = events
        self._token = token
        self._max_messages = max_messages
        # One publication fits behind each beginning, whatever that took itself: otherwise a small
        # buffer would get no further, from one beginning to the next.
        self._is_fresh = False
        # Whether something may be missing if the next subscription does not recover.
        self._has_begun = since is not None
        self._begun_at = -math.inf

    # An item belongs to whoever takes it, or stays.
    @enable_ki_protection
    def take(self) -> tuple[Item, Position | None]:
        """Take the first item."""
        taken = self.items.popleft()
        if self.state is State.FULL and len(self.items) <= self._max_messages // 2:
            self._move(State.WAITING)
        return taken

    async def wait_settled(self) -> None:
        """Wait until the server has answered, on this connection, unless the buffer is full."""
        while self.state in (State.WAITING, State.ASKED):
            await self.wait_change()

    def check(self) -> None:
        """Raise what has ended this, if something has."""
        if self.end is not None:
            raise self.end()

    # What the upkeep does.

    def ask(self, line: Line) -> wire.SubscribeRequest:
        """Subscribe on *line*: what that takes, but for token and data."""
        self.line = line
        self._move(State.ASKED)
        since = None if self.is_invalid else self.received
        return wire.SubscribeRequest(
            topic=self.topic,
            recover=since is not None,
            epoch="" if since is None else since.epoch,
            offset=0 if since is None else since.offset,
            positioned=True,
            recoverable=True,
            join_leave=self.events,
        )

    def try_again(self) -> None:
        """The subscription is over, for now.  What comes with the next one needs room, too."""
        is_full = len(self.items) >= self._max_messages
        self._move(State.FULL if is_full else State.WAITING)

    def expires(self, line: Line, ttl: int | None) -> None:
        """The token is good for *ttl* seconds on *line*; None: for ever."""
        if self.line is line:
            self.renew_at = renewal(ttl)

    def _move(self, state: State) -> None:
        if self.state is not State.OVER:
            self.state = state
        self.changed()

    # What the server says, in its order.  An interrupt in the middle would lose some of it.

    @enable_ki_protection
    def begin(
        self, line: Line, request: wire.SubscribeRequest, result: wire.SubscribeResult
    ) -> None:
        """The server has subscribed this."""
        if self.state is not State.ASKED or self.line is not line:
            return
        since = self.received
        self.received, recovered = beginning(since if request.recover else None, request, result)
        if not self._has_begun:
            self.start = self.received
        if self._has_begun and not recovered:
            self._put(Gap(self.topic, since, self.received))
        if self.events:
            data = value_of(line.codec, result.data)
            self._put(Subscribed(recovered or not self._has_begun, self.received, data))
        self._has_begun, self.is_invalid = True, False
        self._begun_at = trio.current_time()
        self._is_fresh = True
        self.expires(line, result.ttl if result.expires else None)
        self._move(State.SUBSCRIBED)
        for publication in result.publications:
            self._publish(line, publication)

    @enable_ki_protection
    def hear(self, line: Line, push: Push) -> None:
        """Something has happened to the topic."""
        if self.state is not State.SUBSCRIBED or self.line is not line:
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
        if self.state is not State.SUBSCRIBED:
            return
        received, offset = self.received, publication.offset
        has_room = self._is_fresh or len(self.items) < self._max_messages
        if received is not None and offset:
            if offset <= received.offset:
                return
            if has_room:
                self.received = Position(received.epoch, offset)
        if has_room:
            self._is_fresh = False
            self._put(publication_of(line.codec, publication))
        else:
            line.tell(wire.UnsubscribeRequest(topic=self.topic))
            self._move(State.FULL)

    def _tell(self, item: Joined | Left) -> None:
        if self.events and len(self.items) < self._max_messages:
            self._put(item)

    def _put(self, item: Item) -> None:
        self.items.append((item, self.received))
        self.changed()

    def _unsubscribed(self, code: int, reason: str) -> None:
        if not resubscribes(code):
            self.finish(lambda: Unsubscribed(code, reason))
            return
        self.is_sent_away = trio.current_time() < self._begun_at + _STABLE_SECONDS
        if code == UnsubscribeCode.EXPIRED:
            self._token.drop()
        if code == UnsubscribeCode.STATE_INVALIDATED:
            self.is_invalid = True
        self.try_again()

    @enable_ki_protection
    def lose(self, *, is_invalid: bool) -> None:
        """The connection is over.  Args: is_invalid: and the positions that it gave, too."""
        self.is_invalid = self.is_invalid or is_invalid
        self.renew_at = math.inf
        if self.state in (State.ASKED, State.SUBSCRIBED):
            self.try_again()

    @enable_ki_protection
    def leave(self) -> None:
        """The block is over."""
        line = self.line
        if line is not None and self.state in (State.ASKED, State.SUBSCRIBED):
            line.tell(wire.UnsubscribeRequest(topic=self.topic))
        self.finish(StopAsyncIteration)

    @enable_ki_protection
    def finish(self, end: Callable[[], Exception]) -> None:
        """This is over, and *end* makes the error that says why."""
        if self.end is None:
            self.end = end
        self._move(State.OVER)
