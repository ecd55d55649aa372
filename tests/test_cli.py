"""The command line: what it takes, what it says, and how it ends.

What ends before it serves is run here, in this process; the rest as a person runs it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from tests.server.support import Peer, upgrade_head
from tests.support import BINARY, TEXT, Frame, close_frame
from trioweb import Retain, TopicRules
from trioweb._cli import _serve, _terminal, main
from trioweb._cli._logging import BackgroundHandler
from trioweb._cli._topics_file import read_topics
from trioweb._protocol._speedups import LANGUAGE

pytestmark = pytest.mark.usefixtures("root_logger")


# What the user can mend: one line, exit code 2.


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that `trioweb ARGUMENTS` says."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert line.startswith("trioweb")
    return line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["sing"], "'sing'"),
        (["serve", "--port", "http"], "'http' is not a port"),
        (["serve", "--port", "65536"], "'65536' is not a port"),
        (["serve", "--port", "-1"], "'-1' is not a port"),
        (["serve", "--history", "-1"], "'-1' is not a whole number"),
        (["serve", "--history", "some"], "'some' is not a whole number"),
        (["serve", "--max-topics", "0"], "'0' is not a whole number from 1 on"),
        (["serve", "--max-message-bytes", "1.5"], "'1.5' is not a whole number"),
        (["serve", "--max-messages-per-second", "0"], "'0' is not a whole number from 1 on"),
        (["serve", "--max-connections", "0"], "--max-connections"),
        (["serve", "--grace", "nan"], "'nan' is not a number of seconds"),
        (["serve", "--spread", "-1"], "'-1' is not a number of seconds"),
        (["serve", "--spread", "8.5"], "--spread 8.5: must not be more than --grace 8"),
        (["serve", "--app-heartbeat", "ping"], "'ping' is not MESSAGE=REPLY"),
        (["serve", "--app-heartbeat", "=pong"], "'=pong' is not MESSAGE=REPLY"),
        (["serve", "--app-heartbeat", "ping=\udcff"], "UTF-8"),
        (["serve", "--origin", "Example.com"], "'Example.com' can match no Origin; 'https://exam"),
        (["serve", "--log-level", "loud"], "'loud'"),
        (["serve", "--colour"], "--colour"),
        (["serve", "--tls-key", "key.pem"], "needs --tls-cert"),
        (["serve", "--tls-cert", "missing.pem"], "missing.pem: No such file"),
        (["serve", "--host", "nobody..invalid"], "nobody..invalid:8000"),
        (["serve", "--unix", "/nowhere/at/all"], "cannot listen on /nowhere/at/all: No such file"),
        (["serve", "--unix", "x" * 200], "path too long"),
        (["serve", "--unix", "s", "--unix-mode", "u=rw"], "'u=rw' is not a mode"),
        (["serve", "--unix-mode", "0600"], "needs --unix"),
        (["serve", "--unix", "s", "--port", "1"], "--host or --port and --unix: only one"),
        (["serve", "--metrics", "9100"], "'9100' is not HOST:PORT"),
        (["serve", "--metrics", "[::1]:x"], "'[::1]:x' is not HOST:PORT"),
        (["serve", "--metrics", "192.0.2.1:7"], "192.0.2.1:7: "),
        (["serve", "--metrics", "nobody..invalid:7"], "--metrics"),
        (["serve", "--unix", "s", "--fd", "3"], "--unix and --fd: only one"),
        (["serve", "--host", "::1", "--fd", "3"], "--host or --port and --fd: only one"),
        (["serve", "--fd", "999"], "descriptor 999: Bad file descriptor"),
        (["serve", "--fd", str(2**40)], "cannot listen"),
        (["serve", "--fd", "three"], "'three' is not a whole number"),
        (["connect", "ws+unix:///s", "--host-header", "a"], "lead to no Unix socket"),
        (["connect", "ws+unix:///s", "--proxy", "http://a:1"], "lead to no Unix socket"),
        (["connect", "ws+unix:s"], "must be ws+unix:///path:/resource"),
        (["serve", "--host", "192.0.2.1", "--port", "7"], "192.0.2.1:7"),
        (["serve", "--host", "192.0.2.1", "--host", "[2001:db8::1]"], "[2001:db8::1]:8000"),
    ],
    ids=str,
)
def test_bad_option_is_told_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in fails(capsys, *arguments)


def test_port_in_use_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails(capsys, "serve", "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line
    assert "--port" in line


@pytest.fixture(scope="module")
def certificate() -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost", "127.0.0.1")


def test_key_with_a_password_is_told_in_one_line(
    certificate: trustme.LeafCert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = str(tmp_path / "key")
    Path(key).write_bytes(
        load_pem_private_key(certificate.private_key_pem.bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"SECRET")
        )
    )
    chain = str(tmp_path / "chain")
    certificate.cert_chain_pems[0].write_to_path(chain)
    line = fails(capsys, "serve", "--tls-cert", chain, "--tls-key", key)
    assert f"--tls-key {key}: is protected by a password" in line


def test_bad_certificate_is_told_in_one_line(
    certificate: trustme.LeafCert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, chain, key, other, none = (str(tmp_path / name) for name in ("b", "c", "k", "o", "n"))
    certificate.private_key_and_cert_chain_pem.write_to_path(both)
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    Path(none).write_text("no certificate\n")

    for cert, its_key in [(none, None), (chain, None), (chain, other), (key, key), (chain, none)]:
        arguments = ["serve", "--tls-cert", cert, *(["--tls-key", its_key] if its_key else [])]
        line = fails(capsys, *arguments)
        assert "not a PEM certificate with its key" in line
        assert cert in line
    missing = str(tmp_path / "missing")
    line = fails(capsys, "serve", "--tls-cert", chain, "--tls-key", missing)
    assert missing in line and chain not in line
    assert str(tmp_path) in fails(capsys, "serve", "--tls-cert", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "serve"),
        (["serve", "--help"], "--app-heartbeat"),
        (["--version"], f", frames in {LANGUAGE}\n"),
    ],
)
def test_help_is_no_error(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert text in capsys.readouterr().out


def test_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(*arguments: object) -> object:
        raise RuntimeError("a bug")

    monkeypatch.setattr(_serve, "listen", listen)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["serve"])


def test_interrupt_before_it_serves_is_a_second_ctrl_c_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def listen(*arguments: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(_serve, "listen", listen)
    assert main(["serve"]) == 130


# The log.


def test_log_escapes_what_could_move_a_cursor_or_forge_a_line() -> None:
    formatter = _terminal.Formatter()
    try:
        raise ValueError("\x1b[2Jfirst\nINFO: forged\rx")
    except ValueError:
        error = sys.exc_info()
    nasty = "\x1b[2J\x07\x9b\u2028\u2029\n\r\t\x00\x7f grüße 你好"
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (nasty,), error)
    text = formatter.format(record)
    first, *traceback = text.split("\n")
    assert (
        first.partition(" INFO ")[2] == r"x: \x1b[2J\x07\x9b\u2028\u2029\n\r\t\x00\x7f grüße 你好"
    )
    assert "Traceback" in traceback[0]
    assert all(line.startswith("  ") and line.isprintable() for line in traceback)
    assert "forged" in text


def test_json_log_is_one_object_in_ascii_a_line() -> None:
    nasty = "\x1b[2J\x7f\u2028\n grüße"
    try:
        raise KeyError(nasty)
    except KeyError:
        error = sys.exc_info()
    record = logging.LogRecord("trioweb.x", logging.INFO, "", 0, "%s", (nasty,), error)
    record.created = 1.5
    record.connection, record.topic, record.code = "a1", nasty, 1013
    line = _terminal.JsonFormatter().format(record)
    assert line.isascii() and line.isprintable()
    told = json.loads(line)
    assert "Traceback" in told.pop("error")
    assert told == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "level": "info",
        "logger": "trioweb.x",
        "message": nasty,
        "connection": "a1",
        "topic": nasty,
        "code": 1013,
    }


def test_log_says_which_process_it_is_where_there_are_several() -> None:
    whose = {"worker": 2, "process": 1234}
    record = logging.LogRecord("trioweb.x", logging.INFO, "", 0, "hello", (), None)
    text = _terminal.Formatter(whose).format(record)
    assert text.endswith(" INFO trioweb.x, worker 2, process 1234: hello")
    told = json.loads(_terminal.JsonFormatter(whose).format(record))
    assert (told["worker"], told["process"], told["message"]) == (2, 1234, "hello")


# Serving.


class Serving:
    """`trioweb serve` as a process."""

    def __init__(self, process: trio.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.stderr = ""
        self.has_said = trio.Event()  # something more there

    @property
    def port(self) -> int:
        return int(self.url.removesuffix("/").rpartition(":")[2])

    async def peer(self) -> Peer:
        if self.url.startswith("unix:"):
            return Peer(await trio.open_unix_socket(self.url.removeprefix("unix:")))
        return Peer(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def opened(self, path: str = "/") -> Peer:
        peer = await self.peer()
        await peer.open(path)
        return peer

    async def get(self, path: str) -> tuple[int, bytes]:
        peer = await self.peer()
        answer = await peer.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return answer.status, answer.body

    async def wait(self) -> int:
        """Wait for its end, which is not the test's to force: its exit code."""
        with trio.fail_after(5):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    *arguments: str,
    where: Sequence[str] = ("--port", "0"),
    program: Sequence[str] = (sys.executable, "-m", "trioweb"),
    pass_fds: Sequence[int] = (),
) -> AsyncGenerator[Serving]:
    command = [*program, "serve", *where, *arguments]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=pass_fds
        )
        assert process.stdout is not None and process.stderr is not None
        try:
            output = b""
            with trio.fail_after(20):
                while not output.endswith(b"\n"):
                    data = await process.stdout.receive_some()
                    assert data, "it ended without a URL"
                    output += data
            server = Serving(process, output.decode().removesuffix("\n"))

            @nursery.start_soon
            async def read() -> None:
                assert process.stderr is not None
                async for data in process.stderr:
                    server.stderr += data.decode()
                    server.has_said.set()
                    server.has_said = trio.Event()

            yield server
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await process.stdout.aclose()
            # What it said last is read before the pipe is closed.
            nursery.cancel_scope.deadline = trio.current_time() + 5
    await process.stderr.aclose()


