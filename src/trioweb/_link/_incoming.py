"""The reading half of a link: from chunks to messages, pongs and the peer's Close.

It knows nothing of who reads: `feed` decodes a chunk, fills the inbox, answers pings and tells of
the peer's Close, all at once.  Reading stops while the inbox is full or the peer too fast.

NOTE: `feed` never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import trio

from .._chance import random_bytes
from .._errors import FrameError
from .._policy import Limits, Message, bound
from .._protocol._closing import Phase
from .._protocol._decoder import WORK_PER_FEED, Decoder
from .._protocol._deflate import Agreement
from .._protocol._frames import (
    CLIENT_FORM,
    PING,
    PONG,
    SERVER_FORM,
    WireForm,
    decode_close,
    encode_frame,
    encode_message,
)
from .._protocol._outline import TracedDecoder
from .._protocol._pings import Ping, Pings
from .._tls import RECORD_BYTES, Tls, TlsStream
from .._waitable import Waitable
from .._wire._choice import wire_to
from .._wire._kernel import kernel_fileno
from ._arrears import Arrears, Pause
from ._contain import call_back
from ._inbox import Inbox
from ._owner import Spawn
from ._queue import SendQueue
from ._state import OPEN

# What an answer to the peer costs, in units of WORK_PER_FEED: 10 to 20 µs, nearly all of it the
# system call.  To encode a reply takes 5 to 10 µs for each KiB, if it is compressed.
_COST_OF_ANSWER: Final = 32
_REPLIED_PER_UNIT: Final = 64
# NOTE: Text and bytes never meet in a mapping: ASCII text and the same bytes have one hash, and
# under `python -bb` to compare them raises.  So whether it is text goes before each.
_Key: TypeAlias = tuple[bool, Message]
Replies: TypeAlias = Mapping[_Key, Message | None]


def reply_key(message: Message) -> _Key:
    """What the reply to *message* stands under in `Replies`."""
    return isinstance(message, str), message


class _Unanswered(list[Message]):
    """Messages, but for those that *answer* has answered when it was asked about each."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Callable[[Message], bool]) -> None:
        super().__init__()
        self._answer = answer

    def append(self, message: Message) -> None:
        if not self._answer(message):
            super().append(message)


