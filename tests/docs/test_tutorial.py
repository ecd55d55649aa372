"""Each part of the tutorial, up to its checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trioweb
from tests.docs.support import DOCS, PATIENCE, blocks, program, read_line, wait_listening
from tests.processes import free_port

PAGE = DOCS / "tutorial.md"
CHAT, HISTORY, SAY, RESUME, TEST, DEPLOY = blocks(PAGE)
[SCRIPT] = blocks(PAGE, "javascript")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.mark.network
async def test_part_1_everybody_gets_what_one_sends(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    with program(CHAT, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with trioweb.open_connection(url) as ada, trioweb.open_connection(url) as bob:
            for sender in ada, bob:
                # The handler of the other subscribes a moment after its client is connected.
                await ada.ping()
                await bob.ping()
                await sender.send("hello")
                assert await sender.receive() == "hello"
            assert await bob.receive() == "hello"


@pytest.mark.network
async def test_part_2_newcomer_gets_what_was_said(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    with program(HISTORY, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with trioweb.open_connection(url) as ada:
            for message in "one", "two":
                await ada.send(message)
                assert await ada.receive() == message
            async with trioweb.open_connection(url) as bob:
                assert [await bob.receive(), await bob.receive()] == ["one", "two"]


@pytest.mark.network
async def test_part_3_client_waits_for_its_server(port: int) -> None:
    with program(SAY, port, "hello") as client, trio.fail_after(PATIENCE):
        with program(HISTORY, port):
            await wait_listening(port)
            assert client.communicate(timeout=PATIENCE)[0] == "sent 1\n"
            async with trioweb.open_connection(f"ws://127.0.0.1:{port}/") as bob:
                assert await bob.receive() == "hello"


@pytest.mark.network
async def test_part_4_position_brings_what_is_missing(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    with program(RESUME, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with trioweb.open_connection(url) as ada:
            for message in "one", "two", "three":
                await ada.send(message)
                epoch, offset, text = json.loads(await ada.receive())
                assert text == message
            async with trioweb.open_connection(f"{url}?epoch={epoch}&offset=1") as bob:
                got = [json.loads(await bob.receive())[1:] for _ in range(2)]
                assert got == [[2, "two"], [3, "three"]]
            async with trioweb.open_connection(f"{url}?epoch=other&offset={offset}") as eve:
                assert "lost" in json.loads(await eve.receive())
        with pytest.raises(trioweb.HandshakeRejected) as rejected:
            async with trioweb.open_connection(f"{url}?offset=x"):
                pass
        assert rejected.value.status == 400


@pytest.mark.network
@pytest.mark.node
async def test_part_4_script_comes_back_with_its_position(port: int) -> None:
    # It closes its first connection at "one", and must get "two" on the next, once.
    script = SCRIPT + (
        f"let socket = connect('ws://127.0.0.1:{port}/', (text) => {{\n"
        "  console.log(text);\n"
        "  if (text === 'one') socket.close();\n"
        "  if (text === 'three') process.exit(0);\n"
        "});\n"
    )
    with program(RESUME, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        command = ["node", "--experimental-websocket", "-e", script]
        async with trioweb.open_connection(f"ws://127.0.0.1:{port}/") as ada:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                # A script that is not there yet misses what is said: say it until it has heard it.
                heard = trio.Event()

                async def listen() -> None:
                    assert await read_line(process) == "one\n"
                    heard.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listen)
                    while not heard.is_set():
                        await ada.send("one")
                        await trio.sleep(0.1)
                for message in "two", "three":
                    await ada.send(message)
                rest = [await read_line(process)]
                while rest[-1] != "three\n":
                    rest.append(await read_line(process))
    assert [line for line in rest if line != "one\n"] == ["two\n", "three\n"]


def test_part_5_passes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.network
async def test_part_6_sigterm_closes_with_1012(port: int) -> None:
    with program(DEPLOY, port) as server, trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with trioweb.open_connection(f"ws://127.0.0.1:{port}/") as ada:
            server.send_signal(signal.SIGTERM)
            await ada.wait_closed()
            assert ada.close_code == 1012
        assert await trio.to_thread.run_sync(server.wait, PATIENCE) == 0
