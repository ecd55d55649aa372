"""The send queue: what waits to leave for one peer, and who waits to write.

All or nothing for what is put, and never a wait.  What the wire does not take at once is queued
and finished by a drain task, which exists only while there is something to drain.

    IDLE ◀──── something is queued, or nothing is any more ────▶ DRAINING
      └── nothing more is taken ──▶ SHUT ◀──┘
      └── nothing can be written ─▶ BROKEN ◀┘  (from SHUT, too)

Must not know what the bytes mean, or that anything is read: whoever has a wire can have a queue.

NOTE: `_move` alone says whether there is room, and what was begun is written to its end, or nothing
after it is.  `_queue` holds whole frames, and in front at most one that was begun.  Over TLS they
become records when their turn comes, since records must leave in the order in which they are made.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._waitable import Line, Waiter
from .._wire._wire import Wire
from ._contain import call_back, describe

# While less than this is queued, answers such as pongs queue up, too: where everything passes
# through the queue, they wait for a moment even if the peer reads, and dropping the older of two
# pongs, though allowed, is taken for a fault by some.
_ANSWERS_BYTES: Final = 512
# So many of those who wait to send have their turn at once: to write for one takes up to 10 µs.
_SENDERS_PER_TURN: Final = 64


class QueueState(Enum):
    """What becomes of what is put.

    IDLE: the wire gets it at once.
    DRAINING: it is queued, behind what is there.
    SHUT: it is dropped; what is queued is still written.
    BROKEN: it is dropped, and what was queued is lost.
    """

    IDLE = "IDLE"
    DRAINING = "DRAINING"
    SHUT = "SHUT"
    BROKEN = "BROKEN"


# To look up a member takes longer than to compare with it.
IDLE: Final = QueueState.IDLE
DRAINING: Final = QueueState.DRAINING
SHUT: Final = QueueState.SHUT
BROKEN: Final = QueueState.BROKEN


class Spawn(Protocol):
    """`Nursery.start_soon` of the nursery that holds the tasks of whoever has a queue."""

    def __call__(self, task: Callable[[], Awaitable[None]], /) -> object: ...


class Owner(Protocol):
    """Whoever has a queue."""

    @property
    def id(self) -> str:
        """What the records of the log go by."""

    def heard(self) -> None:
        """The peer has made room, which is a sign of life."""

    def on_broken(self) -> None:
        """Nothing can be written any more: the queue is BROKEN.

        NOTE: Called in the middle of what somebody writes, who does not expect to be called.
        """

    def on_stalled(self) -> None:
        """The peer took nothing for the write timeout; the queue is BROKEN for that."""


class _Sender(Waiter):
    """A task that waits to send *frame*; None: to write itself, once it is its turn."""

    __slots__ = ("frame", "was_written")

    def __init__(self, frame: bytes | None) -> None:
        super().__init__()
        self.frame = frame
        self.was_written = False


class _Hooks:
    """What somebody wants to be called for."""

    __slots__ = ("closed", "drained")

    def __init__(self, closed: Callable[[], None], drained: Callable[[], None]) -> None:
        self.closed = closed
        self.drained = drained


class SendQueue:
    """What waits to leave over *wire*.

    There are three ways to write: `write` a message, after a look at `writable` or
    `takes_message`, or by `wait_turn`; `put` what does not wait for room, and `answer` what may be
    replaced by a later one; and `offer` a chunk, whose rest comes again, while it `is_free`.

    Senders stand in a line of their own (`wait_turn`): what is written wakes nobody but the one
    whose turn it is.  Those who offer have another one (`stand_in_line`): they are next when
    nothing is queued any more, and have a turn between any two messages.

    Args:
        owner: hears of what happens; until `disown`.
        spawn: starts the drain task.
        send_bytes: messages wait while more than so much is queued.

    Attributes:
        state: see `QueueState`.
        broken: why it is BROKEN; None while it is not.
        is_free: the wire has room for a chunk.
        writable: likewise, and nobody stands in line.
        buffered_amount: bytes queued.
        messages_sent: messages that were written.
        is_cut: of the frame with which the queue began, not all is written yet.
        held: `write` has had its turn, and those who stand in line are next.
    """

    __slots__ = (
        "_answers",
        "_drained",
        "_fileno",
        "_hooks",
        "_line",
        "_owner",
        "_queue",
        "_room",
        "_send_bytes",
        "_senders",
        "_spawn",
        "_wire",
        "broken",
        "buffered_amount",
        "held",
        "is_cut",
        "is_free",
        "messages_sent",
        "state",
        "writable",
    )

    def __init__(self, wire: Wire, *, owner: Owner, spawn: Spawn, send_bytes: int) -> None:
        self._wire = wire
        self._fileno = wire.direct
        self._owner: Owner | None = owner
        self._spawn = spawn
        self._send_bytes = send_bytes
        self.state = IDLE
        self.broken: str | None = None
        self.is_free = self.writable = True
        self.buffered_amount = 0
        self.messages_sent = 0
        # Up to here there is room although something is queued.  Where everything passes through
        # the queue, it takes the place of the kernel's: what is written at one go must not look
        # like a peer that does not read.
        self._room = send_bytes if wire.is_queued else 0
        self.is_cut = False
        # Made when first needed: most connections never queue anything.
        self._queue: deque[bytes] | None = None
        self._answers: dict[object, bytes] | None = None
        self._hooks: dict[object, _Hooks] | None = None
        # The end of the drain task, while there is one.
        self._drained: trio.Event | None = None
        # Who has something to offer as soon as nothing is queued any more, and must not wait for
        # ever because `write` always queues more before that.
        self._line: set[object] | None = None
        self.held = False
        self._senders: Line[_Sender] | None = None

    def _move(self, state: QueueState, *, is_full: bool = False) -> None:
        """Be in *state* from now on, unless an end was reached that it does not come after.

        Args:
            is_full: there is no room, whatever the size of what is queued.
        """
        if self.state is SHUT or self.state is BROKEN:
            state = BROKEN if state is BROKEN else self.state
        self.state = state
        if state is DRAINING:
            # Whoever found no room finds some when all is written.
            is_full = is_full or self.buffered_amount > self._room
            self.is_free = self.is_free and not is_full
        else:
            self.is_free = state is IDLE
        self.writable = self.is_free and self._line is None

    @property
    def is_open(self) -> bool:
        """Whether anything is taken any more."""
        return self.state is IDLE or self.state is DRAINING

    @property
    def is_direct(self) -> bool:
        """Whether what `offer` says was taken is with the kernel, and nothing else is."""
        return self._fileno is not None

    # What others are called for.

    def set_hooks(
        self, key: object, *, closed: Callable[[], None], drained: Callable[[], None]
    ) -> None:
        """Have *closed* called once, when nothing more is taken, and *drained* whenever all that
        was queued is written and there is room.

        An error that one of them raises is logged, and reaches nobody.
        """
        if self._hooks is None:
            self._hooks = {}
        self._hooks[key] = _Hooks(closed, drained)

    def remove_hooks(self, key: object) -> None:
        if self._hooks is not None:
            self._hooks.pop(key, None)

    def call_close_hooks(self) -> None:
        """Tell those who want to know that nothing more is taken."""
        hooks, self._hooks = self._hooks, None
        for each in (hooks or {}).values():
            call_back(each.closed, self._owner)

    # Chunks.

    def stand_in_line(self, key: object) -> None:
        """Write before anybody else but `write`, as soon as there is room: at the drained hooks,
        and between any two messages that `write` queues, until `turn_over` is called or *key*
        leaves the line."""
        if self._line is None:
            self._line = set()
        self._line.add(key)
        self._move(self.state)

    def leave_line(self, key: object) -> None:
        if self._line is not None:
            self._line.discard(key)
            if not self._line:
                self._line = None
                self._move(self.state)
                self.turn_over()

    def turn_over(self) -> None:
        """Those in line have had their turn."""
        if self.held:
            self.held = False
            self._admit()

    def offer(self, data: bytes) -> int:
        """Hand *data* to the wire; return how many bytes of it were taken.

        A kernel socket takes what it has room for, and over TLS whole records, the last of which
        may be queued; any other wire takes all, which is then queued.  See `is_direct`.

        NOTE: Only while `is_free`; and where the return value cuts a frame, `finish` gets
        the rest of that frame before anything else is written.
        """
        fileno = self._fileno
        try:
            if fileno is not None:
                # As `KernelWire.offer`, by which each delivery of a topic takes 5 to 9 % longer.
                return os.write(fileno(), data)
            wire = self._wire
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
            self._drain_soon(is_full=True)
        return taken

    # What is queued has a task that writes it.
    @enable_ki_protection
    def finish(self, rest: bytes) -> None:
        """Queue *rest*, whole frames or what `offer` left of one, for the drain task."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(rest)
        self.buffered_amount += len(rest)
        self._drain_soon()

    def _drain_soon(self, *, is_full: bool = False) -> None:
        self._move(DRAINING, is_full=is_full)
        if self._drained is None:
            self._drained = trio.Event()
            self.is_cut = True
            self._spawn(self._drain)

    # What does not wait for room.

    # An interrupt in the middle would cut a frame.
    @enable_ki_protection
    def put(self, frame: bytes) -> None:
        """Write *frame* behind all that was put before; queue what the wire leaves.  Where nothing
        is taken any more, it is dropped."""
        if self.state is IDLE:
            taken = self.offer(frame)
            if taken < len(frame):
                self.finish(frame[taken:] if taken else frame)
        elif self.state is DRAINING:
            self.finish(frame)

    def answer(self, key: object, frame: bytes) -> None:
        """Send an answer, or leave it to the drain task.

        Where more is queued, the latest answer of a kind (*key*) is all that waits (RFC 6455
        section 5.5.3 allows it): so a peer that asks without reading costs next to nothing,
        however often it asks, and one that reads gets all of them.
        """
        if not self.is_open:
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

    def put_own(self) -> None:
        """Write what the wire has to say itself, even when SHUT: at once, or where the drain task
        comes to it."""
        if self._drained is None and self.state is not BROKEN:
            self.offer(b"")

    # Messages.

    def write(self, frame: bytes) -> None:
        """Write *frame*, or queue what of it the wire did not take.  Never waits.

        NOTE: The caller has seen `writable` or `takes_message` since its last await.
        """
        self.messages_sent += 1
        self.put(frame)
        if self._line is not None:
            self.held = self.state is DRAINING

    @property
    def takes_message(self) -> bool:
        """Whether `write` may be called for a message, and nobody waits to send another one."""
        return not self._senders and self._has_turn()

    def _has_turn(self) -> bool:
        """Whether it is the turn of whoever is first to send, with room for a message."""
        return not self.held and self.buffered_amount <= self._send_bytes and self.is_open

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
        if self.takes_message or not self.is_open:
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
            # The drain task goes on from here once others have run, and until then nobody gets
            # ahead.
            self._drain_soon(is_full=True)

    def _refuse_senders(self) -> None:
        """Nothing is taken any more: tell those who wait for that."""
        while self._senders:
            self._senders.wake()

    # The end.

    def shut(self) -> None:
        """Take nothing more; what is queued is still written."""
        self._move(SHUT)
        self._refuse_senders()
        self.call_close_hooks()

    def break_off(self, reason: str) -> None:
        """Nothing can be written any more; what was queued is lost.  The first *reason* stays."""
        if self.state is BROKEN:
            return
        self.broken = reason
        self.buffered_amount = 0
        self._queue = self._answers = None
        self._move(BROKEN)
        self._refuse_senders()
        if self._owner is not None:
            self._owner.on_broken()

    def disown(self) -> None:
        """Nobody has this any more.  An owner knows its queue, so that both would stay until the
        garbage collector comes."""
        self._owner = None

    async def wait_flushed(self) -> None:
        """Wait until nothing is queued any more, written or lost."""
        while self._drained is not None:
            await self._drained.wait()

    # The drain task.

    # Who waits for the queue to be empty hears of it whatever happens.
    @enable_ki_protection
    async def _drain(self) -> None:
        """Write what is queued.  The task ends with the queue."""
        write = self._wire.write
        assert self._drained is not None
        try:
            # The front of the queue may be the rest of a frame, so it goes before answers,
            # which then do not wait behind what a slow peer has yet to read.
            # Even if there is none, the wire may have something of its own, at the end, too.
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
            if self._owner is not None:
                self._owner.on_stalled()
        except Exception as exc:
            self.break_off(describe(exc, self._owner))
        except BaseException:
            # What is left of a frame is gone, so nothing may follow it.
            self.break_off("writing was cancelled")
            raise
        finally:
            self._drained.set()
            self._drained = None
            self._move(IDLE)
        if self.is_free and self._hooks is not None:
            for each in tuple(self._hooks.values()):
                call_back(each.drained, self._owner)
        self._admit()

    # Of the wire's account.

    def grew(self, size: int) -> None:
        """What is queued takes so many bytes more than it did."""
        if self.state is not BROKEN:
            self.buffered_amount += size

    def wrote(self, size: int, *, by_peer: bool) -> None:
        """So many bytes of what was queued are written."""
        if by_peer and self._owner is not None:
            self._owner.heard()
        if self.state is not BROKEN:
            self.buffered_amount -= size
            self._admit()
