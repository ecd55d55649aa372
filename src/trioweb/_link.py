"""The link: what carries a connection's bytes once it is open.

Inbound, `Link.feed` decodes a chunk, fills the inbox, answers pings and sees to the peer's
Close, all synchronously; it does not know who read the bytes.  That is `Link.carry`, or while
the link is open something that reads for many links (`Reads`).  The writing half is
`_outgoing`'s.

NOTE: These rules hold between any two awaits.
- Everything that waits, waits in `wait_change`, and everything that changes what somebody
  may be waiting for calls `changed`; so there is one place to wake up, and no way to forget
  one.  A waiter looks at the state again after it woke.
- `carry` alone closes the transport, and it ends within the close timeout of the moment at
  which `state` left OPEN.
- `feed` never raises.

Messages as users hold them are `_connection`'s; topics write through `offer` and `finish`.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

import trio

from ._deflate import Agreement
from ._errors import (
    CloseCode,
    ClosedByPeer,
    ClosedLocally,
    ConnectionClosed,
    ConnectionLost,
    FrameError,
)
from ._frames import (
    CLIENT_FORM,
    FRAMES_PER_FEED,
    PING,
    PONG,
    SERVER_FORM,
    Decoder,
    WireForm,
    decode_close,
    encode_close,
    encode_frame,
    encode_message,
)
from ._outgoing import Outgoing, Spawn, describe
from ._policy import Limits, Message
from ._tls import RECORD_BYTES

_logger = logging.getLogger("trioweb")

# Large, as each read costs a turn of Trio's; but from 128 KiB on, glibc would map and unmap
# memory for each read, however little came.
_READ_BYTES: Final = 120 * 2**10
# A peer that was quiet may send the messages of so long at once.
_BURST_SECONDS: Final = 1
END_OF_TRANSPORT: Final = "the peer ended the transport without a Close"
Replies = Mapping[Message, Message | None]
# Every link's inbox until it has a message: an empty deque takes 760 bytes.
_NOTHING_YET: Final[deque[Message]] = deque(maxlen=0)


class State(IntEnum):
    """The states of a connection, with the numbers that browsers use."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


# To look up a member takes longer than to compare with it, and each message has it compared
# several times.
OPEN: Final = State.OPEN


class Ping:
    """A ping on its way: when it was sent and, once the pong is here, how long that took."""

    __slots__ = ("on_pong", "payload", "round_trip", "sent_at")

    def __init__(self, payload: bytes, sent_at: float, on_pong: Callable[[], None] | None) -> None:
        self.payload = payload
        self.sent_at = sent_at
        self.on_pong = on_pong
        self.round_trip: float | None = None


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


