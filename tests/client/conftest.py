"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from tests.client.support import close_kernel_ends


@pytest.fixture
def patient_clock() -> MockClock:
    """Virtual time that does not outrun what the kernel has under way."""
    return MockClock(autojump_threshold=0.02)


@pytest.fixture(autouse=True)
def _kernel_ends() -> Iterator[None]:
    yield
    close_kernel_ends()