@pytest.mark.network
async def test_serve_broadcasts_with_its_options_until_sigterm() -> None:
    options = ["--history", "2", "--no-echo", "--max-topics", "2", "--max-message-bytes", "1000"]
    options += ["--app-heartbeat", "a=b=c", "--app-heartbeat", '{"keepalive":"live"}=']
    options += ["--origin", "https://friend.org", "--grace", "5", "--subprotocol", "mqtt"]
    async with serving(*options) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert await server.get("/healthz") == (200, b"ok\n")
        assert (await server.get("/lobby"))[1].lower().startswith(b"<!doctype html>")

        ann, bob = await server.opened("/lobby%20a"), await server.opened("/lobby%20%61")
        # --app-heartbeat: one is answered, one is swallowed, and nobody else hears of either.
        await ann.send(Frame(TEXT, b"a=b"), Frame(TEXT, b'{"keepalive":"live"}'))
        assert await ann.frame() == Frame(TEXT, b"c")
        # What comes from somebody comes from a subscriber.
        await bob.send(Frame(TEXT, b"0"))
        assert await ann.frame() == Frame(TEXT, b"0")
        # --no-echo, and what is text or binary stays so.
        await ann.send(Frame(TEXT, b"1"), Frame(BINARY, b"2"), Frame(TEXT, b"3"))
        frames = [await bob.frame() for _ in range(3)]
        assert frames == [Frame(TEXT, b"1"), Frame(BINARY, b"2"), Frame(TEXT, b"3")]
        await bob.send(Frame(TEXT, b"4"))
        assert await ann.frame() == Frame(TEXT, b"4")
        # --history
        late = await server.opened("/lobby%20a")
        assert [await late.frame() for _ in range(2)] == [Frame(TEXT, b"3"), Frame(TEXT, b"4")]
        # --max-message-bytes
        await late.send(Frame(BINARY, bytes(1001)))
        assert (await late.read_close())[0] == 1009
        await late.read_end()
        # --max-topics
        other, friend = await server.opened("/other"), await server.peer()
        # --origin and --subprotocol
        headers = await friend.open(
            "/other", Origin="https://friend.org", Sec_WebSocket_Protocol="chat, mqtt"
        )
        assert headers["sec-websocket-protocol"] == "mqtt"
        await other.send(Frame(TEXT, b"here"))
        assert await friend.frame() == Frame(TEXT, b"here")
        for head, status in [
            (upgrade_head("/third"), 503),
            (upgrade_head("/" + "x" * 256), 414),
            (upgrade_head("/healthz"), 404),
            (upgrade_head("/other", Origin="https://evil.org"), 403),
        ]:
            assert (await (await server.peer()).ask(head)).status == status
        status, body = await server.get("/stats")
        statistics = json.loads(body)
        assert (status, statistics["connections"]) == (200, 4)
        assert statistics["refused"] == {"503": 1, "414": 1, "404": 1, "403": 1}
        await friend.stream.aclose()

        # What a peer says cannot touch the terminal.
        await other.send(close_frame(4000, "\x1b[2Jmischief\n"))
        await other.read_end()

        server.process.send_signal(signal.SIGTERM)
        for peer in (ann, bob):
            assert await peer.read_close() == (1012, "")
            await peer.send(close_frame(1012))
            await peer.read_end()
        assert await server.wait() == 0
    assert "mischief" in server.stderr
    assert "\x1b" not in server.stderr
    assert "Traceback" not in server.stderr
    log = [line for line in server.stderr.splitlines() if "trioweb.server" in line]
    assert len([line for line in log if " refused with " in line]) == 4


