"""RFC 6455 section 5.3 and the fast path of a decoder, in pure Python: where `_frames_c` was not
built, or cannot be loaded.

NOTE: `_speedups` chooses.  Where there is the one in C, nothing of this is ever imported.
"""

from collections.abc import Iterator
from typing import Final

from .._policy import Message

_WHOLE_TEXT: Final = 0x81
_WHOLE_MESSAGE: Final = (_WHOLE_TEXT, 0x82)  # or binary
_MASKED: Final = 0x80

# Up to here one XOR of big integers is the fastest mask in pure Python: the standard library has
# no XOR of bytes, and making an integer of bytes and bytes of an integer takes about 1.2 ns for
# each byte.  Above, four translations: 1.1 ns, a third of it for each of taking every fourth
# byte, translating it and putting it back.
_XOR_BYTES: Final = 512
# Made as such integers, too: a byte at a time would be half of all that importing trioweb does.
_EVERY_BYTE: Final = int.from_bytes(range(256))
_ONES: Final = int.from_bytes(b"\x01" * 256)
_XOR_TABLES: Final = tuple((_EVERY_BYTE ^ _ONES * key).to_bytes(256) for key in range(256))

# From here on text is decoded where it stands in a chunk: to copy its bytes first would take half
# as long as to decode them.  Below, making the view would take longer than the copy.
_VIEWED_BYTES: Final = 4096


def mask(data: bytes, key: bytes, /) -> bytes:
    """Return *data* masked, or unmasked, with the four bytes of *key*."""
    size = len(data)
    if size <= _XOR_BYTES:
        keys = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data) ^ int.from_bytes(keys)).to_bytes(size)
    # Slices of a bytearray are taken, translated and assigned twice as fast as those of bytes.
    masked = bytearray(data)
    for i, byte in enumerate(key):
        masked[i::4] = masked[i::4].translate(_XOR_TABLES[byte])
    return bytes(masked)


def take_messages(
    data: bytes,
    position: int,
    masked: bool,
    max_message_bytes: int,
    work: Iterator[bool],
    messages: list[Message],
    /,
) -> int:
    """Append the messages that stand whole at *position*; return where they end.

    A message is taken if it is one frame of less than 64 KiB that breaks no rule, lies whole within
    *data* and is within the limit.  Whatever else comes first is left where it stands.

    Args:
        data: a chunk, between two messages at *position*.
        masked: see `Decoder`.
        max_message_bytes: see `Decoder`.
        work: what is left of it, as so many times True; each message takes one of them, and with
            none left nothing is taken.
        messages: its `append` is called for each, which may take more of *work*.

    Raises:
        UnicodeDecodeError: a text is not UTF-8; those before it have been appended.
    """
    mask_bit = _MASKED if masked else 0
    head_bytes = 6 if masked else 2  # of a frame of less than 126 bytes
    append = messages.append
    from_bytes = int.from_bytes
    end = len(data)
    while position + 2 <= end:
        first = data[position]
        # With the expected mask bit this is the length, with the other one it is 128 more.
        size = data[position + 1] ^ mask_bit
        start = position + head_bytes
        if size > 125:
            # The 16 bits that follow.  Whatever else may stand here is made too long.
            length = from_bytes(data[position + 2 : position + 4]) if size == 126 else 0
            size = length if length > 125 else end
            start += 2
        stop = start + size
        if stop > end or size > max_message_bytes or first not in _WHOLE_MESSAGE:
            break
        if not next(work, False):
            break
        position = stop
        if not mask_bit and size >= _VIEWED_BYTES and first == _WHOLE_TEXT:
            append(str(memoryview(data)[start:stop], "utf-8"))
            continue
        payload = data[start:stop]
        if mask_bit:
            key = data[start - 4 : start]
            if size < 126:
                # As in `mask`, whose call would take as long as this.
                keys = (key * 32)[:size]
                payload = (from_bytes(payload) ^ from_bytes(keys)).to_bytes(size)
            else:
                payload = mask(payload, key)
        append(payload.decode() if first == _WHOLE_TEXT else payload)
    return position
