"""The retry policy at work: counts attempts and says how long to wait.

Pure: time and randomness are arguments.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

from .._errors import HandshakeRejected
from .._policy import Retry

# No server's slip may keep a client away for good.
_MAX_RETRY_AFTER: Final = 86_400.0


class Schedule:
    """Counts the attempts since the last stable connection.

    Attributes:
        attempts: their number.
    """

    __slots__ = ("_random", "_retry", "_since", "attempts")

    def __init__(self, retry: Retry, random: Random) -> None:
        self.attempts = 0
        self._retry = retry
        self._random = random
        self._since = 0.0

    def begin(self, now: float) -> None:
        """An attempt begins."""
        if not self.attempts:
            self._since = now
        self.attempts += 1

    def opened_for(self, seconds: float) -> None:
        """The attempt led to a connection, which lasted for *seconds*."""
        if seconds >= self._retry.stable_after:
            self.attempts = 0

    def next_delay(self, now: float, retry_after: float = 0) -> float | None:
        """Seconds until the next attempt; None to give up.

        Args:
            retry_after: what the server asked for.  The jitter goes on top of it: others
                were asked for the same.
        """
        retry = self._retry
        if retry.max_attempts is not None and self.attempts >= retry.max_attempts:
            return None
        # After a stable connection, the first wait is bounded by `initial` again.
        exponent = min(max(self.attempts - 1, 0), 64)
        delay = retry_after + self._random.uniform(
            0, min(retry.maximum, retry.initial * 2**exponent)
        )
        deadline = math.inf
        if retry.max_elapsed is not None and self.attempts:
            deadline = self._since + retry.max_elapsed
        return delay if now + delay <= deadline else None


def seconds_to_wait(error: Exception, now: float) -> float:
    """Seconds that a server asks to be left alone for (Retry-After, RFC 9110 section 10.2.3),
    0 if it does not, or makes no sense; a day at most.

    Args:
        now: seconds since the epoch.  A date is held against the answer's own Date where it has
            one: clocks differ.
    """
    if not isinstance(error, HandshakeRejected):
        return 0
    value = error.header("retry-after")
    if value is None:
        return 0
    if value.isdecimal() and value.isascii():
        # `float`, as digits without end are no error there.
        seconds = float(value)
    else:
        then, sent = _parse_date(value), _parse_date(error.header("date") or "")
        seconds = 0 if then is None else then - (now if sent is None else sent)
    return min(max(0.0, seconds), _MAX_RETRY_AFTER) if math.isfinite(seconds) else 0


def _parse_date(text: str) -> float | None:
    """The seconds since the epoch that an HTTP date means, as UTC where it names no zone, as
    HTTP's oldest form does not; None if it is none."""
    # Here, since they bring a dozen modules and hardly any program needs them.
    from calendar import timegm
    from email.utils import parsedate_to_datetime

    try:
        return timegm(parsedate_to_datetime(text).utctimetuple())
    except (ValueError, OverflowError):
        return None
