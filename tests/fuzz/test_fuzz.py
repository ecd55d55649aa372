"""The fuzzers' targets, in the hands of hypothesis: a little of everything, at every run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trioweb._protocol._decoder
from tests.fuzz.targets import ODD, TARGETS


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A valid example with some bytes replaced, left out or put in, or two that cross over."""
    seeds = st.sampled_from(TARGETS[name].seeds)
    data = draw(seeds)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.integers(0, 4))
        put_in = draw(st.sampled_from(ODD) | st.binary(max_size=4))
        data = data[:start] + put_in + data[stop:]
    if draw(st.booleans()):
        other = draw(seeds)
        data = data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_target_stands_any_bytes(name: str) -> None:
    @given(st.binary(max_size=200) | mutated(name))
    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    def fuzz(data: bytes) -> None:
        TARGETS[name].run(data)

    fuzz()


@pytest.mark.parametrize("name", TARGETS)
def test_target_takes_its_seeds(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", ["frames", "links"])
def test_target_finds_a_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that lets an error of its own out, as a fuzzer should notice."""

    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(trioweb._protocol._decoder.Decoder, "_read_frame", faulty)
    with pytest.raises((ZeroDivisionError, AssertionError, BaseExceptionGroup)):
        for seed in TARGETS[name].seeds:
            TARGETS[name].run(seed)
