"""Fixtures of the client's tests."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def patient_clock() -> MockClock:
    """Virtual time that does not outrun what the kernel has under way."""
    return MockClock(autojump_threshold=0.02)
