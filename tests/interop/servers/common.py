"""What the servers here have in common, each a program that `tests.interop.others` runs.

    PROGRAM PORT [--certificate FILE] [RECORD [STALL_AFTER]]

It listens at PORT of 127.0.0.1 (0: any), with the certificate for TLS, and writes the port on its
standard output.  Of the subprotocols that a client offers, it takes SUBPROTOCOL.  What it receives
goes to everybody who is connected, except that

- CLOSE_ME has it close with CLOSE_CODE and CLOSE_REASON,
- PING_ME has it send a ping, and PONGED after the pong,
- SHOW_HEADER has it send the value of the request's HEADER,
- FRAGMENT_ME has it send FRAGMENTS as one message, if its library can do that.

When a connection is over, it writes `closed CODE REASON`, as the library at hand has them.

With RECORD, it appends the first word of each message to that file, before it reads on, and
sends nothing.  After STALL_AFTER of them its application hangs: it never reads on.
"""

from __future__ import annotations

import ssl
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUBPROTOCOL: Final = "chat"
CLOSE_ME: Final = "close me"
CLOSE_CODE: Final = 4321
CLOSE_REASON: Final = "see you ✓"
PING_ME: Final = "ping me"
PONGED: Final = "ponged"
SHOW_HEADER: Final = "show header"
HEADER: Final = "X-Colour"
FRAGMENT_ME: Final = "fragment me"
FRAGMENTS: Final = ("one ", "", "mess", "age")


@dataclass(frozen=True)
class Certificates:
    """Of an authority, and of the server (with its key)."""

    authority: Path
    server: Path

    def server_context(self) -> ssl.SSLContext:
        return server_context(self.server)

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)


def server_context(certificate: Path | str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


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


def arguments() -> tuple[int, ssl.SSLContext | None, Record | None]:
    """The port, what TLS needs, and the record."""
    parser = ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("record", nargs="?")
    parser.add_argument("stall_after", nargs="?", type=int, default=0)
    parser.add_argument("--certificate")
    given = parser.parse_args()
    return (
        given.port,
        server_context(given.certificate) if given.certificate else None,
        Record(given.record, given.stall_after) if given.record else None,
    )


def say(line: object) -> None:
    print(line, flush=True)


def say_closed(code: int | None, reason: str | None) -> None:
    say(f"closed {code} {reason or ''}")
