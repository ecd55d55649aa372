"""Is the peer alive?  One task for any number of links.

A link that was silent for the interval is sent one ping (or the user's message), and aborted
if it stays silent for the timeout after that.  So a dead peer is noticed within interval +
timeout of the last byte heard from it; among many others, up to 2 % later.

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
from ._link import END_OF_TRANSPORT, Link
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


class Monitor:
    """Watches connections; `run` is its task.

    Args:
        keeps_alive: whether to ask a peer that is not silent, too.
        observer: hears of stalls.

    Attributes:
        lost: how many connections it has ended since their peers were silent.
        lateness: the seconds by which it woke up too late.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        *,
        keeps_alive: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.lost = 0
        self.lateness = Histogram(SECONDS)
        self._heartbeat = heartbeat
        self._observer = observer
        self._keeps_alive = keeps_alive
        # By number: when a peer that is not silent was last asked.
        self._asked_at: dict[int, float] = {}
        self._connections: dict[int, Connection] = {}
        self._numbers = itertools.count()
        # (when to look, number, the ping that was last sent).  Numbers instead of connections,
        # so that one that was removed is not kept until its turn.
        self._agenda: list[tuple[float, int, Ping | None]] = []
        self._nap = trio.CancelScope()
        self._least_nap = min(heartbeat.interval, heartbeat.timeout) * _LATENESS

    def add(self, connection: Connection) -> int:
        """Watch *connection*; the number returned is for `remove`."""
        number = next(self._numbers)
        self._connections[number] = connection
        if self._keeps_alive:
            self._asked_at[number] = trio.current_time()
        self._push(connection.link.pulse.heard_at + self._heartbeat.interval, number)
        return number

    def remove(self, number: int) -> None:
        del self._connections[number]
        self._asked_at.pop(number, None)
        if len(self._agenda) > 2 * len(self._connections):
            # Most are of connections that have gone, some of them long before they were due.
            self._agenda = [entry for entry in self._agenda if entry[1] in self._connections]
            heapify(self._agenda)

    def _push(self, due: float, number: int, ping: Ping | None = None) -> None:
        heappush(self._agenda, (due, number, ping))
        self._nap.deadline = min(self._nap.deadline, due)

    async def run(self) -> NoReturn:
        looks = 0
        now = -math.inf
        while True:
            with trio.CancelScope() as self._nap:
                due = self._agenda[0][0] if self._agenda else math.inf
                self._nap.deadline = max(due, now + self._least_nap)
                await trio.sleep_until(math.inf)
            now = trio.current_time()
            late = now - self._nap.deadline
            self.lateness.observe(late)
            is_held_up = late > self._heartbeat.timeout * _HELD_UP
            # Whoever became readable at the same moment reads first.
            await trio.lowlevel.checkpoint()
            while self._agenda and self._agenda[0][0] <= now:
                _, number, ping = heappop(self._agenda)
                try:
                    # NOTE: no connection in a variable here, which would keep it until the next
                    # look.
                    self._look(number, ping, now, is_held_up)
                except Exception as exc:
                    # All connections depend on this task: one that fails is watched no more.
                    text = "unexpected error while watching a connection"
                    log(_logger, logging.ERROR, self._connections[number], text, error=exc)
                looks += 1
                if looks % _LOOKS_PER_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()

    def _look(self, number: int, ping: Ping | None, now: float, is_held_up: bool) -> None:
        connection = self._connections.get(number)
        # One that cannot be written to ends by itself.
        if connection is None or not connection.link.is_whole:
            return
        link, pulse = connection.link, connection.link.pulse
        interval, timeout = self._heartbeat.interval, self._heartbeat.timeout
        if link.inbox.pause is not None:
            self._look_at_paused(connection, link.inbox.pause, number, ping, now)
        elif pulse.asked_at is not None and now >= pulse.asked_at + timeout:
            if link.carrier.has_unread():
                pulse.heard()
            elif is_held_up:
                self._ask(link, number, ping, now)
                return
            else:
                self.lost += 1
                link.abort(f"silent peer: nothing arrived for {now - pulse.heard_at:.0f} s")
                return
            self._push(now + interval, number, ping)
        elif pulse.asked_at is not None:
            # An answer may be followed by silence, so look again after the interval, too.
            self._push(min(pulse.asked_at + timeout, now + interval), number, ping)
        elif now >= pulse.heard_at + interval:
            self._ask(link, number, ping, now)
        else:
            asked_at = self._asked_at.get(number, math.inf)
            if now >= asked_at + interval:
                ping = self._send(link, number, ping, now)
                # It was heard less than an interval ago, so its time does not begin yet.
                pulse.asked_at = None
                asked_at = now
            self._push(min(pulse.heard_at, asked_at) + interval, number, ping)

    def _ask(self, link: Link, number: int, ping: Ping | None, now: float) -> None:
        ping = self._send(link, number, ping, now)
        self._push(now + min(self._heartbeat.interval, self._heartbeat.timeout), number, ping)

    def _send(self, link: Link, number: int, ping: Ping | None, now: float) -> Ping | None:
        if ping is not None:
            # A peer may live without ever answering one: they must not add up.
            link.pulse.forget(ping)
        if self._keeps_alive:
            self._asked_at[number] = now
        return link.pulse.ask(self._heartbeat.message)

    def _look_at_paused(
        self, connection: Connection, pause: Pause, number: int, ping: Ping | None, now: float
    ) -> None:
        """Look at a connection that does not read.

        Nobody can be heard through a full inbox; that is for this side to mend.  Nor can one that
        is read more slowly because it is too fast, as it should be.
        """
        link = connection.link
        interval, timeout = self._heartbeat.interval, self._heartbeat.timeout
        if not pause.is_told and not link.inbox.has_room:
            pause.is_told = True
            who = format_address(connection.remote)
            log(
                _logger,
                logging.WARNING,
                link,
                "%s: nothing was received from a full inbox for %.0f s",
                who,
                now - pause.since,
                address=who,
            )
            if self._observer is not None:
                tell(self._observer.on_stall, connection, now - pause.since)
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
            self.lost += 1
            link.break_off(f"silent peer: nothing was confirmed for {now - asked_at:.0f} s")
            return
        elif link.carrier.is_blind:
            self._ask(link, number, ping, now)
            return
        self._push(due, number, ping)
