"""The three ways of "Resume anything": the page's programs, with their connections cut."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.docs.support import DOCS, PATIENCE, blocks, program, read_line, wait_listening
from tests.processes import free_port

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage

PAGE = DOCS / "resuming.md"
SERVER, TOPIC_CLIENT, SOCKET = blocks(PAGE)
[SCRIPT] = blocks(PAGE, "js")

pytestmark = pytest.mark.network


@asynccontextmanager
async def line_to(port: int) -> AsyncGenerator[tuple[int, Callable[[], int]]]:
    """A way to *port* through a port of its own, and what cuts the connections on it."""
    connections: list[trio.CancelScope] = []

    async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            async for data in source:
                await target.send_all(data)
        except trio.BrokenResourceError:
            pass  # one of both has gone

    async def connect(inner: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as outer:
            async with trio.open_nursery() as nursery:
                connections.append(nursery.cancel_scope)
                nursery.start_soon(carry, inner, outer)
                await carry(outer, inner)
                nursery.cancel_scope.cancel()

    def cut() -> int:
        count = len(connections)
        while connections:
            connections.pop().cancel()
        return count

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, connect, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1], cut
        nursery.cancel_scope.cancel()


async def read_offsets(process: subprocess.Popen[str], count: int) -> list[int]:
    lines = [await read_line(process) for _ in range(count)]
    return [int(line.split()[0]) for line in lines]


@pytest.mark.parametrize(
    "code", [pytest.param(TOPIC_CLIENT, id="topic-client"), pytest.param(SOCKET, id="socket")]
)
async def test_program_goes_on_after_a_cut_and_a_new_start(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    with program(SERVER, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        async with line_to(port) as (door, cut):
            with program(code, door) as process:
                offsets = await read_offsets(process, 3)
                assert cut() == 1
                offsets += await read_offsets(process, 4)
                assert offsets == list(range(offsets[0], offsets[0] + 7))
            # Killed between two lines of its loop, it has the last one again.
            with program(code, door) as process:
                later = await read_offsets(process, 4)
    assert later[0] in (offsets[-1], offsets[-1] + 1)
    assert later == list(range(later[0], later[0] + 4))


@pytest.mark.browser
async def test_script_of_the_page_goes_on_after_a_cut_and_a_reload() -> None:
    port = free_port()
    async with line_to(port) as (door, cut):
        with program(SERVER, port), trio.fail_after(PATIENCE):
            await wait_listening(port)
            token = trio.lowlevel.current_trio_token()
            offsets = await trio.to_thread.run_sync(drive, door, cut, token)
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


def drive(port: int, cut: Callable[[], int], token: trio.lowlevel.TrioToken) -> list[int]:
    """The offsets that the script says, with a cut and a reload among them."""
    # Here, as what has no Playwright must still be able to collect this.
    from playwright.sync_api import sync_playwright

    offsets: list[int] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "log":  # and no complaint of the browser's
            match = re.match(r"[0-9a-f]+:([0-9]+) \w", message.text)
            assert match is not None, message.text
            offsets.append(int(match[1]))

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)

        page.on("console", note)

        def read_more() -> None:
            enough = len(offsets) + 3
            while len(offsets) < enough:
                page.wait_for_event("console")

        # Some page of the server's own origin, which it does not have.
        url = f"http://127.0.0.1:{port}/"
        page.route(url, lambda route: route.fulfill(body="<p>", content_type="text/html"))
        page.goto(url)
        page.add_script_tag(content=SCRIPT)
        read_more()
        trio.from_thread.run_sync(cut, trio_token=token)
        read_more()
        page.reload()
        page.add_script_tag(content=SCRIPT)
        read_more()
        browser.close()
    return offsets
