"""Our broadcast beside subscribers that stopped reading, each somewhere else.

The log is filled first, so that what the topic retains is no growth; then the stalled ones
connect, then they subscribe, each from an offset of its own, and read nothing. A fifth of the
publications passes while the log still has what they wait for; the others evict them, one by one.
"""

import ctypes
import gc
import os
import re
import sys
import tempfile
from functools import partial
from typing import Any

import trio
import trio.testing

import trioweb

from . import wire
from .jobs import Job, private_bytes

_FILL_BURST = 200
# A peer that does not read is aborted after this, and we need not wait for the default.
_CLOSE_TIMEOUT = 1
# No ping is to come between messages, whose times the load finds by their place.
_QUIET = trioweb.Heartbeat(interval=3600)


class _Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2(3) returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _used_bytes() -> int:
    """Return what objects occupy, unlike `private_bytes` without what the allocators keep.

    What thousands of connections leave behind goes back to the system only where nothing else
    was put between them, so the process's size says little about what is still held.
    """
    gc.collect()
    with tempfile.TemporaryFile("w+") as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()  # there is no other way to ask Python's allocator
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        found = re.search(r"# bytes in allocated blocks\s*=\s*([\d,]+)", file.read())
    assert found
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    malloc: Any = mallinfo2()
    in_use: int = malloc.uordblks + malloc.hblkhd
    return int(found[1].replace(",", "")) + in_use


async def serve_beside_stalled(job: Job) -> None:
    task = job.task
    retained = task.retained
    before, after = task.passing
    limits = trioweb.Limits(close_timeout=_CLOSE_TIMEOUT)
    retain = trioweb.Retain(max_messages=retained, max_bytes=2 * retained * (task.size + 16))
    waiting = 0

    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        topic = hub.topic("news", retain=retain)

        async def handler(connection: trioweb.Connection) -> None:
            nonlocal waiting
            history = 0
            if topic.head:  # the healthy ones came before the first publication
                waiting += 1
                history = int(await connection.receive())
            with topic.subscribe(connection, history=history):
                async for _ in connection:
                    pass

        async def publish(message: str) -> None:
            topic.publish(message)

        options: dict[str, Any] = {
            "host": wire.HOST,
            "hub": hub,
            "limits": limits,
            "heartbeat": _QUIET,
        }
        server = await nursery.start(partial(trioweb.serve, handler, 0, **options))
        job.listening(server.port)
        await job.arrived()
        while topic.subscribers < task.connections:
            await job.sleep(0.01)
        for number in range(retained):
            topic.publish("0" * task.size)  # a time, too
            if number % _FILL_BURST == 0:
                # Let it be written, so that nobody healthy falls behind.
                await trio.sleep(0.005)
        await job.arrived()
        await job.arrived()
        while waiting < task.stalled:
            await job.sleep(0.01)
        connected_bytes, connected_used = private_bytes(), _used_bytes()
        await job.arrived()
        while topic.subscribers < task.connections + task.stalled:
            await job.sleep(0.01)
        # What the kernel takes of their history is written; from here on they are stalled.
        await trio.testing.wait_all_tasks_blocked(0.1)
        await job.publish_on_schedule(publish, before // task.burst)
        await job.arrived()
        if topic.subscribers != task.connections + task.stalled:
            raise RuntimeError(f"some were evicted too soon: {topic.subscribers} are left")
        stalled_bytes = private_bytes()
        await job.publish_on_schedule(publish, after // task.burst)
        await job.arrived()
        while len(list(server.connections)) > task.connections:
            await job.sleep(0.01)
        evicted_used = _used_bytes()
        each = max(1, task.stalled)
        job.finish(
            {
                "stalled": (stalled_bytes - connected_bytes) / each,
                "evicted": (evicted_used - connected_used) / each,
            }
            | job.load_figures()
        )
