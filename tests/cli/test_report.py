"""What `trioweb connect` tells: as JSON for scripts, and all that is known of a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest

import trioweb
from tests.cli.support import Site, connect, raw_server, run, sending
from tests.processes import running
from tests.support import CLOSE, PING, TEXT, close_frame
from trioweb._cli._report import Json, Report, Words, describe, duration
from trioweb.testing import RawPeer

network = pytest.mark.network


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@network
async def test_connect_writes_all_that_happens_as_json(site: Site) -> None:
    await site.start(sending("grüße\n\x9b", b"\x00\xff"), subprotocols=["chat"])
    command = connect(site.url, "--json", "--subprotocol", "chat", "--linger", "60")
    code, output, errors = await run([*command, "--no-reconnect"])
    assert (code, errors) == (0, "")
    assert events(output) == [
        {"event": "opened", "session": 1, "subprotocol": "chat"},
        {"event": "message", "text": "grüße\n\x9b"},
        {"event": "message", "base64": "AP8="},
        {
            "event": "lost",
            "code": 1000,
            "reason": "",
            "error": "connection closed by the peer (1000)",
        },
    ]
    # So it is harmless in a terminal.
    assert output.isascii()


@network
async def test_connect_writes_how_it_failed_as_json() -> None:
    async def close(peer: RawPeer) -> None:
        while (frame := await peer.receive_frame()).opcode != TEXT:
            assert frame.opcode == PING
        await peer.send_frame(CLOSE, close_frame(1011, "oops").payload)
        await peer.receive_frame()

    async with raw_server(close) as url:
        options = ("--json", "--confirm", "--no-reconnect", "--linger", "60")
        code, output, errors = await run(connect(url, *options), b"a\n")
    assert (code, errors) == (1, "")
    opened, lost, failed = events(output)
    assert opened == {"event": "opened", "session": 1, "subprotocol": None}
    assert (lost["event"], lost["code"], lost["reason"]) == ("lost", 1011, "oops")
    assert (failed["event"], failed["unsent"]) == ("failed", 1)
    assert failed["error"].startswith(
        "gave up after 1 attempt: connection closed by the peer (1011"
    )


@network
async def test_connect_writes_a_line_that_cannot_be_sent_as_json(site: Site) -> None:
    await site.start(site.listen)
    code, output, errors = await run(connect(site.url, "--json"), b"\xff\n")
    assert (code, errors) == (2, "")
    [failed] = [event for event in events(output) if event["event"] == "failed"]
    assert failed["error"].startswith("line 1 of the input is not utf-8")


@network
async def test_connect_tells_what_a_server_says_when_it_refuses(site: Site) -> None:
    async def admit(request: trioweb.Request) -> None:
        raise trioweb.Reject(403, 'API key\n is "missing"')

    await site.start(site.listen, admit=admit)
    code, _, errors = await run(connect(site.url))
    assert code == 1
    assert errors.endswith('HTTP status 403: API key is "missing"\n')


@network
async def test_connect_names_its_own_option_when_a_message_is_too_large(site: Site) -> None:
    await site.start(sending("x" * 1001))
    command = connect(site.url, "--max-message-bytes", "1000", "--linger", "60")
    errors = (await run(command))[2]
    assert all(line.endswith("; see --max-message-bytes") for line in errors.splitlines()[1:])


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (trioweb.ConnectionLost(1009), "; see --max-message-bytes"),
        # That was the server's own limit.
        (trioweb.ClosedByPeer(1009), ""),
        (
            trioweb.ConnectFailed("x", untrusted=True),
            "; --ca FILE trusts its authority, --insecure any server",
        ),
        (trioweb.ConnectFailed("x"), ""),
    ],
    ids=repr,
)
def test_describe_names_the_option_that_might_help(error: Exception, hint: str) -> None:
    assert describe(error) == f"{error}{hint}"
    assert describe(trioweb.GaveUp(1, error)) == f"gave up after 1 attempt: {error}{hint}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (3569, "59 min"),
        (3600.4, "1 hour"),
        (5400, "1 hour 30 min"),
        (86_400, "24 hours"),
    ],
)
def test_duration_is_as_precise_as_people_want_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@network
async def test_connect_tells_how_long_a_server_makes_it_wait(site: Site) -> None:
    async def admit(request: trioweb.Request) -> None:
        raise trioweb.Reject(429, "slow down", [("Retry-After", "3600")])

    await site.start(site.listen, admit=admit)
    async with running(connect(site.url)) as program:
        line = await program.errors.next()
    assert line.startswith("waiting to connect again: ")
    assert line.endswith("HTTP status 429: slow down; next attempt in 1 hour")
    async with running(connect(site.url, "--json")) as program:
        [waiting] = events(await program.output.next())
    assert waiting["event"] == "waiting" and waiting["attempt"] == 1
    assert 3600 <= waiting["seconds"] <= 3601
    assert waiting["error"].endswith("HTTP status 429: slow down")


async def test_reports_tell_of_what_was_given_up_and_of_what_is_left(
    capfd: pytest.CaptureFixture[str],
) -> None:
    given_up = trioweb.Undelivered("\x1bbad", 20)
    reports: tuple[Report, ...] = Words(raw=False), Json()
    for report in reports:
        await report.undelivered(given_up)
        await report.undelivered(trioweb.Undelivered(b"\xff", 1))
        await report.undelivered(trioweb.Undelivered("x" * 1000, 20))
        await report.closing(1)
        await report.closing(2)
        await report.failed(trioweb.Unsent(2, ("a", "b")), 2)
    output, errors = capfd.readouterr()
    assert errors.splitlines() == [
        r"undelivered: sent 20 times and never confirmed: '\x1bbad'",
        r"undelivered: sent 1 times and never confirmed: b'\xff'",
        f"undelivered: sent 20 times and never confirmed: '{'x' * 199}…",
        "closing: 1 line to be sent; Ctrl-C drops them",
        "closing: 2 lines to be sent; Ctrl-C drops them",
        "failed: 2 accepted messages were not handed over",
    ]
    assert events(output) == [
        {"event": "undelivered", "sends": 20, "text": "\x1bbad"},
        {"event": "undelivered", "sends": 1, "base64": "/w=="},
        {"event": "undelivered", "sends": 20, "text": "x" * 1000},
        {"event": "closing", "unsent": 1},
        {"event": "closing", "unsent": 2},
        {
            "event": "failed",
            "unsent": 2,
            "error": "2 accepted messages were not handed over",
        },
    ]
