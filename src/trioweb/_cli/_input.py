"""What is typed, or comes from a pipe: the lines of standard input as messages.

A line is a message, without its end.  No more than a chunk and the longest line that may be sent
is held, however large the input is.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Final

import trio

from .._policy import Message
from ._terminal import UsageError

_CHUNK_BYTES: Final = 64 * 2**10
_LIMIT: Final = "--max-message-bytes"


class Input:
    """Reads messages from a descriptor.

    In a thread: a terminal must stay blocking for the shell that it belongs to, and a file cannot
    be waited for in any other way.

    Args:
        descriptor: where to read.
        encoding: of the text; None if the lines are binary messages, of any bytes.
        max_bytes: of a line.
    """

    def __init__(self, descriptor: int, encoding: str | None, max_bytes: int) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()  # without their ends
        self._rest = bytearray()  # the beginning of the next one
        self._number = 1
        self._ended = False

    @property
    def held(self) -> int:
        """How many lines were read and not taken."""
        return len(self._lines)

    async def peek(self) -> Message | None:
        """Wait for the next message, which stays the next until it is taken; None at the end.

        Raises:
            UsageError: the line cannot be a message; the text has its number.

        Cancellation: what is read meanwhile is lost.
        """
        while not self._lines and not self._ended:
            if len(self._rest) > self._max_bytes:
                raise self._refuse(f"has more than {self._max_bytes} bytes; see {_LIMIT}")
            self._split(await trio.to_thread.run_sync(self._read, abandon_on_cancel=True))
        return self._message(self._lines[0]) if self._lines else None

    def take(self) -> None:
        """The message has been accepted elsewhere."""
        self._lines.popleft()
        self._number += 1

    def _read(self) -> bytes:
        """Block for some bytes; none at the end."""
        while True:
            try:
                return os.read(self._descriptor, _CHUNK_BYTES)
            except BlockingIOError:  # whoever shares the descriptor has made it so
                select.select([self._descriptor], [], [])

    def _split(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        self._rest += first
        for line in others:
            self._lines.append(bytes(self._rest))
            self._rest[:] = line
        if not data:
            self._ended = True
            if self._rest:
                self._lines.append(bytes(self._rest))

    def _message(self, line: bytes) -> Message:
        if self._encoding is not None:
            line = line.removesuffix(b"\r")
        if len(line) > self._max_bytes:
            raise self._refuse(f"has {len(line)} bytes, more than {self._max_bytes}; see {_LIMIT}")
        if self._encoding is None:
            return line
        try:
            return line.decode(self._encoding)
        except UnicodeDecodeError as exc:
            raise self._refuse(
                f"is not {exc.encoding}: {exc.reason}; --binary sends any bytes"
            ) from exc

    def _refuse(self, what: str) -> UsageError:
        return UsageError(
            f"line {self._number} of the input {what}; neither it nor what follows is sent"
        )
