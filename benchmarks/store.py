"""What a store costs: CPU of `publish` with one ÷ without, and how fast a start replays a journal.

python -m benchmarks.store
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import trio

import trioweb

ROUNDS = 7
COUNT = 10_000
SIZES = (20, 200, 1000)


async def publish(store: Path | None, size: int) -> tuple[float, float]:
    """Microseconds of CPU for each publication: in Trio's thread, and in all threads."""
    message = "x" * size
    own, whole = [], []
    async with trioweb.open_hub(store=store) as hub:
        topic = hub.topic("lobby")
        for _ in range(ROUNDS):
            everything = time.process_time()
            began = time.thread_time()
            for _ in range(COUNT):
                topic.publish(message)
            own.append(time.thread_time() - began)
            await trio.sleep(1)  # what a thread does meanwhile counts, too
            whole.append(time.process_time() - everything)
    return min(own) / COUNT * 1e6, min(whole) / COUNT * 1e6


async def replay(directory: Path) -> tuple[int, float, float]:
    """Records that only a journal has, CPU seconds to open their store, and to open it again."""
    path, copy = directory / "a.db", directory / "copy"
    async with trioweb.open_hub(store=path) as hub:
        topics = [hub.topic(f"{number}") for number in range(100)]
        for number in range(100_000):
            topics[number % 100].publish("x" * 60)
        shutil.copytree(directory, copy)  # as a SIGKILL would leave it
    times = []
    replayed = 0
    for _ in range(2):
        began = time.process_time()
        async with trioweb.open_hub(store=copy / path.name) as hub:
            times.append(time.process_time() - began)
            told = hub.statistics().store
            assert told is not None and told.ended is None
            replayed = replayed or told.replayed
    return replayed, times[0], times[1]


def main() -> None:
    for size in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            without, _ = trio.run(publish, None, size)
            own, whole = trio.run(publish, Path(directory) / "a.db", size)
        print(
            f"{size} bytes: publish {without:.1f} µs without a store, {own:.1f} with one "
            f"({own / without:.2f} times), and {whole - own:.1f} in the thread that commits"
        )
    with tempfile.TemporaryDirectory() as directory:
        count, seconds, again = trio.run(replay, Path(directory))
    print(
        f"replay: {count} records in {seconds:.2f} s of CPU, {seconds / count * 1e6:.0f} µs each; "
        f"a start that has none to replay: {again:.3f} s"
    )


if __name__ == "__main__":
    main()
