"""The retry policy at work: counts attempts and says how long to wait.

Pure: time and randomness are arguments.
"""

from __future__ import annotations

import math
from random import Random

from .._policy import Retry


class Schedule:
    """Counts the attempts since the last stable connection.

    Attributes:
        attempts: their number.
    """

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
