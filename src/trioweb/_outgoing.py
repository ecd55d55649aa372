"""The writing half of a link: all or nothing for a frame, and never a wait.

What the kernel does not take at once is queued and finished by a drain task, which exists
only while there is something to drain.  What the bytes mean is the link's business; of the link
there is only its state here, which says whether anything may be written at all.

Over TLS what is queued are frames still: they become records when their turn comes, since
records must leave in the order in which they are made.

NOTE: A frame whose first byte was written is written to its end, or nothing after it is.
`_queue` holds whole frames, and in front at most one that was begun.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from ._chance import random_name
from ._logs import log
from ._policy import Limits
from ._tls import Tls, TlsStream
from ._waitable import Line, Waitable, Waiter
from ._wire._choice import wire_to
from ._wire._kernel import kernel_fileno

_logger = logging.getLogger("trioweb")

# While less than this is queued, answers such as pongs queue up, too: where everything passes
# through the queue, they wait for a moment even if the peer reads, and dropping the older of two
# pongs, though allowed, is taken for a fault by some.
_ANSWERS_BYTES: Final = 512
# So many of those who wait to send have their turn at once: to write for one takes up to 10 µs.
_SENDERS_PER_TURN: Final = 64


class State(IntEnum):
    """The states of a connection, with the numbers that browsers use."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


# To look up a member takes longer than to compare with it, and each message has it compared
# several times.
OPEN: Final = State.OPEN


class Spawn(Protocol):
    """`Nursery.start_soon` of the nursery that holds a link's tasks."""

    def __call__(self, task: Callable[[], Awaitable[None]], /) -> object: ...


def describe(error: Exception, link: Outgoing) -> str:
    """What went wrong with the transport of *link*, in as few words as there are.

    Streams are anybody's, and many links share a nursery: none may end the others.  So what
    no stream should raise is logged, and otherwise treated as what one may.
    """
    if not isinstance(error, (OSError, trio.BrokenResourceError, trio.ClosedResourceError)):
        log(_logger, logging.ERROR, link, "unexpected error of a transport", error=error)
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def call_back(callback: Callable[[], object], link: Outgoing) -> None:
    """Call what somebody else left with *link* to be called.

    It runs in a task that many links depend on, so an error of its own is logged and ends there.
    """
    try:
        callback()
    except Exception as exc:
        log(_logger, logging.ERROR, link, "error in what a link calls back", error=exc)


class _Sender(Waiter):
    """A task that waits to send *frame*; None: to write itself, once it is its turn."""

    __slots__ = ("frame", "was_written")

    def __init__(self, frame: bytes | None) -> None:
        super().__init__()
        self.frame = frame
        self.was_written = False


