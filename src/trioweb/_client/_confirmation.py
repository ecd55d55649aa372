"""How much of a session may be unconfirmed, when the server is asked, and when it is overdue.

The window begins at one message in each session and doubles with each pong that comes quickly, if
the window was in use: how fast single messages are handled says nothing of a burst of them.
So a server that handles slowly, in order, is given no more than it gets through in time, and a
message of which a server dies takes none of those before it along when it is sent again.

Pure: no I/O, no Trio; `now` is in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

# So many messages and bytes at most are asked about with one ping, and the window ends there:
# within a round trip of a millisecond that is 64,000 messages a second.
MAX_WINDOW: Final = 64
MAX_ASKED_BYTES: Final = 64 * 2**10
# A server that answers within this gets twice as much.
_QUICK_SECONDS: Final = 1.0
# So many times the timeout at most is a confirmation waited for: 160 s with the default.
_MAX_PATIENCE: Final = 8
# A pause in reading that is shorter than this part of the timeout counts as reading: a program
# that is a little slow has many of them.  During a longer one nobody can be heard.
_SHORT_PAUSE: Final = 0.1
# And after a pause it is read from for so long, or until the next pause, before it is judged.
_LOOK_SECONDS: Final = 0.1


class ReadingTime:
    """Counts the seconds in which a link was read, or soon again, if `look` is called at each
    change.

    Args:
        short: seconds up to which a pause counts as reading.
    """

    __slots__ = ("_is_paused", "_past", "_paused_at", "_short", "_since")

    def __init__(self, now: float, short: float) -> None:
        self._past = 0.0
        self._since = now
        self._short = short
        # The pause that is on, or the last one: since when.
        self._paused_at: float | None = None
        self._is_paused = False

    def restart(self, now: float) -> None:
        """Count from *now* on."""
        self._past = 0.0
        self._since = now

    def look(self, now: float, paused_at: float | None) -> None:
        """Note whether the link is read; *paused_at*: since when it is not."""
        if self._is_paused and paused_at != self._paused_at:
            # That pause is over, if another one has begun since.
            self._is_paused = False
            resumed_at = now if paused_at is None else paused_at
            pause = resumed_at - self._since
            self._past += pause if pause <= self._short else 0.0
            self._since = resumed_at
        if not self._is_paused and paused_at is not None:
            self._past += max(0.0, paused_at - self._since)
            self._since = max(self._since, paused_at)
            self._paused_at = paused_at
            self._is_paused = True

    def reaches(self, seconds: float) -> float:
        """When *seconds* are reached if nothing changes; infinity while the link is not read."""
        left = seconds - self._past
        if self._is_paused:
            return math.inf if left > 0 else self._since
        if self._paused_at is not None:
            left = max(left, _LOOK_SECONDS)
        return self._since + left


class Confirmation:
    """The window, and the pings under way.

    Args:
        timeout: seconds of reading within which a confirmation must come.

    Attributes:
        window: how many messages may be unconfirmed.
        patience: how many times the timeout the next one is waited for.
    """

    __slots__ = ("_asked", "_asked_bytes", "_pings", "_reading", "_timeout", "patience", "window")

    def __init__(self, timeout: float) -> None:
        self.window = 1
        self.patience = 1
        self._timeout = timeout
        self._reading = self._new_reading_time(-math.inf)
        # What they ask about, whether that is as much as the window allows, and when they were
        # sent, oldest first.
        self._pings: deque[tuple[int, bool, float]] = deque()
        self._asked = 0
        self._asked_bytes = 0

    @property
    def timeout(self) -> float:
        """Seconds of reading within which the next confirmation must come."""
        return self.patience * self._timeout

    def begin(self, now: float, settled: int) -> None:
        """A session begins, with nothing in flight behind message *settled*."""
        self.window = 1
        self._reading = self._new_reading_time(now)
        # The first message is asked about at once, whatever its size.
        self._asked = settled

    def _new_reading_time(self, now: float) -> ReadingTime:
        return ReadingTime(now, self._timeout * _SHORT_PAUSE)

    def room(self, sent: int, settled: int) -> int:
        """How many messages may be written before the next ping, or pong."""
        return min(self.window - (sent - settled), self._stride - (sent - self._asked))

    @property
    def _stride(self) -> int:
        # Twice in a window, so that it moves on while the server handles the other half.
        return max(1, self.window // 2)

    def is_due(self, sent: int, size: int) -> bool:
        """Whether a ping must follow, now that messages up to *sent*, of *size* bytes, have
        been written."""
        self._asked_bytes += size
        return sent - self._asked >= self._stride or self._asked_bytes >= MAX_ASKED_BYTES

    def is_asked(self, sent: int) -> bool:
        """Whether the last ping asked about all messages up to *sent*."""
        return self._asked >= sent

    def asked(self, now: float, sent: int) -> None:
        """A ping follows message *sent*."""
        if not self._pings:
            self._reading.restart(now)
        is_full = sent - self._asked >= self._stride or self._asked_bytes >= MAX_ASKED_BYTES
        self._pings.append((sent, is_full, now))
        self._asked = sent
        self._asked_bytes = 0

    def confirmed(self, now: float) -> int:
        """The pong of the oldest ping is here; up to which message that confirms."""
        number, is_full, sent_at = self._pings.popleft()
        if is_full and now - sent_at <= _QUICK_SECONDS:
            self.window = min(2 * self.window, MAX_WINDOW)
        if now - sent_at <= self._timeout:
            self.patience = 1
        self._reading.restart(now)
        return number

    def deadline(self, now: float, paused_at: float | None) -> float:
        """When the server has had its time, unless something changes."""
        self._reading.look(now, paused_at)
        return self._reading.reaches(self.timeout) if self._pings else math.inf

    def finish(self, now: float, paused_at: float | None) -> None:
        """The session is over.

        If it had lasted for the timeout without a confirmation, whatever ended it, those that
        follow wait twice as long, up to a bound: a server may take that long for one message,
        and would get it again each time.
        """
        self._reading.look(now, paused_at)
        if self._pings and self._reading.reaches(self._timeout) <= now:
            self.patience = min(2 * self.patience, _MAX_PATIENCE)
        self._pings.clear()
