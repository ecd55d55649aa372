"""`trioweb connect` as people and scripts use it: a process with pipes, or in a terminal.

What it refuses to begin with is run in this process.
"""

from __future__ import annotations

import json
import math
import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.cli.support import Site, connect, in_terminal, raw_server, run, sending
from tests.client.support import open_raw
from tests.processes import PATIENCE, python, running
from tests.support import CLOSE, PING, TEXT, close_frame
from trioweb import Opened
from trioweb._cli import main
from trioweb._cli._connect import _talk
from trioweb._cli._input import Input
from trioweb._cli._report import Words
from trioweb.testing import RawPeer

network = pytest.mark.network

WITHOUT_RICH = """
import sys
sys.modules["rich"] = sys.modules["rich.console"] = sys.modules["rich.text"] = None
from trioweb._cli import main
sys.exit(main())
"""


# Sending from a pipe, and showing.


@network
@pytest.mark.parametrize("data", [b"a\n\nb\n", b"a\n\nb"], ids=str)
async def test_connect_sends_each_line_of_a_pipe_and_leaves(site: Site, data: bytes) -> None:
    await site.start(site.listen)
    code, _, errors = await run(connect(site.url), data)
    assert (code, errors) == (0, "connected\n")
    assert await site.heard(3) == ["a", "", "b"]


HINT = (
    "hint: /connection/websocket speaks the Centrifuge protocol: --topic NAME subscribes to a topic"
)


@network
@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("connection/websocket", [], f"{HINT}\nconnected\n"),
        ("below/connection/websocket?x=y", [], f"{HINT}\nconnected\n"),
        ("connection", [], "connected\n"),
        ("connection/websocket", ["--json"], ""),
        (
            "connection/websocket",
            ["--subprotocol", "centrifuge-json"],
            "connected: subprotocol centrifuge-json\n",
        ),
    ],
)
async def test_connect_says_how_to_subscribe_where_a_server_waits_for_that(
    path: str, options: list[str], told: str, site: Site
) -> None:
    await site.start(site.listen, subprotocols=["centrifuge-json"])
    code, _, errors = await run(connect(site.url + path, *options))
    assert (code, errors) == (0, told)


@network
async def test_connect_sends_more_than_the_outbox_holds(site: Site) -> None:
    await site.start(site.listen)
    lines = [str(number) for number in range(3000)]
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def command() -> None:
            code, _, errors = await run(connect(site.url), "\n".join(lines).encode())
            assert (code, errors) == (0, "connected\n")

        assert await site.heard(3000) == lines


@network
async def test_connect_shows_answers_while_it_lingers(site: Site) -> None:
    async def echo_two(connection: trioweb.Connection) -> None:
        for _ in range(2):
            await connection.send(await connection.receive())

    await site.start(echo_two)
    # It would linger for longer than the test may take, but the server closes.
    command = connect(site.url, "--linger", "60", "--no-reconnect")
    assert await run(command, b"gr\xc3\xbc\xc3\x9fe\nb\n") == (
        0,
        "grüße\nb\n",
        "connected\nlost: connection closed by the peer (1000)\n",
    )


