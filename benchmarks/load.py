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

import os
import select
import socket
import statistics
import sys
import time
from pathlib import Path

from . import wire
from .doors import open_all, return_at_once
from .readers import (
    PAUSE,
    READ_BYTES,
    Left,
    Read,
    Stamped,
    buffer,
    bytes_reader,
    frames_reader,
    poll_all,
    stay,
    tell,
    tell_figures,
    tls_reader,
)
from .task import Task

_SEND_BYTES = 2**20
_WARM_SECONDS = 0.1
# So long after the load has seen a handshake the server has surely finished its part of it.
_SETTLE_SECONDS = 0.2
# So many peers come back between two looks at what has arrived.
_RETURNING_TOGETHER = 20
# Where a peer asks for the history of `storm`; every other path is the live topic's.
RETURN_PATH = "/history"
# The least that the kernel takes; what it keeps for a stalled subscriber is not the question.
_STALLED_BUFFER = 2048
MEMORY_STEPS = 4  # equal ones, to all the connections; before them come the first hundred
SETTLED_CONNECTIONS = 100  # they fill caches and free lists


def _port() -> int:
    return int(sys.stdin.readline())


def _open(task: Task, port: int) -> list[tuple[socket.socket, bytes]]:
    authority = str(Path(task.scratch, "authority.pem")) if task.tls else ""
    return wire.connect(port, task.connections, authority=authority, deflate=task.deflate)


def publish(task: Task, port: int) -> None:
    """Tell whenever a burst has arrived everywhere, until the server ends."""
    due = task.connections * task.burst
    total = 0
    if task.door:
        readers = {each.sock.fileno(): each.read for each in open_all(task, port, task.connections)}
    elif task.deflate:  # frames of any length
        readers = {sock.fileno(): frames_reader(sock, rest) for sock, rest in _open(task, port)}
    else:
        opened = _open(task, port)
        due *= len(wire.text_frame(bytes(task.size)))
        total = sum(len(rest) for _, rest in opened)
        reader = tls_reader if task.tls else bytes_reader
        readers = {sock.fileno(): reader(sock) for sock, _ in opened}
    goal = due

    def count(arrived: int) -> bool:
        nonlocal total, goal
        total += arrived
        if total >= goal:
            goal += due
            tell()
        return False

    tell()
    try:
        poll_all(readers, count)
    except Left:
        if total % due:
            sys.exit(f"{total} arrived, which is no multiple of {due}")
        raise


def latency(task: Task, port: int) -> None:
    """Tell when all that the schedule has for us has arrived."""
    opened = [sock for sock, _ in _open(task, port)]
    stamped = Stamped(task.size)
    readers = {sock.fileno(): stamped.reader(sock) for sock in opened}
    tell()
    poll_all(readers, stamped.due(round(task.seconds * task.rate) * task.connections))
    tell()
    tell_figures(**stamped.figures())
    stay(opened)


def stalled(task: Task, port: int) -> None:
    """Subscribe many that read and many that never do.

    Tells when those that read are open and when they have all that fills the log; when the others
    are open, and when they have asked for their subscription; when the publications before any
    eviction have arrived at those that read, and when all have.
    """
    opened = [sock for sock, _ in _open(task, port)]
    stamped = Stamped(task.size)
    readers = {sock.fileno(): stamped.reader(sock) for sock in opened}
    tell()
    poll_all(readers, stamped.due(task.retained * task.connections))
    stamped.waited.clear()
    tell()
    others = wire.connect(port, task.stalled, receive_buffer=_STALLED_BUFFER)
    time.sleep(_SETTLE_SECONDS)
    tell()
    furthest = (task.retained - task.passing[0]) * 9 // 10
    for number, (sock, _) in enumerate(others):
        # How far back its subscription is to begin: each somewhere else.
        back = 1 + number * furthest // task.stalled
        sock.sendall(wire.client_frame(wire.TEXT, b"%d" % back))
    time.sleep(_SETTLE_SECONDS)
    tell()
    for publications in task.passing:
        poll_all(readers, stamped.due(publications * task.connections))
        tell()
    tell_figures(**stamped.figures())
    stay(opened)


