"""The inbox: what has come for one side and nobody has taken yet, and when that is too much.

Pure: the time is an argument.  It knows of no link: whoever reads asks it whether to go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from .._policy import Limits, Message, bound

# A peer that was quiet may send the messages of so long at once.
_BURST_SECONDS: Final = 1
# Every inbox's messages until it has one: an empty deque takes 760 bytes.
_NOTHING_YET: Final[deque[Message]] = deque(maxlen=0)


class Inbox:
    """Messages in the order in which they came, within the bounds of *limits*.

    Attributes:
        messages: what is there.
        half: reading goes on when no more than so many are there, after a pause.
        used_until: the time up to which the peer has used what it may send: that of a second is
            left to a peer that was quiet, and one that has used some of the future is too fast.
    """

    __slots__ = ("_limits", "_max_bytes", "_max_messages", "half", "messages", "used_until")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.messages = _NOTHING_YET
        self.stretch(1)
        self.used_until = -math.inf

    def stretch(self, factor: int) -> None:
        """Have *factor* times the bounds of the limits."""
        self._max_messages = bound(self._limits.inbox_messages) * factor
        self._max_bytes = bound(self._limits.inbox_bytes) * factor
        self.half = self._max_messages // 2

    def put(self, messages: Iterable[Message]) -> None:
        if self.messages is _NOTHING_YET:
            self.messages = deque(messages)
        else:
            self.messages.extend(messages)

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

    def count(self, messages: int, now: float) -> None:
        """Count so many messages that have come, to whomever."""
        rate = self._limits.max_messages_per_second
        if rate is not None:
            self.used_until = max(self.used_until, now - _BURST_SECONDS) + messages / rate
