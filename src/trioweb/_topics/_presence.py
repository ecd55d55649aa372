"""Who is in which topic: what a hub has of that, and what hubs that are alone do themselves.

Whatever changes is told to followers, in the order in which it does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from .._arguments import check_kind
from .._dataclass import dataclass
from .._policy import check_message

if TYPE_CHECKING:
    from ._retention import Retention

# `Pump.do_later`: there may be hundreds of thousands of members, and what has to do with all of
# them is done some at a time.
DoLater: TypeAlias = Callable[[Iterator[int]], None]

# Entries of a table that are freed at a time; each costs a quarter of a unit of `_shape`.
_FREED_AT_ONCE: Final = 2048
# As for the keys of publications: a long one buys nothing.
_MAX_KEY: Final = 255
# Of a member, beside its key and its info: their places in tables, as measured in CPython 3.11.
_MEMBER_BYTES: Final = 200


class Member(NamedTuple):
    """What is known of whoever is in a topic."""

    user: str
    info: bytes


@dataclass(frozen=True, slots=True)
class PresenceCount:
    """How many are in a topic.

    Attributes:
        members: keys.
        users: how many different ones these are of.
    """

    members: int
    users: int


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """Somebody is in a topic now, or is not any more.

    Attributes:
        key, info: as given to `Topic.enter`.
        is_there: whether it is there.  If it was before, its info is new.
    """

    key: str
    info: bytes
    is_there: bool


class Follower(Protocol):
    """Is told who comes and goes.  These must be quick, and must not raise."""

    def changed(self, key: str, old: Member | None, new: Member | None) -> None:
        """*key* was this and is that; None for not being there."""

    def ended(self, error: Exception | None) -> None:
        """Nothing more is told: for that reason, or since the hub was closed."""


class Presence(Protocol):
    """What a hub knows of who is where.  What is not async has no checkpoint."""

    def enter(self, topic: str, key: str, member: Member) -> None:
        """*key* is in the topic.

        Raises:
            HubFull: there is no room.
        """

    async def wait_entered(self, topic: str, key: str) -> None:
        """Wait until the others can know it.  Checkpoint: not always."""

    def leave(self, topic: str, key: str) -> None:
        """*key* is not in the topic any more; nothing if it was not."""

    async def members(self, topic: str) -> dict[str, Member]:
        """Who is there.  Checkpoint: not always."""

    async def count(self, topic: str) -> PresenceCount:
        """How many are there.  Checkpoint: not always."""

    def follow(self, topic: str, follower: Follower) -> None:
        """Tell *follower* who comes and goes from now on."""

    def unfollow(self, topic: str, follower: Follower) -> None:
        """Tell it no more.  Idempotent."""

    def size(self, topic: str) -> int:
        """How many are there as far as is known here without asking."""

    def close(self) -> None:
        """The hub was closed."""


class LocalPresence:
    """The presence of a hub that is alone: all that there is is here."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._topics: dict[str, _There] = {}
        self._followers: dict[str, dict[Follower, None]] = {}

    def enter(self, topic: str, key: str, member: Member) -> None:
        there = self._topics.get(topic)
        old = None if there is None else there.members.get(key)
        if old == member:
            return
        self._retention.take(size_of_member(key, member))
        if there is None:
            there = self._topics[topic] = _There()
        if old is not None:
            there.drop_user(old.user)
            self._retention.give(size_of_member(key, old))
        there.members[key] = member
        there.users[member.user] += 1
        self._tell(topic, key, old, member)

    async def wait_entered(self, topic: str, key: str) -> None:
        pass

    def leave(self, topic: str, key: str) -> None:
        there = self._topics.get(topic)
        old = None if there is None else there.members.pop(key, None)
        if there is None or old is None:
            return
        there.drop_user(old.user)
        if not there.members:
            del self._topics[topic]
        self._retention.give(size_of_member(key, old))
        self._tell(topic, key, old, None)

    def _tell(self, topic: str, key: str, old: Member | None, new: Member | None) -> None:
        for follower in tuple(self._followers.get(topic, ())):
            follower.changed(key, old, new)

    async def members(self, topic: str) -> dict[str, Member]:
        there = self._topics.get(topic)
        return {} if there is None else dict(there.members)

    async def count(self, topic: str) -> PresenceCount:
        there = self._topics.get(topic)
        return PresenceCount(*((0, 0) if there is None else (len(there.members), len(there.users))))

    def follow(self, topic: str, follower: Follower) -> None:
        self._followers.setdefault(topic, {})[follower] = None

    def unfollow(self, topic: str, follower: Follower) -> None:
        followers = self._followers.get(topic, {})
        followers.pop(follower, None)
        if not followers:
            self._followers.pop(topic, None)

    def size(self, topic: str) -> int:
        there = self._topics.get(topic)
        return 0 if there is None else len(there.members)

    def close(self) -> None:
        for followers in tuple(self._followers.values()):
            for follower in tuple(followers):
                follower.ended(None)


class _There:
    """Who is in one topic."""

    __slots__ = ("members", "users")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.users: Counter[str] = Counter()

    def drop_user(self, user: str) -> None:
        self.users[user] -= 1
        if not self.users[user]:
            del self.users[user]


def size_of_member(key: str, member: Member) -> int:
    """Bytes of memory that a member takes, about."""
    return _MEMBER_BYTES + sys.getsizeof(key) + sys.getsizeof(member.info)


def check_member(key: str, info: bytes, user: str) -> Member:
    """Check what `Topic.enter` was given.

    Raises:
        TypeError, ValueError: one of them cannot be.
    """
    check_key("enter", key)
    check_kind("enter", "info", info, bytes)
    check_kind("enter", "user", user, str)
    check_message("enter(user=…)", user)
    return Member(user, info)


def check_key(call: str, key: str) -> None:
    """Raises: as `check_member`."""
    check_kind(call, "key", key, str)
    check_message(f"{call}(key=…)", key)
    if len(key) > _MAX_KEY:
        raise ValueError(f"{call}(key=…): {len(key)} characters, at most {_MAX_KEY} can be")


def free(table: dict[Any, Any], do_later: DoLater) -> None:
    """Free *table*, which nobody needs any more."""
    if len(table) > _FREED_AT_ONCE:
        do_later(_free(table))


def _free(table: dict[Any, Any]) -> Iterator[int]:
    while table:
        for _ in range(min(len(table), _FREED_AT_ONCE)):
            table.popitem()
        yield _FREED_AT_ONCE >> 2
