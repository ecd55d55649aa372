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

Those of the wire (1, 3, 4, 5, 6, 9) are checked by `topic_wire`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Final

import trio

from trioweb import Gap, Position, Topic, TopicPublication
from trioweb._topic_client._line import Line

from .topic_wire import WireTap

# What runs must have reached at least once in so many seeds, or they prove nothing.
KINDS: Final = (
    "lines",
    "recovered",
    "recovered in the reply",
    "gaps",
    "gaps in one epoch",
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
    "restarts",
    "Closes of the protocol",
)


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


class TopicChecks:
    """The record of one run.

    Attributes:
        violations: what was seen that must not be.
        reached: how often something happened that the checks are about.
        taps: the lines so far.
    """

    def __init__(self, *, ping: float, retained: dict[str, int]) -> None:
        self.violations: list[str] = []
        self.reached: Counter[str] = Counter()
        self.taps: list[WireTap] = []
        self._ping = ping
        self._retained = retained
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
