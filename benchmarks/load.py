"""The load: the other end of whatever is measured, never the bottleneck.

    python -m benchmarks.load TASK        (a Task as JSON)

A server's load reads its port from standard input; a client's (`client`) prints its own. Raw
sockets in a process of its own, so that its work is never counted as anybody else's. Where a
message is a frame of known length it counts bytes and parses nothing.

It tells the server through standard output: one byte when all connections are open, then one
whenever something has been reached (see each function), and in the end, where the figures are the
load's to take, one line of JSON. It ends when its peer does, so that nothing is left behind,
whoever was killed.
"""

import json
import os
import select
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import wire
from .task import Task

# The pause keeps the reader from taking turns with the server at every single frame, and from
# costing it a wake-up for each: it looks in, and reads what is there.
_PAUSE = 0.0002
_READ_BYTES = 2**18
_SEND_BYTES = 2**20
_WARM_SECONDS = 0.1
# So long after the load has seen a handshake the server has surely finished its part of it.
_SETTLE_SECONDS = 0.2
STAMP_DIGITS = 20
_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
# The least that the kernel takes; what it keeps for a stalled subscriber is not the question.
_STALLED_BUFFER = 2048
MEMORY_STEPS = 4  # equal ones, to all the connections; before them come the first hundred
SETTLED_CONNECTIONS = 100  # they fill caches and free lists

Read = Callable[[], int]  # reads what is there, and returns how much of what is counted


class _Left(Exception):
    """The server has ended, having its figures."""


def _tell() -> None:
    """Write one byte to whoever was promised one."""
    os.write(sys.stdout.fileno(), b".")


def _tell_figures(**figures: float) -> None:
    os.write(sys.stdout.fileno(), json.dumps(figures).encode() + b"\n")


def _port() -> int:
    return int(sys.stdin.readline())


def _open(task: Task, port: int) -> list[tuple[socket.socket, bytes]]:
    authority = str(Path(task.scratch, "authority.pem")) if task.tls else ""
    return wire.connect(port, task.connections, authority=authority, deflate=task.deflate)


def _poll(readers: dict[int, Read], until: Callable[[int], bool]) -> None:
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
                time.sleep(_PAUSE)


_buffer = bytearray(_READ_BYTES)  # for whoever does not look at what it read


def _bytes_reader(sock: socket.socket) -> Read:
    fd = sock.fileno()
    buffers = [_buffer]
    readv = os.readv

    def read() -> int:
        count = readv(fd, buffers)
        if not count:
            raise _Left
        return count

    return read


def _tls_reader(sock: socket.socket) -> Read:
    # OpenSSL reads one record and leaves the others to the kernel, so polling sees them.
    sock.setblocking(False)

    def read() -> int:
        try:
            count = sock.recv_into(_buffer)
        except ssl.SSLWantReadError:  # a part of a record
            return 0
        if not count:
            raise _Left
        return count

    return read


def _frames_reader(sock: socket.socket, rest: bytes) -> Read:
    frames = wire.Frames(rest)

    def read() -> int:
        data = sock.recv(_READ_BYTES)
        if not data:
            raise _Left
        return sum(opcode <= wire.TEXT for opcode, _ in frames.feed(data))

    return read


def publish(task: Task, port: int) -> None:
    """Tell whenever a burst has arrived everywhere, until the server ends."""
    opened = _open(task, port)
    due = task.connections * task.burst
    total = 0
    if task.deflate:  # frames of any length
        readers = {sock.fileno(): _frames_reader(sock, rest) for sock, rest in opened}
    else:
        due *= len(wire.text_frame(bytes(task.size)))
        total = sum(len(rest) for _, rest in opened)
        reader = _tls_reader if task.tls else _bytes_reader
        readers = {sock.fileno(): reader(sock) for sock, _ in opened}
    goal = due

    def count(arrived: int) -> bool:
        nonlocal total, goal
        total += arrived
        if total >= goal:
            goal += due
            _tell()
        return False

    _tell()
    try:
        _poll(readers, count)
    except _Left:
        if total % due:
            sys.exit(f"{total} arrived, which is no multiple of {due}")
        raise