@network
async def test_connect_stays_no_longer_than_it_lingers(site: Site) -> None:
    async def wait(connection: trioweb.Connection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    await site.start(wait)
    assert await run(connect(site.url, "--linger", "0.3")) == (0, "hello\n", "connected\n")


class Slow(Words):
    """A reader who takes *seconds* for each line."""

    def __init__(self, seconds: float) -> None:
        super().__init__(raw=False)
        self.seconds = seconds
        self.shown: list[object] = []

    async def message(self, message: object) -> None:
        await trio.sleep(self.seconds)
        self.shown.append(message)

    async def opened(self, event: Opened) -> None:
        await self.message(event)


class Nothing(Input):
    """An input at its end."""

    def __init__(self) -> None:
        super().__init__(-1, None, 1)

    async def peek(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("seconds", "shown", "lasts"),
    [
        (4, [Opened(1, None), "a", "b", "c"], 16),
        (math.inf, [], 5),
    ],
    ids=["slow reader", "no reader"],
)
async def test_connect_shows_at_its_end_what_had_arrived(
    autojump_clock: MockClock, seconds: float, shown: list[object], lasts: float
) -> None:
    """And waits for whoever reads it, but not for a reader who does not."""
    report = Slow(seconds)
    async with open_raw() as (client, peer):
        for text in "abc":
            await peer.send_frame(TEXT, text.encode())
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        assert await _talk(client, report, Nothing(), linger=0) == 0
        assert report.shown == shown
        assert trio.current_time() - begun == pytest.approx(lasts)


@network
async def test_connect_shows_binary_as_hex_and_text_as_it_is(site: Site) -> None:
    await site.start(sending(b"\x00\xff", "\x1b[1mtext\nof two lines", b""))
    code, output, _ = await run(connect(site.url, "--no-reconnect", "--linger", "60"))
    assert (code, output) == (0, "2 bytes: 00 ff\n\x1b[1mtext\nof two lines\n0 bytes: \n")


@network
async def test_connect_shows_what_its_output_cannot_say_in_ascii(site: Site) -> None:
    await site.start(sending("grüße"))
    command = connect(site.url, "--no-reconnect", "--linger", "60")
    code, output, _ = await run(command, PYTHONIOENCODING="ascii")
    assert (code, output) == (0, "gr\\xfc\\xdfe\n")


# Options of the handshake.


@network
async def test_connect_sends_headers_and_offers_subprotocols(site: Site) -> None:
    await site.start(site.listen, subprotocols=["chat.v2"])
    options = ["--header", "X-One: 1", "--header", "Authorization:Bearer a:b"]
    options += ["--subprotocol", "chat.v1", "--subprotocol", "chat.v2"]
    code, _, errors = await run(connect(site.url, *options), b"a\n")
    assert (code, errors) == (0, "connected: subprotocol chat.v2\n")
    [request] = site.requests
    assert request.headers["x-one"] == "1"
    assert request.headers["authorization"] == "Bearer a:b"
    assert request.subprotocols == ("chat.v1", "chat.v2")


@network
async def test_connect_refuses_larger_messages_than_it_is_told(site: Site) -> None:
    await site.start(sending("x" * 1001))
    command = connect(site.url, "--max-message-bytes", "1000", "--linger", "60")
    code, output, errors = await run(command)
    assert (code, output) == (1, "")
    assert "(1009, " in errors


# Confirmation, and what becomes of the exit code when the connection ends.


async def texts(peer: RawPeer, count: int) -> list[str]:
    """The next text messages of a peer; its pings are not answered."""
    messages: list[str] = []
    while len(messages) < count:
        frame = await peer.receive_frame()
        assert frame.opcode in (TEXT, PING)
        if frame.opcode == TEXT:
            messages.append(frame.payload.decode())
    return messages


@network
async def test_connect_shows_all_that_arrived_though_sending_fails_meanwhile() -> None:
    """Invariant 11, as far as the screen."""
    lines = ["x" * 1000 + str(number) for number in range(200)]
    closed = trio.Event()

    async def flood(peer: RawPeer) -> None:
        for line in lines:
            await peer.send_frame(TEXT, line.encode())
        await peer.send_frame(CLOSE, close_frame(1000).payload)
        assert (await peer.receive_frame()).opcode == CLOSE
        closed.set()

    async with raw_server(flood) as url:
        async with running(connect(url, "--no-reconnect", "--linger", "60")) as program:
            await closed.wait()
            # More has come than the pipe takes, so it is still busy with showing that.
            await program.type("too late")
            await program.end_input()
            # Now whatever cuts it short has had its time.
            await trio.sleep(0.3)
            output = [await program.output.next() for _ in lines]
            code, rest, errors = await program.ended()
    assert (output, code, rest) == (lines, 1, "")
    assert errors.endswith("connection closed by the peer (1000); 1 line not sent\n")


@network
async def test_connect_with_confirm_sends_again_what_was_not_confirmed() -> None:
    first: list[str] = []
    second: list[str] = []

    async def die(peer: RawPeer) -> None:
        first.extend(await texts(peer, 1))

    async def confirm(peer: RawPeer) -> None:
        while (frame := await peer.receive_frame()).opcode != CLOSE:
            if frame.opcode == PING:
                await peer.send_frame(0xA, frame.payload)
            else:
                second.append(frame.payload.decode())
        await peer.send_frame(CLOSE, close_frame(1000).payload)

    async with raw_server(die, confirm) as url:
        code, _, errors = await run(connect(url, "--confirm"), b"a\nb\n")
    assert (first, second) == (["a"], ["a", "b"])
    assert code == 0
    lost, again = errors.splitlines()[1:]
    assert lost.startswith("lost: connection lost (1006")
    assert again == "connected again"


@network
@pytest.mark.parametrize(
    ("options", "last"),
    [
        (["--no-reconnect"], ""),
        (["--no-reconnect", "--confirm"], "; 1 line not sent"),
    ],
    ids=str,
)
async def test_connect_with_no_reconnect_ends_with_0_only_if_nothing_is_left(
    options: list[str], last: str
) -> None:
    async def close(peer: RawPeer) -> None:
        await texts(peer, 1)
        await peer.send_frame(CLOSE, close_frame(1000).payload)
        await peer.receive_frame()

    async with raw_server(close) as url:
        code, _, errors = await run(connect(url, *options, "--linger", "60"), b"a\n")
    assert code == (1 if last else 0)
    assert errors.splitlines()[-1].endswith(f"connection closed by the peer (1000){last}")


@network
@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        (1000, 0, "connection closed by the peer (1000)"),
        (1001, 1, "connection closed by the peer (1001, 'bye\\x1b')"),
        (4500, 1, "connection closed by the peer (4500, 'bye\\x1b')"),
        (None, 1, "connection lost (1006, "),
    ],
)
async def test_connect_with_no_reconnect_ends_with_the_connection(
    close: int | None, code: int, reason: str
) -> None:
    async def end(peer: RawPeer) -> None:
        if close is not None:
            text = "" if close == 1000 else "bye\x1b"
            await peer.send_frame(CLOSE, close_frame(close, text).payload)
            await peer.receive_frame()

    async with raw_server(end) as url:
        result, _, errors = await run(connect(url, "--no-reconnect", "--linger", "60"))
    assert result == code
    assert errors.startswith(f"connected\nlost: {reason}")
    assert errors.count("\n") == (3 if code else 2)
    assert "\x1b" not in errors


