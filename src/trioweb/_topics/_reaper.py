"""A reaper: clears up behind another node whose lease has run out, a page at a time.

Whoever renews a lease is told of such a one, and where it may have somebody.  Several nodes may do
this at once: what one has done the others find done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trio.lowlevel import enable_ki_protection

from ._commands import Answer, Reap, Reaped

if TYPE_CHECKING:
    from ._engine_link import EngineLink


class Reaper:
    """Of one connection.

    Args:
        done: called when all is cleared up that it was told of.
    """

    def __init__(self, link: EngineLink, done: Callable[[], None]) -> None:
        self._link = link
        self._done = done
        self._left: deque[tuple[str, str]] = deque()

    def begin(self, lease: str, topics: Sequence[str]) -> None:
        """Clear up behind *lease* in these *topics*, unless there is other work."""
        if not self._left and topics:
            self._left.extend((topic, lease) for topic in topics)
            self._reap("0")

    def _reap(self, cursor: str) -> None:
        topic, lease = self._left[0]
        self._link.send(Reap(topic, lease, cursor), self._reaped)

    @enable_ki_protection
    def _reaped(self, answer: Answer) -> None:
        if not isinstance(answer, Reaped):
            self._left.clear()  # it was refused; whoever renews next goes on
        elif answer.cursor != "0":
            self._reap(answer.cursor)
        else:
            self._left.popleft()
            if self._left:
                self._reap("0")
            else:
                self._done()
