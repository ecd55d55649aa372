"""A redis-server for a measurement."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 30


@contextmanager
def run_redis(core: int) -> Iterator[str]:
    """A server on *core*; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        options = ["--port", f"{port}", "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        with subprocess.Popen(
            ["redis-server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                os.sched_setaffinity(server.pid, {core})
                end = time.monotonic() + _SECONDS
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                    except ConnectionRefusedError:
                        if time.monotonic() > end:
                            raise
                        time.sleep(0.05)
                    else:
                        break
                yield f"redis://127.0.0.1:{port}"
            finally:
                server.kill()
