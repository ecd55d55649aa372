"""The send queue: what waits to leave for one peer.

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
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._wire._wire import Wire
from ._contain import call_back, describe
from ._owner import Hooks, Owner, Spawn
from ._state import BROKEN, DRAINING, IDLE, SHUT, QueueState
from ._traced import TracedWire
from ._turns import Turns

# While less than this is queued, answers such as pongs queue up, too: where everything passes
# through the queue, they wait for a moment even if the peer reads, and dropping the older of two
# pongs, though allowed, is taken for a fault by some.
_ANSWERS_BYTES: Final = 512


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
    """

    __slots__ = (
        "_answers",
        "_drained",
        "_fileno",
        "_hooks",
        "_owner",
        "_queue",
        "_room",
        "_send_bytes",
        "_spawn",
        "_turns",
        "_wire",
        "broken",
        "buffered_amount",
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
        self._hooks: dict[object, Hooks] | None = None
        # The end of the drain task, while there is one.
        self._drained: trio.Event | None = None
        # Made when somebody first has to wait for a turn.
        self._turns: Turns | None = None

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
        self.writable = self.is_free and (self._turns is None or not self._turns.has_line)

    @property
    def is_open(self) -> bool:
        """Whether anything is taken any more."""
        return self.state is IDLE or self.state is DRAINING

    @property
    def is_direct(self) -> bool:
        """Whether what `offer` says was taken is with the kernel, and nothing else is."""
        return self._fileno is not None

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* called with a line for each frame that is handed to the wire from now on;
        None for no more."""
        if isinstance(self._wire, TracedWire):
            # The drain task may still be writing to it.
            self._wire.tell = None
            self._wire = self._wire.wire
        if tell is not None:
            self._wire = TracedWire(self._wire, tell)
        self._fileno = self._wire.direct

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
        self._hooks[key] = Hooks(closed, drained)

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
        self._made_turns().stand_in_line(key)
        self._move(self.state)

    def leave_line(self, key: object) -> None:
        if self._turns is not None and self._turns.leave_line(key):
            self._move(self.state)
            self.turn_over()

    def turn_over(self) -> None:
        """Those in line have had their turn."""
        if self._turns is not None and self._turns.is_held:
            self._turns.is_held = False
            self._turns.admit(self)

    def _made_turns(self) -> Turns:
        if self._turns is None:
            self._turns = Turns()
        return self._turns

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
        if self._turns is not None and self._turns.has_line:
            self._turns.is_held = self.state is DRAINING

    @property
    def takes_message(self) -> bool:
        """Whether `write` may be called for a message, and nobody waits to send another one."""
        turns = self._turns
        return (turns is None or not turns.senders) and self.has_turn()

    def has_turn(self) -> bool:
        """Whether it is the turn of whoever is first to send, with room for a message.

        NOTE: `Turns.admit` is called wherever this may have become true, so that nobody waits while
        it is.
        """
        turns = self._turns
        return (
            (turns is None or not turns.is_held)
            and self.buffered_amount <= self._send_bytes
            and self.is_open
        )

    async def wait_turn(self, frame: bytes) -> bool:
        """Wait behind all who wait to send, and have *frame* written.

        Returns:
            Whether it was: False if nothing can be written any more.

        Cancellation: nothing was written.  Checkpoint: always.
        """
        return await self._made_turns().wait(frame)

    async def wait_room(self) -> None:
        """Wait behind all who wait to send, until it is the caller's turn to write or nothing can
        be written any more.

        Cancellation: nothing was written.  Checkpoint: a cancellation point always; lets others
        run if it waits.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.takes_message and self.is_open:
            await self._made_turns().wait(None)

    def admit_later(self) -> None:
        """See `Writer`; the drain task does it."""
        self._drain_soon(is_full=True)

    # The end.

    def shut(self) -> None:
        """Take nothing more; what is queued is still written."""
        self._move(SHUT)
        if self._turns is not None:
            self._turns.refuse()
        self.call_close_hooks()

    def break_off(self, reason: str) -> None:
        """Nothing can be written any more; what was queued is lost.  The first *reason* stays."""
        if self.state is BROKEN:
            return
        self.broken = reason
        self.buffered_amount = 0
        self._queue = self._answers = None
        self._move(BROKEN)
        if self._turns is not None:
            self._turns.refuse()
        if self._owner is not None:
            self._owner.on_broken()

    def disown(self) -> None:
        """Nobody has this any more.  An owner knows its queue, so that both would stay until the
        garbage collector comes."""
        self._owner = None
        self.trace(None)

    async def wait_flushed(self) -> None:
        """Wait until nothing is queued any more, written or lost."""
        while self._drained is not None:
            await self._drained.wait()

    # The drain task.

    # Who waits for the queue to be empty hears of it whatever happens.
    @enable_ki_protection
    async def _drain(self) -> None:
        """Write what is queued.  The task ends with the queue."""
        assert self._drained is not None
        try:
            # The front of the queue may be the rest of a frame, so it goes before answers,
            # which then do not wait behind what a slow peer has yet to read.
            # Even if there is none, the wire may have something of its own, at the end, too.
            while True:
                await self._wire.write(self._queue.popleft() if self._queue else b"", self)
                self.is_cut = False
                while self._answers:
                    answer = self._answers.pop(next(iter(self._answers)))
                    self.buffered_amount += len(answer)
                    await self._wire.write(answer, self)
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
        if self._turns is not None:
            self._turns.admit(self)

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
            if self._turns is not None:
                self._turns.admit(self)
