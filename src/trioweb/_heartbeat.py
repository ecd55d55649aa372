"""Is the peer alive?

A link that was silent for the interval is sent one ping (or the user's message), and aborted
if it stays silent for the timeout after that.  So a dead peer is noticed within interval +
timeout of the last byte heard from it; among many others, up to 2 % later.  A Lookout decides that
for one link; a Monitor is the task that looks at those of many.

A client asks each interval, even a server that is not silent: servers, brokers and proxies close
what sends nothing, and the latency is known by that.  Nothing is held against such a server.

A link that does not read, because its inbox is full, is not judged by what it does not see, but by
whether the peer's machine confirms what is written.

To wake for each link by itself would be most of what an idle link costs.  So looks that are due
at about the same time are taken together, and their pongs, which come together then, are read
together.
"""

from __future__ import annotations

import itertools
import logging
import math
from heapq import heapify, heappop, heappush
from typing import NoReturn

import trio

from ._connection import Connection
from ._histogram import SECONDS, Histogram
from ._link import END_OF_TRANSPORT
from ._link._inbox import Pause
from ._logs import log
from ._observer import Observer, tell
from ._policy import Heartbeat
from ._protocol._http import format_address
from ._protocol._pings import Ping
from ._protocol._replies import Replies, reply_key

_logger = logging.getLogger("trioweb")

# A look that sends a ping takes about 15 µs: after so many, others get their turn.
_LOOKS_PER_CHECKPOINT = 64
# A look may come late by so much of the interval or the timeout, whichever is shorter.
_LATENESS = 0.01
# One that comes later than this part of the timeout was held up, by a stop of the process or a call
# that blocked the loop, and peers may not have been read from for just as long.
_HELD_UP = 0.5


def heartbeat_replies(heartbeat: Heartbeat | None) -> Replies:
    """What a link has to swallow so that the answers to `Heartbeat.message` reach nobody."""
    if heartbeat is None or heartbeat.reply is None:
        return {}
    return {reply_key(heartbeat.reply): None}


class Terms:
    """How peers are asked for signs of life, and what became of that.

    Args:
        observer: hears of stalls.

    Attributes:
        heartbeat: as the user has it.
        lost: how many connections were ended since their peers were silent.
    """

    __slots__ = ("heartbeat", "lost", "observer")

    def __init__(self, heartbeat: Heartbeat, observer: Observer | None = None) -> None:
        self.heartbeat = heartbeat
        self.observer = observer
        self.lost = 0


class Lookout:
    """One connection's signs of life: whoever holds this looks when that is due.

    Args:
        keeps_alive: whether to ask a peer that is not silent, too.

    Attributes:
        connection: which is watched.
        due: when to look; infinity for never again.
    """

    __slots__ = ("_asked_at", "_ping", "_terms", "connection", "due")

    def __init__(self, connection: Connection, terms: Terms, *, keeps_alive: bool = False) -> None:
        self.connection = connection
        self.due = connection.link.pulse.heard_at + terms.heartbeat.interval
        self._terms = terms
        # When a peer that need not be silent for that was last asked; infinity for any other.
        self._asked_at = trio.current_time() if keeps_alive else math.inf
        # The one that was last sent.
        self._ping: Ping | None = None

    def look(self, now: float) -> None:
        """Ask the peer or give it up, if it is time; note when to look again."""
        if now < self.due:
            return
        try:
            self._look(now)
        except Exception as exc:
            # Of a server all connections depend on this: one that fails is watched no more.
            text = "unexpected error while watching a connection"
            log(_logger, logging.ERROR, self.connection, text, error=exc)

    def _look(self, now: float) -> None:
        link = self.connection.link
        interval, timeout = self._terms.heartbeat.interval, self._terms.heartbeat.timeout
        is_held_up = now - self.due > timeout * _HELD_UP
        self.due = math.inf
        # One that cannot be written to ends by itself.
        if not link.is_whole:
            return
        if link.inbox.pause is not None:
            self._look_at_paused(link.inbox.pause, now)
        elif link.pulse.asked_at is not None and now >= link.pulse.asked_at + timeout:
            if link.carrier.has_unread():
                link.pulse.heard()
                self.due = now + interval
            elif is_held_up:
                self._ask(now)
            else:
                self._terms.lost += 1
                link.abort(f"silent peer: nothing arrived for {now - link.pulse.heard_at:.0f} s")
        elif link.pulse.asked_at is not None:
            # An answer may be followed by silence, so look again after the interval, too.
            self.due = min(link.pulse.asked_at + timeout, now + interval)
        elif now >= link.pulse.heard_at + interval:
            self._ask(now)
        else:
            if now >= self._asked_at + interval:
                self._send(now)
                # It was heard less than an interval ago, so its time does not begin yet.
                link.pulse.asked_at = None
            self.due = min(link.pulse.heard_at, self._asked_at) + interval

    def _ask(self, now: float) -> None:
        self._send(now)
        heartbeat = self._terms.heartbeat
        self.due = now + min(heartbeat.interval, heartbeat.timeout)

    def _send(self, now: float) -> None:
        link = self.connection.link
        if self._ping is not None:
            # A peer may live without ever answering one: they must not add up.
            link.pulse.forget(self._ping)
        if self._asked_at < math.inf:
            self._asked_at = now
        self._ping = link.pulse.ask(self._terms.heartbeat.message)

    def _look_at_paused(self, pause: Pause, now: float) -> None:
        """Look at a connection that does not read.

        Nobody can be heard through a full inbox; that is for this side to mend.  Nor can one that
        is read more slowly because it is too fast, as it should be.
        """
        link = self.connection.link
        interval, timeout = self._terms.heartbeat.interval, self._terms.heartbeat.timeout
        if not pause.is_told and not link.inbox.has_room:
            pause.is_told = True
            self._tell_of_stall(now - pause.since)
        due = now + interval
        if pause.ended_at is not None:
            if now >= pause.ended_at + timeout:
                link.break_off(END_OF_TRANSPORT)
                return
            due = min(due, pause.ended_at + timeout)
        asked_at = link.pulse.asked_at
        if asked_at is not None and now < asked_at + timeout:
            due = min(due, asked_at + timeout)
        elif asked_at is not None and link.carrier.is_unconfirmed_for(now - asked_at):
            self._terms.lost += 1
            link.break_off(f"silent peer: nothing was confirmed for {now - asked_at:.0f} s")
            return
        elif link.carrier.is_blind:
            self._ask(now)
            return
        self.due = due

    def _tell_of_stall(self, seconds: float) -> None:
        connection, observer = self.connection, self._terms.observer
        who = format_address(connection.remote)
        log(
            _logger,
            logging.WARNING,
            connection,
            "%s: nothing was received from a full inbox for %.0f s",
            who,
            seconds,
            address=who,
        )
        if observer is not None:
            tell(observer.on_stall, connection, seconds)


