"""Connected byte streams in memory that, like TCP, make a sender wait for its receiver.

Rules kept here: between two ends, sent and unread, there are never more bytes than the bound;
whoever waits is woken by everything that can end the wait, its own stream's closing included;
a cancelled call loses nothing but what it had not yet handed over.

A stream looks at what has arrived when one of its tasks does, and sleeps until more arrives:
there are no tasks here.  Knows nothing of WebSockets, and of time only what its path says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import trio

from ._flight import ByteFlight, Flight, Path, Signal


def check_max_bytes(max_bytes: int) -> None:
    """Raise unless *max_bytes* can bound a stream."""
    if type(max_bytes) is not int or max_bytes < 1:
        raise ValueError(f"max_bytes must be a whole number of at least 1, not {max_bytes!r}")


def stream_pair(max_bytes: int = 65536) -> tuple[MemoryStream, MemoryStream]:
    """Make two streams, each of which receives what the other sends.

    Unlike `trio.testing.memory_stream_pair` the pair is bounded, so a sender is held up by a
    peer that does not read: what a test of slow consumers needs.

    Args:
        max_bytes: how many bytes may wait unread in each direction, at least 1.  A sender
            blocks while the peer holds that many.  The default is a small kernel buffer's.

    Returns:
        The two ends, alike in every way.

    Raises:
        ValueError: *max_bytes* is not a positive whole number.
    """
    check_max_bytes(max_bytes)
    a, b = MemoryStream(max_bytes), MemoryStream(max_bytes)
    a.connect(b, Path(), Path())
    return a, b


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory; `stream_pair` makes two.

    It behaves as a TCP stream does on Linux.  `aclose` lets the peer read what was sent and then
    the end.  The first thing that the peer sends after that is taken, and lost; what answers it
    resets the connection, so that sending again raises `trio.BrokenResourceError`.

    Concurrency: one task may send while another receives; a second one doing the same raises
    `trio.BusyResourceError`.  Any task may close.
    """

    # A pair always lets the peer read to the end.  TCP does not where bytes were left unread.
    _fin_before_reset = True

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unread = bytearray()
        self._unacked = 0  # sent, and not known to have been read
        self._finished = False  # we have sent FIN
        self._ended = False  # FIN has arrived
        self._reset = False  # RST has arrived
        self._reset_told = False
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()
        self._sending = _Guard("another task is already sending on this stream")
        self._receiving = _Guard("another task is already receiving from this stream")

    def connect(
        self, peer: MemoryStream, there: Path, back: Path, born: float | None = None
    ) -> None:
        """Join two fresh streams by a path *there*, to the peer, and one *back*."""
        self._peer, peer._peer = peer, self
        self._inbound = ByteFlight(back, born, self._wake)
        self._acks: Flight[int] = Flight(back, born, self._wake)
        peer._inbound = ByteFlight(there, born, peer._wake)
        peer._acks = Flight(there, born, peer._wake)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*, waiting while the peer's buffer is full.

        Raises:
            trio.BrokenResourceError: the connection was reset, which is how a peer answers that
                has closed.
            trio.ClosedResourceError: this end is closed, or `send_eof` was called.
            trio.BusyResourceError: another task is sending.

        Cancellation: a part may have been sent.  Checkpoint: always.
        """
        with self._sending.held(), memoryview(data) as view, view.cast("B") as octets:
            await trio.lowlevel.checkpoint()
            await self._wait_runnable("send")
            self._check_unfinished()
            sent = 0
            while sent < len(octets):
                sent += await self._send_some(octets[sent:])

    async def send_some(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much of *data* as fits, waiting for room for a byte, and return how much.

        Raises as `send_all`.  Cancellation: nothing was sent.  Checkpoint: always.
        """
        with self._sending.held(), memoryview(data) as view, view.cast("B") as octets:
            await trio.lowlevel.checkpoint()
            return await self._send_some(octets)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the peer's buffer has room, or until sending would raise.

        Raises:
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task is sending.

        Checkpoint: always.
        """
        with self._sending.held():
            await trio.lowlevel.checkpoint()
            await self._wait_room()
            self._check_open()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; receiving goes on.  Idempotent.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task is sending.

        Checkpoint: always.
        """
        with self._sending.held():
            await trio.lowlevel.checkpoint()
            await self._wait_runnable("send")
            self.finish()

    def finish(self) -> None:
        """Send FIN, at once: `send_eof` without its care for others."""
        if not self._finished:
            self._check_open()
            self._look()
            if self._reset:
                raise trio.BrokenResourceError("the connection was reset")
            self._finished = True
            self._note("eof")
            self._transmit(self._now(), Signal.FIN)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return at most *max_bytes* of them, or `b""` at the end.

        Raises:
            trio.BrokenResourceError: the connection was reset; what arrived before that was
                returned first.  Once a call has raised it, of this method or for sending, there
                is only the end, as from Linux.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task is receiving.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        if max_bytes is not None and not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be a whole number, not {max_bytes!r}")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        with self._receiving.held():
            await trio.lowlevel.checkpoint()
            while True:
                await self._wait_runnable("receive")
                self._check_open()
                if self._unread:
                    return self._take(max_bytes)
                if self._ended or self._reset_told:
                    return b""
                if self._reset:
                    self._raise_reset()
                await self._sleep(self._next())

    def close(self) -> None:
        """Close both directions at once; `aclose` without its checkpoint.  Idempotent."""
        if self._closed:
            return
        self._look()
        self._closed = True
        self._note("close")
        if not self._reset:
            if not self._finished and (self._fin_before_reset or not self._unread):
                self._transmit(self._now(), Signal.FIN)
            if self._unread:
                self._transmit(self._now(), Signal.RST)
        self._unread.clear()
        self._wake()

    async def aclose(self) -> None:
        """Close both directions.  Never waits for the peer; closes even when cancelled.

        Checkpoint: always.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Let the connection be reset here and now, for both ends; what is under way is lost."""
        self._note("reset")
        for end in (self, self._peer):
            end._inbound.lose()
            end._reset = True
            end._wake()

    async def _send_some(self, octets: memoryview) -> int:
        await self._wait_room()
        self._check_unfinished()
        if self._reset:
            self._raise_reset()
        chunk = bytes(octets[: self._max_bytes - self._unacked])
        self._unacked += len(chunk)
        self._note("send", len(chunk))
        self._transmit(self._now(), chunk)
        return len(chunk)

    def _transmit(self, at: float, load: bytes | Signal) -> None:
        """Put it on its way to the peer."""
        self._peer._inbound.send(at, load)

    async def _wait_room(self) -> None:
        """Wait until sending would not block, if because it would raise."""
        while True:
            await self._wait_runnable("send")
            is_over = self._closed or self._finished or self._reset
            if is_over or self._unacked < self._max_bytes:
                return
            await self._sleep(self._next())

    async def _wait_runnable(self, doing: str) -> None:
        """Wait until this end's program may go on, and look at what has arrived by then."""
        while not self._closed and (until := self._held_until(doing)) > self._now():
            await self._sleep(until)
        self._look()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was already closed")

    def _check_unfinished(self) -> None:
        self._check_open()
        if self._finished:
            raise trio.ClosedResourceError("cannot send after send_eof")

    def _raise_reset(self) -> NoReturn:
        self._reset_told = True
        raise trio.BrokenResourceError("the peer has closed or reset this connection")

    def _take(self, max_bytes: int | None) -> bytes:
        size = self._inbound.path.piece(len(self._unread))
        data = bytes(self._unread[: min(size, max_bytes or size)])
        del self._unread[: len(data)]
        self._note("receive", len(data))
        self._peer._acks.send(self._now(), len(data))
        return data

    def _look(self) -> None:
        """Take in what has arrived."""
        now = self._now()
        if self._peer._gone() and not self._gone():
            self._peer._look()  # nobody else does, and it may answer
        for at, load in self._inbound.land(now):
            if load is Signal.FIN:
                self._ended = True
            elif load is Signal.RST:
                self._reset = True
            elif self._gone():
                # RFC 9293, section 3.10.7.1: what arrives at no connection is answered so.
                self._transmit(at, Signal.RST)
            else:
                self._unread += load
        for _, size in self._acks.land(now):
            self._unacked -= size

    def _next(self) -> float:
        """When looking again may show something new."""
        answers = self._peer._inbound.next() if self._peer._gone() else math.inf
        return min(self._inbound.next(), self._acks.next(), answers)

    async def _sleep(self, until: float) -> None:
        """Sleep until something changes, but no longer than *until*."""
        if until == math.inf:
            await self._changed.park()
        else:
            with trio.move_on_at(until):
                await self._changed.park()

    def _wake(self) -> None:
        self._changed.unpark_all()
        if self._gone():
            self._peer._changed.unpark_all()

    def _now(self) -> float:
        return self._inbound.path.now()

    def _gone(self) -> bool:
        """Is there nobody any more who could read?"""
        return self._closed

    def _held_until(self, doing: str) -> float:
        """Until when this end's program stands still, as far as *doing* is concerned."""
        return -math.inf

    def _note(self, event: str, size: int = 0) -> None:
        """Tell whoever keeps a record."""


class _Guard:
    """Lets one task in at a time and tells the second so, as Trio's own streams do."""

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        self._taken = False

    @contextmanager
    def held(self) -> Iterator[None]:
        if self._taken:
            raise trio.BusyResourceError(self._complaint)
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
