"""`trioweb serve --broker`: servers that share their topics by a real Redis."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import trioweb
from tests.brokers.redis_server import RedisServer
from tests.processes import PATIENCE, Program, free_port, python, running
from tests.test_cli import fails

pytestmark = pytest.mark.usefixtures("root_logger")


@asynccontextmanager
async def serving(*options: str, **environment: str) -> AsyncGenerator[tuple[Program, str]]:
    """A server, and its URL for WebSockets."""
    command = python("-m", "trioweb", "serve", "--port", "0", *options)
    async with running(command, **environment) as program:
        url = await program.output.next()
        yield program, url.replace("http", "ws", 1)


async def hear(connection: trioweb.Connection) -> str:
    with trio.fail_after(PATIENCE):
        return str(await connection.receive())


@pytest.mark.redis
async def test_servers_that_name_the_same_redis_have_the_same_topics(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.ask("ACL", "SETUSER", "app", "on", ">SECRET1", "~app:*", "&app:*", "+@all")
    password = tmp_path / "password"
    password.write_text("SECRET1\n")
    url = f"redis://app@127.0.0.1:{redis_server.port}"
    options = ["--broker-prefix", "app", "--broker-password-file", str(password)]
    secret = url.replace("app@", "app:SECRET1@")
    async with (
        serving("--broker", url, *options) as (one, there),
        serving("--broker-prefix", "app", TRIOWEB_BROKER=secret) as (_, elsewhere),
        trioweb.open_connection(f"{there}lobby") as ann,
        trioweb.open_connection(f"{elsewhere}lobby") as bob,
    ):
        await bob.send("from bob")
        assert [await hear(each) for each in (ann, bob)] == ["from bob"] * 2
        # With another password, which is read as soon as it is needed.
        redis_server.ask("ACL", "SETUSER", "app", "resetpass", ">SECRET2", ">SECRET1")
        password.write_text("SECRET2\n")
        redis_server.ask("CLIENT", "KILL", "USER", "app")
        await ann.send("from ann")
        assert [await hear(each) for each in (ann, bob)] == ["from ann"] * 2
        one.process.send_signal(signal.SIGTERM)
        assert await one.wait() == 0
        log = await one.errors.rest()
        assert "SECRET" not in log


@pytest.mark.redis
async def test_a_server_says_why_it_has_no_broker(redis_server: RedisServer) -> None:
    redis_server.ask("CONFIG", "SET", "requirepass", "SECRET")
    async with serving("--broker", f"redis://127.0.0.1:{redis_server.port}") as (program, _):
        while "no connection to the broker" not in (line := await program.errors.next()):
            pass
        assert "HELLO: NOAUTH" in line


@pytest.mark.redis
async def test_a_server_says_which_broker_is_not_there_and_why() -> None:
    port = free_port()
    async with serving("--broker", f"redis://127.0.0.1:{port}") as (program, _):
        while "no connection to the broker" not in (line := await program.errors.next()):
            pass
        assert line.endswith(f"no connection to the broker: 127.0.0.1:{port}/0: Connection refused")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--broker", "http://a"], "does not begin with redis://, rediss:// or unix://"),
        (["--broker", "redis://a/b"], "--broker: url must end with the number of a database"),
        (["--broker", "redis://a:SECRET@b"], "sees a password that stands here"),
        (["--broker-sentinel", "a"], "--broker-sentinel needs --broker"),
        (["--broker-password-file", "a"], "--broker-password-file needs --broker"),
        (
            ["--broker", "redis://a", "--broker", "redis://a"],
            "--broker: url must be one or several",
        ),
        (["--broker", "redis://a", "--broker-prefix", "{"], "--broker: prefix='{' must not"),
        (
            ["--broker", "redis://a", "--broker-password-file", "/missing"],
            "--broker-password-file /missing: No such file",
        ),
        (
            ["--broker", "redis://a@b", "--broker", "redis://c", "--broker-password-file", "FILE"],
            "has one password, for one user",
        ),
    ],
)
def test_a_broker_that_cannot_be_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_text("SECRET\n")
    line = fails(capsys, "serve", *(str(file) if each == "FILE" else each for each in options))
    assert message in line
    assert "SECRET" not in line


def test_passwords_of_the_environment_are_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    monkeypatch.setenv("TRIOWEB_BROKER", "redis://ann:SECRET@a/b")
    assert "SECRET" not in fails(capsys, "serve")
    monkeypatch.setenv("TRIOWEB_BROKER", "redis://ann@a")
    for text in "", "SECRET\nSECRET\n":
        file.write_text(text)
        line = fails(capsys, "serve", "--broker-password-file", str(file))
        assert "has to have one line, the password" in line


def test_who_lacks_hiredis_is_told_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("trioweb.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    line = fails(capsys, "serve", "--broker", "redis://a")
    assert "--broker: trioweb.redis needs hiredis 3.2: pip install 'trioweb[redis]'" in line
