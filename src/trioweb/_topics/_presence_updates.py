"""What an engine has to be told of whom a node has entered, until it knows all of them.

    add ──▶ unsent ──▶ under way (so many) ──▶ done
               ▲            │ refused, until `retry`
               └────────────┘

What is said of a key is asked for when its turn has come.  So an engine that stalls is owed one
command for each key, however often that comes and goes.  There may be hundreds of thousands, so the
engine is told of all of them in a round, some at a time.

Knows neither members nor leases.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from trio.lowlevel import enable_ki_protection

from ._commands import Answer, Command, Done
from ._presence import DoLater, free

if TYPE_CHECKING:
    from ._engine_link import EngineLink

# Commands under way; more would only wait in another place, where nobody counts them.
_WINDOW: Final = 256
# Commands that are sent before others may run: ten microseconds each.
_AT_ONCE: Final = 32
_COST: Final = 40 * _AT_ONCE

# A topic's name, and a key in it.
Place: TypeAlias = tuple[str, str]


class PresenceUpdates:
    """See the top of this module.

    Args:
        describe: what says how a key stands in a topic now, and is called with both; it returns the
            command, and what to call when the engine has done that.
        on_all_told: called when nothing is left and nothing under way.
        do_later: has a chore done; see `Pump.do_later`.
    """

    def __init__(
        self,
        describe: Callable[[str, str], tuple[Command, Callable[[], None] | None]],
        on_all_told: Callable[[], None],
        do_later: DoLater,
    ) -> None:
        self._describe = describe
        self._on_all_told = on_all_told
        self._do_later = do_later
        # Keys that the engine does not know as they are; those that it refused; and whom else it
        # has to be told of, or may not know.
        self._unsent: OrderedDict[Place, None] = OrderedDict()
        self._refused: dict[Place, None] = {}
        self._rounds: deque[Iterator[Place]] = deque()
        # Whether more will be sent, without an answer first.
        self._is_sending = False
        self._under_way = 0
        self._link: EngineLink | None = None

    @property
    def is_all_told(self) -> bool:
        """Whether nothing is left and nothing under way."""
        return not self._unsent and not self._rounds and not self._under_way

    def __contains__(self, place: Place) -> bool:
        """Whether a change of *place* is still to be told, or was refused."""
        return place in self._unsent or place in self._refused

    def add(self, place: Place) -> None:
        """*place* has come or gone."""
        self._unsent[place] = None
        self._refused.pop(place, None)

    def drop(self, place: Place) -> None:
        """Nothing is to be told of *place*."""
        self._unsent.pop(place, None)

    def retry(self) -> None:
        """Have what was refused told again."""
        if self._refused:
            self._rounds.append(_emptying(self._refused))
            self._refused = {}

    def tell_anew(self, places: Iterator[Place]) -> None:
        """Have all *places* told, whatever was told of them."""
        self._rounds.clear()
        self._rounds.append(places)

    def connected(self, link: EngineLink) -> None:
        """There is a connection to the engine, and nothing of the one before is done any more."""
        self._link = link
        self._under_way = 0
        free(self._unsent, self._do_later)
        free(self._refused, self._do_later)
        self._unsent, self._refused = OrderedDict(), {}
        self._rounds.clear()

    def lost(self) -> None:
        """There is none any more."""
        self._link = None

    def send(self) -> None:
        """Send what there is room for, some of it at once."""
        if self._send_some() and not self._is_sending:
            self._is_sending = True
            self._do_later(self._send_more())

    def _send_more(self) -> Iterator[int]:
        while self._send_some():
            yield _COST
        self._is_sending = False

    def _send_some(self) -> bool:
        """Return whether there may be more to send."""
        link = self._link
        if link is None:
            return False
        for _ in range(_AT_ONCE):
            if self._under_way == _WINDOW:
                return False
            place = self._next()
            if place is None:
                if not self._under_way:
                    self._on_all_told()
                return False
            command, done = self._describe(*place)
            self._under_way += 1
            link.send(command, partial(self._answered, link, place, done))
        return True

    def _next(self) -> Place | None:
        """Whom to tell the engine of next."""
        while self._rounds:
            place = next(self._rounds[0], None)
            if place is not None:
                self._unsent.pop(place, None)
                return place
            self._rounds.popleft()
        return self._unsent.popitem(last=False)[0] if self._unsent else None

    @enable_ki_protection
    def _answered(
        self, link: EngineLink, place: Place, done: Callable[[], None] | None, answer: Answer
    ) -> None:
        if self._link is not link:
            return
        self._under_way -= 1
        if not isinstance(answer, Done):
            self._refused[place] = None
        elif done is not None:
            done()
        self.send()


def _emptying(table: dict[Place, None]) -> Iterator[Place]:
    while table:
        yield table.popitem()[0]
