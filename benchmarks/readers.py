"""How the load reads: what is there, counted or with the time in it, and whom it tells.

See `load`, whose other half this is.
"""

import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable

from . import wire

# The pause keeps the reader from taking turns with the server at every single frame, and from
# costing it a wake-up for each: it looks in, and reads what is there.
PAUSE = 0.0002
READ_BYTES = 2**18
STAMP_DIGITS = 20
_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)

Read = Callable[[], int]  # reads what is there, and returns how much of what is counted


class Left(Exception):
    """The server has ended, having its figures."""


def tell() -> None:
    """Write one byte to whoever was promised one."""
    os.write(sys.stdout.fileno(), b".")


def tell_figures(**figures: float) -> None:
    os.write(sys.stdout.fileno(), json.dumps(figures).encode() + b"\n")


def poll_all(readers: dict[int, Read], until: Callable[[int], bool]) -> None:
    """Read everything, until `until` says so of each count."""
    poll = select.epoll()
    for fd in readers:
        poll.register(fd, select.EPOLLIN)
    with poll:
        while True:
            events = poll.poll(0)
            count = 0
            for fd, _ in events:
                count += readers[fd]()
            if until(count):
                return
            if not events:
                time.sleep(PAUSE)


buffer = bytearray(READ_BYTES)  # for whoever does not look at what it read


def bytes_reader(sock: socket.socket) -> Read:
    fd = sock.fileno()
    buffers = [buffer]
    readv = os.readv

    def read() -> int:
        count = readv(fd, buffers)
        if not count:
            raise Left
        return count

    return read


def tls_reader(sock: socket.socket) -> Read:
    # OpenSSL reads one record and leaves the others to the kernel, so polling sees them.
    sock.setblocking(False)

    def read() -> int:
        try:
            count = sock.recv_into(buffer)
        except ssl.SSLWantReadError:  # a part of a record
            return 0
        if not count:
            raise Left
        return count

    return read


def frames_reader(sock: socket.socket, rest: bytes) -> Read:
    frames = wire.Frames(rest)

    def read() -> int:
        data = sock.recv(READ_BYTES)
        if not data:
            raise Left
        return sum(opcode <= wire.TEXT for opcode, _ in frames.feed(data))

    return read


class Stamped:
    """Reads messages of one length that begin with the time at which they were due.

    Of each read it looks at the oldest whole message, which has waited longest.
    """

    def __init__(self, size: int) -> None:
        self._frame = len(wire.text_frame(bytes(size)))
        self._head = self._frame - size
        self.waited: list[float] = []  # seconds

    def reader(self, sock: socket.socket) -> Read:
        fd, frame, head, waited = sock.fileno(), self._frame, self._head, self.waited
        read_bytes = bytes_reader(sock)
        position = 0  # in a frame

        def read() -> int:
            nonlocal position
            count = read_bytes()
            start = -position % frame
            if start + frame <= count:
                stamp = start + head
                waited.append(time.monotonic() - int(buffer[stamp : stamp + STAMP_DIGITS]) / 1e9)
            position = (position + count) % frame
            return count

        assert fd >= 0
        return read

    def due(self, messages: int) -> Callable[[int], bool]:
        """Return what says that so many messages have arrived."""
        missing = messages * self._frame

        def arrived(count: int) -> bool:
            nonlocal missing
            missing -= count
            return missing <= 0

        return arrived

    def figures(self) -> dict[str, float]:
        """Return percentiles, in milliseconds."""
        waited = sorted(self.waited)
        last = len(waited) - 1
        return {f"p{part:g}": waited[round(last * part / 100)] * 1e3 for part in _PERCENTILES}


def stay(opened: list[socket.socket]) -> None:
    """Keep connections until the server ends."""
    opened[-1].setblocking(True)
    while opened[-1].recv(65536):
        pass
