"""What a hub's topics may take: how many there are, and how much memory their publications do.

At a bound those topics go first that nobody uses, the longest idle ahead; then the largest logs
are trimmed, which their slow consumers are told of.  What is left of a topic that goes is its
position, for a while: so whoever missed nothing is told that nothing is missing.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import trio

from .._errors import HubFull
from ._life import begin, forget, trim_bytes
from ._log import OVERHEAD_BYTES
from ._shape import Shapes
from ._sizes import Sizes

if TYPE_CHECKING:
    from ._topic import Topic

# What is kept of shapes is bounded by this part of the hub's bound, so that it never takes the
# place of what only the logs have.
_SHAPES_PART: Final = 8
# At the bound, so much more is trimmed than one publication needs: not each has to look again.
_SPARE_PART: Final = 256
# Positions are remembered of so many times the topics that there may be, while they take no more
# than this part of the hub's bound; each is some 250 bytes and a name, which peers may choose.
POSITIONS_PER_TOPIC: Final = 2
POSITIONS_PART: Final = 8
_POSITION_BYTES: Final = 250
# Members of topics take at most this part of the hub's bound: peers make them, and must not be able
# to take all that there is for publications.
_MEMBERS_PART: Final = 2
# So many publications are freed at a time, each about as costly as one of the units of `_shape`.
_BURIED_AT_ONCE: Final = 512


class Retention:
    """The topics of a hub that have a log or are used.

    Args:
        max_topics, max_bytes, linger: see `open_hub`.

    Attributes:
        max_bytes: what publications may take, which is what members of topics leave of it.
        topics: by name.
        messages, size: publications in all logs, and bytes of memory that they take.
        shapes: counts what is kept beside the logs.
        forgotten: topics that went to make room for others, so far.
    """

    def __init__(self, max_topics: int, max_bytes: int, linger: float) -> None:
        self.max_topics = max_topics
        self.max_bytes = max_bytes
        self.topics: dict[str, Topic] = {}
        self.messages = self.size = 0
        self.shapes = Shapes(max_bytes // _SHAPES_PART)
        self.forgotten = 0
        self._room_for_members = max_bytes // _MEMBERS_PART
        self._linger = linger
        # The publications of logs that have gone.
        self._remains: list[list[list[Any]]] = []
        self._idle: OrderedDict[Topic, None] = OrderedDict()  # longest idle first
        self._sizes: Sizes[Topic] = Sizes()
        # (until when, epoch, head) of topics that have gone, in the order in which they went.
        self._positions: OrderedDict[str, tuple[float, str, int]] = OrderedDict()
        self._positions_size = 0

    def add(self, topic: Topic) -> None:
        """*topic* is about to be used.

        Raises:
            HubFull: there is no room for another.
        """
        if topic.name not in self.topics:
            if topic._forgotten:
                begin(topic)
            self.make_room()
            if topic.name in self._positions:
                self._forget_position(topic.name)
            self.topics[topic.name] = topic
            self._idle[topic] = None

    def position(self, name: str) -> tuple[str, int] | None:
        """The epoch and the head of a topic that has gone, if they are still remembered."""
        until, epoch, head = self._positions.get(name, (-math.inf, "", 0))
        return (epoch, head) if until > trio.current_time() else None

    def make_room(self) -> None:
        """See that there is room for one more topic.

        Raises:
            HubFull: none can go.
        """
        while len(self.topics) >= self.max_topics:
            if not self._idle:
                raise HubFull(f"{self.max_topics} topics")
            self._forget_longest_idle()

    def settle(self, topic: Topic) -> None:
        """Put *topic* where it belongs after its log, subscribers or readers changed."""
        if topic._forgotten:
            return
        if not topic._is_idle:
            self._idle.pop(topic, None)
        elif not topic.retained and not (topic._window and topic._window.lingers):
            self.forget(topic)
        elif topic not in self._idle:
            self._idle[topic] = None

    # Memory.

    def take(self, size: int) -> None:
        """Have *size* bytes less for publications: a member of a topic takes them.

        Raises:
            HubFull: there is no room for more members.
        """
        if size > self._room_for_members:
            raise HubFull(f"members of topics have their part of {self.max_bytes} bytes")
        self.reserve(None, size)
        self.give(-size)

    def give(self, size: int) -> None:
        """Have *size* bytes more again."""
        self._room_for_members += size
        self.max_bytes += size

    def reserve(self, topic: Topic | None, size: int) -> None:
        """See that *topic*, or somebody else, may take *size* bytes more.

        Raises:
            HubFull: not even the newest publications of all others leave so much.
        """
        if self._remains:
            self._bury_as_much(size)
        if self.size + self.shapes.size + size <= self.max_bytes:
            return  # as nearly always
        if size <= self.max_bytes:
            self._forget_others(topic, size)
        spare = self.max_bytes // _SPARE_PART
        while (excess := self._excess(size)) > 0:
            largest = self._sizes.largest() if size <= self.max_bytes else None
            if largest is not None:
                trim_bytes(largest, excess + spare, keep=1)
            elif topic is not None and topic._log.size >= excess:
                # What is published takes the place of the newest.
                trim_bytes(topic, excess, keep=0)
            elif self.shapes.size and size <= self.max_bytes:
                self.shapes.drop_all()
            else:
                if topic is not None:
                    self.settle(topic)
                raise HubFull(f"{self.max_bytes} bytes")

    def _forget_others(self, topic: Topic | None, size: int) -> None:
        """Forget topics that nobody uses, but not *topic*, until there is room for *size* bytes."""
        if topic is not None:
            self.used(topic)
        while self._excess(size) > 0 and self._idle and next(iter(self._idle)) is not topic:
            self._forget_longest_idle()

    @property
    def room(self) -> int:
        """Bytes that can be had while nothing has to go."""
        return -self._excess(0)

    def _excess(self, size: int) -> int:
        return self.size + self.shapes.size + size - self.max_bytes

    def resized(self, topic: Topic, size: int, count: int) -> None:
        """The log of *topic* has *count* publications more, which take *size* bytes; less if
        they are negative."""
        self.size += size
        self.messages += count
        log = topic._log
        self._sizes.put(topic, log.size if log.head > log.first else None)

    def used(self, topic: Topic) -> None:
        """*topic*, which nobody else uses, was published to: it is the last to be called idle."""
        if topic in self._idle:
            self._idle.move_to_end(topic)

    # Forgetting.

    def _forget_longest_idle(self) -> None:
        self.forget(next(iter(self._idle)))
        self.forgotten += 1

    def forget(self, topic: Topic) -> None:
        """Drop *topic* and its log, but not yet its position."""
        self._idle.pop(topic, None)
        self._sizes.put(topic, None)
        del self.topics[topic.name]
        self.size -= topic._log.size
        self.messages -= topic.retained
        now = trio.current_time()
        self._positions[topic.name] = (now + self._linger, topic.epoch, topic.head)
        self._positions_size += size_of_position(topic.name)
        while (oldest := next(iter(self._positions))) != topic.name and (
            self._positions[oldest][0] <= now
            or len(self._positions) > POSITIONS_PER_TOPIC * self.max_topics
            or self._positions_size > self.max_bytes // POSITIONS_PART
        ):
            self._forget_position(oldest)
        forget(topic)

    def bury(self, topic: Topic) -> None:
        """Free the log of *topic*, whose memory is not counted any more: some of it at a time, as
        hundreds of thousands of publications take tens of milliseconds."""
        if topic.retained > _BURIED_AT_ONCE:
            self._remains.append(topic._log.give_up())
            topic._hub._pump.do_later(self._bury())

    def _bury(self) -> Iterator[int]:
        while self._remains:
            self._bury_some()
            yield _BURIED_AT_ONCE

    def _bury_as_much(self, size: int) -> None:
        """Free at least as much as *size* bytes: who publishes without a pause must not have more
        memory meanwhile."""
        for _ in range(1 + size // (_BURIED_AT_ONCE * OVERHEAD_BYTES)):
            if self._remains:
                self._bury_some()

    def _bury_some(self) -> None:
        remains = self._remains[-1]
        for column in remains:
            del column[-_BURIED_AT_ONCE:]
        if not any(remains):
            self._remains.pop()

    def _forget_position(self, name: str) -> None:
        del self._positions[name]
        self._positions_size -= size_of_position(name)


def size_of_position(name: str) -> int:
    return _POSITION_BYTES + sys.getsizeof(name)