@network
@pytest.mark.parametrize("attempts", [1, 2])
async def test_connect_gives_up_after_so_many_attempts(attempts: int) -> None:
    with trio.socket.socket() as nobody:
        await nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/"
        command = connect(url, "--max-attempts", str(attempts))
        code, output, errors = await run(command, b"a\nb\n")
    *waiting, last = errors.splitlines()
    assert (code, output, len(waiting)) == (1, "", attempts - 1)
    assert all(line.startswith("waiting to connect again: could not connect") for line in waiting)
    s = "" if attempts == 1 else "s"
    assert last.startswith(f"failed: gave up after {attempts} attempt{s}: could not connect to ")


@network
async def test_connect_gives_up_at_once_where_another_attempt_makes_no_sense(site: Site) -> None:
    async def admit(request: trioweb.Request) -> None:
        raise trioweb.Reject(401)

    await site.start(site.listen, admit=admit)
    code, _, errors = await run(connect(site.url))
    assert code == 1
    assert errors.startswith("failed: gave up after 1 attempt: ") and "401" in errors
    assert errors.count("\n") == 1


# Living through a restart.


@network
async def test_connect_delivers_what_was_typed_while_the_server_was_away(site: Site) -> None:
    await site.start(site.listen)
    async with running(connect(site.url)) as program:
        await program.type("before")
        assert await program.output.next() == "before"
        assert await program.errors.next() == "connected"
        site.stop()
        assert (await program.errors.next()).startswith("lost: connection closed by the peer (1001")
        waiting = await program.errors.next()
        assert waiting.startswith("waiting to connect again: could not connect to 127.0.0.1")
        await program.type("first", "second")
        await site.start(site.listen)
        assert await program.output.until("second") == ["first", "second"]
        assert "connected again" in await program.errors.until("connected again")
        await program.type("after")
        assert await program.output.next() == "after"
        await program.end_input()
        assert await program.ended() == (0, "", "")
    assert await site.heard(4) == ["before", "first", "second", "after"]


# Ending it.


@network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_connect_ends_normally_when_told_to(site: Site, number: signal.Signals) -> None:
    closed = trio.Event()

    async def wait(connection: trioweb.Connection) -> None:
        await connection.wait_closed()
        assert connection.close_code == trioweb.CloseCode.NORMAL
        closed.set()

    await site.start(wait)
    async with running(connect(site.url)) as program:
        assert await program.errors.next() == "connected"
        program.process.send_signal(number)
        assert await program.ended() == (0, "", "")
    with trio.fail_after(PATIENCE):
        await closed.wait()


@network
async def test_connect_ends_at_a_second_ctrl_c_though_lines_wait_to_be_sent() -> None:
    with trio.socket.socket() as nobody:
        await nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/"
        async with running(connect(url)) as program:
            await program.type("a", "b")
            # By then they have been read: two waits may be as short as you like.
            for _ in range(3):
                assert (await program.errors.next()).startswith("waiting to connect again: ")
            program.process.send_signal(signal.SIGINT)
            assert await program.errors.until("closing: 2 lines to be sent; Ctrl-C drops them")
            program.process.send_signal(signal.SIGINT)
            assert (await program.ended())[0] == 130


