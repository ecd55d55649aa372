"""What must be true whatever goes wrong: the record of a run, and the eleven checks of it.

1. With `confirm=True` every message that the outbox accepted is received, in first-arrival
   order; nothing is received that was not sent.
2. A subscriber that resumes sees increasing offsets, and every hole is reported, and nothing else
   is; it is told that it has recovered only if nothing is missing.
3. All subscribers of a topic see the same order.
4. Queue, task and socket counts stay bounded, and return to their base after healing.
5. After healing everybody is connected and caught up within a bound from the policies.
6. A dead peer is noticed within interval + timeout; a shutdown ends within its deadline.
7. Attempts to connect stay bounded.
8. Nothing said sent, flushed or confirmed is taken back by a cancellation.
9. Where the network is well, nothing is handled more often than a server's ends explain.
10. Whoever can be written to gets what is published after a bounded amount of work for others.
11. What the topics of a hub hold is bounded, and what it says that they hold is true.

Rules kept here: whoever sees something tells it at once, without an await between the event and
the telling; a violation is noted and the run goes on, so that nothing can contain it.

The record stands outside the world: it sees what a crash makes its programs forget.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import trio

from trioweb import CloseCode, Connection, Hub, Outbox, Subscription, Topic
from trioweb._policy import Message, bound
from trioweb._topics import Since
from trioweb.testing import Network

from .meter import Meter
from .scenario import ARCHIVE, RETRY, Person, Scenario

# (epoch, offset) by topic.
Cursors: TypeAlias = Mapping[str, tuple[str, int]]

# What a run must have reached at least once in so many seeds, or they prove nothing.
KINDS = (
    "reconnects",
    "resends",
    "duplicates received",
    "evictions",
    "skips",
    "gaps",
    "recoveries",
    "forgotten topics",
    "readers caught up",
    "readers vanished",
    "hubs at their bound",
    "publications written at once",
    "half-open detections",
    "unanswered confirmations",
    "slow peers given up",
    "drains",
    "crashes",
    "handler errors",
    "cancelled sends",
    "cancelled flushes",
    "cancelled clients",
    "messages left unsent",
    "messages handled again",
    "messages given up",
)

_EVICTED = CloseCode.TRY_AGAIN_LATER, "slow consumer"

# Among attempts without a stable connection between them, the bound of the wait has reached its
# maximum after so many; then a dozen in the length of that maximum has a chance of 1 : 12!.
_MOST_ATTEMPTS = math.ceil(math.log2(RETRY.maximum / RETRY.initial)) + 12


class Life:
    """One client from its opening to its end, as it was seen from outside.

    Attributes:
        accepted: the messages that its outbox took, in order.
        handled: how often each of them was, by number.
        received: how many of them have arrived, not counting duplicates, with `confirm`.
        topics, slow, by_offset: what it subscribes to, and how.
        cursors: (epoch, offset) of the last publication that it has got, by topic.
    """

    def __init__(self, name: str, person: Person, cursors: Cursors) -> None:
        self.name = name
        self.confirm = person.confirm
        self.topics = person.topics
        self.slow = person.slow
        self.by_offset = person.by_offset
        self.cursors = dict(cursors)
        self.accepted: list[str] = []
        self.handled: Counter[int] = Counter()
        self.received = 0
        self.arrived: set[int] = set()
        self.visits: list[Visit] = []
        self.opened: list[Visit] = []
        self.tries: deque[float] = deque()
        self.flushed = 0
        self.cancelled = False
        self.unsent = 0


class Visit:
    """One attempt of a client to connect, and what became of it at the server.

    Attributes:
        since: where the client wants to resume, by topic.
        members: its subscriptions, by topic.
    """

    def __init__(self, life: Life, number: int) -> None:
        self.life = life
        self.number = number
        self.since: dict[str, Since] = dict(life.cursors)
        if life.by_offset:
            self.since = {topic: offset for topic, (_, offset) in life.cursors.items()}
        if ARCHIVE in life.topics:
            self.since.setdefault(ARCHIVE, 0)
        self.connection: Connection | None = None
        self.members: dict[str, Member] = {}
        self.last_message = 0


class Member:
    """A subscription as it was seen from outside.

    Attributes:
        cursor: the offset that the client has got, or that was before the first it can get.
        missing: publications of which the server said at the beginning that they are.
        received: publications that the client got.
        holes, passed: publications that it did not get; that were its own and not for it.
    """

    def __init__(self, visit: Visit, subscription: Subscription, cursor: int) -> None:
        self.visit = visit
        self.subscription = subscription
        self.epoch = subscription.topic.epoch
        self.cursor = cursor
        self.missing = subscription.skipped
        self.received = 0
        self.holes = 0
        self.passed = 0


class Checks:
    """The record of one run.

    Attributes:
        violations: what was seen that must not be.
        reached: how often something happened that the checks are about.
    """

    def __init__(self, scenario: Scenario, network: Network) -> None:
        self.scenario = scenario
        self.network = network
        self.violations: list[str] = []
        self.reached: Counter[str] = Counter()
        self.messages = 0
        self.meter = Meter(self.written_too_late)
        self.lives: dict[str, Life] = {}
        # By epoch: the text of each publication, and whose it was if he does not get it.
        self.publications: dict[str, list[tuple[str, Visit | None]]] = {}

    def fail(self, check: int, what: str) -> None:
        self.violations.append(f"check {check} at {trio.current_time():.3f}: {what}")

    def begin(self, name: str, person: Person, cursors: Cursors) -> Life:
        life = self.lives[name] = Life(name, person, cursors)
        return life

    # Connecting.

    def tried(self, life: Life) -> Visit:
        """A client is about to dial."""
        now = trio.current_time()
        life.tries.append(now)
        while life.tries[0] < now - RETRY.maximum:
            life.tries.popleft()
        if len(life.tries) > _MOST_ATTEMPTS:
            self.fail(7, f"{life.name}: {len(life.tries)} attempts in {RETRY.maximum:g} s")
        visit = Visit(life, len(life.visits))
        life.visits.append(visit)
        return visit

    def opened(self, life: Life, visit: Visit) -> None:
        life.opened.append(visit)
        self.reached["reconnects"] += len(life.opened) > 1

    def ended(self, life: Life, lasted: float) -> None:
        """A client's stream was closed, *lasted* seconds after its session began."""
        if lasted >= RETRY.stable_after:
            life.tries.clear()

    def lost(self, error: Exception) -> None:
        for kind, words in (
            ("half-open detections", "silent peer"),
            ("unanswered confirmations", "no confirmation"),
            ("slow peers given up", "took nothing"),
        ):
            self.reached[kind] += words in str(error)

    def silent(self, where: str, seconds: float) -> None:
        """Somebody who was reading has heard nothing for *seconds*."""
        limit = self.scenario.noticing + self.scenario.limits.close_timeout + 0.001
        if seconds > limit:
            self.fail(6, f"{where}: {seconds:.1f} s of silence were not noticed")

    # Messages from a client to a server.

    def accepted(self, life: Life, text: str) -> None:
        life.accepted.append(text)
        self.messages += 1

    def received(self, visit: Visit, text: str) -> bool:
        """A server has it; return whether for the first time."""
        life = visit.life
        number = int(text.split()[1])
        if number > len(life.accepted) or life.accepted[number - 1] != text:
            self.fail(1, f"{life.name}: received {text!r:.40}, which was not sent")
            return False
        if visit.last_message and number != visit.last_message + 1:
            self.fail(1, f"{life.name}: {number} follows {visit.last_message} on one connection")
        visit.last_message = number
        first = number not in life.arrived
        life.arrived.add(number)
        if not life.confirm:
            if not first:
                self.fail(1, f"{life.name}: {number} was received twice, unconfirmed")
        elif number == life.received + 1:
            life.received = number
        elif number > life.received:
            self.fail(1, f"{life.name}: {number} was received, but of those before {life.received}")
            life.received = number
        self.reached["duplicates received"] += not first
        return first

    def handled(self, life: Life, text: str) -> None:
        """A server that works in order handles it, before it answers a ping behind it."""
        number = int(text.split()[1])
        life.handled[number] += 1
        most = self.scenario.most_handled(text)
        if life.handled[number] > most:
            self.fail(9, f"{life.name}: {text!r:.40} was handled more than {most} times")
        self.reached["messages handled again"] += life.handled[number] == 2

    def flushed(self, life: Life, number: int) -> None:
        """`flush` says that everything up to *number* is where it should be."""
        life.flushed = max(life.flushed, number)
        if life.confirm and self.has_arrived(life) < number:
            self.fail(8, f"{life.name}: {number} were confirmed, {self.has_arrived(life)} arrived")

    def has_arrived(self, life: Life) -> int:
        """How many messages are at a server's endpoint, even if its program has yet to look."""
        waiting = {
            int(text.split()[1])
            for visit in life.visits
            if visit.connection is not None
            for text in map(str, visit.connection.link.inbox.messages)
        }
        number = life.received
        while number + 1 in waiting:
            number += 1
        return number

    # Publications from a server to its subscribers.

    def subscribed(self, visit: Visit, topic: Topic, subscription: Subscription) -> Member:
        """A server has let a client subscribe, just now."""
        name, head = visit.life.name, topic.head
        since = visit.since.get(topic.name)
        is_sure = not isinstance(since, int) or since == 0
        match since:
            case None:
                epoch, offset = topic.epoch, head
            case int():
                epoch, offset = topic.epoch, since
            case _:
                epoch, offset = since
        is_known = epoch == topic.epoch and offset <= head
        member = Member(visit, subscription, offset if is_known else 0)
        visit.members[topic.name] = member
        if subscription.recovered and not (is_known and is_sure and not member.missing):
            self.fail(2, f"{name}: resumed {topic!r} from {since} as if whole")
        if member.cursor + member.missing != subscription.cursor:
            self.fail(2, f"{name}: starts at {subscription.cursor}, {member.missing} are missing")
        self.reached["gaps"] += not subscription.recovered
        self.reached["recoveries"] += bool(since) and subscription.recovered
        self.meter.subscribed(subscription)
        return member

    def published(self, topic: Topic, offset: int, text: str, skip: Visit | None) -> None:
        log = self.publications.setdefault(topic.epoch, [])
        log.append((text, skip))
        self.meter.published(topic, offset)
        retained, most = topic._hub.statistics().retained_bytes, self.scenario.max_hub_bytes
        if retained > most:
            self.fail(11, f"{retained} bytes are retained, of at most {most}")
        self.reached["hubs at their bound"] += retained > most * 0.9
        if offset != len(log):
            self.fail(2, f"offset {offset} is number {len(log)} of its epoch")

    def delivered(self, life: Life, visit: Visit, item: Message) -> None:
        """A client has received a publication."""
        self.messages += 1
        item = item if isinstance(item, str) else item.decode()
        topic, epoch, offset_text, text = item.split("|", 3)
        offset = int(offset_text)
        log = self.publications.get(epoch, [])
        if not 0 < offset <= len(log) or log[offset - 1][0] != text:
            self.fail(3, f"{life.name}: {offset} is not what was published as {offset}")
            return
        member = visit.members[topic]
        if epoch != member.epoch or offset <= member.cursor:
            self.fail(2, f"{life.name}: {epoch} {offset} follows {member.epoch} {member.cursor}")
        for _, skipped in log[member.cursor : offset - 1]:
            member.passed += skipped is visit
            member.holes += skipped is not visit
        member.cursor = offset
        member.received += 1
        life.cursors[topic] = epoch, offset
        if member.holes > member.subscription.skipped:
            reported = member.subscription.skipped
            self.fail(2, f"{life.name}: {member.holes} are missing, {reported} were reported")

    def is_caught_up(self, visit: Visit) -> bool:
        """Whether a client has got all that its topics have for it, or was told what not."""
        if set(visit.life.topics) != set(visit.members):
            return False
        return all(map(self._has_caught_up, visit.members.values()))

    def _has_caught_up(self, member: Member) -> bool:
        subscription = member.subscription
        if subscription.lag:
            return False
        holes, passed = member.holes, member.passed
        for _, skip in self.publications.get(member.epoch, [])[member.cursor :]:
            passed += skip is member.visit
            holes += skip is not member.visit
        if holes > subscription.skipped:
            return False  # something is under way
        # What was its own may have been passed over with the others.
        if subscription.skipped > holes + passed:
            skipped = subscription.skipped
            self.fail(2, f"{member.visit.life.name}: {skipped} were reported, {holes} are missing")
        return True

    def members(self) -> Iterator[Member]:
        """All subscriptions that there were."""
        for life in self.lives.values():
            for visit in life.visits:
                yield from visit.members.values()

    def hub_ends(self, hub: Hub, members: Iterable[Member]) -> None:
        """The program of a hub ends, which had these subscriptions."""
        statistics = hub.statistics()
        self.reached["publications written at once"] = self.meter.written
        evicted, skipped = set[Connection](), 0
        for member in members:
            skipped += member.subscription.skipped - member.missing
            connection = member.subscription.connection
            if (connection.close_code, connection.close_reason) == _EVICTED:
                evicted.add(connection)
        if statistics.evicted != len(evicted):
            self.fail(2, f"{len(evicted)} were evicted, {statistics.evicted} were counted")
        if statistics.skipped != skipped:
            self.fail(2, f"{skipped} were skipped, {statistics.skipped} were counted")
        self.reached["evictions"] += len(evicted)
        self.reached["skips"] += skipped > 0
        self.reached["forgotten topics"] += statistics.forgotten

    def written_too_late(self, subscription: Subscription, work: float) -> None:
        self.fail(10, f"{subscription!r}: {work:.0f} µs of work were done for others first")

    # What must not take too long, or become too much.

    @contextmanager
    def within(self, seconds: float, check: int, what: str) -> Iterator[None]:
        """Allow a block *seconds*, after which it is cancelled."""
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            self.fail(check, f"{what} took more than {seconds:g} s")

    def sample_connection(self, connection: Connection) -> None:
        """What one connection holds is bounded (the bounds: see `Limits`)."""
        limits = self.scenario.limits
        statistics = connection.statistics()
        # One write may go beyond: a block of a topic, or a message.
        if statistics.buffered_amount > limits.send_bytes + 2**16 + 1000:
            self.fail(4, f"{connection!r} holds {statistics.buffered_amount} bytes to write")
        # One read may.  A message of ours has at least 10 bytes.
        if statistics.inbox_messages > 4 * bound(limits.inbox_messages) + 2**16 // 10:
            self.fail(4, f"{connection!r} holds {statistics.inbox_messages} messages to receive")

    def sample_outbox(self, life: Life, buffered: int, policy: Outbox) -> None:
        if buffered > policy.max_bytes:
            self.fail(4, f"{life.name}: {buffered} bytes in the outbox")

    def sample_hub(self, hub: Hub) -> None:
        """What the hub's bound is about, asked of the publications themselves."""
        retention = hub._retention
        logs = [topic._log for topic in retention.topics.values()]
        frames = (frame for log in logs for frame in log.frames(log.first - 1, log.head))
        held = sum(map(sys.getsizeof, frames))
        statistics = hub.statistics()
        if not held <= statistics.retained_bytes:
            self.fail(11, f"{held} bytes of frames are held, {statistics.retained_bytes} counted")

    def sample_topic(self, topic: Topic) -> None:
        # What came so recently is kept for those who lag.
        since = trio.current_time() - 1.25 * topic.retain.patience
        log = topic._log
        recent = sum(log.time(offset) >= since for offset in range(log.first, log.head + 1))
        if topic.retained > 2 * topic.retain.max_messages + 1 + recent:
            self.fail(4, f"{topic!r} retains {topic.retained} publications")

    # The end.

    def finish(self) -> None:
        """Everybody has gone: look at it all once more."""
        for life in self.lives.values():
            sent = len(life.accepted)
            self.reached["messages left unsent"] += life.unsent > 0
            if not life.confirm:
                continue
            # What `Unsent` told, and what a cancelled client leaves, may be missing.
            owed = life.flushed if life.cancelled else sent - life.unsent
            if life.received < owed:
                self.fail(1, f"{life.name}: {owed} had to arrive, {life.received} did")

    def contained(self, connection: Connection) -> None:
        """A handler had raised while its connection was open."""
        self.reached["handler errors"] += 1
        if connection.close_code != CloseCode.INTERNAL_ERROR:
            self.fail(4, f"a handler's error closed its connection with {connection.close_code}")
