"""What a seed chooses: who takes part, under which policies, and what goes wrong when.

Rules kept here: a scenario is data and its `repr` makes it again, so that one that failed can be
kept and cut down by hand; swarm style, each seed switches on some kinds of trouble only, because
a run with all of them hides what needs a stretch of calm.

Knows nothing of servers and clients; `world` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Literal, TypeVar, get_args

from trioweb import Heartbeat, Limits, Retain, Retry
from trioweb.testing import Conditions, Fault, Plan
from trioweb.testing._faults import HOST_KINDS, KINDS, FaultKind

_T = TypeVar("_T")

TroubleKind = Literal[
    "restart",  # a server is drained, and starts anew
    "sick",  # a server accepts connections, and its handler ends them at once
    "poison",  # a message on which the handler raises
    "cancel",  # a client is cancelled, and another one takes its place
    "leave",  # the same, but its block is left normally
    "rush",  # readers come to a server and catch up, all at once
]

Slow = Literal["evict", "skip", "latest"]

# The same everywhere, so that one bound holds for all: see `Scenario.recovery`.
RETRY: Final = Retry(initial=0.5, maximum=10, stable_after=5)
GRACE: Final = 5.0  # of a drain
SPREAD: Final = 2.0
RESTART_PAUSE: Final = 3.0  # until a drained server is back
SLACK: Final = 2.0  # for what policies say nothing about: latency, a tick more

PORT: Final = 80  # of every server, with TLS or without
SERVERS: Final = ("north", "south")
NEWS: Final = "news"  # what clients say, as text
TICKS: Final = "ticks"  # what a server says by itself, in bursts, as bytes
ARCHIVE: Final = "archive"  # what a server has said before anybody came, large

# Rushes are only where there is something to come for.
_TROUBLES: Final = tuple(kind for kind in get_args(TroubleKind) if kind != "rush")
_AMPLE: Final = 64 * 2**20
_CONDITIONS: Final = (
    Conditions(segment=1),
    Conditions(latency=2),
    Conditions(latency=0.1, jitter=1),
    Conditions(bandwidth=500),
    Conditions(bandwidth=10, segment=1),
)


@dataclass(frozen=True)
class Person:
    """One client: what it does, and how carefully.

    Args:
        confirm: `Outbox(confirm=True)`.
        topics: it resumes these where it left them.
        slow: what it asks for instead of the topics' own policy.
        by_offset: it does not say of which epoch the offset is.
        outbox: messages that its outbox holds.
        size: about how many characters its messages have.
        fickle: what it waits for is often cancelled.
        nap: seconds that it takes for each message received.
    """

    name: str
    confirm: bool = True
    topics: tuple[str, ...] = (NEWS,)
    slow: Slow | None = None
    by_offset: bool = False
    outbox: int = 1000
    size: int = 20
    fickle: bool = False
    nap: float = 0


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong with a program, not with the network; `target` is its host."""

    kind: TroubleKind
    target: str
    at: float
    duration: float = 0


@dataclass(frozen=True)
class Archive:
    """A topic that takes many turns to catch up with, and those who do.

    Args:
        publications: how many a server has made of it when it begins.
        size: bytes of each; every other one is text.
        readers: come and leave together.  The first of them reads slowly, and the second
            vanishes when it is half through.
        max_bytes: that it retains.
    """

    publications: int
    size: int
    readers: int
    max_bytes: int


