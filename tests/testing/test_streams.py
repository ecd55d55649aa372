"""The pair of bounded streams: Trio's own suite, and what makes it different from Trio's pair."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trioweb.testing import MemoryStream, stream_pair


async def _make_pair() -> tuple[MemoryStream, MemoryStream]:
    return stream_pair(1000)


async def _make_clogged_pair() -> tuple[MemoryStream, MemoryStream]:
    a, b = stream_pair(1000)
    await a.send_all(bytes(1000))
    await b.send_all(bytes(1000))
    return a, b


async def test_stream_pair_passes_trios_checks() -> None:
    await trio.testing.check_two_way_stream(_make_pair, _make_clogged_pair)
    await trio.testing.check_half_closeable_stream(_make_pair, _make_clogged_pair)


@pytest.mark.parametrize("max_bytes", [1, 7, 65536])
async def test_stream_pair_blocks_the_sender_when_the_peer_holds_max_bytes(max_bytes: int) -> None:
    a, b = stream_pair(max_bytes)
    await a.send_all(bytes(max_bytes))
    sent = trio.Event()

    async def send_one_more() -> None:
        await a.send_all(b"!")
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_one_more)
        await trio.testing.wait_all_tasks_blocked()
        assert not sent.is_set()
        assert await b.receive_some(1) == b"\0"
        await sent.wait()
    received = b""
    while len(received) < max_bytes:
        received += await b.receive_some()
    assert received == bytes(max_bytes - 1) + b"!"


async def test_send_all_has_delivered_a_part_when_cancelled() -> None:
    a, b = stream_pair(4)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.send_all, b"abcdefgh")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await a.send_all(b"")
    assert await b.receive_some() == b"abcd"
    await a.send_all(b"ijkl")
    assert await b.receive_some() == b"ijkl"


async def test_send_all_copies_a_buffer_that_changes_later() -> None:
    a, b = stream_pair()
    data = bytearray(b"before")
    await a.send_all(data)
    data[:] = b"after!"
    assert await b.receive_some() == b"before"


async def test_send_all_counts_bytes_not_items_when_given_a_wide_memoryview() -> None:
    a, b = stream_pair()
    await a.send_all(memoryview(b"abcdefgh").cast("I"))
    assert await b.receive_some() == b"abcdefgh"


async def test_aclose_lets_the_peer_read_what_is_buffered_and_then_the_end() -> None:
    a, b = stream_pair()
    await b.send_all(b"never read")
    await a.send_all(b"last words")
    await a.aclose()
    assert await b.receive_some() == b"last words"
    assert await b.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await b.send_all(b"anybody there?")


async def test_send_eof_and_send_some_raise_once_closed_and_send_some_says_how_much_fits() -> None:
    a, b = stream_pair(4)
    assert await a.send_some(b"abcdef") == 4
    assert await b.receive_some() == b"abcd"
    await a.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await a.send_some(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await a.send_eof()


async def test_aclose_wakes_a_blocked_sender_on_either_side() -> None:
    for closer in (0, 1):
        pair = stream_pair(1)
        expected = trio.ClosedResourceError if closer == 0 else trio.BrokenResourceError

        async def send(stream: MemoryStream = pair[0], error: type[Exception] = expected) -> None:
            with pytest.raises(error):
                await stream.send_all(b"xy")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await pair[closer].aclose()


async def test_aclose_wakes_a_waiting_receiver_on_either_side() -> None:
    a, b = stream_pair()

    async def expect_closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await a.receive_some()

    async def expect_end() -> None:
        assert await b.receive_some() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed)
        nursery.start_soon(expect_end)
        await trio.testing.wait_all_tasks_blocked()
        await a.aclose()


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "64", None, True])
def test_stream_pair_refuses_a_bound_that_makes_no_sense(max_bytes: object) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        stream_pair(max_bytes)  # type: ignore[arg-type]
