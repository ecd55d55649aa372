"""What the servers here have in common, each a program that `tests.interop.others` runs.

    PROGRAM PORT [RECORD [STALL_AFTER]]

It listens at PORT of 127.0.0.1 (0: any) and writes the port on its standard output.  Of the
subprotocols that a client offers, it takes SUBPROTOCOL.  What it receives goes to everybody who
is connected, except that CLOSE_ME has it close with CLOSE_CODE and CLOSE_REASON.  When a
connection is over, it writes `closed CODE REASON`, as the library at hand has them.

With RECORD, it appends the first word of each message to that file, before it reads on, and
sends nothing.  After STALL_AFTER of them its application hangs: it never reads on.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

SUBPROTOCOL: Final = "chat"
CLOSE_ME: Final = "close me"
CLOSE_CODE: Final = 4321
CLOSE_REASON: Final = "see you ✓"


class Record:
    """The file that outlives the server."""

    def __init__(self, path: str, stall_after: int) -> None:
        # One write for each line, so that no kill can cut one in two.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - until the process ends
        self._left = stall_after

    def write(self, message: str) -> bool:
        """Write a message down; whether to go on after that."""
        self._file.write(f"{message.split()[0]}\n".encode())
        self._left -= 1
        return self._left != 0


def arguments() -> tuple[int, Record | None]:
    """The port and the record."""
    parser = ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("record", nargs="?")
    parser.add_argument("stall_after", nargs="?", type=int, default=0)
    given = parser.parse_args()
    return given.port, Record(given.record, given.stall_after) if given.record else None


def say(line: object) -> None:
    print(line, flush=True)


def say_closed(code: int | None, reason: str | None) -> None:
    say(f"closed {code} {reason or ''}")
