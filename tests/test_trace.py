"""A traced connection: each of its frames has a line in the log, and nothing else changes."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support import (
    BINARY,
    PING,
    TEXT,
    TRANSPORTS,
    Ends,
    Frame,
    close_frame,
    encode,
    open_streams,
)
from trioweb import Connection, Limits, State, open_hub
from trioweb._link._traced import TracedWire
from trioweb._protocol._outline import Outline
from trioweb._reader import open_reader


@pytest.fixture(params=TRANSPORTS)
async def ends(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncGenerator[Ends]:
    async with open_streams(request.param) as streams:
        with open_reader() as reader:
            async with trio.open_nursery() as own:
                if reader is not None:
                    own.start_soon(reader.run)
                gathered = reader if "gathered" in request.param else None
                yield Ends(nursery, streams, is_client=False, reader=gathered)
                own.cancel_scope.cancel()


def lines(caplog: pytest.LogCaptureFixture, connection: Connection) -> list[str]:
    found = []
    for record in caplog.records:
        if record.name == "trioweb.frames":
            assert record.levelno == logging.DEBUG
            assert getattr(record, "connection", None) == connection.id
            who, _, line = record.getMessage().rpartition(") ")
            assert who == "(no address"
            found.append(line)
    return found


async def test_each_frame_has_a_line_in_its_place_while_it_is_traced(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    connection, peer = ends.ours(), ends.raw()
    await connection.send("before")
    assert await peer.frame() == Frame(TEXT, b"before")
    connection.trace()
    await connection.send("grüße")
    assert await peer.frame() == Frame(TEXT, "grüße".encode())
    await peer.send(Frame(PING, b"\1\2"))
    await peer.frame()
    await peer.send(Frame(BINARY, b"x" * 100), Frame(TEXT, b"he", fin=False))
    await peer.send(Frame(0, b"llo"))
    assert await connection.receive() == b"x" * 100
    assert await connection.receive() == "hello"
    connection.trace(False)
    await connection.send("after")
    assert await peer.frame() == Frame(TEXT, b"after")
    connection.trace()
    await peer.send(close_frame(1000, "bye\n"))
    await peer.frame()
    await trio.aclose_forcefully(peer.stream)
    with trio.fail_after(5):
        await connection.wait_closed()
    told = lines(caplog, connection)
    shown = "78 " * 60
    assert told == [
        "> text, 7 bytes: 'gr\\xfc\\xdfe'",
        "< ping, 2 bytes: 01 02",
        "> pong, 2 bytes: 01 02",
        f"< binary, 100 bytes: {shown.strip()}...",
        "< text, to be continued, 2 bytes: 'he'",
        "< continuation, 3 bytes: 6c 6c 6f",
        "< close, 6 bytes: 1000 'bye\\n'",
        "> close, 2 bytes: 1000 ''",
    ]


async def test_tracing_may_begin_and_end_in_the_middle_of_a_frame(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    connection, peer = ends.ours(), ends.raw()
    large = peer.encode(Frame(TEXT, b"a" * 300))
    await peer.stream.send_all(large[:100])
    await trio.testing.wait_all_tasks_blocked(0.01)
    connection.trace()
    await peer.stream.send_all(large[100:] + peer.encode(Frame(TEXT, b"b"))[:3])
    assert await connection.receive() == "a" * 300
    await trio.testing.wait_all_tasks_blocked(0.01)
    connection.trace(False)
    rest = peer.encode(Frame(TEXT, b"b"))[3:]
    await peer.stream.send_all(rest + large[:50])
    assert await connection.receive() == "b"
    connection.trace(True)
    await peer.stream.send_all(large[50:] + peer.encode(Frame(TEXT, b"c")))
    assert [await connection.receive() for _ in range(2)] == ["a" * 300, "c"]
    assert lines(caplog, connection)[-1] == "< text, 1 byte: 'c'"
    assert not any("aaa" in line for line in lines(caplog, connection))


async def test_frames_that_wait_for_a_slow_peer_are_told_when_they_leave(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    connection, peer = ends.ours(Limits(send_bytes=2**24)), ends.raw()
    connection.trace()
    for number in range(400):
        await connection.send(f"{number:03} " + "x" * 2**12)
    for number in range(400):
        frame = await peer.frame()
        assert frame is not None and frame.payload.startswith(b"%03d " % number)
    told = lines(caplog, connection)
    assert [line.partition("'")[2][:3] for line in told] == [f"{n:03}" for n in range(400)]


async def test_flood_is_decoded_whole_and_holds_up_nobody(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 12: a line takes long, so few are told at a time."""
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    connection, peer = ends.ours(Limits(inbox_messages=None)), ends.raw()
    connection.trace()
    turns: list[int] = []

    async def watch() -> None:
        while True:
            turns.append(len(lines(caplog, connection)))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(peer.send, *(Frame(TEXT, b"%d" % n) for n in range(500)))
        assert [await connection.receive() for _ in range(500)] == [str(n) for n in range(500)]
        nursery.cancel_scope.cancel()
    assert len(lines(caplog, connection)) == 500
    assert max(b - a for a, b in pairwise(turns)) <= 32


