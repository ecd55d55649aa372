"""What a hub takes of the process's memory, beside the bound that it was given.

    python -m benchmarks.hubs TASK        (a Task as JSON: `hub-memory`)

Small publications go round very many topics until the bound has been filled several times, so that
what a topic, a publication and what was evicted cost beside their bytes is all there. It prints one
figure as JSON: bytes of private memory for each byte of the bound.
"""

import json
import sys

import trio

import trioweb

from .jobs import private_bytes
from .task import Task

_BOUND = 32 * 2**20
_AT_ONCE = 1000  # publications between two chances for others to run


async def fill(task: Task) -> float:
    async with trioweb.open_hub(max_bytes=_BOUND, max_topics=2 * task.connections) as hub:
        before = private_bytes()
        topics = [hub.topic(f"topic {number}") for number in range(task.connections)]
        for number in range(task.publications):
            # Each another object, as what is received is.
            topics[number % len(topics)].publish(f"{number:0{task.size}}")
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return (private_bytes() - before) / _BOUND


if __name__ == "__main__":
    print(json.dumps(trio.run(fill, Task.from_json(sys.argv[1]))), flush=True)
