"""What the log is told of the time in which an engine cannot be reached.

Its beginning and each new reason at once, that it goes on at intervals that grow, and its end.
Each attempt would be a line each few seconds, for hours, from each node.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from ._subscription import logger

# Between two lines about what was told already: twice as long each time.
_FIRST_PAUSE: Final = 10.0
_LONGEST_PAUSE: Final = 3600.0
# A reason may have anything in it, such as a number that is another one each time.
_MOST_REASONS: Final = 8


class Outage:
    """The outages of one engine, one after the other.

    Args:
        stable_after: seconds.  A connection that did not last so long was none: its loss goes on
            with the outage before it.
    """

    def __init__(self, stable_after: float) -> None:
        self._stable_after = stable_after
        self._since = 0.0
        self._attempts = 0
        self._reasons: set[str] = set()
        self._pause = _FIRST_PAUSE
        self._due = 0.0
        # Whether a line has said that there is no connection, and none since that there is one.
        self._is_told = False
        self._connected_at: float | None = None

    def fail(self, reason: str) -> None:
        """There is no connection: an attempt has failed, or what there was is lost."""
        now = trio.current_time()
        since, self._connected_at = self._connected_at, None
        if not self._attempts or (since is not None and now - since >= self._stable_after):
            self._begin(now)
        self._attempts += 1
        is_new = reason not in self._reasons and len(self._reasons) < _MOST_REASONS
        is_due = now >= self._due
        if is_new:
            self._reasons.add(reason)
        if is_due:
            self._due = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        is_news = is_new or is_due
        self._is_told |= is_news
        level = logging.WARNING if is_news else logging.DEBUG
        if self._attempts == 1:
            logger.log(level, "no connection to the broker: %s", reason)
        else:
            text = "no connection to the broker for %.1f s, %d attempts: %s"
            logger.log(level, text, now - self._since, self._attempts, reason)

    def _begin(self, now: float) -> None:
        self._since = self._due = now
        self._attempts = 0
        self._reasons.clear()
        self._pause = _FIRST_PAUSE

    def end(self) -> None:
        """There is a connection."""
        now = self._connected_at = trio.current_time()
        if self._is_told:
            self._is_told = False
            s = "" if self._attempts == 1 else "s"
            text = "connected to the broker again, after %.1f s and %d attempt%s"
            logger.warning(text, now - self._since, self._attempts, s)
