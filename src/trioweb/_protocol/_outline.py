"""Frames as a log shows them: a line for each, of what travels in one direction.

Pure, and no judge: what `_decoder` would refuse has a line, too.  Only connections that are traced
have any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .._policy import Message
from ._decoder import Decoder
from ._frames import BINARY, CLOSE, CONTINUATION, FIN, MASKED, PING, PONG, RSV1, TEXT
from ._speedups import mask

# Of a frame's payload so much is shown.
_SHOWN_BYTES: Final = 60
_NAMES: Final = {
    CONTINUATION: "continuation",
    TEXT: "text",
    BINARY: "binary",
    CLOSE: "close",
    PING: "ping",
    PONG: "pong",
}
# A line of the log takes some 50 microseconds: before more of them others have their turn.
LINES_AT_ONCE: Final = 16


class Outline:
    """Reads the frames of one direction.

    Args:
        skip: bytes that come before the first head.
    """

    __slots__ = ("_held", "_skip")

    def __init__(self, skip: int = 0) -> None:
        self._skip = skip
        # Of the frame at hand, the head and what is to be shown, as far as they have come.
        self._held = b""

    def read(self, data: bytes, most: int = LINES_AT_ONCE) -> tuple[list[str], int]:
        """Read *data*, up to so many frames; return their lines, and how many bytes were read."""
        lines: list[str] = []
        position, end = 0, len(data)
        while len(lines) < most:
            step = min(self._skip, end - position)
            self._skip -= step
            position += step
            if self._skip:
                break
            head, size = self._head()
            needed = head + min(max(size, 0), _SHOWN_BYTES)
            step = min(needed - len(self._held), end - position)
            self._held += data[position : position + step]
            position += step
            if len(self._held) < needed:
                break
            if size >= 0:
                lines.append(_line(self._held, head, size))
                self._skip = size + head - needed
                self._held = b""
        return lines, position

    def _head(self) -> tuple[int, int]:
        """The length of the head, as far as that is known, and of the payload; -1 while it is
        not."""
        held = self._held
        if len(held) < 2:
            return 2, -1
        short = held[1] & 0x7F
        start = {126: 4, 127: 10}.get(short, 2)
        head = start + (4 if held[1] & MASKED else 0)
        if len(held) < head:
            return head, -1
        return head, short if start == 2 else int.from_bytes(held[2:start], "big")


def _line(held: bytes, head: int, size: int) -> str:
    first, payload = held[0], held[head:]
    if held[1] & MASKED:
        payload = mask(payload, held[head - 4 : head])
    opcode = first & 0x0F
    words = [_NAMES.get(opcode, f"opcode {opcode}")]
    if first & RSV1:
        words.append("compressed")
    if not first & FIN:
        words.append("to be continued")
    words.append(f"{size} byte{'' if size == 1 else 's'}")
    return ", ".join(words) + _shown(opcode, first, payload, is_cut=size > len(payload))


def _shown(opcode: int, first: int, payload: bytes, *, is_cut: bool) -> str:
    if not payload or first & RSV1:
        return ""
    more = "..." if is_cut else ""
    if opcode == TEXT:
        # A character that the end cuts is left out.
        text = payload.decode("utf-8", "ignore" if is_cut else "replace")
        return f": {text!a}{more}"
    if opcode == CLOSE and len(payload) > 1:
        reason = payload[2:].decode("utf-8", "ignore" if is_cut else "replace")
        return f": {int.from_bytes(payload[:2], 'big')} {reason!a}{more}"
    return f": {payload.hex(' ')}{more}"


class TracedDecoder:
    """A decoder, and a line for each frame that it is given, in front of what that leads to."""

    __slots__ = ("_decoder", "_is_behind", "_outline", "_rest", "_tell")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rest = b""
        self._outline = Outline()
        # Whether the decoder has not come to the end of what it was given.
        self._is_behind = False
        self._tell: Callable[[str], None] | None = None

    def trace(self, tell: Callable[[str], None] | None) -> None:
        """Have *tell* get the lines from now on; None: nobody."""
        if tell is not None:
            rest, under_way = self._decoder.hand_over()
            self._rest = rest + self._rest
            self._outline = Outline(under_way)
        self._tell = tell

    def spend(self, work: int) -> None:
        """As the decoder's."""
        self._decoder.spend(work)

    def feed(self, data: bytes, messages: list[Message]) -> bool:
        """As the decoder's."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._tell is not None:
            if self._is_behind:
                data, self._rest = b"", data
            else:
                lines, taken = self._outline.read(data)
                for line in lines:
                    self._tell(line)
                data, self._rest = data[:taken], data[taken:]
        self._is_behind = self._decoder.feed(data, messages)
        return self._is_behind or bool(self._rest)
