"""The link by itself: what topics use of it, and transports that misbehave.

What users see of it, on every transport, is in test_conformance.
"""

from __future__ import annotations

import gc
import logging
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Final

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.support import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Ends,
    Frame,
    RawPeer,
    close_frame,
    encode,
    open_streams,
)
from trioweb import ConnectionLost, Limits, State
from trioweb._link import Link, SendQueue, _carrying
from trioweb._link._carrying import Carrier
from trioweb._link._incoming import Incoming
from trioweb._protocol._decoder import WORK_PER_FEED
from trioweb._reader import open_reader
from trioweb._wire._kernel import direct_socket, kernel_socket
from trioweb.testing import MemoryStream, stream_pair


@pytest.fixture
async def unix_ends(nursery: trio.Nursery) -> AsyncGenerator[Ends]:
    async with open_streams("unix") as streams:
        yield Ends(nursery, streams, is_client=False)


# Work that a peer causes.

_ANSWERED: Final = {
    "pings": (Frame(PING, b"?"), 32),
    "messages with a reply": (Frame(TEXT, b"?"), 32),
    "messages with a long reply": (Frame(TEXT, b"more?"), 187),
}


@pytest.mark.parametrize("transport", ["unix", "gathered", "tls-tcp", "memory"])
@pytest.mark.parametrize(("frame", "cost"), _ANSWERED.values(), ids=_ANSWERED)
async def test_a_link_gives_few_answers_before_others_run(
    frame: Frame, cost: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariants 12 and 13: an answer costs much more than to read what asks for it."""
    turns = 0
    feeds: list[tuple[int, int]] = []  # in which turn, and how many answers
    feed, answer = Incoming.feed, SendQueue.answer

    def counted_feed(incoming: Incoming, data: bytes) -> None:
        feeds.append((turns, 0))
        feed(incoming, data)

    def counted_answer(queue: SendQueue, key: object, frame: bytes) -> None:
        turn, answers = feeds[-1]
        feeds[-1] = turn, answers + 1
        answer(queue, key, frame)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def read(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(2**16):
            pass
        await stream.aclose()

    monkeypatch.setattr(Incoming, "feed", counted_feed)
    monkeypatch.setattr(SendQueue, "answer", counted_answer)
    async with open_streams(transport) as streams, trio.open_nursery() as nursery:
        with open_reader() as reader:
            if reader is not None:
                nursery.start_soon(reader.run)
            ends = Ends(nursery, streams, is_client=False)
            ends.reader = reader if transport == "gathered" else None
            ours = ends.ours(replies={"?": "!", "more?": "!" * 10_000})
            peer = ends.raw()
            nursery.start_soon(read, peer.stream)
            nursery.start_soon(take_turns)
            await peer.stream.send_all(peer.encode(frame) * 1000 + peer.encode(close_frame(1000)))
            await ours.wait_closed()
            nursery.cancel_scope.cancel()
    assert sum(answers for _, answers in feeds) == 1000
    assert max(answers for _, answers in feeds) <= WORK_PER_FEED // cost + 1
    assert all(before < after for (before, _), (after, _) in pairwise(feeds))


# Reading from the kernel.


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_carrying, "_READ_BYTES", 1000)
    return 1000


async def test_a_link_lets_others_run_between_two_reads_of_the_kernel(
    unix_ends: Ends, small_reads: int
) -> None:
    """Invariant 12, where there is always more to read."""
    link, peer = unix_ends.ours().link, unix_ends.raw()
    data = peer.encode(Frame(BINARY, bytes(100))) * 200
    await peer.stream.send_all(data)
    steps = []
    while link.incoming.bytes_received < len(data):
        steps.append(link.incoming.bytes_received)
        await trio.lowlevel.checkpoint()
    # Two, where it had to wait for the first.
    assert max(after - before for before, after in pairwise([*steps, len(data)])) <= 2 * small_reads


async def test_an_aborted_link_reads_no_more_of_what_the_kernel_has(
    unix_ends: Ends, small_reads: int
) -> None:
    link, peer = unix_ends.ours().link, unix_ends.raw()
    await peer.stream.send_all(peer.encode(Frame(BINARY, bytes(100))) * 200)
    while not link.incoming.bytes_received:
        await trio.lowlevel.checkpoint()
    had = link.incoming.bytes_received
    link.abort("enough")
    await link.wait_closed()
    # One read may have been under way.
    assert link.incoming.bytes_received <= had + small_reads


# What topics use: offer, finish and the hooks.


async def test_a_kernel_takes_a_part_of_an_offer_and_the_cut_frame_is_finished(
    unix_ends: Ends,
) -> None:
    """Invariant 1: of a chunk, only the frame that was cut is queued."""
    link, peer = unix_ends.ours().link, unix_ends.raw()
    drained = trio.Event()
    link.queue.set_hooks("me", closed=lambda: None, drained=drained.set)
    frame = Frame(BINARY, bytes(999))
    size = len(encode(frame, masked=False))
    chunk = encode(frame, masked=False) * 1000
    taken = link.queue.offer(chunk)
    assert 0 < taken < len(chunk)
    assert link.queue.buffered_amount == 0
    rest = -taken % size or size
    link.queue.finish(chunk[:size][-rest:])
    assert (link.queue.writable, link.queue.buffered_amount) == (False, rest)
    await trio.testing.wait_all_tasks_blocked()
    assert not drained.is_set()
    for _ in range(taken // size):
        assert await peer.frame() == frame
    await drained.wait()
    assert (link.queue.writable, link.queue.buffered_amount) == (True, 0)
    assert await peer.frame() == frame
    assert link.queue.offer(chunk[:size]) == size
    assert await peer.frame() == frame


async def test_a_descriptor_is_asked_for_without_a_detour_and_gone_with_its_socket(
    unix_ends: Ends,
) -> None:
    """Trio's wrapper is passed by through an attribute of its own: this tells when that goes."""
    stream = unix_ends.our_stream
    assert isinstance(stream, trio.SocketStream)
    plain = kernel_socket(stream)
    assert isinstance(plain, socket.socket)
    assert direct_socket(stream) is plain
    assert plain.fileno() == stream.socket.fileno()
    stream.socket.close()
    assert plain.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        plain.send(b"nobody gets this")


async def test_a_full_kernel_takes_nothing_of_an_offer(unix_ends: Ends) -> None:
    link = unix_ends.ours().link
    while link.queue.offer(bytes(1000)):
        pass
    assert link.queue.writable
    assert link.queue.buffered_amount == 0


async def test_any_other_transport_takes_an_offer_whole_and_queues_it(
    nursery: trio.Nursery,
) -> None:
    stream, other = stream_pair(100)
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    drained = trio.Event()
    link.queue.set_hooks("me", closed=lambda: None, drained=drained.set)
    assert link.queue.offer(bytes(1000)) == 1000
    assert (link.queue.writable, link.queue.buffered_amount) == (True, 1000)
    await trio.testing.wait_all_tasks_blocked()
    assert not drained.is_set()
    received = 0
    while received < 1000:
        received += len(await other.receive_some())
    await drained.wait()
    assert link.queue.buffered_amount == 0


async def test_the_closed_hook_is_called_once_and_the_drained_hook_not_after_it(
    nursery: trio.Nursery,
) -> None:
    stream, other = stream_pair(100)
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    calls: list[str] = []
    for key in ("kept", "removed"):
        link.queue.set_hooks(
            key, closed=lambda: calls.append("closed"), drained=lambda: calls.append("drained")
        )
    link.queue.remove_hooks("removed")
    link.queue.remove_hooks("never there")
    link.queue.write(encode(Frame(BINARY, bytes(500)), masked=False))
    link.close()
    link.close()
    link.abort("again")
    peer = RawPeer(other, is_client=True)
    assert calls == ["closed"]
    await link.wait_closed()
    link.queue.remove_hooks("kept")
    assert calls == ["closed"]
    del peer


def fail(calls: list[str], name: str, *_: object) -> None:
    calls.append(name)
    raise ZeroDivisionError(f"in {name}")


@asynccontextmanager
async def open_gathered(count: int, transport: str = "gathered") -> AsyncGenerator[list[Ends]]:
    """Ends, the first of *transport* and the others "gathered", for which one reader reads."""
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(open_streams("gathered" if number else transport))
            for number in range(count)
        ]
        with open_reader() as reader:
            async with trio.open_nursery() as nursery:
                if reader is not None:
                    nursery.start_soon(reader.run)
                yield [Ends(nursery, pair, is_client=False, reader=reader) for pair in streams]
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["gathered", "unix", "memory", "filtered"])
async def test_what_a_callback_raises_is_logged_and_ends_nobody(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2's kind: hooks and pongs are called back in tasks that all links depend on."""
    calls: list[str] = []
    async with open_gathered(2, transport) as (ends, other):
        ours, peer = ends.ours(), ends.raw()
        link = ours.link
        for name in ("first", "second"):
            link.queue.set_hooks(
                name,
                closed=partial(fail, calls, f"closed {name}"),
                drained=partial(fail, calls, f"drained {name}"),
            )
        while link.queue.writable:
            link.queue.write(encode(Frame(BINARY, bytes(100_000)), masked=False))
        while link.queue.buffered_amount:
            await peer.frame()
        await trio.testing.wait_all_tasks_blocked(0.01)
        ping = link.pulse.ping(partial(fail, calls, "pong"))
        await peer.send(Frame(PONG, ping.payload), Frame(TEXT, b"behind it"))
        assert await ours.receive() == "behind it"
        await peer.send(close_frame(1000))
        assert (await peer.frames())[-1] == close_frame(1000)
        await peer.stream.aclose()
        await link.wait_closed()
        assert calls[-2:] == ["closed first", "closed second"]
        assert set(calls[:-2]) == {"drained first", "drained second", "pong"}
        told = [record.exc_info for record in caplog.records]
        assert len(told) == len(calls) and all(told)
        await other.raw().send(Frame(TEXT, b"still there?"))
        assert await other.ours().receive() == "still there?"


async def test_an_error_while_reading_for_one_link_ends_that_link_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is that fails: one task reads for all."""
    async with open_gathered(2) as (ends, other):
        ours, theirs = ends.ours(), other.ours()
        monkeypatch.setattr(Incoming, "receive", partial(fail, [], "receive"))
        await ends.raw().send(Frame(TEXT, b"x"))
        await ours.link.wait_closed()
        monkeypatch.undo()
        await other.raw().send(Frame(TEXT, b"still there?"))
        assert await theirs.receive() == "still there?"
    assert ours.close_code == 1006
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("transport", ["gathered", "unix", "memory", "filtered"])
async def test_closed_links_need_no_garbage_collector(transport: str) -> None:
    """A peer costs nothing once it has gone: at once, and not some time later."""
    gc.collect()
    gc.disable()
    try:
        before = count_links()
        for _ in range(10):
            async with open_gathered(1, transport) as (ends,):
                ours, theirs = ends.ours(), ends.theirs()
                await theirs.send("x")
                assert await ours.receive() == "x"
                await theirs.aclose()
                await ours.wait_closed()
        assert count_links() - before <= 2  # those that stand in variables here
    finally:
        gc.enable()


def count_links() -> int:
    """How many links there are, or of one kind of their parts if there are more of that."""
    kinds = Counter(type(each) for each in gc.get_objects())
    return max(kinds[kind] for kind in (Link, Carrier, Incoming, SendQueue))


# Transports that fail.


async def test_a_write_error_leaves_what_arrived_to_be_received(unix_ends: Ends) -> None:
    """Invariant 11: the link is broken for writing, and reading goes on."""
    ours, peer = unix_ends.ours(), unix_ends.raw()
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.socket.shutdown(socket.SHUT_RD)
    await ours.send("into a broken pipe")
    assert ours.state is State.OPEN
    for operation in (ours.send("no"), ours.ping()):
        with pytest.raises(ConnectionLost, match=r"1006, 'Broken pipe'"):
            await operation
    await peer.send(Frame(TEXT, b"arrived"), Frame(0x9, b"no pong can be sent"))
    assert await ours.receive() == "arrived"
    await peer.stream.aclose()
    with pytest.raises(ConnectionLost):
        await ours.receive()


async def test_a_write_error_in_mid_frame_drops_the_queue_and_wakes_senders(
    unix_ends: Ends,
) -> None:
    """Invariants 1 and 11."""
    # A kernel does not wake a writer for this, so the write timeout does.
    limits = Limits(send_bytes=1, write_timeout=0.05)
    ours, peer = unix_ends.ours(limits), unix_ends.raw()
    assert isinstance(peer.stream, trio.SocketStream)
    await ours.send(bytes(1_000_000))
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionLost, match="Broken pipe"):
                await ours.send("waiting")

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        peer.stream.socket.shutdown(socket.SHUT_RD)
    assert ours.buffered_amount == 0
    await peer.send(Frame(TEXT, b"arrived"), close_frame(1000))
    assert await ours.receive() == "arrived"


class Misbehaving(trio.abc.Stream):
    """A stream by somebody else, which raises what no stream should; it has no half-close."""

    def __init__(self, fault: str) -> None:
        self.inner, self.peer = stream_pair()
        self._fault = fault

    def _check(self, doing: str) -> None:
        if doing == self._fault:
            raise ZeroDivisionError(f"while doing {doing}")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check("send")
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self.inner.receive_some(max_bytes)
        self._check("receive")
        return data

    async def aclose(self) -> None:
        await self.inner.aclose()
        self._check("close")


@pytest.mark.parametrize("fault", ["send", "receive", "close"])
async def test_a_transport_that_raises_anything_ends_its_own_link_alone(
    fault: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 7: links share a nursery, which the error must not reach."""
    stream = Misbehaving(fault)
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    peer = RawPeer(stream.peer, is_client=True)
    with caplog.at_level(logging.ERROR, "trioweb"):
        link.queue.write(encode(Frame(TEXT, b"hello"), masked=False))
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(close_frame(1000))
        await peer.frames()
        await link.wait_closed()
    told = [record.exc_info for record in caplog.records]
    # How a transport closes concerns nobody.
    assert len(told) == (0 if fault == "close" else 1)


@pytest.mark.parametrize("transport", ["unix", "filtered", "memory", "tls-memory"])
async def test_nothing_is_written_behind_a_frame_that_a_cancellation_has_cut(
    transport: str,
) -> None:
    """Invariant 1, though the link is still open and the peer has made room."""
    frame = encode(Frame(BINARY, bytes(5_000_000)), masked=False)
    read = bytearray()
    async with open_streams(transport) as (client, server):

        async def read_all() -> None:
            with suppress(trio.BrokenResourceError):
                while data := await client.receive_some(65536):
                    read.extend(data)

        async with trio.open_nursery() as writing:
            link = Link(server, b"", is_client=False, limits=Limits(), spawn=writing.start_soon)
            link.queue.write(frame)
            await trio.testing.wait_all_tasks_blocked(0.01)
            writing.cancel_scope.cancel()
        with trio.move_on_after(0.1):
            await read_all()
        assert not link.queue.writable
        with pytest.raises(ConnectionLost, match="writing was cancelled"):
            link.check_writable()
        link.close(1001)
        await trio.aclose_forcefully(server)
        await read_all()
    assert len(read) < len(frame) and frame.startswith(read)


async def test_a_transport_without_half_close_is_closed_at_once(nursery: trio.Nursery) -> None:
    stream = Misbehaving("never")
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    peer = RawPeer(stream.peer, is_client=True)
    await peer.send(close_frame(1000))
    assert await peer.frames() == [close_frame(1000)]
    await link.wait_closed()


async def test_an_abort_before_the_first_read_holds(nursery: trio.Nursery) -> None:
    stream, other = stream_pair()
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.abort("never began")
    assert link.close_code == 1006
    link.carrier.start()
    await link.wait_closed()
    assert await other.receive_some() == b""
    assert str(link.error()) == "connection lost (1006, 'never began')"


async def test_the_first_to_say_why_is_believed(nursery: trio.Nursery) -> None:
    stream: MemoryStream
    stream, _ = stream_pair()
    link = Link(stream, b"", is_client=False, limits=Limits(), spawn=nursery.start_soon)
    link.carrier.start()
    link.close(4001, "first")
    link.close(4002, "second")
    link.abort("third")
    await link.wait_closed()
    assert (link.close_code, link.close_reason) == (4001, "first")
