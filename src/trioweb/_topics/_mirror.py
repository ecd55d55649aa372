"""A mirror: who is in one topic of an engine, as a node knows it that follows its changes.

It is read in pages, between which changes arrive.  Page and change are what was so when the engine
did them, and arrive in that order, so what they say last is what is so.  A change whose version is
not the next one says that another has not arrived, and all is read again.  What is different then
is told as if it had changed just now; whoever is not there any more some at a time, as there may be
very many.

Pure of I/O: the node hands in what arrives, and asks for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .._errors import HubFull
from ._commands import Changed, Present
from ._presence import DoLater, Follower, Member, free, size_of_member

if TYPE_CHECKING:
    from ._retention import Retention


# Members that are looked at before others may run, and what it costs to tell of them all.
_AT_ONCE: Final = 64
_COST: Final = 12 * _AT_ONCE


class Mirror:
    """Who is in a topic.

    Args:
        do_later: has a chore done; see `Pump.do_later`.

    Attributes:
        members: as far as is known.
        followers: who is told.
        reading: the number of the reading that counts; pages of another one are late.
    """

    def __init__(self, retention: Retention, do_later: DoLater) -> None:
        self.members: dict[str, Member] = {}
        self.followers: dict[Follower, None] = {}
        self.reading = 0
        self._retention = retention
        self._do_later = do_later
        self._size = 0
        self._version: int | None = None
        # Those who have been seen in this reading; None if all was read, and the others are gone.
        self._seen: dict[str, None] | None = None
        # Whether it was ever read to the end: before, nobody hears of whoever was there.
        self._is_whole = False

    def begin(self) -> None:
        """It is read from its beginning."""
        self.reading += 1
        self._version, self._seen = None, {}

    def page(self, page: Present, reading: int) -> str | None:
        """Take what was read; return where to read on: None for nowhere, "0" for all again.

        Raises:
            HubFull: there is no room for all of them.
        """
        if reading != self.reading or self._seen is None:
            return None
        if self._version is None:
            self._version = page.version
        elif self._version != page.version:
            self.begin()
            return "0"
        for key, user, info in page.members:
            self._seen[key] = None
            self._put(key, Member(user, info), tell=self._is_whole)
        if page.cursor != "0":
            return page.cursor
        self._is_whole = True
        self._do_later(self._drop_unseen(self._seen))
        return None

    def _drop_unseen(self, seen: dict[str, None]) -> Iterator[int]:
        """Tell that those are gone who are not among those *seen* in the reading that has ended."""
        reading = self.reading
        for number, key in enumerate(tuple(self.members), 1):
            if key not in seen:
                self._put(key, None, tell=True)
            if number % _AT_ONCE == 0:
                yield _COST
                if self.reading != reading:
                    return  # they are doubted again, or nobody asks any more
        self._seen = None
        free(seen, self._do_later)

    def changed(self, change: Changed) -> bool:
        """Take a change; return whether all has to be read again.  Raises: as `page`."""
        if self._version is None:
            return False  # it is part of what the first page will say
        if change.version != self._version + 1:
            self.begin()
            return True
        self._version += 1
        key, member = change.key, Member(change.user, change.info)
        if self._seen is not None:
            self._seen[key] = None
        if not change.is_there and not self._is_whole and key not in self.members:
            # It was there, and has not been read yet.
            self._tell(key, member, None)
        self._put(key, member if change.is_there else None, tell=True)
        return False

    def _put(self, key: str, new: Member | None, *, tell: bool) -> None:
        old = self.members.get(key)
        if old == new:
            return
        if new is not None:
            self._retention.take(size := size_of_member(key, new))
            self._size += size
        if old is not None:
            self._retention.give(size := size_of_member(key, old))
            self._size -= size
            del self.members[key]
        if new is not None:
            self.members[key] = new
        if tell:
            self._tell(key, old, new)

    def _tell(self, key: str, old: Member | None, new: Member | None) -> None:
        for follower in tuple(self.followers):
            follower.changed(key, old, new)

    def end(self, error: HubFull | None) -> None:
        """Nobody follows any more, or nobody can."""
        self._retention.give(self._size)
        free(self.members, self._do_later)
        self.members, self._size = {}, 0
        self.reading += 1
        self._version = self._seen = None
        for follower in tuple(self.followers):
            follower.ended(error)
