"""The presence of a hub that is a node: what it has entered, and how an engine comes to know it.

What was entered here is the truth, and the engine has a copy.  Each connection has a lease of its
own there.  Under a new one, and under one that had run out or was forgotten, all is entered; what
the lease before had, and this one has not, is nobody's then.  So whatever has happened to the
engine, to the connection or to this process is made good in the same way, and nothing has to be
remembered of those who left while nobody could be told.

Whom the engine has still to be told of stands in `_presence_updates`, and who waits for an answer
of its in `_presence_questions`; what others have entered is known to the mirrors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import enable_ki_protection

from .._waitable import Waitable
from ._commands import Answer, Changed, Command, Enter, Expire, Leave, Renew, Renewed
from ._engine_link import ignore
from ._mirrors import Mirrors
from ._presence import DoLater, Follower, Member, PresenceCount, size_of_member
from ._presence_questions import PresenceQuestions
from ._presence_updates import Place, PresenceUpdates
from ._reaper import Reaper

if TYPE_CHECKING:
    from ._engine_link import EngineLink
    from ._retention import Retention

# A node that is gone is present for so long, and one that stands still may for a bit less.
LEASE: Final = 15.0
# Two of these may be lost.
RENEWAL: Final = 5.0
# Members that leave before others may run: ten microseconds each.
_AT_ONCE: Final = 32


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
        self._mine: dict[str, dict[str, _Entered]] = {}
        self._mirrors = Mirrors(retention, do_later)
        self._updates = PresenceUpdates(self._describe, self._all_told, do_later)
        self._questions = PresenceQuestions()
        self._is_used = self._has_entered = self._is_closed = False
        self._link: EngineLink | None = None
        # Whether all has been entered on this link.
        self._is_synced = False
        self._lease = ""
        self._number = 0
        self._old_leases: list[str] = []
        self._reaper: Reaper | None = None
        # What is told to those who wait until all is known.
        self._changed = Waitable()
        self._waited_for: dict[_Entered, None] = {}

    # Those who are here.

    def enter(self, topic: str, key: str, member: Member) -> None:
        here = self._mine.get(topic, {})
        old = here.get(key)
        if old is not None and old.member == member:
            return
        self._retention.take(size_of_member(key, member))
        # It may have left just now.
        is_known = (topic, key) in self._updates
        if old is not None:
            self._drop(key, old)
            is_known = old.is_known
        self._mine.setdefault(topic, {})[key] = _Entered(member, is_known=is_known)
        self._has_entered = True
        self._send_soon(topic, key)

    async def wait_entered(self, topic: str, key: str) -> None:
        # What another has entered in its place, or has left, is that one's to wait for.
        while (entered := self._mine.get(topic, {}).get(key)) and not entered.is_confirmed:
            self._check_open()
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
                self._updates.drop((topic, key))

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
            members = await self._questions.members(await self._wait_synced(), topic)
            if members is not None:
                return members

    async def count(self, topic: str) -> PresenceCount:
        while True:
            count = await self._questions.count(await self._wait_synced(), topic)
            if count is not None:
                return count

    async def _wait_synced(self) -> EngineLink:
        """Wait until the engine knows whom this node has."""
        self._use()
        while self._link is None or (self._has_entered and not self._is_synced):
            self._check_open()
            await self._changed.wait_change()
        self._check_open()
        return self._link

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
        self._updates.connected(link)
        self._questions.connected(link)
        # When it is done it is told of more, if there is any.
        self._reaper = Reaper(link, partial(self._renew, link))
        if self._is_used:
            self._begin(link)

    def lost(self) -> None:
        """There is none any more."""
        self._link, self._is_synced = None, False
        self._updates.lost()
        self._mirrors.lost()
        self._questions.lost()

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
            self._updates.retry()
            self._renew(self._link)

    def _renew(self, link: EngineLink) -> None:
        link.send(Renew(self._lease, LEASE), partial(self._renewed, link))

    @enable_ki_protection
    def _renewed(self, link: EngineLink, answer: Answer) -> None:
        if self._link is not link or not isinstance(answer, Renewed):
            return  # if it was refused, perhaps not the next time
        if answer.is_new:
            self._updates.tell_anew(self._all())
        assert self._reaper is not None
        self._reaper.begin(answer.expired, answer.topics)
        self._updates.send()

    def _all(self) -> Iterator[Place]:
        """All who are here; others may come and leave meanwhile."""
        for topic in tuple(self._mine):
            for key in tuple(self._mine.get(topic, ())):
                yield topic, key

    def _send_soon(self, topic: str, key: str) -> None:
        """*key* has come or gone."""
        self._updates.add((topic, key))
        if not self._use():
            self._updates.send()

    def _describe(self, topic: str, key: str) -> tuple[Command, Callable[[], None] | None]:
        """What tells the engine how *key* stands in *topic*, for the updates."""
        here = self._mine.get(topic, {})
        entered = here.get(key)
        if entered is None:
            return Leave(topic, self._lease, key, not here), None
        entered.is_known = True
        return Enter(topic, self._lease, key, *entered.member), partial(self._confirm, entered)

    def _confirm(self, entered: _Entered) -> None:
        entered.is_confirmed = True
        self._settle(entered)

    def _all_told(self) -> None:
        """The engine knows whom this node has, for the updates."""
        if not self._is_synced and self._link is not None:
            self._synced(self._link)
        self._changed.changed()

    def _synced(self, link: EngineLink) -> None:
        self._is_synced = True
        for lease in self._old_leases:
            link.send(Expire(lease), ignore)
        if self._old_leases:
            self._old_leases.clear()
            self._renew(link)  # which tells whom they have left behind

    # The end.

    async def flush(self) -> None:
        """Leave all topics, and wait until the engine knows.  Checkpoint: not always."""
        if not self._has_entered:
            return
        for number, (topic, key) in enumerate(self._all(), 1):
            self.leave(topic, key)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        while not (self._updates.is_all_told and self._is_synced):
            await self._changed.wait_change()
        if self._link is not None:
            await self._questions.ask(self._link, Expire(self._lease))

    def close(self) -> None:
        self._is_closed = True
        for entered in tuple(self._waited_for):
            self._settle(entered)
        self._mirrors.close()
        self._changed.changed()
        self._questions.close()
