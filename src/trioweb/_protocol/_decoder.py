"""RFC 6455 section 5: frames, decoded a chunk at a time.

Pure: no I/O, no clock, no Trio.  Here is whether a frame is allowed, and what message it is a part
of; what it *means* (answering a ping, the closing handshake) is the link's business.

Speed: messages of less than 64 KiB that lie whole within their chunk, which is what almost
every message is, are taken a run at a time by `take_messages`, in C if possible; everything else
(64-bit lengths, fragments, frames cut by the end of a chunk, control frames, compressed messages)
takes the general path, frame by frame.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from itertools import islice, repeat
from operator import length_hint
from typing import Final

from .._close_codes import CloseCode
from .._errors import FrameError
from .._policy import Message
from ._deflate import Inflater
from ._frames import BINARY, CLOSE, CONTINUATION, FIN, MASKED, MAX_CONTROL_BYTES, RSV1, TEXT
from ._speedups import mask, take_messages

_RESERVED: Final = 0x70

# After so much work `feed` stops, so that no chunk, whatever a peer has put into it, holds the
# scheduler for longer than about half a millisecond or overfills the inbox.  The unit of all
# costs is a small message that lies whole within its chunk: 0.2 to 0.5 µs in Python.  Any other
# frame is twice that.
WORK_PER_FEED: Final = 1024
# Inflating costs, for each call of zlib's, 0.7 to 2 µs, most of it for a new inflater; for what
# the call takes, 1 µs a KiB, and up to 70 µs if that is full of blocks without content; for what it
# gives, 2 µs a KiB if that is JSON.
_COST_OF_INFLATING: Final = 4
_TAKEN_PER_UNIT: Final = 16
_GIVEN_PER_UNIT: Final = 128
# What is left of it while nothing is decoded: one for all decoders, as an idle connection has none.
_NO_WORK: Final = repeat(True, 0)
# Nothing else that is done with bytes is counted.  To unmask, copy and decode all of a chunk takes
# no longer than 0.3 ms.  To put together a large message takes 1 ms for a MiB of text in the worst
# case, but its bytes have come in many chunks, or were counted when they were inflated.

# An empty fragment adds nothing to its message but costs its frame's handling; counted as
# this many bytes, a million of them are a message too big instead of a free ride.
_EMPTY_FRAGMENT_BYTES: Final = 64

# Compressed data may be larger than the message: other people's encoders are wasteful with
# what is random, and flush in between.  More than so many times as large, and so many bytes
# beside, is none that anybody means.
_COMPRESSED_TIMES: Final = 2
_COMPRESSED_BYTES: Final = 1024


class Decoder:
    """Turns the bytes of one direction of a connection into messages and control frames.

    Args:
        masked: whether frames must be masked: True where a server reads from a client.
        max_message_bytes: see `Limits`.  A frame is held against it by its declared length,
            before any of its payload is kept.
        on_control: called with opcode and payload of every control frame, in its place
            among the messages.  What its chunk holds behind a Close is dropped, and the
            decoder must not be fed again.
        rest: what has arrived already; `feed(b"", …)` decodes it.
        inflater: for compressed messages; None where none are agreed upon.
        work_per_feed: after so much `feed` stops, perhaps in the middle of a compressed message.
    """

    __slots__ = (
        "_buffer",
        "_compressed",
        "_fin",
        "_head_bytes",
        "_inflater",
        "_key",
        "_left",
        "_mask_bit",
        "_max_message_bytes",
        "_on_control",
        "_opcode",
        "_payload",
        "_size",
        "_utf8",
        "_work",
        "_work_per_feed",
    )

    def __init__(
        self,
        *,
        masked: bool,
        max_message_bytes: int,
        on_control: Callable[[int, bytes], None],
        rest: bytes = b"",
        inflater: Inflater | None = None,
        work_per_feed: int = WORK_PER_FEED,
    ) -> None:
        self._work_per_feed = work_per_feed
        # What is left of the work of the `feed` that is under way.
        self._work = _NO_WORK
        self._mask_bit = MASKED if masked else 0
        self._head_bytes = 6 if masked else 2  # of a frame of less than 126 bytes
        self._max_message_bytes = max_message_bytes
        self._on_control = on_control
        self._inflater = inflater
        # Bytes that do not make a whole head (or a whole control frame) yet.
        self._buffer = rest
        # The message under way: its opcode (0: none) and what has come of it.
        self._opcode = 0
        self._compressed = False
        self._payload: bytearray | None = None
        self._size = 0
        self._utf8: codecs.IncrementalDecoder | None = None
        # The data frame under way: how much of its payload is still to come.
        self._left = 0
        self._fin = True
        self._key = b""

    def hand_over(self) -> tuple[bytes, int]:
        """Give back what was fed and is not decoded; return it, and how many bytes of a frame's
        payload come first.  It has to be fed again."""
        rest, self._buffer = self._buffer, b""
        return rest, self._left

    def spend(self, work: int) -> None:
        """Count *work*, in units of WORK_PER_FEED, to the `feed` that is under way: what is done
        with a frame, beside reading it."""
        next(islice(self._work, work, work), None)

    def feed(self, data: bytes, messages: list[Message]) -> bool:
        """Decode *data*; append the complete messages to *messages*, one by one.

        Returns:
            Whether there is more to decode without further data: `feed(b"", …)` goes on.
            So a caller can let others run in between.

        Raises:
            FrameError: the bytes break RFC 6455; messages completed before that have been
                appended, and the decoder must not be fed again.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        masked = bool(self._mask_bit)
        limit = self._max_message_bytes
        end = len(data)
        position = 0
        # Every message and every turn of the loop takes one unit from it, and what costs more takes
        # more.
        work = self._work = repeat(True, self._work_per_feed)
        try:
            if self._inflater is not None and self._inflater.pending:
                self._inflate(self._inflater, messages)
            # NOTE: While something is pending there is no work left, so the loop does not begin.
            if self._left and not (self._inflater is not None and self._inflater.pending):
                position = self._continue_frame(data, 0, messages)
            if not self._opcode:
                position = take_messages(data, position, masked, limit, work, messages)
            for _ in work:
                if end - position < 2:
                    break
                following = self._read_frame(data, position, messages)
                if following is None:
                    break
                position = following
                next(work, None)
                if not self._opcode:
                    position = take_messages(data, position, masked, limit, work, messages)
            else:
                self._buffer = data[position:]
                return True
        except UnicodeDecodeError:
            raise FrameError(CloseCode.INVALID_PAYLOAD, "invalid UTF-8 in text") from None
        finally:
            self._work = _NO_WORK
        self._buffer = data[position:]
        return False

    def _read_frame(self, data: bytes, position: int, messages: list[Message]) -> int | None:
        """Read the frame at *position*; return where the next begins, None if cut too short."""
        first = data[position]
        opcode = first & 0x0F
        size = data[position + 1] ^ self._mask_bit
        start = position + self._head_bytes
        self._check_head(first, opcode, size)
        if size == 126:
            start += 2
            size = int.from_bytes(data[position + 2 : position + 4], "big")
            minimum = 126
        elif size == 127:
            start += 8
            size = int.from_bytes(data[position + 2 : position + 10], "big")
            minimum = 1 << 16
        else:
            minimum = 0
        if start > len(data):
            return None
        # Section 5.2: "the minimal number of bytes MUST be used to encode the length", and
        # "the most significant bit MUST be 0".
        if size < minimum or size >> 63:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid payload length")

        if opcode >= CLOSE:
            stop = start + size
            if stop > len(data):
                return None
            payload = data[start:stop]
            if self._mask_bit:
                payload = mask(payload, data[start - 4 : start])
            self._on_control(opcode, payload)
            # Section 5.5.1: nothing that follows a Close counts.
            return len(data) if opcode == CLOSE else stop

        self._fin = bool(first & FIN)
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._compressed = first & RSV1 != 0
        self._size += size if size or self._fin else _EMPTY_FRAGMENT_BYTES
        limit = self._max_message_bytes
        if self._size > limit and not (
            self._compressed and self._size <= limit * _COMPRESSED_TIMES + _COMPRESSED_BYTES
        ):
            raise self._too_big()
        self._key = data[start - 4 : start] if self._mask_bit else b""
        self._left = size
        return self._continue_frame(data, start, messages)

    def _check_head(self, first: int, opcode: int, size: int) -> None:
        """Check what the first two bytes of a frame tell (section 5.2, 5.4 and 5.5)."""
        match opcode:
            case _ if first & _RESERVED and not self._may_be_compressed(first, opcode):
                fault = "reserved bits set"
            case _ if size > 127:
                fault = "frame not masked" if self._mask_bit else "frame masked"
            case 0x0 if not self._opcode:
                fault = "continuation of no message"
            case 0x1 | 0x2 if self._opcode:
                fault = "new message inside a fragmented one"
            case 0x0 | 0x1 | 0x2:
                return
            case 0x8 | 0x9 | 0xA if not first & FIN:
                fault = "fragmented control frame"
            case 0x8 | 0x9 | 0xA if size > MAX_CONTROL_BYTES:
                fault = "control frame too long"
            case 0x8 | 0x9 | 0xA:
                return
            case _:
                fault = f"unknown opcode {opcode}"
        raise FrameError(CloseCode.PROTOCOL_ERROR, fault)

    def _may_be_compressed(self, first: int, opcode: int) -> bool:
        """Whether the reserved bits say what RFC 7692 section 6 lets them say."""
        compressed = self._inflater is not None and first & _RESERVED == RSV1
        return compressed and opcode in (TEXT, BINARY)

    def _continue_frame(self, data: bytes, position: int, messages: list[Message]) -> int:
        """Take what *data* has of the data frame under way; return where that ends."""
        piece = data[position : position + self._left]
        position += len(piece)
        self._left -= len(piece)
        complete = self._fin and not self._left
        if self._mask_bit:
            key = self._key
            turn = len(piece) & 3
            self._key = key[turn:] + key[:turn]
            piece = mask(piece, key)
        if self._compressed:
            assert self._inflater is not None, "_check_head has seen it"
            self._inflater.put(piece, last=complete)
            self._inflate(self._inflater, messages)
        else:
            self._add(piece, complete, messages)
        return position

    def _inflate(self, inflater: Inflater, messages: list[Message]) -> None:
        """Inflate what is pending of the frame under way, as far as limit and work allow."""
        while inflater.pending and length_hint(self._work):
            room = self._max_message_bytes - len(self._payload or b"")
            taken = inflater.pending
            piece = inflater.inflate(room)
            taken -= inflater.pending
            if len(piece) > room:
                raise self._too_big()
            self.spend(
                _COST_OF_INFLATING + taken // _TAKEN_PER_UNIT + len(piece) // _GIVEN_PER_UNIT
            )
            self._add(piece, self._fin and not self._left and not inflater.pending, messages)

    def _add(self, piece: bytes, complete: bool, messages: list[Message]) -> None:
        """Add *piece* to the message under way, which with that may be complete."""
        if not complete:
            if self._payload is None:
                self._payload = bytearray()
            self._payload += piece
            if self._opcode == TEXT:
                # Checked as it comes, so that a fault is told at once (section 8.1).
                if self._utf8 is None:
                    self._utf8 = codecs.getincrementaldecoder("utf-8")()
                self._utf8.decode(piece)
            return
        whole: bytes | bytearray = piece
        if self._payload is not None:
            whole, self._payload = self._payload, None
            whole += piece
        messages.append(whole.decode() if self._opcode == TEXT else bytes(whole))
        self._opcode = 0
        self._size = 0
        self._utf8 = None

    def _too_big(self) -> FrameError:
        text = f"message over {self._max_message_bytes} bytes"
        return FrameError(CloseCode.MESSAGE_TOO_BIG, text, limit="Limits.max_message_bytes")
