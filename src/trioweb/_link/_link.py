"""The link: what carries a connection's bytes once it is open.

What comes in (`_incoming`) and what goes out (`_queue`) neither read nor end anything: here is who
reads, and how it ends.  `Link.carry` reads, or while the link is open something that reads for many
links (`Reads`).

NOTE: These rules hold between any two awaits.
- Who sends waits in `wait_turn`, where each is woken when its turn has come.  Everything else
  that waits, waits in `wait_change`, and everything that changes what it may be waiting for calls
  `changed`; a waiter looks at the state again after it woke.
- The transport is closed by `carry`, which ends within the close timeout of the moment at which
  `state` left OPEN; or at once, in the step that the peer's Close leads to, where something else
  has read so far and nothing is left to wait for.
- A link that cannot be written to any more (`break_off`) keeps what has arrived, closes its
  transport at once, and leaves OPEN as soon as there was room in the inbox for the last of it.

Messages as users hold them are `_connection`'s; topics write through `offer` and `finish`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._chance import random_name
from .._errors import (
    CloseCode,
    ClosedByPeer,
    ClosedLocally,
    ConnectionClosed,
    ConnectionLost,
    FrameError,
)
from .._policy import Limits
from .._protocol._closing import STEPS, Cause, Event, Phase
from .._protocol._deflate import Agreement
from .._protocol._frames import encode_close
from .._wire._kernel import kernel_fileno
from ._carrying import AHEAD_BYTES, finish, read
from ._contain import describe
from ._gone import has_arrived, seconds_unconfirmed
from ._incoming import Incoming, Replies
from ._owner import Spawn
from ._state import IDLE, OPEN, State

_STATES: Final = {
    Phase.OPEN: OPEN,
    Phase.CLOSING: State.CLOSING,
    Phase.DEAF: State.CLOSING,
    Phase.CLOSED: State.CLOSED,
}
_ERRORS: Final[dict[Cause, type[ConnectionClosed]]] = {
    Cause.LOCAL: ClosedLocally,
    Cause.PEER: ClosedByPeer,
    Cause.LOSS: ConnectionLost,
}


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What a connection has carried.

    `messages_sent` counts what `send` took; what topics delivered stands in each
    subscription's cursor.  `discarded` counts messages that arrived complete and reached
    nobody, because this side had closed or was only waiting for the end.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    discarded: int
    inbox_messages: int
    buffered_amount: int


class Reads(Protocol):
    """What reads for many links whose transports are the kernel's, and feeds them."""

    def watch(self, link: Link, fileno: int, /) -> None: ...

    def unwatch(self, link: Link, fileno: int, /) -> None: ...


