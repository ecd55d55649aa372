"""Hypothesis strategies for plans of faults, so that a failing plan shrinks to what matters.

Hypothesis is imported when a strategy is made: nothing else here needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ._faults import KINDS, Conditions, Fault, Kind, Plan

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def fault_plans(
    hosts: Sequence[str],
    *,
    kinds: Sequence[Kind] = KINDS,
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

    @st.composite
    def faults(draw: st.DrawFn) -> Fault:
        kind = draw(st.sampled_from(kinds))
        fault = Fault(
            kind,
            (draw(st.sampled_from(hosts)),),
            at=draw(moments(within)),
            duration=draw(moments(longest)),
        )
        if fault.is_of_hosts:
            return fault
        others = [host for host in hosts if host not in fault.hosts]
        return replace(
            fault,
            others=draw(st.none() | st.sampled_from(others).map(_one)) if others else None,
            one_way=kind != "reset" and draw(st.booleans()),
            conditions=draw(conditions()) if kind == "shape" else fault.conditions,
        )

    def conditions() -> SearchStrategy[Conditions]:
        return st.builds(
            Conditions,
            latency=st.none() | moments(2),
            jitter=st.none() | moments(2),
            bandwidth=st.none() | st.sampled_from([10, 1000, 100_000]),
            segment=st.none() | st.integers(1, 100),
        )

    return st.lists(faults(), max_size=max_faults).map(lambda chosen: Plan(tuple(chosen)))


def _one(host: str) -> tuple[str]:
    return (host,)
