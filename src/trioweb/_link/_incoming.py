"""What comes from one peer: from chunks to messages, pongs and the peer's Close.

It knows of no transport and of nobody who reads: `feed` decodes a chunk, fills the inbox, answers
pings and tells of the peer's Close, all at once.  What waits to be decoded meanwhile is held here,
too.

NOTE: `feed` never raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from .._errors import FrameError
from .._policy import Limits, Message, bound
from .._protocol._closing import Phase
from .._protocol._decoder import WORK_PER_FEED, Decoder
from .._protocol._deflate import Inflater
from .._protocol._frames import PING, PONG, decode_close, encode_frame, encode_message
from .._protocol._outline import TracedDecoder
from .._protocol._replies import Replies, Unanswered, reply_key
from .._tls import RECORD_BYTES, Tls
from ._arrears import Arrears
from ._inbox import Inbox
from ._owner import Hearer
from ._pulse import Pulse
from ._queue import SendQueue

# What an answer to the peer costs, in units of WORK_PER_FEED: 10 to 20 µs, nearly all of it the
# system call.  To encode a reply takes 5 to 10 µs for each KiB, if it is compressed.
_COST_OF_ANSWER: Final = 32
_REPLIED_PER_UNIT: Final = 64
# To look up a member takes longer than to compare with it.
_OPEN: Final = Phase.OPEN


class Incoming:
    """What comes from one peer.

    Args:
        rest: bytes that came behind the opening handshake.
        hearer: is told of what is no message; until `forget`.
        queue: where answers leave.
        pulse: has signs of life noted.
        inbox: where messages go.
        tls: opens what comes, if that is records.
        replies: messages that are answered here (None: swallowed) and reach nobody else.
        inflater: see `Decoder`.

    Attributes:
        phase: how far the link's end has come, by which it goes whether what comes counts; the
            link moves it.
        is_undecoded: whether `go_on` has something to do.
        discarded: see `ConnectionStatistics`.
    """

    __slots__ = (
        "_arrears",
        "_decoder",
        "_fault",
        "_hearer",
        "_inbox",
        "_pulse",
        "_queue",
        "_replies",
        "bytes_received",
        "discarded",
        "is_undecoded",
        "messages_received",
        "phase",
        "tls",
    )

    def __init__(
        self,
        rest: bytes,
        *,
        hearer: Hearer,
        queue: SendQueue,
        pulse: Pulse,
        inbox: Inbox,
        limits: Limits,
        tls: Tls | None,
        replies: Replies | None,
        inflater: Inflater | None,
    ) -> None:
        self._hearer = hearer
        self._queue = queue
        self._pulse = pulse
        self._inbox = inbox
        self._replies = replies
        self.tls = tls
        self.phase = _OPEN
        self._arrears: Arrears | None = None
        if tls is not None:
            rest += tls.open(b"")
        self.messages_received = self.discarded = 0
        self.bytes_received = len(rest)
        self._decoder: Decoder | TracedDecoder = Decoder(
            masked=not hearer.form.masked,
            max_message_bytes=bound(limits.max_message_bytes),
            on_control=self._on_control,
            rest=rest,
            inflater=inflater,
        )
        # Whether `feed(b"")` has something to do; and the fault that it will find.
        self.is_undecoded = bool(rest) or (
            tls is not None and (tls.has_more or tls.end is not None)
        )
        self._fault: FrameError | str | None = None

    @property
    def is_deaf(self) -> bool:
        """Whether nothing counts that still comes."""
        return self.phase is not Phase.OPEN and self.phase is not Phase.CLOSING

    # Off the wire.

    def receive(self, wire: bytes, now: float) -> None:
        """Take a chunk off the wire, which is not its end; *now* is Trio's time."""
        # As `heard`, but who reads for many looks at the clock once.
        pulse = self._pulse
        pulse.heard_at = now
        pulse.asked_at = None
        self.feed(wire if self.tls is None else self._open(self.tls, wire))

    def _open(self, tls: Tls, wire: bytes) -> bytes:
        """Open records of *wire* or, with `b""`, more of those that have come; and have TLS say
        what it has to say to them."""
        data = tls.open(wire)
        if tls.pending > RECORD_BYTES:
            # For another handshake, say, again and again (CVE-2011-1473).
            self._hearer.abort("the peer does not read what its TLS asks for")
        elif tls.is_due():
            self._queue.put_own()
        return data

    # What waits.

    def hold(self, wire: bytes) -> None:
        """Keep a chunk off the wire for `go_on`, behind what is undecoded."""
        arrears = self.held()
        arrears.chunks.append(wire)
        arrears.size += len(wire)

    def hold_end(self, reason: str) -> None:
        """Nothing comes from the transport behind what is undecoded; the first *reason* stays."""
        arrears = self.held()
        if arrears.end is None:
            arrears.end = reason

    def held(self) -> Arrears:
        """What is held, and from now on gathers."""
        if self._arrears is None:
            self._arrears = Arrears(self.is_undecoded)
            self.is_undecoded = True
        return self._arrears

    @property
    def held_bytes(self) -> int:
        """How much is held."""
        return 0 if self._arrears is None else self._arrears.size

    def has_only_end(self) -> bool:
        """Whether the link has lost its transport, and all that came from it is decoded."""
        arrears = self._arrears
        return self._queue.broken is not None and arrears is not None and arrears.is_empty

    @property
    def may_wait(self) -> bool:
        """Whether what is decoded next may be more than the end."""
        return self._fault is None and not self.has_only_end()

    def go_on(self) -> None:
        """Decode more of what has come: what a feed has left, or the next chunk that was held."""
        arrears = self._arrears
        if arrears is None or arrears.is_cut:
            self.feed(b"")
        elif arrears.chunks:
            self.receive(arrears.chunks.popleft(), trio.current_time())
        elif arrears.end is not None:
            self._fault = self._fault or arrears.end
            self.feed(b"")
        if arrears is not None:
            arrears.is_cut = self.is_undecoded
            if self.is_deaf or (arrears.is_empty and arrears.end is None):
                self._arrears = None
            else:
                self.is_undecoded = True

    # Decoding.

    def feed(self, data: bytes) -> None:
        """Decode a chunk of what the peer sent; `b""` goes on with what was left undecoded."""
        if not data and self.tls is not None and self.tls.has_more:
            data = self._open(self.tls, b"")
        self.bytes_received += len(data)
        # What arrives after our Close reaches nobody; what came before the peer's does.
        was_open = self.phase is _OPEN
        if not was_open and self.is_deaf:
            self.is_undecoded = False
            return
        # It may be forgotten by what is decoded.
        hearer = self._hearer
        if self._fault is not None:
            self.is_undecoded = False
            hearer.fail(self._fault)
            return
        inbox = self._inbox
        received_before = self.messages_received
        messages: list[Message] = []
        is_rated = inbox.limits.max_messages_per_second is not None
        if is_rated or self._replies:
            messages = Unanswered(self._answer)
        try:
            self.is_undecoded = self._decoder.feed(data, messages)
        except FrameError as exc:
            # Once what came before the fault could be received, and answered.
            self.is_undecoded = True
            self._fault = exc
        else:
            if self.tls is not None and not self.is_undecoded:
                self.is_undecoded = self.tls.has_more or self.tls.end is not None
                self._fault = self.tls.end
        self.messages_received += len(messages)
        if count := self.messages_received - received_before:
            if is_rated:
                inbox.count(count, trio.current_time())
            if not was_open:
                self.discarded += len(messages)
            elif messages:
                inbox.put(messages)
            hearer.changed()

    def _answer(self, message: Message) -> bool:
        """Count *message*, and reply to it if it is one of those that are answered here."""
        rate = self._inbox.limits.max_messages_per_second
        if rate is not None:
            # No feed takes more than the messages of a second, so that it is looked at in time.
            self._decoder.spend(WORK_PER_FEED // max(1, int(rate)))
        if not self._replies or (key := reply_key(message)) not in self._replies:
            return False
        self.messages_received += 1
        reply = self._replies[key]
        if reply is not None:
            self._queue.answer(key, encode_message(reply, self._hearer.form))
            self._decoder.spend(_COST_OF_ANSWER + len(reply) // _REPLIED_PER_UNIT)
        return True

    def _on_control(self, opcode: int, payload: bytes) -> None:
        match opcode:
            case 0x9:  # PING
                masked = self._hearer.form.masked
                self._queue.answer(PING, encode_frame(PONG, payload, masked=masked))
                self._decoder.spend(_COST_OF_ANSWER)
            case 0xA:  # PONG
                self._pulse.pong(payload, self._hearer)
            case 0x8:  # CLOSE
                code, reason = decode_close(payload)
                self._hearer.closed_by_peer(code, reason)

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* called with a line for each frame that is decoded from now on; None for no
        more.

        NOTE: Not after `forget`.
        """
        if not isinstance(self._decoder, TracedDecoder):
            if tell is None:
                return
            self._decoder = TracedDecoder(self._decoder)
        self._decoder.trace(tell)

    def forget(self) -> None:
        """Nothing is decoded any more, and nobody hears of it.

        Whoever hears has this, and the decoder knows whom it decodes for: all would stay until the
        garbage collector comes, which with compression is some 50 KiB.
        """
        self._arrears = None
        del self._decoder, self._hearer
