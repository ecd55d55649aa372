"""Bodies of HTTP/1.1 requests: where one ends, and what of the bytes it is.

Stricter than h11, which takes a bare LF for the end of a line among trailers: a proxy in front that
reads the same bytes otherwise takes what follows for another request.  So any doubt about a body's
length is an error.  Trailers and chunk extensions are checked and dropped.
"""

from __future__ import annotations

import re
from typing import Final

# RFC 9112 section 7.1.1 has "bad" blanks before an extension, which hardly anybody sends, and which
# not everybody takes.
_CHUNK: Final = rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?"
_TRAILER: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*"
_END_OF_LINE: Final = b"\r\n"
# What a line needs is a few bytes.  What stands there besides is paid for by nobody's limit of a
# body's size (CVE-2023-39326 in Go), so it has one of its own, for all lines of a body together.
_LINE_BYTES: Final = 18
_MAX_EXCESS_BYTES: Final = 8 * 2**10


class BadBody(Exception):
    """What came is no body, or nobody can be sure where it ends."""


class BodyDecoder:
    """Takes one body apart from what follows it.

    Args:
        length: its length by Content-Length; None if it comes in chunks.

    Attributes:
        is_complete: all of it has come.
        size: how many bytes it has at least, by all that was said of it so far.
        received: how many bytes of it were decoded.
        buffer: what was fed and not decoded yet; once it is complete, what follows it.
    """

    def __init__(self, length: int | None) -> None:
        self.buffer = bytearray()
        self.received = 0
        # Of the body by its length, or of the chunk.
        self._left = length or 0
        self._is_chunked = length is None
        self._step = self._take_size if length is None else self._take_data
        self._excess = 0
        self.is_complete = length == 0

    @property
    def size(self) -> int:
        return self.received + self._left

    def decode(self) -> bytes:
        """The next piece of the body; b"" if more must be fed for one, or none comes any more.

        Raises:
            BadBody: see there; nothing more is to be asked.
        """
        while not self.is_complete:
            piece = self._step()
            if piece is not None:
                return piece
        return b""

    # Each step returns None if it has done something; it leaves b"" to `decode` if it needs more.

    def _take_data(self) -> bytes | None:
        piece = bytes(self.buffer[: self._left])
        del self.buffer[: self._left]
        self.received += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._take_end_of_data
            self.is_complete = not self._is_chunked
        return piece

    def _take_end_of_data(self) -> bytes | None:
        end = self.buffer[: len(_END_OF_LINE)]
        if not _END_OF_LINE.startswith(end):
            raise BadBody("a chunk is longer than it says")
        if len(end) < len(_END_OF_LINE):
            return b""
        del self.buffer[: len(end)]
        self._step = self._take_size
        return None

    def _take_size(self) -> bytes | None:
        line = self._take_line()
        if line is None:
            return b""
        match = re.fullmatch(_CHUNK, line)
        if match is None:
            raise BadBody("not the length of a chunk")
        self._left = int(match[1], 16)
        self._step = self._take_data if self._left else self._take_trailer
        return None

    def _take_trailer(self) -> bytes | None:
        line = self._take_line()
        if line is None:
            return b""
        if line and not re.fullmatch(_TRAILER, line):
            raise BadBody("not a trailer")
        self.is_complete = not line
        return None

    def _take_line(self) -> bytes | None:
        """The next line, without its end; None if that has not come."""
        # No further than a line may be: what follows may be megabytes.
        end = self.buffer.find(_END_OF_LINE, 0, _MAX_EXCESS_BYTES + _LINE_BYTES)
        size = len(self.buffer) if end < 0 else end
        if self._excess + size - _LINE_BYTES > _MAX_EXCESS_BYTES:
            raise BadBody("too much between its chunks")
        if end < 0:
            # A bare LF will never be a line's end, however much follows.
            if b"\n" in self.buffer:
                raise BadBody("not the end of a line")
            return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + len(_END_OF_LINE)]
        self._excess += max(0, size - _LINE_BYTES)
        return line
