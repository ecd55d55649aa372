"""The inbox: what has come for one side and nobody has taken yet, and when that is too much.

It knows of no link.  Whoever reads asks it whether to stop, makes a `Pause`, and is told by that
when to go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .._policy import Limits, Message, bound
from .._waitable import Takers

# A peer that was quiet may send the messages of so long at once.
_BURST_SECONDS: Final = 1
# Every inbox's messages until it has one: an empty deque takes 760 bytes.
_NOTHING_YET: Final[deque[Message]] = deque(maxlen=0)


class Pause:
    """A time in which nothing is decoded, because of the inbox or the peer's rate.

    Args:
        go_on: called when there is room again; it ends the pause.

    Attributes:
        since: when it began.
        scope: what `Carrier.run` waits in meanwhile; None where something else reads.
        ended_at: when the peer said that it sends nothing more; None while it has not.
        is_told: the log has been told that nobody receives.
    """

    __slots__ = ("ended_at", "go_on", "is_told", "scope", "since")

    def __init__(self, go_on: Callable[[], object]) -> None:
        self.go_on = go_on
        self.since = trio.current_time()
        self.scope: trio.CancelScope | None = None
        self.ended_at: float | None = None
        self.is_told = False


class Inbox(Takers):
    """Messages in the order in which they came, within the bounds of *limits*.

    Whoever receives waits in `wait_taking`; a message wakes one of them.

    Attributes:
        messages: what is there; whoever takes from it in a pause calls `taken`.
        half: reading goes on when no more than so many are there, after a pause.
        limits: see `Limits`.
        used_until: the time up to which the peer has used what it may send: that of a second is
            left to a peer that was quiet, and one that has used some of the future is too fast.
        pause: that nothing is read now, because of the inbox or the peer's rate; None otherwise.
    """

    __slots__ = (
        "_max_bytes",
        "_max_messages",
        "half",
        "limits",
        "messages",
        "pause",
        "used_until",
    )

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.used_until = -math.inf
        self.messages = _NOTHING_YET
        self.pause: Pause | None = None
        self.stretch(1)

    def stretch(self, factor: int) -> None:
        """Have *factor* times the bounds of the limits, and be read up to those: somebody waits for
        what comes behind messages that nobody takes meanwhile."""
        self._max_messages = bound(self.limits.inbox_messages) * factor
        self._max_bytes = bound(self.limits.inbox_bytes) * factor
        self.half = self._max_messages // 2
        if self.pause is not None and not self.is_full and not self.is_too_fast:
            self.pause.go_on()

    def put(self, messages: list[Message]) -> None:
        """Add *messages*, and wake as many of those who receive."""
        if self.messages is _NOTHING_YET:
            self.messages = deque(messages)
        else:
            self.messages.extend(messages)
        if self._takers is not None:
            self.wake(len(messages))

    def taken(self) -> None:
        """Say that `messages` was taken from; reading goes on if there is room again."""
        # What most messages of a fast feed find: to ask for `has_room` would cost a tenth of each.
        if len(self.messages) > self.half:
            return
        if self.pause is not None and self.has_room and not self.is_too_fast:
            self.pause.go_on()

    def drop(self) -> int:
        """Drop what is there, as nobody will receive it; return how many messages that was."""
        count = len(self.messages)
        self.messages.clear()
        self.taken()
        return count

    @property
    def is_full(self) -> bool:
        """Whether it is at one of its bounds, so that reading stops."""
        messages = self.messages
        return len(messages) >= self._max_messages or sum(map(len, messages)) >= self._max_bytes

    @property
    def has_room(self) -> bool:
        """Whether it is down to half of its bounds, so that reading goes on."""
        messages = self.messages
        return len(messages) <= self.half and sum(map(len, messages)) <= self._max_bytes // 2

    @property
    def is_too_fast(self) -> bool:
        """Whether the peer is beyond its messages a second, so that reading stops."""
        if self.limits.max_messages_per_second is None:
            return False
        return self.used_until > trio.current_time()

    @property
    def paused_at(self) -> float | None:
        """Since when nothing is read; None while it is."""
        return None if self.pause is None else self.pause.since

    def end_pause(self) -> None:
        if self.pause is not None and self.pause.scope is not None:
            self.pause.scope.cancel()
        self.pause = None

    def count(self, messages: int, now: float) -> None:
        """Count so many messages that have come, to whomever."""
        rate = self.limits.max_messages_per_second
        if rate is not None:
            self.used_until = max(self.used_until, now - _BURST_SECONDS) + messages / rate
