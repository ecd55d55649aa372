"""Two nodes, started as the page says."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import trio

from tests.docs.support import DOCS, PATIENCE, blocks, wait_listening
from tests.processes import free_port, running

pytestmark = [pytest.mark.network, pytest.mark.redis]


async def test_what_is_said_at_one_node_is_heard_at_the_other(tmp_path: Path) -> None:
    ports = {port: str(free_port()) for port in ("6379", "8000", "8001")}

    def commands(block: str) -> list[list[str]]:
        for old, new in ports.items():
            block = block.replace(old, new)
        lines = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
        assert all(line[0] == "trioweb" for line in lines)
        return [[sys.executable, "-m", *line] for line in lines]

    serve, connect = map(commands, blocks(DOCS / "processes.md", "console"))
    redis = ["redis-server", "--port", ports["6379"], "--bind", "127.0.0.1", "--save", ""]
    async with running([*redis, "--dir", str(tmp_path)]):
        await wait_listening(int(ports["6379"]))
        async with running(serve[0]) as first, running(serve[1]) as second:
            await first.output.next()
            await second.output.next()
            async with running(connect[0]) as ann, running(connect[1]) as bob:
                with trio.fail_after(PATIENCE):
                    assert await bob.errors.next() == "connected"
                    await ann.type("from the other node")
                    assert await bob.output.next() == "from the other node"
