"""What must be true of topic clients whatever goes wrong: the record of a run, and its checks.

1. A reply to `subscribe` stands before the publications of its subscription, which come from its
   position on, each once; behind the reply to `unsubscribe` there are none.
2. What a program reads follows its position without a hole, and nothing twice; a Gap stands where
   something is missing, and nowhere else.
3. `recovered` is never said in part, and always where everything is still there.
4. Nobody's decoder fails.
5. A Close of the protocol says why.
6. Pings are periodic.
7. No call outlives its connection.
8. What a client publishes is published once, and what it was told to be published is.
9. Who joins and who leaves balance, and presence is who is subscribed.
10. After healing everybody is caught up within a bound; in the end nothing is left.
11. What a member holds is bounded, and a publication is encoded once for each encoding, however
    many get it.

Whoever subscribes, the client or the server, these hold.  Those of the wire (1, 3, 4, 5, 6, 9, 11)
are checked by `topic_wire`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import trio

from trioweb import (
    Gap,
    Hub,
    Limits,
    Position,
    Subscribed,
    Topic,
    TopicPublication,
    TopicServer,
)
from trioweb._topic_client._line import Line
from trioweb._topics._log import BLOCK_BYTES, BLOCK_MESSAGES

from .topic_wire import WireTap

# What runs must have reached at least once in so many seeds, or they prove nothing.
KINDS: Final = (
    "lines",
    "recovered",
    "recovered in the reply",
    "gaps",
    "gaps in one epoch",
    "subscribed from the start",
    "subscribed by the server",
    "unsubscribed by the server",
    "granted publications",
    "granted gaps",
    "what found no room",
    "full subscriptions",
    "joins",
    "leaves",
    "publications",
    "published",
    "published again",
    "cancelled publishing",
    "cancelled reads",
    "cancelled subscriptions",
    "cancelled clients",
    "cancelled calls",
    "cancelled giving",
    "restarts",
    "Closes of the protocol",
)

# What was offered is one chunk at most, and replies find room or wait for it.  A chunk is a block
# of the log, in an encoding that puts an envelope around each publication.
_ENVELOPE: Final = 100
_MOST_QUEUED: Final = Limits().send_bytes + BLOCK_BYTES + _ENVELOPE * BLOCK_MESSAGES


class Reader:
    """What one program has read of one topic, over all its clients and subscriptions."""

    def __init__(self, checks: TopicChecks, who: str, topic: str) -> None:
        self.topic = topic
        self.position: Position | None = None
        self._checks = checks
        self._name = f"{who} in {topic}"

    def begin(self, position: Position | None) -> None:
        """A subscription has begun, with that as its position."""
        if position is None or self.position not in (None, position):
            self._checks.fail(2, f"{self._name}: {position} was {self.position}")
        self.position = position

    def read(self, item: object, position: Position | None) -> None:
        """The program has an item, and its subscription this position."""
        before = self.position
        if isinstance(item, TopicPublication):
            self._checks.reached["publications"] += 1
            if before is None or item.offset != before.offset + 1:
                self._checks.fail(2, f"{self._name}: {item.offset} follows {before}")
            if before is not None:
                self.position = Position(before.epoch, item.offset)
                self._checks.delivered(self.topic, self.position, item.data[0])
        elif isinstance(item, Gap):
            self._checks.reached["gaps"] += 1
            assert item.position is not None
            self._checks.reached["gaps in one epoch"] += item.missing is not None
            if item.since != before or item.missing == 0:
                self._checks.fail(2, f"{self._name}: {item.since}, {item.missing}, but {before}")
            self.position = Position(*item.position)
        if self.position != position:
            self._checks.fail(2, f"{self._name}: at {position}, not at {self.position}")


class GrantedReader:
    """What one program has read of the topics to which the server has subscribed one client.

    Args:
        own: the topic that retains all, and that the client has from the start.
        has_room: whether its stream has room for whatever comes.

    Attributes:
        positions: how far it has each of them.
    """

    def __init__(self, checks: TopicChecks, who: str, own: str, *, has_room: bool) -> None:
        self.has_room = has_room
        self.positions: dict[str, Position] = {}
        self._checks = checks
        self._who = who
        self._own = own
        # Topics of which the last thing that was told is that something is missing.
        self._is_gap: set[str] = set()

    def read(self, topic: str, item: object) -> None:
        """The program has an item of *topic*."""
        before = self.positions.get(topic)
        match item:
            case TopicPublication(offset=offset):
                self._checks.reached["granted publications"] += 1
                if before is None:
                    # Where its beginning found no room, nobody has said in which epoch this is.
                    if self.has_room:
                        self._fail(topic, f"{offset} comes before a beginning")
                    return
                if offset != before.offset + 1:
                    self._fail(topic, f"{offset} follows {before}")
                self.positions[topic] = Position(before.epoch, offset)
                self._checks.delivered(topic, self.positions[topic], item.data[0])
            case Gap(since=since, position=position, missing=missing):
                assert position is not None
                self._checks.reached["granted gaps"] += 1
                is_recoverable = missing is not None and topic == self._own
                self._checks.reached["what found no room"] += is_recoverable and not self.has_room
                if missing == 0 or before not in (None, since):
                    self._fail(topic, f"a gap from {since} to {position}, but {before}")
                if self.has_room and is_recoverable:
                    self._fail(topic, f"{missing} are missing that could have been recovered")
                self.positions[topic] = Position(*position)
            case Subscribed(position=position, recovered=recovered):
                assert position is not None
                if before not in (None, position):
                    self._fail(topic, f"begins at {position}, not at {before}")
                if self.has_room and not recovered and topic not in self._is_gap:
                    self._fail(topic, f"not recovered at {position}, and no gap")
                self.positions[topic] = position
        if isinstance(item, Gap):
            self._is_gap.add(topic)
        else:
            self._is_gap.discard(topic)

    def _fail(self, topic: str, what: str) -> None:
        self._checks.fail(2, f"{self._who} in {topic}: {what}")


class TopicChecks:
    """The record of one run.

    Args:
        ping: seconds between two pings of the server's.
        retained: what each topic retains at least.
        formats: how many encodings there are.

    Attributes:
        violations: what was seen that must not be.
        reached: how often something happened that the checks are about.
        taps: the lines so far.
    """

    def __init__(self, *, ping: float, retained: Callable[[str], int], formats: int) -> None:
        self.violations: list[str] = []
        self.reached: Counter[str] = Counter()
        self.taps: list[WireTap] = []
        self._ping = ping
        self._retained = retained
        self._formats = formats
        self._keys: set[str] = set()
        # By topic and epoch.
        self._delivered: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self._logs: dict[tuple[str, str], list[str]] = {}
        self._confirmed: set[str] = set()

    def fail(self, check: int, what: str) -> None:
        self.violations.append(f"check {check} at {trio.current_time():.3f}: {what}")

    def tap(self, line: Line) -> WireTap:
        self.reached["lines"] += 1
        tap = WireTap(
            line,
            ping=self._ping,
            retained=self._retained,
            keys=self._keys,
            fail=self.fail,
            reached=self.reached,
        )
        self.taps.append(tap)
        return tap

    def delivered(self, topic: str, position: Position, text: str) -> None:
        """A program was given *text* as what stands there."""
        known = self._delivered[topic, position.epoch].setdefault(position.offset, text)
        if known != text:
            self.fail(1, f"{topic} {position}: {text!r} for one, {known!r} for another")

    def confirmed(self, text: str) -> None:
        """A client was told that it has published *text*."""
        self.reached["published"] += 1
        self._confirmed.add(text)

    def topic_ends(self, topic: Topic) -> None:
        """A server's life is over; *topic* retains all that it ever had."""
        texts = [json.loads(each.message)[0] for each in topic.history()]
        if len(texts) != topic.head:
            self.fail(8, f"{topic!r} has not all")
        self._logs[topic.name, topic.epoch] = texts
        for text, times in Counter(texts).items():
            if times > 1:
                self.fail(8, f"{topic!r}: {text!r} was published {times} times")

    def check_held(self, server: TopicServer, hub: Hub) -> None:
        """What each member holds, and how often publications are encoded."""
        limits = server.limits
        for member in server.members:
            topics, calls = len(member._seats), len(member._calls._scopes) if member._calls else 0
            queued = member.connection.buffered_amount
            if topics > limits.max_topics or calls > limits.max_calls or queued > _MOST_QUEUED:
                self.fail(11, f"{member!r}: {topics} topics, {calls} calls, {queued} bytes queued")
        for topic in tuple(hub.topics.values()):
            if len(topic._members) > self._formats:
                self.fail(11, f"{topic!r} is encoded {len(topic._members)} times")

    def check_pings(self, since: float, slack: float) -> None:
        """On all lines that are open, pings came each interval *since* then, when all was well."""
        until = trio.current_time()
        for tap in self.taps:
            if tap.connection.link.is_whole:
                times = [since, *(at for at in tap.pings if at >= since), until]
                steps = [b - a for a, b in pairwise(times)]
                if max(steps) > self._ping + slack or (
                    len(steps) > 2 and min(steps[1:-1]) < self._ping - slack
                ):
                    self.fail(6, f"pings came {steps} apart")

    def check_presence(self, topic: str, told: set[str], here: set[str]) -> None:
        """When all is quiet: *told* by the server, and who is *here* and has subscribed."""
        if told != here:
            self.fail(9, f"{topic}: {told} are said to be there, {here} are")
        for tap in self.taps:
            subscription = tap.subscriptions.get(topic)
            if subscription is None or not tap.connection.link.is_whole:
                continue
            for client, is_there in subscription.is_there.items():
                if is_there != (client in here):
                    self.fail(9, f"{topic}: {client} was said to be there: {is_there}")

    def finish(self) -> None:
        """The run is over."""
        for tap in self.taps:
            tap.check_close()
        for (name, epoch), texts in self._logs.items():
            for offset, text in self._delivered[name, epoch].items():
                if texts[offset - 1 : offset] != [text]:
                    self.fail(1, f"{name}: {offset} is not {text!r}")
        published = {text for texts in self._logs.values() for text in texts}
        for text in self._confirmed - published:
            self.fail(8, f"{text!r} was confirmed, and nobody has published it")
