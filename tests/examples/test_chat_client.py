"""The chat pair, both run as processes; the client is typed to as by a person."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio

import trioweb
from tests.processes import PATIENCE, Program, python, running

pytestmark = pytest.mark.network

AWAY = "; what you enter now is sent when it is back"


@asynccontextmanager
async def chat_server(port: int = 0) -> AsyncGenerator[tuple[Program, int]]:
    """The server and its port; it ends with the block, killed if it has not ended."""
    async with running(python("examples/chat_server.py", "--port", str(port))) as server:
        url = await server.output.next()
        yield server, int(url.removesuffix("/").rpartition(":")[2])


def chat_client(name: str, port: int) -> AbstractAsyncContextManager[Program]:
    command = python("examples/chat_client.py", name, "--url", f"ws://127.0.0.1:{port}/")
    return running(command)


async def test_chat_client_joins_with_history_and_talks() -> None:
    async with chat_server() as (_, port), chat_client("Ada", port) as ada:
        assert await ada.output.until("* Ada joined") == [
            f"* connecting to ws://127.0.0.1:{port}/",
            "* connected",
            "* Ada joined",
        ]
        await ada.type("Hello", "", "grüße\x1b[2J")
        assert await ada.output.until("Ada: grüße [2J") == ["Ada: Hello", "Ada: grüße [2J"]
        async with chat_client("Bob", port) as bob:
            history = await bob.output.until("* Bob joined")
            assert history[2:] == ["* Ada joined", "Ada: Hello", "Ada: grüße [2J", "* Bob joined"]
            await bob.type("/msg Ada a secret", "/who", "good bye")
            await bob.end_input()
            # What was typed has arrived, though he left at once.
            assert (await bob.ended())[::2] == (0, "")
        expected = ["* Bob joined", "Bob → Ada: a secret", "Bob: good bye", "* Bob left"]
        assert await ada.output.until("* Bob left") == expected
        await ada.end_input()
        assert await ada.ended() == (0, "", "")


async def test_chat_client_delivers_what_was_typed_while_the_server_was_killed() -> None:
    async with chat_server() as (server, port), chat_client("Ada", port) as ada:
        async with chat_client("Bob", port) as bob:
            for member in ada, bob:
                await member.output.until("* Bob joined")
            await ada.type("before")
            for member in ada, bob:
                await member.output.until("Ada: before")
            server.process.send_signal(signal.SIGKILL)
            for member in ada, bob:
                lost = await member.output.next()
                assert lost.startswith("* connection lost (1006") and lost.endswith(AWAY)
            await ada.type("first", "second")
            await bob.type("third")
            again = "* connected again; the latest lines once more:"
            async with chat_server(port):
                for member, lines in (ada, ["Ada: first", "Ada: second"]), (bob, ["Bob: third"]):
                    heard: list[str] = []
                    # All lines of both, in an order that is the server's; and perhaps the one
                    # that the old server had not confirmed when it was killed.
                    while not {"Ada: first", "Ada: second", "Bob: third"} <= set(heard):
                        heard.append(await member.output.next())
                    assert heard[0] == again
                    assert [line for line in heard if line in lines] == lines
                for member in ada, bob:
                    await member.end_input()
                    code, _, errors = await member.ended()
                    assert (code, errors) == (0, "")


async def test_chat_client_does_not_enter_a_taken_name() -> None:
    async with chat_server() as (_, port), chat_client("Ada", port) as ada:
        await ada.output.until("* Ada joined")
        for name in "Ada", "two words":
            async with chat_client(name, port) as second:
                await second.type("this is not a name")
                code, _, errors = await second.ended()
            assert code == 1
            assert errors.startswith("chat_client: that name is taken")
            assert errors.count("\n") == 1


async def test_chat_client_waits_when_the_server_takes_its_name_for_there_still(
    nursery: trio.Nursery,
) -> None:
    heard: list[str | bytes] = []
    turns = iter(range(3))
    at_end = trio.Event()

    async def handle(connection: trioweb.Connection) -> None:
        assert connection.request.query["name"] == "Ada"
        match next(turns):
            case 0:
                await connection.send("* Ada joined")
                await connection.aclose(1012)
            case 1:
                await connection.send("* Your name? One word, and not the name of a member.")
                async for message in connection:
                    heard.append(message)
            case _:
                await connection.send("* Ada joined")
                heard.append(await connection.receive())
                at_end.set()
                await connection.wait_closed()

    serve = partial(trioweb.serve, handle, 0, host="127.0.0.1")
    server: trioweb.Server = await nursery.start(serve)
    async with chat_client("Ada", server.port) as ada:
        await ada.output.until(f"* connection closed by the peer (1012){AWAY}")
        await ada.type("not a name")
        with trio.fail_after(PATIENCE):
            await at_end.wait()
        await ada.end_input()
        code, output, errors = await ada.ended()
    assert (code, errors) == (0, "")
    assert output == "* connected again; the latest lines once more:\n* Ada joined\n"
    assert heard == ["not a name"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_chat_client_ends_quietly_when_told_to(number: signal.Signals) -> None:
    async with chat_server() as (_, port), chat_client("Ada", port) as ada:
        await ada.output.until("* Ada joined")
        ada.process.send_signal(number)
        assert await ada.ended() == (0, "", "")


async def test_chat_client_ends_at_a_second_ctrl_c_though_lines_wait() -> None:
    async with chat_server() as (server, port), chat_client("Ada", port) as ada:
        await ada.output.until("* Ada joined")
        await ada.type("before")
        await ada.output.until("Ada: before")
        # It is there, and does not answer.
        server.process.send_signal(signal.SIGSTOP)
        await ada.type("never confirmed")
        await ada.end_input()
        with trio.move_on_after(0.3):  # it does not leave with that
            await ada.process.wait()
        assert ada.process.returncode is None
        ada.process.send_signal(signal.SIGINT)
        with trio.move_on_after(0.3):  # nor at once
            await ada.process.wait()
        assert ada.process.returncode is None
        ada.process.send_signal(signal.SIGINT)
        assert await ada.ended() == (130, "", "")


async def test_chat_client_tells_in_one_line_why_it_cannot_begin() -> None:
    for url, complaint in [("http://127.0.0.1/", "ws://"), ("ws:///", "host")]:
        async with running(python("examples/chat_client.py", "Ada", "--url", url)) as ada:
            code, _, errors = await ada.ended()
        assert code == 1
        assert errors.startswith("chat_client: ") and complaint in errors
        assert errors.count("\n") == 1
