"""What workers cost and gain: `python -m benchmarks.workers`.

First the CPU time that a parent takes for a publication, beside that of a bare loop over the same
socketpairs which does what no engine can do without: it takes words apart, gives an offset, keeps a
bounded log, and tells the publisher and two readers.  It knows no sessions, retries, keys, lives,
ages or bounds of memory; and it tells of each publication alone, where the parent puts together
what it has read at once.  Then the same parent with a store, beside itself without one: its CPU
time has that of the thread which commits.  The ratios hold; microseconds are this machine's.

Then `trioweb serve` as one process, with workers, and with workers and a store: CPU time of a
delivery, and until when a publication has reached all of a thousand subscribers.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

import trioweb
from trioweb._policy import Retain
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics._commands import Publish, Subscribe, entry_of
from trioweb._topics._details import NOTHING
from trioweb._workers import open_switchboard
from trioweb._workers._parent_end import ParentEnd
from trioweb._workers._pipe import Pipe, Splitter, pack
from trioweb._workers._words import HELLO, PUBLISH, PUBLISHED, PUSH, Words, say_command

_TOPIC: Final = "news"
_WINDOW: Final = 512
_PUBLICATIONS: Final = 30_000
_READERS: Final = 2
_CHUNK: Final = 64 * 2**10


class _Nobody:
    """A listener to whom nothing is said."""

    def ready(self) -> None:
        raise NotImplementedError

    def numbers(self, question: int, statistics: object, page: str) -> None:
        raise NotImplementedError

    def asks_all(self, question: int) -> None:
        raise NotImplementedError

    def asks_others(self, question: int, what: str, data: object) -> None:
        raise NotImplementedError

    def done(self, question: int, answer: object) -> None:
        raise NotImplementedError


def _parent(ends: Sequence[socket.socket], store: str | None = None) -> None:
    """The real one."""

    async def run() -> None:
        async with (
            open_switchboard(max_topics=100, max_bytes=64 * 2**20, store=store) as switchboard,
            trio.open_nursery() as nursery,
        ):
            for end in ends:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
                nursery.start_soon(ParentEnd(stream, switchboard, _Nobody()).run)

    trio.run(run)


def _parent_with_store(ends: Sequence[socket.socket]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        _parent(ends, os.path.join(directory, "topics.db"))


def _bare(ends: Sequence[socket.socket]) -> None:
    """What nothing can do without, on the same pipes: an offset, a bounded log, and telling."""
    log: deque[tuple[int, Words]] = deque(maxlen=1000)
    readers: list[Pipe] = []

    async def serve(end: socket.socket) -> None:
        pipe = Pipe(trio.SocketStream(trio.socket.from_stdlib_socket(end)), read_bytes=_CHUNK)

        def receive(words: Words) -> None:
            if words[0] == PUBLISH:
                _, topic, _, _, entry, _ = words
                offset = log[-1][0] + 1 if log else 1
                log.append((offset, entry))
                push = pack((PUSH, topic, "epoch", offset, [entry]))
                for reader in readers:
                    reader.send_packed(push)
                pipe.send((PUBLISHED, "epoch", offset, 1))
            elif words[0] != HELLO:
                readers.append(pipe)

        await pipe.run(receive)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(serve, end)

    trio.run(run)


def _cpu_of(serve: Callable[[Sequence[socket.socket]], None]) -> float:
    """Microseconds of CPU time that a process takes for a publication which runs *serve*."""
    pairs = [socket.socketpair() for _ in range(1 + _READERS)]
    child = os.fork()
    if not child:
        for ours, _ in pairs:
            ours.close()
        serve([theirs for _, theirs in pairs])
        os._exit(0)
    for _, theirs in pairs:
        theirs.close()
    publisher, *readers = (ours for ours, _ in pairs)
    for number, end in enumerate((publisher, *readers)):
        end.sendall(pack((HELLO, 1, f"node{number}")))
    for end in readers:
        end.sendall(pack(say_command(Subscribe(_TOPIC, Retain(), "", 0, ""))))
    time.sleep(0.5)
    before = _cpu(child)
    _publish(publisher, readers)
    spent = _cpu(child) - before
    for ours, _ in pairs:
        ours.close()
    os.waitpid(child, 0)
    return spent / _PUBLICATIONS * 1e6


def _publish(publisher: socket.socket, readers: Sequence[socket.socket]) -> None:
    frame = encode_message("x" * 64, SERVER_FORM)
    retain = Retain()
    splitter, counted = Splitter(), {end: Splitter() for end in readers}
    answered, sent = 0, 0
    left = dict.fromkeys(readers, _PUBLICATIONS)
    while answered < _PUBLICATIONS or any(left.values()):
        if room := min(_WINDOW - (sent - answered), _PUBLICATIONS - sent):
            entries = [
                entry_of(f"node0:{sent + n}", frame, None, NOTHING) for n in range(1, room + 1)
            ]
            commands = (
                Publish(_TOPIC, retain, sent + n, entry, False)
                for n, entry in enumerate(entries, 1)
            )
            publisher.sendall(b"".join(pack(say_command(each)) for each in commands))
            sent += room
        for end in select.select([publisher, *readers], [], [])[0]:
            data = end.recv(_CHUNK)
            if end is publisher:
                told = splitter.feed(data)
                answered += sum(words[3] for words in told if words[0] == PUBLISHED)
            else:
                told = counted[end].feed(data)
                left[end] -= sum(len(words[4]) for words in told if words[0] == PUSH)


def _cpu(pid: int) -> float:
    """Seconds of CPU time that the process has taken."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# Deliveries.


