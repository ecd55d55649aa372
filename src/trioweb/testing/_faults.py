"""What can go wrong on a network, as data: kinds of faults, faults that act, plans of faults.

Rules kept here: a fault is frozen and its `repr` makes it again, so that a failing plan can be
kept as a regression; whether a fault acts is a question about a moment, so it needs no task to
end it.

Knows nothing of streams; the network gives faults their effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, get_args

from .._arguments import check_kind, wrong
from ._rules import Rule

FaultKind: TypeAlias = Literal[
    "partition",  # nothing passes; what waits passes afterwards, as TCP sends it again
    "half_open",  # nothing passes, and connections that were there never recover: no FIN, no RST
    "reset",  # connections are reset
    "shape",  # the line's conditions are other ones
    "stall",  # hosts' programs do not read
    "freeze",  # hosts stand still, programs and kernels, as a laptop that sleeps
    "refuse",  # hosts refuse connections
    "ignore",  # hosts do not answer who wants to connect
    "hang_up",  # hosts accept connections and close them at once
    "crash",  # hosts' programs die; their kernels reset what they had
    "power_cut",  # hosts die, and nobody is told until they are back
    "intercept",  # a function of the user's decides about each chunk of bytes
]
# Those that plans can be made of at random.
KINDS: Final[tuple[FaultKind, ...]] = tuple(
    kind for kind in get_args(FaultKind) if kind != "intercept"
)

# What a host does by itself, seen from everybody.
HOST_KINDS: Final = frozenset(
    {"stall", "freeze", "refuse", "ignore", "hang_up", "crash", "power_cut"}
)
_SILENT: Final = frozenset({"partition", "half_open", "freeze", "power_cut"})
_STANDING: Final = {
    "stall": frozenset({"receive"}),
    "freeze": frozenset({"send", "receive", "accept", "dial", "run"}),
    "crash": frozenset({"send", "receive", "accept", "dial", "run"}),
    "power_cut": frozenset({"send", "receive", "accept", "dial", "run"}),
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Conditions:
    """What a line is like in one direction; None leaves what holds otherwise.

    Args:
        latency: seconds that every packet is under way; otherwise 0.
        jitter: up to so many seconds more, different for each packet; order is kept.
        bandwidth: bytes a second that each connection can send; otherwise unlimited.
        segment: a receiver sees at most so many bytes at a time, a random number from 1 on;
            1 means single bytes.  Otherwise it sees all that has arrived.
    """

    latency: float | None = None
    jitter: float | None = None
    bandwidth: float | None = None
    segment: int | None = None

    def __post_init__(self) -> None:
        for name in ("latency", "jitter"):
            value = getattr(self, name)
            check_kind("Conditions", name, value, int, float, optional=True)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of seconds from 0 on, not {value!r}")
        check_kind("Conditions", "bandwidth", self.bandwidth, int, float, optional=True)
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be more than 0 bytes/s, not {self.bandwidth!r}")
        if self.segment is not None and not (type(self.segment) is int and self.segment > 0):
            raise ValueError(f"segment must be a whole number of at least 1, not {self.segment!r}")

    def __repr__(self) -> str:
        return _short_repr(self)

    def over(self, base: Conditions) -> Conditions:
        """These conditions where they say something, *base* where they do not."""
        return Conditions(
            latency=base.latency if self.latency is None else self.latency,
            jitter=base.jitter if self.jitter is None else self.jitter,
            bandwidth=base.bandwidth if self.bandwidth is None else self.bandwidth,
            segment=base.segment if self.segment is None else self.segment,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Fault:
    """One thing that goes wrong, for one time.

    Args:
        kind: see `FaultKind`.
        hosts: the names of those concerned.
        others: the other side of a line or of a partition, None for everybody else.  Kinds that
            concern hosts alone have no other side.
        one_way: only what goes from *hosts* to *others* is concerned.
        at: seconds after a plan has begun.
        duration: seconds; without end it lasts until it is healed.
        conditions: what "shape" makes of the lines.
        rule: what "intercept" asks, about each chunk of bytes that is sent.
    """

    kind: FaultKind
    hosts: tuple[str, ...]
    others: tuple[str, ...] | None = None
    one_way: bool = False
    at: float = 0
    duration: float = math.inf
    conditions: Conditions = field(default=Conditions())
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            kinds = ", ".join(get_args(FaultKind))
            raise ValueError(f"a fault's kind must be one of {kinds}, not {self.kind!r}")
        if self.kind == "intercept" and not callable(self.rule):
            raise TypeError(f"intercept: rule must be a function of a Chunk, not {self.rule!r}")
        check_kind(self.kind, "at", self.at, int, float)
        check_kind(self.kind, "duration", self.duration, int, float)
        check_kind(self.kind, "conditions", self.conditions, Conditions)
        if not self.hosts:
            raise ValueError(f"{self.kind}: name at least one host")
        if self.is_of_hosts and (self.others is not None or self.one_way):
            raise ValueError(f"{self.kind} concerns hosts alone: leave out the other side")
        if not 0 <= self.at < math.inf:
            raise ValueError(f"at must be a number of seconds from 0 on, not {self.at!r}")
        if not self.duration >= 0:
            raise ValueError(f"duration must be at least 0 seconds, not {self.duration!r}")

    @property
    def is_of_hosts(self) -> bool:
        return self.kind in HOST_KINDS

    def covers(self, source: str, target: str) -> bool:
        """Does it concern what goes from *source* to *target*?"""
        if self._reaches(source, target):
            return True
        return not self.one_way and self._reaches(target, source)

    def _reaches(self, source: str, target: str) -> bool:
        if source not in self.hosts:
            return False
        return target not in self.hosts if self.others is None else target in self.others

    def __repr__(self) -> str:
        return _short_repr(self)

    def __str__(self) -> str:
        for_how_long = "" if self.duration == math.inf else f" for {self.duration:g}s"
        return f"{self.kind}{' one way' if self.one_way else ''}{for_how_long}"


class ActiveFault:
    """A fault that acts or has acted; what the network's methods for faults return.

    It heals by itself after its duration, by `heal`, or at the end of a `with` block.
    """

    def __init__(self, fault: Fault, start: float, on_heal: Callable[[ActiveFault], None]) -> None:
        self.fault = fault
        self.start = start
        # Not a sum, for one without beginning may have no end either.
        self.end = math.inf if fault.duration == math.inf else start + fault.duration
        self._on_heal = on_heal

    def heal(self) -> None:
        """End it now, if it has not ended yet.  Idempotent."""
        self._on_heal(self)

    def __enter__(self) -> ActiveFault:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.heal()

    def acts(self, at: float) -> bool:
        return self.start <= at < self.end

    def matters(self, since: float, eldest: float) -> bool:
        """Can it still concern what leaves at *since* or later, of connections from *eldest* on?"""
        if self.fault.kind == "half_open" and eldest < self.end:
            return True  # those never recover
        return since < self.end

    def silent_until(self, at: float, born: float | None) -> float:
        """Until when nothing passes of a connection made at *born*; *at* if something does."""
        if self.fault.kind not in _SILENT or at < self.start:
            return at
        if self.fault.kind == "half_open":
            # What is being made gets through: only then can it be half open.
            return at if born is None or born >= self.end else math.inf
        return max(at, self.end)

    def stands_until(self, at: float, doing: str) -> float:
        """Until when programs of the hosts concerned cannot do it; *at* if they can."""
        standing = doing in _STANDING.get(self.fault.kind, ())
        return self.end if standing and self.acts(at) else at


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults at given times, for `Network.run`; `fault_plans` makes random ones."""

    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.faults, (tuple, list)):
            raise wrong("Plan", "faults", "a tuple of Fault", self.faults)
        for fault in self.faults:
            check_kind("Plan", "each of faults", fault, Fault)

    @property
    def duration(self) -> float:
        """Seconds until the last fault has ended: infinity if one does not by itself."""
        return max((fault.at + fault.duration for fault in self.faults), default=0.0)


def _short_repr(data: Any) -> str:
    """A dataclass's `repr` without what is as it is by default; it makes the same again."""
    values = ((each.name, getattr(data, each.name), each.default) for each in fields(data))
    said = [f"{name}={value!r}" for name, value, default in values if value != default]
    return f"{type(data).__name__}({', '.join(said)})"
