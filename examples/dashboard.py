"""A live dashboard: one page, one topic, one measurement a second.

    python examples/dashboard.py --port 8000

Open the address that it prints; with `?uid=NAME` the others see who is watching.  HTTP and
WebSocket share one port.  Ctrl-C or SIGTERM ends it softly.

Every publication is the whole chart.  So `slow="latest"` loses nothing: a page behind a slow
line is brought up to date whenever its line is free, and delays nobody.  It measures what Linux
and macOS tell.
"""

import argparse
import json
import os
import re
import resource
import signal
import sys
from collections import deque
from functools import partial
from pathlib import Path

import trio

import trioweb

PAGE = Path(__file__).with_suffix(".html").read_bytes()
STATM = Path("/proc/self/statm")
UID = re.compile(r"[\w.@-]{1,40}")
SECONDS = 120  # on the chart
MOST_NAMES = 20  # of those who watch


def memory_mib() -> float:
    """The memory of this process: as it is now on Linux, its peak elsewhere."""
    if STATM.exists():
        pages = int(STATM.read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


async def measure(server: trioweb.Server, topic: trioweb.Topic) -> None:
    samples: deque[dict[str, float]] = deque(maxlen=SECONDS)
    while True:
        connections = server.connections
        samples.append(
            {
                "load": round(os.getloadavg()[0], 2),
                "memory": round(memory_mib(), 1),
                "connections": len(connections),
            }
        )
        watching = sorted({connection.user for connection in connections})[:MOST_NAMES]
        topic.publish(json.dumps({"samples": list(samples), "watching": watching}))
        await trio.sleep(1)


async def admit(request: trioweb.Request) -> trioweb.Accept:
    """Let in who asks for /ws; what is returned as the user becomes `connection.user`."""
    if request.path != "/ws":
        raise trioweb.Reject(404, "The WebSocket is at /ws.\n")
    uid = request.query.get("uid", "guest")
    if not UID.fullmatch(uid):
        raise trioweb.Reject(400, "A uid is 1 to 40 letters, digits, or any of . @ _ -\n")
    return trioweb.Accept(user=uid)


async def http(request: trioweb.Request) -> trioweb.Response:
    if request.path != "/":
        return trioweb.Response(404, "There is only / here.\n")
    return trioweb.Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


async def main(port: int) -> None:
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        topic = hub.topic("measurements", retain=trioweb.Retain(max_messages=1), slow="latest")

        async def watch(connection: trioweb.Connection) -> None:
            with topic.subscribe(connection, history=1):
                await connection.wait_closed()

        serve = partial(
            trioweb.serve, watch, port, host="127.0.0.1", admit=admit, http=http, hub=hub
        )
        server: trioweb.Server = await nursery.start(serve)
        nursery.start_soon(measure, server, topic)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            await anext(signals)
        # Outside of the block above, so that a second Ctrl-C stops at once.
        await server.drain()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A live dashboard of the machine it runs on.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    trio.run(main, parser.parse_args().port)