@network
@pytest.mark.slow
async def test_connect_counts_the_lines_that_were_not_sent_when_it_was_told_to_end() -> None:
    with trio.socket.socket() as nobody:
        await nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/"
        async with running(connect(url, "--json")) as program:
            await program.type("a", "b")
            for _ in range(3):
                assert json.loads(await program.output.next())["event"] == "waiting"
            program.process.send_signal(signal.SIGINT)
            code, output, errors = await program.ended()
    assert (code, errors) == (1, "")
    failed = json.loads(output.splitlines()[-1])
    assert (failed["event"], failed["unsent"]) == ("failed", 2)


@network
async def test_connect_ends_quietly_when_whoever_reads_its_output_has_enough(site: Site) -> None:
    async def flood(connection: trioweb.Connection) -> None:
        while True:
            await connection.send("x" * 1000)

    await site.start(flood)
    async with running(connect(site.url)) as program:
        assert await program.output.next() == "x" * 1000
        await program.output.stream.aclose()
        assert await program.wait() == 0
        assert await program.errors.rest() == "connected\n"


@network
async def test_connect_goes_on_when_whoever_reads_its_errors_has_gone(site: Site) -> None:
    await site.start(site.listen)
    async with running(connect(site.url)) as program:
        await program.errors.stream.aclose()
        await program.type("a")
        assert await program.output.next() == "a"
        await program.end_input()
        assert await program.wait() == 0


@network
@pytest.mark.parametrize("line", [b"a\n", b"\xff\n"], ids=["a message", "a complaint"])
async def test_connect_with_json_ends_quietly_when_nobody_reads_that(
    site: Site, line: bytes
) -> None:
    await site.start(site.listen)
    async with running(connect(site.url, "--json")) as program:
        assert await program.output.next()
        await program.output.stream.aclose()
        await program.stdin.send_all(line)
        assert await program.wait() == 0
        assert await program.errors.rest() == ""


@network
async def test_connect_heeds_ctrl_c_while_nobody_reads_its_output(site: Site) -> None:
    """Invariant 6: not even one's own side is waited for without an end."""
    stuck = trio.Event()

    async def flood(connection: trioweb.Connection) -> None:
        with trio.move_on_after(0.3) as scope:
            while True:
                await connection.send("x" * 1000)
                scope.deadline = trio.current_time() + 0.3
        stuck.set()
        await connection.wait_closed()

    await site.start(flood)
    async with running(connect(site.url)) as program:
        with trio.fail_after(PATIENCE):
            await stuck.wait()
        program.process.send_signal(signal.SIGINT)
        assert await program.wait() == 0


@network
async def test_connect_fails_in_one_line_when_its_output_cannot_be_written(site: Site) -> None:
    await site.start(sending("a"))
    command = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *connect(site.url, "--linger", "60")]
    code, _, errors = await run(command)
    assert (code, errors) == (1, "connected\nfailed: [Errno 28] No space left on device\n")


@network
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_connect_works_when_a_standard_stream_is_closed(site: Site, closed: str) -> None:
    """What is not there is not taken for the next socket, which has its number."""
    await site.start(site.listen)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *connect(site.url, "--linger", "0.2")]
    code, output, errors = await run(command, b"a\n")
    assert code == 0
    assert output == ("" if "<" in closed or closed.startswith(">") else "a\n")
    assert errors == ("" if "2>" in closed else "connected\n")
    if "<" not in closed:
        assert await site.heard(1) == ["a"]


# In a terminal.


@network
@pytest.mark.parametrize(
    ("how", "environment", "shown"),
    [
        (["-m", "trioweb"], {}, "\x1b[1;32mconnected\x1b[0m"),
        (["-c", WITHOUT_RICH], {}, "\x1b[1;32mconnected\x1b[m"),
        (["-m", "trioweb"], {"NO_COLOR": "1"}, "connected"),
        (["-c", WITHOUT_RICH], {"NO_COLOR": "1"}, "connected"),
        (["-c", WITHOUT_RICH], {"TERM": "dumb"}, "connected"),
    ],
    ids=["rich", "without rich", "rich, NO_COLOR", "NO_COLOR", "dumb"],
)
async def test_connect_tells_in_colour_in_a_terminal_that_likes_it(
    site: Site, how: list[str], environment: dict[str, str], shown: str
) -> None:
    if "-m" in how:
        pytest.importorskip("rich")
    await site.start(site.listen)
    command = python(*how, "connect", site.url)
    async with in_terminal(command, **environment) as (terminal, process):
        await terminal.see("connected")
        await terminal.type("hello\n")
        # The terminal's own echo, and the server's.
        await terminal.see("hello\r\nhello\r\n")
        await terminal.type("\x04")
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    assert shown in terminal.screen
    assert ("\x1b" in terminal.screen) is ("\x1b" in shown)