class Outgoing(Waitable):
    """What goes to one peer, and who waits to write.

    Senders stand in a line of their own (`wait_turn`): what is received wakes none of them, and
    what is written wakes nobody but the one whose turn it is.

    The base of Link instead of a part of it: an idle connection is one object less, and each
    delivery of a topic one step shorter.

    Attributes:
        is_direct: what `offer` says was taken is with the kernel, and nothing else is.
        state: the link's.
        broken: why nothing can be written any more, None while it can.
        is_free: the state is OPEN, nothing is broken, and the transport has room.
        writable: likewise, and nobody stands in line.
        buffered_amount: bytes queued.
        is_cut: of the frame with which the queue began, not all is written yet.
        held: `write` has had its turn, and those who stand in line are next.
        heard_at: when the peer last gave a sign of life.
        asked_at: since when one that was asked for is awaited; None if none is.
    """

    __slots__ = (
        "_answers",
        "_close_hooks",
        "_drain_hooks",
        "_fileno",
        "_flushed",
        "_id",
        "_is_draining",
        "_line",
        "_queue",
        "_room",
        "_senders",
        "_spawn",
        "_stream",
        "_tls",
        "_wire",
        "asked_at",
        "broken",
        "buffered_amount",
        "heard_at",
        "held",
        "is_cut",
        "is_direct",
        "is_free",
        "limits",
        "messages_sent",
        "state",
        "writable",
    )

    def __init__(self, stream: trio.abc.Stream, *, limits: Limits, spawn: Spawn) -> None:
        super().__init__()
        self.limits = limits
        self.state = OPEN
        self.is_free = self.writable = True
        self.buffered_amount = 0
        self.messages_sent = 0
        self.heard_at = trio.current_time()
        self.asked_at: float | None = None
        # Why nothing can be written any more.
        self.broken: str | None = None
        self._tls: Tls | None = None
        self._fileno = kernel_fileno(stream)
        if isinstance(stream, TlsStream):
            self._fileno = kernel_fileno(stream.transport_stream)
            if self._fileno is not None:
                self._tls, stream = stream.tls, stream.transport_stream
        self._stream = stream
        self._wire = wire_to(stream, self._tls, limits.write_timeout)
        self.is_direct = self._wire.is_direct
        # Up to here there is room although something is queued.  Where everything passes through
        # the queue, it takes the place of the kernel's: what is written at one go must not look
        # like a peer that does not read.
        self._room = limits.send_bytes if self._wire.is_queued else 0
        self._spawn = spawn
        self._id: str | None = None
        self._close_hooks: dict[object, Callable[[], None]] | None = None
        self._drain_hooks: dict[object, Callable[[], None]] | None = None
        # Made when first needed: most connections never queue anything.
        self._queue: deque[bytes] | None = None
        self._answers: dict[object, bytes] | None = None
        self._is_draining = False
        self.is_cut = False
        # Who has something to write as soon as nothing is queued any more, and must not wait for
        # ever because `write` always queues more before that.
        self._line: set[object] | None = None
        self.held = False
        self._senders: Line[_Sender] | None = None
        self._flushed: trio.Event | None = None

    @property
    def id(self) -> str:
        """A random string that this link has alone."""
        # Made when first asked for: most are never asked.
        if self._id is None:
            self._id = random_name()
        return self._id

    def abort(self, reason: str) -> None:
        """End the link at once."""
        raise NotImplementedError

    async def wait_flushed(self) -> None:
        """Wait until nothing is queued any more, written or lost."""
        while self._is_draining:
            if self._flushed is None:
                self._flushed = trio.Event()
            await self._flushed.wait()

    def set_hooks(
        self, key: object, *, closed: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        """Have *closed* called once, when the state leaves OPEN, and *drained* whenever
        all that was queued is written and there is room.

        An error that one of them raises is logged, and reaches nobody.
        """
        if self._close_hooks is None or self._drain_hooks is None:
            self._close_hooks, self._drain_hooks = {}, {}
        self._close_hooks[key] = closed
        self._drain_hooks[key] = drained

    def remove_hooks(self, key: object) -> None:
        if self._close_hooks is not None and self._drain_hooks is not None:
            self._close_hooks.pop(key, None)
            self._drain_hooks.pop(key, None)

    def stand_in_line(self, key: object) -> None:
        """Write before anybody else but `write`, as soon as there is room: at the drained hooks,
        and between any two messages that `write` queues, until `turn_over` is called or *key*
        leaves the line."""
        if self._line is None:
            self._line = set()
        self._line.add(key)
        self.writable = False

    def leave_line(self, key: object) -> None:
        if self._line is not None:
            self._line.discard(key)
            if not self._line:
                self._line = None
                self.writable = self.is_free
                self.turn_over()

    def turn_over(self) -> None:
        """Those in line have had their turn."""
        if self.held:
            self.held = False
            self._admit()

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = trio.current_time()
        self.asked_at = None

    def answer(self, key: object, frame: bytes) -> None:
        """Send an answer, or leave it to the drain task.

        Where more is queued, the latest answer of a kind (*key*) is all that waits (RFC 6455
        section 5.5.3 allows it): so a peer that asks without reading costs next to nothing,
        however often it asks, and one that reads gets all of them.
        """
        if self.state is not OPEN or self.broken is not None:
            return
        if self.buffered_amount < _ANSWERS_BYTES:
            self.put(frame)
        else:
            if self._answers is None:
                self._answers = {}
            self._answers[key] = frame

    def drop_answers(self) -> None:
        """Answers that wait are not needed any more."""
        self._answers = None

    def offer(self, data: bytes) -> int:
        """Hand *data* to the transport; return how many bytes of it were taken.

        A kernel socket takes what it has room for, and over TLS whole records, the last of which
        may be queued; any other transport takes all, which is then queued.  See `is_direct`.

        NOTE: Only while `is_free`; and where the return value cuts a frame, `finish` gets
        the rest of that frame before anything else is written.
        """
        wire = self._wire
        try:
            if self.is_direct:
                # As `KernelWire.offer`, by which each delivery of a topic takes 5 to 9 % longer.
                assert self._fileno is not None
                return os.write(self._fileno(), data)
            taken = wire.offer(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            # Reading goes on, so that what had arrived is still delivered (invariant 11).
            self.break_off(f"{exc.strerror or exc}")
            return len(data)
        if wire.is_queued:
            self.finish(data)
            return len(data)
        if wire.backlog:
            self.buffered_amount += wire.backlog
            self.is_free = self.writable = False
            self._start_draining()
        return taken

    # What is queued has a task that writes it.
    @enable_ki_protection
    def finish(self, rest: bytes) -> None:
        """Queue *rest*, whole frames or what `offer` left of one, for the drain task."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(rest)
        self.buffered_amount += len(rest)
        if self.buffered_amount > self._room:
            self.is_free = self.writable = False
        self._start_draining()

    def _start_draining(self) -> None:
        if not self._is_draining:
            self._is_draining = self.is_cut = True
            self._spawn(self._drain)

    def write(self, frame: bytes) -> None:
        """Write *frame*, or queue what of it the kernel did not take.  Never waits.

        NOTE: The caller has seen `writable`, or called `Link.check_writable`, since its last await.
        """
        self.messages_sent += 1
        self.put(frame)
        if self._line is not None:
            self.held = self._is_draining

    @property
    def takes_message(self) -> bool:
        """Whether `write` may be called for a message, and nobody waits to send another one."""
        return not self._senders and self._has_turn()

    def _has_turn(self) -> bool:
        """Whether it is the turn of whoever is first to send, with room for a message."""
        is_full = self.buffered_amount > self.limits.send_bytes
        return not (self.held or is_full or self.state is not OPEN or self.broken is not None)

    async def wait_turn(self, frame: bytes) -> bool:
        """Wait behind all who wait to send, and have *frame* written.

        Returns:
            Whether it was: False if nothing can be written any more.

        Cancellation: nothing was written.  Checkpoint: always.
        """
        if self._senders is None:
            self._senders = Line()
        sender = _Sender(frame)
        await self._senders.wait(sender)
        return sender.was_written

    async def wait_room(self) -> None:
        """Wait behind all who wait to send, until it is the caller's turn to write or nothing can
        be written any more.

        Cancellation: nothing was written.  Checkpoint: a cancellation point always; lets others
        run if it waits.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.takes_message or self.state is not OPEN or self.broken is not None:
            return
        if self._senders is None:
            self._senders = Line()
        await self._senders.wait(_Sender(None))

    # Whoever is woken here is written for.
    @enable_ki_protection
    def _admit(self) -> None:
        """Write for those who wait to send, as far as it is their turn: the first to wait first.

        NOTE: Called wherever `_has_turn` may have become true, so that nobody waits while it is.
        """
        if self._senders is None:
            return
        for _ in range(_SENDERS_PER_TURN):
            if not self._senders or not self._has_turn():
                return
            sender = self._senders.wake()
            sender.was_written = True
            if sender.frame is not None:
                self.write(sender.frame)
        if self._senders and self._has_turn():
            # Its task goes on from here once others have run, and until then nobody gets ahead.
            self.is_free = self.writable = False
            self._start_draining()

    def refuse_senders(self) -> None:
        """Nothing can be written any more: tell those who wait for that."""
        while self._senders:
            self._senders.wake()

    # An interrupt in the middle would cut a frame.
    @enable_ki_protection
    def put(self, frame: bytes) -> None:
        """Write *frame* behind all that was put before; queue what the kernel leaves."""
        if self.broken is not None:
            return
        if self._is_draining:
            self.finish(frame)
            return
        taken = self.offer(frame)
        if taken < len(frame):
            self.finish(frame[taken:] if taken else frame)

    def put_tls(self) -> None:
        """Write what TLS has to say itself: at once, or where the drain task comes to it."""
        if not self._is_draining:
            self.put(b"")

    def break_off(self, reason: str) -> None:
        """Nothing can be written any more; what was queued is lost.  The first *reason* stays."""
        if self.broken is None:
            self.broken = reason
        self.is_free = self.writable = False
        self.buffered_amount = 0
        self._queue = self._answers = None
        self.refuse_senders()
        self.changed()

    # Who waits for the queue to be empty hears of it whatever happens.
    @enable_ki_protection
    async def _drain(self) -> None:
        """Write what is queued.  The task ends with the queue."""
        write = self._wire.write
        try:
            # The front of the queue may be the rest of a frame, so it goes before answers,
            # which then do not wait behind what a slow peer has yet to read.
            # Even if there is none, TLS may have something of its own, at the end, too.
            while True:
                await write(self._queue.popleft() if self._queue else b"", self)
                self.is_cut = False
                while self._answers:
                    answer = self._answers.pop(next(iter(self._answers)))
                    self.buffered_amount += len(answer)
                    await write(answer, self)
                if not self._queue and not self._wire.has_more:
                    break
        except trio.TooSlowError:
            self.break_off("write timeout")
            seconds = self.limits.write_timeout
            self.abort(f"the peer took nothing for {seconds:g} s (Limits.write_timeout)")
        except Exception as exc:
            self.break_off(describe(exc, self))
        except BaseException:
            # What is left of a frame is gone, so nothing may follow it.
            self.break_off("writing was cancelled")
            raise
        finally:
            self._is_draining = False
            self.is_free = self.state is OPEN and self.broken is None
            self.writable = self.is_free and self._line is None
            if self._flushed is not None:
                self._flushed.set()
                self._flushed = None
        if self.is_free and self._drain_hooks is not None:
            for hook in tuple(self._drain_hooks.values()):
                call_back(hook, self)
        self._admit()

    # Of the wire's account.

    def grew(self, size: int) -> None:
        """What is queued takes so many bytes more than it did."""
        self.buffered_amount += size

    def wrote(self, size: int, *, by_peer: bool) -> None:
        """So many bytes of what was queued are written."""
        if by_peer:
            self.heard()
        self.buffered_amount -= size
        self._admit()