@dataclass(frozen=True)
class Scenario:
    """Everything that decides a run; what is left to chance in it comes from `seed`.

    Args:
        busy: seconds in which messages are sent and things go wrong.
        quiet: seconds after that, in which nothing may go wrong.
        pause: seconds between two messages of a client, on average.
        secure: servers speak TLS.
        max_hub_bytes, linger: of the servers' hubs.
        ticks: seconds between two bursts of TICKS, on average; None for none.
        echo: who publishes gets it back.
        nap: seconds that a server takes for each message.
        orderly: servers answer a ping behind what they have handled; see `OrderlyBackend`.
        max_resends: of the clients' outboxes.
        max_bytes: what a connection holds in each direction, see `Network`.
    """

    seed: int
    servers: tuple[str, ...] = SERVERS[:1]
    people: tuple[Person, ...] = (Person("ann"), Person("bob"))
    heartbeat: Heartbeat = Heartbeat()
    limits: Limits = Limits(close_timeout=5, connect_timeout=8)
    secure: bool = False
    max_hub_bytes: int = 64 * 2**20
    linger: float = 300
    retain: Retain = Retain()
    slow: Slow = "evict"
    ticks: float | None = None
    archive: Archive | None = None
    echo: bool = True
    nap: float = 0
    orderly: bool = False
    max_resends: int = 20
    conditions: Conditions = field(default=Conditions())
    max_bytes: int = 65536
    busy: float = 100
    quiet: float = 0
    pause: float = 5
    plan: Plan = field(default=Plan())
    troubles: tuple[Trouble, ...] = ()

    @property
    def noticing(self) -> float:
        """Seconds of silence within which a dead peer must have been noticed."""
        return self.heartbeat.interval + self.heartbeat.timeout

    @property
    def recovery(self) -> float:
        """Seconds after healing within which everybody must be connected and caught up.

        The worst that the policies allow: a connection died just before; that is noticed, its
        close timeout passes, the longest wait of the retry policy, and a slow handshake.  Who
        has come back has up to a full inbox and outbox to go through.
        """
        backlog = 400 * (self.nap + max(person.nap for person in self.people))
        limits = self.limits
        ending = max(self.noticing, limits.connect_timeout, limits.write_timeout)
        opening = RETRY.maximum + limits.connect_timeout
        dying = self.max_resends * RETRY.maximum if self.orderly else 0
        return ending + limits.close_timeout + opening + backlog + dying + SLACK

    def most_handled(self, text: str) -> int:
        """How often orderly servers, on a network that is well, may handle this message.

        Once, and once more for each restart, which may come before the pong.  When a server dies of
        the last message of a burst, the other nine may be unconfirmed; the next session begins with
        a window of one, and has at most half as many unconfirmed when it comes there, so each of
        them is handled at most four times more.
        """
        kinds = [trouble.kind for trouble in self.troubles]
        if text.endswith("poison"):
            # The first time is none of the resends, nor is one whose path has yet to be proved.
            return self.max_resends + 2 + kinds.count("restart")
        return 1 + kinds.count("restart") + 4 * kinds.count("poison")

    @classmethod
    def of(cls, seed: int) -> Scenario:
        """What *seed* chooses."""
        return _Choice(seed).scenario()