@network
async def test_connect_escapes_what_could_move_the_cursor_of_a_terminal(site: Site) -> None:
    async def mischief(connection: trioweb.Connection) -> None:
        await connection.send("\x1b[2Jfine\nconnected again\r\x9b")
        await connection.aclose(4500, "\x1b[2J[red]bye[/red]\n")

    await site.start(mischief)
    for how in ["-m", "trioweb"], ["-c", WITHOUT_RICH]:
        async with in_terminal(python(*how, "connect", site.url)) as (terminal, process):
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 1
            await terminal.see("attempt: ")
            await terminal.see("bye[/red]")
        assert r"\x1b[2Jfine\nconnected again\r\x9b" in terminal.screen
        assert "\x1b[2J" not in terminal.screen


@network
@pytest.mark.parametrize(
    ("option", "shown"), [("--binary", "2 bytes: 1b 9b"), ("--json", '"base64": "G5s="')]
)
async def test_connect_writes_no_bytes_to_a_terminal(site: Site, option: str, shown: str) -> None:
    await site.start(sending(b"\x1b\x9b", "\x1b\x9b"))
    async with in_terminal(connect(site.url, option, "--no-reconnect"), NO_COLOR="1") as (
        terminal,
        process,
    ):
        await terminal.see(shown)
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
        assert "\x1b" not in terminal.screen


@network
async def test_connect_ends_normally_at_ctrl_c_in_a_terminal(site: Site) -> None:
    await site.start(site.listen)
    async with in_terminal(connect(site.url)) as (terminal, process):
        await terminal.see("connected")
        await terminal.type("half a line\x03")
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
        # What was not entered was not sent.
        await terminal.type("")
    assert "Traceback" not in terminal.screen


# What the user can mend: one line, exit code 2.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "URL"),
        (["server"], "'server'"),
        (["http://server/"], "must start with ws:// or wss://"),
        (["ws:///path"], "ws:///path"),
        (["ws://server:port/"], "ws://server:port/"),
        (["ws://server:65536/"], "65536"),
        (["ws://server/#part"], "#part"),
        (["ws://server/", "more"], "more"),
        (["ws://server/", "--header", "nothing"], "--header: not NAME: VALUE"),
        (["ws://server/", "--header", "X: a\nY: b"], "header 'X' must be printable"),
        (["ws://server/", "--header", "X Y: a"], "'X Y'"),
        (["ws://server/", "--header", "Sec-WebSocket-Key: a"], "'Sec-WebSocket-Key'"),
        (["ws://server/", "--header", "Host: a"], "a Host is given with --host-header"),
        (["ws://server/", "--proxy", "ftp://proxy"], "trioweb: proxy 'ftp://proxy' must be"),
        (["ws://server/", "--proxy", "http://p", "--host-header", "a"], "--proxy both say where"),
        (["ws://server/", "--host-header", "a/b"], "--host-header 'a/b' is not HOST or HOST:PORT"),
        (["ws://server/", "--host-header", "a:b"], "--host-header 'a:b' is not HOST or HOST:PORT"),
        (["ws://server/", "--host-header", "a@b"], "--host-header 'a@b' is not HOST or HOST:PORT"),
        (["ws://server/", "--subprotocol", "a b"], "'a b'"),
        (["ws://server/", "--max-attempts", "0"], "'0' is not a whole number from 1 on"),
        (["ws://server/", "--linger", "-1"], "'-1' is not a number of seconds"),
        (["ws://server/", "--max-message-bytes", "1k"], "'1k' is not a whole number"),
        (["ws://server/", "--ca", __file__], "--ca needs a URL that starts with wss://"),
        (["ws://server/", "--insecure"], "--insecure needs a URL that starts with wss://"),
        (
            ["wss://server/", "--insecure", "--ca", "a"],
            "--ca: not allowed with argument --insecure",
        ),
        (["wss://server/", "--ca", "missing.pem"], "missing.pem: cannot be used: No such file"),
        (["wss://server/", "--ca", __file__], f"--ca {__file__}: cannot be used: "),
        (["wss://server/", "--ca", "/"], "--ca /: cannot be used: "),
        (["wss://server/", "--key", "a"], "--key needs --cert"),
        (["wss://server/", "--cert", "missing.pem"], "cannot read missing.pem: No such file"),
        (["wss://server/", "--cert", __file__], "not a PEM certificate with its key"),
    ],
    ids=str,
)
def test_connect_tells_a_bad_argument_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connect", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert line.startswith("trioweb") and complaint in line
