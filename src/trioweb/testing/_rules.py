"""Faults that users write: functions that see each chunk of bytes, and say what becomes of it.

Rules kept here: a rule decides when a chunk is sent, and by what it sees of it; what it can decide
is what can happen to TCP, so bytes never overtake each other, and none are missing between two that
arrive.

Knows nothing of streams; `NetworkStream` does what a rule says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .._arguments import check_kind


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that one end of a connection has just sent, as the program handed them over.

    Args:
        time: when, on Trio's clock.
        source, target: the names of the hosts.
        connection: its ends, in this direction, as in the trace: "laptop:49152 > server:80".
        data: the bytes.
    """

    time: float
    source: str
    target: str
    connection: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """Let it be under way for so many *seconds* more, and what is sent after it not overtake it."""

    seconds: float

    def __post_init__(self) -> None:
        check_kind("Delay", "seconds", self.seconds, int, float)
        if not 0 <= self.seconds < math.inf:
            raise ValueError(
                f"Delay: seconds must be a number from 0 on, not {self.seconds!r}; "
                "Drop() is for what never arrives"
            )


@dataclass(frozen=True, slots=True)
class Drop:
    """Let it never arrive but for its first *after* bytes, nor what is sent behind it.

    That concerns this direction of the connection alone.  TCP would send it again, and hold back
    what comes after it until then; here that never succeeds, and nobody is told.
    """

    after: int = 0

    def __post_init__(self) -> None:
        _check_after(self)


@dataclass(frozen=True, slots=True)
class Cut:
    """Reset the connection, for both ends, once the first *after* bytes of it have arrived."""

    after: int = 0

    def __post_init__(self) -> None:
        _check_after(self)


def _check_after(verdict: Drop | Cut) -> None:
    if type(verdict.after) is not int or verdict.after < 0:
        name = type(verdict).__name__
        raise ValueError(f"{name}: after must be a whole number from 0 on, not {verdict.after!r}")


class RuleFailed(BaseException):
    """A rule of `Network.intercept` has raised an error, its `__cause__`, or returned no verdict.

    It is no Exception: it comes out where a program sends, and a program takes an Exception there
    for its network's.  A client would try again for ever.
    """


Verdict: TypeAlias = Delay | Drop | Cut | None  # None lets it pass
Rule: TypeAlias = Callable[[Chunk], Verdict]


def ask(rule: Rule, chunk: Chunk) -> Verdict:
    """What *rule* says of *chunk*.

    Raises:
        RuleFailed: it raised an error, or says something that is no verdict.
    """
    name = getattr(rule, "__qualname__", repr(rule))
    try:
        verdict: object = rule(chunk)
    except Exception as exc:
        raise RuleFailed(f"{name} raised {exc!r}") from exc
    if verdict is not None and not isinstance(verdict, (Delay, Drop, Cut)):
        raise RuleFailed(
            f"{name} must return None, Delay(seconds), Drop() or Cut(after), not {verdict!r}"
        )
    return verdict
