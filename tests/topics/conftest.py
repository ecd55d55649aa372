"""What tests of topics are given: a hub, and peers to subscribe to its topics."""

from collections.abc import AsyncGenerator

import pytest

from tests.topics.support import Peers, open_peers
from trioweb import Hub, open_hub


@pytest.fixture
async def hub() -> AsyncGenerator[Hub]:
    async with open_hub() as hub:
        yield hub


@pytest.fixture
async def peers() -> AsyncGenerator[Peers]:
    async with open_peers() as peers:
        yield peers