async def test_of_a_burst_of_a_topic_the_rest_is_summed_up(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb.frames")
    connection, peer = ends.ours(), ends.raw()
    async with open_hub() as hub:
        topic = hub.topic("news")
        topic.subscribe(connection)
        connection.trace()
        for number in range(100):
            topic.publish(f"{number:02}")
        assert [(await peer.frame()) for _ in range(100)][-1] == Frame(TEXT, b"99")
        topic.publish("one more")
        await peer.frame()
    told = lines(caplog, connection)
    assert told[0] == "> text, 2 bytes: '00'"
    assert told[16:] == ["> and 336 bytes of further frames", "> text, 8 bytes: 'one more'"]


async def test_compressed_frames_and_closed_connections_have_nothing_to_show(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    outline = Outline()
    frame = encode(Frame(TEXT | 0x40, b"\x00\x01"), masked=True)
    assert outline.read(frame) == (["text, compressed, 2 bytes"], len(frame))
    async with open_streams("memory") as streams:
        ends = Ends(nursery, streams, is_client=False)
        connection = ends.ours()
        await ends.their_stream.aclose()
        await connection.wait_closed()
        connection.trace()
        connection.trace(False)
        assert connection.state is State.CLOSED


async def test_connection_that_was_traced_is_no_garbage(nursery: trio.Nursery) -> None:

    async with open_streams("memory") as streams:
        ends = Ends(nursery, streams, is_client=False)
        connection = ends.ours()
        connection.trace()
        await ends.their_stream.aclose()
        await connection.wait_closed()
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        gc.disable()
        try:
            link = connection.link
            assert not isinstance(link.queue.wire, TracedWire)
            watch = weakref.ref(connection)
            del connection, link
            assert watch() is None
        finally:
            gc.enable()


FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from([0, TEXT, BINARY, 0x8, PING, 0xA, 0xB]),
        st.one_of(st.binary(max_size=130), st.just(b"y" * 70_000)),
        st.booleans(),
    ),
    max_size=8,
)


@given(frames=FRAMES, masked=st.booleans(), data=st.data())
def test_outline_has_the_same_lines_however_the_bytes_are_cut(
    frames: list[Frame], masked: bool, data: st.DataObject
) -> None:
    wire = b"".join(encode(frame, masked=masked) for frame in frames)
    whole, taken = Outline().read(wire, most=100)
    assert (len(whole), taken) == (len(frames), len(wire))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    outline, found = Outline(), list[str]()
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        piece = wire[start:end]
        while True:
            some, taken = outline.read(piece, most=2)
            found += some
            piece = piece[taken:]
            if len(some) < 2:
                break
        assert not piece
    assert found == whole
