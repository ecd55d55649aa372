"""What must be true whatever goes wrong: the record of a run, and the nine checks of it.

1. With `confirm=True` every message that the outbox accepted is received, in first-arrival
   order; nothing is received that was not sent.
2. A subscriber that resumes sees increasing offsets, and every hole is reported.
3. All subscribers of a topic see the same order.
4. Queue, task and socket counts stay bounded, and return to their base after healing.
5. After healing everybody is connected and caught up within a bound from the policies.
6. A dead peer is noticed within interval + timeout; a shutdown ends within its deadline.
7. Attempts to connect stay bounded.
8. Nothing said sent, flushed or confirmed is taken back by a cancellation.
9. Where the network is well, nothing is handled more often than a server's ends explain.

Rules kept here: whoever sees something tells it at once, without an await between the event and
the telling; a violation is noted and the run goes on, so that nothing can contain it.

The record stands outside the world: it sees what a crash makes its programs forget.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trioweb import CloseCode, Connection, Outbox, Subscription, Topic
from trioweb._policy import bound
from trioweb.testing import Network

from .scenario import RETRY, Person, Scenario

# What a run must have reached at least once in so many seeds, or they prove nothing.
KINDS = (
    "reconnects",
    "resends",
    "duplicates received",
    "evictions",
    "skips",
    "gaps",
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

# Among attempts without a stable connection between them, the bound of the wait has reached its
# maximum after so many; then a dozen in the length of that maximum has a chance of 1 : 12!.
_MOST_ATTEMPTS = math.ceil(math.log2(RETRY.maximum / RETRY.initial)) + 12


class Life:
    """One client from its opening to its end, as it was seen from outside.

    Attributes:
        accepted: the messages that its outbox took, in order.
        handled: how often each of them was, by number.
        received: how many of them have arrived, not counting duplicates, with `confirm`.
        cursor: (epoch, offset) of the last publication that it has got.
    """

    def __init__(self, name: str, person: Person, cursor: tuple[str, int] | None) -> None:
        self.name = name
        self.confirm = person.confirm
        self.subscribes = person.subscribes
        self.cursor = cursor
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
        since: where the client wants to resume.
        cursor: the offset that it has got, or that was before the first it can get.
        holes, passed: publications that it did not get; that were its own and not for it.
    """

    def __init__(self, life: Life, number: int, since: tuple[str, int] | None) -> None:
        self.life = life
        self.number = number
        self.since = since
        self.connection: Connection | None = None
        self.subscription: Subscription | None = None
        self.epoch = ""
        self.cursor = 0
        self.holes = 0
        self.passed = 0
        self.last_message = 0


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
        self.lives: dict[str, Life] = {}
        # By epoch: the text of each publication, and whose it was if he does not get it.
        self.publications: dict[str, list[tuple[str, Visit | None]]] = {}

    def fail(self, check: int, what: str) -> None:
        self.violations.append(f"check {check} at {trio.current_time():.3f}: {what}")

    def begin(self, name: str, person: Person, cursor: tuple[str, int] | None) -> Life:
        life = self.lives[name] = Life(name, person, cursor)
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
        visit = Visit(life, len(life.visits), life.cursor)
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
            for text in map(str, visit.connection.link.inbox)
        }
        number = life.received
        while number + 1 in waiting:
            number += 1
        return number

    # Publications from a server to its subscribers.

    def subscribed(self, visit: Visit, topic: Topic, subscription: Subscription, head: int) -> None:
        """A server has let a client subscribe, when its topic's head was *head*."""
        visit.subscription = subscription
        visit.epoch = topic.epoch
        epoch, offset = visit.since or (topic.epoch, head)
        is_known = epoch == topic.epoch and offset <= head
        visit.cursor = offset if is_known else 0
        if subscription.recovered and not is_known:
            self.fail(2, f"{visit.life.name}: resumed from {visit.since} at {head} as if whole")
        self.reached["gaps"] += not subscription.recovered

    def published(self, topic: Topic, offset: int, text: str, skip: Visit | None) -> None:
        log = self.publications.setdefault(topic.epoch, [])
        log.append((text, skip))
        if offset != len(log):
            self.fail(2, f"offset {offset} is number {len(log)} of its epoch")

    def delivered(self, life: Life, visit: Visit, item: str) -> None:
        """A client has received a publication."""
        self.messages += 1
        epoch, offset_text, text = item.split("|", 2)
        offset = int(offset_text)
        log = self.publications.get(epoch, [])
        if not 0 < offset <= len(log) or log[offset - 1][0] != text:
            self.fail(3, f"{life.name}: {offset} is not what was published as {offset}")
            return
        if epoch != visit.epoch or offset <= visit.cursor:
            self.fail(2, f"{life.name}: {epoch} {offset} follows {visit.epoch} {visit.cursor}")
        for _, skipped in log[visit.cursor : offset - 1]:
            visit.passed += skipped is visit
            visit.holes += skipped is not visit
        visit.cursor = offset
        life.cursor = epoch, offset
        assert visit.subscription is not None
        if visit.holes > visit.subscription.skipped:
            reported = visit.subscription.skipped
            self.fail(2, f"{life.name}: {visit.holes} are missing, {reported} were reported")

    def is_caught_up(self, visit: Visit) -> bool:
        """Whether a client has got all that its topic has for it, or was told what not."""
        subscription = visit.subscription
        if subscription is None or subscription.lag:
            return False
        log = self.publications.get(visit.epoch, [])
        missing = sum(skip is not visit for _, skip in log[visit.cursor :])
        return visit.holes + missing <= subscription.skipped

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

    def sample_topic(self, topic: Topic) -> None:
        # What came so recently is kept for those who lag.
        since = trio.current_time() - 1.25 * topic.retain.patience
        recent = sum(
            entry.time >= since for entry in topic._log.between(topic._log.first - 1, topic.head)
        )
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
