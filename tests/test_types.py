"""What type checkers see of the client: the kinds of what a stream gives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mypy import api

_PROGRAM = """
from typing import assert_type

import trioweb
from trioweb import Event, Messages

Message = str | bytes


async def main(flag: bool) -> None:
    async with trioweb.open_client("ws://server/") as client:
        async for message in client:
            assert_type(message, Message)
        assert_type(await client.receive(), Message)
        assert_type(await client.receive_many(), list[Message])
        with client.messages() as messages:
            assert_type(messages, Messages[Message])
            async for message in messages:
                assert_type(message, Message)
            assert_type(await messages.receive(), Message)
            assert_type(await messages.receive_many(), list[Message])
        with client.messages(events=False, full="drop") as messages:
            assert_type(messages, Messages[Message])
        with client.messages(events=True, max_messages=5) as items:
            assert_type(items, Messages[Message | Event])
            async for item in items:
                match item:
                    case trioweb.Opened():
                        assert_type(item.session, int)
                    case trioweb.Lost():
                        assert_type(item.error, Exception)
                    case trioweb.Waiting():
                        assert_type(item.seconds, float)
                    case trioweb.Undelivered():
                        assert_type(item.message, Message)
                    case rest:
                        assert_type(rest, Message)
        with client.messages(events=flag) as either:
            assert_type(either, Messages[Message | Event])
    async with trioweb.open_connection("ws://server/") as connection:
        assert_type(await connection.receive_many(), list[Message])
        async for message in connection:
            assert_type(message, Message)
"""

_WRONG = """
import trioweb


async def main() -> None:
    async with trioweb.open_client("ws://server/") as client:
        async for message in client:
            message.session
        client.messages(events="yes")
"""


def _check(path: Path, program: str) -> tuple[str, int]:
    """What mypy says of *program*, and its exit code."""
    file = path / "program.py"
    file.write_text(program)
    output, errors, code = api.run(
        [
            *("--strict", "--no-error-summary", "--config-file="),
            f"--python-executable={sys.executable}",
            f"--cache-dir={path / 'cache'}",
            str(file),
        ]
    )
    return output + errors, code


@pytest.mark.slow
def test_streams_have_the_types_of_what_they_give(tmp_path: Path) -> None:
    output, code = _check(tmp_path, _PROGRAM)
    assert not output
    assert code == 0


@pytest.mark.slow
def test_types_refuse_what_cannot_be(tmp_path: Path) -> None:
    output, code = _check(tmp_path, _WRONG)
    assert code == 1
    assert 'has no attribute "session"' in output
    assert "No overload variant" in output
