"""The client's sending side: from the outbox to the link, and back to the outbox if that dies.

NOTE: `write_waiting` is the one place that writes: called when something is accepted, when the
link has drained, and when a session begins.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .._errors import OutboxFull
from .._frames import encode_data
from .._incoming import Ping
from .._link import Link
from .._outgoing import State
from .._policy import Outbox
from ._outbox import Entry, OutboxQueue
from ._signal import Signal

# One write takes so much of the outbox, and one confirming ping stands for so much at most.
_BATCH_MESSAGES: Final = 64
_BATCH_BYTES: Final = 64 * 2**10
# While somebody waits for the server, so many times the inbox's bounds are read on, so that
# its answers are not stuck behind messages that the same task would receive next.
_STRETCH: Final = 4
# So many times the timeout at most is a confirmation waited for: 20 minutes with the default.  A
# server that never confirms, but for which another stands in, is not kept for days.  And so many
# times as often it is asked for, which is after each message.
_MAX_PATIENCE: Final = _BATCH_MESSAGES


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
        self._confirm_timeout = confirm_timeout
        self._signal = signal
        self._check_alive = check_alive
        self._make_way = make_way
        self._waiting = 0
        # The next message is with the link, which has yet to write the rest of it: the size
        # of its frame, or 0.
        self._unfinished = 0
        # Confirming pings on their way, oldest first, and up to where the last one asked.
        self._pings: deque[Ping] = deque()
        self._asked = 0
        self._asked_bytes = 0
        # When a confirmation last came; and how many times the timeout the next one is waited
        # for, and how many times as often it is asked for.
        self._confirmed_at = -math.inf
        self._patience = 1

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
        self._asked_bytes = 0
        self.outbox.rewind()
        self._asked = self.outbox.sent
        link.set_hooks(self, closed=lambda: None, drained=self._on_drained)
        if self._waiting:
            link.stretch_inbox(_STRETCH)
        self.write_waiting()

    def finish(self, link: Link) -> None:
        """The session is over, and its link closed: what that wrote at the last is sent."""
        if self._unfinished and not link.is_cut:
            self.outbox.mark_sent(1)
        self._unfinished = 0
        if self._pings:
            since = max(self._confirmed_at, self._pings[0].sent_at)
            if trio.current_time() >= since + self._confirm_timeout:
                self._patience = min(2 * self._patience, _MAX_PATIENCE)
            self._pings.clear()
        self._signal.changed()

    def write_waiting(self) -> None:
        """Write what waits in the outbox, as far as the transport takes it."""
        link = self._signal.link
        if link is not None:
            # What is not a kernel socket queues what it is given, and when it dies, nobody knows
            # how much of that it wrote.  So there each message waits until the last is written.
            max_messages = _BATCH_MESSAGES // self._patience if link.is_direct else 1
            while self.outbox.waiting and link.writable and not link.buffered_amount:
                self._write(link, max_messages)
        self._signal.changed()

    def _write(self, link: Link, max_messages: int) -> None:
        batch = self.outbox.next_batch(max_messages, _BATCH_BYTES // self._patience)
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
        self._asked_bytes += size
        if self._policy.confirm and (
            self.outbox.sent - self._asked >= _BATCH_MESSAGES // self._patience
            or self._asked_bytes >= _BATCH_BYTES // self._patience
        ):
            self._ask(link)

    def _ask(self, link: Link) -> None:
        """Send a ping behind what was written: a WebSocket is ordered and a pong must echo
        its ping, so that pong proves that all of it was received (RFC 6455 section 5.5.3)."""
        number = self._asked = self.outbox.sent
        self._asked_bytes = 0
        self._pings.append(link.ping(lambda: self._on_confirmed(number)))

    def _on_confirmed(self, number: int) -> None:
        ping = self._pings.popleft()
        self._confirmed_at = trio.current_time()
        if self._confirmed_at - ping.sent_at <= self._confirm_timeout:
            self._patience = 1
        self.outbox.settle(number)
        self.write_waiting()

    async def confirm(self, link: Link) -> None:
        """A session's task, where messages are confirmed.

        Asks about what the last ping does not cover, and leaves a server of which no
        confirmation comes while we are reading, even if it sends other things: within the
        timeout of the oldest ping and of the last confirmation.

        A server that is only slow would get all of it again, and never be through.  So after
        each session that ends after the timeout without one, whatever ends it, those that
        follow wait twice as long and ask twice as often (as who hears nothing meanwhile leaves
        it, too), up to 64 times, until a ping is answered within the timeout itself.
        """
        reading_since = trio.current_time()
        while link.state is State.OPEN:
            if self.outbox.sent > self._asked and not self.outbox.waiting:
                self._ask(link)
            now = trio.current_time()
            timeout = self._patience * self._confirm_timeout
            deadline = math.inf
            if link.paused_at is not None:
                reading_since = math.inf
            else:
                reading_since = min(reading_since, now)
                if self._pings:
                    since = max(reading_since, self._confirmed_at, self._pings[0].sent_at)
                    deadline = since + timeout
            if deadline <= now:
                link.abort(f"no confirmation for {timeout:g} s")
                return
            with trio.move_on_at(deadline):
                await link.wait_change()