@pytest.mark.network
async def test_serve_tells_metrics_at_an_address_of_their_own() -> None:
    options = ["--metrics", "127.0.0.1:0", "--metrics-topic", "lobby"]
    async with serving(*options) as server:
        peers = [await server.opened(path) for path in ("/lobby", "/secret")]
        await _wait_said(server, "/metrics\n")
        [url] = re.findall("metrics at (http:.*/)metrics\n", server.stderr)
        watched = Serving(server.process, url)
        status, body = await watched.get("/metrics")
        assert status == 200
        families = {family.name: family for family in parse_metrics(body.decode())}
        assert families["trioweb_topics"].samples[0].value == 2
        [sample] = families["trioweb_topic_subscribers"].samples
        assert (sample.labels, sample.value) == ({"topic": "lobby"}, 1)
        assert (await watched.get("/"))[0] == (await watched.get("/stats"))[0] == 404
        peer = await watched.peer()
        assert (await peer.ask(upgrade_head("/metrics"))).status == 404
        assert (await server.get("/metrics"))[0] == 404
        for peer in peers:
            await peer.stream.aclose()


@pytest.mark.network
async def test_serve_logs_json_where_asked_to() -> None:
    async with serving("--log-format", "json") as server:
        peer = await server.peer()
        await peer.ask(b"nonsense\r\n\r\n")
        await _wait_said(server, '"status": 400')
        [line] = [line for line in server.stderr.splitlines() if '"status": 400' in line]
    told = json.loads(line)
    assert told["level"] == "info" and told["logger"] == "trioweb.server"
    assert told["address"].startswith("127.0.0.1:")


