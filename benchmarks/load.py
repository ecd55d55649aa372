"""The load: many subscribers that read, many that only stay, or one sender that never pauses.

    python -m benchmarks.load subscribe --connections N --due BYTES
    python -m benchmarks.load stay --connections N
    python -m benchmarks.load send --size BYTES

Whoever listens prints the port, and the other side reads it from its standard input. Raw sockets
in a process of its own, so that its work is never counted as a server's or client's. It counts
bytes and parses nothing: a delivery is a frame's worth of bytes. It ends when its peer does, so
that nothing is left behind, whoever was killed.
"""

import argparse
import os
import select
import socket
import sys
import time

from . import wire

# The pause keeps the reader from taking turns with the server at every single frame, and from
# costing it a wake-up for each: it looks in, and reads what is there.
_PAUSE = 0.0002
_READ_BYTES = 2**18
_SEND_BYTES = 2**20


def _tell() -> None:
    """Write one byte to whoever was promised one: all are open, or all that was due is here."""
    os.write(sys.stdout.fileno(), b".")


def _port() -> int:
    return int(sys.stdin.readline())


def subscribe(port: int, connections: int, due: int) -> None:
    """Read everything; tell when all are open, and whenever another `due` bytes have arrived."""
    opened = [wire.connect(port) for _ in range(connections)]
    total = sum(len(rest) for _, rest in opened)
    goal = due
    poll = select.epoll()
    for sock, _ in opened:
        # Edge-triggered: a read that does not fill the buffer has emptied the socket.
        poll.register(sock, select.EPOLLIN | select.EPOLLET)
    _tell()
    buffers = [bytearray(_READ_BYTES)]
    while True:
        events = poll.poll(0)
        for fd, _ in events:
            count = os.readv(fd, buffers)
            if not count:
                if total % due:
                    sys.exit(f"{total} bytes arrived, which is no multiple of {due}")
                return
            total += count
        if total >= goal:
            goal += due
            _tell()
        if not events:
            time.sleep(_PAUSE)


def stay(port: int, connections: int) -> None:
    """Open connections one after the other and keep them, until the server ends."""
    opened = [wire.connect(port) for _ in range(connections)]
    _tell()
    while opened[-1][0].recv(65536):
        pass


def send(size: int) -> None:
    """Print a port, accept one client there, and send it text messages until it leaves."""
    frame = wire.text_frame("x" * size)
    frames = frame * max(1, _SEND_BYTES // len(frame))
    with socket.create_server((wire.HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client = wire.accept(listener)
    while True:
        client.sendall(frames)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["subscribe", "stay", "send"])
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--due", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    try:
        if options.what == "subscribe":
            subscribe(_port(), options.connections, options.due)
        elif options.what == "stay":
            stay(_port(), options.connections)
        else:
            send(options.size)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the peer has its figures and went without a closing handshake


if __name__ == "__main__":
    _main()