class Incoming(Waitable):
    """What comes from one peer.

    A base of Link, which is one object less for each idle connection.  For the arguments see Link.

    Attributes:
        queue: what goes out.
        phase: how far the link's end has come; `state` is what users see of that.
        heard_at: when the peer last gave a sign of life.
        asked_at: since when one that was asked for is awaited; None if none is.
        form: how messages are written to this peer, by whomever.
        inbox: what has come and nobody has taken; whoever takes from it calls `taken`.
        is_undecoded: whether `go_on` has something to do.
        pause: that nothing is read now, because of the inbox or the peer's rate; None otherwise.
        latency: seconds that the last answered ping took.
        discarded: see `LinkStatistics`.
    """

    __slots__ = (
        "_arrears",
        "_cost_of_message",
        "_decoder",
        "_fault",
        "_fileno",
        "_pings",
        "_replies",
        "_spawn",
        "_stream",
        "_tls",
        "_wire",
        "asked_at",
        "bytes_received",
        "discarded",
        "form",
        "heard_at",
        "inbox",
        "is_client",
        "is_undecoded",
        "latency",
        "limits",
        "messages_received",
        "pause",
        "phase",
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
        self.limits = limits
        self.state = OPEN
        self.phase = Phase.OPEN
        self.heard_at = trio.current_time()
        self.asked_at: float | None = None
        self._spawn = spawn
        self._tls: Tls | None = None
        self._fileno = kernel_fileno(stream)
        if isinstance(stream, TlsStream):
            self._fileno = kernel_fileno(stream.transport_stream)
            if self._fileno is not None:
                self._tls, stream = stream.tls, stream.transport_stream
        self._stream = stream
        self._wire = wire_to(stream, self._tls, limits.write_timeout)
        self.queue = SendQueue(self._wire, owner=self, spawn=spawn, send_bytes=limits.send_bytes)
        if self._tls is not None:
            rest += self._tls.open(b"")
        self.is_client = is_client
        self.form = CLIENT_FORM if is_client else SERVER_FORM
        if compression is not None:
            self.form = WireForm(is_client, compression.compressor)
        self.inbox = Inbox(limits)
        self.pause: Pause | None = None
        self._arrears: Arrears | None = None
        self.messages_received = self.discarded = 0
        self.bytes_received = len(rest)
        self._replies = replies
        rate = limits.max_messages_per_second
        self._decoder: Decoder | TracedDecoder = Decoder(
            masked=not is_client,
            max_message_bytes=bound(limits.max_message_bytes),
            on_control=self._on_control,
            rest=rest,
            inflater=None if compression is None else compression.make_inflater(),
        )
        # No feed takes more than the messages of a second, so that the rate is looked at in time.
        self._cost_of_message = 0 if rate is None else WORK_PER_FEED // max(1, int(rate))
        # Whether `feed(b"")` has something to do; and the fault that it will find.
        self.is_undecoded = bool(rest) or (
            self._tls is not None and (self._tls.has_more or self._tls.end is not None)
        )
        self._fault: FrameError | str | None = None

        self.latency: float | None = None
        # Made for the first one.
        self._pings: Pings | None = None

    def fail(self, fault: FrameError | str) -> None:
        """Fail the connection (section 7.1.7): say why, if it is the peer's fault."""
        raise NotImplementedError

    def closed_by_peer(self, code: int, reason: str) -> None:
        """Take the peer's Close (section 5.5.1); nothing that comes after it counts."""
        raise NotImplementedError

    @property
    def id(self) -> str:
        """A random string that this link has alone."""
        raise NotImplementedError

    def abort(self, reason: str) -> None:
        """End the link at once."""
        raise NotImplementedError

    def on_broken(self) -> None:
        raise NotImplementedError

    def on_stalled(self) -> None:
        raise NotImplementedError

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = trio.current_time()
        self.asked_at = None

    def receive(self, wire: bytes, now: float) -> None:
        """Take a chunk off the wire, which is not its end; *now* is Trio's time."""
        # As `heard`, but who reads for many looks at the clock once.
        self.heard_at = now
        self.asked_at = None
        self.feed(wire if self._tls is None else self._open(self._tls, wire))

    def _open(self, tls: Tls, wire: bytes) -> bytes:
        """Open records of *wire* or, with `b""`, more of those that have come; and have TLS say
        what it has to say to them."""
        data = tls.open(wire)
        if tls.pending > RECORD_BYTES:
            # For another handshake, say, again and again (CVE-2011-1473).
            self.abort("the peer does not read what its TLS asks for")
        elif tls.is_due():
            self.queue.put_own()
        return data

    def hold(self, wire: bytes) -> None:
        """Keep a chunk off the wire for `go_on`, behind what is undecoded."""
        arrears = self._held()
        arrears.chunks.append(wire)
        arrears.size += len(wire)

    def hold_end(self, reason: str) -> None:
        """Nothing comes from the transport behind what is undecoded; the first *reason* stays."""
        arrears = self._held()
        if arrears.end is None:
            arrears.end = reason

    def _held(self) -> Arrears:
        if self._arrears is None:
            self._arrears = Arrears(self.is_undecoded)
            self.is_undecoded = True
        return self._arrears

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

    def feed(self, data: bytes) -> None:
        """Decode a chunk of what the peer sent; `b""` goes on with what was left undecoded."""
        if not data and self._tls is not None and self._tls.has_more:
            data = self._open(self._tls, b"")
        self.bytes_received += len(data)
        if self.is_deaf:
            self.is_undecoded = False
            return
        if self._fault is not None:
            self.is_undecoded = False
            self.fail(self._fault)
            return
        # What arrives after our Close reaches nobody; what came before the peer's does.
        open_before = self.state is OPEN
        received_before = self.messages_received
        messages: list[Message] = []
        if self._replies or self.limits.max_messages_per_second is not None:
            messages = _Unanswered(self._answer)
        try:
            self.is_undecoded = self._decoder.feed(data, messages)
        except FrameError as exc:
            # Once what came before the fault could be received, and answered.
            self.is_undecoded = True
            self._fault = exc
        else:
            if self._tls is not None and not self.is_undecoded:
                self.is_undecoded = self._tls.has_more or self._tls.end is not None
                self._fault = self._tls.end
        self.messages_received += len(messages)
        if count := self.messages_received - received_before:
            if self.limits.max_messages_per_second is not None:
                self.inbox.count(count, trio.current_time())
            if not open_before:
                self.discarded += len(messages)
            elif messages:
                self.inbox.put(messages)
            self.changed()

    def _answer(self, message: Message) -> bool:
        """Count *message*, and reply to it if it is one of those that are answered here."""
        if self._cost_of_message:
            self._decoder.spend(self._cost_of_message)
        if not self._replies or (key := reply_key(message)) not in self._replies:
            return False
        self.messages_received += 1
        reply = self._replies[key]
        if reply is not None:
            self.queue.answer(key, encode_message(reply, self.form))
            self._decoder.spend(_COST_OF_ANSWER + len(reply) // _REPLIED_PER_UNIT)
        return True

    def _on_control(self, opcode: int, payload: bytes) -> None:
        match opcode:
            case 0x9:  # PING
                self.queue.answer(PING, encode_frame(PONG, payload, masked=self.is_client))
                self._decoder.spend(_COST_OF_ANSWER)
            case 0xA:  # PONG
                self._on_pong(payload)
            case 0x8:  # CLOSE
                code, reason = decode_close(payload)
                self.closed_by_peer(code, reason)

    def _on_pong(self, payload: bytes) -> None:
        answered = [] if self._pings is None else self._pings.answered(payload, trio.current_time())
        for ping in answered:
            self.latency = ping.round_trip
            if ping.on_pong is not None:
                call_back(ping.on_pong, self)
        if answered:
            self.changed()

    def stretch_inbox(self, factor: int) -> None:
        """Read on until the inbox has *factor* times its bounds: somebody waits for what
        comes behind messages that nobody takes meanwhile."""
        self.inbox.stretch(factor)
        if self.pause is not None and not self.inbox.is_full and not self._is_too_fast():
            self.resume()

    @property
    def is_deaf(self) -> bool:
        """Whether nothing counts that still comes."""
        return self.phase is Phase.DEAF or self.phase is Phase.CLOSED

    @property
    def paused_at(self) -> float | None:
        """Since when nothing is read; None while it is."""
        return None if self.pause is None else self.pause.since

    def _is_too_fast(self) -> bool:
        """Whether the peer is beyond its messages a second, so that reading stops."""
        if self.limits.max_messages_per_second is None:
            return False
        return self.inbox.used_until > trio.current_time()

    def pause_if_due(self) -> bool:
        """Stop reading while the inbox is full or the peer too fast: TCP slows it down."""
        is_too_fast = self._is_too_fast()
        if not (is_too_fast or self.inbox.is_full):
            return False
        if self._fault is not None or self._has_only_end():
            return False
        self.pause = Pause()
        if is_too_fast:
            self._spawn(self._slow_down)
        return True

    async def _slow_down(self) -> None:
        """Go on reading as soon as the peer is no longer too fast."""
        with trio.move_on_at(self.inbox.used_until):
            while self.state is OPEN:
                await self.wait_change()
        self.taken()

    def taken(self) -> None:
        """Say that `inbox` was taken from; go on reading if there is room again."""
        inbox = self.inbox
        # What most messages of a fast feed find: to ask for `has_room` would cost a tenth of each.
        if len(inbox.messages) > inbox.half:
            return
        if self.pause is not None and inbox.has_room and not self._is_too_fast():
            self.resume()

    def resume(self) -> None:
        """Read on after a pause."""
        # At once, and not when `carry` runs: until then every message taken asks again.
        self.end_pause()
        # The peer could not be heard, which is no fault of its own.
        self.heard()
        self.changed()

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* called with a line for each frame from now on, "< " in front of what comes
        and "> " of what goes; None for no more.  A link that is closed has none."""
        if self.phase is Phase.CLOSED:
            return
        if not isinstance(self._decoder, TracedDecoder):
            if tell is None:
                return
            self._decoder = TracedDecoder(self._decoder)
        self._decoder.trace(None if tell is None else lambda line: tell(f"< {line}"))
        self.queue.trace(None if tell is None else lambda line: tell(f"> {line}"))

    def forget_decoder(self) -> None:
        """Nothing is decoded any more.  It knows whom it decodes for, so that both would stay until
        the garbage collector comes, which with compression is some 50 KiB."""
        self._arrears = None
        del self._decoder

    def _has_only_end(self) -> bool:
        """Whether the link has lost its transport, and all that came from it is decoded."""
        arrears = self._arrears
        return self.queue.broken is not None and arrears is not None and arrears.is_empty

    def end_pause(self) -> None:
        if self.pause is not None and self.pause.scope is not None:
            self.pause.scope.cancel()
        self.pause = None

    def ended_in_pause(self) -> None:
        """The peer has said that it sends nothing more, while nothing is read.

        It may still read, and what it sent is delivered first.  If it has gone altogether, the
        ping meets an RST.
        """
        if self.pause is not None and self.pause.ended_at is None:
            self.pause.ended_at = trio.current_time()
            self.ping()

    # Pings of ours.

    def ping(self, on_pong: Callable[[], None] | None = None) -> Ping:
        """Send a ping behind everything written so far; *on_pong* is called at its pong.

        An error that it raises is logged, and reaches nobody.
        """
        if self._pings is None:
            self._pings = Pings(random_bytes(4))
        ping = self._pings.make(trio.current_time(), on_pong)
        self.queue.put(encode_frame(PING, ping.payload, masked=self.is_client))
        return ping

    def ask(self, message: Message | None) -> Ping | None:
        """Ask the peer for a sign of life: with *message*, or with a ping."""
        self.asked_at = trio.current_time()
        if message is None:
            return self.ping()
        self.queue.put(encode_message(message, self.form))
        return None

    def forget_ping(self, ping: Ping) -> None:
        """Nobody waits for *ping* any more."""
        if self._pings is not None:
            self._pings.forget(ping)
