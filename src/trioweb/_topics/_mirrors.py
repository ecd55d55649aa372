"""Who follows the presence of which topics of an engine: a mirror for each of these."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from trio.lowlevel import enable_ki_protection

from .._errors import HubFull
from ._commands import Answer, Changed, Members, Present, Unwatch, Watch
from ._engine_link import ignore
from ._mirror import Mirror
from ._presence import DoLater, Follower

if TYPE_CHECKING:
    from ._engine_link import EngineLink
    from ._retention import Retention


class Mirrors:
    """The mirrors of a node.

    Args:
        do_later: see `NodePresence`.
    """

    def __init__(self, retention: Retention, do_later: DoLater) -> None:
        self._retention = retention
        self._do_later = do_later
        self._mirrors: dict[str, Mirror] = {}
        self._link: EngineLink | None = None

    def get(self, topic: str) -> Mirror | None:
        """The mirror of *topic*, if anybody follows it."""
        return self._mirrors.get(topic)

    def follow(self, topic: str, follower: Follower) -> None:
        mirror = self._mirrors.get(topic)
        if mirror is None:
            mirror = self._mirrors[topic] = Mirror(self._retention, self._do_later)
            mirror.followers[follower] = None
            if self._link is not None:
                self._watch(self._link, topic, mirror)
        mirror.followers[follower] = None

    def unfollow(self, topic: str, follower: Follower) -> None:
        mirror = self._mirrors.get(topic)
        if mirror is not None:
            mirror.followers.pop(follower, None)
            if not mirror.followers:
                self._end(topic, mirror, None)

    def begin(self, link: EngineLink) -> None:
        """Learn from *link* from now on, and all anew."""
        self._link = link
        for topic, mirror in self._mirrors.items():
            self._watch(link, topic, mirror)

    def lost(self) -> None:
        """That connection is no more."""
        self._link = None

    def changed(self, change: Changed) -> None:
        """The engine has told of *change*."""
        mirror = self._mirrors.get(change.topic)
        if mirror is not None:
            try:
                is_hole = mirror.changed(change)
            except HubFull as exc:
                self._end(change.topic, mirror, exc)
            else:
                if is_hole and self._link is not None:
                    self._read(self._link, change.topic, mirror, "0")

    def close(self) -> None:
        for mirror in tuple(self._mirrors.values()):
            mirror.end(None)

    def _end(self, topic: str, mirror: Mirror, error: HubFull | None) -> None:
        del self._mirrors[topic]
        mirror.end(error)
        if self._link is not None:
            self._link.send(Unwatch(topic), ignore)

    def _watch(self, link: EngineLink, topic: str, mirror: Mirror) -> None:
        link.send(Watch(topic), ignore)
        mirror.begin()
        self._read(link, topic, mirror, "0")

    def _read(self, link: EngineLink, topic: str, mirror: Mirror, cursor: str) -> None:
        link.send(
            Members(topic, cursor), partial(self._was_read, link, topic, mirror, mirror.reading)
        )

    @enable_ki_protection
    def _was_read(
        self, link: EngineLink, topic: str, mirror: Mirror, reading: int, answer: Answer
    ) -> None:
        # Of one that has ended another may have begun.
        if self._link is not link or self._mirrors.get(topic) is not mirror:
            return
        if isinstance(answer, Present):
            try:
                cursor = mirror.page(answer, reading)
            except HubFull as exc:
                self._end(topic, mirror, exc)
            else:
                if cursor is not None:
                    self._read(link, topic, mirror, cursor)
