"""The client's sending side: from the outbox to the link, and back to the outbox if that dies.

NOTE: `write_waiting` is the one place that writes: called when something is accepted, when the
link has drained, and when a session begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import OutboxFull
from .._frames import encode_data
from .._link import Link
from .._outgoing import State
from .._policy import Outbox
from ._confirmation import MAX_WINDOW, Confirmation
from ._events import Undelivered
from ._outbox import Entry, OutboxQueue
from ._signal import Signal

_logger = logging.getLogger("trioweb.client")

# One write takes so much of the outbox.
_BATCH_MESSAGES: Final = MAX_WINDOW
_BATCH_BYTES: Final = 64 * 2**10
# While somebody waits for the server, so many times the inbox's bounds are read on, so that
# its answers are not stuck behind messages that the same task would receive next.
_STRETCH: Final = 4


class Sender:
    """What a client has accepted to send.

    Args:
        policy: the bounds, and whether to confirm.
        confirm_timeout: seconds within which a confirmation must come; see `confirm`.
        signal: what all who wait for the client wait for.
        check_alive: raises if nothing more will be sent.
        make_way: sees to it that what somebody waits for does not itself wait behind
            messages that nobody takes, or raises; it returns when to call it again.
    """

    def __init__(
        self,
        policy: Outbox,
        *,
        confirm_timeout: float,
        signal: Signal,
        check_alive: Callable[[], None],
        make_way: Callable[[], float],
    ) -> None:
        self.outbox = OutboxQueue(policy)
        self._policy = policy
        self._signal = signal
        self._check_alive = check_alive
        self._make_way = make_way
        self._waiting = 0
        # The next message is with the link, which has yet to write the rest of it: the size
        # of its frame, or 0.
        self._unfinished = 0
        self._confirmation = Confirmation(confirm_timeout)

    @property
    def confirms(self) -> bool:
        """Whether messages are kept until they are confirmed."""
        return self._policy.confirm

    async def wait_room(self, size: int) -> None:
        """Make room for a message of *size* bytes in the way that the policy says."""
        if self._policy.full == "wait":
            await self.wait_for_peer(lambda: self.outbox.has_room(size))
        else:
            self.make_room(size)

    def make_room(self, size: int) -> None:
        """The same, without waiting."""
        if self.outbox.has_room(size):
            return
        if self._policy.full == "wait":
            raise trio.WouldBlock
        if self._policy.full == "raise":
            raise OutboxFull(
                f"Outbox(max_messages={self._policy.max_messages}, "
                f"max_bytes={self._policy.max_bytes}) is full"
            )
        # NOTE: the link may be in the middle of the first one.
        self.outbox.drop_for(size, keep_first=self._unfinished > 0)

    def accept(self, entry: Entry) -> None:
        self.outbox.put(entry)
        self.write_waiting()

    async def flush(self) -> None:
        """Wait until all accepted so far is written or, if so agreed, confirmed."""
        number = self.outbox.accepted
        self._check_alive()
        await self.wait_for_peer(lambda: self.outbox.is_settled(number))

    async def wait_for_peer(self, is_done: Callable[[], bool]) -> None:
        """Wait for what only the server can bring about, and read on meanwhile."""
        if is_done():
            return
        self._waiting += 1
        # There may be room in a stream that has not told of it yet, as it is little.
        self._signal.changed()
        try:
            while not is_done():
                # First: what ended the client may have cancelled the caller, too.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._check_alive()
                link = self._signal.link
                if link is not None:
                    link.stretch_inbox(_STRETCH)
                with trio.move_on_at(self._make_way()):
                    await self._signal.wait_change()
        finally:
            self._waiting -= 1
            if not self._waiting and self._signal.link is not None:
                self._signal.link.stretch_inbox(1)

    # With a link.

    def begin(self, link: Link) -> None:
        """A session begins: what the last one left in flight is written again."""
        self._confirmation.begin(trio.current_time(), self.outbox.settled)
        link.set_hooks(self, closed=lambda: None, drained=self._on_drained)
        if self._waiting:
            link.stretch_inbox(_STRETCH)
        if self._policy.confirm and self.outbox.will_resend:
            # Its pong says that this path answers pings; see `finish`.
            link.ping()
        self.write_waiting()

    def finish(self, link: Link) -> list[Undelivered]:
        """The session is over, and its link closed: what that wrote at the last is sent.

        Returns:
            What was sent too often without being confirmed, and has left the outbox.
        """
        if self._unfinished and not link.is_cut:
            self.outbox.mark_sent(1)
        self._unfinished = 0
        self._confirmation.finish(trio.current_time(), link.paused_at)
        # A pong answers all pings before it.  So one that came was to a ping that was sent before
        # any message that is not confirmed, and what that ended in is not the path's fault.
        undelivered = [] if link.latency is None else self.outbox.give_up()
        for each in undelivered:
            _logger.warning(
                "a message of %d bytes was sent %d times and never confirmed: given up",
                len(each.message),
                each.sends,
            )
        self.outbox.rewind()
        self._signal.changed()
        return undelivered

    def write_waiting(self) -> None:
        """Write what waits in the outbox, as far as the transport and the window take it."""
        link = self._signal.link
        if link is not None:
            while count := self._may_write(link):
                self._write(link, count)
        self._signal.changed()

    def _may_write(self, link: Link) -> int:
        """How many messages may be written now."""
        outbox = self.outbox
        if not outbox.waiting or not link.writable or link.buffered_amount:
            return 0
        # What is not a kernel socket queues what it is given, and when it dies, nobody knows
        # how much of that it wrote.  So there each message waits until the last is written.
        count = _BATCH_MESSAGES if link.is_direct else 1
        if self._policy.confirm:
            count = min(count, self._confirmation.room(outbox.sent, outbox.settled))
        return count

    # What the link has taken leaves the outbox.
    @enable_ki_protection
    def _write(self, link: Link, max_messages: int) -> None:
        batch = self.outbox.next_batch(max_messages, _BATCH_BYTES)
        frames = [encode_data(opcode, payload, link.form) for opcode, payload in batch]
        taken = link.offer(b"".join(frames))
        if link.broken is not None:
            return
        count = size = 0
        for frame in frames:
            if taken < size + len(frame):
                link.finish(frame[taken - size :])
            if link.buffered_amount:
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
        link.messages_sent += count
        self.outbox.mark_sent(count)
        if self._policy.confirm and self._confirmation.is_due(self.outbox.sent, size):
            self._ask(link)

    def _ask(self, link: Link) -> None:
        """Send a ping behind what was written: a WebSocket is ordered and a pong must echo
        its ping, so that pong proves that all of it was received (RFC 6455 section 5.5.3)."""
        self._confirmation.asked(trio.current_time(), self.outbox.sent)
        link.ping(self._on_confirmed)

    def _on_confirmed(self) -> None:
        self.outbox.settle(self._confirmation.confirmed(trio.current_time()))
        self.write_waiting()

    async def confirm(self, link: Link) -> None:
        """A session's task, where messages are confirmed.

        Asks about what the last ping does not cover, and leaves a server of which no
        confirmation comes while we are reading, even if it sends other things.
        """
        confirmation = self._confirmation
        while link.state is State.OPEN:
            if not self.outbox.waiting and not confirmation.is_asked(self.outbox.sent):
                self._ask(link)
            now = trio.current_time()
            deadline = confirmation.deadline(now, link.paused_at)
            if deadline <= now:
                link.abort(f"no confirmation for {confirmation.timeout:g} s")
                return
            with trio.move_on_at(deadline):
                await link.wait_change()
