"""What a server counts."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.server.support import start, wait
from tests.support import close_frame
from trioweb._server._counts import Counts


async def test_peers_do_not_decide_how_much_there_is_to_tell(nursery: trio.Nursery) -> None:
    """Each code that a peer may choose would make the statistics longer."""
    site = await start(nursery, wait)
    for code in range(3000, 3150):
        peer = await site.opened()
        await peer.send(close_frame(code))
        await peer.read_end()
    await trio.testing.wait_all_tasks_blocked()
    closed = site.server.statistics().closed
    assert len(closed) == 101
    assert (closed[3000], closed[0]) == (1, 50)
    assert sum(closed.values()) == 150


@pytest.mark.parametrize("repeats", [1, 3])
def test_code_that_is_told_already_is_counted_however_many_there_are(repeats: int) -> None:
    counts = Counts()
    for _ in range(repeats):
        for code in range(3000, 3300):
            counts.count_close(code)
    assert counts.closed[3099] == repeats
    assert counts.closed[0] == 200 * repeats


def test_codes_of_the_protocol_are_always_told() -> None:
    counts = Counts()
    for code in (*range(3000, 3300), 1000, 1006, 1000):
        counts.count_close(code)
    assert (counts.closed[1000], counts.closed[1006], counts.closed[0]) == (2, 1, 200)
