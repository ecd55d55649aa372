"""Reading and writing while a connection opens, over every kind of transport."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support import TRANSPORTS, open_streams, reset
from trioweb._server._eager import Eager

_KERNEL = ["tcp", "unix"]

transports = pytest.mark.parametrize("transport", TRANSPORTS)


@transports
async def test_eager_reads_and_writes_what_the_stream_would(transport: str) -> None:
    data = bytes(range(256)) * 4000
    async with open_streams(transport) as (theirs, ours), trio.open_nursery() as nursery:
        eager = Eager(ours, trio.current_time() + 60)

        async def answer() -> None:
            heard = b""
            while len(heard) < len(data):
                heard += await eager.receive_some(1000)
            assert heard == data
            await eager.send_all(memoryview(data))
            await eager.aclose()

        nursery.start_soon(answer)
        nursery.start_soon(theirs.send_all, data)
        heard = b""
        while len(heard) < len(data):
            heard += await theirs.receive_some(1000)
        assert heard == data


@transports
async def test_eager_tells_the_end(transport: str) -> None:
    async with open_streams(transport) as (theirs, ours), trio.open_nursery() as nursery:
        nursery.start_soon(theirs.aclose)
        assert await Eager(ours, trio.current_time() + 60).receive_some(10) == b""


@transports
async def test_eager_waits_until_its_deadline(
    transport: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6."""
    async with open_streams(transport) as (_theirs, ours):
        begun = trio.current_time()
        eager = Eager(ours, begun + 5)
        with pytest.raises(trio.TooSlowError, match="the peer sends too slowly"):
            await eager.receive_some(10)
        assert trio.current_time() == begun + 5
        if transport == "trio-memory":  # which takes whatever it is given
            return
        with pytest.raises(trio.TooSlowError, match="the peer reads too slowly"):
            await Eager(ours, begun + 15).send_all(bytes(2**22))
        assert trio.current_time() == begun + 15


@pytest.mark.parametrize("transport", _KERNEL)
async def test_eager_does_not_wait_for_what_is_there(transport: str) -> None:
    async with open_streams(transport) as (theirs, ours):
        await theirs.send_all(b"hello")
        passed = Eager(ours, trio.current_time() - 1)
        assert await passed.receive_some(10) == b"hello"
        await passed.send_all(b"hello")
        assert await theirs.receive_some(10) == b"hello"
        with pytest.raises(trio.TooSlowError):
            await passed.receive_some(10)


@pytest.mark.parametrize("transport", _KERNEL)
async def test_eager_can_be_cancelled_even_if_it_need_not_wait(transport: str) -> None:
    async with open_streams(transport) as (theirs, ours):
        await theirs.send_all(b"hello")
        eager = Eager(ours, trio.current_time() + 60)
        with trio.CancelScope() as scope:
            scope.cancel()
            await eager.receive_some(10)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await eager.send_all(b"hello")
        assert scope.cancelled_caught
        assert await eager.receive_some(10) == b"hello"


async def test_eager_says_that_the_transport_failed() -> None:
    async with open_streams("tcp") as (theirs, ours):
        eager = Eager(ours, trio.current_time() + 60)
        reset(theirs)
        with pytest.raises(trio.BrokenResourceError, match="reset by peer"):
            await eager.receive_some(10)
        with pytest.raises(trio.BrokenResourceError, match="Broken pipe"):
            await eager.send_all(b"hello")
