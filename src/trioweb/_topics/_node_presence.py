"""The presence of a hub that is a node: what it has entered, and how an engine comes to know it.

What was entered here is the truth, and the engine has a copy.  Each connection has a lease of its
own there.  Under a new one, and under one that had run out or was forgotten, all is entered; what
the lease before had, and this one has not, is nobody's then.  So whatever has happened to the
engine, to the connection or to this process is made good in the same way, and nothing has to be
remembered of those who left while nobody could be told.

    enter, leave ──▶ unsent ──▶ under way (so many) ──▶ confirmed
                        ▲            │ refused, until the lease is renewed
                        └────────────┘

There may be hundreds of thousands, so the engine is told of all of them in a round, some at a time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import enable_ki_protection

from .._waitable import Waitable
from ._commands import (
    Answer,
    Changed,
    Command,
    Count,
    Counted,
    Done,
    Enter,
    Expire,
    Leave,
    Members,
    Present,
    Renew,
    Renewed,
)
from ._engine_link import ignore
from ._mirrors import Mirrors
from ._presence import DoLater, Follower, Member, PresenceCount, free, size_of_member
from ._reaper import Reaper

if TYPE_CHECKING:
    from ._engine_link import EngineLink
    from ._retention import Retention

# A node that is gone is present for so long, and one that stands still may for a bit less.
LEASE: Final = 15.0
# Two of these may be lost.
RENEWAL: Final = 5.0
# Commands under way; more would only wait in another place, where nobody counts them.
_WINDOW: Final = 256
# Commands that are sent, or members that leave, before others may run: ten microseconds each.
_AT_ONCE: Final = 32
_COST: Final = 40 * _AT_ONCE


class _Entered:
    """Somebody whom this node has entered, whether the engine may know of that key, and whether it
    has answered."""

    __slots__ = ("is_confirmed", "is_known", "member", "news")

    def __init__(self, member: Member, *, is_known: bool) -> None:
        self.member = member
        self.is_known = is_known
        self.is_confirmed = False
        self.news: Waitable | None = None


class NodePresence:
    """See the top of this module, and `Presence`.

    Args:
        node: its name.
        do_later: has a chore done; see `Pump.do_later`.
    """

    def __init__(self, node: str, retention: Retention, do_later: DoLater) -> None:
        self._node = node
        self._retention = retention
        self._do_later = do_later
        self._mine: dict[str, dict[str, _Entered]] = {}
        self._mirrors = Mirrors(retention, do_later)
        # Keys that the engine does not know as they are, by topic and key; those that it refused;
        # and whom else it has to be told of, or may not know.
        self._unsent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._refused: dict[tuple[str, str], None] = {}
        self._rounds: deque[Iterator[tuple[str, str]]] = deque()
        # Whether more will be sent, without an answer first.
        self._is_sending = False
        self._under_way = 0
        self._is_used = self._has_entered = self._is_closed = False
        self._link: EngineLink | None = None
        # Whether all has been entered on this link.
        self._is_synced = False
        self._lease = ""
        self._number = 0
        self._old_leases: list[str] = []
        self._reaper: Reaper | None = None
        # What is told to those who wait until all is known, and to those who wait for an answer.
        self._changed = Waitable()
        self._questions: dict[Waitable, None] = {}
        self._waited_for: dict[_Entered, None] = {}

    # Those who are here.

    def enter(self, topic: str, key: str, member: Member) -> None:
        here = self._mine.get(topic, {})
        old = here.get(key)
        if old is not None and old.member == member:
            return
        self._retention.take(size_of_member(key, member))
        # It may have left just now.
        is_known = (topic, key) in self._unsent or (topic, key) in self._refused
        if old is not None:
            self._drop(key, old)
            is_known = old.is_known
        self._mine.setdefault(topic, {})[key] = _Entered(member, is_known=is_known)
        self._has_entered = True
        self._send_soon(topic, key)

    async def wait_entered(self, topic: str, key: str) -> None:
        # What another has entered in its place, or has left, is that one's to wait for.
        while (entered := self._mine.get(topic, {}).get(key)) and not entered.is_confirmed:
            if self._is_closed:
                raise trio.ClosedResourceError("the hub is closed")
            if entered.news is None:
                entered.news = Waitable()
                self._waited_for[entered] = None
            await entered.news.wait_change()

    def leave(self, topic: str, key: str) -> None:
        here = self._mine.get(topic, {})
        old = here.pop(key, None)
        if old is not None:
            self._drop(key, old)
            if not here:
                del self._mine[topic]
            if old.is_known:
                self._send_soon(topic, key)
            else:
                self._unsent.pop((topic, key), None)

    def _drop(self, key: str, entered: _Entered) -> None:
        self._retention.give(size_of_member(key, entered.member))
        self._settle(entered)

    def _settle(self, entered: _Entered) -> None:
        """Nobody waits for *entered* any more."""
        if entered.news is not None:
            self._waited_for.pop(entered, None)
            entered.news.changed()

    def size(self, topic: str) -> int:
        mirror = self._mirrors.get(topic)
        return len(self._mine.get(topic, ()) if mirror is None else mirror.members)

    # Questions.

    async def members(self, topic: str) -> dict[str, Member]:
        while True:
            link = await self._wait_synced()
            found: dict[str, Member] = {}
            cursor = "0"
            # What one connection has begun to tell, another engine may not know how to go on with.
            while (answer := await self._ask(link, Members(topic, cursor))) is not None:
                assert isinstance(answer, Present)
                found.update((key, Member(user, info)) for key, user, info in answer.members)
                cursor = answer.cursor
                if cursor == "0":
                    return found

    async def count(self, topic: str) -> PresenceCount:
        while True:
            answer = await self._ask(await self._wait_synced(), Count(topic))
            if answer is not None:
                assert isinstance(answer, Counted)
                return PresenceCount(answer.members, answer.users)

    async def _wait_synced(self) -> EngineLink:
        """Wait until the engine knows whom this node has."""
        self._use()
        while self._link is None or (self._has_entered and not self._is_synced):
            self._check_open()
            await self._changed.wait_change()
        self._check_open()
        return self._link

    async def _ask(self, link: EngineLink, command: Command) -> Answer | None:
        """The answer to *command*; None if *link* is lost before."""
        answers: list[Answer] = []
        news = Waitable()

        def answered(answer: Answer) -> None:
            answers.append(answer)
            news.changed()

        link.send(command, answered)
        self._questions[news] = None
        try:
            while not answers and self._link is link:
                self._check_open()
                await news.wait_change()
        finally:
            del self._questions[news]
        return answers[0] if answers else None

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the hub is closed")

    # Those who follow.

    def follow(self, topic: str, follower: Follower) -> None:
        self._use()
        self._mirrors.follow(topic, follower)

    def unfollow(self, topic: str, follower: Follower) -> None:
        self._mirrors.unfollow(topic, follower)

    def changed(self, change: Changed) -> None:
        """The engine has told of *change*."""
        self._mirrors.changed(change)

    # What the engine is told.

    def _use(self) -> bool:
        """Have a lease from now on; return whether that was not so before."""
        if self._is_used:
            return False
        self._is_used = True
        if self._link is not None:
            self._begin(self._link)
        return True

    def connected(self, link: EngineLink) -> None:
        """There is a connection to the engine, and nothing of the one before is done any more."""
        self._link = link
        self._under_way = 0
        free(self._unsent, self._do_later)
        free(self._refused, self._do_later)
        self._unsent, self._refused = OrderedDict(), {}
        self._rounds.clear()
        # When it is done it is told of more, if there is any.
        self._reaper = Reaper(link, partial(self._renew, link))
        if self._is_used:
            self._begin(link)

    def lost(self) -> None:
        """There is none any more."""
        self._link, self._is_synced = None, False
        self._mirrors.lost()
        for news in tuple(self._questions):
            news.changed()

    def _begin(self, link: EngineLink) -> None:
        if self._lease:
            self._old_leases.append(self._lease)
        self._number += 1
        self._lease = f"{self._node}.{self._number}"
        self._renew(link)
        self._mirrors.begin(link)

    def renew(self) -> None:
        """Time has passed."""
        if self._link is not None and self._is_used:
            if self._refused:
                self._rounds.append(_emptying(self._refused))
                self._refused = {}
            self._renew(self._link)

    def _renew(self, link: EngineLink) -> None:
        link.send(Renew(self._lease, LEASE), partial(self._renewed, link))

    @enable_ki_protection
    def _renewed(self, link: EngineLink, answer: Answer) -> None:
        if self._link is not link or not isinstance(answer, Renewed):
            return  # if it was refused, perhaps not the next time
        if answer.is_new:
            self._rounds.clear()
            self._rounds.append(self._all())
        assert self._reaper is not None
        self._reaper.begin(answer.expired, answer.topics)
        self._pump()

    def _all(self) -> Iterator[tuple[str, str]]:
        """All who are here; others may come and leave meanwhile."""
        for topic in tuple(self._mine):
            for key in tuple(self._mine.get(topic, ())):
                yield topic, key

    def _send_soon(self, topic: str, key: str) -> None:
        """*key* has come or gone."""
        self._unsent[topic, key] = None
        self._refused.pop((topic, key), None)
        if not self._use():
            self._pump()

    def _pump(self) -> None:
        """Send what there is room for, some of it at once; once there is nothing left, all is
        known."""
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
                if not self._is_synced and not self._under_way:
                    self._synced(link)
                return False
            self._send(link, *place)
        return True

    def _next(self) -> tuple[str, str] | None:
        """Whom to tell the engine of next."""
        while self._rounds:
            place = next(self._rounds[0], None)
            if place is not None:
                self._unsent.pop(place, None)
                return place
            self._rounds.popleft()
        return self._unsent.popitem(last=False)[0] if self._unsent else None

    def _send(self, link: EngineLink, topic: str, key: str) -> None:
        here = self._mine.get(topic, {})
        entered = here.get(key)
        command: Command
        if entered is None:
            command = Leave(topic, self._lease, key, not here)
        else:
            command = Enter(topic, self._lease, key, *entered.member)
            entered.is_known = True
        self._under_way += 1
        link.send(command, partial(self._answered, link, topic, key, entered))

    def _synced(self, link: EngineLink) -> None:
        self._is_synced = True
        for lease in self._old_leases:
            link.send(Expire(lease), ignore)
        if self._old_leases:
            self._old_leases.clear()
            self._renew(link)  # which tells whom they have left behind
        self._changed.changed()

    @enable_ki_protection
    def _answered(
        self, link: EngineLink, topic: str, key: str, entered: _Entered | None, answer: Answer
    ) -> None:
        if self._link is not link:
            return
        self._under_way -= 1
        if not isinstance(answer, Done):
            self._refused[topic, key] = None
        elif entered is not None:
            entered.is_confirmed = True
            self._settle(entered)
        self._pump()
        if self._is_all_told:
            self._changed.changed()

    @property
    def _is_all_told(self) -> bool:
        return not self._unsent and not self._rounds and not self._under_way

    # The end.

    async def flush(self) -> None:
        """Leave all topics, and wait until the engine knows.  Checkpoint: not always."""
        if not self._has_entered:
            return
        for number, (topic, key) in enumerate(self._all(), 1):
            self.leave(topic, key)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        while not (self._is_all_told and self._is_synced):
            await self._changed.wait_change()
        if self._link is not None:
            await self._ask(self._link, Expire(self._lease))

    def close(self) -> None:
        self._is_closed = True
        for entered in tuple(self._waited_for):
            self._settle(entered)
        self._mirrors.close()
        self._changed.changed()
        for news in tuple(self._questions):
            news.changed()


def _emptying(table: dict[tuple[str, str], None]) -> Iterator[tuple[str, str]]:
    while table:
        yield table.popitem()[0]
