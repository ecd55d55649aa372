"""What `trioweb serve` is told: on its command line, in the environment, in a file; and anew."""

from __future__ import annotations

import argparse
import signal
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import trioweb
from tests.processes import Program, python, running
from trioweb._cli import _serve_options, main
from trioweb._cli._numbers import Number
from trioweb._cli._settings import Setting, Settings, without_secrets
from trioweb._cli._terminal import UsageError


def parser() -> tuple[argparse.ArgumentParser, Settings]:
    made = argparse.ArgumentParser()
    return made, _serve_options.add_options(made)


TABLE = parser()[1].table
# Of an option that takes anything but a number one of these is right.
TEXTS = (
    "chat",
    "0600",
    "127.0.0.1:9100",
    "https://a.example",
    "ping=pong",
    "redis://a",
    "10.0.0.0/8",
)


def complete(
    *arguments: str, environment: dict[str, str] | None = None, file: Path | None = None
) -> argparse.Namespace:
    made, settings = parser()
    given = arguments if file is None else (*arguments, "--config", str(file))
    return settings.complete(made.parse_args(given), environment or {})


def samples(setting: Setting) -> list[str]:
    """Three values for it, as text."""
    if setting.choices is not None:
        return [*setting.choices, *setting.choices][:3]
    if isinstance(setting.convert, Number):
        return ["3", "4", "5"]
    for text in TEXTS:
        try:
            setting.convert(text)
        except argparse.ArgumentTypeError:
            continue
        return [text] * 3
    raise AssertionError(f"{setting.option}: which text is right?")


def as_toml(setting: Setting, text: str) -> str:
    one = text if isinstance(setting.convert, Number) else f'"{text}"'
    return f"{setting.name} = {f'[{one}]' if setting.is_list else one}\n"


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_option_can_stand_on_the_command_line_in_the_environment_and_in_a_file(
    setting: Setting, tmp_path: Path
) -> None:
    file = tmp_path / "trioweb.toml"
    on_line: list[str]
    in_environment: dict[str, str]
    if setting.is_flag:
        expected: list[Any] = [True, False, True]
        on_line, in_environment = [setting.option], {setting.variable: "no"}
        file.write_text(f"{setting.name} = true\n")
    else:
        texts = samples(setting)
        values = [setting.convert(text) for text in texts]
        expected = [[value] if setting.is_list else value for value in values]
        on_line, in_environment = [setting.option, texts[0]], {setting.variable: texts[1]}
        file.write_text(as_toml(setting, texts[2]))
    for arguments, environment, path, source, value in [
        (on_line, in_environment, file, "command line", expected[0]),
        ([], in_environment, file, "environment", expected[1]),
        ([], {}, file, "file", expected[2]),
        ([], {}, None, "default", setting.default),
    ]:
        options = complete(*arguments, environment=environment, file=path)
        assert getattr(options, setting.name) == value
        [used] = [used for used in options.used if used.setting.name == setting.name]
        assert used.source == source


def test_names_follow_from_that_of_the_option() -> None:
    for setting in TABLE:
        assert setting.name == setting.option.removeprefix("--").replace("-", "_")
        assert setting.variable == f"TRIOWEB_{setting.name.upper()}"


def test_several_are_one_a_line_and_none_is_added_to_those_of_a_weaker_place(
    tmp_path: Path,
) -> None:
    file = tmp_path / "trioweb.toml"
    file.write_text('origin = ["https://file.example"]\n')
    environment = {"TRIOWEB_ORIGIN": "https://a.example\n\nhttps://b.example\n"}
    options = complete(environment=environment, file=file)
    assert options.origin == ["https://a.example", "https://b.example"]
    options = complete("--origin", "https://line.example", environment=environment, file=file)
    assert options.origin == ["https://line.example"]


def test_empty_variable_says_nothing() -> None:
    assert complete(environment={"TRIOWEB_PORT": "", "TRIOWEB_HOST": ""}).port is None


