from __future__ import annotations

import pytest
import trio

from tests.cli.support import Site


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    return Site(nursery)


@pytest.fixture(autouse=True)
def given_back(root_logger: None) -> None:
    """Of each of these tests, as any may call `main`, and those that come behind it would see no
    record of the log."""
