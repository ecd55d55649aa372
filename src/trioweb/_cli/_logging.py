"""The log on standard error, which blocks nobody.

A pipe that is not read fills up, and a write to it would then hold the event loop for ever.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext, suppress
from queue import Full, Queue
from typing import Final, TextIO

from ._terminal import write_all

# More lines than a burst has, and hardly a megabyte.
_MAX_LINES: Final = 2000
# At the end, whoever reads slowly has so long to take what is left.
_CLOSE_SECONDS: Final = 1.0


class BackgroundHandler(logging.Handler):
    """Writes to *stream* in a thread of its own.  What finds no room meanwhile is dropped, and how
    much that was is told as soon as there is room again."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: Queue[str | None] = Queue(_MAX_LINES)
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._thread is None:
            # A daemon: one that is stuck in its write must not keep the process.
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(f"{line}\n")
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, if that takes no longer than a second."""
        super().close()
        if self._thread is not None:
            with suppress(Full):
                self._lines.put(None, timeout=_CLOSE_SECONDS)
                self._thread.join(_CLOSE_SECONDS)
            self._thread = None

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            # `handle` holds the lock while it counts.
            with self.lock or nullcontext():
                dropped, self._dropped = self._dropped, 0
            if dropped:
                s = "" if dropped == 1 else "s"
                self._write(f"{dropped} line{s} of the log dropped: they were not read in time\n")

    def _write(self, text: str) -> None:
        # Nobody is left to be told that nobody reads.
        with suppress(OSError, ValueError):
            try:
                descriptor = self._stream.fileno()
            except OSError:  # no file, but something in memory
                self._stream.write(text)
            else:
                # Past Python's buffer, whose lock would be waited for at exit.
                data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
                write_all(descriptor, data)
