"""What docs/topic_client.md shows runs, with the server of docs/protocol.md."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.processes import free_port, running

_DOCS = Path(__file__).parents[2] / "docs"


def _program(page: str, port: int) -> str:
    text = (_DOCS / page).read_text()
    [program] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(program).replace("8000", str(port))


@pytest.mark.network
async def test_the_program_follows_the_servers_topic() -> None:
    port = free_port()
    python = [sys.executable, "-W", "error", "-c"]
    with trio.fail_after(60):
        async with (
            running([*python, _program("protocol.md", port)]) as server,
            running([*python, _program("topic_client.md", port)]) as client,
        ):
            assert [await client.output.next() for _ in range(2)] == ["3", "1 {'text': 'hello'}"]
            client.process.send_signal(signal.SIGINT)
            server.process.send_signal(signal.SIGTERM)
