"""RFC 6455 section 5: how frames look, each encoded once; `_decoder` reads them.

Pure: no I/O, no clock, no Trio.  What a frame *means* (answering a ping, the closing
handshake) is the link's business.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .._chance import random_bytes
from .._close_codes import CloseCode, is_wire_code
from .._errors import FrameError
from .._policy import Message
from ._deflate import Compressor
from ._speedups import mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
# RFC 7692 section 6: on the first frame of a message, "compressed".
RSV1: Final = 0x40
MASKED: Final = 0x80

# RFC 6455 section 5.5: "All control frames MUST have a payload length of 125 bytes or less."
MAX_CONTROL_BYTES: Final = 125


def encode_frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True) -> bytes:
    """Encode one frame.  *masked* is for what a client sends (RFC 6455 section 5.1)."""
    first = opcode | FIN if fin else opcode
    size = len(payload)
    mask_bit = MASKED if masked else 0
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


class WireForm(NamedTuple):
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
            return encode_frame(opcode | RSV1, compressed, masked=form.masked)
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
    return payload.decode() if frame[0] == FIN | TEXT else payload


def is_text(frame: bytes) -> bool:
    """Whether the message of such a *frame* is text."""
    return frame[0] == FIN | TEXT


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
