"""The link: what carries a connection's bytes once it is open, out of parts, and how it ends.

    Link ──▶ Carrier ──▶ Incoming ──▶ Inbox      what comes, in the order in which it passes
      └────────────────▶ SendQueue               what goes
                         Pulse                   whether the peer is alive

None of the parts ends anything: what each has to tell leads to a step of one table (`_closing`).

NOTE: These rules hold between any two awaits.
- Who sends waits in `wait_turn`, where each is woken when its turn has come; who receives, in the
  inbox, where each message wakes one; who pings, for its pong alone.  Everything else that waits,
  waits in `wait_change`, and everything that changes what it may be waiting for calls `changed`; a
  waiter looks at the state again after it woke.
- `_tell` wakes all of them, and `on_broken` all but those who receive.
- The transport is closed by `Carrier.run`, which ends within the close timeout of the moment at
  which `state` left OPEN; or at once, in the step that the peer's Close leads to, where something
  else has read so far and nothing is left to wait for.
- A link that cannot be written to any more (`break_off`) keeps what has arrived, closes its
  transport at once, and leaves OPEN as soon as there was room in the inbox for the last of it.

Messages as users hold them are `_connection`'s; topics write through `offer` and `finish`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import trio
from trio.lowlevel import enable_ki_protection

from .._chance import random_name
from .._close_codes import CloseCode
from .._error_groups import leaves
from .._errors import ClosedByPeer, ClosedLocally, ConnectionClosed, ConnectionLost, FrameError
from .._policy import Limits
from .._protocol._closing import STEPS, Cause, Event, Phase
from .._protocol._deflate import Agreement
from .._protocol._frames import CLIENT_FORM, SERVER_FORM, WireForm, encode_close
from .._protocol._replies import Replies
from .._tls import Tls, TlsStream
from .._waitable import Waitable
from .._wire._choice import wire_to
from .._wire._kernel import kernel_socket
from ._carrying import Carrier
from ._inbox import Inbox
from ._incoming import Incoming
from ._owner import Spawn
from ._pulse import Pulse
from ._queue import SendQueue
from ._state import OPEN, ConnectionStatistics, State

_STATES: Final = {
    Phase.OPEN: OPEN,
    Phase.CLOSING: State.CLOSING,
    Phase.DEAF: State.CLOSING,
    Phase.AGREED: State.CLOSING,
    Phase.CLOSED: State.CLOSED,
}
_ERRORS: Final[dict[Cause, type[ConnectionClosed]]] = {
    Cause.LOCAL: ClosedLocally,
    Cause.PEER: ClosedByPeer,
    Cause.LOSS: ConnectionLost,
}


class _End(NamedTuple):
    """How a link ended: whose end it is, and the code and the reason that were said."""

    cause: Cause
    code: int
    reason: str


class Link(Waitable):
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
        state: what users see of how far the end has come.
        form: how messages are written to this peer, by whomever.
        carrier: who reads, and the transport.
        incoming: what comes is decoded there.
        inbox: what has come and nobody has taken.
        queue: what goes out.
        pulse: signs of life.
    """

    __slots__ = (
        "_end",
        "_id",
        "carrier",
        "form",
        "inbox",
        "incoming",
        "limits",
        "pulse",
        "queue",
        "state",
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
        super().__init__()
        self._id: str | None = None
        self._end: _End | None = None
        self.limits = limits
        self.state = OPEN
        tls: Tls | None = None
        socket = kernel_socket(stream)
        if isinstance(stream, TlsStream):
            socket = kernel_socket(stream.transport_stream)
            if socket is not None:
                tls, stream = stream.tls, stream.transport_stream
        wire = wire_to(stream, tls, limits.write_timeout, socket)
        self.form = CLIENT_FORM if is_client else SERVER_FORM
        if compression is not None:
            self.form = WireForm(is_client, compression.compressor)
        self.queue = SendQueue(wire, owner=self, spawn=spawn, send_bytes=limits.send_bytes)
        self.pulse = Pulse(self.queue, self.form)
        self.inbox = Inbox(limits)
        self.incoming = Incoming(
            rest,
            hearer=self,
            queue=self.queue,
            pulse=self.pulse,
            inbox=self.inbox,
            limits=limits,
            tls=tls,
            replies=replies,
            inflater=None if compression is None else compression.make_inflater(),
        )
        self.carrier = Carrier(self, stream, socket, spawn)

    @property
    def id(self) -> str:
        """A random string that this link has alone."""
        # Made when first asked for: most are never asked.
        if self._id is None:
            self._id = random_name()
        return self._id

    @property
    def is_client(self) -> bool:
        """Which side we are."""
        return self.form.masked

    @property
    def is_whole(self) -> bool:
        """Whether it is open, and still has its transport."""
        return self.queue.is_open

    @property
    def close_code(self) -> int | None:
        """The code of its end; None before that has begun."""
        return None if self._end is None else self._end.code

    @property
    def close_reason(self) -> str:
        """What was said with the code."""
        return "" if self._end is None else self._end.reason

    async def wait_closed(self) -> None:
        """Wait until the transport is closed, which no peer can put off for long."""
        while self.state is not State.CLOSED:
            await self.wait_change()

    def error(self) -> ConnectionClosed:
        """A fresh error that says why this link is over, or why it cannot be written to."""
        if self._end is None:
            return ConnectionLost(CloseCode.ABNORMAL, self.queue.broken or "")
        return _ERRORS[self._end.cause](self._end.code, self._end.reason)

    def is_own_end(self, error: BaseException) -> bool:
        """Whether *error* says no more than that this connection is over.

        That is how a handler usually ends, and no fault of its own.
        """
        # Not by the state: what failed in writing may still be read from.
        return not self.queue.is_open and all(
            isinstance(leaf, ConnectionClosed) for leaf in leaves(error)
        )

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

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* called with a line for each frame from now on, "< " in front of what comes
        and "> " of what goes; None for no more.  A link that is closed has none."""
        if self.state is State.CLOSED:
            return
        self.incoming.trace(None if tell is None else lambda line: tell(f"< {line}"))
        self.queue.trace(None if tell is None else lambda line: tell(f"> {line}"))

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(
            messages_received=self.incoming.messages_received,
            messages_sent=self.queue.messages_sent,
            bytes_received=self.incoming.bytes_received,
            bytes_sent=self.queue.bytes_sent,
            discarded=self.incoming.discarded,
            inbox_messages=len(self.inbox.messages),
            buffered_amount=self.queue.buffered_amount,
        )

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, behind everything written so far.  Idempotent."""
        self._take_step(Event.CLOSE, code, reason)

    def abort(self, reason: str) -> None:
        """End the link without a closing handshake, and at once."""
        self.lost(reason)
        self.carrier.cancel()

    def break_off(self, reason: str) -> None:
        """Nothing can be written any more; what has arrived may still be received."""
        self.queue.break_off(reason)

    # Of the steps that end a link none is left out.
    @enable_ki_protection
    def _take_step(self, event: Event, code: int, reason: str, *, told: str | None = None) -> None:
        """Do what *event* leads to; a Close has *told* instead of *reason* if that is given."""
        step = STEPS[self.incoming.phase, event]
        if step.sends:
            self.queue.drop_answers()
            text = reason if told is None else told
            self.queue.put(encode_close(code, text, masked=self.form.masked))
        self.incoming.phase = step.phase
        self.state = _STATES[step.phase]
        if step.tells is not None:
            self._tell(_End(step.tells, code, reason))

    def _tell(self, end: _End) -> None:
        """The end has begun: let all know whom it concerns."""
        # From here on the peer's Close matters more than what is in the inbox.
        self.inbox.end_pause()
        self._end = end
        is_over = end.cause is Cause.PEER and self.carrier.is_over()
        if not is_over:
            self.carrier.end_by(trio.current_time() + self.limits.close_timeout)
        self.queue.shut()
        self.pulse.end()
        if is_over:
            self.carrier.let_go_at_once()
            self.be_closed()
        self.inbox.wake_all()
        self.changed()

    # What the parts tell.

    def heard(self) -> None:
        self.pulse.heard()

    def closed_by_peer(self, code: int, reason: str) -> None:
        # The code is echoed; the reason is the peer's own, and there is no need to tell it.
        self._take_step(Event.PEER_CLOSE, code, reason, told="")

    def fail(self, fault: FrameError | str) -> None:
        if isinstance(fault, FrameError):
            reason = f"{fault.reason} ({fault.limit})" if fault.limit else fault.reason
            self._take_step(Event.FAULT, fault.code, reason, told=fault.reason)
        else:
            self.lost(fault)

    def lost(self, reason: str) -> None:
        """Nothing more comes from the transport."""
        self._take_step(Event.LOST, CloseCode.ABNORMAL, reason)

    def ended_in_pause(self) -> None:
        """The peer has said that it sends nothing more, while nothing is read.

        It may still read, and what it sent is delivered first.  If it has gone altogether, the
        ping meets an RST.
        """
        pause = self.inbox.pause
        if pause is not None and pause.ended_at is None:
            pause.ended_at = trio.current_time()
            self.pulse.ping()

    def on_broken(self) -> None:
        # NOTE: no hook is called from here, as those who write do not expect that.
        self.pulse.end()
        self.changed()
        self.carrier.on_broken()

    def on_stalled(self) -> None:
        seconds = self.limits.write_timeout
        self.abort(f"the peer took nothing for {seconds:g} s (Limits.write_timeout)")

    def be_closed(self) -> None:
        """Have no transport any more, nor what would need one."""
        self.incoming.forget()
        self.queue.disown()
        self._take_step(Event.LET_GO, CloseCode.ABNORMAL, "")
        self.carrier.disown()