def test_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "trioweb.toml"
    file.write_text("port = 9000\n")
    assert complete(environment={"TRIOWEB_CONFIG": str(file)}).port == 9000


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("port = ", "not TOML: "),
        ("history = 'many'", "history = 'many': must be a number"),
        ("history = true", "history = True: must be a number"),
        ("history = -1", "history: '-1' is not a whole number from 0 on"),
        ("history = 1.5", "history: '1.5' is not a whole number from 0 on"),
        ("grace = inf", "grace: 'inf' is not a number of seconds"),
        ("no_echo = 'yes'", "no_echo = 'yes': must be true or false"),
        ("unix_mode = 0o600", "unix_mode = 384: must be a string"),
        ("origin = 'https://a.example'", "must be an array, each a string"),
        ("origin = ['Example.com']", "origin: 'Example.com' can match no Origin; 'https://exam"),
        ("log_level = 'loud'", "log_level: 'loud' is none of debug, info, warning, error"),
        ("max-topics = 5", "max-topics: there is no such key; max_topics is one"),
        ("colour = 'red'", "colour: there is no such key; there are host, port, "),
        ("config = 'other.toml'", "config: there is no such key"),
        ("[serve]\nport = 1", "serve: there is no such key"),
        ("metrics = 'http://me:SECRET@h'", "'http://…@h' is not HOST:PORT"),
        ("port = 'http://me:SECRET@h'", "'http://…@h': must be a number"),
    ],
)
def test_file_that_cannot_be_is_told_in_one_line_with_file_key_and_value(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trioweb.toml"
    file.write_text(text)
    assert main(["serve", "--config", str(file), "--check"]) == 2
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert line.startswith(f"trioweb: --config {file}: ")
    assert complaint in line
    assert "SECRET" not in line
    assert output.out == ""


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("TRIOWEB_HISTORY", "many", "'many' is not a whole number"),
        ("TRIOWEB_NO_ECHO", "maybe", "'maybe' is not true or false"),
        ("TRIOWEB_LOG_FORMAT", "xml", "'xml' is none of text, json"),
        # What Kubernetes says of a service that is called trioweb.
        ("TRIOWEB_PORT", "tcp://10.0.0.1:80", "'tcp://10.0.0.1:80' is not a port"),
        ("TRIOWEB_CONFIG", "missing.toml", "--config missing.toml: No such file or directory"),
    ],
)
def test_variable_that_cannot_be_is_told_in_one_line(
    variable: str,
    text: str,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, text)
    assert main(["serve", "--check"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert variable in line or "--config" in line


def test_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "trioweb.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        complete(file=file)


def test_strange_variables_are_told_and_those_of_keys_are_not() -> None:
    _, settings = parser()
    known = ["API_KEY", "TOKEN_SECRET", "TOKEN", "CONFIG", "HISTORY", "API_KEY_FILE"]
    environment = {f"TRIOWEB_{name}": "x" for name in (*known, "HISTROY")} | {"HOME": "/"}
    assert settings.strange_variables(environment) == ["TRIOWEB_HISTROY"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:SECRET@a:1/0 and 'https://SECRET@b'", "redis://…@a:1/0 and 'https://…@b'"),
        ("redis://:SE@CR'ET\"@a", "redis://…@a"),
        ("unix:///run/a@b, redis://a/0?x=@", "unix:///run/a@b, redis://a/0?x=@"),
    ],
)
def test_passwords_in_urls_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


# --check.


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", "--check", *arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def test_check_prints_a_file_that_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOWEB_METRICS_TOPIC", 'a "quoted"\x7f ✓\nb')
    arguments = ["--app-heartbeat", "ping=pong", "--unix", "s", "--unix-mode", "0600", "--no-echo"]
    printed = check(capsys, *arguments, "--grace", "7.5", "--metrics", "[::1]:9100")
    assert "grace = 7.5  # command line\n" in printed
    assert "# port: nothing  # default\n" in printed
    file = tmp_path / "printed.toml"
    file.write_text(printed)
    monkeypatch.delenv("TRIOWEB_METRICS_TOPIC")
    again = check(capsys, "--config", str(file))
    assert tomllib.loads(again) == tomllib.loads(printed)
    options = complete(file=file)
    assert options.metrics_topic == ['a "quoted"\x7f ✓', "b"]
    assert (options.unix_mode, options.app_heartbeat) == (0o600, [("ping", "pong")])
    assert options.metrics == ("::1", 9100)