class _Stamped:
    """Reads messages of one length that begin with the time at which they were due.

    Of each read it looks at the oldest whole message, which has waited longest.
    """

    def __init__(self, size: int) -> None:
        self._frame = len(wire.text_frame(bytes(size)))
        self._head = self._frame - size
        self.waited: list[float] = []  # seconds

    def reader(self, sock: socket.socket) -> Read:
        fd, frame, head, waited = sock.fileno(), self._frame, self._head, self.waited
        buffer = _buffer
        read_bytes = _bytes_reader(sock)
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


def latency(task: Task, port: int) -> None:
    """Tell when all that the schedule has for us has arrived."""
    opened = [sock for sock, _ in _open(task, port)]
    stamped = _Stamped(task.size)
    readers = {sock.fileno(): stamped.reader(sock) for sock in opened}
    _tell()
    _poll(readers, stamped.due(round(task.seconds * task.rate) * task.connections))
    _tell()
    _tell_figures(**stamped.figures())
    _stay(opened)


def stalled(task: Task, port: int) -> None:
    """Subscribe many that read and many that never do.

    Tells when those that read are open and when they have all that fills the log; when the others
    are open, and when they have asked for their subscription; when the publications before any
    eviction have arrived at those that read, and when all have.
    """
    opened = [sock for sock, _ in _open(task, port)]
    stamped = _Stamped(task.size)
    readers = {sock.fileno(): stamped.reader(sock) for sock in opened}
    _tell()
    _poll(readers, stamped.due(task.retained * task.connections))
    stamped.waited.clear()
    _tell()
    others = wire.connect(port, task.stalled, receive_buffer=_STALLED_BUFFER)
    time.sleep(_SETTLE_SECONDS)
    _tell()
    furthest = (task.retained - task.passing[0]) * 9 // 10
    for number, (sock, _) in enumerate(others):
        # How far back its subscription is to begin: each somewhere else.
        back = 1 + number * furthest // task.stalled
        sock.sendall(wire.client_frame(wire.TEXT, b"%d" % back))
    time.sleep(_SETTLE_SECONDS)
    _tell()
    for publications in task.passing:
        _poll(readers, stamped.due(publications * task.connections))
        _tell()
    _tell_figures(**stamped.figures())
    _stay(opened)


def echo(task: Task, port: int) -> None:
    """Tell when it is warm, and when the time is over."""
    opened = [sock for sock, _ in _open(task, port)]
    message = wire.client_frame(wire.TEXT, b"x" * task.size)
    due = len(wire.text_frame(bytes(task.size)))
    socks = {sock.fileno(): sock for sock in opened}
    missing = dict.fromkeys(socks, due)
    sent = dict.fromkeys(socks, 0.0)
    waited: list[float] = []
    clock = time.perf_counter
    poll = select.epoll()

    def run(seconds: float) -> None:
        end = clock() + seconds
        while (now := clock()) < end:
            # It does not sleep: a wake-up would take longer than many an echo.
            for fd, _ in poll.poll(0):
                count = os.readv(fd, [_buffer])
                if not count:
                    raise _Left
                missing[fd] -= count
                if missing[fd] <= 0:
                    now = clock()
                    waited.append(now - sent[fd])
                    missing[fd] += due
                    sent[fd] = now
                    socks[fd].send(message)

    _tell()
    for fd, sock in socks.items():
        poll.register(fd, select.EPOLLIN)
        sent[fd] = clock()
        sock.send(message)
    run(_WARM_SECONDS)
    waited.clear()
    _tell()
    run(task.seconds)
    _tell()
    _tell_figures(count=len(waited), p50=statistics.median(waited) * 1e6)
    _stay(opened)