class Monitor:
    """Watches connections; `run` is its task.

    Args:
        keeps_alive: whether to ask peers that are not silent, too.
        observer: hears of stalls.

    Attributes:
        lateness: the seconds by which it woke up too late.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        *,
        keeps_alive: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.lateness = Histogram(SECONDS)
        self._keeps_alive = keeps_alive
        self._terms = Terms(heartbeat, observer)
        self._lookouts: dict[int, Lookout] = {}
        self._numbers = itertools.count()
        # (when to look, number).  Numbers instead of connections, so that one that was removed is
        # not kept until its turn.
        self._agenda: list[tuple[float, int]] = []
        self._nap = trio.CancelScope()
        self._least_nap = min(heartbeat.interval, heartbeat.timeout) * _LATENESS

    @property
    def lost(self) -> int:
        """How many connections it has ended since their peers were silent."""
        return self._terms.lost

    def add(self, connection: Connection) -> int:
        """Watch *connection*; the number returned is for `remove`."""
        number = next(self._numbers)
        lookout = self._lookouts[number] = Lookout(
            connection, self._terms, keeps_alive=self._keeps_alive
        )
        self._push(lookout.due, number)
        return number

    def remove(self, number: int) -> None:
        del self._lookouts[number]
        if len(self._agenda) > 2 * len(self._lookouts):
            # Most are of connections that have gone, some of them long before they were due.
            self._agenda = [entry for entry in self._agenda if entry[1] in self._lookouts]
            heapify(self._agenda)

    def _push(self, due: float, number: int) -> None:
        heappush(self._agenda, (due, number))
        self._nap.deadline = min(self._nap.deadline, due)

    async def run(self) -> NoReturn:
        looks = 0
        now = -math.inf
        while True:
            with trio.CancelScope() as self._nap:
                due = self._agenda[0][0] if self._agenda else math.inf
                self._nap.deadline = max(due, now + self._least_nap)
                await trio.sleep_forever()
            now = trio.current_time()
            self.lateness.observe(now - self._nap.deadline)
            # Whoever became readable at the same moment reads first.
            await trio.lowlevel.checkpoint()
            while self._agenda and self._agenda[0][0] <= now:
                _, number = heappop(self._agenda)
                # NOTE: no connection in a variable here, which would keep it until the next look.
                self._look(number, now)
                looks += 1
                if looks % _LOOKS_PER_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()

    def _look(self, number: int, now: float) -> None:
        lookout = self._lookouts.get(number)
        if lookout is not None:
            lookout.look(now)
            if lookout.due < math.inf:
                self._push(lookout.due, number)
