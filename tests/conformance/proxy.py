"""A TCP proxy that cuts what passes, both ways, into pieces of 1 to 5 bytes.

python -m tests.conformance.proxy OWN_PORT PORT
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Final

_HOST: Final = "127.0.0.1"
_MAX_PIECE: Final = 5
# Between two pieces, for the kernel joins what its reader has not taken in time.  Not in the
# middle of long payloads: the suite waits 10 seconds for 64 KiB to come back.
_PAUSE: Final = 20e-6
_PAUSED_BYTES: Final = 2**12


def main(own_port: int, port: int) -> None:
    with socket.create_server((_HOST, own_port)) as listening:
        while True:
            near, _ = listening.accept()
            threading.Thread(target=_carry, args=(near, port), daemon=True).start()


def _carry(near: socket.socket, port: int) -> None:
    with near, suppress(ConnectionRefusedError), socket.create_connection((_HOST, port)) as far:
        back = threading.Thread(target=_cut, args=(far, near), daemon=True)
        back.start()
        _cut(near, far)
        back.join()


def _cut(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what *source* sends until either ends, then end *sink*."""
    rng = random.Random(1)
    with suppress(OSError):
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        while data := source.recv(65536):
            position = 0
            while position < len(data):
                following = position + rng.randint(1, _MAX_PIECE)
                sink.sendall(data[position:following])
                position = following
                if position < _PAUSED_BYTES:
                    time.sleep(_PAUSE)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
