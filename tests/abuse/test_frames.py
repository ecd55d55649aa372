"""Frames that promise, repeat or interrupt without end; the rules for each frame are tested in
tests/test_frames.py, and what a violation is answered with in tests/server/test_bad_input.py.

Compressed bombs (RFC 7692) belong here, too, as soon as there is compression.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest
import trio
import trio.testing

import trioweb
from tests.abuse.support import KIB, MIB, assert_alone, assert_linear, tasks, traced
from tests.processes import python, running
from tests.server.support import Peer, echo, start
from tests.support import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Frame,
    RawPeer,
    Script,
    close_frame,
    encode,
    open_streams,
    start_connection,
)
from trioweb._errors import FrameError
from trioweb._protocol._decoder import Decoder

CONTINUATION = 0x0


def decode(wire: Iterable[bytes], max_message_bytes: int = MIB) -> tuple[int, int | None]:
    """How many messages there are in *wire*, and the close code that ends it."""
    decoder = Decoder(
        masked=True, max_message_bytes=max_message_bytes, on_control=lambda opcode, payload: None
    )
    messages: list[str | bytes] = []
    try:
        for data in wire:
            more = decoder.feed(data, messages)
            while more:
                more = decoder.feed(b"", messages)
    except FrameError as exc:
        return len(messages), exc.code
    return len(messages), None


# Promises.


@pytest.mark.parametrize("length", [2**62, 2**63 - 1, MIB + 1])
async def test_declared_length_beyond_the_limit_costs_nothing(
    length: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CVE-2020-27813 (gorilla/websocket: a length that overflows passes the limit)."""
    site = await start(nursery, echo)
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    peers = [await site.opened() for _ in range(20)]
    with traced() as memory:
        for peer in peers:
            await peer.write(b"\x82\xff" + length.to_bytes(8, "big") + bytes(1000))
            assert (await peer.read_close())[0] == 1009
    assert memory.peak < 20 * 16 * KIB
    for peer in peers:
        await peer.read_end()
    await assert_alone(site, before)
    assert site.server.statistics().closed == {1009: 20}


async def test_declared_length_within_the_limit_costs_what_has_come_of_it(
    nursery: trio.Nursery,
) -> None:
    """CWE-789: a hundred peers announce a mebibyte each, and send a kibibyte."""
    site = await start(nursery, echo)
    peers = [await site.opened() for _ in range(100)]
    with traced() as memory:
        for peer in peers:
            await peer.write(b"\x82\xff" + MIB.to_bytes(8, "big") + bytes(KIB))
        await trio.testing.wait_all_tasks_blocked()
    assert memory.peak < 100 * 8 * KIB


# Repetitions.

_PIECES = {
    # An empty fragment counts 64 bytes against the limit, so that these do end.
    "empty": encode(Frame(CONTINUATION, b"", fin=False), masked=True),
    "one byte": encode(Frame(CONTINUATION, b"x", fin=False), masked=True),
    "one byte and a ping": encode(Frame(CONTINUATION, b"x", fin=False), masked=True)
    + encode(Frame(PING), masked=True),
}


def fragments(kind: str, opcode: int, count: int) -> Iterable[bytes]:
    """A message's first frame and *count* more fragments, in chunks as a link reads them."""
    yield encode(Frame(opcode, b"", fin=False), masked=True)
    piece = _PIECES[kind]
    for begun in range(0, count, 8192):
        yield piece * min(8192, count - begun)


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("kind", _PIECES)
async def test_fragments_cost_in_proportion_to_their_number(kind: str, opcode: int) -> None:
    """CVE-2026-65623 (Bandit: all fragments are measured again at each one)."""

    async def attack(count: int) -> None:
        assert decode(fragments(kind, opcode, count), max_message_bytes=2**40) == (0, None)

    await assert_linear(attack, 2000)


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("kind", _PIECES)
def test_fragments_cost_no_more_memory_than_the_limit(kind: str, opcode: int) -> None:
    """CVE-2026-48779 (ws), CVE-2026-12151 (undici): small fragments within the limit, each kept
    as an object.  Here what is kept of each is its payload."""
    limit = 8 * KIB
    with traced() as memory:
        assert decode(fragments(kind, opcode, limit + 1), limit) == (0, 1009)
    # The message, a chunk with its fragments, and the copies that both are cut from.
    assert memory.peak < 4 * limit + 4 * 8192 * len(_PIECES[kind])


