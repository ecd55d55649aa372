"""Plans of faults that hypothesis makes: valid, various, and shrinking to what matters."""

from __future__ import annotations

import math
from random import Random

import trio
from hypothesis import find, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trioweb.testing import Conditions, Fault, Network, Plan, fault_plans

HOSTS = ("laptop", "phone", "server")


@given(fault_plans(HOSTS, max_faults=4, within=20, longest=10))
def test_plans_keep_their_bounds(plan: Plan) -> None:
    assert len(plan.faults) <= 4
    for fault in plan.faults:
        assert fault.at <= 20 and fault.duration <= 10
        assert {*fault.hosts, *(fault.others or ())} <= set(HOSTS)
        assert fault.conditions == Conditions() or fault.kind == "shape"


@given(plan=fault_plans(HOSTS), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_whatever_happens_connections_made_later_work(plan: Plan, seed: int) -> None:
    async def main() -> None:
        network = Network(seed, latency=0.01, jitter=0.05)
        for host in HOSTS:
            network.host(host)

        async def talk(a: str, b: str) -> None:
            with trio.move_on_after(1):
                try:
                    ends = await network.connect(a, b)
                    await ends[0].send_all(b"x")
                    await ends[1].receive_some()
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            await trio.sleep(0.5)

        async def chatter(a: str, b: str) -> None:
            while True:
                await talk(a, b)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter, "laptop", "server")
            nursery.start_soon(chatter, "phone", "server")
            await network.run(plan)
            nursery.cancel_scope.cancel()
        assert plan.duration < math.inf
        for a, b in (("laptop", "server"), ("server", "phone"), ("phone", "laptop")):
            ours, theirs = await network.connect(a, b)
            await ours.send_all(b"hello")
            assert await theirs.receive_some() == b"hello"

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_failing_plan_shrinks_to_the_fault_that_matters() -> None:
    def matters(plan: Plan) -> bool:
        return any(fault.kind == "stall" and fault.duration > 5 for fault in plan.faults)

    for seed in range(5):
        plan = find(
            fault_plans(HOSTS),
            matters,
            random=Random(seed),
            settings=settings(database=None, max_examples=1000),
        )
        assert plan == Plan((Fault("stall", ("laptop",), duration=5.1),))


@given(fault_plans(HOSTS, kinds=["shape", "freeze"]))
def test_kinds_can_be_chosen(plan: Plan) -> None:
    assert {fault.kind for fault in plan.faults} <= {"shape", "freeze"}