class Link(Outgoing):
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
        form: how messages are written to this peer, by whomever.
    """

    __slots__ = (
        "_deaf",
        "_decoder",
        "_ended",
        "_fault",
        "_inbox_bytes",
        "_inbox_messages",
        "_ping_key",
        "_pings",
        "_pings_sent",
        "_reads",
        "_replies",
        "_scope",
        "_used_until",
        "bytes_received",
        "close_code",
        "close_reason",
        "discarded",
        "form",
        "inbox",
        "is_client",
        "is_undecoded",
        "latency",
        "messages_received",
        "messages_sent",
        "paused_at",
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
        super().__init__(stream, limits=limits, spawn=spawn)
        if self._tls is not None:
            rest += self._tls.open(b"")
        self.is_client = is_client
        self.form = CLIENT_FORM if is_client else SERVER_FORM
        if compression is not None:
            self.form = WireForm(is_client, compression.compressor)
        self.state = OPEN
        self.close_code: int | None = None
        self.close_reason = ""
        self.messages_sent = 0
        self._reads: Reads | None = None
        self._scope: trio.CancelScope | None = None
        self._ended: type[ConnectionClosed] = ConnectionLost

        # Inbound.
        self.inbox = _NOTHING_YET
        self._inbox_messages = limits.inbox_messages
        self._inbox_bytes = limits.inbox_bytes
        self.paused_at: float | None = None
        self.messages_received = self.discarded = 0
        self.bytes_received = len(rest)
        self._replies = replies
        # The time up to which the peer has used what it may send: that of a second is left to a
        # peer that was quiet, and one that has used some of the future is too fast.
        self._used_until = -math.inf
        rate = limits.max_messages_per_second
        self._decoder = Decoder(
            masked=not is_client,
            max_message_bytes=limits.max_message_bytes,
            on_control=self._on_control,
            rest=rest,
            inflater=None if compression is None else compression.make_inflater(),
            # No more than that of a second, so that it is looked at in time.
            frames_per_feed=FRAMES_PER_FEED
            if rate is None
            else max(1, int(min(FRAMES_PER_FEED, rate))),
        )
        # Whether `feed(b"")` has something to do; and the fault that it will find.
        self.is_undecoded = bool(rest) or (self._tls is not None and self._tls.end is not None)
        self._fault: FrameError | str | None = None
        self._deaf = False

        # Pings of ours, oldest first.
        self.latency: float | None = None
        self._pings: dict[bytes, Ping] | None = None
        self._pings_sent = 0
        self._ping_key = b""

    @property
    def is_open(self) -> bool:
        return self.state is OPEN

    async def wait_closed(self) -> None:
        """Wait until the transport is closed, which no peer can put off for long."""
        while self.state is not State.CLOSED:
            await self.wait_change()

    def error(self) -> ConnectionClosed:
        """A fresh error that says why this link is over, or why it cannot be written to."""
        if self.close_code is None:
            return ConnectionLost(CloseCode.ABNORMAL, self.broken or "")
        return self._ended(self.close_code, self.close_reason)

    def check_writable(self) -> None:
        """Raise unless frames can still be sent.

        Raises:
            ConnectionClosed: they cannot.
        """
        if self.state is not OPEN or self.broken is not None:
            raise self.error()

    # Inbound.

    def receive(self, wire: bytes, now: float) -> None:
        """Take a chunk off the wire, which is not its end; *now* is Trio's time."""
        # As `heard`, but who reads for many looks at the clock once.
        self.heard_at = now
        self.asked_at = None
        if self._tls is None:
            self.feed(wire)
            return
        data = self._tls.open(wire)
        if self._tls.pending > RECORD_BYTES:
            # For another handshake, say, again and again (CVE-2011-1473).
            self.abort("the peer does not read what its TLS asks for")
        elif self._tls.pending:
            self.put(b"")
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Decode a chunk of what the peer sent; `b""` goes on with what was left undecoded."""
        self.bytes_received += len(data)
        if self._deaf:
            self.is_undecoded = False
            return
        if self._fault is not None:
            self.is_undecoded = False
            self._fail(self._fault)
            return
        # What arrives after our Close reaches nobody; what came before the peer's does.
        open_before = self.state is OPEN
        messages: list[Message] = []
        try:
            self.is_undecoded = self._decoder.feed(data, messages)
        except FrameError as exc:
            # Once what came before the fault could be received, and answered.
            self.is_undecoded = True
            self._fault = exc
        else:
            if self._tls is not None and self._tls.end is not None and not self.is_undecoded:
                self.is_undecoded = True
                self._fault = self._tls.end
        if messages:
            self.messages_received += len(messages)
            if (rate := self.limits.max_messages_per_second) is not None:
                unused_from = trio.current_time() - _BURST_SECONDS
                self._used_until = max(self._used_until, unused_from) + len(messages) / rate
            if self._replies:
                messages = [message for message in messages if not self._answer(message)]
            if not open_before:
                self.discarded += len(messages)
            elif self.inbox is not _NOTHING_YET:
                self.inbox.extend(messages)
            elif messages:
                self.inbox = deque(messages)
            self.changed()

    def _on_control(self, opcode: int, payload: bytes) -> None:
        match opcode:
            case 0x9:  # PING
                self.answer(PING, encode_frame(PONG, payload, masked=self.is_client))
            case 0xA:  # PONG
                self._on_pong(payload)
            case 0x8:  # CLOSE
                code, reason = decode_close(payload)
                # Section 5.5.1: echo the code.  Nothing that comes after it counts.
                self._begin_close(ClosedByPeer, code, reason, echo=True)
                self._deaf = True

    def _on_pong(self, payload: bytes) -> None:
        # Section 5.5.3: a peer may answer only the latest of several pings, so a pong
        # answers all pings before it, too; one that answers none is allowed, and ignored.
        if self._pings is None or payload not in self._pings:
            return
        now = trio.current_time()
        for key in list(self._pings):
            ping = self._pings.pop(key)
            ping.round_trip = self.latency = now - ping.sent_at
            if ping.on_pong is not None:
                ping.on_pong()
            if key == payload:
                break
        if not self._pings:
            self._pings = None
        self.changed()

    def _answer(self, message: Message) -> bool:
        """Reply to *message* if it is one of those that are answered here."""
        assert self._replies is not None
        if message not in self._replies:
            return False
        reply = self._replies[message]
        if reply is not None:
            self.answer(message, encode_message(reply, self.form))
        return True

    def stretch_inbox(self, factor: int) -> None:
        """Read on until the inbox has *factor* times its bounds: somebody waits for what
        comes behind messages that nobody takes meanwhile."""
        self._inbox_messages = self.limits.inbox_messages * factor
        self._inbox_bytes = self.limits.inbox_bytes * factor
        if self.paused_at is not None and not self.is_full() and not self._is_too_fast():
            self._resume()

    def is_full(self) -> bool:
        """Whether the inbox is at one of its bounds, so that reading stops."""
        return (
            len(self.inbox) >= self._inbox_messages
            or sum(map(len, self.inbox)) >= self._inbox_bytes
        )

    def _is_too_fast(self) -> bool:
        """Whether the peer is beyond its messages a second, so that reading stops."""
        if self.limits.max_messages_per_second is None:
            return False
        return self._used_until > trio.current_time()

    def pause_if_due(self) -> bool:
        """Stop reading while the inbox is full or the peer too fast: TCP slows it down."""
        is_too_fast = self._is_too_fast()
        if not (is_too_fast or self.is_full()) or self._fault is not None:
            return False
        self.paused_at = trio.current_time()
        if is_too_fast:
            self._spawn(self._slow_down)
        return True

    async def _slow_down(self) -> None:
        """Go on reading as soon as the peer is no longer too fast."""
        with trio.move_on_at(self._used_until):
            while self.state is OPEN:
                await self.wait_change()
        self.taken()

    def has_room(self) -> bool:
        """Whether the inbox is down to half of its bounds, so that reading goes on."""
        return (
            len(self.inbox) <= self._inbox_messages // 2
            and sum(map(len, self.inbox)) <= self._inbox_bytes // 2
        )

    def taken(self) -> None:
        """Say that `inbox` was taken from; go on reading if there is room again."""
        if self.paused_at is not None and self.has_room() and not self._is_too_fast():
            self._resume()

    def _resume(self) -> None:
        # At once, and not when `carry` runs: until then every message taken asks again.
        self.paused_at = None
        # The peer could not be heard, which is no fault of its own.
        self.heard()
        if self._reads is not None and self._fileno is not None:
            self._reads.watch(self, self._fileno())
        self.changed()

    # Outbound.

    def write(self, frame: bytes) -> None:
        """Write *frame*, or queue what of it the kernel did not take.  Never waits.

        NOTE: The caller has called `check_writable` since its last await.
        """
        self.messages_sent += 1
        self.put(frame)

    def ping(self, on_pong: Callable[[], None] | None = None) -> Ping:
        """Send a ping behind everything written so far; *on_pong* is called at its pong."""
        if not self._ping_key:
            # What a pong proves must not be guessed, so the payload begins with this.
            self._ping_key = os.urandom(4)
        if self._pings is None:
            self._pings = {}
        self._pings_sent += 1
        payload = self._ping_key + self._pings_sent.to_bytes(4, "big")
        ping = Ping(payload, trio.current_time(), on_pong)
        self._pings[payload] = ping
        self.put(encode_frame(PING, payload, masked=self.is_client))
        return ping

    def ask(self, message: Message | None) -> Ping | None:
        """Ask the peer for a sign of life: with *message*, or with a ping."""
        self.asked_at = trio.current_time()
        if message is None:
            return self.ping()
        self.put(encode_message(message, self.form))
        return None

    def forget_ping(self, ping: Ping) -> None:
        """Nobody waits for *ping* any more."""
        if self._pings is not None:
            self._pings.pop(ping.payload, None)

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, behind everything written so far.  Idempotent."""
        self._begin_close(ClosedLocally, code, reason, echo=False)

    def abort(self, reason: str) -> None:
        """End the link without a closing handshake, and at once."""
        self.lost(reason)
        self._closing_scope().cancel()

    def lost(self, reason: str) -> None:
        """Nothing more comes from the transport."""
        self._end(ConnectionLost, CloseCode.ABNORMAL, reason)

    def _fail(self, fault: FrameError | str) -> None:
        """Fail the connection (section 7.1.7): send Close, and listen no more."""
        if isinstance(fault, FrameError):
            self._begin_close(ConnectionLost, fault.code, fault.reason, echo=False)
        else:
            self.lost(fault)
        self._deaf = True

    def _begin_close(
        self, kind: type[ConnectionClosed], code: int, reason: str, *, echo: bool
    ) -> None:
        if self.state is not OPEN:
            return
        self.drop_answers()
        # The reason is the peer's own; there is no need to tell it.
        self.put(encode_close(code, "" if echo else reason, masked=self.is_client))
        self._end(kind, code, reason)

    def _end(self, kind: type[ConnectionClosed], code: int, reason: str) -> None:
        """Leave OPEN; the first to say why is believed."""
        if self.state is not OPEN:
            return
        self.state = State.CLOSING
        self.writable = False
        # From here on the peer's Close matters more than what is in the inbox.
        self.paused_at = None
        self._ended = kind
        self.close_code = code
        self.close_reason = reason
        self._closing_scope().deadline = trio.current_time() + self.limits.close_timeout
        if self._reads is not None and self._fileno is not None:
            self._reads.unwatch(self, self._fileno())
            self._reads = None
            self._spawn(self.carry)
        hooks = self._close_hooks
        self._close_hooks = self._drain_hooks = None
        for hook in (hooks or {}).values():
            hook()
        self.changed()

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

    async def carry(self) -> None:
        """Read until the connection is over, then close the transport.

        Every link has this task in the end, if something else reads for it while it is open.
        Cancelling it sends Close 1001 if the kernel takes it at once, and closes the transport.
        """
        try:
            with self._closing_scope():
                await self._read()
                await self._finish()
        except Exception as exc:
            self.lost(describe(exc))
        finally:
            # Does nothing unless carry was cancelled from outside.
            self.close(CloseCode.GOING_AWAY)
            # Shielded, so that a cancellation does not skip what follows; it does not wait.
            with trio.CancelScope(shield=True), suppress(Exception):
                await trio.aclose_forcefully(self._stream)
            self.state = State.CLOSED
            self.changed()

    async def _read(self) -> None:
        """Feed what arrives, until both Closes have passed or nothing more can come."""
        while True:
            while self.is_undecoded:
                await self._wait_room()
                # Twice: whoever was woken by what was decoded runs between the two.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                self.feed(b"")
            if self._deaf:
                return
            await self._wait_room()
            data = await self._read_some()
            if not data:
                self.lost(END_OF_TRANSPORT)
                return
            self.receive(data, trio.current_time())

    async def _read_some(self) -> bytes:
        """What has come from the transport; `b""` at its end.

        As a stream's `receive_some`; from the kernel it takes a quarter of the time of Trio's own.
        """
        if self._fileno is None:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            try:
                data = os.read(self._fileno(), _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fileno())
                has_waited = True
            else:
                if not has_waited:
                    # Shielded, since a cancellation would lose the data.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    async def _wait_room(self) -> None:
        if self.state is OPEN and self.pause_if_due():
            while self.paused_at is not None:
                await self.wait_change()

    async def _finish(self) -> None:
        """Section 7.1.1: flush, end our sending, and read to the peer's end.

        Closing at once with bytes unread would send an RST, which can overtake our Close.
        """
        if self._tls is not None:
            self._tls.close()
            self.put(b"")
        await self.wait_flushed()
        if isinstance(self._stream, trio.SSLStream):
            # TLS has no half-close; its own end must be exchanged before TCP's.  That fails if
            # the peer goes on sending, but ours has been sent by then.
            transport = self._stream.transport_stream
            with suppress(trio.BrokenResourceError):
                await self._stream.unwrap()
            self._stream = transport
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ_BYTES):
                pass

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            messages_received=self.messages_received,
            messages_sent=self.messages_sent,
            bytes_received=self.bytes_received,
            discarded=self.discarded,
            inbox_messages=len(self.inbox),
            buffered_amount=self.buffered_amount,
        )