@pytest.mark.network
async def test_ctrl_c_tells_peers_that_it_goes_and_exits_with_0() -> None:
    async with serving("--log-level", "warning") as server:
        peer = await server.opened()
        server.process.send_signal(signal.SIGINT)
        assert await peer.read_close() == (1001, "")
        assert (await server.get("/healthz"))[0] == 503
        await peer.send(close_frame(1001))
        await peer.read_end()
        assert await server.wait() == 0
    # Nothing but what it announces.
    assert len(server.stderr.splitlines()) == 1


@pytest.mark.network
async def test_second_ctrl_c_stops_at_once() -> None:
    async with serving("--max-connections", "1") as server:
        peer = await server.opened()
        assert (await server.get("/healthz"))[0] == 200
        assert (await server.get("/stats"))[0] == 200
        assert (await server.get("/lobby"))[0] == 503
        assert (await (await server.peer()).ask(upgrade_head())).status == 503
        server.process.send_signal(signal.SIGTERM)
        assert await peer.read_close() == (1012, "")  # and does not answer
        server.process.send_signal(signal.SIGINT)
        assert await server.wait() == 130
        await peer.read_end()
    assert "Traceback" not in server.stderr


@pytest.mark.network
async def test_serve_listens_on_several_hosts() -> None:
    async with serving("--host", "127.0.0.1", "--host", "127.0.0.2") as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        for host in "127.0.0.1", "127.0.0.2":
            peer = Peer(await trio.open_tcp_stream(host, server.port))
            assert (await peer.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200


@pytest.mark.network
async def test_serve_listens_on_a_unix_socket_and_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving("--unix-mode", "0600", where=["--unix", str(path)]) as server:
        assert server.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        assert await server.get("/healthz") == (200, b"ok\n")
        peer = await server.opened("/lobby")
        await peer.send(Frame(TEXT, b"hello"))
        assert await peer.frame() == Frame(TEXT, b"hello")
        await peer.stream.aclose()
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    assert not path.exists()


@pytest.mark.network
async def test_serve_listens_on_a_descriptor_that_it_was_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        async with serving(where=["--fd", str(number)], pass_fds=[number]) as server:
            assert server.url == f"http://127.0.0.1:{listening.getsockname()[1]}/"
            assert await server.get("/healthz") == (200, b"ok\n")


# What a service manager does before it becomes the program.
_MANAGER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid() + int(sys.argv[2])), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "trioweb", *sys.argv[3:]])
"""


@pytest.mark.network
async def test_serve_listens_on_what_a_service_manager_passes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        program = [sys.executable, "-c", _MANAGER, str(number), "0"]
        async with serving(where=[], program=program, pass_fds=[number]) as server:
            assert server.url == f"http://127.0.0.1:{listening.getsockname()[1]}/"
            assert await server.get("/healthz") == (200, b"ok\n")


@pytest.mark.network
async def test_serve_leaves_what_was_passed_on_to_another_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        program = [sys.executable, "-c", _MANAGER, str(number), "1"]
        async with serving(program=program, pass_fds=[number]) as server:
            assert server.port != listening.getsockname()[1]


def test_socket_that_was_passed_on_excludes_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for count, complaint in ("1", "(LISTEN_FDS): only one"), ("one", "LISTEN_FDS='one'"):
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", count)
        assert complaint in fails(capsys, "serve", "--port", "0")
        assert not {"LISTEN_PID", "LISTEN_FDS"} & os.environ.keys()


# The hang-up.


async def _shown(server: Serving) -> bytes:
    """The certificate that a client gets to see."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(tcp, context, https_compatible=True)
    await stream.do_handshake()
    certificate = stream.getpeercert(binary_form=True)
    await trio.aclose_forcefully(stream)
    assert isinstance(certificate, bytes)
    return certificate