def _processes_of(pid: int) -> list[int]:
    found = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry))
    return found


async def _deliveries(
    workers: int, subscribers: int, publications: int, store: str | None = None
) -> tuple[float, float]:
    """CPU time of a delivery in all processes of a server, in microseconds, and the median of the
    milliseconds until all have a publication."""
    command = [sys.executable, "-m", "trioweb", "serve", "--port", "0", "--log-level", "error"]
    if workers:
        command += ["--workers", str(workers)]
    if store is not None:
        command += ["--store", store]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.receive_some()).decode().strip().replace("http", "ws")
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            missing = 0
            all_there = trio.Event()

            async def subscribe(task_status: trio.TaskStatus[None]) -> None:
                nonlocal missing
                async with trioweb.open_connection(url + _TOPIC) as connection:
                    task_status.started()
                    async for _ in connection:
                        missing -= 1
                        if not missing:
                            all_there.set()

            for _ in range(subscribers):
                await nursery.start(subscribe)
            async with trioweb.open_connection(url + _TOPIC) as publisher:
                await trio.sleep(1)
                pids = _processes_of(process.pid)
                before = sum(map(_cpu, pids))
                for _ in range(publications):
                    missing, all_there = subscribers, trio.Event()
                    begun = time.perf_counter()
                    await publisher.send("x" * 64)
                    await all_there.wait()
                    times.append((time.perf_counter() - begun) * 1000)
                    await publisher.receive()
                spent = sum(map(_cpu, pids)) - before
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()
            await process.stdout.aclose()
    return spent / (publications * (subscribers + 1)) * 1e6, statistics.median(times)


def _print_deliveries(
    what: str, workers: int, options: argparse.Namespace, store: str | None = None
) -> None:
    cpu, median = trio.run(_deliveries, workers, options.subscribers, options.publications, store)
    print(f"  {what}: {cpu:.2f}, {median:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--publications", type=int, default=50)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("CPU time of a publication in a parent, in µs, beside a bare loop:")
    for _ in range(options.rounds):
        parent, bare = _cpu_of(_parent), _cpu_of(_bare)
        print(f"  {parent:.1f} beside {bare:.1f}: {parent / bare:.2f}", flush=True)
    print("CPU time of a publication in a parent with a store, in µs, beside one without:")
    for _ in range(options.rounds):
        stored, parent = _cpu_of(_parent_with_store), _cpu_of(_parent)
        print(f"  {stored:.1f} beside {parent:.1f}: {stored / parent:.2f}", flush=True)
    print(
        "CPU time of a delivery, in µs, and until all have it, in ms (the reader shares the cores):"
    )
    for _ in range(options.rounds):
        for workers in 0, 1, 2, 4:
            what = f"{workers} workers" if workers else "one process"
            _print_deliveries(what, workers, options)
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "topics.db")
            _print_deliveries("2 workers and a store", 2, options, path)


if __name__ == "__main__":
    main()