_A_MILLION = """
import resource, sys
from tests.abuse.test_frames import MIB, decode, fragments

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

assert decode(fragments(sys.argv[1], 2, 1000)) == (0, None)
before = most()
assert decode(fragments(sys.argv[1], 2, MIB + 1)) == (0, 1009)
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(sys.platform != "linux", reason="counts kibibytes as Linux does")
@pytest.mark.parametrize("kind", _PIECES)
async def test_fragments_by_the_million_end_at_the_limit(kind: str) -> None:
    """CVE-2026-42786 (Bandit: fragments are put together without a bound), with the default limits,
    in a process of its own."""
    async with running(python("-c", _A_MILLION, kind)) as program:
        code, output, errors = await program.ended()
    assert (code, errors) == (0, "")
    assert int(output) * KIB < 8 * MIB


# Interruptions.


async def _flood(peer: Peer, data: bytes, times: int) -> None:
    """Send *data* again and again, and read nothing meanwhile."""
    try:
        for _ in range(times):
            await peer.write(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@pytest.mark.parametrize(
    "frame", [Frame(PING, b"x" * 125), Frame(PING), Frame(PONG, b"x" * 125)], ids=str
)
async def test_flood_of_control_frames_that_is_not_read_holds_a_few_answers(
    frame: Frame, nursery: trio.Nursery
) -> None:
    """CVE-2019-9512 (ping floods, in HTTP/2), CVE-2019-9515: answers are not queued without end.

    Another peer is answered in the middle of it.
    """
    site = await start(nursery, echo)
    attacker, neighbour = await site.opened("/attacker"), await site.opened("/neighbour")
    await trio.testing.wait_all_tasks_blocked()
    before = tasks()
    data = attacker.encode(*[frame] * 64)
    with traced() as memory:
        async with trio.open_nursery() as flooding:
            flooding.start_soon(_flood, attacker, data, 120)
            for _ in range(20):
                await neighbour.send(Frame(TEXT, b"hello"))
                assert await neighbour.frame() == Frame(TEXT, b"hello")
    # Buffers, and what is left of a chunk; a MiB has come, and as much would be the answers.
    assert memory.peak < 640 * KIB
    for connection in site.server.connections:
        assert connection.buffered_amount <= 512 + 131
        assert connection.statistics().inbox_messages == 0
    # What carries the answers to a peer that does not read is one task.
    assert tasks() <= before + 1


async def test_flood_of_pings_that_is_read_is_answered_one_by_one(nursery: trio.Nursery) -> None:
    """CVE-2019-9512: 2,000 pings leave nothing behind."""
    async with open_streams("unix") as (theirs, ours):
        connection = start_connection(nursery, ours, is_client=False)
        peer = RawPeer(theirs, is_client=True)
        pings = [Frame(PING, b"x")] * 100
        with traced() as memory:
            for _ in range(20):
                await peer.send(*pings)
                for _ in pings:
                    assert await peer.frame() == Frame(PONG, b"x")
        assert memory.kept < 16 * KIB
        assert connection.buffered_amount == 0


async def test_flood_of_closes_is_answered_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-770: the first counts, and the close timeout ends it."""
    site = await start(nursery, echo)
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()
    peer = await site.opened()
    closes = peer.encode(*[close_frame(4000, "x" * 100)] * 100)
    with traced() as memory:
        await _flood(peer, closes, 100)
        frames = await peer.frames()
    assert frames == [close_frame(4000)]
    assert memory.peak < 512 * KIB
    assert trio.current_time() - begun <= 10
    await peer.stream.aclose()
    await assert_alone(site, before)
    assert site.server.statistics().closed == {4000: 1}


async def test_flood_of_tiny_messages_is_held_to_the_inbox(nursery: trio.Nursery) -> None:
    """CWE-770: a handler that takes nothing; a message of nothing counts as one."""

    async def sleep(connection: trioweb.Connection) -> None:
        await trio.sleep_forever()

    site = await start(nursery, sleep)
    peer = await site.opened()
    async with trio.open_nursery() as flooding:
        flooding.start_soon(_flood, peer, peer.encode(*[Frame(TEXT, b"")] * 1000), 200)
        await trio.testing.wait_all_tasks_blocked()
        [connection] = site.server.connections
        # 256, and what one turn of the decoder brings: see WORK_PER_FEED.
        assert connection.statistics().inbox_messages <= 256 + 1024
        flooding.cancel_scope.cancel()


async def test_link_takes_any_flood_a_turn_at_a_time(nursery: trio.Nursery) -> None:
    """Invariant 12: a megabyte of the smallest frames, there at once, lets others run."""
    pings = encode(Frame(PING), masked=True) * 170_000
    stream = Script([pings[start : start + 65536] for start in range(0, len(pings), 65536)])
    connection = start_connection(nursery, stream, is_client=False)
    turns = 0
    while connection.state is trioweb.State.OPEN:
        await trio.lowlevel.checkpoint()
        turns += 1
    # One at least for every 1,024 frames; the answers take turns of their own.
    assert turns > 170_000 / 1024
