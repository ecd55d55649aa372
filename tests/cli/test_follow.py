"""`trioweb connect --topic`: a topic in a terminal or a pipe."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

import trioweb
from tests.cli.support import Site, connect, run
from tests.processes import PATIENCE, running
from trioweb import TopicRules
from trioweb._cli import main

network = pytest.mark.network

TOPICS = {"": TopicRules(publish=True), "news": TopicRules(), "secret": TopicRules(subscribe=False)}


class Desk:
    """A topic server in this process.

    Attributes:
        tokens: what members have said who they are with.
    """

    def __init__(self, site: Site, hub: trioweb.Hub, server: trioweb.TopicServer) -> None:
        self.site = site
        self.hub = hub
        self.server = server
        self.tokens: list[str] = []
        self._say_ended, self._hear_ended = trio.open_memory_channel[int](100)

    async def start(self) -> None:
        await self.site.start(self._handle, subprotocols=self.server.subprotocols, hub=self.hub)

    async def _handle(self, connection: trioweb.Connection) -> None:
        await self.server.handle(connection)
        await connection.wait_closed()
        assert connection.close_code is not None
        await self._say_ended.send(connection.close_code)

    async def ended(self) -> int:
        """The code with which a connection was closed."""
        with trio.fail_after(PATIENCE):
            return await self._hear_ended.receive()

    async def welcome(self, member: trioweb.Member, request: trioweb.ConnectRequest) -> None:
        self.tokens.append(request.token)


@pytest.fixture
async def desk(site: Site) -> AsyncGenerator[Desk]:
    found: list[Desk] = []

    async def welcome(member: trioweb.Member, request: trioweb.ConnectRequest) -> None:
        await found[0].welcome(member, request)

    async with (
        trioweb.open_hub() as hub,
        trioweb.open_topic_server(hub, topics=TOPICS, on_connect=welcome) as server,
    ):
        found.append(Desk(site, hub, server))
        await found[0].start()
        yield found[0]


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@network
async def test_lines_are_published_and_publications_shown_and_where_it_ended(desk: Desk) -> None:
    code, output, errors = await run(connect(desk.site.url, "--topic", "lobby"), b"a\nb\n")
    topic = desk.hub.topic("lobby")
    assert [each.message for each in topic.history()] == ["a", "b"]
    # It leaves at the end of its input, and what had not come by then is not shown.
    shown = output.splitlines()
    assert (code, shown) == (0, ["a", "b"][: len(shown)])
    assert errors == f"subscribed\nended: --since {topic.epoch}:{len(shown)} goes on there\n"


@network
async def test_since_goes_on_there_and_a_gap_is_told(desk: Desk) -> None:
    topic = desk.hub.topic("lobby")
    for data in "one", {"two": 2}, "three":
        desk.server.publish("lobby", data)
    since = f"{topic.epoch}:1"
    options = ["--topic", "lobby", "--json", "--since"]
    code, output, errors = await run(connect(desk.site.url, *options, since))
    assert (code, errors) == (0, "")
    assert events(output) == [
        {"event": "subscribed", "recovered": True},
        {"event": "message", "data": {"two": 2}, "position": f"{topic.epoch}:2"},
        {"event": "message", "text": "three", "position": f"{topic.epoch}:3"},
    ]
    code, output, _ = await run(connect(desk.site.url, *options, "another:1"))
    assert code == 0
    assert events(output) == [
        {"event": "gap", "missing": None},
        {"event": "subscribed", "recovered": False},
    ]


@network
async def test_token_of_the_environment_says_who_it_is(desk: Desk) -> None:
    await run(connect(desk.site.url, "--topic", "lobby"), TRIOWEB_TOKEN="ann")
    assert desk.tokens == ["ann"]


@network
@pytest.mark.parametrize("topic", ["secret:a", "x" * 256])
async def test_refusal_ends_it_with_1(topic: str, desk: Desk) -> None:
    code, output, errors = await run(connect(desk.site.url, "--topic", topic))
    assert (code, output) == (1, "")
    assert errors.startswith("failed: refused: ")


@network
async def test_line_that_may_not_be_published_ends_it_with_1(desk: Desk) -> None:
    code, output, errors = await run(connect(desk.site.url, "--topic", "news:a"), b"hello\n")
    assert (code, output) == (1, "")
    assert "failed: refused: permission denied (103)" in errors


@network
@pytest.mark.parametrize(("topic", "lines"), [("secret:a", b""), ("news:a", b"hello\n")])
async def test_who_was_refused_leaves_as_anybody_does(topic: str, lines: bytes, desk: Desk) -> None:
    """Close 1011 would say that something has gone wrong at the client."""
    await run(connect(desk.site.url, "--topic", topic), lines)
    assert await desk.ended() == trioweb.CloseCode.NORMAL


@network
async def test_it_comes_back_and_misses_nothing(desk: Desk) -> None:
    command = connect(desk.site.url, "--topic", "lobby", "--json")
    with trio.fail_after(PATIENCE):
        async with running(command) as program:
            assert json.loads(await program.output.next())["event"] == "subscribed"
            desk.server.publish("lobby", "before")
            assert json.loads(await program.output.next())["text"] == "before"
            desk.site.stop()
            assert json.loads(await program.output.next())["event"] == "lost"
            desk.server.publish("lobby", "meanwhile")
            await desk.start()
            while (told := json.loads(await program.output.next()))["event"] == "lost":
                pass
            assert told == {"event": "subscribed", "recovered": True}
            assert json.loads(await program.output.next())["text"] == "meanwhile"
            program.process.send_signal(signal.SIGINT)
            code, _, errors = await program.ended()
    assert (code, errors) == (0, "")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--since", "epoch:1"], "--since needs --topic"),
        (["--topic", "a", "--since", "1"], "'1' is not EPOCH:OFFSET"),
        (["--topic", "a", "--since", "e:-1"], "'e:-1' is not EPOCH:OFFSET"),
        (["--topic", "a", "--binary"], "--binary is not for that"),
        (["--topic", "a", "--confirm"], "--confirm is not for that"),
        (["--topic", ""], "a topic has a name"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connect", "ws://127.0.0.1:1/", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.match("trioweb.*: ", line)
    assert complaint in line
