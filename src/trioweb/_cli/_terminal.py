"""What the commands share: errors for users, escaping, colour."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any, Final

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
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escape(line)}" for line in lines)


class Notices:
    """Lines on standard error about what happens, in colour where it is a terminal.

    With rich installed (`trioweb[cli]`) they carry the time and are laid out by it.
    """

    def __init__(self) -> None:
        self._console: Any = None
        self._coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        if self._coloured:
            try:
                from rich.console import Console
            except ImportError:
                pass
            else:
                self._console = Console(stderr=True, log_path=False, highlight=False)

    def tell(self, mark: str, text: str, colour: str) -> None:
        """Print one line: *mark* in *colour*, and *text*, which peers may have written."""
        text = escape(text)
        if self._console is not None:
            from rich.text import Text

            self._console.log(Text.assemble((mark, f"bold {colour}"), " ", text))
        elif self._coloured:
            print(f"\x1b[1;{_COLOURS[colour]}m{mark}\x1b[m {text}", file=sys.stderr, flush=True)
        else:
            print(mark, *filter(None, [text]), file=sys.stderr, flush=True)
