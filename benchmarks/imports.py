"""What it costs to import a peer, both of its sides where it has two.

    python -m benchmarks.imports PEER

Each import has an interpreter of its own, in turn with ones that import nothing, and Trio alone.
The first of all writes what bytecode is missing.  It prints the figures as one line of JSON.
"""

import json
import os
import resource
import statistics
import subprocess
import sys

from .peers import BARE_TRIO, OURS

_TIMES = 5
STATEMENTS = {
    OURS: "import trioweb",
    BARE_TRIO: "import trio",
    "trio-websocket": "import trio_websocket",
    "websockets": "import websockets.asyncio.client, websockets.asyncio.server",
    "websockets (Trio)": "import websockets.trio.client, websockets.trio.server",
    "aiohttp": "import aiohttp, aiohttp.web",
    "picows": "import picows",
}


def _spent(statement: str) -> float:
    """Return the ms of CPU that an interpreter takes for a statement, from its start to its end."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def look_at(peer: str) -> dict[str, float]:
    """Return what importing a peer takes beyond Python's own start, and beyond Trio's import."""
    statements = {"nothing": "pass", "trio": "import trio", "peer": STATEMENTS[peer]}
    for statement in statements.values():
        _spent(statement)
    rounds = [
        {name: _spent(statement) for name, statement in statements.items()} for _ in range(_TIMES)
    ]
    return {
        "import": statistics.median(took["peer"] - took["nothing"] for took in rounds),
        "import beyond Trio": statistics.median(took["peer"] - took["trio"] for took in rounds),
    }


if __name__ == "__main__":
    print(json.dumps(look_at(sys.argv[1])), flush=True)
