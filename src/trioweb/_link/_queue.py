"""The send queue: what waits to leave for one peer.

All or nothing for what is put, and never a wait.  What the wire does not take at once is queued,
and written by a task that exists only while there is something to drain (`_backlog`).

    IDLE ◀──── something is queued, or nothing is any more ────▶ DRAINING
      └── nothing more is taken ──▶ SHUT ◀──┘
      └── nothing can be written ─▶ BROKEN ◀┘  (from SHUT, too)

Must not know what the bytes mean, or that anything is read: whoever has a wire can have a queue.

NOTE: `_move` alone says whether there is room.  Over TLS frames become records when their turn
comes, since records must leave in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._wire._wire import Wire
from ._backlog import Backlog
from ._contain import call_back
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
        spawn: starts the drain task.
        send_bytes: messages wait while more than so much is queued.

    Attributes:
        wire: where it leaves.
        owner: hears of what happens; until `disown`.
        state: see `QueueState`.
        broken: why it is BROKEN; None while it is not.
        is_free: the wire has room for a chunk.
        writable: likewise, and nobody stands in line.
        buffered_amount: bytes queued.
        messages_sent: messages that were written.
        bytes_sent: of their frames.
    """

    __slots__ = (
        "_backlog",
        "_direct",
        "_hooks",
        "_send_bytes",
        "_spawn",
        "_turns",
        "broken",
        "buffered_amount",
        "bytes_sent",
        "is_free",
        "messages_sent",
        "owner",
        "state",
        "wire",
        "writable",
    )

    def __init__(self, wire: Wire, *, owner: Owner, spawn: Spawn, send_bytes: int) -> None:
        self.wire = wire
        self._direct = wire.direct
        self.owner: Owner | None = owner
        self._spawn = spawn
        self._send_bytes = send_bytes
        self.state = IDLE
        self.broken: str | None = None
        self.is_free = self.writable = True
        self.buffered_amount = 0
        self.messages_sent = self.bytes_sent = 0
        # Made when first needed: most connections never queue anything, and nobody waits.
        self._backlog: Backlog | None = None
        self._hooks: dict[object, Hooks] | None = None
        self._turns: Turns | None = None

    def _move(self, state: QueueState, *, is_full: bool = False) -> None:
        """Be in *state* from now on, unless an end was reached that it does not come after; there
        is no room if it *is_full*, whatever the size of what is queued."""
        if self.state is SHUT or self.state is BROKEN:
            state = BROKEN if state is BROKEN else self.state
        self.state = state
        if state is DRAINING:
            # Where everything passes through the queue, it takes the place of the kernel's: what is
            # written at one go must not look like a peer that does not read.
            room = self._send_bytes if self.wire.is_queued else 0
            # Whoever found no room finds some when all is written.
            is_full = is_full or self.buffered_amount > room
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
        return self._direct is not None

    @property
    def is_cut(self) -> bool:
        """Whether of the frame with which the drain task began not all is written yet."""
        return self._backlog is not None and self._backlog.is_cut

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* called with a line for each frame that is handed to the wire from now on;
        None for no more."""
        if isinstance(self.wire, TracedWire):
            # The drain task may still be writing to it.
            self.wire.tell = None
            self.wire = self.wire.wire
        if tell is not None:
            self.wire = TracedWire(self.wire, tell)
        self._direct = self.wire.direct

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
            call_back(each.closed, self.owner)

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
        if self._turns is not None:
            self._turns.turn_over(self)

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
        direct = self._direct
        try:
            if direct is not None:
                # As `KernelWire.offer`, by which each delivery of a topic takes 7 to 11 % longer.
                return direct.send(data)
            wire = self.wire
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
        self._made_backlog().frames.append(rest)
        self.buffered_amount += len(rest)
        self._drain_soon()

    def _made_backlog(self) -> Backlog:
        if self._backlog is None:
            self._backlog = Backlog()
        return self._backlog

    def _drain_soon(self, *, is_full: bool = False) -> None:
        self._move(DRAINING, is_full=is_full)
        if (backlog := self._made_backlog()).begin():
            self._spawn(partial(backlog.drain, self))

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
            self._made_backlog().answer(key, frame)

    def drop_answers(self) -> None:
        """Answers that wait are not needed any more."""
        if self._backlog is not None:
            self._backlog.drop_answers()

    def put_own(self) -> None:
        """Write what the wire has to say itself, even when SHUT: at once, or where the drain task
        comes to it."""
        if self._drained is None and self.state is not BROKEN:
            self.offer(b"")

    @property
    def _drained(self) -> trio.Event | None:
        """The end of the drain task, while there is one."""
        return None if self._backlog is None else self._backlog.drained

    # Messages.

    def write(self, frame: bytes) -> None:
        """Write *frame*, or queue what of it the wire did not take.  Never waits.

        NOTE: The caller has seen `writable` or `takes_message` since its last await.
        """
        self.messages_sent += 1
        self.bytes_sent += len(frame)
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
        if self._backlog is not None:
            self._backlog.lose()
        self._move(BROKEN)
        if self._turns is not None:
            self._turns.refuse()
        if self.owner is not None:
            self.owner.on_broken()

    def disown(self) -> None:
        """Nobody has this any more.  An owner knows its queue, so that both would stay until the
        garbage collector comes."""
        self.owner = None
        self.trace(None)

    async def wait_flushed(self) -> None:
        """Wait until nothing is queued any more, written or lost."""
        while (drained := self._drained) is not None:
            await drained.wait()

    # What the drain task tells, see `Keeper`.

    def on_stalled(self) -> None:
        if self.owner is not None:
            self.owner.on_stalled()

    def on_drained(self) -> None:
        self._move(IDLE)
        if self.is_free and self._hooks is not None:
            for each in tuple(self._hooks.values()):
                call_back(each.drained, self.owner)
        if self._turns is not None:
            self._turns.admit(self)

    def grew(self, size: int) -> None:
        if self.state is not BROKEN:
            self.buffered_amount += size

    def wrote(self, size: int, *, by_peer: bool) -> None:
        if by_peer and self.owner is not None:
            self.owner.heard()
        if self.state is not BROKEN:
            self.buffered_amount -= size
            if self._turns is not None:
                self._turns.admit(self)