def test_check_reads_every_file_and_says_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, topics = tmp_path / "keys", tmp_path / "topics.toml"
    keys.write_text("SECRET-0123456789\nSECRET-9876543210\n")
    topics.write_text('[chat]\n["*"]\n')
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", "SECRET" * 6)
    arguments = ["--api-key-file", str(keys), "--topics", str(topics)]
    printed = check(capsys, *arguments)
    assert "SECRET" not in printed
    assert "# API keys: 2\n" in printed
    assert "# keys of tokens: 1\n" in printed
    assert '# rules of topics: [chat], ["*"]\n' in printed
    for file, text in (keys, "short\n"), (topics, "[chat]\nsing = true\n"):
        before = file.read_text()
        file.write_text(text)
        assert main(["serve", "--check", *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert str(file) in line
        file.write_text(before)
    for more in ["--tls-cert", str(topics)], ["--spread", "9"]:
        assert main(["serve", "--check", *arguments, *more]) == 2


# SIGHUP.


@asynccontextmanager
async def serving(*arguments: str) -> AsyncGenerator[tuple[Program, str]]:
    """`trioweb serve` as a process, and its URL."""
    command = python("-m", "trioweb", "serve", "--port", "0", *arguments)
    async with running(command) as program:
        url = await program.output.next()
        yield program, url.replace("http", "ws", 1)


async def hang_up(program: Program, last: str) -> str:
    """Send SIGHUP, and read the log up to the line that has *last* in it."""
    program.process.send_signal(signal.SIGHUP)
    lines: list[str] = []
    while not lines or last not in lines[-1]:
        lines.append(await program.errors.next())
    return "\n".join(lines)


async def refused(url: str, **options: Any) -> int:
    with pytest.raises(trioweb.HandshakeRejected) as caught:
        async with trioweb.open_connection(url, **options):
            pass
    return caught.value.status


@pytest.mark.network
async def test_sighup_reads_the_configuration_again_and_says_what_takes_a_restart(
    tmp_path: Path,
) -> None:
    file = tmp_path / "trioweb.toml"
    file.write_text("grace = 8\n")
    page = [("Origin", "https://a.example")]
    async with serving("--config", str(file), "--log-level", "info") as (program, url):
        assert await refused(f"{url}lobby", headers=page) == 403
        file.write_text('origin = ["https://a.example"]\nmax_topics = 1\nlog_level = "error"\n')
        told = await hang_up(program, "SIGHUP: origin")
        assert f" INFO trioweb: SIGHUP: read again: --config {file}" in told
        assert ' INFO trioweb: SIGHUP: origin = ["https://a.example"]  # file; before: ' in told
        assert " INFO trioweb: SIGHUP: grace = 8  # default; before: grace = 8  # file" not in told
        warned = (
            "max_topics = 1  # file: takes a restart; until then: max_topics = 10000  # default"
        )
        assert f" WARNING trioweb: SIGHUP: {warned}" in told
        async with trioweb.open_connection(f"{url}lobby", headers=page) as connection:
            async with trioweb.open_connection(f"{url}another"):
                await connection.ping()
        # A bad one changes nothing.
        file.write_text("origin = 5\n")
        told = await hang_up(program, "what was read before stays")
        assert f" ERROR trioweb: SIGHUP: --config {file}: origin = 5: must be an array" in told
        file.write_text("spread = 60\n")
        told = await hang_up(program, "what was read before stays")
        assert "--spread 60: must not be more than --grace 8" in told
        async with trioweb.open_connection(f"{url}lobby", headers=page) as connection:
            await connection.ping()
        # As on the command line: that comes first.
        file.write_text('log_level = "error"\n')
        await hang_up(program, "origin = []")
        assert await refused(f"{url}lobby", headers=page) == 403
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.network
async def test_sighup_reads_the_rules_of_topics_again_also_for_those_in_use(
    tmp_path: Path,
) -> None:
    topics = tmp_path / "topics.toml"
    topics.write_text("[chat]\npublish = true\nhistory = true\n")
    async with serving("--topics", str(topics)) as (program, url):
        assert await refused(f"{url}news:a") == 404
        async with trioweb.open_connection(f"{url}chat:a") as early:
            for number in range(5):
                await early.send(str(number))
                assert await early.receive() == str(number)
            topics.write_text("[chat]\nhistory = true\nretain = {max_messages = 2}\n[news]\n")
            await hang_up(program, "read again: rules of topics")
            async with trioweb.open_connection(f"{url}news:a") as connection:
                await connection.ping()
            async with trioweb.open_connection(f"{url}chat:a") as late:
                with trio.fail_after(20):
                    assert [await late.receive(), await late.receive()] == ["3", "4"]
                await late.send("no more")
                with trio.fail_after(20):
                    await late.wait_closed()
                assert late.close_code == 1008
            # Who was there before goes by what was agreed then.
            await early.send("still here")
            assert await early.receive() == "still here"
        topics.write_text("[chat")
        told = await hang_up(program, "what was read before stays")
        assert f" ERROR trioweb: SIGHUP: --topics {topics}: not TOML" in told
        async with trioweb.open_connection(f"{url}news:a") as connection:
            await connection.ping()


@pytest.mark.network
async def test_sighup_cannot_begin_or_end_tls_or_the_need_for_tokens(tmp_path: Path) -> None:
    file, secret = tmp_path / "trioweb.toml", tmp_path / "secret"
    secret.write_text("0123456789" * 4 + "\n")
    file.write_text("")
    async with serving("--config", str(file)) as (program, url):
        file.write_text(f'token_secret_file = "{secret}"\n')
        told = await hang_up(program, "what was read before stays")
        assert "whether tokens are needed: takes a restart" in told
        async with trioweb.open_connection(f"{url}lobby") as connection:
            await connection.ping()
