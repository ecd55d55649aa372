"""RFC 6455 section 5: frames, encoded once and decoded a chunk at a time.

Pure: no I/O, no clock, no Trio.  What a frame *means* (answering a ping, the closing
handshake) is the link's business; here is only how it looks and whether it is allowed.

Speed: a message of less than 64 KiB that lies whole within its chunk, which is what almost
every message is, takes one short path through `Decoder.feed`; everything else (64-bit
lengths, fragments, frames cut by the end of a chunk, control frames, compressed messages)
takes the general one.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, repeat
from operator import length_hint
from types import FunctionType
from typing import Final

from .._chance import random_bytes
from .._errors import CloseCode, FrameError, is_wire_code
from .._policy import Message
from ._deflate import Compressor, Inflater
from ._mask import mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
# RFC 7692 section 6: on the first frame of a message, "compressed".
_RSV1: Final = 0x40
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_FIN_TEXT: Final = _FIN | TEXT
_WHOLE_MESSAGE: Final = (_FIN_TEXT, _FIN | BINARY)

# RFC 6455 section 5.5: "All control frames MUST have a payload length of 125 bytes or less."
MAX_CONTROL_BYTES: Final = 125

# After so much work `feed` stops, so that no chunk, whatever a peer has put into it, holds the
# scheduler for longer than about half a millisecond or overfills the inbox.  The unit of all
# costs is a small message that lies whole within its chunk: 0.3 to 0.5 µs.  Any other frame is
# twice that.
WORK_PER_FEED: Final = 1024
# Inflating costs, for each call of zlib's, 0.7 to 2 µs, most of it for a new inflater; for what
# the call takes, 1 µs a KiB, and up to 70 µs if that is full of blocks without content; for what it
# gives, 2 µs a KiB if that is JSON.
_COST_OF_INFLATING: Final = 4
_TAKEN_PER_UNIT: Final = 16
_GIVEN_PER_UNIT: Final = 128
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

# If so, the decoder unmasks small frames in its own loop: the call of a function in Python would
# cost as much as what it does.
_MASK_IN_PYTHON: Final = isinstance(mask, FunctionType)


# From here on text is decoded where it stands in a chunk: to copy its bytes first would take half
# as long as to decode them.  Below, making the view would take longer than the copy.
_VIEWED_BYTES: Final = 4096


def encode_frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True) -> bytes:
    """Encode one frame.  *masked* is for what a client sends (RFC 6455 section 5.1)."""
    first = opcode | _FIN if fin else opcode
    size = len(payload)
    mask_bit = _MASKED if masked else 0
    if size < 126:
        head = (first << 8 | mask_bit | size).to_bytes(2)
    elif size < 1 << 16:
        head = (first << 24 | (mask_bit | 126) << 16 | size).to_bytes(4)
    else:
        head = (first << 72 | (mask_bit | 127) << 64 | size).to_bytes(10)
    if not masked:
        return head + payload
    # RFC 6455 section 5.3: "The masking key needs to be unpredictable."
    key = random_bytes(4)
    return head + key + mask(payload, key)


@dataclass(frozen=True, slots=True)
class WireForm:
    """How messages look on a wire.  Equal forms make equal frames, but for the mask.

    Args:
        masked: see `encode_frame`.
        compressor: how they are compressed; None for not at all.
    """

    masked: bool
    compressor: Compressor | None = None


# Without compression.
SERVER_FORM: Final = WireForm(masked=False)
CLIENT_FORM: Final = WireForm(masked=True)


def encode_message(message: Message | bytearray | memoryview, form: WireForm) -> bytes:
    """Encode a message as one frame: text for str, binary for bytes; buffers are copied.

    Raises:
        TypeError: *message* is neither.
        ValueError: text with a lone surrogate, which UTF-8 cannot hold.
    """
    opcode, payload = encode_payload(message)
    return encode_data(opcode, payload, form)


def encode_data(opcode: int, payload: bytes, form: WireForm) -> bytes:
    """Encode as one frame the message that `encode_payload` has taken apart."""
    if form.compressor is not None:
        compressed = form.compressor.compress(payload)
        if compressed is not None:
            return encode_frame(opcode | _RSV1, compressed, masked=form.masked)
    return encode_frame(opcode, payload, masked=form.masked)


def encode_payload(message: Message | bytearray | memoryview) -> tuple[int, bytes]:
    """The opcode and payload of *message*, uncompressed.  Raises as `encode_message`."""
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    raise TypeError(f"a message must be str or bytes, not {type(message).__name__}")


def decode_message(frame: bytes) -> Message:
    """The message of a *frame* that `encode_message` has made in SERVER_FORM."""
    size = frame[1]
    payload = frame[2 if size < 126 else 4 if size == 126 else 10 :]
    return payload.decode() if frame[0] == _FIN_TEXT else payload


def encode_close(code: int, reason: str, *, masked: bool) -> bytes:
    """Encode a Close frame; code 1005 stands for a Close without one (section 7.1.5)."""
    if code == CloseCode.NO_STATUS:
        return encode_frame(CLOSE, b"", masked=masked)
    return encode_frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), masked=masked)


def check_close(code: int, reason: str) -> None:
    """Raise TypeError or ValueError if a Close frame cannot carry *code* and *reason*."""
    if not isinstance(code, int) or not is_wire_code(code):
        raise ValueError(f"close code {code!r}: must be 1000-1003, 1007-1014 or 3000-4999")
    if not isinstance(reason, str):
        raise TypeError(f"close reason {reason!r}: must be a str")
    size = len(reason.encode())
    if size > MAX_CONTROL_BYTES - 2:
        raise ValueError(f"close reason of {size} bytes: at most {MAX_CONTROL_BYTES - 2} fit")


def decode_close(payload: bytes) -> tuple[int, str]:
    """Return the code (1005 if there is none) and reason of a Close frame's *payload*.

    Raises:
        FrameError: RFC 6455 section 5.5.1 or 7.4 is broken.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")  # a single byte makes none that is allowed
    if not is_wire_code(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_PAYLOAD, "invalid UTF-8 in close reason") from None


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
        # What is left of the work of the `feed` that is under way, or was the last.
        self._work = repeat(None, 0)
        self._mask_bit = _MASKED if masked else 0
        self._head_bytes = 6 if masked else 2  # of a frame of less than 126 bytes
        self._max_message_bytes = max_message_bytes
        self._on_control = on_control
        self._inflater = inflater
        # Bytes that do not make a whole head (or a whole control frame) yet.
        self._buffer = rest
        # The message under way: its opcode (0: none) and what has come of it.
        self._opcode = 0
        self._compressed = False
        self._payload = bytearray()
        self._size = 0
        self._utf8: codecs.IncrementalDecoder | None = None
        # The data frame under way: how much of its payload is still to come.
        self._left = 0
        self._fin = True
        self._key = b""

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
        mask_bit = self._mask_bit
        head_bytes = self._head_bytes
        max_message_bytes = self._max_message_bytes
        append = messages.append
        from_bytes = int.from_bytes
        end = len(data)
        position = 0
        # Every turn of the loop takes one unit from it, and what costs more takes more.
        work = self._work = repeat(None, self._work_per_feed)
        try:
            if self._inflater is not None and self._inflater.pending:
                self._inflate(self._inflater, messages)
            # NOTE: While something is pending there is no work left, so the loop does not begin.
            if self._left and not (self._inflater is not None and self._inflater.pending):
                position = self._continue_frame(data, 0, messages)
            for _ in work:
                if end - position < 2:
                    break
                first = data[position]
                # With the expected mask bit this is the length, with the other one it is
                # 128 more, which _read_frame refuses.
                size = data[position + 1] ^ mask_bit
                start = position + head_bytes
                if size > 125:
                    # The 16 bits that follow.  Of what else may stand here _read_frame knows
                    # more, so it is made too long for this.
                    length = from_bytes(data[position + 2 : position + 4]) if size == 126 else 0
                    size = length if length > 125 else end
                    start += 2
                stop = start + size
                if (
                    stop <= end
                    and size <= max_message_bytes
                    and not self._opcode
                    and first in _WHOLE_MESSAGE
                ):
                    position = stop
                    if size >= _VIEWED_BYTES and first == _FIN_TEXT and not mask_bit:
                        append(str(memoryview(data)[start:stop], "utf-8"))
                        continue
                    payload = data[start:stop]
                    if mask_bit:
                        key = data[start - 4 : start]
                        if _MASK_IN_PYTHON and size < 126:
                            # As in `mask`.
                            keys = (key * 32)[:size]
                            payload = (from_bytes(payload) ^ from_bytes(keys)).to_bytes(size)
                        else:
                            payload = mask(payload, key)
                    append(payload.decode() if first == _FIN_TEXT else payload)
                    continue
                following = self._read_frame(data, position, messages)
                if following is None:
                    break
                position = following
                next(work, None)
            else:
                self._buffer = data[position:]
                return True
        except UnicodeDecodeError:
            raise FrameError(CloseCode.INVALID_PAYLOAD, "invalid UTF-8 in text") from None
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

        self._fin = bool(first & _FIN)
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._compressed = first & _RSV1 != 0
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
            case 0x8 | 0x9 | 0xA if not first & _FIN:
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
        compressed = self._inflater is not None and first & _RESERVED == _RSV1
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
            room = self._max_message_bytes - len(self._payload)
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
            self._payload += piece
            if self._opcode == TEXT:
                # Checked as it comes, so that a fault is told at once (section 8.1).
                if self._utf8 is None:
                    self._utf8 = codecs.getincrementaldecoder("utf-8")()
                self._utf8.decode(piece)
            return
        whole: bytes | bytearray = piece
        if self._payload:
            whole, self._payload = self._payload, bytearray()
            whole += piece
        messages.append(whole.decode() if self._opcode == TEXT else bytes(whole))
        self._opcode = 0
        self._size = 0
        self._utf8 = None

    def _too_big(self) -> FrameError:
        text = f"message over {self._max_message_bytes} bytes"
        return FrameError(CloseCode.MESSAGE_TOO_BIG, text, limit="Limits.max_message_bytes")
