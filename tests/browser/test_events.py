"""Chromium's EventSource on what `trioweb serve` streams over plain HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.browser.support import Window
from tests.interop.serving import PATIENCE, publish, serving, wait_until, write_keys

pytestmark = pytest.mark.browser

_LISTEN: Final = """(path) => {
    window.got = [];
    window.source = new EventSource(path);
    for (const kind of ["message", "gap", "binary"])
        source.addEventListener(kind, ({data}) => got.push([kind, data]));
}"""


def test_event_source_outlives_a_restart_of_the_server(window: Window, tmp_path: Path) -> None:
    keys = write_keys(tmp_path)
    with serving("--api-key-file", keys) as server:
        page = window(f"{server.url}lobby", bypass_csp=True)
        page.evaluate(_LISTEN, "/lobby")
        page.wait_for_function("source.readyState === 1")
        publish(server, "one")
        page.wait_for_function("got.length === 1")
        server.terminate()
        page.wait_for_function("source.readyState !== 1")
        port = server.port
    with serving("--api-key-file", keys, port=port) as server:
        # A browser may try before the server is there again, and gives up only a page's load.
        page.wait_for_function("source.readyState === 1", timeout=PATIENCE * 1000)
        # The old epoch is over, which it is told; nothing is claimed.
        page.wait_for_function("got.length === 2")
        publish(server, "two")
        page.wait_for_function("got.length === 3")
        got = page.evaluate("got")
        assert [kind for kind, _ in got] == ["message", "gap", "message"]
        assert got[2][1] == "two"
        page.evaluate("source.close()")


def test_event_source_comes_back_to_a_server_that_was_full(window: Window, tmp_path: Path) -> None:
    keys = write_keys(tmp_path)
    with serving("--max-connections", "2", "--api-key-file", keys) as server:
        # An error is a page of the server's origin, too, and opens no WebSocket of its own.
        page = window(f"{server.url}metrics", bypass_csp=True)
        others = [
            httpx.Client(timeout=PATIENCE).stream(
                "GET", f"{server.url}other", headers={"Accept": "text/event-stream"}
            )
            for _ in range(2)
        ]
        with others[0], others[1]:
            page.evaluate(_LISTEN, "/lobby")
            wait_until(lambda: server.statistics()["refused"].get("200"), "it is sent away")
        page.wait_for_function("source.readyState === 1", timeout=PATIENCE * 1000)
        publish(server, "here")
        page.wait_for_function("got.length === 1")
        page.evaluate("source.close()")
