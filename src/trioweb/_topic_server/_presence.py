"""Who is where: the seam behind which the members of topics are kept, and its form in memory.

A member's info is bytes that nobody here reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol

import trio

from .._policy import Retain
from .._topics import Hub, Topic

# What somebody who is written to slowly may miss; nobody is promised to be told all.
_RETAINED: Final = Retain(max_messages=256)
JOINED: Final = b"+"
LEFT: Final = b"-"


class Presence(Protocol):
    """Who is in which topic."""

    def enter(self, topic: str, client: str, user: str, info: bytes, *, tell: bool) -> None:
        """*client* is there.  Args: tell: whether those who listen to `changes` hear of it."""

    def leave(self, topic: str, client: str, *, tell: bool) -> None:
        """*client* is not there any more; nothing if it was not."""

    async def members(self, topic: str) -> Mapping[str, bytes]:
        """The infos of all who are there, by client, as they are now."""

    async def count(self, topic: str) -> tuple[int, int]:
        """How many clients and how many users are there."""

    def changes(self, topic: str) -> Topic:
        """Who comes and goes: JOINED or LEFT and the info, from now on, at most once each."""


class _There:
    """Who is in one topic."""

    __slots__ = ("infos", "users", "users_of")

    def __init__(self) -> None:
        self.infos: dict[str, bytes] = {}
        self.users_of: dict[str, str] = {}
        self.users: Counter[str] = Counter()


class LocalPresence:
    """Presence in this process.

    Args:
        hub: for `changes`; nothing else is in it.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._topics: dict[str, _There] = {}
        # Topics whose changes somebody listens to, or has listened to since it last was empty.
        self._changes: dict[str, Topic] = {}

    def enter(self, topic: str, client: str, user: str, info: bytes, *, tell: bool) -> None:
        there = self._topics.setdefault(topic, _There())
        there.infos[client] = info
        there.users_of[client] = user
        there.users[user] += 1
        if tell:
            self._tell(topic, JOINED + info)

    def leave(self, topic: str, client: str, *, tell: bool) -> None:
        there = self._topics.get(topic)
        if there is None or client not in there.infos:
            return
        info = there.infos.pop(client)
        user = there.users_of.pop(client)
        there.users[user] -= 1
        if not there.users[user]:
            del there.users[user]
        if tell:
            self._tell(topic, LEFT + info)
        if not there.infos:
            del self._topics[topic]
            self._changes.pop(topic, None)

    def _tell(self, topic: str, change: bytes) -> None:
        changes = self._changes.get(topic)
        if changes is not None and changes.subscribers:
            changes.publish(change)

    async def members(self, topic: str) -> Mapping[str, bytes]:
        await trio.lowlevel.checkpoint()
        there = self._topics.get(topic)
        return {} if there is None else dict(there.infos)

    async def count(self, topic: str) -> tuple[int, int]:
        await trio.lowlevel.checkpoint()
        there = self._topics.get(topic)
        return (0, 0) if there is None else (len(there.infos), len(there.users))

    def changes(self, topic: str) -> Topic:
        known = self._changes.get(topic)
        if known is None:
            known = self._changes[topic] = self._hub.topic(topic, retain=_RETAINED, slow="skip")
        return known
