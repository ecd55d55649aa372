"""The rules of an engine about who is in which topic, in Python.

Pure but for the clock, which is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple
from zlib import crc32

from ._chance import new_random
from ._topics._commands import (
    Answer,
    Changed,
    Count,
    Counted,
    Done,
    Enter,
    Expire,
    Leave,
    Members,
    PresenceCommand,
    Present,
    Reap,
    Reaped,
    Renew,
    Renewed,
)

# Members are told and reaped by buckets, so that nobody waits for very many of them, and whoever
# is there all the while is told.
_BUCKETS: Final = 256
_PER_PAGE: Final = 256
# Of a bucket with very many, so many are removed at a time, each of which is told.
_REAPED_AT_ONCE: Final = 64
# Topics of a lease that has run out, told at a time.
_TOPICS_PER_LEASE: Final = 100


class _Member(NamedTuple):
    lease: str
    user: str
    info: bytes


class _There:
    """Who is in one topic, whoever has entered them."""

    __slots__ = ("buckets", "users", "version")

    def __init__(self) -> None:
        self.buckets: dict[int, dict[str, _Member]] = {}
        self.users: Counter[str] = Counter()
        # Whoever knows another life of this must not take its changes for the next ones.
        self.version = new_random().getrandbits(48)

    def get(self, key: str) -> _Member | None:
        return self.buckets.get(_bucket_of(key), {}).get(key)

    def put(self, key: str, member: _Member) -> None:
        self.remove(key)
        self.buckets.setdefault(_bucket_of(key), {})[key] = member
        self.users[member.user] += 1

    def remove(self, key: str) -> _Member | None:
        number = _bucket_of(key)
        bucket = self.buckets.get(number, {})
        member = bucket.pop(key, None)
        if member is not None:
            self.users[member.user] -= 1
            if not self.users[member.user]:
                del self.users[member.user]
            if not bucket:
                del self.buckets[number]
        return member

    def page(self, cursor: str) -> tuple[str, list[tuple[str, _Member]]]:
        """Some members, and where the next ones are."""
        found: list[tuple[str, _Member]] = []
        for number in range(int(cursor), _BUCKETS):
            if len(found) >= _PER_PAGE:
                return str(number), found
            found += self.buckets.get(number, {}).items()
        return "0", found


def _bucket_of(key: str) -> int:
    return crc32(key.encode("utf-8", "surrogatepass")) % _BUCKETS


class PresenceEngine:
    """Who is where, and until when.

    Args:
        clock: the time.
        push: called with each change.
    """

    def __init__(self, clock: Callable[[], float], push: Callable[[Changed], None]) -> None:
        self.topics: dict[str, _There] = {}
        self._clock = clock
        self._push = push
        # Until when leases hold, and where they have had somebody.
        self._leases: dict[str, float] = {}
        self._topics_of: dict[str, dict[str, None]] = {}

    def execute(self, command: PresenceCommand) -> Answer:
        match command:
            case Enter():
                self._enter(command)
            case Leave():
                self._leave(command)
            case Members(topic, cursor):
                return self._tell(topic, cursor)
            case Count(topic):
                there = self.topics.get(topic) or _There()
                return Counted(sum(map(len, there.buckets.values())), len(there.users))
            case Renew(lease, seconds):
                return self._renew(lease, seconds)
            case Expire(lease):
                if lease in self._leases:
                    self._leases[lease] = self._clock()
            case Reap():
                return self._reap(command)
        return Done()

    def clear(self) -> None:
        """Nothing is known any more."""
        self.topics.clear()
        self._leases.clear()
        self._topics_of.clear()

    def expire_node(self, node: str) -> None:
        """*node* is gone, and all its leases with it."""
        for lease in self._leases:
            if lease.startswith(f"{node}."):
                self._leases[lease] = self._clock()

    def _holds(self, lease: str) -> bool:
        return self._leases.get(lease, 0) > self._clock()

    def _enter(self, command: Enter) -> None:
        topic, lease, key, user, info = command
        there = self.topics.get(topic)
        if there is None:
            there = self.topics[topic] = _There()
        old = there.get(key)
        there.put(key, _Member(lease, user, info))
        self._topics_of.setdefault(lease, {})[topic] = None
        # Without one that holds, it is to be found by whoever clears up.
        self._leases.setdefault(lease, self._clock())
        if old is None or old[1:] != (user, info):
            self._tell_of(topic, there, key, user, info, is_there=True)

    def _leave(self, command: Leave) -> None:
        topic, lease, key, is_last = command
        there = self.topics.get(topic)
        member = None if there is None else there.get(key)
        if is_last:
            self._forget(lease, topic)
        if there is not None and member is not None and member.lease == lease:
            self._remove(topic, there, key)

    def _remove(self, topic: str, there: _There, key: str) -> None:
        member = there.remove(key)
        assert member is not None
        self._tell_of(topic, there, key, member.user, member.info, is_there=False)
        if not there.buckets:
            del self.topics[topic]

    def _tell_of(
        self, topic: str, there: _There, key: str, user: str, info: bytes, *, is_there: bool
    ) -> None:
        there.version += 1
        self._push(Changed(topic, there.version, key, user, info, is_there))

    def _tell(self, topic: str, cursor: str) -> Present:
        there = self.topics.get(topic)
        if there is None:
            return Present(0, "0", ())
        cursor, found = there.page(cursor)
        held = [(key, user, info) for key, (lease, user, info) in found if self._holds(lease)]
        return Present(there.version, cursor, held)

    # Leases.

    def _renew(self, lease: str, seconds: float) -> Renewed:
        is_new = not self._holds(lease)
        now = self._clock()
        self._leases[lease] = now + seconds
        for other, until in tuple(self._leases.items()):
            if until <= now:
                topics = tuple(islice(self._topics_of.get(other, ()), _TOPICS_PER_LEASE))
                if topics:
                    return Renewed(is_new, other, topics)
                del self._leases[other]
        return Renewed(is_new, "", ())

    def _reap(self, command: Reap) -> Reaped:
        topic, lease, cursor = command
        if self._holds(lease):
            return Reaped("0")  # it was renewed in the meantime
        there = self.topics.get(topic)
        if there is not None:
            begin = cursor
            cursor, found = there.page(begin)
            left = _REAPED_AT_ONCE
            for key, member in found:
                if not self._holds(member.lease):
                    if not left:
                        return Reaped(begin)
                    left -= 1
                    self._remove(topic, there, key)
            if cursor != "0":
                return Reaped(cursor)
        self._forget(lease, topic)
        return Reaped("0")

    def _forget(self, lease: str, topic: str) -> None:
        topics = self._topics_of.get(lease, {})
        topics.pop(topic, None)
        if not topics:
            self._topics_of.pop(lease, None)
