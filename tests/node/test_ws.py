"""Node's `ws` client, and the wild wrappers on top of it, against `trioweb serve`.

What it has in common with other clients is in `tests.interop.test_clients`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

import trioweb
from tests.interop.serving import APP_HEARTBEATS, PATIENCE, Server, serving

pytestmark = pytest.mark.node

SCRIPT: Final = Path(__file__).with_name("scenarios.js")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*APP_HEARTBEATS) as server:
        yield server


@pytest.mark.parametrize(
    "scenario",
    [
        "broadcast",
        "states_and_close_codes",
        "heartbeat_wrapper",
        "keepalive_wrapper",
        "shared_wrapper",
    ],
)
def test_ws_client_works_unchanged(server: Server, scenario: str) -> None:
    command = ["node", str(SCRIPT), scenario, server.ws("")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


async def test_ws_client_and_server_compress_for_each_other() -> None:
    async def echo(connection: trioweb.Connection) -> None:
        async for message in connection:
            await connection.send(message)

    serve = partial(
        trioweb.serve, echo, 0, host="127.0.0.1", compression=trioweb.Deflate(min_bytes=1)
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            command = ["node", str(SCRIPT), "compression", f"ws://127.0.0.1:{server.port}"]
            result = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False
            )
            nursery.cancel_scope.cancel()
    assert (result.returncode, result.stdout) == (0, b"done\n"), result.stderr.decode()


def test_ws_client_sees_1012_when_the_server_is_terminated() -> None:
    script = """
        const ws = new (require("ws"))(process.argv[1]);
        ws.on("open", () => console.log("open"));
        ws.on("close", (code) => console.log(code));
    """
    with serving() as server:
        command = ["node", "-e", script, server.ws("/lobby")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=SCRIPT.parent
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "open\n"
            server.terminate()
            assert client.communicate(timeout=PATIENCE)[0] == "1012\n"
