"""What is due for one member: pings, and its end unless it says who it is, or renews that.

Pings are strictly periodic: many clients listen to nothing else, and go when one does not come.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from .._centrifuge._codes import DisconnectCode, UnsubscribeCode
from .._protocol._frames import SERVER_FORM, encode_message
from ._timetable import Entry

if TYPE_CHECKING:
    from ._member import Member
    from ._seat import Seat

_PING: Final = "a ping of the topic server's"


class Due:
    """What is due for *member*, which has not said who it is."""

    __slots__ = ("_expiry", "_member", "_ping_at", "_pinged_at")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._pinged_at = 0.0
        self._ping_at: Entry | None = None
        server = member._server
        due = trio.current_time() + server.limits.stale
        end = partial(member._end, DisconnectCode.STALE)
        self._expiry: Entry | None = server._timetable.at(due, end)

    def begin(self, ttl: float | None) -> None:
        """It has said who it is."""
        self.refresh(ttl)
        if self._member._is_pinged:
            self._ping_next(trio.current_time() + self._member._server.ping)

    def cancel(self) -> None:
        """Its connection is over."""
        timetable = self._member._server._timetable
        timetable.cancel(self._expiry)
        timetable.cancel(self._ping_at)

    def refresh(self, ttl: float | None) -> None:
        """The connection ends when *ttl*, and some grace, have passed."""
        member = self._member
        timetable = member._server._timetable
        timetable.cancel(self._expiry)
        self._expiry = None
        if ttl is not None:
            due = trio.current_time() + ttl + member._server.limits.grace
            self._expiry = timetable.at(due, partial(member._end, DisconnectCode.EXPIRED))

    def renew(self, seat: Seat, ttl: float | None) -> None:
        """A subscription ends when *ttl*, and some grace, have passed."""
        member = self._member
        timetable = member._server._timetable
        timetable.cancel(seat.expiry)
        if ttl is not None:
            expired = UnsubscribeCode.EXPIRED
            due = trio.current_time() + ttl + member._server.limits.grace
            end = partial(member.unsubscribe, seat.name, expired, expired.reason)
            seat.expiry = timetable.at(due, end)

    def _ping_next(self, due: float) -> None:
        self._ping_at = self._member._server._timetable.at(due, self._ping)

    def _ping(self) -> None:
        assert self._ping_at is not None
        member, due = self._member, self._ping_at.due
        link = member.connection.link
        if not link.is_whole:
            return
        # Nobody can be heard while this side does not read; the heartbeat looks after those.
        is_silent = link.pulse.heard_at < self._pinged_at and link.inbox.pause is None
        if is_silent and not link.carrier.has_unread():
            member._end(DisconnectCode.NO_PONG)
            return
        self._pinged_at = now = trio.current_time()
        # Where more is queued, one of them is all that waits.
        link.queue.answer(_PING, encode_message(member._codec.PING, SERVER_FORM))
        interval = member._server.ping
        # What a stopped process has missed is missed.
        while due <= now:
            due += interval
        self._ping_next(due)
