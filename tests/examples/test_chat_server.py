"""The chat example, run as a process and used by real clients.

All tests but the last share one chat, so each has members of its own.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

import trioweb
from tests.examples.support import PATIENCE, Program, fetch, read_until, running

pytestmark = pytest.mark.network

QUESTION = "* Your name? One word, and not the name of a member."


@pytest.fixture(scope="module")
def chat() -> Iterator[Program]:
    with running("chat_server.py") as program:
        yield program


@asynccontextmanager
async def connected(
    chat: Program, name: str = "", limits: trioweb.Limits | None = None
) -> AsyncGenerator[trioweb.Connection]:
    """A connection that says nothing yet; whatever is done with it has a deadline."""
    url = f"{chat.ws_url}?name={name}" if name else chat.ws_url
    with trio.fail_after(PATIENCE):
        async with trioweb.open_connection(url, limits=limits or trioweb.Limits()) as connection:
            yield connection


@asynccontextmanager
async def joined(chat: Program, name: str) -> AsyncGenerator[trioweb.Connection]:
    async with connected(chat, name) as connection:
        await read_until(connection, f"* {name} joined")
        yield connection


async def test_chat_sends_lines_and_notices_to_everybody(chat: Program) -> None:
    async with joined(chat, "ada") as ada:
        async with joined(chat, "bob") as bob:
            await bob.send("Hello: all of you!")
            for member in ada, bob:
                assert (await read_until(member, "bob: Hello: all of you!"))[-1]
        assert (await read_until(ada, "* bob left")) == ["* bob left"]


async def test_chat_asks_for_a_name_until_it_gets_a_free_one(chat: Program) -> None:
    async with joined(chat, "carl"), connected(chat) as nameless:
        assert await nameless.receive() == QUESTION
        for bad in ("two words", "carl", "*", "x" * 21, b"\xff", ""):
            await nameless.send(bad)
            assert await nameless.receive() == QUESTION
        await nameless.send("carla")
        await read_until(nameless, "* carla joined")


async def test_chat_asks_for_another_name_when_the_one_in_the_url_is_taken(chat: Program) -> None:
    async with joined(chat, "dora"), connected(chat, "dora") as second:
        assert await second.receive() == QUESTION


async def test_chat_gives_a_name_free_again_when_its_member_is_lost(chat: Program) -> None:
    async with joined(chat, "finn") as finn:
        async with joined(chat, "eve") as eve:
            await read_until(finn, "* eve joined")
            await trio.aclose_forcefully(eve)
            assert await read_until(finn, "* eve left") == ["* eve left"]
        async with joined(chat, "eve"):
            assert await read_until(finn, "* eve joined") == ["* eve joined"]


async def test_chat_gives_a_newcomer_the_latest_lines(chat: Program) -> None:
    async with joined(chat, "finn") as finn:
        async with joined(chat, "fred") as fred:
            for number in range(25):
                await fred.send(f"line {number}")
        await read_until(finn, "* fred left")
        async with connected(chat, "gina") as gina:
            lines = await read_until(gina, "* gina joined")
    expected = [f"fred: line {number}" for number in range(7, 25)]
    assert lines == [*expected, "* fred left", "* gina joined"]
    assert len(lines) == 20


async def test_chat_tells_who_is_here(chat: Program) -> None:
    async with joined(chat, "hugo"), joined(chat, "gus") as gus:
        await gus.send("/who")
        assert await gus.receive() == "* here: gus, hugo"


async def test_chat_msg_reaches_one_member_and_the_sender(chat: Program) -> None:
    async with joined(chat, "ina") as ina, joined(chat, "jan") as jan, joined(chat, "kim") as kim:
        await jan.send("/msg ina  a secret: of two words")
        await jan.send("for all")
        secret = "jan → ina: a secret: of two words"
        assert secret in await read_until(jan, "jan: for all")
        assert secret in await read_until(ina, "jan: for all")
        assert secret not in await read_until(kim, "jan: for all")


async def test_chat_says_why_a_command_does_nothing(chat: Program) -> None:
    how = "* /who tells who is here, /msg NAME TEXT is for one member only"
    async with joined(chat, "lea") as lea:
        for line, answer in [
            ("/msg nobody hello", "* nobody is not here"),
            ("/msg nobody", how),
            ("/dance", how),
        ]:
            await lea.send(line)
            assert await lea.receive() == answer


async def test_chat_keeps_a_message_on_its_own_line(chat: Program) -> None:
    async with joined(chat, "mia") as mia:
        await mia.send("fine\r\nada: forged\x1b[2K\u2028* ada left")
        await mia.send(b"bytes \xff too")
        await mia.send(" \n ")
        await mia.send("end")
        assert await read_until(mia, "mia: end") == [
            "mia: fine ada: forged [2K * ada left",
            "mia: bytes \ufffd too",
            "mia: end",
        ]


async def test_chat_msg_tells_the_sender_when_its_reader_does_not_read(chat: Program) -> None:
    """Invariant 3: who does not read delays nobody else, not even the one who writes to him."""
    deaf = trioweb.Limits(inbox_messages=1)
    async with joined(chat, "otto") as otto, connected(chat, "nora", deaf) as nora:
        await read_until(otto, "* nora joined")
        line = "/msg nora " + "x" * 3900
        delivered = 0
        while True:
            await otto.send(line)
            answer = await otto.receive()
            if answer == "* nora cannot be reached now":
                break
            delivered += 1
        assert delivered
        await otto.send("/who")
        assert await otto.receive() == "* here: nora, otto"
        # Reading again, she gets all that was said to be delivered.
        received = 0
        while received < delivered:
            received += str(await nora.receive()).startswith("otto → nora: x")


async def test_chat_serves_its_page_at_the_root_alone(chat: Program) -> None:
    status, page = await fetch(chat.url)
    assert status == 200
    assert page.startswith("<!doctype html>")
    assert (await fetch(f"{chat.url}elsewhere"))[0] == 404


async def test_chat_refuses_a_message_of_more_than_4000_bytes(chat: Program) -> None:
    async with joined(chat, "pia") as pia:
        await pia.send("x" * 4001)
        with pytest.raises(trioweb.ClosedByPeer) as caught:
            while True:
                await pia.receive()
        assert caught.value.code == trioweb.CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_chat_ends_softly_when_told_to(number: signal.Signals) -> None:
    with running("chat_server.py") as program:
        async with joined(program, "rosa") as rosa:
            program.process.send_signal(number)
            await rosa.wait_closed()
            assert rosa.close_code == trioweb.CloseCode.SERVICE_RESTART
        # What else must be so, `running` checks: exit code 0 and not a word.
        program.process.wait(PATIENCE)
