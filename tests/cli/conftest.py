from __future__ import annotations

import pytest
import trio

from tests.cli.support import Site


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    return Site(nursery)
