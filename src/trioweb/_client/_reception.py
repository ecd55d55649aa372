"""The client's receiving side: how what arrives gets into the streams of a program.

Every stream gets every message.  So a stream that waits when it is full holds up all of them: in a
`with` block for as long as it likes, otherwise until its patience is over or nobody holds it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final

import trio

from .._close_codes import CloseCode
from .._errors import ClosedLocally
from .._link import Link
from .._logs import log
from .._waitable import check_thread
from ._events import Event, Lost, Opened
from ._signal import Signal
from ._streams import Full, Messages, Stream, watch
from ._waiting import Jam, WaitingRoom

_logger = logging.getLogger("trioweb.client")

# How far a stream that waits may exceed its bound by what was left of ended sessions.
_OVERDRAFT: Final = 4


class Reception:
    """The streams of a client, and how messages get into them.

    Until there is a stream, messages wait for the first one, which takes them over.

    Args:
        receives: False to count what arrives and drop it.
        patience: seconds for which a full stream may be in the way before somebody is told.
        room: those who wait for the server.

    Attributes:
        makes_way: what is in the way is discarded, as nobody will receive it any more.
        received, discarded: see `ClientStatistics`.
    """

    __slots__ = (
        "_end",
        "_ends_quietly",
        "_holds_up",
        "_jam",
        "_patience",
        "_receives",
        "_session",
        "_signal",
        "_streams",
        "_unclaimed",
        "_waiting_room",
        "discarded",
        "makes_way",
        "received",
    )

    def __init__(
        self,
        signal: Signal,
        *,
        receives: bool,
        patience: float,
        room: WaitingRoom,
    ) -> None:
        self.makes_way = False
        self.received = 0
        self.discarded = 0
        self._signal = signal
        self._receives = receives
        self._waiting_room = room
        self._patience = patience
        self._jam = Jam(patience)
        self._end: Callable[[], Exception] | None = None
        self._ends_quietly = False
        # The one that has begun and is not over: its beginning, and its link.
        self._session: tuple[Opened, Link] | None = None
        # With each, what tells that nobody holds it any more.
        self._streams: dict[Stream, Any] = {}
        self._unclaimed: Stream | None = None
        # Whether there is no new connection until more is received; see `finish`.
        self._holds_up = False
        if receives:
            self._unclaimed = Stream(
                events=True,
                max_messages=256,
                full="wait",
                name="messages that came before there was a stream",
            )
            self._streams[self._unclaimed] = None

    def open(self, *, events: bool, max_messages: int, full: Full, name: str) -> Messages[Any]:
        """Make a stream; *name* says whose it is."""
        check_thread()
        if not self._receives:
            raise ValueError("this client was opened with receive=False: it only sends")
        stream = Stream(events=events, max_messages=max_messages, full=full, name=name)
        messages: Messages[Any] = Messages(stream, leave=self._leave, taken=self._signal.changed)
        unclaimed, self._unclaimed = self._unclaimed, None
        if unclaimed is not None:
            del self._streams[unclaimed]
            stream.inherit(unclaimed)
        elif self._session is not None:
            stream.tell(self._session[0])
        if self._end is not None:
            stream.finish(self._end, quietly=self._ends_quietly)
        self._streams[stream] = watch(messages, lambda: self._leave(stream))
        self._signal.changed()
        return messages

    def _leave(self, stream: Stream) -> None:
        if stream in self._streams:
            check_thread()
            del self._streams[stream]
            stream.finish(
                lambda: ClosedLocally(CloseCode.NORMAL, "this stream was left"), quietly=True
            )
            self._signal.changed()

    def begin(self, event: Opened, link: Link) -> None:
        """A session begins."""
        self._session = event, link
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Add an event to the streams that have them."""
        for stream in self._streams:
            stream.tell(event)

    def attend(self, link: Link) -> float:
        """Move what has arrived to the streams, as far as they have room, and tell if it is in the
        way for too long; return when that is to be looked at again, unless something changes."""
        while True:
            self._distribute(link)
            deadline = self._look()
            if not self._clear(deadline):
                return deadline

    async def deliver(self, link: Link) -> None:
        """A task for the time in which a link closes: do the same."""
        while True:
            self._distribute(link)
            await self._wait_change()

    async def _wait_change(self) -> None:
        """Wait for something to do; meanwhile, tell if what is received is in the way for long."""
        deadline = self._look()
        if not self._clear(deadline):
            with trio.move_on_at(deadline):
                await self._signal.wait_change()

    def _clear(self, deadline: float) -> bool:
        """See to what has been in the way until *deadline*; return whether something was done."""
        if self.makes_way:
            is_on = self._jam.is_on
            if is_on:
                self._discard()
            return is_on
        is_due = deadline <= trio.current_time()
        if is_due:
            self._jam.tell()
            self._tell_of_jam()
        return is_due

    def _look(self) -> float:
        """When to tell that somebody has to receive, if nobody does: infinity if nobody has to.

        Either the server is not heard, or not connected to, until a stream has room.
        """
        link = self._signal.link
        is_jammed = self._holds_up if link is None else link.inbox.is_full and self._room() <= 0
        mark = (self.received, self._room()) if is_jammed else None
        return self._jam.look(trio.current_time(), mark)

    def why_stuck(self) -> str | None:
        """Why who waits for the server would wait for the program itself; None if that is not
        so, or not for long."""
        self._look()
        if self.makes_way or not self._jam.is_due(trio.current_time()):
            return None
        return self._describe_jam()

    def _describe_jam(self) -> str:
        link = self._signal.link
        names = "; ".join(map(str, self._in_the_way()))
        what = (
            "there is no new connection until what has arrived is received"
            if link is None
            else f"{len(link.inbox.messages)} messages have arrived that nobody takes, and the "
            "server's answers wait behind them"
        )
        return f"{what} ({names}): receive in another task"

    def _in_the_way(self) -> list[Stream]:
        """The streams for which the others wait."""
        if self._signal.link is None:
            return [stream for stream in self._streams if self._is_beyond(stream)]
        return [stream for stream in self._streams if stream.full == "wait" and stream.room <= 0]

    def _tell_of_jam(self) -> None:
        """What is received is in the way for too long."""
        in_the_way = self._in_the_way()
        forgotten = [stream for stream in in_the_way if not stream.is_entered]
        if forgotten and len(in_the_way) < len(self._streams):
            # Only what stands in a `with` block has asked for that, and will end.
            for stream in forgotten:
                self._warn(
                    "%s has not been received from for %g s: it loses the oldest from now on, "
                    "instead of holding up the other streams",
                    stream,
                    self._patience,
                )
                stream.stop_waiting()
            self._signal.changed()
            return
        text = self._describe_jam()
        self._warn("nothing was received for %g s: %s", self._patience, text)
        self._waiting_room.refuse(text)

    def _warn(self, text: str, *args: object) -> None:
        link = None if self._session is None else self._session[1]
        log(_logger, logging.WARNING, link, text, *args)

    def _discard(self) -> None:
        """Count what waits for a stream to have room, and drop it."""
        if self._session is not None:
            link = self._session[1]
            count = link.inbox.drop()
            self.received += count
            self.discarded += count
        self._holds_up = False

    def _room(self) -> float:
        return min((s.room for s in self._streams if s.full == "wait"), default=math.inf)

    def _distribute(self, link: Link) -> None:
        while link.inbox.messages and (room := self._room()) > 0:
            self._give(link, room)
        # While somebody waits, it is read on as soon as there is room, and not only for half.
        if link.inbox.pause is not None:
            self._waiting_room.stretch_inbox()

    def _give(self, link: Link, count: float) -> None:
        inbox = link.inbox.messages
        if count >= len(inbox):
            batch = list(inbox)
            inbox.clear()
        else:
            batch = [inbox.popleft() for _ in range(int(count))]
        if link.inbox.pause is not None:
            link.inbox.taken()
        self.received += len(batch)
        if not self._streams:
            self.discarded += len(batch)
        for stream in self._streams:
            stream.put(batch)

    async def finish(self) -> None:
        """The connection is over: end the session, if there was one.

        The streams may exceed their bounds for what had arrived in it, but not again and
        again: a program that never receives would gather an inbox with each session.  So this
        waits until they are received from, or what they hold up is more important.
        """
        if self._is_overdrawn():
            self._warn("not connecting until what has arrived is received")
            self._holds_up = True
            while self._holds_up and self._is_overdrawn():
                await self._wait_change()
            self._holds_up = False
        self._end_session()

    def _is_beyond(self, stream: Stream) -> bool:
        return stream.full == "wait" and stream.room < -_OVERDRAFT * stream.max_messages

    def _is_overdrawn(self) -> bool:
        return any(map(self._is_beyond, self._streams))

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
            stream.finish(error, quietly=quietly)
