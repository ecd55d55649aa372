"""Hypothesis strategies for plans of faults, so that a failing plan shrinks to what matters.

Rules kept here: hypothesis is imported when a strategy is made, because nothing else here needs
it.  A fault costs hypothesis four choices: with the one for "another fault" these are five, and
five in a row are the most that its shrinker takes out at once; a fault of more would often stay
in a plan where it does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Final

from ._faults import HOST_KINDS, KINDS, Conditions, Fault, FaultKind, Plan

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

# Shapes of lines that find something, each by itself.
_CONDITIONS: Final = (
    Conditions(segment=1),
    Conditions(latency=0.5),
    Conditions(latency=3),
    Conditions(latency=0.1, jitter=1),
    Conditions(bandwidth=1000),
    Conditions(bandwidth=10),
)


def fault_plans(
    hosts: Sequence[str],
    *,
    kinds: Sequence[FaultKind] = KINDS,
    max_faults: int = 6,
    within: float = 60,
    longest: float = 30,
) -> SearchStrategy[Plan]:
    """Make plans of faults, for `Network.run`; simple ones have few, early and short faults.

    Args:
        hosts: the names of those that may be concerned.
        kinds: what may happen, the simplest first.
        max_faults: how many there are at most.
        within: seconds within which they begin.
        longest: seconds that each lasts at most; every fault ends by itself.
    """
    from hypothesis import strategies as st

    # Whole tenths of a second: easily read, shrunk and said again.
    def moments(most: float) -> SearchStrategy[float]:
        return st.integers(0, int(most * 10)).map(lambda tenths: tenths / 10)

    faults = st.builds(
        lambda fault, at, duration: replace(fault, at=at, duration=duration),
        st.one_of([st.sampled_from(_faults(kind, hosts)) for kind in kinds]),
        moments(within),
        moments(longest),
    )
    return st.lists(faults, max_size=max_faults).map(lambda chosen: Plan(tuple(chosen)))


def _faults(kind: FaultKind, hosts: Sequence[str]) -> list[Fault]:
    """All that can happen of one kind, at no time yet, the simplest first."""
    faults = [Fault(kind, (host,)) for host in hosts]
    if kind in HOST_KINDS:
        return faults
    faults += [Fault(kind, (a,), (b,)) for a, b in combinations(hosts, 2)]
    if kind != "reset":
        faults += [Fault(kind, (a,), (b,), one_way=True) for a, b in permutations(hosts, 2)]
    if kind == "shape":
        faults = [replace(fault, conditions=each) for fault in faults for each in _CONDITIONS]
    return faults