class Link(Incoming):
    """One open WebSocket over a transport.

    Args:
        stream: the transport; the link's from here on.
        rest: bytes that came behind the opening handshake.
        is_client: which side we are (RFC 6455 section 5.1: clients mask).
        limits: see `Limits`.
        spawn: starts a task in the nursery that holds the link's tasks.
        replies: messages that are answered here (None: swallowed) and reach nobody else.
        compression: what was agreed upon, if anything was.

    Attributes:
        on_let_go: called once, when the transport is closed, though what had arrived may still be
            received.
    """

    __slots__ = (
        "_ended",
        "_has_let_go",
        "_id",
        "_reads",
        "_scope",
        "close_code",
        "close_reason",
        "on_let_go",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        rest: bytes,
        *,
        is_client: bool,
        limits: Limits,
        spawn: Spawn,
        replies: Replies | None = None,
        compression: Agreement | None = None,
    ) -> None:
        super().__init__(
            stream,
            rest,
            is_client=is_client,
            limits=limits,
            spawn=spawn,
            replies=replies,
            compression=compression,
        )
        self._id: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self._reads: Reads | None = None
        self.on_let_go: Callable[[Link], object] | None = None
        self._has_let_go = False
        self._scope: trio.CancelScope | None = None
        self._ended: type[ConnectionClosed] = ConnectionLost

    @property
    def id(self) -> str:
        """A random string that this link has alone."""
        # Made when first asked for: most are never asked.
        if self._id is None:
            self._id = random_name()
        return self._id

    async def wait_closed(self) -> None:
        """Wait until the transport is closed, which no peer can put off for long."""
        while self.state is not State.CLOSED:
            await self.wait_change()

    def error(self) -> ConnectionClosed:
        """A fresh error that says why this link is over, or why it cannot be written to."""
        if self.close_code is None:
            return ConnectionLost(CloseCode.ABNORMAL, self.queue.broken or "")
        return self._ended(self.close_code, self.close_reason)

    @property
    def is_whole(self) -> bool:
        """Whether it is open, and still has its transport."""
        return self.queue.is_open

    def has_unread(self) -> bool:
        """Whether something has come that nobody has looked at yet, as far as can be asked."""
        fileno = self._descriptor()
        return self.is_undecoded or (fileno is not None and has_arrived(fileno()))

    @property
    def is_blind(self) -> bool:
        """Whether nothing tells, in a pause, that the peer has gone, unless it is written to."""
        if self._descriptor() is not None:
            return True
        return self._arrears is not None and self._arrears.size >= AHEAD_BYTES

    def is_unconfirmed_for(self, seconds: float) -> bool:
        """Whether the peer's machine has confirmed nothing for so long, though there is something
        to confirm; as far as can be asked."""
        transport = getattr(self._stream, "transport_stream", self._stream)
        if not isinstance(transport, trio.SocketStream):
            return False
        return seconds_unconfirmed(transport) >= seconds

    def _descriptor(self) -> Callable[[], int] | None:
        """How to ask for the kernel's descriptor below any TLS, if there is one."""
        stream = getattr(self._stream, "transport_stream", self._stream)
        return self._fileno or kernel_fileno(stream)

    def check_writable(self) -> None:
        """Raise unless frames can still be sent.

        Raises:
            ConnectionClosed: they cannot.
        """
        if not self.queue.is_open:
            raise self.error()

    def missed(self, cursor: int, skipped: int) -> None:
        """A topic has passed over something, for which a WebSocket has no word;
        `Subscription.skipped` tells its handler."""

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, behind everything written so far.  Idempotent."""
        self._take_step(Event.CLOSE, code, reason)

    def abort(self, reason: str) -> None:
        """End the link without a closing handshake, and at once."""
        self.lost(reason)
        self._closing_scope().cancel()

    def lost(self, reason: str) -> None:
        """Nothing more comes from the transport."""
        self._take_step(Event.LOST, CloseCode.ABNORMAL, reason)

    def fail(self, fault: FrameError | str) -> None:
        if isinstance(fault, FrameError):
            reason = f"{fault.reason} ({fault.limit})" if fault.limit else fault.reason
            self._take_step(Event.FAULT, fault.code, reason, told=fault.reason)
        else:
            self.lost(fault)

    def closed_by_peer(self, code: int, reason: str) -> None:
        # The code is echoed; the reason is the peer's own, and there is no need to tell it.
        self._take_step(Event.PEER_CLOSE, code, reason, told="")

    # Of the steps that end a link none is left out.
    @enable_ki_protection
    def _take_step(self, event: Event, code: int, reason: str, *, told: str | None = None) -> None:
        """Do what *event* leads to; a Close has *told* instead of *reason* if that is given."""
        step = STEPS[self.phase, event]
        if step.sends:
            self.queue.drop_answers()
            text = reason if told is None else told
            self.queue.put(encode_close(code, text, masked=self.is_client))
        self.phase = step.phase
        self.state = _STATES[step.phase]
        if step.tells is not None:
            self._tell(step.tells, code, reason)

    def _tell(self, cause: Cause, code: int, reason: str) -> None:
        """The end has begun: let all know whom it concerns."""
        # From here on the peer's Close matters more than what is in the inbox.
        self.end_pause()
        self._ended = _ERRORS[cause]
        self.close_code = code
        self.close_reason = reason
        is_over = cause is Cause.PEER and self._is_over()
        if not is_over:
            self._closing_scope().deadline = trio.current_time() + self.limits.close_timeout
            self._read_alone()
        self.queue.shut()
        if is_over:
            self._end_at_once()
        self.changed()

    def _is_over(self) -> bool:
        """Whether nothing is left to wait for, as both Closes have passed: ours is with the kernel,
        and the peer's was all that had come."""
        if self._reads is None or self._fileno is None or self._tls is not None:
            return False
        if self.queue.state is not IDLE:
            return False
        try:
            return not os.read(self._fileno(), 1)
        except OSError:  # nothing has come, or the peer has gone
            return True

    def _end_at_once(self) -> None:
        """Close the transport without the task that it otherwise takes (section 7.1.1 has a server
        close it first); nothing that may still come was to count."""
        assert self._reads is not None
        assert self._fileno is not None
        self._reads.unwatch(self, self._fileno())
        self._reads = None
        self._close_socket()
        self._be_closed()

    def _read_alone(self) -> None:
        """Have `carry` read from here on, if something else does."""
        if self._reads is not None and self._fileno is not None:
            self._reads.unwatch(self, self._fileno())
            self._reads = None
            self._spawn(self.carry)

    def break_off(self, reason: str) -> None:
        """Nothing can be written any more; what has arrived may still be received."""
        self.queue.break_off(reason)

    # What the queue tells.

    def on_broken(self) -> None:
        # NOTE: no hook is called from here, as those who write do not expect that.
        self.changed()
        if self._has_let_go:
            return
        self._read_alone()
        # Whatever `carry` waits for, it has something else to do.
        if self.pause is not None and self.pause.scope is not None:
            self.pause.scope.cancel()
        self._wire.interrupt()

    def on_stalled(self) -> None:
        seconds = self.limits.write_timeout
        self.abort(f"the peer took nothing for {seconds:g} s (Limits.write_timeout)")

    def _closing_scope(self) -> trio.CancelScope:
        """The scope of `carry`, which gets a deadline when the state leaves OPEN."""
        if self._scope is None:
            self._scope = trio.CancelScope()
        return self._scope

    def start(self, reads: Reads | None = None) -> None:
        """Begin to read: in a task of this link's own, or by *reads* where that can.

        NOTE: With *reads* there is no task to be cancelled while the link is open, so whoever
        starts it sees to it that it is closed.
        """
        if reads is None or self._fileno is None:
            self._spawn(self.carry)
            return
        self._reads = reads
        reads.watch(self, self._fileno())

    def resume(self) -> None:
        if self._reads is not None and self._fileno is not None:
            self._reads.watch(self, self._fileno())
        super().resume()

    # It closes the transport.
    @enable_ki_protection
    async def carry(self) -> None:
        """Read until the connection is over, then close the transport.

        A link for which something else reads has this task in the end, unless it ends at once.
        Cancelling it sends Close 1001 if the kernel takes it at once, and closes the transport.
        """
        try:
            with self._closing_scope():
                await read(self)
                await finish(self)
        except Exception as exc:
            self.lost(describe(exc, self))
        finally:
            # Does nothing unless carry was cancelled from outside.
            self.close(CloseCode.GOING_AWAY)
            await self._close_transport()
            self._be_closed()
            self.changed()

    def _be_closed(self) -> None:
        """Have no transport any more, nor what would need one."""
        self.forget_decoder()
        self.queue.disown()
        self._take_step(Event.LET_GO, CloseCode.ABNORMAL, "")

    async def _close_transport(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            self._close_socket()
            return
        # Before others run: who sees the link break off meanwhile leaves it alone.
        self._has_let_go = True
        # Shielded, so that a cancellation does not skip what follows; it does not wait.
        with trio.CancelScope(shield=True), suppress(Exception):
            await trio.aclose_forcefully(self._stream)
        self._tell_let_go()

    def _close_socket(self) -> None:
        """Close a socket without letting others run, as the `aclose` of its stream does, with two
        scopes around it: that takes as long as the rest of the closing."""
        assert isinstance(self._stream, trio.SocketStream)
        self._has_let_go = True
        with suppress(OSError):
            self._stream.socket.close()
        self._tell_let_go()

    def _tell_let_go(self) -> None:
        on_let_go, self.on_let_go = self.on_let_go, None
        if on_let_go is not None:
            on_let_go(self)

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            messages_received=self.messages_received,
            messages_sent=self.queue.messages_sent,
            bytes_received=self.bytes_received,
            discarded=self.discarded,
            inbox_messages=len(self.inbox.messages),
            buffered_amount=self.queue.buffered_amount,
        )
