"""What our resilient client costs beyond what it does: connecting again, and doing nothing.

    python -m benchmarks.resilience TASK        (a Task as JSON: `reconnect` or `idle-client`)

Its server is `trioweb serve`, a process of its own.  It prints one figure as JSON.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys

import trio

import trioweb

from .jobs import private_bytes
from .task import Task

_SETTLED_CLIENTS = 50  # memory is counted from here on: the first ones fill caches


def _serve(port: int) -> tuple[subprocess.Popen[str], int]:
    """Start a server, and return when it listens."""
    command = [sys.executable, "-m", "trioweb", "serve", f"--port={port}", "--log-level=error"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline().rsplit(":", 1)[1].strip("/\n"))


class _Noted(random.Random):
    """Randomness that adds up the delays that it drew."""

    delay = 0.0

    def uniform(self, a: float, b: float) -> float:
        drawn = super().uniform(a, b)
        self.delay += drawn
        return drawn


async def reconnect(times: int) -> float:
    """Return the median of the ms that a reconnect takes beyond the policy's delays."""
    process, port = _serve(0)
    noted = _Noted()
    beyond = []
    async with trioweb.open_client(
        f"ws://127.0.0.1:{port}/", retry=trioweb.Retry(initial=2, maximum=2), random=noted
    ) as client:
        with client.messages(events=True) as events:
            await events.receive()
            for _ in range(times):
                noted.delay = 0.0
                process.send_signal(signal.SIGKILL)
                process.wait()
                lost_at = trio.current_time()
                process, _ = await trio.to_thread.run_sync(_serve, port)
                while not isinstance(await events.receive(), trioweb.Opened):
                    pass
                beyond.append((trio.current_time() - lost_at - noted.delay) * 1000)
    process.kill()
    return statistics.median(beyond)


async def idle(count: int) -> float:
    """Return the KiB of private memory that an idle client costs."""
    process, port = _serve(0)
    clients = 0
    settled = 0
    all_open = trio.Event()

    async def hold() -> None:
        nonlocal clients, settled
        async with trioweb.open_client(f"ws://127.0.0.1:{port}/", receive=False) as client:
            await client.wait_open()
            clients += 1
            if clients == _SETTLED_CLIENTS:
                settled = private_bytes()
            if clients == _SETTLED_CLIENTS + count:
                all_open.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(_SETTLED_CLIENTS + count):
            nursery.start_soon(hold)
            await trio.sleep(0.002)
        await all_open.wait()
        grown = private_bytes() - settled
        process.kill()
        nursery.cancel_scope.cancel()
    return grown / count / 1024


def _main() -> None:
    task = Task.from_json(sys.argv[1])
    question = reconnect if task.kind == "reconnect" else idle
    print(json.dumps(trio.run(question, task.connections)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _main()
