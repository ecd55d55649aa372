"""Clients that are not Python: Node's two, and Chromium's; see `peer`.

All three run `socket.js`.  Here is how its methods are called in another process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.interop.peer import Client, Message, Target

# Calls a method of the socket and returns what that returns.
Call = Callable[..., Awaitable[Any]]

_HERE: Final = Path(__file__).parent
# Node 20 hides its WebSocket behind this; later ones take it, too.
_BUILT_IN: Final = ("node", "--experimental-websocket")
# Under root, as containers are, Chromium's sandbox cannot be had.
CHROMIUM_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class _Javascript:
    def __init__(self, call: Call, subprotocol: str, extensions: str) -> None:
        self._call = call
        self.subprotocol = subprotocol or None
        self.extensions = bool(extensions)

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._call("send", message)
        else:
            await self._call("send", {"base64": base64.b64encode(message).decode()})

    async def send_fragments(self, parts: Sequence[str]) -> None:
        await self._call("sendFragments", parts)

    async def receive(self) -> Message:
        match await self._call("next"):
            case {"message": str(text)}:
                return text
            case {"message": {"base64": coded}}:
                return base64.b64decode(coded)
            case other:
                raise AssertionError(f"no message came, but {other!r}")

    async def ping(self, payload: bytes) -> None:
        assert await self._call("ping", payload.decode()) == payload.decode()

    async def close(self, code: int, reason: str) -> None:
        await self._call("close", code, reason)

    async def receive_close(self) -> tuple[int, str]:
        item = await self._call("next")
        code, reason = item["close"]
        return code, reason


@asynccontextmanager
async def open_ws(target: Target) -> AsyncGenerator[Client]:
    async with _open_node(("node",), "ws", target) as client:
        yield client


@asynccontextmanager
async def open_node(target: Target) -> AsyncGenerator[Client]:
    async with _open_node(_BUILT_IN, "built-in", target) as client:
        yield client


@asynccontextmanager
async def _open_node(node: Sequence[str], kind: str, target: Target) -> AsyncGenerator[_Javascript]:
    parameters = {"subprotocols": list(target.subprotocols), "headers": dict(target.headers)}
    environment = dict(os.environ)
    if target.authority is not None:
        environment["NODE_EXTRA_CA_CERTS"] = str(target.authority)
    process = await asyncio.create_subprocess_exec(
        *(*node, str(_HERE / "node_client.js"), kind, target.url, json.dumps(parameters)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        limit=2**24,  # of a line: the longest message, coded
    )
    requests, answers = process.stdin, process.stdout
    assert requests is not None
    assert answers is not None

    async def call(name: str, *arguments: object) -> Any:
        requests.write(json.dumps([name, *arguments]).encode() + b"\n")
        await requests.drain()
        answer = json.loads(await answers.readline() or '{"error": "Node has ended"}')
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    try:
        yield _Javascript(call, *await call("open"))
    finally:
        requests.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def open_chromium(target: Target) -> AsyncGenerator[Client]:
    """In what the server shows a browser that does not ask for a WebSocket: of its own origin."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS
        )
        # It would take an authority only from a store of its own.
        page = await browser.new_page(ignore_https_errors=target.authority is not None)
        scheme = {"ws": "http", "wss": "https"}[urlsplit(target.url).scheme]
        await page.goto(urlsplit(target.url)._replace(scheme=scheme).geturl())
        await page.add_script_tag(path=_HERE / "socket.js")
        given = [target.url, list(target.subprotocols)]
        await page.evaluate("given => { window.socket = new Socket(...given); }", given)

        async def call(name: str, *arguments: object) -> Any:
            return await page.evaluate(
                "([name, given]) => socket[name](...given)", [name, arguments]
            )

        try:
            yield _Javascript(call, *await call("open"))
        finally:
            await browser.close()


def chromium_path() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@lru_cache
def missing_for_node() -> str | None:
    """What the tests marked `node` lack here, if anything."""
    if shutil.which("node") is None:
        return "there is no node on the path"
    for code, what in {
        "WebSocket": "node has no WebSocket of its own: it must be 20 or later",
        "require('ws'); require('express')": "node does not find ws and express: see NODE_PATH",
    }.items():
        if subprocess.run([*_BUILT_IN, "-e", code], capture_output=True, cwd=_HERE).returncode:
            return what
    return None


@lru_cache
def axe_path() -> Path | None:
    """Where Node finds axe-core, which judges how accessible a page is."""
    if shutil.which("node") is None:
        return None
    code = "console.log(require.resolve('axe-core/axe.min.js'))"
    found = subprocess.run(["node", "-e", code], capture_output=True, text=True, cwd=_HERE)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def centrifuge_bundle(format: str) -> Path:
    """Where Node finds centrifuge-js as browsers take it."""
    code = "console.log(require.resolve('centrifuge'))"
    found = subprocess.run(["node", "-e", code], capture_output=True, text=True, cwd=_HERE)
    name = "centrifuge.protobuf.js" if format == "protobuf" else "centrifuge.js"
    return Path(found.stdout.strip()).parents[1] / "dist" / name  # of build/index.js


@lru_cache
def missing_for_centrifuge() -> str | None:
    """What the tests marked `centrifuge` lack here, if anything."""
    code = "require('ws'); require('centrifuge')"
    if shutil.which("node") is None:
        return "there is no node on the path"
    if subprocess.run(["node", "-e", code], capture_output=True, cwd=_HERE).returncode:
        return "node does not find centrifuge: see NODE_PATH"
    return None


def missing_for_axe() -> str | None:
    """What the tests marked `axe` lack here, if anything."""
    return None if axe_path() else "node does not find axe-core: see NODE_PATH"


@lru_cache
def missing_for_browser() -> str | None:
    """What the tests marked `browser` lack here, if anything."""
    if find_spec("playwright") is None:
        return "the package playwright is not installed"
    return None if chromium_path() else "there is no chromium on the path"
