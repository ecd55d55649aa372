"""What docs/protocol.md says is what there is: its program runs, its tables hold."""

from __future__ import annotations

import json
import re
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest
import trio

import trioweb
from tests.processes import free_port, running
from trioweb import MemberLimits, TopicRules
from trioweb._centrifuge._codes import DisconnectCode, ErrorCode, UnsubscribeCode, reconnects

_TEXT: Final = (Path(__file__).parents[2] / "docs/protocol.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    _, rest = _TEXT.split(f"| {heading} |", 1)
    lines = rest.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_code_stands_in_its_table() -> None:
    errors = {int(code): (message, "temporary" in more) for code, message, more in rows("error")}
    assert errors == {int(code): (code.message, code.temporary) for code in ErrorCode}
    unsubscribed = {int(code): reason for code, reason, _ in rows("unsubscribed")}
    assert unsubscribed == {int(code): code.reason for code in UnsubscribeCode}
    closes = {int(code): (reason, what == "comes back") for code, reason, what in rows("Close")}
    assert closes == {int(code): (code.reason, reconnects(code)) for code in DisconnectCode}


def test_every_limit_and_rule_stands_in_its_table() -> None:
    limits = {name.strip("`"): float(value.split()[0]) for name, value, _ in rows("`MemberLimits`")}
    assert limits == {
        each.name: getattr(MemberLimits(), each.name) for each in fields(MemberLimits)
    }
    named = {name for row in rows("`TopicRules`") for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {each.name for each in fields(TopicRules)}


@pytest.mark.network
async def test_the_program_runs() -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL)
    port = free_port()
    code = program.replace("8000", str(port))
    with trio.fail_after(30):
        async with running([sys.executable, "-W", "error", "-c", code]) as process:
            async with trioweb.open_client(
                f"ws://127.0.0.1:{port}/", retry=trioweb.Retry(initial=0.05)
            ) as client:
                await client.send('{"id":1,"connect":{}}')
                await client.send('{"id":2,"rpc":{"method":"add","data":{"a":1,"b":2}}}')
                assert "connect" in json.loads(await client.receive())
                assert json.loads(await client.receive()) == {"id": 2, "rpc": {"data": 3}}
            process.process.send_signal(signal.SIGTERM)
