"""The client's receiving side: how what arrives gets into the streams of a program.

Every stream gets every message.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

import trio

from .._errors import CloseCode, ClosedLocally
from .._link import Link
from .._waitable import check_thread
from ._events import Event, Lost, Opened
from ._signal import Signal
from ._streams import Full, Messages

_logger = logging.getLogger("trioweb.client")

# How far a stream that waits may exceed its bound by what was left of ended sessions.
_OVERDRAFT: Final = 4


class Reception:
    """The streams of a client, and how messages get into them.

    Until there is a stream, messages wait for the first one, which takes them over.

    Args:
        receives: False to count what arrives and drop it.
    """

    def __init__(self, signal: Signal, *, receives: bool) -> None:
        self._signal = signal
        self._receives = receives
        self._end: Callable[[], Exception] | None = None
        self._ends_quietly = False
        # The one that has begun and is not over: its beginning, and its link.
        self._session: tuple[Opened, Link] | None = None
        self._streams: list[Messages] = []
        self._unclaimed: Messages | None = None
        # Whether there is no new connection until more is received; see `finish`.
        self._holds_up = False
        # How far the streams were when they were last found in the way, and since when.
        self._mark: tuple[int, float] | None = None
        self._marked_at = 0.0
        if receives:
            self._unclaimed = self.open(events=True, max_messages=256, full="wait")
        self.received = 0
        self.discarded = 0

    def open(self, *, events: bool, max_messages: int, full: Full) -> Messages:
        """Make a stream."""
        check_thread()
        if not self._receives:
            raise ValueError("this client was opened with receive=False: it only sends")
        stream = Messages(
            events=events,
            max_messages=max_messages,
            full=full,
            leave=self._leave,
            taken=self._signal.changed,
        )
        unclaimed, self._unclaimed = self._unclaimed, None
        if unclaimed is not None:
            self._streams.remove(unclaimed)
            stream.inherit(unclaimed)
        elif self._session is not None:
            stream.tell(self._session[0])
        if self._end is not None:
            stream.end(self._end, quietly=self._ends_quietly)
        self._streams.append(stream)
        self._signal.changed()
        return stream

    def _leave(self, stream: Messages) -> None:
        if stream in self._streams:
            check_thread()
            self._streams.remove(stream)
            stream.end(
                lambda: ClosedLocally(CloseCode.NORMAL, "this stream was left"), quietly=True
            )
            self._signal.changed()

    def begin(self, event: Opened, link: Link) -> None:
        """A session begins."""
        self._session = event, link
        for stream in self._streams:
            stream.tell(event)

    def tell(self, event: Event) -> None:
        """Something happened between two sessions."""
        for stream in self._streams:
            stream.tell(event)

    async def deliver(self, link: Link) -> None:
        """A session's task: move what arrives to the streams, as far as they have room."""
        while True:
            self._distribute(link)
            await link.wait_change()

    def stuck_since(self) -> float:
        """Since when nothing was received that the client cannot go on without; inf if it can.

        Either the server is not heard, or not connected to, until a stream has room.
        """
        link = self._signal.link
        if not (self._holds_up if link is None else link.is_full() and self._room() <= 0):
            return math.inf
        mark = self.received, self._room()
        if mark != self._mark:
            self._mark = mark
            self._marked_at = trio.current_time()
        return self._marked_at

    def discard(self) -> None:
        """Count what waits for a stream to have room, and drop it."""
        if self._session is not None:
            link = self._session[1]
            self.received += len(link.inbox)
            self.discarded += len(link.inbox)
            link.inbox.clear()
            if link.paused_at is not None:
                link.taken()
        if self._holds_up:
            self._holds_up = False
            self._signal.changed()

    def _room(self) -> float:
        return min((s.room for s in self._streams if s.full == "wait"), default=math.inf)

    def _distribute(self, link: Link) -> None:
        while link.inbox and (room := self._room()) > 0:
            self._give(link, room)
            if self._room() <= 0:
                # Who waits for what is behind the rest may have to give up.
                link.changed()

    def _give(self, link: Link, count: float) -> None:
        inbox = link.inbox
        if count >= len(inbox):
            batch = list(inbox)
            inbox.clear()
        else:
            batch = [inbox.popleft() for _ in range(int(count))]
        if link.paused_at is not None:
            link.taken()
        self.received += len(batch)
        if not self._streams:
            self.discarded += len(batch)
        for stream in self._streams:
            stream.put(batch)

    async def finish(self) -> None:
        """The connection is over: end the session, if there was one.

        The streams may exceed their bounds for what had arrived in it, but not again and
        again: a program that never receives would gather an inbox with each session.  So this
        waits until they are received from, or `discard` gives that up.
        """
        if self._is_overdrawn():
            _logger.warning("not connecting until what has arrived is received")
            self._holds_up = True
            # Who waits for the next connection may have to give up.
            self._signal.changed()
            while self._holds_up and self._is_overdrawn():
                await self._signal.wait_change()
            self._holds_up = False
        self._end_session()

    def _is_overdrawn(self) -> bool:
        return any(s.room < -_OVERDRAFT * s.max_messages for s in self._streams if s.full == "wait")

    def _end_session(self) -> None:
        """Give out what had arrived (invariant 11), then say that nothing else will."""
        if self._session is None:
            return
        (opened, link), self._session = self._session, None
        self._give(link, math.inf)
        event = Lost(opened.session, link.error())
        for stream in self._streams:
            # Nobody may ever claim the stream that waits for the first one to do so.
            if stream is not self._unclaimed or not stream.forget_empty_session():
                stream.tell(event)

    def end(self, error: Callable[[], Exception], *, quietly: bool) -> None:
        """Nothing more will come."""
        self._end_session()
        self._end = error
        self._ends_quietly = quietly
        for stream in self._streams:
            stream.end(error, quietly=quietly)
