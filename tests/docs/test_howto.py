"""The recipes do what they are for: their programs, with peers."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
import trio

import trioweb
from tests.docs.support import DOCS, PATIENCE, blocks, program, wait_listening
from tests.processes import free_port

pytestmark = pytest.mark.network

PAGE = DOCS / "howto.md"


def recipe(heading: str) -> list[str]:
    """The programs of a section."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [code for code in blocks(PAGE) if code in section]
    assert found, heading
    return found


@asynccontextmanager
async def running(code: str) -> AsyncGenerator[str]:
    """Run a server of the page; its URL without a path."""
    port = free_port()
    with program(code, port), trio.fail_after(PATIENCE):
        await wait_listening(port)
        yield f"ws://127.0.0.1:{port}"


async def said(url: str, count: int = 1, **options: Any) -> list[Any]:
    """The first messages that a peer gets there."""
    async with trioweb.open_connection(url, **options) as connection:
        return [await connection.receive() for _ in range(count)]


async def status(url: str, **options: Any) -> int:
    with pytest.raises(trioweb.HandshakeRejected) as caught:
        await said(url, **options)
    return caught.value.status


async def test_token_or_cookie_says_who_somebody_is() -> None:
    [code] = recipe("log in with a token or a cookie")
    secret = "the same as whoever signs your users in"
    soon = int(time.time()) + 600
    token = jwt.encode({"sub": "ada", "exp": soon}, secret, "HS256")
    forged = jwt.encode({"sub": "ada", "exp": soon}, "x" * 40, "HS256")
    endless = jwt.encode({"sub": "ada"}, secret, "HS256")
    async with running(code) as url:
        for headers in (
            [("Authorization", f"Bearer {token}")],
            [("Cookie", f"theme=dark; session={token}")],
        ):
            assert await said(url, headers=headers) == ["hello ada"]
        for bad in forged, endless, "no.token.at-all":
            assert await status(url, headers=[("Authorization", f"Bearer {bad}")]) == 401
        assert await status(url, headers=[("Cookie", "session=x; b@d=")]) == 401
        assert await status(url) == 401


async def test_user_gets_what_is_for_all_windows_of_theirs() -> None:
    [code] = recipe("give each user a topic")
    async with running(code) as url:
        assert await status(f"{url}/?token=another") == 401
        async with trioweb.open_connection(f"{url}/?token=token-of-bob") as bob:
            async with trioweb.open_connection(f"{url}/?token=token-of-ada") as ada:
                await ada.send("bob: are you there?")
                assert await bob.receive() == "ada: are you there?"
                assert await said(f"{url}/?token=token-of-bob") == ["ada: are you there?"]


async def test_presence_tells_who_comes_and_goes() -> None:
    [code] = recipe("show who is there")
    async with running(code) as url:
        async with trioweb.open_connection(f"{url}/?name=ada") as ada:
            assert json.loads(await ada.receive()) == ["ada"]
            async with trioweb.open_connection(f"{url}/?name=ada") as second:
                async with trioweb.open_connection(f"{url}/?name=bob") as bob:
                    assert json.loads(await bob.receive()) == ["ada", "bob"]
                    while json.loads(await ada.receive()) != ["ada", "bob"]:
                        pass
                await second.aclose()
            while json.loads(await ada.receive()) != ["ada"]:
                pass


async def test_route_leads_to_its_handler_and_others_to_404() -> None:
    [code] = recipe("serve several routes")
    async with running(code) as url:
        for path in "/", "/chat/", "/chat/A":
            assert await status(url + path) == 404
        async with trioweb.open_connection(f"{url}/echo") as echo:
            await echo.send("one")
            assert await echo.receive() == "one"
        async with trioweb.open_connection(f"{url}/chat/room-1") as chat:
            await chat.send("two")
            assert await chat.receive() == "two"
        assert await said(f"{url}/chat/room-1") == ["two"]
        async with httpx.AsyncClient() as client:
            answer = await client.get(url.replace("ws", "http", 1) + "/healthz")
        assert answer.text == "ok\n"


async def test_thread_publishes() -> None:
    [code] = recipe("publish from a thread")
    async with running(code) as url:
        assert len(await said(url, 2)) == 2


async def test_other_process_publishes_by_post() -> None:
    [code] = recipe("publish from another process, or another language")
    async with running(code) as url, httpx.AsyncClient() as client:
        page = url.replace("ws", "http", 1)
        assert (await client.post(page, content="hello")).status_code == 401
        headers = {"Authorization": "Bearer a-key-that-nobody-guesses"}
        answer = await client.post(page, content="hello", headers=headers)
        assert (answer.status_code, answer.text) == (200, "1\n")
        assert await said(url) == ["hello"]


async def test_framework_on_trio_publishes_to_the_same_hub() -> None:
    code, _ = recipe("run beside a web framework")
    pages = free_port()
    async with running(code.replace("8080", str(pages))) as url, httpx.AsyncClient() as client:
        await wait_listening(pages)
        answer = await client.post(f"http://127.0.0.1:{pages}/news", content="hello")
        assert answer.text == "1\n"
        assert await said(url) == ["hello"]


async def test_program_on_asyncio_publishes_to_a_hub_in_a_thread() -> None:
    _, code = recipe("run beside a web framework")
    async with running(code) as url:
        assert await said(url, 2) == ["this came from asyncio"] * 2


async def test_answer_of_a_model_goes_on_while_nobody_reads() -> None:
    [code] = recipe("stream the output of a model")
    async with running(code) as url:
        assert await said(f"{url}/run?question=why", 2) == ["I ", "was "]
        async with trioweb.open_connection(f"{url}/run?since=2") as connection:
            rest = [await connection.receive()]
            while rest[-1] != "\n":
                rest.append(await connection.receive())
        assert "".join(map(str, rest)) == "asked 'why' and think so. \n"
        assert await said(f"{url}/run", 1) == ["I "]


async def test_subscriber_gets_the_format_that_it_asked_for() -> None:
    [code] = recipe("send a binary format")
    async with running(code) as url:
        [message] = await said(url, subprotocols=["binary"])
        _, price = struct.unpack("!dd", message)
        [text] = await said(url)
        assert json.loads(text)["price"] == price == 99.5