async def _wait_said(server: Serving, text: str) -> None:
    with trio.fail_after(10):
        while text not in server.stderr:
            await server.has_said.wait()


@pytest.mark.network
async def test_sighup_has_the_certificate_read_again_and_a_bad_one_changes_nothing(
    tmp_path: Path,
) -> None:
    cert = tmp_path / "cert.pem"
    certificates = [trustme.CA().issue_cert("127.0.0.1") for _ in range(2)]
    expected = [
        ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        for certificate in certificates
    ]
    certificates[0].private_key_and_cert_chain_pem.write_to_path(str(cert))
    async with serving("--tls-cert", str(cert)) as server:
        assert await _shown(server) == expected[0]
        cert.write_text("no certificate\n")
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "what was read before stays")
        assert await _shown(server) == expected[0]
        certificates[1].private_key_and_cert_chain_pem.write_to_path(str(cert))
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "read again: certificate")
        assert await _shown(server) == expected[1]
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    assert f" ERROR trioweb: SIGHUP: --tls-cert {cert}: not a PEM certificate" in server.stderr


def test_api_keys_that_cannot_be_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    missing = fails(capsys, "serve", "--api-key-file", str(file))
    assert f"--api-key-file {file}: No such file or directory" in missing
    file.write_text("SECRET\n")
    line = fails(capsys, "serve", "--api-key-file", str(file))
    assert "line 1: a key has at least 16 characters" in line
    assert "SECRET" not in line
    monkeypatch.setenv("TRIOWEB_API_KEY", "SECRET")
    line = fails(capsys, "serve")
    assert "TRIOWEB_API_KEY: line 1: a key has at least 16 characters" in line
    assert "SECRET" not in line


SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("option", ["--token-secret-file", "--token-key-file"])
def test_keys_of_tokens_that_cannot_be_are_one_line(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    assert f"{option} {file}: No such file or directory" in fails(
        capsys, "serve", option, str(file)
    )
    file.write_bytes(b"\xff" * 40)
    assert f"{option} {file}: not UTF-8" in fails(capsys, "serve", option, str(file))
    file.write_text("SECRET\n")
    line = fails(capsys, "serve", option, str(file))
    assert "SECRET" not in line
    assert ("line 1: a key has at least 32" in line) == (option == "--token-secret-file")
    assert ("no public key (PEM) in it" in line) == (option == "--token-key-file")
    file.write_text("-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n")
    line = fails(capsys, "serve", option, str(file))
    assert "SECRET" not in line
    assert ("PEM that is no public key" in line) == (option == "--token-key-file")
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", "SECRET")
    line = fails(capsys, "serve")
    assert line == "trioweb: TRIOWEB_TOKEN_SECRET: line 1: a key has at least 32 characters"


def test_tokens_without_what_checks_them_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", SECRET)
    monkeypatch.setitem(sys.modules, "jwt", None)
    line = fails(capsys, "serve")
    assert line == "trioweb: tokens need PyJWT[crypto]: pip install 'trioweb[jwt]'"


def test_topic_client_without_msgspec_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from trioweb._cli import main\n"
        "sys.exit(main(['connect', '--topic', 'news', 'ws://127.0.0.1:1/']))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    line = "the Centrifuge client protocol needs msgspec: pip install 'trioweb[centrifuge]'"
    assert (done.returncode, done.stderr) == (2, f"trioweb: {line}\n")


@pytest.mark.network
def test_without_msgspec_there_are_all_doors_but_one() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from trioweb._cli import main; sys.exit(main(['serve', '--port', '0']))"
    )
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}lobby", timeout=30) as page:
                assert page.status == 200
            head = upgrade_head("/connection/websocket")
            with socket.create_connection(("127.0.0.1", urlsplit(url).port)) as peer:
                peer.sendall(head)
                answer = peer.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 501 ")
            assert b"pip install 'trioweb[centrifuge]'" in answer
        finally:
            process.terminate()
        assert "no topics for stock clients: the Centrifuge" in process.stderr.read()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "nothing in it"),
        ("[chat", "not TOML: "),
        ("publish = true", 'publish: not in a table; a namespace is [publish], and names without'),
        ('["chat:a"]', '["chat:a"]: a namespace is what stands before the first colon'),
        ("[chat]\npublis = true", "[chat] publis: there is no such key; there are retain, "),
        ("[chat]\npublish = 1", "[chat] publish: TopicRules"),
        ('[""]\nrecover = "some"', '[""] recover: TopicRules(recover=\'some\'): must be'),
        ("[chat]\nretain = 5", "[chat] retain = 5: must be a table of max_messages, "),
        ("[chat.retain]\nmax = 5", "[chat] retain: max: there is no such key; there are max"),
        ("[chat.retain]\nmax_age = -5", "[chat] retain: max_age: Retain(max_age=-5"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_are_told_with_file_and_key(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "topics.toml"
    missing = fails(capsys, "serve", "--topics", str(file))
    assert f"--topics {file}: No such file or directory" in missing
    file.write_text(text)
    line = fails(capsys, "serve", "--topics", str(file))
    assert f"--topics {file}: {complaint}" in line


def test_rules_are_read_by_namespace(tmp_path: Path) -> None:
    file = tmp_path / "topics.toml"
    file.write_text(
        """
        ["*"]
        anonymous = true
        recover = "none"
        [chat]
        publish = true
        retain = { max_messages = 5, max_age = 3600 }
        """
    )
    retain = Retain(max_messages=2000)
    assert read_topics(str(file), retain) == {
        "*": TopicRules(retain=retain, anonymous=True, recover=None),
        "chat": TopicRules(publish=True, retain=Retain(max_messages=5, max_age=3600)),
    }


@pytest.mark.network
async def test_topics_and_tokens_are_taken_from_files_and_sighup_reads_secrets_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics, secrets = tmp_path / "topics.toml", tmp_path / "secrets"
    topics.write_text("[open]\nanonymous = true\npublish = true\n[chat]\npublish = true\n")
    secrets.write_text(f"{SECRET}\n")
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", "of-the-environment-" * 2)
    files = ["--topics", str(topics), "--token-secret-file", str(secrets)]
    async with serving(*files) as server:
        token = jwt.encode({"sub": "ann"}, SECRET, "HS256")
        of_environment = jwt.encode({}, "of-the-environment-" * 2, "HS256")
        for key in token, of_environment:
            assert await _post(server, key, "chat:a") == b"HTTP/1.1 200 OK"
        assert await _post(server, token, "lobby") == b"HTTP/1.1 404 Not Found"
        assert await _post(server, "", "open:a") == b"HTTP/1.1 200 OK"
        secrets.write_text("short\n")
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "what was read before stays")
        assert await _post(server, token, "chat:a") == b"HTTP/1.1 200 OK"
        secrets.write_text("another secret of the same length\n".replace(" ", "-"))
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "read again: keys of tokens")
        assert await _post(server, token, "chat:a") == b"HTTP/1.1 401 Unauthorized"
        assert await _post(server, of_environment, "chat:a") == b"HTTP/1.1 200 OK"
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    assert SECRET not in server.stderr


