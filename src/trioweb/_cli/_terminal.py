"""What the commands share: errors for users, the standard streams, escaping, colour."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any, Final, TextIO

import trio

from .._logs import FIELDS

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS: Final = {"green": "32", "red": "31", "yellow": "33"}


class UsageError(Exception):
    """The user can mend it; the text says how."""


def escape(text: str) -> str:
    """*text* with all made visible that could move a terminal's cursor or forge a line."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class Formatter(logging.Formatter):
    """What peers sent cannot move a terminal's cursor, or forge a record.

    A record is one line, and a traceback behind it is indented.

    Args:
        whose: what each record says of the process that it comes from; nothing where that is clear.
    """

    def __init__(self, whose: Mapping[str, int] | None = None) -> None:
        named = "".join(f", {name} {number}" for name, number in (whose or {}).items())
        super().__init__(f"%(asctime)s %(levelname)s %(name)s{named}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escape(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """A record is one line, an object in ASCII: what peers sent can move no cursor either.

    Args:
        whose: as for `Formatter`.
    """

    def __init__(self, whose: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._whose = whose or {}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        told: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._whose,
        }
        told |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def prepare_standard_streams() -> None:
    """See to it that there are three, and that what is read is what was written.

    One that the shell closed (`<&-`) is None, and its descriptor would be the next socket's.
    In the C locale Python would let bytes through that are not text.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, closefd=False))
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")


async def write(stream: TextIO, data: str | bytes) -> None:
    """Write all of *data* to a standard stream, however long whoever reads that takes.

    In a thread: meanwhile Ctrl-C and pings still have answers.  Past Python's buffer: at exit,
    that would be written again after a failure, or waited for while a thread is stuck in it.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OSError: it cannot be written.

    Cancellation: nobody knows how much was written.
    """
    if isinstance(data, str):
        data = data.encode(stream.encoding, "backslashreplace")
    await trio.to_thread.run_sync(write_all, stream.fileno(), data, abandon_on_cancel=True)


def write_all(descriptor: int, data: bytes) -> None:
    """Write *data*, and wait for that."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares the descriptor has made it so
            select.select([], [descriptor], [])


class Notices:
    """Lines on standard error about what happens, in colour where it is a terminal.

    With rich installed (`trioweb[cli]`) they carry the time and are laid out by it.
    """

    def __init__(self) -> None:
        self._console: Any = None
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._coloured = sys.stderr.isatty() and not plain
        if self._coloured:
            try:
                from rich.console import Console
            except ImportError:
                pass
            else:
                self._console = Console(stderr=True, log_path=False, highlight=False)

    async def tell(self, mark: str, text: str, colour: str) -> None:
        """Print one line: *mark* in *colour*, and *text*, which peers may have written.

        That nobody reads it any more is no reason to end.
        """
        text = f": {escape(text)}" if text else ""
        if self._console is not None:
            from rich.text import Text

            with self._console.capture() as captured:
                self._console.log(Text.assemble((mark, f"bold {colour}"), text))
            line = captured.get()
        else:
            if self._coloured:
                mark = f"\x1b[1;{_COLOURS[colour]}m{mark}\x1b[m"
            line = f"{mark}{text}\n"
        with suppress(BrokenPipeError):
            await write(sys.stderr, line)


async def stop_on_signal(scope: trio.CancelScope) -> None:
    """Cancel *scope* when this process is asked to end."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await signals.__anext__()
        scope.cancel()