class _Choice:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = Random(seed)

    def scenario(self) -> Scenario:
        one_of, chance = self._random.choice, self._chance
        # Long silences make long runs, which cost hardly more.
        interval = one_of((20, 60, 300))
        busy = 60 + 2.0 * interval
        names = ("ann", "bob", "cas", "dan")[: one_of((2, 3, 3, 4))]
        servers = one_of((SERVERS[:1], SERVERS[:1], SERVERS))
        small = chance(0.5)
        slow: Slow = one_of(("evict", "skip", "latest"))
        calm = Scenario(
            seed=self._seed,
            servers=servers,
            people=tuple(self._person(name, small=small) for name in names),
            heartbeat=Heartbeat(interval=interval, timeout=one_of((5, 20))),
            limits=Limits(
                close_timeout=5,
                connect_timeout=8,
                inbox_messages=one_of((4, 256)),
                send_bytes=one_of((200, 200, 65536)),
            ),
            retain=Retain(
                max_messages=one_of((3, 3, 10, 1000)),
                max_age=one_of((None, None, busy / 4)),
                patience=one_of((0, 0, 0, 1)),
            ),
            slow=slow,
            secure=chance(0.2),
            max_hub_bytes=one_of((_AMPLE, _AMPLE, 10_000)),
            linger=one_of((300, 300, 5)),
            ticks=one_of((None, busy / 8)),
            echo=chance(0.7),
            nap=one_of((0, 0, 0, 0.1)),
            conditions=Conditions(
                latency=one_of((None, 0.01, 0.2)),
                jitter=one_of((None, 0.05)),
                segment=one_of((None, None, 300)),
            ),
            max_bytes=one_of((1000, 4096)) if small else 65536,
            busy=busy,
            quiet=6.0 * interval,
            pause=busy / 6,
        )
        scenario = replace(calm, plan=self._plan(calm), troubles=self._troubles(calm))
        if self._seed % 10 == 2:
            return self._archived(scenario)
        return self._orderly(scenario) if self._seed % 5 == 4 else scenario

    def _archived(self, scenario: Scenario) -> Scenario:
        """The same with servers that have much to be caught up with, and room to write it."""
        one_of = self._random.choice
        archive = Archive(publications=30, size=20_000, readers=16, max_bytes=2**20)
        rushes = tuple(
            Trouble("rush", one_of(scenario.servers), self._moment(scenario)) for _ in range(2)
        )
        whole = archive.publications * archive.size
        return replace(
            scenario,
            people=tuple(
                replace(person, topics=(NEWS, TICKS), nap=0) for person in scenario.people
            ),
            limits=replace(scenario.limits, send_bytes=one_of((200, 65536, 65536))),
            max_hub_bytes=one_of((_AMPLE, whole, whole // 2)),
            ticks=scenario.busy / 8,
            archive=archive,
            conditions=Conditions(latency=one_of((None, 0.01))),
            max_bytes=65536,
            troubles=scenario.troubles + rushes,
        )

    def _orderly(self, scenario: Scenario) -> Scenario:
        """The same with servers that work in order, and a network that is well."""
        people = (
            replace(person, topics=(), nap=0, outbox=max(person.outbox, 20))
            for person in scenario.people
        )
        timeout = scenario.heartbeat.timeout
        troubles = scenario.troubles
        if self._chance(0.5):
            name = self._random.choice(scenario.people).name
            troubles += (Trouble("poison", name, self._moment(scenario)),)
        return replace(
            scenario,
            people=tuple(people),
            secure=False,
            nap=self._random.choice((0, 0.01, 0.15 * timeout, 0.75 * timeout)),
            orderly=True,
            max_resends=8,
            plan=Plan(),
            troubles=troubles,
        )

    def _person(self, name: str, *, small: bool) -> Person:
        one_of, chance = self._random.choice, self._chance
        return Person(
            name,
            confirm=chance(0.65),
            topics=one_of(((), (NEWS,), (NEWS, TICKS), (NEWS, TICKS), (TICKS,))),
            slow=one_of((None, None, None, "evict", "skip", "latest")),
            outbox=one_of((3, 1000)),
            size=one_of((20, 300)) if small else 20,
            fickle=chance(0.3),
            nap=0.2 if chance(0.15) else 0,
        )

    def _plan(self, calm: Scenario) -> Plan:
        kinds = self._some(KINDS)
        return Plan(tuple(self._fault(one, calm) for one in self._times(kinds, 0, 6)))

    def _fault(self, kind: FaultKind, calm: Scenario) -> Fault:
        one_of = self._random.choice
        people = tuple(person.name for person in calm.people)
        fault = Fault(kind, (one_of(people),), at=self._moment(calm), duration=self._length(calm))
        if kind in ("stall", "freeze"):
            return replace(fault, hosts=(one_of(people + calm.servers),))
        if kind in HOST_KINDS:
            # Clients do not listen, and when they die there is nobody left to look.
            return replace(fault, hosts=(one_of(calm.servers),))
        some = tuple(self._some(people))
        there, back = (some, calm.servers), (calm.servers, some)
        fault = replace(fault, hosts=some, others=calm.servers)
        if kind == "reset":
            return replace(fault, duration=one_of((0, 0, fault.duration)))
        if kind == "shape":
            return replace(fault, conditions=one_of(_CONDITIONS))
        if self._chance(0.5):
            hosts, others = one_of((there, back))
            return replace(fault, hosts=hosts, others=others, one_way=True)
        return fault

    def _troubles(self, calm: Scenario) -> tuple[Trouble, ...]:
        kinds = self._some(_TROUBLES)
        people = tuple(person.name for person in calm.people)
        return tuple(
            Trouble(
                kind,
                self._random.choice(calm.servers if kind in ("restart", "sick") else people),
                self._moment(calm),
                round(self._random.uniform(20, 60), 3) if kind == "sick" else 0,
            )
            for kind in self._times(kinds, 0, 3)
        )

    def _moment(self, calm: Scenario) -> float:
        return round(self._random.uniform(0, calm.busy * 0.8), 3)

    def _length(self, calm: Scenario) -> float:
        """Seconds: from a hiccup to more than a heartbeat takes to notice."""
        longest = self._random.choice((0.5, 5, 40, calm.noticing * 1.5))
        return round(min(self._random.uniform(0.3, 1) * longest, calm.busy), 3)

    def _times(self, kinds: list[_T], least: int, most: int) -> list[_T]:
        return [self._random.choice(kinds) for _ in range(self._random.randint(least, most))]

    def _some(self, what: tuple[_T, ...]) -> list[_T]:
        """A random subset, of one at least."""
        return [each for each in what if self._chance(0.35)] or [self._random.choice(what)]

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability
