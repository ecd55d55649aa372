"""What a topic client is over all its connections: who it is, what it follows, what it waits for.

Each connection is a Line.  There is one task that reads, and never waits for anybody but the
server; whatever it reads is given out at once.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from .._centrifuge import _schema as wire
from .._centrifuge._codes import DisconnectCode, ErrorCode, is_retried
from .._centrifuge._replies import Call, Push, ServerMessage, Subscribe
from .._centrifuge._values import optional_payload_of
from .._client import Client, Lost, Opened, is_worth_retry
from .._close_codes import CloseCode
from .._connection import Connection
from .._errors import ClosedLocally, ConnectionClosed, GaveUp, Refused, TriowebError
from .._logs import log
from .._policy import Retry
from .._refusals import TryAgain
from .._waitable import Waitable
from ._calls import ClientCall, begin
from ._following import Following
from ._granted import GrantedTopics
from ._items import value_of
from ._line import Line
from ._messages import ServerMessages
from ._token import Token

_logger: Final = logging.getLogger("trioweb.topics")

# Of so many messages, the tasks that wait for what is in them get their turn.
_MESSAGES_PER_CHECKPOINT: Final = 16
# The end of a connection for which its token, or what was received over it, is no good any more.
_TOKEN_IS_SPENT: Final = frozenset({DisconnectCode.EXPIRED, DisconnectCode.STATE_INVALIDATED})


class Session(Waitable):
    """Stands behind a TopicClient.

    Attributes:
        line: the connection that is in use; None while there is none.
        following: by topic.
        granted: the topics to which the server has subscribed the client by itself.
        streams: of messages that belong to no topic.
    """

    def __init__(
        self,
        *,
        token: Token,
        data: Any,
        calls: Mapping[str, ClientCall],
        retry: Retry,
        random: Random,
        timeout: float,
    ) -> None:
        super().__init__()
        self.line: Line | None = None
        self.following: dict[str, Following] = {}
        self.streams: weakref.WeakSet[ServerMessages] = weakref.WeakSet()
        self.granted = GrantedTopics()
        self._token = token
        self._data = data
        self._calls = calls
        self._retry = retry
        self._random = random
        self._timeout = timeout
        # The next line, between `on_open` and the news that its session has begun.
        self._opening: Line | None = None
        self._end: Callable[[], Exception] | None = None
        # Whether a program has yet to be told that the client gave up.
        self._owes = False

    # Connecting.

    async def greet(self, connection: Connection) -> None:
        """The client's `on_open`: say who this is."""
        line = Line(connection, self._timeout)
        token = await self._token.get()
        try:
            await line.connect(self._request(line, token))
        except Refused as exc:
            if exc.code != ErrorCode.TOKEN_EXPIRED or not self._token.is_renewable:
                raise _failed(exc) from exc
            self._token.drop()
            token = await self._token.get()
            try:
                await line.connect(self._request(line, token))
            except Refused as again:
                self._token.drop()
                raise _failed(again) from again
        self._opening = line

    def _request(self, line: Line, token: str) -> wire.ConnectRequest:
        data = optional_payload_of(line.codec, self._data)
        subs = self.granted.positions()
        return wire.ConnectRequest(token=token, data=data, subs=subs, name="trioweb", x_trioweb=1)

    async def next_line(self, last: Line | None = None) -> Line | None:
        """Wait for a connection, another than *last*; None: there will be none."""
        while self._end is None:
            if self.line is not None and self.line is not last:
                return self.line
            await self.wait_change()
        return None

    async def line_for(self, topic: str | None = None, last: Line | None = None) -> Line:
        """Wait for a connection, another than *last*, on which *topic* is subscribed if it is to
        be.

        Raises:
            GaveUp, ClosedLocally: there will be none.
        """
        while True:
            line = await self.next_line(last)
            if line is None:
                raise self.error()
            following = self.following.get(topic or "")
            if following is not None:
                await following.wait_settled()
            if line is self.line:
                return line

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many *failures*, as after those to connect."""
        retry = self._retry
        return self._random.uniform(
            0, min(retry.maximum, retry.initial * 2.0 ** min(failures - 1, 64))
        )

    # The tasks.

    async def run(self, client: Client, nursery: trio.Nursery) -> None:
        """Read all that arrives."""
        nursery.start_soon(self._renew_tokens)
        taken = 0
        with client.messages(events=True) as messages:
            while True:
                due = math.inf if self.line is None else self.line.ping_due
                item = None
                try:
                    with trio.move_on_at(due):
                        item = await messages.receive()
                except TriowebError as exc:
                    self._owes = isinstance(exc, GaveUp)
                    self.finish(client._life.ending.error)
                    return
                match item:
                    case None:
                        if self.line is not None:
                            self.line.miss_ping()
                    case Opened():
                        self._open(nursery)
                    case Lost(error=error):
                        self._lose(error)
                    case str() | bytes() if self.line is not None:
                        for push in self.line.read(item):
                            self._hear(self.line, push, nursery)
                taken += 1
                if taken % _MESSAGES_PER_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()

    async def _renew_tokens(self) -> None:
        """Give the server a new token before the last one has expired."""
        failures = 0
        while (line := await self.next_line()) is not None:
            with trio.move_on_at(line.renew_at):
                await self.next_line(line)
            if line.is_over or line.renew_at > trio.current_time():
                continue
            line.renew_at = math.inf
            if not self._token.is_renewable:
                continue
            self._token.drop()
            try:
                token = await self._token.get()
                result = await line.ask(wire.RefreshRequest(token=token))
            except ConnectionClosed:
                continue
            except Refused as exc:
                # The server ends the connection when the token's time is over.
                text = "the server does not take a new token: %s"
                log(_logger, logging.WARNING, line.connection, text, exc)
                self._token.drop()
                if not is_retried(exc.code, exc.temporary):
                    continue
            except Exception as exc:
                if not is_worth_retry(exc):
                    raise
            else:
                failures = 0
                line.expires(result.ttl if result.expires else None)
                continue
            failures += 1
            line.renew_at = trio.current_time() + self.delay(failures)

    # What arrives.

    # Between the line and what waits for it nothing may come.
    @enable_ki_protection
    def _open(self, nursery: trio.Nursery) -> None:
        line, self._opening = self._opening, None
        assert line is not None
        self.line = line
        self.granted.connected(line, line.asked, line.told)
        line.asked, line.told = {}, {}
        early, line.early = line.early, []
        for reply in early:
            push = line.take(reply)
            if push is not None:
                self._hear(line, push, nursery)
        self.changed()

    @enable_ki_protection
    def _lose(self, error: Exception | None) -> None:
        """The connection is over."""
        line, self.line = self.line, None
        code = error.code if isinstance(error, ConnectionClosed) else None
        is_invalid = code == DisconnectCode.STATE_INVALIDATED
        if code in _TOKEN_IS_SPENT:
            self._token.drop()
        if line is not None:
            line.end()
            for following in self.following.values():
                following.lose(is_invalid=is_invalid)
            self.granted.lose(is_invalid=is_invalid)
        self.changed()

    def _hear(self, line: Line, push: Push, nursery: trio.Nursery) -> None:
        match push.event:
            case ServerMessage(data=data):
                for stream in tuple(self.streams):
                    stream._put(value_of(line.codec, data))
            case Call() as call:
                begin(nursery, line, call, self._calls)
            case _:
                # Both at once there cannot be: the server refuses the second (105).
                following = self.following.get(push.topic)
                is_servers = self.granted.has(push.topic) or isinstance(push.event, Subscribe)
                if following is None or is_servers:
                    self.granted.hear(line, push)
                else:
                    following.hear(line, push)

    # The end.

    def check_open(self) -> None:
        """Raise if there will be no other connection."""
        if self._end is not None:
            raise self.error()

    def error(self) -> Exception:
        """Why there will be no other connection."""
        self._owes = False
        return ClosedLocally(CloseCode.NORMAL) if self._end is None else self._end()

    def _quiet_error(self) -> Exception:
        error = self.error()
        return error if isinstance(error, GaveUp) else StopAsyncIteration()

    @enable_ki_protection
    def finish(self, end: Callable[[], Exception]) -> None:
        """There will be no other connection."""
        if self._end is None:
            self._end = end
        self._lose(None)
        for following in self.following.values():
            following.finish(self._quiet_error)
        for stream in self.streams:
            stream._finish(self._quiet_error)
        self.granted.finish(self._quiet_error)
        self.changed()

    def check_told(self) -> None:
        """Raise GaveUp if the client gave up, and no call has said so."""
        if self._owes:
            raise self.error()


def _failed(error: Refused) -> Exception:
    """What `connect` that was refused with *error* means for the client."""
    if is_retried(error.code, error.temporary):
        return TryAgain(str(error))
    return error