def storm(task: Task, port: int) -> None:
    """Tell when the live subscribers are open, when others begin to come back, and when the last of
    those has its history."""
    opened = [sock for sock, _ in _open(task, port)]
    stamped = Stamped(task.size)
    readers = {sock.fileno(): stamped.reader(sock) for sock in opened}
    tell()
    end = time.monotonic() + task.seconds
    poll_all(readers, lambda _: time.monotonic() >= end)
    alone = stamped.figures()["p99"]
    stamped.waited.clear()
    tell()
    asked = wire.request(port, RETURN_PATH)
    due = task.publications * len(wire.text_frame(bytes(task.size)))
    to_come, behind = task.returning, task.returning
    poll = select.epoll()
    for fd in readers:
        poll.register(fd, select.EPOLLIN)

    def history_reader(sock: socket.socket) -> Read:
        head, missing = b"", due

        def read() -> int:
            nonlocal head, missing, behind
            data = sock.recv(READ_BYTES)
            if not data:
                raise Left
            if b"\r\n\r\n" not in head:
                head += data
                data = head.partition(b"\r\n\r\n")[2]
            missing -= len(data)
            behind -= not missing
            return 0

        return read

    began = time.monotonic()
    # Until a live message has come, too.
    while behind or not stamped.waited:
        for _ in range(min(to_come, _RETURNING_TOGETHER)):
            to_come -= 1
            sock = socket.create_connection((wire.HOST, port))
            sock.sendall(asked)
            opened.append(sock)
            readers[sock.fileno()] = history_reader(sock)
            poll.register(sock, select.EPOLLIN)
        events = poll.poll(0)
        for fd, _ in events:
            readers[fd]()
        if not events and not to_come:
            time.sleep(PAUSE)
    caught_up = time.monotonic() - began
    tell()
    during = stamped.figures()["p99"]
    tell_figures(caught_up=caught_up * 1e3, during=during, alone=alone)
    stay(opened)


def herd(task: Task, port: int) -> None:
    """Tell when the first are open, and when as many as were asked for have come back."""
    first = [reader.sock for reader in open_all(task, port, SETTLED_CONNECTIONS)]
    tell()
    time.sleep(_SETTLE_SECONDS)
    tell()
    returned = return_at_once(task, port)
    time.sleep(_SETTLE_SECONDS)
    tell()
    tell_figures(count=task.returning)
    stay([*first, *returned])


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
                count = os.readv(fd, [buffer])
                if not count:
                    raise Left
                missing[fd] -= count
                if missing[fd] <= 0:
                    now = clock()
                    waited.append(now - sent[fd])
                    missing[fd] += due
                    sent[fd] = now
                    socks[fd].send(message)

    tell()
    for fd, sock in socks.items():
        poll.register(fd, select.EPOLLIN)
        sent[fd] = clock()
        sock.send(message)
    run(_WARM_SECONDS)
    waited.clear()
    tell()
    run(task.seconds)
    tell()
    tell_figures(count=len(waited), p50=statistics.median(waited) * 1e6)
    stay(opened)


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
        while (wire.PONG, b"read?") not in frames.feed(data := sock.recv(READ_BYTES)):
            if not data:
                raise Left
        return count

    tell()
    run(_WARM_SECONDS)
    tell()
    count = run(task.seconds)
    tell()
    tell_figures(count=count)
    stay([sock])


def connections(task: Task, port: int) -> None:
    """Tell when the first are open, when as many as were asked for have followed, and when those
    are closed again."""
    first = [sock for sock, _ in wire.connect(port, SETTLED_CONNECTIONS)]
    tell()
    time.sleep(_SETTLE_SECONDS)
    tell()
    opened = wire.connect(port, task.connections)
    time.sleep(_SETTLE_SECONDS)
    tell()
    wire.close(opened)
    time.sleep(_SETTLE_SECONDS)
    tell()
    tell_figures(count=task.connections)
    stay(first)


def heartbeats(task: Task, port: int) -> None:
    """Tell when all are open, and when the time is over; answer each ping meanwhile."""
    opened = _open(task, port)
    pongs = 0

    def reader(sock: socket.socket, rest: bytes) -> Read:
        frames = wire.Frames(rest)

        def read() -> int:
            nonlocal pongs
            data = sock.recv(READ_BYTES)
            if not data:
                raise Left
            for opcode, payload in frames.feed(data):
                if opcode == wire.PING:
                    sock.send(wire.client_frame(wire.PONG, payload))
                    pongs += 1
            return 0

        return read

    readers = {sock.fileno(): reader(sock, rest) for sock, rest in opened}
    tell()
    time.sleep(_SETTLE_SECONDS)
    tell()
    end = time.monotonic() + task.seconds
    poll_all(readers, lambda _: time.monotonic() >= end)
    tell()
    tell_figures(pongs=pongs)
    stay([sock for sock, _ in opened])


def memory(task: Task, port: int) -> None:
    """Open connections in steps and tell at each, then keep them."""
    opened: list[socket.socket] = []
    for step in memory_steps(task.connections):
        more = step - len(opened)
        if task.door:
            opened += [reader.sock for reader in open_all(task, port, more)]
        else:
            opened += [sock for sock, _ in wire.connect(port, more)]
        time.sleep(_SETTLE_SECONDS)
        tell()
        time.sleep(_SETTLE_SECONDS)  # for the server to look
    stay(opened)


def memory_steps(connections: int) -> list[int]:
    """Return how many connections there are at each step."""
    return [
        SETTLED_CONNECTIONS + connections * step // MEMORY_STEPS for step in range(MEMORY_STEPS + 1)
    ]


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
    loads = (
        *(publish, latency, stalled, storm, herd),
        *(echo, receive, connections, heartbeats, memory),
    )
    try:
        if task.kind == "client":
            send(task)
        else:
            {load.__name__: load for load in loads}[task.kind](task, _port())
    except (Left, BrokenPipeError, ConnectionResetError):
        pass  # the peer has its figures and went without a closing handshake


if __name__ == "__main__":
    _main()
