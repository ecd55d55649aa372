"""A TCP proxy that cuts what passes, both ways, into pieces of 1 to 5 bytes."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_MAX_PIECE: Final = 5
# Between two pieces: the kernel joins what its reader has not taken in time.
_PAUSE: Final = 20e-6


@contextmanager
def cutting(port: int) -> Iterator[int]:
    """Stand before the local server on *port* for the length of the block; yields the own port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        acceptor = threading.Thread(target=_accept, args=(listening, port))
        acceptor.start()
        try:
            yield listening.getsockname()[1]
        finally:
            # Wakes `accept`, which closing does not.
            listening.shutdown(socket.SHUT_RDWR)
            acceptor.join()


def _accept(listening: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            near, _ = listening.accept()
            threading.Thread(target=_carry, args=(near, port), daemon=True).start()


def _carry(near: socket.socket, port: int) -> None:
    with near, socket.create_connection(("127.0.0.1", port)) as far:
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
                time.sleep(_PAUSE)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
