"""A mirror: who is in one topic of an engine, as a node knows it that follows its changes.

It is read in pages, between which changes arrive.  Page and change are what was so when the engine
did them, and arrive in that order, so what they say last is what is so.  A change whose version is
not the next one says that another has not arrived, and all is read again.  What is different then
is told as if it had changed just now.

Pure of I/O: the node hands in what arrives, and asks for what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import HubFull
from ._commands import Changed, Present
from ._presence import Follower, Member, size_of_member

if TYPE_CHECKING:
    from ._retention import Retention


class Mirror:
    """Who is in a topic.

    Attributes:
        members: as it was told last.
        followers: who is told.
    """

    def __init__(self, retention: Retention) -> None:
        self.members: dict[str, Member] = {}
        self.followers: dict[Follower, None] = {}
        self._retention = retention
        self._version: int | None = None
        # What was read so far; None if all has been.
        self._fresh: dict[str, Member] | None = None
        # Whether it was ever read to the end: before, nobody hears of whoever was there.
        self._is_whole = False

    def begin(self) -> None:
        """It is read from its beginning."""
        self._give_up(self._fresh or {})
        self._version, self._fresh = None, {}

    def page(self, page: Present) -> str | None:
        """Take what was read; return where to read on: None for nowhere, "0" for all again."""
        if self._fresh is None:
            return None
        if self._version is None:
            self._version = page.version
        elif self._version != page.version:
            self.begin()
            return "0"
        for key, user, info in page.members:
            self._set(self._fresh, key, Member(user, info))
        if page.cursor != "0":
            return page.cursor
        fresh, self._fresh = self._fresh, None
        old, self.members = self.members, fresh
        for key, member in old.items():
            if key not in fresh and self._is_whole:
                self._tell(key, member, None)
        for key, member in fresh.items():
            if self._is_whole and old.get(key) != member:
                self._tell(key, old.get(key), member)
        self._give_up(old)
        self._is_whole = True
        return None

    def changed(self, change: Changed) -> bool:
        """Take a change; return whether all has to be read again."""
        if self._version is None:
            return False  # it is part of what the first page will say
        if change.version != self._version + 1:
            self.begin()
            return True
        self._version += 1
        new = Member(change.user, change.info) if change.is_there else None
        if self._fresh is not None:
            self._set(self._fresh, change.key, new)
            if self._is_whole:
                return False
        if self._fresh is None:
            old = self.members.get(change.key)
            self._set(self.members, change.key, new)
        else:
            # It is new to everybody.
            old = None if change.is_there else Member(change.user, change.info)
        if old != new:
            self._tell(change.key, old, new)
        return False

    def _set(self, members: dict[str, Member], key: str, member: Member | None) -> None:
        """Raises: HubFull: there is no room."""
        if member is not None:
            self._retention.take(size_of_member(key, member))
        old = members.pop(key, None)
        if old is not None:
            self._retention.give(size_of_member(key, old))
        if member is not None:
            members[key] = member

    def _give_up(self, members: dict[str, Member]) -> None:
        for key, member in members.items():
            self._retention.give(size_of_member(key, member))
        members.clear()

    def _tell(self, key: str, old: Member | None, new: Member | None) -> None:
        for follower in tuple(self.followers):
            follower.changed(key, old, new)

    def end(self, error: HubFull | None) -> None:
        """Nobody follows any more, or nobody can."""
        self._give_up(self.members)
        self._give_up(self._fresh or {})
        self._version = self._fresh = None
        for follower in tuple(self.followers):
            follower.ended(error)