def receive(task: Task, port: int) -> None:
    """Tell when it is warm, and when the server has read all that was sent in the time.

    A pong says that everything before its ping has been read.
    """
    sock, rest = _open(task, port)[0]
    frame = wire.client_frame(wire.TEXT, b"x" * task.size)
    batch = max(1, _SEND_BYTES // len(frame))
    block = frame * batch
    frames = wire.Frames(rest)

    def run(seconds: float) -> int:
        end = time.perf_counter() + seconds
        count = 0
        while not count or time.perf_counter() < end:
            sock.sendall(block)
            count += batch
        sock.sendall(wire.client_frame(wire.PING, b"read?"))
        while (wire.PONG, b"read?") not in frames.feed(data := sock.recv(_READ_BYTES)):
            if not data:
                raise _Left
        return count

    _tell()
    run(_WARM_SECONDS)
    _tell()
    count = run(task.seconds)
    _tell()
    _tell_figures(count=count)
    _stay([sock])


def connections(task: Task, port: int) -> None:
    """Tell when the first are open, when as many as were asked for have followed, and when those
    are closed again."""
    first = [sock for sock, _ in wire.connect(port, SETTLED_CONNECTIONS)]
    _tell()
    time.sleep(_SETTLE_SECONDS)
    _tell()
    opened = wire.connect(port, task.connections)
    time.sleep(_SETTLE_SECONDS)
    _tell()
    wire.close(opened)
    time.sleep(_SETTLE_SECONDS)
    _tell()
    _tell_figures(count=task.connections)
    _stay(first)


def heartbeats(task: Task, port: int) -> None:
    """Tell when all are open, and when the time is over; answer each ping meanwhile."""
    opened = _open(task, port)
    pongs = 0

    def reader(sock: socket.socket, rest: bytes) -> Read:
        frames = wire.Frames(rest)

        def read() -> int:
            nonlocal pongs
            data = sock.recv(_READ_BYTES)
            if not data:
                raise _Left
            for opcode, payload in frames.feed(data):
                if opcode == wire.PING:
                    sock.send(wire.client_frame(wire.PONG, payload))
                    pongs += 1
            return 0

        return read

    readers = {sock.fileno(): reader(sock, rest) for sock, rest in opened}
    _tell()
    time.sleep(_SETTLE_SECONDS)
    _tell()
    end = time.monotonic() + task.seconds
    _poll(readers, lambda _: time.monotonic() >= end)
    _tell()
    _tell_figures(pongs=pongs)
    _stay([sock for sock, _ in opened])


def memory(task: Task, port: int) -> None:
    """Open connections in steps and tell at each, then keep them."""
    opened: list[socket.socket] = []
    for step in memory_steps(task.connections):
        opened += [sock for sock, _ in wire.connect(port, step - len(opened))]
        time.sleep(_SETTLE_SECONDS)
        _tell()
        time.sleep(_SETTLE_SECONDS)  # for the server to look
    _stay(opened)


def memory_steps(connections: int) -> list[int]:
    """Return how many connections there are at each step."""
    return [
        SETTLED_CONNECTIONS + connections * step // MEMORY_STEPS for step in range(MEMORY_STEPS + 1)
    ]


def _stay(opened: list[socket.socket]) -> None:
    """Keep connections until the server ends."""
    opened[-1].setblocking(True)
    while opened[-1].recv(65536):
        pass


def send(task: Task) -> None:
    """Print a port, accept one client there, and send it text messages until it leaves."""
    frame = wire.text_frame(b"x" * task.size)
    frames = frame * max(1, _SEND_BYTES // len(frame))
    with socket.create_server((wire.HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
    wire.accept(client)
    while True:
        client.sendall(frames)


def _main() -> None:
    task = Task.from_json(sys.argv[1])
    loads = (publish, latency, stalled, echo, receive, connections, heartbeats, memory)
    try:
        if task.kind == "client":
            send(task)
        else:
            {load.__name__: load for load in loads}[task.kind](task, _port())
    except (_Left, BrokenPipeError, ConnectionResetError):
        pass  # the peer has its figures and went without a closing handshake


if __name__ == "__main__":
    _main()
