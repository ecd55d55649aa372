"""The client's sending side: from the outbox to the link, and back to the outbox if that dies.

NOTE: `write_waiting` is the one place that writes: called when something is accepted, when the
link has drained, and when a session begins.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import OutboxFull
from .._link import OPEN, Link
from .._logs import log
from .._protocol._frames import encode_data
from ._confirmation import MAX_WINDOW, Confirmation
from ._events import Undelivered
from ._outbox import Entry, OutboxQueue
from ._signal import Signal
from ._waiting import WaitingRoom

_logger = logging.getLogger("trioweb.client")

# One write takes so much of the outbox.
_BATCH_MESSAGES: Final = MAX_WINDOW
_BATCH_BYTES: Final = 64 * 2**10


def _pass_over() -> None:
    """Of the end of a link, the session's task tells."""


class Sender:
    """What a client has accepted to send.

    Args:
        outbox: where that is.
        confirm_timeout: seconds within which a confirmation must come; see `attend`.
        signal: has the link.
        room: those who wait for the server.
    """

    __slots__ = ("_confirmation", "_outbox", "_policy", "_room", "_signal", "_unfinished")

    def __init__(
        self, outbox: OutboxQueue, *, confirm_timeout: float, signal: Signal, room: WaitingRoom
    ) -> None:
        self._outbox = outbox
        self._policy = outbox.policy
        self._signal = signal
        self._room = room
        # The next message is with the link, which has yet to write the rest of it: the size
        # of its frame, or 0.
        self._unfinished = 0
        # Of messages that are kept until they are confirmed.
        self._confirmation = Confirmation(confirm_timeout) if outbox.policy.confirm else None

    def accept(self, entry: Entry) -> bool:
        """Take a message into the outbox, if that needs no waiting.

        Raises:
            OutboxFull: as the policy says.
        """
        size = len(entry[1])
        if self._room.has_senders or not self._outbox.has_room(size):
            match self._policy.full:
                case "wait":
                    return False
                case "raise":
                    raise OutboxFull(
                        f"Outbox(max_messages={self._policy.max_messages}, "
                        f"max_bytes={self._policy.max_bytes}) is full"
                    )
                case "drop":
                    # NOTE: the link may be in the middle of the first one.
                    self._outbox.drop_for(size, keep_first=self._unfinished > 0)
        self._outbox.put(entry)
        self.write_waiting()
        return True

    # With a link.

    def begin(self, link: Link) -> None:
        """A session begins: what the last one left in flight is written again."""
        if self._confirmation is not None:
            self._confirmation.begin(trio.current_time(), self._outbox.settled)
        link.queue.set_hooks(self, closed=_pass_over, drained=self._on_drained)
        if self._confirmation is not None and self._outbox.will_resend:
            # Its pong says that this path answers pings; see `finish`.
            link.pulse.ping()
        self.write_waiting()

    def finish(self, link: Link) -> list[Undelivered]:
        """The session is over, and its link closed: what that wrote at the last is sent.

        Returns:
            What was sent too often without being confirmed, and has left the outbox.
        """
        if self._unfinished and not link.queue.is_cut:
            self._outbox.mark_sent(1)
        self._unfinished = 0
        if self._confirmation is not None:
            self._confirmation.finish(trio.current_time(), link.inbox.paused_at)
        # A pong answers all pings before it.  So one that came was to a ping that was sent before
        # any message that is not confirmed, and what that ended in is not the path's fault.
        undelivered = [] if link.pulse.latency is None else self._outbox.give_up()
        for each in undelivered:
            log(
                _logger,
                logging.WARNING,
                link,
                "a message of %d bytes was sent %d times and never confirmed: given up",
                len(each.message),
                each.sends,
            )
        self._outbox.rewind()
        self.write_waiting()
        return undelivered

    def write_waiting(self) -> None:
        """Write what waits in the outbox, as far as the transport and the window take it, and
        let in what waits for room there."""
        link = self._signal.link
        while True:
            while link is not None and (count := self._may_write(link)):
                self._write(link, count)
            if not self._room.admit():
                break
        self._room.look()
        if self._confirmation is not None:
            # `attend` asks about what was written.
            self._signal.changed()

    def _may_write(self, link: Link) -> int:
        """How many messages may be written now."""
        outbox = self._outbox
        if not outbox.waiting or not link.queue.writable or link.queue.buffered_amount:
            return 0
        # What is not a kernel socket queues what it is given, and when it dies, nobody knows
        # how much of that it wrote.  So there each message waits until the last is written.
        count = _BATCH_MESSAGES if link.queue.is_direct else 1
        if self._confirmation is not None:
            count = min(count, self._confirmation.room(outbox.sent, outbox.settled))
        return count

    # What the link has taken leaves the outbox.
    @enable_ki_protection
    def _write(self, link: Link, max_messages: int) -> None:
        batch = self._outbox.next_batch(max_messages, _BATCH_BYTES)
        frames = [encode_data(opcode, payload, link.form) for opcode, payload in batch]
        taken = link.queue.offer(b"".join(frames))
        if link.queue.broken is not None:
            return
        count = size = 0
        for frame in frames:
            if taken < size + len(frame):
                link.queue.finish(frame[taken - size :])
            if link.queue.buffered_amount:
                self._unfinished = len(frame)
                break
            size += len(frame)
            count += 1
        self._mark_sent(link, count, size)

    def _on_drained(self) -> None:
        link = self._signal.link
        if link is not None and self._unfinished:
            # Only now: if the link dies before, the server cannot have got the message.
            size, self._unfinished = self._unfinished, 0
            self._mark_sent(link, 1, size)
        self.write_waiting()

    def _mark_sent(self, link: Link, count: int, size: int) -> None:
        link.queue.messages_sent += count
        link.queue.bytes_sent += size
        self._outbox.mark_sent(count)
        confirmation = self._confirmation
        if confirmation is not None and confirmation.is_due(self._outbox.sent, size):
            self._ask(link, confirmation)

    def _ask(self, link: Link, confirmation: Confirmation) -> None:
        """Send a ping behind what was written: a WebSocket is ordered and a pong must echo
        its ping, so that pong proves that all of it was received (RFC 6455 section 5.5.3)."""
        confirmation.asked(trio.current_time(), self._outbox.sent)
        link.pulse.ping(partial(self._on_confirmed, confirmation))

    def _on_confirmed(self, confirmation: Confirmation) -> None:
        self._outbox.settle(confirmation.confirmed(trio.current_time()))
        self.write_waiting()

    def attend(self, link: Link) -> float:
        """Where messages are confirmed, ask about what the last ping does not cover, and leave a
        server of which no confirmation comes while we are reading, even if it sends other things.

        Returns:
            When to look again, unless something changes.
        """
        confirmation = self._confirmation
        if confirmation is None or link.state is not OPEN:
            return math.inf
        if not self._outbox.waiting and not confirmation.is_asked(self._outbox.sent):
            self._ask(link, confirmation)
        now = trio.current_time()
        deadline = confirmation.deadline(now, link.inbox.paused_at)
        if deadline <= now:
            link.abort(f"no confirmation for {confirmation.timeout:g} s")
        return deadline