@pytest.mark.network
async def test_tokens_for_others_are_refused_where_audience_and_issuer_are_given(
    tmp_path: Path,
) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(f"{SECRET}\n")
    given = ("--token-audience", "chat", "--token-issuer", "desk")
    async with serving("--token-secret-file", str(secrets), *given) as server:
        right = {"sub": "ann", "aud": ["shop", "chat"], "iss": "desk"}
        for claims, status in (
            (right, b"HTTP/1.1 200 OK"),
            (right | {"aud": "shop"}, b"HTTP/1.1 401 Unauthorized"),
            (right | {"iss": "other"}, b"HTTP/1.1 401 Unauthorized"),
            ({"sub": "ann"}, b"HTTP/1.1 401 Unauthorized"),
        ):
            assert await _post(server, jwt.encode(claims, SECRET, "HS256")) == status, claims


@pytest.mark.parametrize("name", ["audience", "issuer"])
def test_what_tokens_must_say_needs_a_key_to_check_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, "serve", f"--token-{name}", "chat")
    assert line.startswith(f"trioweb: --token-{name} needs --token-secret-file")


def test_name_that_no_cookie_can_have_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'a b' cannot be the name of a cookie" in fails(capsys, "serve", "--token-cookie", "a b")


async def _post(server: Serving, key: str, topic: str = "lobby") -> bytes:
    """What a POST with *key* is answered with."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        head = f"POST /{topic} HTTP/1.0\r\nAuthorization: Bearer {key}\r\nContent-Length: 2\r\n\r\n"
        await stream.send_all(head.encode() + b"hi")
        answer = b""
        while data := await stream.receive_some():
            answer += bytes(data)
    return answer.partition(b"\r\n")[0]


@pytest.mark.network
async def test_sighup_has_the_api_keys_read_again_and_bad_ones_change_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_text("the-first-of-the-keys\n")
    async with serving("--api-key-file", str(file)) as server:
        assert await _post(server, "the-first-of-the-keys") == b"HTTP/1.1 200 OK"
        file.write_text("short\n")
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "what was read before stays")
        assert await _post(server, "the-first-of-the-keys") == b"HTTP/1.1 200 OK"
        file.write_text("the-second-of-the-keys\n")
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "read again: API keys")
        assert await _post(server, "the-first-of-the-keys") == b"HTTP/1.1 401 Unauthorized"
        assert await _post(server, "the-second-of-the-keys") == b"HTTP/1.1 200 OK"
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    assert "-of-the-keys" not in server.stderr


@pytest.mark.network
async def test_sighup_without_a_terminal_ends_nobody() -> None:
    async with serving() as server:
        peer = await server.opened()
        server.process.send_signal(signal.SIGHUP)
        await _wait_said(server, "nothing that could be read again")
        await peer.send(Frame(TEXT, b"still here"))
        assert await peer.frame() == Frame(TEXT, b"still here")
        await peer.stream.aclose()


@pytest.mark.network
def test_sighup_of_a_terminal_closes_softly() -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "trioweb", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://")
            process.send_signal(signal.SIGHUP)
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(theirs)
            os.close(ours)


def _lines_of(handler: BackgroundHandler, reader: int, count: int) -> list[str]:
    """Log *count* lines to a pipe that is read only then; what came out of it."""
    for number in range(count):
        handler.handle(logging.makeLogRecord({"msg": f"{number} {'x' * 200}"}))
    with os.fdopen(reader, closefd=False) as lines:
        found: list[str] = []
        while not (found and found[-1].startswith("end")):
            found.append(lines.readline())
            if len(found) == 1000:  # there is room again
                handler.handle(logging.makeLogRecord({"msg": "end"}))
    return found


def test_log_that_nobody_reads_blocks_nobody_and_says_what_it_dropped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        handler = BackgroundHandler(stream)
        lines = _lines_of(handler, reader, 20_000)
        handler.close()
    os.close(reader)
    # A thread that the system keeps from running drops some before the pipe is full, and says so.
    told = [int(line.split()[0]) for line in lines if "of the log dropped" in line]
    kept = [int(line.split()[0]) for line in lines if line[0].isdigit() and " x" in line]
    assert told
    assert len(kept) + sum(told) == 20_000
    assert kept == sorted(kept)


def test_log_that_nobody_reads_does_not_keep_the_process() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        handler = BackgroundHandler(stream)
        for number in range(5000):
            handler.emit(logging.makeLogRecord({"msg": f"{number} {'x' * 200}"}))
        handler.close()  # with the queue full, and the thread in its write
        os.close(reader)


@pytest.mark.network
async def test_sigterm_is_quick_when_nobody_is_there() -> None:
    async with serving() as server:
        # But for a connection that a browser made in advance.
        spare = await server.peer()
        assert (await server.get("/healthz"))[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
        await spare.read_end()


@pytest.mark.network
async def test_sigterm_ends_it_whatever_its_peers_do(tmp_path: Path) -> None:
    """Within the grace; by default that is less than the 10 seconds after which Docker kills."""
    cert = str(tmp_path / "cert.pem")
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(cert)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with serving("--tls-cert", cert, "--grace", "1") as server:

        async def secure() -> Peer:
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", server.port, ssl_context=context
            )
            return Peer(stream)

        silent, half_open, asking, stalled, good = [
            await server.peer(),
            await server.peer(),
            *[await secure() for _ in range(3)],
        ]
        await half_open.write(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello begins so
        await asking.write(upgrade_head()[:50])
        for peer in stalled, good:
            await peer.open("/lobby")
        for _ in range(200):  # more than a transport holds
            await good.send(Frame(BINARY, bytes(50_000)))
            assert (await good.frame()) == Frame(BINARY, bytes(50_000))
        server.process.send_signal(signal.SIGTERM)
        assert await good.read_close() == (1012, "")  # and does not answer
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
        for peer in silent, half_open, asking, stalled, good:
            await trio.aclose_forcefully(peer.stream)
    assert "Traceback" not in server.stderr


@pytest.mark.network
async def test_serve_with_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ["--host", "localhost", "--tls-cert", cert, "--tls-key", key]
    async with serving(*options) as server:
        assert server.url == f"https://localhost:{server.port}/"

        async def peer() -> Peer:
            stream = await trio.open_ssl_over_tcp_stream(
                "localhost", server.port, ssl_context=context, https_compatible=True
            )
            return Peer(stream)

        answer = await (await peer()).ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"ok\n")
        ann = await peer()
        await ann.open("/lobby")
        await ann.send(Frame(TEXT, b"hello"))
        assert await ann.frame() == Frame(TEXT, b"hello")
        server.process.send_signal(signal.SIGTERM)
        assert await ann.read_close() == (1012, "")
        await ann.send(close_frame(1012))
        await ann.read_end()
        assert await server.wait() == 0
